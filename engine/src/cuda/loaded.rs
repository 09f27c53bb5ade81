//! The weights of a model on a card: all that its list refers to, copied once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use brooklet_formats::quant;
use brooklet_formats::zeroed::Zeroed;
use cudarc::driver::CudaSlice;

use super::card::{Card, failed};
use super::memory::{most, plan};
use crate::ops::{ConvOp, Formula, HeadConvsOp, List, NormOp, Op, Term};
use crate::tensor::Matrix;
use crate::{EngineError, Result};

/// Where weights begin on a card: each as its file's are, so that loads of 16 bytes are whole.
const ALIGN: usize = 256;

/// Weights on a card.
pub(crate) struct Loaded {
    pub(super) card: Arc<Card>,
    /// By where weights begin here, where they do on the card.
    places: BTreeMap<usize, u64>,
    /// All of it.
    bytes: usize,
    _memory: CudaSlice<u8>,
}

/// Weights as a card shall have them.
enum Upload<'m> {
    /// As they stand here.
    Bytes(&'m [u8]),
    /// A matrix in columns, put into tiles.
    Tiles(&'m Matrix),
}

/// The bytes of a matrix in columns as tiles, which kernels of a card read.
fn in_tiles(w: &Matrix) -> Zeroed<u8> {
    let (from, to) = (w.layout(), w.layout().in_tiles());
    let (mut tiles, mut tile) = (Zeroed::new(to.total_bytes()), vec![0; to.encoded_bytes()]);
    for t in 0..to.n_tiles() {
        quant::take_tile(from, w.bytes(), t, &mut tile);
        quant::place_tile(&to, &tile, t, &mut tiles);
    }
    // The file's own table, not the one that is written today.
    let table = w.table();
    tiles[to.n_tiles() * to.tile_bytes()..][..table.len()].copy_from_slice(table);
    tiles
}

impl Upload<'_> {
    fn len(&self) -> usize {
        match self {
            Upload::Bytes(bytes) => bytes.len(),
            Upload::Tiles(w) => w.layout().in_tiles().total_bytes(),
        }
    }
}

/// Weights, each once, by where they begin.
#[derive(Default)]
struct Wanted<'m>(BTreeMap<usize, Upload<'m>>);

impl<'m> Wanted<'m> {
    fn upload(&mut self, begins: &'m [u8], upload: Upload<'m>) {
        match self.0.entry(begins.as_ptr().addr()) {
            Entry::Vacant(place) => _ = place.insert(upload),
            // Of those that begin at one place the longest.
            Entry::Occupied(mut place) if upload.len() > place.get().len() => {
                place.insert(upload);
            }
            Entry::Occupied(_) => {}
        }
    }

    fn bytes(&mut self, bytes: &'m [u8]) {
        self.upload(bytes, Upload::Bytes(bytes));
    }

    fn matrix(&mut self, w: &'m Matrix) {
        match w.layout().by_columns {
            true => self.upload(w.bytes(), Upload::Tiles(w)),
            false => self.bytes(w.bytes()),
        }
    }

    fn weights(&mut self, weights: &'m [f32]) {
        self.bytes(bytemuck::cast_slice(weights));
    }

    fn formula(&mut self, f: &Formula<'m>) {
        for term in f.terms() {
            if let Term::Weights { from, .. } = term {
                self.weights(from);
            }
        }
    }

    fn op(&mut self, op: &Op<'m>) {
        match op {
            Op::Embed { table: w, .. } | Op::Project { w, .. } => self.matrix(w),
            Op::Map { f, .. } | Op::Sum { f, .. } | Op::Pack { f, .. } | Op::Fold { f, .. } => {
                self.formula(f);
            }
            Op::Norm { norm: NormOp::Layer { weight, bias, .. }, .. } => {
                self.weights(weight);
                self.weights(bias);
            }
            Op::Norm { norm: NormOp::Rms { weight, .. }, .. } => self.weights(weight),
            Op::Conv(ConvOp { taps, bias, .. }) => {
                self.weights(taps);
                self.weights(bias);
            }
            Op::Heads(heads) => heads.bonus.into_iter().for_each(|bonus| self.weights(bonus)),
            Op::Scan(scan) => {
                self.weights(scan.a);
                self.weights(scan.d);
            }
            Op::Blocks(blocks) => {
                self.weights(blocks.w);
                self.weights(blocks.bias);
            }
            Op::Attend(attend) => {
                attend.relative.into_iter().for_each(|relative| self.weights(relative.profiles));
            }
            Op::Cells(cells) => {
                self.matrix(cells.w);
                cells.bias.into_iter().for_each(|bias| self.weights(bias));
            }
            Op::Ngrams(ngrams) => {
                self.matrix(ngrams.table);
                self.bytes(bytemuck::cast_slice(ngrams.hashes.multipliers));
                self.bytes(bytemuck::cast_slice(ngrams.hashes.heads));
            }
            Op::HeadConvs(HeadConvsOp { convs, .. }) => {
                let of_channels = [convs.channels, convs.channels_bias];
                let of_heads = [convs.heads, convs.heads_bias, convs.temperature];
                of_channels.into_iter().chain(of_heads).for_each(|w| self.weights(w));
            }
            Op::Exact(exact) => self.weights(exact.w),
            Op::Mesa(mesa) => self.weights(mesa.lambda),
            Op::Choose(choose) => choose.bias.into_iter().for_each(|bias| self.weights(bias)),
            Op::Experts(experts) => self.matrix(experts.w.all()),
            Op::Average(average) => {
                self.weights(average.decay);
                self.weights(average.bonus);
            }
            Op::Gather { .. }
            | Op::Keep { .. }
            | Op::Place(_)
            | Op::Slots(_)
            | Op::Spin(_)
            | Op::Levels(_)
            | Op::Spread(_)
            | Op::Past(_)
            | Op::Best(_)
            | Op::Turn(_)
            | Op::Remember(_) => {}
        }
    }
}

/// The bytes of weights that a list refers to.
pub(crate) fn weight_bytes(list: &List<'_>) -> usize {
    wanted(list).0.values().map(|upload| upload.len().next_multiple_of(ALIGN)).sum()
}

fn wanted<'m>(list: &List<'m>) -> Wanted<'m> {
    let mut wanted = Wanted::default();
    list.ops().iter().for_each(|op| wanted.op(op));
    wanted
}

impl Loaded {
    /// The weights of `list` on `card`, if a sequence, whose state takes `state` bytes, can be read
    /// beside them token by token.
    ///
    /// # Errors
    /// The card has no memory for them: nothing has been copied then.
    pub(crate) fn new(card: Card, list: &List<'_>, state: usize) -> Result<Loaded> {
        let card = Arc::new(card);
        let free = card.free()?;
        if most(list, state, card.size())? > free {
            let needed = plan(list, state, 1, card.size())?.total(1);
            if needed > free {
                return Err(EngineError::CardMemory { needed, free });
            }
        }
        let wanted = wanted(list);
        let bytes = weight_bytes(list);
        let mut memory = card.zeroed(bytes)?;
        let first = card.address(&memory);
        let (mut places, mut at) = (BTreeMap::new(), 0);
        for (place, upload) in &wanted.0 {
            places.insert(*place, first + at as u64);
            let tiles;
            let bytes = match upload {
                Upload::Bytes(bytes) => *bytes,
                Upload::Tiles(w) => {
                    tiles = in_tiles(w);
                    &tiles
                }
            };
            if !bytes.is_empty() {
                let mut target = memory.slice_mut(at..at + bytes.len());
                let copied = card.stream.memcpy_htod(bytes, &mut target);
                copied.map_err(failed("copying weights"))?;
            }
            at += bytes.len().next_multiple_of(ALIGN);
        }
        card.stream.synchronize().map_err(failed("copying weights"))?;
        Ok(Loaded { card, places, bytes, _memory: memory })
    }

    /// The card.
    pub(crate) fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// Bytes of all weights.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the weights that begin here at `first` stand.
    ///
    /// # Panics
    /// They are of another model.
    pub(super) fn place(&self, first: *const u8) -> u64 {
        *self.places.get(&first.addr()).expect("weights of the list that was loaded")
    }
}
