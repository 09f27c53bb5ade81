//! `--budget`, `--max-bytes`, `--max-kl`: number formats chosen for each matrix; `--save-recipe`
//! and `--recipe`: the choice as a file.
//!
//! Arguments, and how a plan is shown; the choice is `brooklet_quantize::plan`. Test:
//! `tests/cli/budget.rs`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use brooklet_formats::DType;
use brooklet_formats::atomic::{AtomicFile, Kind, Target};
use brooklet_formats::convert::{ConvertOptions, Recipe};
use brooklet_quantize::{Budget, Calibration, Plan, PlanOptions, QuantizeError, plan};
use serde_json::json;

use crate::failure::Result;
use crate::interrupt::Watch;
use crate::{input, progress, units};

/// A recipe that we wrote.
const RECIPE: Kind = Kind { name: "recipe", magic: b"# Number formats of matrices" };

/// Formats by a budget.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Formats by a budget")]
pub(crate) struct BudgetArgs {
    /// Choose the format of each matrix (int4, int5, int6, int8, f16; head and embedding too) so
    /// that the file has so many bits per weight, as the summary counts them, and loses least:
    /// `4.5bpw`. The model runs over the calibration text for it
    #[arg(long, value_name = "BITS", value_parser = parse_bits,
          conflicts_with_all = ["max_bytes", "max_kl", "recipe", "dtype"])]
    budget: Option<f64>,
    /// The same, so that the file has no more bytes: `400M`, `1.5G`
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes,
          conflicts_with_all = ["max_kl", "recipe", "dtype"])]
    max_bytes: Option<u64>,
    /// The same, so that the file is as small as can be and its distributions are no further from
    /// the exact ones, in nats per token: `0.004`
    #[arg(long, value_name = "NATS", value_parser = parse_nats,
          conflicts_with_all = ["recipe", "dtype"])]
    max_kl: Option<f64>,
    /// Write the formats that were chosen to a file
    #[arg(long, value_name = "FILE", conflicts_with = "recipe")]
    save_recipe: Option<PathBuf>,
    /// Formats of matrices out of a file with lines `PATTERN=TYPE`, such as --save-recipe writes;
    /// each must match a matrix, and --override wins over them
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
}

impl BudgetArgs {
    /// The budget asked for.
    pub(crate) fn budget(&self) -> Option<Budget> {
        let bits = self.budget.map(Budget::Bits);
        let bytes = self.max_bytes.map(Budget::Bytes);
        bits.or(bytes).or(self.max_kl.map(Budget::Divergence))
    }

    /// The recipe named, and whether there is anything to be chosen or read.
    pub(crate) fn read_recipe(&self) -> Result<Option<Recipe>> {
        let Some(path) = &self.recipe else { return Ok(None) };
        Ok(Some(Recipe::parse(path, &input::read(path)?)?))
    }

    /// The recipe that is read, and must not be overwritten.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = PathBuf> {
        self.recipe.iter().cloned()
    }

    /// Checks where a recipe shall be saved, beside the model at `output`, and that there will be
    /// one.
    pub(crate) fn check(&self, output: &Path, force: bool, inputs: &[PathBuf]) -> Result {
        let Some(path) = &self.save_recipe else { return Ok(()) };
        if path == output {
            return Err(crate::failure::Failure::usage(
                "--save-recipe names the file of the model",
                "give it another name",
            ));
        }
        if self.budget().is_none() {
            return Err(crate::failure::Failure::usage(
                "--save-recipe without a budget",
                "give --budget, --max-bytes or --max-kl too",
            ));
        }
        Ok(Target::new(path, RECIPE, inputs).force(force).check()?)
    }

    /// Makes a plan for the exact file at `source`, which errors call `named`, under a progress
    /// bar, saves it if that was asked for, and gives the options with it.
    pub(crate) fn plan(
        &self,
        (source, named): (&Path, &Path),
        (formats, calibration): (&ConvertOptions, Option<&Calibration>),
        (inputs, threads, quiet): (&[PathBuf], usize, bool),
    ) -> Result<Option<(Plan, ConvertOptions)>> {
        let Some(budget) = self.budget() else { return Ok(None) };
        let (formats, calibration) = (formats.clone(), calibration.cloned());
        let options = PlanOptions { budget, formats, calibration, threads };
        let watch = Watch::new();
        let bar = progress::bar(0, progress::Unit::Parts, quiet);
        let made = plan(source, &options, &mut |step| {
            progress::show(&bar, step.done, step.total);
            bar.set_message(step.doing);
            if watch.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        bar.finish_and_clear();
        let made = made.map_err(|error| match error {
            QuantizeError::Budget { asked, least, .. } => {
                QuantizeError::Budget { file: named.to_owned(), asked, least }
            }
            error => error,
        })?;
        if let Some(path) = &self.save_recipe {
            let target = Target::new(path, RECIPE, inputs).force(options.formats.force);
            let mut file = AtomicFile::create(&target)?;
            file.write(made.recipe().as_bytes())?;
            file.publish(&[])?;
        }
        let formats = made.apply(&options.formats)?;
        Ok(Some((made, formats)))
    }
}

/// The plan as JSON.
pub(crate) fn to_json(plan: &Plan) -> serde_json::Value {
    let matrices = plan.chosen.iter().map(|chosen| {
        json!({
            "part": chosen.part,
            "names": chosen.names,
            "type": chosen.dtype.name(),
            "weights": chosen.weights,
            "bytes": chosen.bytes,
            "kl": chosen.divergence,
        })
    });
    json!({
        "kl": plan.divergence,
        "bits_per_weight": plan.bits_per_weight,
        "bytes": plan.bytes,
        "tokens": plan.tokens,
        "matrices": matrices.collect::<Vec<_>>(),
        "recipe": plan.recipe(),
    })
}

/// The plan for people: a line for each part of layers, with how many matrices got which format.
pub(crate) fn describe(plan: &Plan) -> String {
    let mut seen = HashSet::new();
    let parts = plan.chosen.iter().filter(|chosen| seen.insert(&*chosen.part));
    let parts: Vec<&str> = parts.map(|chosen| &*chosen.part).collect();
    let mut formats: Vec<DType> = plan.chosen.iter().map(|chosen| chosen.dtype).collect();
    formats.sort_by_key(|dtype| (dtype.element_bits(), dtype.id()));
    formats.dedup();
    let sum: f64 = plan.chosen.iter().map(|chosen| chosen.divergence).sum();
    let width = parts.iter().map(|part| part.chars().count()).max().unwrap_or(0).max(6);
    let mut text = format!("{:<width$}", "matrix");
    for dtype in &formats {
        let _ = write!(text, " {:>7}", dtype.name());
    }
    text += "   bits   KL\n";
    for part in parts {
        let own: Vec<_> = plan.chosen.iter().filter(|chosen| chosen.part == part).collect();
        let _ = write!(text, "{part:<width$}");
        for dtype in &formats {
            let same = own.iter().filter(|chosen| chosen.dtype == *dtype);
            match same.map(|chosen| chosen.names.len()).sum::<usize>() {
                0 => text += "       .",
                n => {
                    let _ = write!(text, " {n:>7}");
                }
            }
        }
        let weights: u64 = own.iter().map(|chosen| chosen.weights).sum();
        let bytes: u64 = own.iter().map(|chosen| chosen.bytes).sum();
        let nats: f64 = own.iter().map(|chosen| chosen.divergence).sum();
        let _ = writeln!(
            text,
            "  {:5.2}  {:3.0} %",
            bytes as f64 * 8.0 / weights.max(1) as f64,
            100.0 * nats / sum.max(f64::MIN_POSITIVE)
        );
    }
    let _ = writeln!(
        text,
        "planned: {:.2} bits per weight, {}, expected KL {:.2e} nats per token \
         (on {} tokens of the calibration text)",
        plan.bits_per_weight,
        units::bytes(plan.bytes),
        plan.divergence,
        plan.tokens[1],
    );
    text
}

/// `4.5bpw`.
fn parse_bits(text: &str) -> Result<f64, String> {
    let bits = text.strip_suffix("bpw").unwrap_or(text).trim().parse::<f64>();
    let bits = bits.ok().filter(|bits| *bits > 0.0 && *bits <= 64.0);
    bits.ok_or_else(|| "expected bits per weight, such as 4.5bpw".to_owned())
}

/// `400M`, `1.5G`, `1500000000`: units are decimal.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix(['B', 'b']).unwrap_or(text);
    let unit = number.chars().next_back().map(|unit| unit.to_ascii_uppercase());
    let (number, factor) = match unit {
        Some('K') => (&number[..number.len() - 1], 1e3),
        Some('M') => (&number[..number.len() - 1], 1e6),
        Some('G') => (&number[..number.len() - 1], 1e9),
        Some('T') => (&number[..number.len() - 1], 1e12),
        _ => (number, 1.0),
    };
    let bytes = number.trim().parse::<f64>().ok().map(|n| n * factor);
    match bytes.filter(|bytes| *bytes >= 1.0 && *bytes <= 1e18) {
        Some(bytes) => Ok(bytes as u64),
        None => Err("expected bytes, such as 400M or 1.5G".to_owned()),
    }
}

/// `0.004`.
fn parse_nats(text: &str) -> Result<f64, String> {
    let nats = text.parse::<f64>().ok().filter(|nats| *nats > 0.0 && nats.is_finite());
    nats.ok_or_else(|| "expected nats per token, such as 0.004".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read() {
        assert_eq!(parse_bits("4.5bpw"), Ok(4.5));
        assert_eq!(parse_bits("5"), Ok(5.0));
        assert_eq!(parse_bytes("400M"), Ok(400_000_000));
        assert_eq!(parse_bytes("1.5GB"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("12345"), Ok(12_345));
        assert_eq!(parse_bytes("3k"), Ok(3_000));
        assert_eq!(parse_nats("0.004"), Ok(0.004));
        for text in ["", "x", "-1", "0", "nan", "inf", "bpw", "M", "1e30", "\u{e9}"] {
            assert!(parse_bits(text).is_err(), "{text}");
            assert!(parse_bytes(text).is_err(), "{text}");
            assert!(text == "1e30" || parse_nats(text).is_err(), "{text}");
        }
    }
}
