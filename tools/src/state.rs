//! `brooklet state`: what a saved state holds, another number format for it, sums of states
//! (`sums`), and states that were tuned elsewhere.
//!
//! Saving and going on is `run` and `chat` (`saved`). Not here: the file
//! (`brooklet_formats::state_file`), the transposition of tuned states (the engine's). Test:
//! `tests/cli/state.rs`.

use std::path::{Path, PathBuf};

use brooklet::sampler::SamplerState;
use brooklet::{DType, Model, Snapshot, State};
use brooklet_formats::atomic::{AtomicFile, Target};
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_formats::state_file::{self, StateFile};
use serde::Serialize;

use crate::args::OutputArgs;
use crate::failure::Result;
use crate::model::{CheckpointArgs, Source};
use crate::saved::state_type;
use crate::sums::{self, States};
use crate::{output, units};

/// Inspects, converts, adds or imports saved states.
///
/// A state file (.brks) holds what a model remembers of a text, and what is needed to go on from it
/// exactly. `run` and `chat` write one with --save-state and go on from it with --state.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet run model.brk -p \"Once upon a time\" -n 100 --save-state story.brks
  brooklet state inspect story.brks
  brooklet state convert story.brks -o small.brks --type int8
  brooklet state average a.brks b.brks -o both.brks
  brooklet state diff a.brks b.brks
  brooklet state merge base.brks polite.brks brief.brks --scale 0.7 -o tuned.brks
  brooklet state import rwkv7.brk tuned.pth -o tuned.brks")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Shows what a state file holds
    #[command(after_help = "Example:\n  brooklet state inspect story.brks --json | jq .position")]
    Inspect {
        /// The state (.brks)
        state: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Writes a state in another number format
    #[command(
        after_help = "Example:\n  brooklet state convert story.brks -o small.brks --type f16"
    )]
    Convert {
        /// The state (.brks)
        state: PathBuf,
        /// The file to write
        #[arg(short, long, value_name = "OUT.brks")]
        output: PathBuf,
        /// Number format: f32, f16 or int8
        #[arg(long = "type", value_name = "TYPE", value_parser = state_type)]
        dtype: DType,
        #[command(flatten)]
        out: OutputArgs,
    },
    /// Writes the average of states of one model
    ///
    /// Of states that were tuned, or that have read alike instructions. Only states of constant
    /// size have an average: not those of models with attention, once they have read something.
    #[command(after_help = "Examples:
  brooklet state average a.brks b.brks -o both.brks
  brooklet state average a.brks b.brks --weights 3,1 -o both.brks")]
    Average {
        /// The states (.brks)
        #[arg(required = true, num_args = 2..)]
        states: Vec<PathBuf>,
        /// Weights, with commas between them; they are divided by their sum [default: all alike]
        #[arg(long, value_name = "W,W,…", value_delimiter = ',', allow_negative_numbers = true)]
        weights: Vec<f64>,
        #[command(flatten)]
        sum: SumArgs,
    },
    /// Shows how far apart two states of one model are, slot by slot
    #[command(after_help = "Example:\n  brooklet state diff a.brks b.brks")]
    Diff {
        /// A state (.brks)
        first: PathBuf,
        /// Another one
        second: PathBuf,
        /// Print a list of JSON objects
        #[arg(long)]
        json: bool,
    },
    /// Adds what states have learnt to another: base + Σ scale · (state - base)
    #[command(after_help = "Examples:
  brooklet state merge base.brks polite.brks brief.brks -o tuned.brks
  brooklet state merge base.brks polite.brks brief.brks --scale 1,0.5 -o tuned.brks")]
    Merge {
        /// The state that the others were tuned from (.brks)
        base: PathBuf,
        /// The others
        #[arg(required = true)]
        states: Vec<PathBuf>,
        /// How much of each difference is added: one number, or one for each state
        #[arg(long, value_name = "X", value_delimiter = ',', allow_negative_numbers = true)]
        scale: Vec<f64>,
        #[command(flatten)]
        sum: SumArgs,
    },
    /// Makes a state of an RWKV state-tuning file
    ///
    /// The file holds `blocks.N.att.time_state` for every layer of an RWKV-5, 6 or 7; other tensors
    /// are ignored. `brooklet run MODEL --state OUT.brks -p PROMPT` begins with it.
    #[command(after_help = "Example:\n  brooklet state import rwkv7.brk tuned.pth -o tuned.brks")]
    Import {
        /// The model that the state was tuned for: a .brk file, or a checkpoint, which is converted
        /// once into the cache folder
        model: PathBuf,
        /// The tuned state (.pth or .safetensors)
        tuned: PathBuf,
        /// The file to write
        #[arg(short, long, value_name = "OUT.brks")]
        output: PathBuf,
        /// Number format: f32, f16 or int8
        #[arg(long = "type", value_name = "TYPE", default_value = "f32", value_parser = state_type)]
        dtype: DType,
        #[command(flatten)]
        out: OutputArgs,
    },
}

/// Where a sum goes.
#[derive(clap::Args, Debug)]
struct SumArgs {
    /// The file to write
    #[arg(short, long, value_name = "OUT.brks")]
    output: PathBuf,
    /// Number format: f32, f16 or int8
    #[arg(long = "type", value_name = "TYPE", default_value = "f32", value_parser = state_type)]
    dtype: DType,
    #[command(flatten)]
    out: OutputArgs,
}

impl SumArgs {
    /// Writes a sum of states, which are inputs.
    fn write(&self, states: &[PathBuf], weights: &[f64], quiet: bool) -> Result {
        let target = Target::new(&self.output, state_file::KIND, states).force(self.out.force);
        target.check()?;
        States::open(states)?.sum(weights, &target, self.dtype)?;
        done(&self.output, self.dtype, quiet)
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    match &args.command {
        Command::Inspect { state, json } => inspect(state, *json),
        Command::Convert { state, output, dtype, out } => {
            let target = Target::new(output, state_file::KIND, [state]).force(out.force);
            target.check()?;
            let bytes = state_file::open(state)?;
            let converted = StateFile::parse(state, &bytes)?.converted(*dtype)?;
            let mut file = AtomicFile::create(&target)?;
            file.write(&converted)?;
            file.publish(&[])?;
            done(output, *dtype, quiet)
        }
        Command::Average { states, weights, sum } => {
            sum.write(states, &sums::average(weights, states.len())?, quiet)
        }
        Command::Diff { first, second, json } => States::open([first, second])?.compare(*json),
        Command::Merge { base, states, scale, sum } => {
            let weights = sums::merge(scale, states.len())?;
            sum.write(&[std::slice::from_ref(base), states].concat(), &weights, quiet)
        }
        Command::Import { model, tuned, output, dtype, out } => {
            let tuned = Checkpoint::open(tuned)?;
            let source = Source::new(model, &CheckpointArgs::default())?;
            let inputs = tuned.inputs().into_iter().chain(source.inputs());
            let target = Target::new(output, state_file::KIND, inputs).force(out.force);
            target.check()?;
            let model = Model::open(source.ready(quiet)?)?;
            let state = State::from_tuned(&model, &tuned)?;
            Snapshot::new(state).save_to(&target, *dtype)?;
            done(output, *dtype, quiet)
        }
    }
}

fn done(output: &Path, dtype: DType, quiet: bool) -> Result {
    if quiet {
        return Ok(());
    }
    let len = std::fs::metadata(output).map_or(0, |found| found.len());
    output::text(&format!("{}: {dtype}, {}\n", output.display(), units::bytes(len)))
}

/// The object that `inspect --json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    file_bytes: usize,
    architecture: &'a str,
    fingerprint: String,
    /// Tokens that the state has read.
    position: u64,
    /// The last tokens of the sequence.
    tail: &'a [u32],
    /// Those at the end of `tail` that the state has not read.
    unread: usize,
    /// Number of logits in the file: 0, or one for each token of the vocabulary.
    logits: usize,
    /// Seed of the sampler, if one was saved.
    seed: Option<u64>,
    note: &'a str,
    slots: &'a [state_file::SlotInfo],
}

fn inspect(path: &Path, json: bool) -> Result {
    let bytes = state_file::open(path)?;
    let file = StateFile::parse(path, &bytes)?;
    let sampler = match file.sampler() {
        [] => None,
        bytes => Some(SamplerState::from_bytes(bytes)?),
    };
    let report = Report {
        file: path.display().to_string(),
        file_bytes: file.file_len(),
        architecture: file.architecture(),
        fingerprint: format!("{:016x}", file.fingerprint()),
        position: file.position(),
        tail: file.tail(),
        unread: file.unread(),
        logits: file.logits().len(),
        seed: sampler.map(|sampler| sampler.seed()),
        note: file.note(),
        slots: file.slots(),
    };
    if json { output::json(&report) } else { output::text(&table(&report)) }
}

/// The report for people.
fn table(report: &Report<'_>) -> String {
    let resumes = match (report.unread, report.logits) {
        (0, 0) => "a prompt has to follow".to_owned(),
        (0, n) => format!("the saved logits of {n} tokens"),
        (n, _) => format!("{n} token it has not read yet"),
    };
    let sampler = report.seed.map_or("not saved".to_owned(), |seed| format!("saved, seed {seed}"));
    let rows = [
        ("file", report.file.clone()),
        ("size", units::bytes(report.file_bytes as u64)),
        ("architecture", report.architecture.to_owned()),
        ("fingerprint", report.fingerprint.clone()),
        ("tokens read", units::count(report.position)),
        ("goes on from", resumes),
        ("sampler", sampler),
        ("note", if report.note.is_empty() { "none" } else { "a program's own" }.to_owned()),
    ];
    let mut text: String =
        rows.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect();
    text += "\nslots of the first layer\n";
    for slot in report.slots.iter().filter(|slot| slot.layer == 0) {
        let shape = slot.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
        text += &format!("  {:<18} {shape:>18}  {}\n", slot.name, slot.dtype);
    }
    text
}
