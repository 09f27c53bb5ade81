//! The forms in which kernels read activations, and columns of them as kernels see them: plain
//! views of a buffer that is not theirs.
//!
//! A projection's input is prepared once, in the forms that the matrices reading it need, group by
//! group ([`GROUP`]). Not here: what a form's units are (`units.rs`), where they are stored
//! (`buffers/activations.rs`). Test: below.

use half::bf16;

use super::units::{Fp8Quad, Int8Group, LmulQuad, Unit};

/// Values per int8 scale; all forms are prepared in groups of that many. Twice 32 costs int4 models
/// one percent of their divergence from f32, and spares prompts half of the multiplications by
/// scales.
pub(crate) const GROUP: usize = 64;

/// A form of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// [`Int8Group`]s (int4 and int8 weights).
    Int8,
    /// f32 (f32 and f16 weights).
    F32,
    /// [`bf16`] (bf16 weights).
    Bf16,
    /// [`Fp8Quad`]s (FP8 weights).
    Fp8,
    /// [`LmulQuad`]s (L-Mul weights).
    Lmul,
}

impl Form {
    /// All forms.
    pub(crate) const ALL: [Form; 5] = [Form::Int8, Form::F32, Form::Bf16, Form::Fp8, Form::Lmul];
}

/// A set of forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forms(u8);

impl Forms {
    /// Whether `form` is one of them.
    pub(crate) fn has(self, form: Form) -> bool {
        self.0 & Forms::from(form).0 != 0
    }

    /// Those of them, in the order of [`Form::ALL`].
    pub(crate) fn iter(self) -> impl Iterator<Item = Form> {
        Form::ALL.into_iter().filter(move |form| self.has(*form))
    }
}

impl From<Form> for Forms {
    fn from(form: Form) -> Forms {
        Forms(1 << form as u8)
    }
}

impl std::ops::BitOr for Forms {
    type Output = Forms;
    fn bitor(self, other: Forms) -> Forms {
        Forms(self.0 | other.0)
    }
}

/// Packed of activations in one form. Unit i of column c stands at `c · stride + i`; at
/// `i · stride + c` if columns are adjacent ([`Unit::ADJACENT`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a, T> {
    units: &'a [T],
    columns: usize,
    stride: usize,
}

impl<'a, T: Unit> Packed<'a, T> {
    /// The first `columns` columns of `units`.
    ///
    /// # Panics
    /// They overlap or do not fit: a bug in the buffer.
    pub(crate) fn new(units: &'a [T], columns: usize, stride: usize) -> Self {
        if T::ADJACENT {
            assert!(columns <= stride);
        } else {
            assert!(columns * stride <= units.len());
        }
        Packed { units, columns, stride }
    }

    /// The columns from `first` on.
    pub(crate) fn from(self, first: usize) -> Self {
        let at = if T::ADJACENT { first } else { first * self.stride };
        Packed { units: &self.units[at..], columns: self.columns - first, ..self }
    }

    /// The activations of all columns from unit `first` on, of adjacent columns.
    pub(crate) fn units_from(self, first: usize) -> Self {
        const { assert!(T::ADJACENT) };
        Packed { units: &self.units[first * self.stride..], ..self }
    }

    /// Number of columns.
    pub(crate) fn len(&self) -> usize {
        self.columns
    }

    /// Activations of a column, what pads it included.
    pub(crate) fn values(&self) -> usize {
        let units = if T::ADJACENT {
            self.units.len().checked_div(self.stride).unwrap_or(0)
        } else {
            self.stride
        };
        units * T::VALUES
    }

    /// Unit `i` of column `c`.
    #[inline]
    pub(crate) fn unit(&self, c: usize, i: usize) -> &'a T {
        &self.units[if T::ADJACENT { i * self.stride + c } else { c * self.stride + i }]
    }

    /// All units.
    pub(crate) fn units(&self) -> &'a [T] {
        self.units
    }

    /// The first unit of the first column, from where others are found by [`Packed::stride`].
    pub(crate) fn as_ptr(&self) -> *const T {
        self.units.as_ptr()
    }

    /// Units from a column to the next; if columns are adjacent, from a column's unit to its next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
}

/// Packed of activations in any form.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Activations<'a> {
    Int8(Packed<'a, Int8Group>),
    F32(Packed<'a, f32>),
    Bf16(Packed<'a, bf16>),
    Fp8(Packed<'a, Fp8Quad>),
    Lmul(Packed<'a, LmulQuad>),
}

impl Activations<'_> {
    /// The form.
    pub(crate) fn form(&self) -> Form {
        match self {
            Activations::Int8(_) => Form::Int8,
            Activations::F32(_) => Form::F32,
            Activations::Bf16(_) => Form::Bf16,
            Activations::Fp8(_) => Form::Fp8,
            Activations::Lmul(_) => Form::Lmul,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        assert_eq!(Forms::default().iter().count(), 0);
        for (i, a) in Form::ALL.into_iter().enumerate() {
            assert!(Forms::from(a).iter().eq([a]));
            for b in &Form::ALL[i + 1..] {
                let both = Forms::from(*b) | a.into();
                assert!(
                    both.iter().eq([a, *b])
                        && Form::ALL.iter().all(|c| both.has(*c) == (*c == a || c == b))
                );
            }
        }
    }

    #[test]
    fn units_stand_where_kernels_look() {
        let floats: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let columns = Packed::new(&floats, 2, 5);
        assert_eq!((columns.len(), columns.values(), *columns.unit(1, 3)), (2, 5, 8.0));
        let groups: Vec<Int8Group> =
            (0..6).map(|i| Int8Group { scale: i as f32, ..Int8Group::ZERO }).collect();
        let columns = Packed::new(&groups, 2, 2);
        assert_eq!((columns.values(), columns.unit(1, 2).scale), (3 * GROUP, 5.0));
    }
}
