//! Sums of states: `brooklet state average`, `diff` and `merge`.
//!
//! A state that was tuned, or that has read instructions, is a point in the model's memory; points
//! can be averaged, and what one has learnt can be added to another (task arithmetic, Ilharco et
//! al. 2023, arXiv 2212.04089). Only slots of constant size are numbers of which that is true: keys
//! and values of attention belong to one text. Not here: the file (`brooklet_formats::state_file`).
//! Test: `tests/cli/sums.rs`.

use std::borrow::Cow;
use std::path::PathBuf;

use brooklet::DType;
use brooklet_formats::atomic::{AtomicFile, Target};
use brooklet_formats::brk::Bytes;
use brooklet_formats::state_file::{self, Contents, SlotValues, StateFile};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::output;

/// Slots of a state with attention: they grow with a text.
const OF_TEXTS: [&str; 2] = ["keys", "values"];

/// States of one model.
pub(crate) struct States {
    paths: Vec<PathBuf>,
    bytes: Vec<Bytes>,
}

/// How far apart two slots are.
#[derive(Serialize)]
struct Difference<'a> {
    layer: usize,
    name: &'a str,
    /// The largest |a - b|.
    max: f64,
    /// √ mean (a - b)², and that of a.
    rms: f64,
    rms_of_first: f64,
}

impl States {
    /// Opens states, and checks that all are of one model.
    pub(crate) fn open<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<States> {
        let paths: Vec<PathBuf> = paths.into_iter().cloned().collect();
        let bytes = paths.iter().map(|path| state_file::open(path));
        let states = States { bytes: bytes.collect::<Result<_, _>>()?, paths };
        let files = states.files()?;
        let Some(first) = files.first() else { return Ok(states) };
        for file in &files {
            let is_same = file.architecture() == first.architecture()
                && file.fingerprint() == first.fingerprint();
            if !is_same {
                return Err(Failure::with(
                    format!(
                        "{} and {} are states of different models",
                        first.path().display(),
                        file.path().display()
                    ),
                    "take states of one model file",
                ));
            }
            let of_text =
                |slot: &state_file::SlotInfo| OF_TEXTS.iter().any(|name| slot.name.ends_with(name));
            let is_alike = file.slots().len() == first.slots().len()
                && file
                    .slots()
                    .iter()
                    .zip(first.slots())
                    .all(|(a, b)| (a.layer, &a.name, &a.shape) == (b.layer, &b.name, &b.shape));
            if !is_alike || file.slots().iter().any(of_text) {
                return Err(Failure::with(
                    format!("{}: it holds keys and values of a text", file.path().display()),
                    "only states of constant size can be added",
                ));
            }
        }
        Ok(states)
    }

    fn files(&self) -> Result<Vec<StateFile<'_>>> {
        let all = self.paths.iter().zip(&self.bytes);
        Ok(all.map(|(path, bytes)| StateFile::parse(path, bytes)).collect::<Result<_, _>>()?)
    }

    /// Writes Σ weight · state, in f64 and rounded once. It begins texts: it has no tokens, no
    /// logits, no sampler; as many tokens count as read as the first state's.
    pub(crate) fn sum(&self, weights: &[f64], target: &Target, dtype: DType) -> Result {
        let files = self.files()?;
        let Some(first) = files.first() else { return Ok(()) };
        let slots = first.slots().iter().enumerate().map(|(i, slot)| {
            let n = slot.shape.iter().product();
            let (mut sum, mut values) = (vec![0.0_f64; n], vec![0.0; n]);
            for (file, weight) in files.iter().zip(weights) {
                file.read_slot(i, &mut values);
                sum.iter_mut().zip(&values).for_each(|(sum, x)| *sum += weight * f64::from(*x));
            }
            let values: Vec<f32> = sum.into_iter().map(|x| x as f32).collect();
            if values.iter().any(|x| !x.is_finite()) {
                return Err(Failure::new(format!(
                    "layer {}, {}: the sum is not finite",
                    slot.layer, slot.name
                )));
            }
            let (name, shape) = (&slot.name[..], slot.shape.clone());
            Ok(SlotValues { layer: slot.layer, name, shape, values: Cow::Owned(values) })
        });
        let contents = Contents {
            architecture: first.architecture(),
            fingerprint: first.fingerprint(),
            position: first.position(),
            slots: slots.collect::<Result<_>>()?,
            ..Contents::default()
        };
        let mut file = AtomicFile::create(target)?;
        file.write(&state_file::encode(&contents, dtype)?)?;
        Ok(file.publish(&[])?)
    }

    /// Prints how far the first two are apart.
    pub(crate) fn compare(&self, json: bool) -> Result {
        let files = self.files()?;
        let [a, b] = &files[..] else { return Ok(()) };
        let differences = a.slots().iter().enumerate().map(|(i, slot)| {
            let n = slot.shape.iter().product();
            let (mut ours, mut theirs) = (vec![0.0; n], vec![0.0; n]);
            a.read_slot(i, &mut ours);
            b.read_slot(i, &mut theirs);
            let root = |sum: f64| (sum / n as f64).sqrt();
            let apart = ours.iter().zip(&theirs).map(|(a, b)| f64::from(*a) - f64::from(*b));
            let square = |x: f64| x * x;
            Difference {
                layer: slot.layer,
                name: &slot.name,
                max: apart.clone().map(f64::abs).fold(0.0, f64::max),
                rms: root(apart.map(square).sum()),
                rms_of_first: root(ours.iter().map(|x| square(f64::from(*x))).sum()),
            }
        });
        let differences: Vec<Difference<'_>> = differences.collect();
        if json {
            return output::json(&differences);
        }
        let mut table =
            "layer  slot                      max          rms  rms of the first\n".to_owned();
        for of in &differences {
            table += &format!(
                "{:>5}  {:<18} {:>10.3e} {:>12.3e} {:>17.3e}\n",
                of.layer, of.name, of.max, of.rms, of.rms_of_first
            );
        }
        output::text(&table)
    }
}

/// The weights of an average of `n` states: those given, divided by their sum; or all alike.
pub(crate) fn average(given: &[f64], n: usize) -> Result<Vec<f64>> {
    if given.is_empty() {
        return Ok(vec![1.0 / n as f64; n]);
    }
    let sum: f64 = given.iter().sum();
    if given.len() != n || !sum.is_normal() {
        return Err(Failure::usage(
            format!("{} weights, with the sum {sum}, for {n} states", given.len()),
            "give one for each state, and not all 0",
        ));
    }
    Ok(given.iter().map(|weight| weight / sum).collect())
}

/// The weights of base + Σ scale · (state - base): of the base, then of the states.
pub(crate) fn merge(scales: &[f64], n: usize) -> Result<Vec<f64>> {
    let scales = match scales {
        [] => vec![1.0; n],
        [one] => vec![*one; n],
        each if each.len() == n => each.to_vec(),
        each => {
            return Err(Failure::usage(
                format!("{} scales for {n} states", each.len()),
                "give one, or one for each state",
            ));
        }
    };
    Ok([&[1.0 - scales.iter().sum::<f64>()], &scales[..]].concat())
}
