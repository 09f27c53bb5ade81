//! `brooklet inspect`: what a model file holds, and the memory that running it takes.
//!
//! The table for people and the JSON object say the same. No tensor is read. Test:
//! `tests/cli/inspect.rs`.

use std::path::PathBuf;

use brooklet::{DEFAULT_CHUNK, Engine, EngineOptions, Extent, Model, Session};
use brooklet_formats::brk::{Layout, Meta, TensorInfo};
use serde::Serialize;

use crate::card_memory::CardMemory;
use crate::devices::Choice;
use crate::failure::Result;
use crate::model::{CheckpointArgs, Source};
use crate::{output, units};

/// Chunks that the memory plan is made for.
const CHUNKS: [usize; 3] = [1, DEFAULT_CHUNK, 512];

/// Shows what a model file holds.
///
/// Architecture, hyper-parameters, where the weights come from, tensors with their formats, bits
/// per weight, the size of a state, and a memory plan. MB is 10^6 bytes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet inspect model.brk
  brooklet inspect model.brk --device cuda
  brooklet inspect model.brk --json | jq .bits_per_weight")]
pub(crate) struct Args {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    model: PathBuf,
    /// List every tensor, not those of all layers in one line
    #[arg(long)]
    tensors: bool,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    /// Instead, list the operations that devices other than the processor execute, one a line, in
    /// stages
    #[arg(long, conflicts_with_all = ["tensors", "json"])]
    operations: bool,
    /// Multiprocessors of the device that the stages are made for
    #[arg(long, value_name = "N", default_value_t = 132, requires = "operations",
          value_parser = clap::value_parser!(u16).range(1..))]
    blocks: u16,
    /// Also the memory that it takes of a card (cuda, cuda:N), which it is not loaded to, and how
    /// many sequences fit
    #[arg(long, value_name = "DEVICE", conflicts_with = "operations", default_value = "cpu")]
    device: Choice,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    file_bytes: u64,
    fingerprint: String,
    #[serde(flatten)]
    meta: &'a Meta,
    weights: u64,
    tensor_bytes: u64,
    bits_per_weight: f64,
    formats: Vec<Share>,
    state: StateReport,
    memory: Memory,
    /// Where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    card_memory: Option<CardMemory>,
    tensors: Vec<Line<'a>>,
}

/// A number format's part of the file.
#[derive(Serialize)]
struct Share {
    format: String,
    tensors: usize,
    weights: u64,
    bytes: u64,
}

/// The state of one sequence.
#[derive(Serialize)]
struct StateReport {
    /// All of it, but for what grows with every token.
    bytes: usize,
    elements: usize,
    /// 0 where a state is of constant size.
    bytes_per_token: usize,
    /// The most tokens, where it grows.
    n_context: Option<usize>,
    slots_per_layer: Vec<SlotReport>,
    attention: Vec<AttentionReport>,
}

/// Layers of attention that see equally much of a text.
#[derive(Serialize)]
struct AttentionReport {
    layers: usize,
    /// The last tokens that they see; all, where it is absent.
    window: Option<usize>,
    /// The first tokens that they see beside them.
    first: usize,
    /// Of all these layers.
    bytes_per_token: usize,
}

impl AttentionReport {
    fn new((extent, layers, bytes_per_token): (Extent, usize, usize)) -> AttentionReport {
        let (window, first) = match extent {
            Extent::Ring { tokens, first } => (Some(tokens), first),
            Extent::Fixed | Extent::Tokens { .. } => (None, 0),
        };
        AttentionReport { layers, window, first, bytes_per_token }
    }

    fn line(&self) -> String {
        let sees = match self.window {
            None => "every token".to_owned(),
            Some(window) => format!("the last {} tokens", units::count(window as u64)),
        };
        match self.layers {
            1 => format!("1 layer sees {sees}"),
            layers => format!("{layers} layers see {sees}"),
        }
    }
}

/// A piece of the first layer's state.
#[derive(Serialize)]
struct SlotReport {
    name: &'static str,
    shape: Vec<usize>,
}

/// Tokens to go back.
const ROLLBACK: usize = 64;

/// Memory that running the model takes.
#[derive(Serialize)]
struct Memory {
    /// Mapped, shared between processes, given back when memory is short.
    file_bytes: u64,
    /// Of which one token's pass reads.
    touched_per_token_bytes: u64,
    /// For each sequence.
    state_bytes: usize,
    /// Copies of it for going back any of the last 64 tokens, where that is wanted; at most.
    rollback_bytes: usize,
    /// Logits of one position.
    logits_bytes: usize,
    /// Buffers of an engine with one row of logits, by tokens per forward pass.
    scratch: Vec<Scratch>,
}

/// Buffers of an engine.
#[derive(Serialize)]
struct Scratch {
    chunk: usize,
    bytes: usize,
}

/// A tensor.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    shape: &'a [usize],
    format: String,
    group: usize,
    bytes: u64,
    offset: u64,
    checksum: String,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let source = Source::new(&args.model, &args.checkpoint)?;
    let model = Model::open(source.ready(quiet)?)?;
    if args.operations {
        return output::text(&(model.operations(usize::from(args.blocks))? + "\n"));
    }
    let report = Report { card_memory: CardMemory::new(&model, args.device)?, ..report(&model) };
    if args.json { output::json(&report) } else { output::text(&table(&report, args.tensors)) }
}

fn report(model: &Model) -> Report<'_> {
    let file = model.file();
    let tensors = file.tensors();
    let weights: u64 = tensors.iter().map(TensorInfo::n_elements).sum();
    let tensor_bytes: u64 = tensors.iter().map(|tensor| tensor.len).sum();
    let layout = model.state_layout();
    let first_layer = layout.slots().iter().filter(|slot| slot.layer == 0);
    Report {
        file: file.path().display().to_string(),
        file_bytes: file.file_len(),
        fingerprint: format!("{:016x}", model.fingerprint()),
        meta: model.meta(),
        weights,
        tensor_bytes,
        bits_per_weight: tensor_bytes as f64 * 8.0 / weights.max(1) as f64,
        formats: shares(tensors),
        state: StateReport {
            bytes: layout.bytes(),
            elements: layout.len(),
            bytes_per_token: layout.bytes_per_token(),
            n_context: layout.context(),
            slots_per_layer: first_layer
                .map(|slot| SlotReport { name: slot.name, shape: slot.shape.clone() })
                .collect(),
            attention: layout.extents().map(AttentionReport::new).collect(),
        },
        memory: Memory {
            file_bytes: file.file_len(),
            touched_per_token_bytes: touched_per_token(tensors),
            state_bytes: layout.bytes(),
            rollback_bytes: Session::rollback_bytes(model, ROLLBACK),
            logits_bytes: model.n_vocab() * size_of::<f32>(),
            scratch: CHUNKS.into_iter().map(|chunk| scratch(model, chunk)).collect(),
        },
        card_memory: None,
        tensors: tensors.iter().map(line).collect(),
    }
}

fn scratch(model: &Model, chunk: usize) -> Scratch {
    let options = EngineOptions::new().threads(1).chunk(chunk).logits(1);
    Scratch { chunk, bytes: Engine::memory(model, &options) }
}

/// Bytes of tensors that one step reads: all but the table of an embedding that is not the head.
pub(crate) fn touched_per_token(tensors: &[TensorInfo]) -> u64 {
    let tied = !tensors.iter().any(|tensor| tensor.name == "head");
    let read = |tensor: &&TensorInfo| tied || tensor.name != "embed";
    tensors.iter().filter(read).map(|tensor| tensor.len).sum()
}

fn shares(tensors: &[TensorInfo]) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for tensor in tensors {
        let format = format_of(tensor);
        let i = shares.iter().position(|share| share.format == format).unwrap_or_else(|| {
            shares.push(Share { format, tensors: 0, weights: 0, bytes: 0 });
            shares.len() - 1
        });
        shares[i].tensors += 1;
        shares[i].weights += tensor.n_elements();
        shares[i].bytes += tensor.len;
    }
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

/// Format with its group; plain tensors are told from tiled f32 ones.
fn format_of(tensor: &TensorInfo) -> String {
    match tensor.layout {
        Layout::Plain => "f32 vector".to_owned(),
        Layout::Columns => format!("{}/{} by columns", tensor.dtype, tensor.group),
        _ if tensor.group > 0 => format!("{}/{}", tensor.dtype, tensor.group),
        _ => tensor.dtype.to_string(),
    }
}

fn line(tensor: &TensorInfo) -> Line<'_> {
    Line {
        name: &tensor.name,
        shape: &tensor.shape,
        format: format_of(tensor),
        group: tensor.group,
        bytes: tensor.len,
        offset: tensor.offset,
        checksum: format!("{:016x}", tensor.checksum),
    }
}

/// The report for people.
fn table(report: &Report<'_>, every_tensor: bool) -> String {
    let mut rows = vec![
        ("file", report.file.clone()),
        ("architecture", report.meta.architecture.clone()),
        (
            "weights",
            format!("{}, {:.2} bits each", units::count(report.weights), report.bits_per_weight),
        ),
        ("tokenizer", tokenizer(report.meta)),
        ("fingerprint", report.fingerprint.clone()),
    ];
    let provenance = &report.meta.provenance;
    if !provenance.source_file.is_empty() {
        rows.push(("source", format!("{} ({})", provenance.source_file, provenance.source_format)));
        rows.push(("recipe", provenance.recipe.clone()));
    }
    let mut text = String::new();
    for (name, value) in rows {
        text += &format!("{name:<14} {}\n", output::line(&value));
    }
    text += "\nhyper-parameters\n";
    for (name, value) in &report.meta.config {
        text += &format!("  {:<18} {}\n", output::line(name), output::line(&value.to_string()));
    }
    text += "\nmemory\n";
    let memory = [
        (
            "file, mapped",
            memory_line(report.memory.file_bytes, "shared, given back when memory is short"),
        ),
        ("read per token", memory_line(report.memory.touched_per_token_bytes, "of the file")),
        ("state", memory_line(report.memory.state_bytes as u64, &state_line(&report.state))),
        (
            "going back",
            memory_line(
                report.memory.rollback_bytes as u64,
                &format!("at most, for any of the last {ROLLBACK} tokens, where that is wanted"),
            ),
        ),
        ("logits", memory_line(report.memory.logits_bytes as u64, "for each position wanted")),
    ];
    for (name, value) in memory {
        text += &format!("  {name:<18} {value}\n");
    }
    for Scratch { chunk, bytes } in &report.memory.scratch {
        let name = format!("scratch, chunk {chunk}");
        text += &format!(
            "  {name:<18} {}\n",
            memory_line(*bytes as u64, "for each engine, allocated once")
        );
    }
    if let Some(card) = &report.card_memory {
        text += "\nmemory on a card\n";
        for (name, bytes, note) in card.rows() {
            text += &format!("  {name:<18} {}\n", memory_line(bytes, &note));
        }
    }
    text += "\nformats\n";
    for share in &report.formats {
        text += &format!(
            "  {:<18} {:>10} {:>5} tensors {:>15} weights\n",
            share.format,
            units::bytes(share.bytes),
            share.tensors,
            units::count(share.weights)
        );
    }
    text += "\ntensors\n";
    for row in rows_of(&report.tensors, every_tensor) {
        let size = units::bytes(row.bytes);
        text += &format!(
            "  {:<30} {:>18}  {:<12} {size:>10}{}\n",
            row.name,
            row.shape,
            row.format,
            row.times()
        );
    }
    text
}

/// A line of the list of tensors: one tensor, or that of several layers.
struct Row {
    name: String,
    shape: String,
    format: String,
    bytes: u64,
    tensors: usize,
}

impl Row {
    fn times(&self) -> String {
        if self.tensors == 1 { String::new() } else { format!("  in {} layers", self.tensors) }
    }
}

/// The tensors; unless `every` is set, those that differ only in their layer are one row.
fn rows_of(tensors: &[Line<'_>], every: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for tensor in tensors {
        let shape = tensor.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
        let name = if every { tensor.name.to_owned() } else { without_layer(tensor.name) };
        let same =
            |row: &&mut Row| row.name == name && row.shape == shape && row.format == tensor.format;
        match rows.iter_mut().find(same) {
            Some(row) => {
                row.tensors += 1;
                row.bytes += tensor.bytes;
            }
            None => rows.push(Row {
                name,
                shape,
                format: tensor.format.clone(),
                bytes: tensor.bytes,
                tensors: 1,
            }),
        }
    }
    rows
}

/// `layers.3.att.key` becomes `layers.*.att.key`.
fn without_layer(name: &str) -> String {
    let part = |part: &str| {
        if part.bytes().all(|b| b.is_ascii_digit()) { "*".to_owned() } else { part.to_owned() }
    };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

fn memory_line(bytes: u64, note: &str) -> String {
    format!("{:>10}   {note}", units::bytes(bytes))
}

fn state_line(state: &StateReport) -> String {
    let shape = |slot: &SlotReport| {
        let shape = slot.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
        format!("{} {shape}", slot.name)
    };
    let slots = state.slots_per_layer.iter().map(shape).collect::<Vec<_>>().join(", ");
    let attention = state.attention.iter().map(|kind| format!("; {}", kind.line()));
    let slots = slots + &attention.collect::<String>();
    match state.n_context {
        None if !state.attention.is_empty() => {
            format!("for each sequence at most, whatever its length; first layer: {slots}")
        }
        None => format!("for each sequence, whatever its length; per layer: {slots}"),
        Some(n) => {
            let all = state.bytes.saturating_add(state.bytes_per_token.saturating_mul(n));
            format!(
                "for each sequence, and {} more with every token: {} at {} tokens, the most; \
                 first layer: {slots}",
                units::bytes(state.bytes_per_token as u64),
                units::bytes(all as u64),
                units::count(n as u64),
            )
        }
    }
}

fn tokenizer(meta: &Meta) -> String {
    let mut text = meta.tokenizer.kind.name().to_owned();
    if let Some(id) = meta.tokenizer.bos_id {
        text += &format!(", begins with {id}");
    }
    if !meta.tokenizer.eos_ids.is_empty() {
        text += &format!(", ends with {:?}", meta.tokenizer.eos_ids);
    }
    if meta.chat_template.is_some() {
        text += ", with a chat template";
    }
    text
}
