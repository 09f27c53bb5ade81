//! For benchmarks alone: the limits of the machine and of a card, and single products of matrices.
//! Not part of the library's interface; the cargo feature `bench` adds it.

mod product;

#[cfg(feature = "cuda")]
pub use crate::cuda::CardProbe;
pub use crate::kernels::limits;
pub use product::Product;
