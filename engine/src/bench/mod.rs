//! For benchmarks alone: the machine's own limits, and single products of matrices. Not part of the
//! library's interface; the cargo feature `bench` adds it.

mod product;

pub use crate::kernels::limits;
pub use product::Product;
