//! Sixteen f32 lanes as plain arrays: the unit in which element-wise kernels and recurrences are
//! written.
//!
//! The compiler turns each operation into one AVX-512, two AVX2 or four NEON/SSE instructions,
//! according to the instruction set of the [`super::Isa::run`] around it. Sums over lanes use one
//! fixed tree.

use bytemuck::{Pod, Zeroable};

/// Lanes in a [`Lanes`].
pub(crate) const WIDTH: usize = 16;

/// Sixteen f32 values: a cache line, where buffers are made of them.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; WIDTH]);

impl Lanes {
    pub(crate) const ZERO: Lanes = Lanes([0.0; WIDTH]);

    #[inline(always)]
    pub(crate) fn splat(v: f32) -> Lanes {
        Lanes([v; WIDTH])
    }

    /// The first sixteen values of `x`.
    #[inline(always)]
    pub(crate) fn load(x: &[f32]) -> Lanes {
        let mut v = [0.0; WIDTH];
        v.copy_from_slice(&x[..WIDTH]);
        Lanes(v)
    }

    #[inline(always)]
    pub(crate) fn store(self, x: &mut [f32]) {
        x[..WIDTH].copy_from_slice(&self.0);
    }

    #[inline(always)]
    pub(crate) fn map(self, f: impl Fn(f32) -> f32) -> Lanes {
        let mut v = self.0;
        for x in &mut v {
            *x = f(*x);
        }
        Lanes(v)
    }

    #[inline(always)]
    pub(crate) fn zip(self, other: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
        let mut v = self.0;
        for i in 0..WIDTH {
            v[i] = f(v[i], other.0[i]);
        }
        Lanes(v)
    }

    /// Sum of the lanes: halves are added onto halves, 16 → 8 → 4 → 2 → 1.
    #[inline(always)]
    pub(crate) fn sum(self) -> f32 {
        let mut v = self.0;
        let mut half = WIDTH / 2;
        while half > 0 {
            for i in 0..half {
                v[i] += v[i + half];
            }
            half /= 2;
        }
        v[0]
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $op:tt) => {
        impl std::ops::$trait for Lanes {
            type Output = Lanes;
            #[inline(always)]
            fn $method(self, other: Lanes) -> Lanes {
                self.zip(other, |a, b| a $op b)
            }
        }
    };
}
operator!(Add, add, +);
operator!(Sub, sub, -);
operator!(Mul, mul, *);

/// Σ f(x) in the fixed order of this crate: lane l takes elements l, l+16, l+32, …; then the tree
/// of [`Lanes::sum`].
#[inline(always)]
pub(crate) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32 + Copy) -> f32 {
    let mut acc = Lanes::ZERO;
    let mut chunks = x.chunks_exact(WIDTH);
    for chunk in &mut chunks {
        acc = acc + Lanes::load(chunk).map(f);
    }
    for (a, v) in acc.0.iter_mut().zip(chunks.remainder()) {
        *a += f(*v);
    }
    acc.sum()
}

/// Σ x·y, in the order of [`sum_of`].
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut acc = Lanes::ZERO;
    let (mut xs, mut ys) = (x.chunks_exact(WIDTH), y.chunks_exact(WIDTH));
    for (a, b) in (&mut xs).zip(&mut ys) {
        acc = acc + Lanes::load(a) * Lanes::load(b);
    }
    for (acc, (a, b)) in acc.0.iter_mut().zip(xs.remainder().iter().zip(ys.remainder())) {
        *acc += a * b;
    }
    acc.sum()
}

/// y = f(y, a), element by element.
#[inline(always)]
pub(crate) fn update(y: &mut [f32], a: &[f32], f: impl Fn(f32, f32) -> f32) {
    for (y, a) in y.iter_mut().zip(a) {
        *y = f(*y, *a);
    }
}

/// y = f(y, a, b), element by element.
#[inline(always)]
pub(crate) fn update2(y: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32, f32) -> f32) {
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = f(*y, *a, *b);
    }
}
