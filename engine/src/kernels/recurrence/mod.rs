//! Recurrences: what takes a span of tokens into a state and reads it, one head or a few channels
//! at a time. The loop over tokens is here; callers give it views of columns
//! ([`super::columns`]).
//!
//! The family `S ← S·diag(w) + b (aᵀS) + k vᵀ`, `y = Sᵀ r` (linear attention with decay and a delta
//! term: RWKV-5 to 7, Mamba-2, GLA, DeltaNet, …) is one function, [`linear_attention`], of one
//! description, [`Span`]. The state is stored key-major, `S[key][value]`, so that every operation
//! runs over value lanes with a broadcast per key, sums over keys run in ascending order, and no
//! sum crosses lanes. RWKV-4's weighted average is [`weighted_average`], Mamba-1's diagonal scan
//! [`selective_scan`], that of single channels [`leaky`]. [`lstm`] and [`gru`] are the gates of one
//! token. [`running`] makes shares of keys, [`slots`] finds the slots of a query.
//!
//! Matrices are kept in the caller's format ([`super::state`]) and rounded to it after every
//! token; what a token reads is the update before it was rounded. The instruction set is entered
//! once for each span. Tests: beside each.

mod average;
mod cells;
mod delta;
mod leaky;
mod levels;
mod mesa;
mod registers;
mod running;
mod scan;
mod slots;
mod span;

pub(crate) use self::average::{Average, Averaged, weighted_average};
pub(crate) use self::cells::{gru, lstm};
pub(crate) use self::leaky::{Leaky, leaky};
pub(crate) use self::levels::{Levels, log_linear_attention};
pub(crate) use self::mesa::{MAX_MESA, Mesa, mesa};
pub(crate) use self::running::{NOTHING, Running, running};
pub(crate) use self::scan::{Scan, selective_scan};
pub(crate) use self::slots::{Slots, shares, slots};
pub(crate) use self::span::{Decay, Delta, Read, Span, linear_attention};

/// Numbers and checks that the tests share.
#[cfg(test)]
pub(crate) mod support {
    use std::fmt::Debug;

    use half::f16;

    use crate::kernels::state::{StateElement, StateSlice};

    /// Numbers between -1 and 1.
    pub(crate) fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    /// A format of states, and how kernels are given it.
    pub(super) trait Format: StateElement + PartialEq + Debug {
        fn elements(state: &mut [Self]) -> StateSlice<'_>;
        fn state(n: usize, seed: u32) -> Vec<Self> {
            numbers(n, seed).into_iter().map(Self::of).collect()
        }
    }

    impl Format for f32 {
        fn elements(state: &mut [Self]) -> StateSlice<'_> {
            StateSlice::F32(state)
        }
    }

    impl Format for f16 {
        fn elements(state: &mut [Self]) -> StateSlice<'_> {
            StateSlice::F16(state)
        }
    }
}
