//! Formulas: what an element of a buffer becomes, from the elements of others.
//!
//! A formula is a short program for a stack of four numbers: terms are pushed, functions take what
//! stands on top. Written with operators it reads as the equation does. Every function is that of
//! `kernels/math.rs`, in plain IEEE operations, so that whoever runs a formula gets the same bits.
//! Not here: who runs it (`host.rs`, a card). Test: below.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::Values;
use crate::kernels::math;
use crate::state::SlotRef;
use crate::tensor::Vector;

/// Numbers on the stack of a formula, its terms, and its steps, at most: a card keeps them in
/// registers.
pub(crate) const DEPTH: usize = 4;
pub(crate) const TERMS: usize = 8;
pub(crate) const STEPS: usize = 16;

/// Where a term's value for element i comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Term<'m> {
    /// Element `first + i / each` of the column.
    Values {
        /// The buffer.
        from: Values,
        /// Where element 0 finds its value.
        first: usize,
        /// Elements that share a value.
        each: usize,
    },
    /// Element `i / each` of weights.
    Weights {
        /// The weights.
        from: &'m [f32],
        /// Elements that share a value.
        each: usize,
    },
    /// Element i of the column before; for the first of a run that which its state keeps.
    Before {
        /// The buffer.
        from: Values,
        /// Where the state keeps it.
        state: SlotRef,
    },
    /// This number.
    Number(f32),
}

/// A function of the number on top of the stack, or of the two there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Function {
    Add,
    Sub,
    Mul,
    Div,
    /// The larger of two; the second where they do not compare.
    Max,
    /// The smaller of two; the second where they do not compare.
    Min,
    Neg,
    Sqrt,
    Exp,
    Tanh,
    Sigmoid,
    Silu,
    Softplus,
    ReluSquared,
    Gelu,
    GeluTanh,
    LnSoftplus,
}

impl Function {
    /// How many numbers it takes.
    pub(crate) fn operands(self) -> usize {
        match self {
            Function::Add
            | Function::Sub
            | Function::Mul
            | Function::Div
            | Function::Max
            | Function::Min => 2,
            _ => 1,
        }
    }

    /// Its value; `b` is no matter where it takes one number.
    pub(crate) fn of(self, a: f32, b: f32) -> f32 {
        match self {
            Function::Add => a + b,
            Function::Sub => a - b,
            Function::Mul => a * b,
            Function::Div => a / b,
            Function::Max => {
                if a > b {
                    a
                } else {
                    b
                }
            }
            Function::Min => {
                if a < b {
                    a
                } else {
                    b
                }
            }
            Function::Neg => -a,
            Function::Sqrt => a.sqrt(),
            Function::Exp => math::exp(a),
            Function::Tanh => math::tanh(a),
            Function::Sigmoid => math::sigmoid(a),
            Function::Silu => math::silu(a),
            Function::Softplus => math::softplus(a),
            Function::ReluSquared => math::relu_squared(a),
            Function::Gelu => math::gelu(a),
            Function::GeluTanh => math::gelu_tanh(a),
            Function::LnSoftplus => math::ln_softplus(a),
        }
    }
}

/// A step of a formula.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'m> {
    Push(Term<'m>),
    Apply(Function),
}

/// The steps that leave the value of an element on the stack.
#[derive(Clone, Debug)]
pub(crate) struct Formula<'m>(Vec<Step<'m>>);

impl<'m> Formula<'m> {
    /// Its steps.
    pub(crate) fn steps(&self) -> &[Step<'m>] {
        &self.0
    }

    /// The terms it reads.
    pub(crate) fn terms(&self) -> impl Iterator<Item = Term<'m>> {
        self.0.iter().filter_map(|step| match step {
            Step::Push(term) => Some(*term),
            Step::Apply(_) => None,
        })
    }

    /// The most numbers that stand on its stack; `None` where a function lacks its operands or more
    /// than one number is left.
    pub(crate) fn depth(&self) -> Option<usize> {
        let (mut on_it, mut most) = (0usize, 0);
        for step in &self.0 {
            match step {
                Step::Push(_) => on_it += 1,
                Step::Apply(f) => on_it = on_it.checked_sub(f.operands()).map(|left| left + 1)?,
            }
            most = most.max(on_it);
        }
        (on_it == 1).then_some(most)
    }

    /// The value, `term` giving those of the terms.
    pub(crate) fn value(&self, term: impl Fn(&Term<'m>) -> f32) -> f32 {
        let mut stack = [0.0; DEPTH];
        let mut top = 0;
        for step in &self.0 {
            match step {
                Step::Push(from) => {
                    stack[top] = term(from);
                    top += 1;
                }
                Step::Apply(f) => {
                    let first = top - f.operands();
                    stack[first] = f.of(stack[first], stack[top - 1]);
                    top = first + 1;
                }
            }
        }
        stack[0]
    }

    pub(crate) fn with(mut self, other: impl Into<Formula<'m>>, f: Function) -> Self {
        self.0.extend(other.into().0);
        self.apply(f)
    }

    /// f of it.
    pub(crate) fn apply(mut self, f: Function) -> Self {
        self.0.push(Step::Apply(f));
        self
    }

    /// It, or `least` where that is larger.
    pub(crate) fn at_least(self, least: f32) -> Self {
        Formula::from(least).with(self, Function::Max)
    }

    /// It, or `most` where that is smaller.
    pub(crate) fn at_most(self, most: f32) -> Self {
        Formula::from(most).with(self, Function::Min)
    }

    /// It where it is larger than `other`, else `other`: also in the place of NaN.
    pub(crate) fn or_at_least(self, other: f32) -> Self {
        self.with(other, Function::Max)
    }
}

/// Element i of a buffer.
pub(crate) fn of<'m>(values: Values) -> Formula<'m> {
    rows(values, 0)
}

/// Element `first + i` of a buffer.
pub(crate) fn rows<'m>(from: Values, first: usize) -> Formula<'m> {
    Term::Values { from, first, each: 1 }.into()
}

/// Element i / each of a buffer: one value for each head.
pub(crate) fn of_head<'m>(from: Values, each: usize) -> Formula<'m> {
    Term::Values { from, first: 0, each }.into()
}

/// Element `first` of a buffer, for all of `n`.
pub(crate) fn one_of<'m>((from, first): (Values, usize), n: usize) -> Formula<'m> {
    Term::Values { from, first, each: n.next_power_of_two() }.into()
}

/// Element i / each of weights.
pub(crate) fn weight_of_head(from: &[f32], each: usize) -> Formula<'_> {
    Term::Weights { from, each }.into()
}

/// Element i of a buffer's column before this one.
pub(crate) fn before<'m>(from: Values, state: SlotRef) -> Formula<'m> {
    Term::Before { from, state }.into()
}

impl<'m> From<Term<'m>> for Formula<'m> {
    fn from(term: Term<'m>) -> Self {
        Formula(vec![Step::Push(term)])
    }
}

impl From<f32> for Formula<'_> {
    fn from(number: f32) -> Self {
        Term::Number(number).into()
    }
}

impl From<Values> for Formula<'_> {
    fn from(values: Values) -> Self {
        of(values)
    }
}

impl<'m> From<&'m Vector> for Formula<'m> {
    fn from(weights: &'m Vector) -> Self {
        weight_of_head(weights, 1)
    }
}

impl<'m> From<&'m [f32]> for Formula<'m> {
    fn from(weights: &'m [f32]) -> Self {
        weight_of_head(weights, 1)
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident) => {
        impl<'m, T: Into<Formula<'m>>> $trait<T> for Formula<'m> {
            type Output = Formula<'m>;
            fn $method(self, other: T) -> Formula<'m> {
                self.with(other, Function::$trait)
            }
        }
    };
}
operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);

impl Neg for Formula<'_> {
    type Output = Self;
    fn neg(self) -> Self {
        self.apply(Function::Neg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_what_operators_say() {
        let [x, y] = [1.5f32, -2.0];
        let f = (Formula::from(x) + y) * 3.0 - Formula::from(y).apply(Function::Exp) / x;
        let term = |term: &Term<'_>| match term {
            Term::Number(number) => *number,
            _ => unreachable!("numbers alone"),
        };
        assert_eq!(f.value(term), (x + y) * 3.0 - math::exp(y) / x);
        assert_eq!(f.depth(), Some(3));
        assert_eq!((-Formula::from(x)).at_least(-1.0).at_most(7.0).value(term), -1.0);
        assert_eq!(Formula::from(f32::NAN).or_at_least(1.0).value(term), 1.0);
        assert!(Formula::from(f32::NAN).at_least(1.0).value(term).is_nan());
    }

    #[test]
    fn a_function_without_operands_is_seen() {
        assert_eq!(Formula(vec![Step::Apply(Function::Neg)]).depth(), None);
        assert_eq!(Formula::from(1.0).apply(Function::Add).depth(), None);
        let two = Formula(vec![Step::Push(Term::Number(1.0)), Step::Push(Term::Number(2.0))]);
        assert_eq!(two.depth(), None);
    }
}
