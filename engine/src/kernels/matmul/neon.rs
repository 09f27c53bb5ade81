//! Products with NEON: four registers hold the same few columns of the 16 rows of a tile.
//!
//! Not here: the dot products of 8 bits (`neon_dot.rs`). `bfdot` is not used: it rounds otherwise
//! than the definition. Tests: `tests.rs`.

use super::Kernels;
use super::codes::Codes;
use super::columns::{ColumnProduct, InColumns};
use super::float::{Float, float};
use super::integer::{Dot, integer};
use super::live::few;
use super::product::Product;
use super::put::{Fetch, Put};
use super::walk::Rows;
use crate::kernels::simd::neon::{Base, Dotprod, I8mm, Neon};
use crate::kernels::simd::{Simd, simd};
use crate::kernels::units::Int8Group;

impl<D: Copy> Rows for Neon<D> {
    const AT_ONCE: [usize; 2] = [4, 2];
}

/// The integer format `K`, four columns at a time.
fn four_columns<K: Codes>(s: impl Dot, product: &Product<'_, Int8Group>) {
    simd!(s, integer::<_, K, 4>(s, product));
}

impl Kernels for Neon<Base> {
    fn integer_product<K: Codes>(self, product: &Product<'_, Int8Group>) {
        four_columns::<K>(self, product);
    }

    fn float_product<E: Float<N>, const N: usize>(self, product: &Product<'_, E::X>) {
        // One chain leaves registers for twice as many columns.
        if N == 1 {
            simd!(self, float::<_, E, N, 8>(self, product));
        } else {
            simd!(self, float::<_, E, N, 4>(self, product));
        }
    }

    fn few_columns<K: InColumns>(self, product: &ColumnProduct<'_>) {
        simd!(self, few::<_, K>(self, product));
    }

    fn put_together<K: InColumns>(self, put: Put<'_>) {
        simd!(self, put.run::<_, K>(self));
    }

    fn fetch(self, next: &Fetch<'_>, i: usize, n: usize) {
        next.run(self, i, n);
    }
}

impl Kernels for Neon<Dotprod> {
    fn integer_product<K: Codes>(self, product: &Product<'_, Int8Group>) {
        four_columns::<K>(self, product);
    }

    fn float_product<E: Float<N>, const N: usize>(self, product: &Product<'_, E::X>) {
        Neon::new().float_product::<E, N>(product);
    }

    fn few_columns<K: InColumns>(self, product: &ColumnProduct<'_>) {
        simd!(self, few::<_, K>(self, product));
    }

    fn put_together<K: InColumns>(self, put: Put<'_>) {
        simd!(self, put.run::<_, K>(self));
    }

    fn fetch(self, next: &Fetch<'_>, i: usize, n: usize) {
        next.run(self, i, n);
    }
}

impl Kernels for Neon<I8mm> {
    fn integer_product<K: Codes>(self, product: &Product<'_, Int8Group>) {
        // Operands below 128 are signed bytes as they stand, for which `sdot` serves.
        if K::SIGNED {
            four_columns::<K>(self.dotprod(), product);
        } else {
            four_columns::<K>(self, product);
        }
    }

    fn float_product<E: Float<N>, const N: usize>(self, product: &Product<'_, E::X>) {
        Neon::new().float_product::<E, N>(product);
    }

    fn few_columns<K: InColumns>(self, product: &ColumnProduct<'_>) {
        simd!(self, few::<_, K>(self, product));
    }

    fn put_together<K: InColumns>(self, put: Put<'_>) {
        simd!(self, put.run::<_, K>(self));
    }

    fn fetch(self, next: &Fetch<'_>, i: usize, n: usize) {
        next.run(self, i, n);
    }
}
