//! `brooklet check`: claims about number formats, computed.
//!
//! `check lmul` compares L-Mul (arXiv 2410.00907) with multiplying FP8 numbers. The paper has a
//! formula and an adder, which differ where mantissas carry; what it says of precision holds for
//! one of them, and only for inputs that were cut off. Test: below, and `tests/cli/check.rs`.

use brooklet_formats::quant::lmul::{lmul_adder, lmul_formula};
use clap::Subcommand;
use serde::Serialize;

use crate::failure::Result;
use crate::output;

/// Computes what is claimed of number formats.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    claim: Claim,
}

#[derive(Subcommand, Debug)]
enum Claim {
    Lmul(LmulArgs),
}

/// Compares L-Mul's adder and formula with multiplying FP8 numbers.
///
/// Prints mean relative errors against the exact product of two numbers whose significands are
/// spread evenly over 1 to 2. FP8 rounds both factors and the product to nearest. L-Mul with m bits
/// of mantissa takes factors that are cut off or rounded to nearest at m bits, or as they are.
/// Then how many additions of single bits a product takes in each.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet check lmul
  brooklet check lmul --json")]
struct LmulArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Significands of each factor.
const SIGNIFICANDS: u32 = 1024;

/// The widths of mantissas that are compared.
const WIDTHS: std::ops::RangeInclusive<u32> = 2..=6;

/// Bits of E4M3's exponent, which L-Mul's factors are taken to have.
const EXPONENT_OF_E4M3: u32 = 4;

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result {
    let Claim::Lmul(args) = &args.claim;
    let report = Report::new();
    if args.json { output::json(&report) } else { output::text(&report.text()) }
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    fp8: Vec<Fp8>,
    lmul: Vec<Lmul>,
}

/// Products of FP8 numbers.
#[derive(Serialize)]
struct Fp8 {
    format: &'static str,
    error: f64,
    bit_additions: u32,
}

/// L-Mul with `m` bits of mantissa: mean relative errors.
#[derive(Serialize)]
struct Lmul {
    m: u32,
    adder_cut_off: f64,
    adder_rounded: f64,
    adder_exact: f64,
    formula_cut_off: f64,
    formula_rounded: f64,
    formula_exact: f64,
    /// One addition of whole patterns, and one of the offset without the bias.
    bit_additions: u32,
}

impl Report {
    fn new() -> Report {
        let fp8 =
            [("fp8-e4m3", EXPONENT_OF_E4M3, 3), ("fp8-e5m2", 5, 2)].map(|(format, exponent, m)| {
                Fp8 {
                    format,
                    error: mean_error(|x, y| rounded(m, rounded(m, x) * rounded(m, y))),
                    bit_additions: of_multiplier(exponent, m),
                }
            });
        let lmul = WIDTHS.map(|m| Lmul {
            m,
            // The adder works on patterns of m bits, and so cuts its factors off.
            adder_cut_off: mean_error(|x, y| lmul_adder(m, x, y)),
            adder_rounded: mean_error(|x, y| lmul_adder(m, rounded(m, x), rounded(m, y))),
            adder_exact: mean_error(|x, y| carried(lmul_formula(m, x, y))),
            formula_cut_off: mean_error(|x, y| lmul_formula(m, cut_off(m, x), cut_off(m, y))),
            formula_rounded: mean_error(|x, y| lmul_formula(m, rounded(m, x), rounded(m, y))),
            formula_exact: mean_error(|x, y| lmul_formula(m, x, y)),
            bit_additions: 2 * (EXPONENT_OF_E4M3 + m),
        });
        Report { fp8: fp8.into(), lmul: lmul.collect() }
    }

    /// The tables for people.
    fn text(&self) -> String {
        let mut text = String::from(
            "mean relative error of a product, and additions of single bits that it takes\n\
             fp8, all rounded     error   bits\n",
        );
        for Fp8 { format, error, bit_additions } in &self.fp8 {
            text += &format!("{format:<17} {error:>8.4} {bit_additions:>6}\n");
        }
        text += "L-Mul     adder, factors                formula, factors\n\
                 m       cut off  rounded    exact   cut off  rounded    exact   bits\n";
        for row in &self.lmul {
            text += &format!(
                "{:<5} {:>9.4} {:>8.4} {:>8.4} {:>9.4} {:>8.4} {:>8.4} {:>6}\n",
                row.m,
                row.adder_cut_off,
                row.adder_rounded,
                row.adder_exact,
                row.formula_cut_off,
                row.formula_rounded,
                row.formula_exact,
                row.bit_additions
            );
        }
        text
    }
}

/// The mean of `|product(x, y) / (x · y) − 1|` over significands in the middle of equal parts of
/// 1 to 2.
fn mean_error(product: impl Fn(f64, f64) -> f64) -> f64 {
    let significand = |i: u32| 1.0 + (f64::from(i) + 0.5) / f64::from(SIGNIFICANDS);
    let mut sum = 0.0;
    for x in (0..SIGNIFICANDS).map(significand) {
        for y in (0..SIGNIFICANDS).map(significand) {
            sum += (product(x, y) / (x * y) - 1.0).abs();
        }
    }
    sum / f64::from(SIGNIFICANDS).powi(2)
}

/// `v` from 1 up to 4, to the nearest number with `m` bits behind the leading one.
fn rounded(m: u32, v: f64) -> f64 {
    let unit = f64::from(1 << m) / if v < 2.0 { 1.0 } else { 2.0 };
    (v * unit).round_ties_even() / unit
}

/// The same, to the next towards zero.
fn cut_off(m: u32, v: f64) -> f64 {
    let unit = f64::from(1 << m) / if v < 2.0 { 1.0 } else { 2.0 };
    (v * unit).floor() / unit
}

/// What the adder makes of the formula's 1 + s: where mantissas carry, the next power of two.
fn carried(formula: f64) -> f64 {
    let s = formula - 1.0;
    (1.0 + s - s.floor()) * s.floor().exp2()
}

/// Additions of single bits that a product of floats takes: m rows of the significands' product,
/// the exponents, their bias, and the rounding.
fn of_multiplier(exponent: u32, m: u32) -> u32 {
    (m + 1) * m + 2 * exponent + (m + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_and_cut_off_at_m_bits() {
        assert_eq!((rounded(2, 1.126), cut_off(2, 1.249)), (1.25, 1.0));
        assert_eq!((rounded(2, 2.3), cut_off(2, 2.6), rounded(3, 1.99)), (2.5, 2.5, 2.0));
        assert_eq!((carried(1.75), carried(2.375), carried(3.125)), (1.75, 2.75, 4.5));
    }

    /// What the README says.
    #[test]
    fn the_adder_beats_fp8_with_factors_that_are_cut_off_and_the_formula_does_not() {
        let Report { fp8, lmul } = Report::new();
        let [e4m3, e5m2] = [fp8[0].error, fp8[1].error];
        let of = |m: u32| lmul.iter().find(|row| row.m == m).expect("that width");
        let near = |a: f64, b: f64| (a - b).abs() < 5e-4;
        assert!(near(e4m3, 0.0353) && near(e5m2, 0.0704), "{e4m3} {e5m2}");
        assert!(near(of(4).adder_cut_off, 0.0296) && near(of(3).adder_cut_off, 0.0483));
        assert!(of(4).formula_rounded > e4m3 && of(3).formula_rounded > e5m2);
        assert!(of(4).adder_rounded > e4m3);
    }
}
