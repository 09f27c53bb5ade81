//! The factors of the pairs of one layer ([`balance`]): a channel's weights in the second tensors
//! shall be to the channel's size as the median channel's are.
//!
//! The size is guessed from the first: a norm's weight, or the length of a row. Tensors belong to
//! several pairs, so it is done several times over. Only sums of squares are kept: weights are read
//! again each time. Sums run in one order: the same factors on any machine. Test: below, and
//! `tests/equalize.rs`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

use super::pair::{Axis, Guard, Pair};
use super::tensor::Tensor;
use crate::quant::{TILE_ROWS, vectorized};
use crate::threads::Threads;
use crate::{DType, FormatError};

/// How often all pairs are balanced, since a tensor's rows and columns belong to two of them.
const SWEEPS: usize = 3;
/// Values read at a time, by each of so many threads at the most: 5 MB each.
const VALUES: usize = 1 << 20;
const READERS: usize = 8;
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
    threads: &Threads,
    each: &mut dyn FnMut(&str) -> Result<(), FormatError>,
) -> Result<Vec<Tie<'t, 'a>>, FormatError> {
    let mut ties: Vec<Tie<'_, '_>> = Vec::new();
    // Of each tensor, the pairs that its rows and its columns belong to.
    let mut uses: BTreeMap<&str, Use<'_, '_>> = BTreeMap::new();
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
        let uses: Vec<Use<'_, '_>> = uses.values().copied().collect();
        for block in squares(&uses, &ties, threads, each)? {
            block.add(&uses[block.of], &mut ties);
        }
        ties.iter_mut().for_each(Tie::step);
    }
    Ok(ties)
}

/// A tensor, and the pairs that its rows and its columns belong to.
type Use<'t, 'a> = (&'t Tensor<'a>, [Option<usize>; 2]);

/// Sums of squares of a block of a tensor's rows, with the factors so far.
struct Squares {
    /// The tensor's number.
    of: usize,
    range: Range<usize>,
    of_rows: Vec<f32>,
    of_cols: Vec<f32>,
}

/// Those of all blocks, in their order, by whichever thread is free.
fn squares(
    uses: &[Use<'_, '_>],
    ties: &[Tie<'_, '_>],
    threads: &Threads,
    each: &mut dyn FnMut(&str) -> Result<(), FormatError>,
) -> Result<Vec<Squares>, FormatError> {
    let mut blocks = Vec::new();
    for (of, (tensor, [_, of_cols])) in uses.iter().enumerate() {
        let (rows, cols) = tensor.dims();
        let (at_once, mut first) = ((VALUES / cols.max(1)).max(1), 0);
        while first < rows {
            let alike = of_cols.map_or(usize::MAX, |tie| ties[tie].axes[1].rows_alike(first));
            let range = first..rows.min(first.saturating_add(at_once.min(alike)));
            first = range.end;
            blocks.push((of, range));
        }
    }
    let (next, readers) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found: Mutex<Vec<_>> = Mutex::new(blocks.iter().map(|_| None).collect());
    let claim = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < blocks.len());
    let sum = |i: usize| {
        let (of, range) = blocks[i].clone();
        let squares = Squares::of(of, range, &uses[of], ties);
        if squares.is_err() {
            next.store(blocks.len(), Ordering::Relaxed);
        }
        found.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(squares);
    };
    let others = || {
        if readers.fetch_add(1, Ordering::Relaxed) < READERS {
            std::iter::from_fn(claim).for_each(sum);
        }
    };
    threads.beside(others, || {
        std::iter::from_fn(claim).try_for_each(|i| {
            let told = each(uses[blocks[i].0].0.name);
            match &told {
                Ok(()) => sum(i),
                Err(_) => next.store(blocks.len(), Ordering::Relaxed),
            }
            told
        })
    })?;
    found.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

impl Squares {
    fn of(
        of: usize,
        range: Range<usize>,
        (tensor, [of_rows, of_cols]): &Use<'_, '_>,
        ties: &[Tie<'_, '_>],
    ) -> Result<Self, FormatError> {
        let (_, cols) = tensor.dims();
        let mut values = Vec::new();
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
                let channel = |col| tie.axes[1].channel(range.start, col);
                (0..cols).map(|col| square(tie, channel(col), -tie.power)).collect()
            }
        };
        let mut squares = Self { of, range, of_rows: Vec::new(), of_cols: Vec::new() };
        if of_rows.is_some() {
            squares.of_rows.resize(of_row.len(), 0.0);
        }
        if of_cols.is_some() {
            squares.of_cols.resize(cols, 0.0);
        }
        // Given back by the closure, which is then compiled as it stands.
        let squares = vectorized(
            #[inline(always)]
            move || {
                let Self { of_rows, of_cols, .. } = &mut squares;
                let rows = values.chunks_exact(cols);
                for (sum, (row, factor)) in of_rows.iter_mut().zip(rows.clone().zip(&of_row)) {
                    *sum = weighted_squares(row, &of_col) * factor;
                }
                if of_cols.is_empty() {
                    return squares;
                }
                for (row, factor) in rows.zip(&of_row) {
                    for (sum, v) in of_cols.iter_mut().zip(row) {
                        *sum += v * v * factor;
                    }
                }
                for (sum, factor) in of_cols.iter_mut().zip(&of_col) {
                    *sum *= factor;
                }
                squares
            },
        );
        Ok(squares)
    }

    /// Adds them to the sums of the pairs of the tensor's rows and of its columns.
    fn add(&self, (tensor, [of_rows, of_cols]): &Use<'_, '_>, ties: &mut [Tie<'_, '_>]) {
        if let Some(tie) = of_rows.map(|tie| &mut ties[tie]) {
            // The first tensor alone tells the size; a bias must be no larger than that allows.
            let tells = tie.first[0].name == tensor.name;
            for (row, sum) in self.range.clone().zip(&self.of_rows) {
                let sum = f64::from(*sum);
                match tie.axes[0].channel(0, row) {
                    Some(channel) if tells => tie.sums[0][channel] += sum,
                    // NaN too.
                    Some(channel) => tie.is_fixed[channel] |= !(0.0..SUMS.end).contains(&sum),
                    None => {}
                }
            }
        }
        if let Some(tie) = of_cols.map(|tie| &mut ties[tie]) {
            for (col, sum) in self.of_cols.iter().enumerate() {
                if let Some(channel) = tie.axes[1].channel(self.range.start, col) {
                    tie.sums[1][channel] += f64::from(*sum);
                }
            }
        }
    }
}

/// Σ w² f.
#[inline(always)]
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
