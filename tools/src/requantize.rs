//! `brooklet requantize`: a .brk file in, one in other number formats out, calibrated; and the same
//! behind `convert --calibrate`.
//!
//! Arguments, progress and the summary; the work is `brooklet_quantize`. Test:
//! `tests/cli/requantize.rs`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use brooklet_formats::DType;
use brooklet_formats::atomic::Target;
use brooklet_formats::brk;
use brooklet_formats::checkpoint::Imatrix;
use brooklet_formats::convert::{ConvertOptions, Equalized};
use brooklet_quantize::{
    Calibration, Method, OnProgress, Options, Outcome, QuantizeError, Summary, Text, requantize,
};
use regex_lite::Regex;
use serde_json::{Value, json};

use crate::args::{self, OutputArgs};
use crate::budget::{self, BudgetArgs};
use crate::failure::Result;
use crate::interrupt::Watch;
use crate::overrides::{note_doubts, parse_override};
use crate::{input, output, progress, units};

/// Writes a .brk file in other number formats, calibrated.
///
/// IN.brk has its weights as f32, f16 or bf16. The model runs over a text, layer by layer, and the
/// codes of int4, int5 and int6 are chosen so that its outputs change least (GPTQ); a matrix that
/// this makes worse on texts held out is rounded as `convert` does. Stopped and started again, it
/// goes on from OUT.brk.unfinished. Where channels are equalized, OUT.brk.equal is there meanwhile,
/// with the weights as they will be rounded.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet convert rwkv7.pth -o rwkv7-bf16.brk --type bf16
  brooklet requantize rwkv7-bf16.brk rwkv7-int4.brk --type int4
  brooklet requantize rwkv7-bf16.brk a.brk --type int4 --override 'head=int8'
  brooklet requantize rwkv7-bf16.brk b.brk --type int5 --calibrate=my-texts.txt
  brooklet requantize rwkv7-bf16.brk c.brk --budget 4.5bpw --save-recipe c.recipe
  brooklet requantize rwkv7-bf16.brk d.brk --recipe c.recipe")]
pub(crate) struct Args {
    /// The model: a .brk file
    source: PathBuf,
    /// The file to write
    output: PathBuf,
    /// Number format of the big matrices
    #[arg(long = "type", value_name = "TYPE", default_value = "int4", value_parser = args::dtype)]
    dtype: DType,
    /// Columns that share a scale, where the format has a choice: 32, 64 or 128
    #[arg(long, value_name = "G")]
    group: Option<usize>,
    /// Number format of the tensors whose name matches a pattern. May be given several times
    #[arg(long = "override", value_name = "RE=TYPE", value_parser = parse_override)]
    overrides: Vec<(Regex, DType)>,
    /// How int4, int5 and int6 are calibrated: on the text in a file, or `builtin`; `scales` on the
    /// built-in text, but by weighted scales alone; `off` not at all
    #[arg(long, value_name = "TEXT|builtin|scales|off", default_value = "builtin",
          num_args = 0..=1, require_equals = true, default_missing_value = "builtin")]
    calibrate: String,
    /// An imatrix file of llama.cpp instead of a calibration (see `brooklet convert`)
    #[arg(long, value_name = "FILE", conflicts_with_all = NOT_WITH_IMATRIX)]
    imatrix: Option<PathBuf>,
    /// Leave channels as they are that are far larger than others (see `brooklet convert`)
    #[arg(long)]
    no_equalize: bool,
    /// Store matrices whose inputs are mostly zeros by columns (see `brooklet convert`)
    #[arg(long)]
    columns: bool,
    /// Threads [default: one per processor]
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
    if recipe.is_none() && args.budget.budget().is_none() {
        args::check_group(args.dtype, args.group)?;
    }
    let mut formats = ConvertOptions::new(args.dtype);
    formats.group = args.group;
    formats.overrides = args.overrides.clone();
    formats.recipe = recipe;
    formats.force = args.out.force;
    formats.equalize = !args.no_equalize;
    formats.columns = args.columns;
    let imatrix = args.imatrix.as_deref().map(Imatrix::open).transpose()?;
    let calibration = match &imatrix {
        Some(_) => None,
        None => calibration(&args.calibrate)?,
    };
    let threads = args.threads.map_or(0, usize::from);
    formats.threads = threads;
    let inputs: Vec<PathBuf> =
        args.budget.inputs().chain([args.source.clone()]).chain(args.imatrix.clone()).collect();
    // Before the long work.
    Target::new(&args.output, brk::KIND, &inputs).force(formats.force).check()?;
    args.budget.check(&args.output, formats.force, &inputs)?;
    let start = Instant::now();
    let planned = args.budget.plan(
        (&args.source, &args.source),
        (&formats, calibration.as_ref()),
        (&inputs, threads, quiet),
    )?;
    let (plan, formats) = planned.map_or((None, formats), |(plan, own)| (Some(plan), own));
    let recipe = match &imatrix {
        Some(imatrix) => weighted_by(&formats, imatrix),
        None => made_by(&formats, &args.calibrate),
    };
    let options = Options { formats, calibration, imatrix, threads, inputs, recipe };
    let summary = with_progress(quiet, |progress| {
        requantize(&args.source, &args.output, &options, progress)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    if !quiet {
        note_doubts(&args.output, &args.overrides, None);
        note_outcomes(&summary);
    }
    if args.json {
        return output::json(&json!({
            "output": args.output.display().to_string(),
            "tensors": summary.n_tensors,
            "weights": summary.n_weights,
            "source_bytes": summary.source_bytes,
            "target_bytes": summary.target_bytes,
            "bits_per_weight": summary.bits_per_weight,
            "equalized": equalized_json(summary.equalized),
            "calibration": to_json(&summary),
            "weighted_matrices": summary.weighted,
            "plan": plan.as_ref().map(budget::to_json),
            "seconds": seconds,
        }));
    }
    if quiet {
        return Ok(());
    }
    let plan = plan.as_ref().map(budget::describe).unwrap_or_default();
    output::text(&(plan + &describe(&args.output, &summary, seconds)))
}

/// The line in which a file tells how it was made.
pub(crate) fn made_by(formats: &ConvertOptions, calibrate: &str) -> String {
    brooklet_quantize::made_by(formats, &word(calibrate))
}

/// The same where an imatrix said what matters: its name without folders.
pub(crate) fn weighted_by(formats: &ConvertOptions, imatrix: &Imatrix) -> String {
    let end = if formats.equalize { "" } else { " --no-equalize" };
    let name = imatrix.path().file_name().unwrap_or_default().display().to_string();
    format!("requantize {} --imatrix={name}{end}", formats.formats())
}

/// Options that ask for a calibration or need one.
pub(crate) const NOT_WITH_IMATRIX: [&str; 4] = ["calibrate", "budget", "max_kl", "max_bytes"];

/// On the built-in text, where that can be.
pub(crate) const AUTO: &str = "auto";

/// The calibration that a word, or the name of a text, asks for.
pub(crate) fn calibration(asked: &str) -> Result<Option<Calibration>> {
    Ok(match asked {
        "off" => None,
        "builtin" | AUTO => Some(Calibration { method: Method::Gptq, text: Text::BuiltIn }),
        "scales" => Some(Calibration { method: Method::Scales, text: Text::BuiltIn }),
        path => {
            let text = Text::Own(input::read(Path::new(path))?);
            Some(Calibration { method: Method::Gptq, text })
        }
    })
}

/// What a file says of a calibration: the name of a text without its folders.
fn word(asked: &str) -> String {
    let asked = if asked == AUTO { "builtin" } else { asked };
    Path::new(asked).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Quantizes under a progress bar, until Ctrl-C.
pub(crate) fn with_progress<T>(
    quiet: bool,
    work: impl FnOnce(&mut OnProgress<'_>) -> Result<T, QuantizeError>,
) -> Result<T, QuantizeError> {
    let watch = Watch::new();
    let bar = progress::bar(0, progress::Unit::Parts, quiet);
    let done = work(&mut |step| {
        progress::show(&bar, step.done, step.total);
        bar.set_message(step.doing);
        if watch.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    done
}

/// Says which matrices were not calibrated, and why.
pub(crate) fn note_outcomes(summary: &Summary) {
    if summary.resumed > 0 {
        let resumed = summary.resumed;
        output::note(&format!("brooklet: note: {resumed} matrices were finished before"));
    }
    let named = |i: usize| {
        let some = summary.outcomes.iter().filter(move |outcome| outcome.counts[i] > 0);
        some.map(move |outcome| match outcome.n {
            1 => outcome.name.clone(),
            n => format!("{} ({} of {n})", outcome.name, outcome.counts[i]),
        })
    };
    let reasons = ["calibrated they are worse on the texts held out", "no text reached them"];
    for (i, reason) in (1..).zip(reasons) {
        let names: Vec<String> = named(i).collect();
        if !names.is_empty() {
            let names = names.join(", ");
            output::note(&format!("brooklet: note: rounded by search, as {reason}: {names}"));
        }
    }
}

/// Squared errors of outputs on the texts held out, calibrated to searched, over all matrices: the
/// geometric mean.
fn ratio(outcomes: &[Outcome]) -> Option<f64> {
    let both = outcomes.iter().map(|outcome| outcome.errors);
    let logs: Vec<f64> = both
        .filter(|e| e[0] > 0.0 && e[1] > 0.0)
        .map(|[search, now]| (now / search).ln())
        .collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

/// The calibration as JSON.
pub(crate) fn to_json(summary: &Summary) -> Value {
    let outcomes = summary.outcomes.iter().map(|outcome| {
        json!({
            "name": outcome.name,
            "matrices": outcome.n,
            "calibrated": outcome.counts[0],
            "error_by_search": outcome.errors[0],
            "error": outcome.errors[1],
        })
    });
    json!({
        "tokens": summary.tokens,
        "resumed": summary.resumed,
        "matrices": outcomes.collect::<Vec<_>>(),
    })
}

fn describe(target: &Path, summary: &Summary, seconds: f64) -> String {
    let text = format!(
        "{}: {} tensors, {} weights, {} -> {}, {:.2} bits per weight, {seconds:.1} s\n",
        target.display(),
        summary.n_tensors,
        units::count(summary.n_weights),
        units::bytes(summary.source_bytes),
        units::bytes(summary.target_bytes),
        summary.bits_per_weight,
    );
    text + &equalized(summary.equalized) + &gain(summary)
}

/// A line that says what the calibration is worth; none without.
pub(crate) fn gain(summary: &Summary) -> String {
    let gain = |ratio: f64| {
        let (tokens, percent) = (summary.tokens, 100.0 * ratio);
        format!(
            "calibrated on {tokens} tokens: squared errors of outputs {percent:.0} % of those by \
             search\n"
        )
    };
    ratio(&summary.outcomes).map(gain).unwrap_or_default()
}

/// A line that says what was equalized; none where nothing was.
pub(crate) fn equalized(found: Option<Equalized>) -> String {
    match found {
        Some(Equalized { pairs, largest }) if pairs > 0 => {
            format!("equalized {pairs} pairs, largest factor ×{largest}\n")
        }
        _ => String::new(),
    }
}

/// The same as JSON; null with `--no-equalize`.
pub(crate) fn equalized_json(found: Option<Equalized>) -> Option<Value> {
    found.map(|Equalized { pairs, largest }| json!({"pairs": pairs, "largest_factor": largest}))
}
