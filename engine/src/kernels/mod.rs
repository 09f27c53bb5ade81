//! Kernels: the arithmetic of the engine, and the only place that chooses an instruction set.
//!
//! Two kinds live here. *Matrix kernels* ([`matmul`]) are written by hand, one file per instruction
//! set, behind one table; `matmul/scalar.rs` defines what they compute. *Element-wise kernels and
//! recurrences* are written once, as plain Rust over lanes, and compiled for each instruction set
//! by [`Isa::run`]: IEEE add, multiply, divide and square root in one fixed order, so that every
//! instruction set gives the same bits. Fused multiply-adds stand only where they are written as
//! such, in the recurrences of matrices: the processors that this engine is made for have them.
//! Tests: `matmul/tests.rs` and beside each kernel.

pub(crate) mod columns;
pub(crate) mod conv;
pub(crate) mod forms;
pub(crate) mod isa;
pub(crate) mod lanes;
pub mod limits;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod recurrence;
pub(crate) mod stored;
pub(crate) mod vector;

pub use isa::Isa;
