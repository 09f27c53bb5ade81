//! `brooklet convert`: a checkpoint in, a `.brk` file out.
//!
//! Arguments, progress and the summary; the conversion is `brooklet_formats::convert`. Test:
//! `tests/cli/convert.rs`.

use std::iter;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use brooklet::tokenizer::Tokenizer;
use brooklet_formats::checkpoint::Imatrix;
use brooklet_formats::convert::{
    ConvertOptions, Lora, Progress, Recipe, Summary, assumable, convert, tokenizer_of,
};
use brooklet_formats::{DType, FormatError};
use brooklet_quantize::{Calibration, Exact, Options};
use clap::builder::PossibleValuesParser;
use regex_lite::Regex;
use serde_json::json;

use crate::args::{self, OutputArgs};
use crate::budget::{self, BudgetArgs};
use crate::failure::Result;
use crate::interrupt::Watch;
use crate::overrides::{note_doubts, parse_override};
use crate::{output, progress, requantize, text, units};

/// Converts a checkpoint into a .brk file.
///
/// SOURCE is a PyTorch file (.pth, .bin), a .safetensors file, a GGUF file, a file of rwkv.cpp, or
/// a folder with config.json and weights. The architecture is recognised by itself. The file
/// appears whole or not at all. An older .brk file is replaced; anything else only with --force,
/// and nothing that belongs to SOURCE.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet convert rwkv7.pth -o rwkv7.brk --type int8
  brooklet convert mamba-130m/ -o mamba.brk --type int4
  brooklet convert mamba-130m/ -o mamba.brk --type int4 --calibrate=off
  brooklet convert rwkv7.pth -o a.brk --type int4 --override 'head=int8'
  brooklet convert rwkv7.gguf -o i.brk --type int4 --imatrix imatrix.gguf
  brooklet convert rwkv7.pth -o b.brk --override 'layers\\.0\\..*=f16'
  brooklet convert rwkv7.pth -o c.brk --lora rwkv-0.pth:2
  brooklet convert rwkv7.pth -o d.brk --budget 5bpw --save-recipe d.recipe

Types: f32, f16, bf16, int8, int6, int5, int4, fp8-e4m3, fp8-e5m2, lmul; int4-v1 is the int4 of \
earlier versions. \
--type is for the big matrices; low-rank adapters and an embedding of its own keep 8 bits, \
vectors and other small tensors stay f32. Patterns are searched in the tensors' names \
(`brooklet inspect` lists them); the last one that matches counts.")]
pub(crate) struct Args {
    /// The checkpoint: a file or a folder
    source: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT.brk")]
    output: PathBuf,
    /// Number format of the big matrices
    #[arg(long = "type", value_name = "TYPE", default_value = "int8", value_parser = args::dtype)]
    dtype: DType,
    /// Columns that share a scale: 32, 64 or 128 [default: 64 for int8, 128 for fp8 and lmul, less
    /// for narrow matrices; int6, int5 and int4 always have 32]
    #[arg(long, value_name = "G")]
    group: Option<usize>,
    /// Number format of the tensors whose name matches a pattern. May be given several times
    #[arg(long = "override", value_name = "RE=TYPE", value_parser = parse_override)]
    overrides: Vec<(Regex, DType)>,
    /// Where the head is the embedding, store it on its own: the embedding then keeps 8 bits. Text
    /// is better and as fast, the file larger by the embedding
    #[arg(long)]
    untie: bool,
    /// A tokenizer.json or World vocabulary instead of the checkpoint's own
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// A LoRA to merge into the weights: a file of RWKV-PEFT or web-rwkv, or a folder of PEFT;
    /// SCALE is 1 by default. May be given several times
    #[arg(long = "lora", value_name = "FILE[:SCALE]", value_parser = parse_lora)]
    loras: Vec<Lora>,
    /// A file in the place of the checkpoint's config.json
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take the checkpoint for one of this architecture, whatever its config.json says
    #[arg(long, value_name = "ARCHITECTURE", value_parser = PossibleValuesParser::new(assumable()))]
    assume: Option<String>,
    /// How int4, int5 and int6 are calibrated (see `brooklet requantize`): while the model runs
    /// over the text in a file, or `builtin`; `scales` by weighted scales alone; `auto` on the
    /// built-in text if the model has a tokenizer; `off` not at all, which is many times as fast.
    /// Takes for a while OUT.brk.exact with all weights as f32
    #[arg(long, value_name = "auto|TEXT|builtin|scales|off", num_args = 0..=1,
          require_equals = true, default_value = "auto", default_missing_value = "builtin")]
    calibrate: String,
    /// An imatrix file of llama.cpp (.dat or GGUF): instead of calibrating, int4, int5 and int6 are
    /// searched with columns as important as it says
    #[arg(long, value_name = "FILE", conflicts_with_all = requantize::NOT_WITH_IMATRIX)]
    imatrix: Option<PathBuf>,
    /// Leave channels as they are that are far larger than others; by default they are made equal
    /// where matrices are rounded to 8 bits or less, which changes no result before rounding
    #[arg(long)]
    no_equalize: bool,
    /// Store matrices whose inputs are mostly zeros (`ffn.value` of RWKV-4 to 7) by columns if they
    /// become int4 or int8: the same text. It pays where one sequence is written at a time (4 to
    /// 14 % faster), and costs where prompts are long (8 % slower) or four sequences or more are
    #[arg(long)]
    columns: bool,
    /// Threads; the file is the same with any number [default: one per processor]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(flatten)]
    out: OutputArgs,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    // Last: its heading is that of all options behind it.
    #[command(flatten)]
    budget: BudgetArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let recipe = args.budget.read_recipe()?;
    let is_planned = args.budget.budget().is_some();
    let is_listed = is_planned || recipe.is_some();
    if !is_listed
        && (args.dtype.has_scales() || args.overrides.iter().all(|(_, dtype)| !dtype.has_scales()))
    {
        args::check_group(args.dtype, args.group)?;
    }
    // The converter takes a tokenizer as it comes; one that cannot be read would only show when the
    // model runs.
    let tokenizer = args.tokenizer.as_deref().map(text::tokenizer_at).transpose()?;
    let mut options = ConvertOptions {
        dtype: args.dtype,
        group: args.group,
        overrides: args.overrides.clone(),
        recipe,
        untie: args.untie,
        tokenizer: args.tokenizer.clone(),
        loras: args.loras.clone(),
        config: args.config.clone(),
        assume: args.assume.clone(),
        equalize: !args.no_equalize,
        columns: args.columns,
        exact: false,
        threads: args.threads.map_or(0, usize::from),
        force: args.out.force,
    };
    let start = Instant::now();
    let imatrix = args.imatrix.as_deref().map(Imatrix::open).transpose()?;
    let calibration = match &imatrix {
        Some(_) => None,
        None => calibration(args, (&options, tokenizer.as_ref()), quiet)?,
    };
    let (mut plan, mut exact, mut inputs) = (None, None, Vec::new());
    if is_planned || calibration.is_some() || imatrix.is_some() {
        inputs = inputs_of(args, &options)?;
        args.budget.check(&args.output, options.force, &inputs)?;
        exact = Some(self::exact(args, (&options, &inputs), quiet)?);
    } else {
        args.budget.check(&args.output, options.force, &inputs)?;
    }
    if let Some(exact) = &exact {
        let formats = (&options, calibration.as_ref());
        if let Some((made, formats)) = args.budget.plan(
            (exact.file(), &args.source),
            formats,
            (&inputs, options.threads, quiet),
        )? {
            (plan, options) = (Some(made), formats);
        }
    }
    // A plan may be one of formats that are only rounded.
    let is_fine = |line: (&str, DType)| brooklet_quantize::is_calibrated(line.1);
    let worth = !is_planned || options.recipe.iter().flat_map(Recipe::lines).any(is_fine);
    let (calibration, is_weighted) = (calibration.filter(|_| worth), imatrix.is_some());
    let (summary, calibrated) = match exact {
        Some(exact) if calibration.is_some() || is_weighted => {
            let how = (calibration, imatrix);
            let (summary, calibrated) = quantized(&exact, args, (&options, inputs), how, quiet)?;
            (summary, Some(calibrated))
        }
        exact => {
            drop(exact);
            let summary = with_progress((&args.source, &options), quiet, |progress| {
                convert(&args.source, &args.output, &options, progress)
            })?;
            (summary, None)
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    if !quiet {
        calibrated.iter().for_each(requantize::note_outcomes);
        note_doubts(&args.output, &args.overrides, tokenizer.as_ref());
        for note in summary.notes.iter().chain(&summary.tokenizer_note) {
            output::note(&format!("brooklet: note: {note}"));
        }
    }
    if args.json {
        return output::json(&json!({
            "output": args.output.display().to_string(),
            "architecture": summary.architecture,
            "source_kind": summary.source_kind,
            "tensors": summary.n_tensors,
            "weights": summary.n_weights,
            "source_bytes": summary.source_bytes,
            "target_bytes": summary.target_bytes,
            "bits_per_weight": summary.bits_per_weight,
            "tokenizer": summary.tokenizer,
            "tokenizer_note": summary.tokenizer_note,
            "equalized": requantize::equalized_json(summary.equalized),
            "notes": summary.notes,
            "calibration": calibrated.as_ref().filter(|_| !is_weighted).map(requantize::to_json),
            "weighted_matrices": calibrated.as_ref().map(|done| done.weighted),
            "plan": plan.as_ref().map(budget::to_json),
            "seconds": seconds,
        }));
    }
    if quiet {
        return Ok(());
    }
    let gain = calibrated.as_ref().map(requantize::gain).unwrap_or_default();
    let plan = plan.as_ref().map(budget::describe).unwrap_or_default();
    let equalized = requantize::equalized(summary.equalized);
    output::text(&(plan + &describe(&args.output, &summary, seconds) + &equalized + &gain))
}

/// The calibration that is asked for and has a format to work on.
fn calibration(
    args: &Args,
    (options, tokenizer): (&ConvertOptions, Option<&Tokenizer>),
    quiet: bool,
) -> Result<Option<Calibration>> {
    let asked = requantize::calibration(&args.calibrate)?;
    let formats = iter::once(args.dtype).chain(args.overrides.iter().map(|(_, dtype)| *dtype));
    let listed = options.recipe.iter().flat_map(Recipe::lines).map(|line| line.1);
    let is_fine = brooklet_quantize::is_calibrated;
    let worth = args.budget.budget().is_some() || formats.chain(listed).any(is_fine);
    if !worth || asked.is_none() || args.calibrate != requantize::AUTO {
        return Ok(asked.filter(|_| worth));
    }
    let has_text = match tokenizer {
        Some(tokenizer) => tokenizer.has_text(),
        // Whatever is wrong with the checkpoint, the conversion says.
        None => tokenizer_of(&args.source).is_ok_and(|(meta, section)| {
            Tokenizer::from_meta(meta.kind.name(), &section).is_ok_and(|own| own.has_text())
        }),
    };
    if !quiet {
        output::note(match has_text {
            true => {
                "brooklet: note: calibrates on 40 texts, in about the time of reading each twice: \
                 --calibrate=off rounds in seconds, and loses more"
            }
            false => "brooklet: note: not calibrated: without a tokenizer there is no text for it",
        });
    }
    Ok(asked.filter(|_| has_text))
}

/// All files that are read, and must not be overwritten.
fn inputs_of(args: &Args, options: &ConvertOptions) -> Result<Vec<PathBuf>> {
    let mut inputs = brooklet_quantize::inputs(&args.source, options)?;
    inputs.extend(args.imatrix.iter().cloned().chain(args.budget.inputs()));
    Ok(inputs)
}

/// The checkpoint with all weights as f32, under a progress bar.
fn exact(
    args: &Args,
    (options, inputs): (&ConvertOptions, &[PathBuf]),
    quiet: bool,
) -> Result<Exact> {
    // An imatrix says how important the channels are as they stand in the checkpoint.
    let equalize = options.equalize && args.imatrix.is_none();
    let options = ConvertOptions { equalize, ..options.clone() };
    with_progress((&args.source, &options), quiet, |progress| {
        Exact::make(&args.source, &args.output, &options, inputs, progress)
    })
}

/// Quantizes the checkpoint that has its weights as f32, under a progress bar.
fn quantized(
    exact: &Exact,
    args: &Args,
    (options, inputs): (&ConvertOptions, Vec<PathBuf>),
    (calibration, imatrix): (Option<Calibration>, Option<Imatrix>),
    quiet: bool,
) -> Result<(Summary, brooklet_quantize::Summary)> {
    // Equalized there already, but for an imatrix: once is enough.
    let equalize = options.equalize && imatrix.is_some();
    let recipe = match &imatrix {
        Some(imatrix) => requantize::weighted_by(options, imatrix),
        None => requantize::made_by(options, &args.calibrate),
    };
    let threads = options.threads;
    let formats = ConvertOptions { equalize, ..options.clone() };
    let options = Options { formats, calibration, imatrix, threads, inputs, recipe };
    let run = |options: &Options| {
        requantize::with_progress(quiet, |progress| exact.quantize(&args.output, options, progress))
    };
    match run(&options) {
        // A vocabulary to which the built-in text says nothing.
        Err(error) if error.is_of_text() && args.calibrate == requantize::AUTO => {
            if !quiet {
                output::note(
                    "brooklet: note: not calibrated: the built-in text says it too little",
                );
            }
            Ok(run(&Options { calibration: None, ..options })?)
        }
        done => Ok(done?),
    }
}

/// Converts under a progress bar, until Ctrl-C.
pub(crate) fn with_progress<T>(
    (source, options): (&Path, &ConvertOptions),
    quiet: bool,
    work: impl FnOnce(&mut dyn FnMut(Progress<'_>) -> ControlFlow<()>) -> Result<T, FormatError>,
) -> Result<T> {
    if !quiet && options.tokenizer.is_none() {
        note_tokenizer(source);
    }
    let watch = Watch::new();
    let bar = progress::bar(0, progress::Unit::Count, quiet);
    let done = work(&mut |step| {
        progress::show(&bar, step.done, step.total);
        let doing = if step.tensor.is_empty() { "hashing the source" } else { step.tensor };
        bar.set_message(doing);
        if watch.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    Ok(done?)
}

fn describe(target: &Path, summary: &Summary, seconds: f64) -> String {
    format!(
        "{}: {} from {}, {} tensors, {} weights, tokenizer {}\n\
         {} -> {}, {:.2} bits per weight, {seconds:.1} s\n",
        target.display(),
        summary.architecture,
        summary.source_kind,
        summary.n_tensors,
        units::count(summary.n_weights),
        summary.tokenizer,
        units::bytes(summary.source_bytes),
        units::bytes(summary.target_bytes),
        summary.bits_per_weight,
    )
}

/// Says that the checkpoint's own tokenizer cannot be run, before the long work rather than when
/// the model runs.
fn note_tokenizer(source: &Path) {
    // Whatever else is wrong, the conversion says.
    let Ok((meta, section)) = tokenizer_of(source) else { return };
    if let Err(error) = Tokenizer::from_meta(meta.kind.name(), &section) {
        output::note(&format!(
            "brooklet: note: {}: its tokenizer cannot be run, the model will only take token ids \
             ({error}): name another one with --tokenizer",
            source.display()
        ));
    }
}

/// `FILE[:SCALE]`; what stands behind a colon and is no number belongs to the name.
fn parse_lora(text: &str) -> Result<Lora, String> {
    let (path, scale) = match text.rsplit_once(':') {
        Some((path, scale)) if !path.is_empty() => match scale.parse::<f32>() {
            Ok(scale) if scale.is_finite() => (path, scale),
            Ok(_) => return Err(format!("the scale must be a finite number, found {scale}")),
            Err(_) => (text, 1.0),
        },
        _ => (text, 1.0),
    };
    Ok(Lora { path: PathBuf::from(path), scale })
}
