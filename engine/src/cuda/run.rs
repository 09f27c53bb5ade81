//! A program on a card with its buffers, and passes of it.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, LaunchConfig, PinnedHostSlice, PushKernelArg};

use super::alone::{Alone, Passed};
use super::card::{Card, failed};
use super::loaded::Loaded;
use super::memory::{HEAD, Layout, pass_bytes, too_long};
use super::program::{Addresses, Encoder};
use super::token::Rooms;
use crate::ops::{List, Positional};
use crate::sampler::Rule;
use crate::stage::Batch;
use crate::{EngineError, Result};

/// Threads of a block (`rows.cuh`).
const THREADS: u32 = 512;
/// Where the count of blocks that have arrived stands in a pass.
const ARRIVED: usize = 96;

/// Where the runs of a pass stand.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Their lines on the card.
    pub(crate) states: Vec<u64>,
    /// Tokens that they have read before.
    pub(crate) positions: Vec<u32>,
    /// Their pages there, and of each run and kind of page which is the first.
    pub(crate) pages: Vec<u64>,
    pub(crate) starts: Vec<u32>,
    kinds: usize,
}

impl Places {
    /// None yet, of states with so many kinds of pages.
    pub(crate) fn clear(&mut self, kinds: usize) {
        let Places { states, positions, pages, starts, .. } = self;
        states.clear();
        positions.clear();
        pages.clear();
        starts.clear();
        self.kinds = kinds;
    }

    /// Bytes of its lists in a pass.
    fn bytes(&self) -> usize {
        size_of_val(&*self.pages) + size_of_val(&*self.positions) + size_of_val(&*self.starts) + 8
    }
}

/// A buffer of what depends on positions alone: where it stands on the card, values of a column.
struct AtPosition {
    at: usize,
    stride: usize,
    of: Positional,
}

/// A list's program on a card, with buffers for so many columns.
pub(crate) struct Program {
    loaded: Arc<Loaded>,
    /// Where each stage lies, and its bytes.
    stages: Vec<(u32, u32)>,
    /// From which one on columns are those whose logits are wanted.
    first_wanted: usize,
    columns: usize,
    /// One launch for all stages, or one for each.
    is_one_launch: bool,
    /// A pass's columns, runs and states, here and there.
    pass: PinnedHostSlice<u8>,
    pass_there: CudaSlice<u8>,
    /// The rows of logits, here.
    logits: PinnedHostSlice<f32>,
    positional: Vec<AtPosition>,
    /// One of them in a pass, here.
    at_positions: Vec<f32>,
    /// Where logits and the residual stream stand there, and the values of a column.
    places: [(usize, usize, usize); 2],
    buffers: CudaSlice<u8>,
    /// All stages.
    program: CudaSlice<u8>,
    /// Passes of one column have a program of their own.
    one: Option<One>,
    /// Such passes without the host between them, once there have been some.
    alone: Option<Alone>,
    /// There was no memory for them, or tokens need their positions: the host is asked.
    is_alone_refused: bool,
}

/// The program of one token on a card.
struct One {
    words: CudaSlice<u8>,
    starts: CudaSlice<u8>,
    stages: usize,
    first_wanted: usize,
    rooms: Rooms,
    /// When each block began and ended each stage, where `BROOKLET_CUDA_TIMES` names a file for it.
    times: Option<CudaSlice<u8>>,
}

impl One {
    fn new<A: Addresses>(card: &Card, encoder: &Encoder<'_, '_, A>) -> Result<Option<One>> {
        let rooms = Rooms::most(card.token_bytes, card.copies);
        let Some(program) = encoder.token(card.blocks, rooms) else { return Ok(None) };
        let words = card.copied(&program.words)?;
        let starts = card.copied(bytemuck::cast_slice(&program.starts))?;
        let times = std::env::var_os("BROOKLET_CUDA_TIMES");
        let times = times.map(|_| card.zeroed(16 * card.blocks * program.stages)).transpose()?;
        let (stages, first_wanted, rooms) = (program.stages, program.first_wanted, program.rooms);
        Ok(Some(One { words, starts, stages, first_wanted, rooms, times }))
    }
}

impl Program {
    /// The program of `list`, whose weights are loaded, for so many columns and rows of logits.
    ///
    /// # Errors
    /// The card has no memory for its buffers.
    pub(crate) fn new(
        loaded: &Arc<Loaded>,
        list: &List<'_>,
        (columns, rows): (usize, usize),
    ) -> Result<Program> {
        let card = Arc::clone(loaded.card());
        let mut layout = Layout::new(Some(loaded));
        let bytes = layout.place(list, columns, card.copies);
        let buffers = card.zeroed(bytes)?;
        layout.first = card.address(&buffers);
        let places = [list.logits(), list.x()]
            .map(|values| (layout.at(values), list.stride(values), list.rows(values)));
        let encoder = Encoder { list, addresses: &layout };
        let stages = encoder.encode(card.blocks).ok_or_else(too_long)?;
        let program = card.copied(&stages.bytes)?;
        let pass_bytes = pass_bytes(columns);
        let pinned = failed("taking memory that it can read");
        // Not write-combined: logits are read here.
        // SAFETY: both are filled below, before anybody reads them.
        let (mut pass, mut logits) = unsafe {
            let n = rows * list.rows(list.logits());
            let pass = card.context.alloc_pinned_with_flags::<u8>(pass_bytes, 0);
            let logits = card.context.alloc_pinned_with_flags::<f32>(n, 0);
            (pass.map_err(&pinned)?, logits.map_err(&pinned)?)
        };
        pass.as_mut_slice().map_err(&pinned)?.fill(0);
        logits.as_mut_slice().map_err(&pinned)?.fill(0.0);
        let is_one_launch = card.is_cooperative
            && std::env::var_os("BROOKLET_CUDA_LAUNCH").is_none_or(|how| how != "stages");
        let positional = list.positional.iter().map(|(values, of)| AtPosition {
            at: layout.at(*values),
            stride: list.stride(*values),
            of: of.clone(),
        });
        let positional = positional.collect();
        let one = if is_one_launch { One::new(&card, &encoder)? } else { None };
        Ok(Program {
            loaded: Arc::clone(loaded),
            one,
            alone: None,
            // Where tokens stand in their texts is the host's to say.
            is_alone_refused: list.has_levels(),
            stages: stages.places,
            first_wanted: stages.first_wanted,
            columns,
            is_one_launch,
            pass,
            pass_there: card.zeroed(pass_bytes)?,
            logits,
            positional,
            at_positions: Vec::new(),
            places,
            buffers,
            program,
        })
    }

    fn card(&self) -> &Card {
        self.loaded.card()
    }

    /// Writes down what a pass brings: `struct Pass` and behind it its lists.
    fn write(&mut self, batch: Batch<'_>, wanted: &[usize], places: &Places) -> Result<()> {
        self.grow(pass_bytes(self.columns) + places.bytes())?;
        let there = self.card().address(&self.pass_there);
        let pass = self.pass.as_mut_slice().map_err(failed("writing a pass down"))?;
        pass[..HEAD].fill(0);
        let mut at = HEAD;
        let mut addresses = [0u64; 8];
        let mut put = |pass: &mut [u8], bytes: &[u8], address: &mut u64| {
            *address = there + at as u64;
            pass[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(pass, bytemuck::cast_slice(&places.states), &mut addresses[4]);
        put(pass, bytemuck::cast_slice(&places.pages), &mut addresses[7]);
        put(pass, bytemuck::cast_slice(&places.positions), &mut addresses[5]);
        put(pass, bytemuck::cast_slice(&places.starts), &mut addresses[6]);
        put(pass, bytemuck::cast_slice(batch.tokens), &mut addresses[0]);
        let lists: [&mut dyn Iterator<Item = usize>; 3] = [
            &mut batch.runs.iter().copied(),
            &mut wanted.iter().copied(),
            &mut batch.spans.iter().map(|span| span.start).chain([batch.columns]),
        ];
        for (list, address) in lists.into_iter().zip(&mut addresses[1..4]) {
            *address = there + at as u64;
            for number in list {
                pass[at..at + 4].copy_from_slice(&(number as u32).to_le_bytes());
                at += 4;
            }
        }
        let counts =
            [batch.columns, wanted.len(), batch.spans.len(), places.kinds].map(|n| n as u32);
        pass[..16].copy_from_slice(bytemuck::cast_slice(&counts));
        pass[16..80].copy_from_slice(bytemuck::cast_slice(&addresses));
        let failed = failed("starting a pass");
        self.loaded.card.stream.memcpy_htod(&self.pass, &mut self.pass_there).map_err(failed)
    }

    /// Makes room for passes of so many bytes.
    fn grow(&mut self, bytes: usize) -> Result<()> {
        if bytes <= self.pass.len() {
            return Ok(());
        }
        let (bytes, card) = (bytes.next_power_of_two(), Arc::clone(self.loaded.card()));
        let pinned = failed("taking memory that it can read");
        // SAFETY: filled at once, before anybody reads it.
        let pass = unsafe { card.context.alloc_pinned_with_flags::<u8>(bytes, 0) };
        let mut pass = pass.map_err(&pinned)?;
        pass.as_mut_slice().map_err(&pinned)?.fill(0);
        (self.pass, self.pass_there) = (pass, card.zeroed(bytes)?);
        Ok(())
    }

    /// Fills the buffers of what depends on positions alone.
    fn fill_positional(&mut self, batch: Batch<'_>, places: &Places) -> Result<()> {
        for AtPosition { at, stride, of } in &self.positional {
            self.at_positions.clear();
            self.at_positions.resize(stride * batch.columns, 0.0);
            for (span, position) in batch.spans.iter().zip(&places.positions) {
                for c in span.clone() {
                    let values = &mut self.at_positions[c * stride..][..of.rows()];
                    of.fill(*position as usize + c - span.start, values);
                }
            }
            let bytes: &[u8] = bytemuck::cast_slice(&self.at_positions);
            let mut there = self.buffers.slice_mut(*at..at + bytes.len());
            let copied = self.loaded.card.stream.memcpy_htod(bytes, &mut there);
            copied.map_err(failed("starting a pass"))?;
        }
        Ok(())
    }

    /// Runs a pass of runs that stand there.
    ///
    /// # Errors
    /// The card failed.
    pub(crate) fn run(
        &mut self,
        batch: Batch<'_>,
        wanted: &[usize],
        places: &Places,
    ) -> Result<()> {
        assert!(batch.columns <= self.columns && places.states.len() == batch.spans.len());
        self.write(batch, wanted, places)?;
        self.fill_positional(batch, places)?;
        let card = self.card();
        let pass = card.address(&self.pass_there);
        let arrived = pass + ARRIVED as u64;
        let end = if wanted.is_empty() { self.first_wanted } else { self.stages.len() };
        let program = card.address(&self.program);
        let config = LaunchConfig {
            grid_dim: (card.blocks as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: card.room,
        };
        let launch = |first: usize, count: u32| {
            let (at, bytes) = self.stages[first];
            let mut launch = card.stream.launch_builder(&card.kernel);
            launch.arg(&program).arg(&pass).arg(&arrived).arg(&at).arg(&bytes).arg(&count);
            // A program's sizes have been compared by `List::check`; weights and buffers live as
            // long as this value; columns and runs fit them: asserted above, and by the engine.
            // SAFETY: the arguments are those of `run` in `run.cu`, and their addresses hold that.
            // Where several stages are started all blocks run at once: a cooperative launch.
            unsafe {
                if count > 1 { launch.launch_cooperative(config) } else { launch.launch(config) }
            }
            .map_err(failed("starting a pass"))
            .map(drop)
        };
        if let (Some(one), 1) = (&self.one, batch.columns) {
            self.run_one(one, wanted)?;
        } else if self.is_one_launch {
            launch(0, end as u32)?;
        } else {
            (0..end).try_for_each(|stage| launch(stage, 1))?;
        }
        self.read_logits(wanted.len())?;
        self.loaded.card.stream.synchronize().map_err(failed("running a pass"))?;
        self.write_times();
        Ok(())
    }

    /// Lets so many rows of logits come here, behind the passes that make them.
    fn read_logits(&mut self, rows: usize) -> Result<()> {
        let (at, stride, n_vocab) = self.places[0];
        let out = self.logits.as_mut_slice().map_err(failed("reading logits"))?;
        for (row, out) in out.chunks_exact_mut(n_vocab).take(rows).enumerate() {
            let from = at + 4 * row * stride;
            let from = self.buffers.slice(from..from + 4 * n_vocab);
            let out: &mut [u8] = bytemuck::cast_slice_mut(out);
            self.loaded.card.stream.memcpy_dtoh(&from, out).map_err(failed("reading logits"))?;
        }
        Ok(())
    }

    /// Whether passes of one token can follow each other without the host, `tokens` at a time, over
    /// states of so many bytes: nothing of a pass but its token is the host's, and there is memory
    /// for what that takes.
    ///
    /// # Errors
    /// The card failed.
    pub(crate) fn can_go_alone(&mut self, tokens: usize, state_bytes: usize) -> Result<bool> {
        if self.one.is_none() || !self.positional.is_empty() || self.is_alone_refused {
            return Ok(false);
        }
        if self.alone.as_ref().is_none_or(|alone| alone.tokens() < tokens) {
            let sizes = (tokens.next_power_of_two(), self.places[0].2);
            self.alone = match Alone::new(self.loaded.card(), sizes, state_bytes) {
                Err(EngineError::CardMemory { .. }) => {
                    self.is_alone_refused = true;
                    return Ok(false);
                }
                alone => Some(alone?),
            };
        }
        Ok(true)
    }

    /// Runs passes of one token each, the first that of `batch`, the others those that the card
    /// chooses by `rule` and that are put into `chosen`, the last of them unread: if it
    /// [can](Program::can_go_alone).
    ///
    /// # Errors
    /// The card failed.
    pub(crate) fn run_alone(
        &mut self,
        batch: Batch<'_>,
        (wanted, places): (&[usize], &Places),
        rule: &Rule<'_>,
        chosen: &mut [u32],
    ) -> Result<()> {
        assert!(batch.columns == 1 && wanted.len() == 1 && rule.among <= self.places[0].2);
        self.write(batch, wanted, places)?;
        let (Some(one), Some(alone)) = (&self.one, &self.alone) else { return Err(too_long()) };
        alone.keep(places.states[0])?;
        let (card, at) = (self.card(), self.places[0].0);
        let pass = card.address(&self.pass_there);
        let logits = card.address(&self.buffers) + at as u64;
        let passed = Passed { logits, pass, arrived: pass + ARRIVED as u64 };
        for i in 0..chosen.len() {
            self.run_one(one, wanted)?;
            alone.choose(i, rule, passed)?;
        }
        self.read_logits(1)?;
        match &self.alone {
            Some(alone) => alone.read(chosen),
            None => Ok(()),
        }
    }

    /// Puts a state, which stands there, back to where it was before [`Program::run_alone`].
    ///
    /// # Errors
    /// The card failed.
    pub(crate) fn put_back(&self, state: u64) -> Result<()> {
        self.alone.as_ref().map_or(Ok(()), |alone| alone.put_back(state))
    }

    /// Starts the program of one token.
    fn run_one(&self, one: &One, wanted: &[usize]) -> Result<()> {
        let card = self.card();
        let pass = card.address(&self.pass_there);
        let arrived = pass + ARRIVED as u64;
        let (words, starts) = (card.address(&one.words), card.address(&one.starts));
        let (tasks_at, task) = (one.rooms.tasks_at() as u32, one.rooms.task as u32);
        let count = if wanted.is_empty() { one.first_wanted } else { one.stages } as u32;
        let times = one.times.as_ref().map_or(0, |times| card.address(times));
        let config = LaunchConfig {
            grid_dim: (card.blocks as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: one.rooms.bytes() as u32,
        };
        let mut launch = card.stream.launch_builder(&card.token);
        launch.arg(&words).arg(&starts).arg(&pass).arg(&arrived).arg(&tasks_at).arg(&task);
        launch.arg(&count).arg(&times);
        // SAFETY: the arguments are those of `token` in `token_run.cuh`; what its words name lives
        // as long as this value, and `token.rs` laid it out for so many blocks of so many bytes.
        unsafe { launch.launch_cooperative(config) }.map_err(failed("starting a pass")).map(drop)
    }

    /// Writes when stages began and ended to the file that was asked for.
    fn write_times(&self) {
        let Some(times) = self.one.as_ref().and_then(|one| one.times.as_ref()) else { return };
        let Some(file) = std::env::var_os("BROOKLET_CUDA_TIMES") else { return };
        let mut out = vec![0u8; times.len()];
        let copied = self.loaded.card.stream.memcpy_dtoh(times, &mut out);
        if copied.is_err() || std::fs::write(file, &out).is_err() {
            log::warn!("the times of stages could not be written");
        }
    }

    /// Row `i` of the logits of the last pass; none where the card failed.
    pub(crate) fn logits(&self, i: usize) -> Option<&[f32]> {
        let n_vocab = self.places[0].2;
        self.logits.as_slice().ok()?.get(i * n_vocab..(i + 1) * n_vocab)
    }

    /// The same, to write to.
    pub(crate) fn logits_mut(&mut self, i: usize) -> Option<&mut [f32]> {
        let n_vocab = self.places[0].2;
        self.logits.as_mut_slice().ok()?.get_mut(i * n_vocab..(i + 1) * n_vocab)
    }

    /// Column `c` of the residual stream behind the last layer.
    ///
    /// # Errors
    /// The card failed.
    pub(crate) fn x(&self, c: usize) -> Result<Vec<f32>> {
        let (at, stride, rows) = self.places[1];
        let mut out = vec![0.0; rows];
        let from = at + 4 * c * stride;
        let from = self.buffers.slice(from..from + 4 * rows);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut out);
        let stream = &self.loaded.card.stream;
        stream.memcpy_dtoh(&from, bytes).map_err(failed("reading the residual stream"))?;
        stream.synchronize().map_err(failed("reading the residual stream"))?;
        Ok(out)
    }
}
