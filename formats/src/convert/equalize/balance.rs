//! The factors of the pairs of one layer ([`balance`]): a channel's weights in the second tensors
//! shall be to the channel's size as the median channel's are.
//!
//! The size is guessed from the first: a norm's weight, or the length of a row. Tensors belong to
//! several pairs, so it is done several times over. Only sums of squares are kept: weights are read
//! again each time. Sums run in one order: the same factors on any machine. Test: below, and
//! `tests/equalize.rs`.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};

use super::pair::{Axis, Guard, Pair};
use super::tensor::Tensor;
use crate::quant::TILE_ROWS;
use crate::{DType, FormatError};

/// How often all pairs are balanced, since a tensor's rows and columns belong to two of them.
const SWEEPS: usize = 3;
/// Values read at a time.
const VALUES: usize = 1 << 20;
/// The bounds of a channel's sum of squares, before and after: beyond them it is left alone. No
/// weight within them is larger than int8 can hold, 127 · 65504.
const SUMS: Range<f64> = 1e-24..1.7e13;
/// The binary logarithm of the largest factor.
const LARGEST: f64 = 10.0;

/// A pair in a layer.
pub(super) struct Tie<'t, 'a> {
    pub(super) first: Vec<&'t Tensor<'a>>,
    pub(super) second: Vec<&'t Tensor<'a>>,
    /// The axes of the first and of the second tensors.
    pub(super) axes: [Axis; 2],
    /// The second tensors are divided by this power of the factors.
    pub(super) power: i32,
    /// Binary logarithms of the factors of the channels.
    logs: Vec<f64>,
    /// Channels that keep the factor 1.
    is_fixed: Vec<bool>,
    /// Sums of squares of the channels as they are: of the first tensor, and of the second ones.
    sums: [Vec<f64>; 2],
}

impl<'t, 'a> Tie<'t, 'a> {
    /// The pair among a layer's tensors, if it is there and gains anything.
    fn new(
        pair: &Pair,
        tensors: &BTreeMap<&str, &'t Tensor<'a>>,
        config: &Map<String, Value>,
    ) -> Option<Self> {
        let has = |name| tensors.contains_key(name) || config.contains_key(name);
        match pair.guard {
            Guard::With(name) if !has(name) => return None,
            Guard::Without(name) if has(name) => return None,
            _ => {}
        }
        let found = |names: &[&str]| -> Vec<&'t Tensor<'a>> {
            names.iter().filter_map(|name| tensors.get(name).copied()).collect()
        };
        let (first, second) = (found(pair.first), found(pair.second));
        let size = tensors.get(pair.first[0])?;
        let channels = |each: &Tensor<'_>| pair.channels(size.dims(), each.dims(), config);
        let (n, rows, cols) = channels(second.first()?)?;
        let fits = second.iter().all(|each| channels(each) == Some((n, rows, cols)));
        let (len, padded) = (size.dims().0, size.dims().0.next_multiple_of(TILE_ROWS));
        let are_biases =
            first[1..].iter().all(|each| [(len, 1), (padded, 1)].contains(&each.dims()));
        // f16 has too few exponents: a factor would round small weights.
        let may_change = |each: &&Tensor<'_>| !each.is_rounded && each.target != Some(DType::F16);
        let may_change = first.iter().chain(&second).all(may_change);
        let pays = second.iter().any(|each| each.target.is_some_and(DType::has_scales));
        if !(fits && are_biases && may_change && pays) {
            return None;
        }
        Some(Tie {
            axes: [rows, cols],
            power: pair.power(),
            logs: vec![0.0; n],
            is_fixed: vec![false; n],
            sums: [vec![0.0; n], vec![0.0; n]],
            first,
            second,
        })
    }

    /// Moves the factors to where the pair is balanced, all else as it is.
    fn step(&mut self) {
        let power = f64::from(self.power);
        let [first, second] = &self.sums;
        for (is_fixed, (a, b)) in self.is_fixed.iter_mut().zip(first.iter().zip(second)) {
            // NaN too.
            *is_fixed |= !(SUMS.contains(a) && SUMS.contains(b));
        }
        // How much larger the weights are than the channel, as logarithms.
        let excess = |i: usize| (second[i].log2() - power * first[i].log2()) / 2.0;
        let mut all: Vec<f64> =
            (0..self.logs.len()).filter(|i| !self.is_fixed[*i]).map(excess).collect();
        all.sort_unstable_by(f64::total_cmp);
        let Some(median) = all.get(all.len() / 2) else { return };
        for (i, log) in self.logs.iter_mut().enumerate() {
            let new = (*log + (excess(i) - median) / (2.0 * power)).clamp(-LARGEST, LARGEST);
            let after = |sum: f64, power: f64| sum * (2.0 * power * (new - *log)).exp2();
            let (first, second) = (after(first[i], 1.0), after(second[i], -power));
            self.is_fixed[i] |= !(SUMS.contains(&first) && SUMS.contains(&second));
            *log = if self.is_fixed[i] { 0.0 } else { new };
        }
    }

    /// Binary exponents of the factors; `None` if all are 1.
    pub(super) fn exponents(&self) -> Option<Vec<i8>> {
        let exponents: Vec<i8> = self.logs.iter().map(|log| log.round() as i8).collect();
        exponents.iter().any(|e| *e != 0).then_some(exponents)
    }
}

/// The pairs that a layer has, balanced. `tensors` by their names in it; `each` is called between
/// blocks of rows, and its failure ends it.
pub(super) fn balance<'t, 'a>(
    pairs: &[&[Pair]],
    tensors: &BTreeMap<&str, &'t Tensor<'a>>,
    config: &Map<String, Value>,
    each: &mut dyn FnMut(&str) -> Result<(), FormatError>,
) -> Result<Vec<Tie<'t, 'a>>, FormatError> {
    let mut ties: Vec<Tie<'_, '_>> = Vec::new();
    // Of each tensor, the pairs that its rows and its columns belong to.
    let mut uses: BTreeMap<&str, (&Tensor<'_>, [Option<usize>; 2])> = BTreeMap::new();
    for pair in pairs.iter().copied().flatten() {
        let Some(tie) = Tie::new(pair, tensors, config) else { continue };
        let members = [&tie.first, &tie.second].into_iter().enumerate();
        let members: Vec<_> =
            members.flat_map(|(axis, all)| all.iter().map(move |each| (axis, *each))).collect();
        let is_taken = |(axis, each): &(usize, &Tensor<'_>)| {
            uses.get(each.name).is_some_and(|(_, of)| of[*axis].is_some())
        };
        if members.iter().any(is_taken) {
            continue;
        }
        for (axis, each) in members {
            uses.entry(each.name).or_insert((each, [None; 2])).1[axis] = Some(ties.len());
        }
        ties.push(tie);
    }
    for _ in 0..SWEEPS {
        for tie in &mut ties {
            tie.sums.iter_mut().for_each(|sums| sums.fill(0.0));
        }
        for (tensor, of) in uses.values() {
            add_squares(tensor, *of, &mut ties, &mut || each(tensor.name))?;
        }
        ties.iter_mut().for_each(Tie::step);
    }
    Ok(ties)
}

/// Adds a tensor's squares, with the factors so far, to the sums of the pairs of its rows and of
/// its columns.
fn add_squares(
    tensor: &Tensor<'_>,
    [of_rows, of_cols]: [Option<usize>; 2],
    ties: &mut [Tie<'_, '_>],
    each: &mut dyn FnMut() -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let (rows, cols) = tensor.dims();
    let at_once = (VALUES / cols.max(1)).max(1);
    let (mut values, mut first) = (Vec::new(), 0);
    while first < rows {
        each()?;
        let alike = of_cols.map_or(usize::MAX, |tie| ties[tie].axes[1].rows_alike(first));
        let range = first..rows.min(first.saturating_add(at_once.min(alike)));
        values.clear();
        tensor.read(range.clone(), &mut values)?;
        let square = |tie: &Tie<'_, '_>, channel: Option<usize>, power: i32| {
            channel.map_or(1.0, |i| (2.0 * f64::from(power) * tie.logs[i]).exp2()) as f32
        };
        let of_row: Vec<f32> = match of_rows.map(|tie| &ties[tie]) {
            None => vec![1.0; range.len()],
            Some(tie) => {
                range.clone().map(|row| square(tie, tie.axes[0].channel(0, row), 1)).collect()
            }
        };
        let of_col: Vec<f32> = match of_cols.map(|tie| &ties[tie]) {
            None => vec![1.0; cols],
            Some(tie) => {
                let channel = |col| tie.axes[1].channel(first, col);
                (0..cols).map(|col| square(tie, channel(col), -tie.power)).collect()
            }
        };
        if let Some(tie) = of_rows.map(|tie| &mut ties[tie]) {
            // The first tensor alone tells the size; a bias must be no larger than that allows.
            let tells = tie.first[0].name == tensor.name;
            for (i, row) in values.chunks_exact(cols).enumerate() {
                let sum = f64::from(weighted_squares(row, &of_col) * of_row[i]);
                match tie.axes[0].channel(0, range.start + i) {
                    Some(channel) if tells => tie.sums[0][channel] += sum,
                    // NaN too.
                    Some(channel) => tie.is_fixed[channel] |= !(0.0..SUMS.end).contains(&sum),
                    None => {}
                }
            }
        }
        if let Some(tie) = of_cols.map(|tie| &mut ties[tie]) {
            let mut sums = vec![0.0_f32; cols];
            for (row, factor) in values.chunks_exact(cols).zip(&of_row) {
                for (sum, v) in sums.iter_mut().zip(row) {
                    *sum += v * v * factor;
                }
            }
            for (col, sum) in sums.iter().enumerate() {
                if let Some(channel) = tie.axes[1].channel(first, col) {
                    tie.sums[1][channel] += f64::from(sum * of_col[col]);
                }
            }
        }
        first = range.end;
    }
    Ok(())
}

/// Σ w² f.
fn weighted_squares(row: &[f32], factors: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0_f32; LANES];
    let (row, rest) = row.as_chunks::<LANES>();
    let (factors, rest_factors) = factors.as_chunks::<LANES>();
    for (row, factors) in row.iter().zip(factors) {
        for i in 0..LANES {
            lanes[i] += row[i] * row[i] * factors[i];
        }
    }
    let rest: f32 = rest.iter().zip(rest_factors).map(|(v, factor)| v * v * factor).sum();
    lanes.iter().sum::<f32>() + rest
}
