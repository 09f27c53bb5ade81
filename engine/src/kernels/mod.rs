//! Kernels: the arithmetic of the engine, and the only place that chooses an instruction set.
//!
//! Two kinds live here. *Products* of matrices ([`matmul`]) are written over the registers of an
//! instruction set ([`simd`]), behind one table; `matmul/scalar.rs` defines what they compute.
//! *Element-wise kernels and recurrences* are written once, as plain Rust over lanes, and compiled
//! for each instruction set by [`simd!`](simd::simd): IEEE add, multiply, divide and square root in
//! one fixed order, so that every instruction set gives the same bits. Fused multiply-adds stand
//! only where they are written as such, in the recurrences of matrices: the processors that this
//! engine is made for have them.
//!
//! Kernels see slices and plain views of buffers ([`forms`]), and know nothing of threads, buffers
//! or models. Tests: `matmul/tests.rs` and beside each kernel.

// Code written over registers has no user on a processor without a table of them.
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_imports)
)]

pub(crate) mod attention;
pub(crate) mod choice;
pub(crate) mod chosen;
pub(crate) mod columns;
pub(crate) mod conv;
pub(crate) mod forms;
pub(crate) mod head_convs;
pub(crate) mod isa;
pub(crate) mod kept;
pub(crate) mod lanes;
#[cfg(feature = "bench")]
pub mod limits;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod ngrams;
pub(crate) mod norm;
pub(crate) mod recurrence;
pub(crate) mod relative;
pub(crate) mod rope;
pub(crate) mod rows;
pub(crate) mod simd;
pub(crate) mod state;
pub(crate) mod units;
pub(crate) mod vector;

pub use isa::{Isa, IsaError};
