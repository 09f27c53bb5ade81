//! [`Pair`]: tensors of a layer whose channels may be multiplied together, so that the function
//! stays; and which element of a tensor belongs to which channel ([`Axis`]).
//!
//! The lines of architectures stand in `families/pairs.rs`. Test: `tests/equalize.rs`.

use serde_json::{Map, Value};

use crate::quant::TILE_ROWS;

/// Channels between two kinds of tensors: rows of the `first` times f, columns of the `second`
/// divided by f, or f².
///
/// Everything that reads the channels must stand in `second`, and between the two may stand only
/// operations that let factors through: products channel by channel, token shift, sums over tokens.
#[derive(Clone, Copy, Debug)]
pub(in crate::convert) struct Pair {
    /// The tensor whose rows (of a vector, its values) tell how large the channels are, then those
    /// that are multiplied with it: biases.
    pub(in crate::convert) first: &'static [&'static str],
    /// Those that are there; at least one.
    pub(in crate::convert) second: &'static [&'static str],
    pub(super) how: How,
    pub(super) guard: Guard,
}

/// How channels of the second follow from those of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// One by one, or all of the first for every head of the second.
    Plain,
    /// One by one; squared on the way.
    Squared,
    /// As many heads of the second read each of the first's, heads of `d_attn_head` channels.
    Heads,
    /// Each expert's rows are its own columns.
    Experts,
    /// As [`How::Experts`]; squared on the way.
    SquaredExperts,
    /// The first rows are the columns.
    Leading,
}

/// The condition for a pair: a tensor of the layer, or a hyper-parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    None,
    With(&'static str),
    Without(&'static str),
}

impl Pair {
    /// Channels one by one.
    pub(in crate::convert) const fn new(
        first: &'static [&'static str],
        second: &'static [&'static str],
    ) -> Self {
        Pair { first, second, how: How::Plain, guard: Guard::None }
    }

    pub(in crate::convert) const fn squared(mut self) -> Self {
        self.how = match self.how {
            How::Experts => How::SquaredExperts,
            _ => How::Squared,
        };
        self
    }

    pub(in crate::convert) const fn heads(mut self) -> Self {
        self.how = How::Heads;
        self
    }

    pub(in crate::convert) const fn experts(mut self) -> Self {
        self.how = How::Experts;
        self
    }

    pub(in crate::convert) const fn leading(mut self) -> Self {
        self.how = How::Leading;
        self
    }

    pub(in crate::convert) const fn with(mut self, name: &'static str) -> Self {
        self.guard = Guard::With(name);
        self
    }

    pub(in crate::convert) const fn without(mut self, name: &'static str) -> Self {
        self.guard = Guard::Without(name);
        self
    }

    /// Everything that is named.
    #[cfg(test)]
    pub(in crate::convert) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.first.iter().chain(self.second).copied()
    }

    /// The power of factors in the second.
    pub(super) fn power(&self) -> i32 {
        match self.how {
            How::Squared | How::SquaredExperts => 2,
            _ => 1,
        }
    }

    /// The number of channels, and the axes of first and second, where their shapes (rows,
    /// columns) go together.
    pub(super) fn channels(
        &self,
        first: (usize, usize),
        second: (usize, usize),
        config: &Map<String, Value>,
    ) -> Option<(usize, Axis, Axis)> {
        let ((rows, of_row), (second_rows, n)) = (first, second);
        let one_by_one = Some((n, Axis::Plain { n }, Axis::Plain { n }));
        match self.how {
            How::Leading if rows >= n => one_by_one,
            How::Plain | How::Squared if rows == n => one_by_one,
            // Vectors may have zeros behind their values.
            How::Plain if of_row == 1 && rows == n.next_multiple_of(TILE_ROWS) => one_by_one,
            How::Plain if of_row == 1 && rows > 0 && n.is_multiple_of(rows) => {
                Some((rows, Axis::Plain { n: rows }, Axis::Tiled { n: rows }))
            }
            How::Heads => {
                let d = config.get("d_attn_head").and_then(Value::as_u64)? as usize;
                let fits = d > 0 && rows > 0 && rows.is_multiple_of(d) && n.is_multiple_of(rows);
                let second = Axis::Heads { d, times: n.checked_div(rows)? };
                fits.then_some((rows, Axis::Plain { n: rows }, second))
            }
            How::Experts | How::SquaredExperts => {
                let padded = n.next_multiple_of(TILE_ROWS);
                let experts = rows.checked_div(padded).filter(|n| *n > 0)?;
                let fits = rows.is_multiple_of(padded) && second_rows.is_multiple_of(experts);
                let own = Axis::Experts { n, rows: second_rows / experts, padded };
                (fits && second_rows > 0).then_some((rows, Axis::Plain { n: rows }, own))
            }
            _ => None,
        }
    }
}

/// The channels of a tensor's rows, or of its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// Element i is channel i; those from `n` on are none.
    Plain { n: usize },
    /// All channels over and over.
    Tiled { n: usize },
    /// `times` heads of `d` elements after each other have the same channels.
    Heads { d: usize, times: usize },
    /// Of each expert's `rows` rows, the `n` columns are channels of its own, `padded` further on
    /// than those of the one before.
    Experts { n: usize, rows: usize, padded: usize },
}

impl Axis {
    /// The channel of element `i`; of columns, in row `row`.
    pub(super) fn channel(self, row: usize, i: usize) -> Option<usize> {
        match self {
            Axis::Plain { n } => (i < n).then_some(i),
            Axis::Tiled { n } => Some(i % n),
            Axis::Heads { d, times } => Some(i / d / times * d + i % d),
            Axis::Experts { n, rows, padded } => (i < n).then_some(row / rows * padded + i),
        }
    }

    /// Rows from `row` on whose columns have the channels of that row's.
    pub(super) fn rows_alike(self, row: usize) -> usize {
        match self {
            Axis::Experts { rows, .. } => rows - row % rows,
            _ => usize::MAX - row,
        }
    }
}
