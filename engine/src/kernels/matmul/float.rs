//! The float formats: f32, bf16, FP8 and L-Mul over the operations of [`Simd`]; f16, whose
//! conversion is an instruction of its own, is beside each instruction set's other code.
//!
//! The formats of 8 and 16 bits work on registers of bf16 pairs: two columns of a row in a lane,
//! multiplied and added by one instruction where there is `vdpbf16ps`. An FP8 code becomes a bf16
//! by moving its bits: exponent and mantissa keep their places next to each other, only the
//! exponent's bias stays wrong, by a power of two that the activations and the group's scale bring
//! back ([`Fp8Quad::FACTOR`]). L-Mul adds bit patterns instead of multiplying (Luo & Sun 2024,
//! arXiv 2410.00907). `scalar.rs` defines the order of additions. Tests: `tests.rs`.

use std::marker::PhantomData;

use brooklet_formats::quant::VECTOR_BYTES;

use super::simd::{Block, Shape, Simd, Task, lower, upper, walk};
use super::{Output, Tiles};
use crate::buffers::Acts;
use crate::kernels::forms::Fp8Quad;

/// A float format; every row has N sums ("chains") that do not wait for each other.
///
/// # Safety
/// Every method needs the instruction set, pointers to a step's registers, and the activations of
/// its columns.
pub(super) trait Float<S: Simd, const N: usize> {
    /// What scales are multiplied by; `None` for a format without.
    const SCALE: Option<f32>;
    /// Columns that a step takes.
    const COLUMNS: usize;
    /// Vectors of weights that a step takes.
    const VECTORS: usize = 1;
    /// Bytes of activations that a step takes.
    const X_BYTES: usize;

    /// Its activations.
    fn activations(x: &Acts) -> *const u8;

    /// chains += w · x for the register at `w` (of each of the step's vectors) and `C` columns.
    unsafe fn step<const C: usize>(w: *const u8, x: &[*const u8; C], chains: &mut [[S::F; N]; C]);

    /// The sum of the chains, per row.
    #[inline(always)]
    unsafe fn sum(chains: [S::F; N]) -> S::F {
        // SAFETY: passed on.
        unsafe { if N == 1 { chains[0] } else { S::add(chains[0], chains[1]) } }
    }
}

/// f32: one chain.
pub(super) struct F32;

impl<S: Simd> Float<S, 1> for F32 {
    const SCALE: Option<f32> = None;
    const COLUMNS: usize = 1;
    const X_BYTES: usize = 4;

    fn activations(x: &Acts) -> *const u8 {
        x.float.as_ptr().cast()
    }

    #[inline(always)]
    unsafe fn step<const C: usize>(w: *const u8, x: &[*const u8; C], chains: &mut [[S::F; 1]; C]) {
        // SAFETY: passed on.
        unsafe {
            let w = S::float(S::load(w));
            for ([chain], x) in chains.iter_mut().zip(x) {
                *chain = S::mul_add(w, S::broadcast(x.cast()), *chain);
            }
        }
    }
}

/// bf16: pairs as they stand; two vectors feed a chain each.
pub(super) struct Bf16;

impl<S: Simd> Float<S, 2> for Bf16 {
    const SCALE: Option<f32> = None;
    const COLUMNS: usize = 4;
    const VECTORS: usize = 2;
    const X_BYTES: usize = 8;

    fn activations(x: &Acts) -> *const u8 {
        x.bf16.as_ptr().cast()
    }

    #[inline(always)]
    unsafe fn step<const C: usize>(w: *const u8, x: &[*const u8; C], chains: &mut [[S::F; 2]; C]) {
        // SAFETY: passed on.
        unsafe {
            let w = [S::load(w), S::load(w.add(VECTOR_BYTES))];
            for (chains, x) in chains.iter_mut().zip(x) {
                for (n, chain) in chains.iter_mut().enumerate() {
                    *chain = S::dot_bf16(w[n], S::broadcast_bits(x.add(4 * n).cast()), *chain);
                }
            }
        }
    }
}

/// The FP8 codes of each lane as two registers of bf16 (codes 0 and 2, 1 and 3), with the codes'
/// own exponents, unrebased.
///
/// ```text
/// code        s eeee mmm                s eeeee mm
/// bf16        s 0000eeee mmm0000        s 000eeeee mm00000
/// ```
#[inline(always)]
unsafe fn move_bits<S: Simd, const E5M2: bool>(v: S::I) -> [S::I; 2] {
    // SAFETY: passed on.
    unsafe {
        // Each code starts at the top of its half; the sign bit spreads over the bits that the
        // exponent does not use, which are cleared then.
        let v = [S::shift_halves_left::<8>(v), v];
        if E5M2 {
            [
                S::mask(S::shift_halves_right::<3>(v[0]), 0x8fe0_8fe0),
                S::mask(S::shift_halves_right::<3>(v[1]), 0x8fe0_8fe0),
            ]
        } else {
            [
                S::mask(S::shift_halves_right::<4>(v[0]), 0x87f0_87f0),
                S::mask(S::shift_halves_right::<4>(v[1]), 0x87f0_87f0),
            ]
        }
    }
}

/// FP8 with 3 (E4M3) or 2 (E5M2) mantissa bits; activations are [`Fp8Quad`]s.
pub(super) struct Fp8<const E5M2: bool>;

impl<S: Simd, const E5M2: bool> Float<S, 2> for Fp8<E5M2> {
    /// 2¹²⁰ or 2¹¹², of which the activations carry a part.
    const SCALE: Option<f32> =
        Some((1u128 << if E5M2 { 112 } else { 120 }) as f32 / Fp8Quad::FACTOR);
    const COLUMNS: usize = 4;
    const X_BYTES: usize = 8;

    fn activations(x: &Acts) -> *const u8 {
        x.fp8.as_ptr().cast()
    }

    #[inline(always)]
    unsafe fn step<const C: usize>(w: *const u8, x: &[*const u8; C], chains: &mut [[S::F; 2]; C]) {
        // SAFETY: passed on.
        unsafe {
            let v = S::load(w);
            let w = move_bits::<S, E5M2>(v);
            // Codes without exponent bits (zeros and subnormals) are rare enough for a branch.
            if S::FLUSHES && S::any_byte_without(v, if E5M2 { 0x7c } else { 0x78 }) {
                for (chains, x) in chains.iter_mut().zip(x) {
                    for (n, chain) in chains.iter_mut().enumerate() {
                        *chain =
                            S::dot_bf16_exact(w[n], S::broadcast_bits(x.add(4 * n).cast()), *chain);
                    }
                }
            } else {
                for (chains, x) in chains.iter_mut().zip(x) {
                    for (n, chain) in chains.iter_mut().enumerate() {
                        *chain = S::dot_bf16(w[n], S::broadcast_bits(x.add(4 * n).cast()), *chain);
                    }
                }
            }
        }
    }
}

/// L-Mul on E4M3 codes; activations are [`LmulQuad`](crate::kernels::forms::LmulQuad)s: two
/// registers' addends, then two registers' factors 0 or 1.
pub(super) struct Lmul;

impl<S: Simd> Float<S, 2> for Lmul {
    const SCALE: Option<f32> = Some(1.0);
    const COLUMNS: usize = 4;
    const X_BYTES: usize = 16;

    fn activations(x: &Acts) -> *const u8 {
        x.lmul.as_ptr().cast()
    }

    #[inline(always)]
    unsafe fn step<const C: usize>(w: *const u8, x: &[*const u8; C], chains: &mut [[S::F; 2]; C]) {
        // SAFETY: passed on.
        unsafe {
            let v = S::load(w);
            let w = move_bits::<S, false>(v);
            // Codes without exponent bits (zeros and subnormals) are rare enough for a branch.
            if S::any_byte_without(v, 0x78) {
                for (chains, x) in chains.iter_mut().zip(x) {
                    for (n, chain) in chains.iter_mut().enumerate() {
                        let addend = S::broadcast_bits(x.add(4 * n).cast());
                        let keep = S::broadcast_bits(x.add(8 + 4 * n).cast());
                        *chain = lmul_any::<S>(
                            upper::<S>(w[n]),
                            upper::<S>(addend),
                            upper::<S>(keep),
                            *chain,
                        );
                        *chain = lmul_any::<S>(
                            lower::<S>(w[n]),
                            lower::<S>(addend),
                            lower::<S>(keep),
                            *chain,
                        );
                    }
                }
            } else {
                for (chains, x) in chains.iter_mut().zip(x) {
                    for (n, chain) in chains.iter_mut().enumerate() {
                        let products = S::add_halves(w[n], S::broadcast_bits(x.add(4 * n).cast()));
                        *chain = S::dot_bf16(
                            products,
                            S::broadcast_bits(x.add(8 + 4 * n).cast()),
                            *chain,
                        );
                    }
                }
            }
        }
    }
}

/// chain + L-Mul(w, x) for any code, moved into an f32: also for zeros and subnormals.
#[inline(always)]
unsafe fn lmul_any<S: Simd>(w: S::F, addend: S::F, keep: S::F, chain: S::F) -> S::F {
    // The exponent fields of all codes are 120 too small.
    const REBASE: u32 = 120 << 23;
    // SAFETY: passed on.
    unsafe {
        // Multiplying makes subnormals normal; then the pattern is as far from its place as the
        // others.
        let normal = S::bits(S::mul(w, S::splat(f32::from_bits(REBASE + (127 << 23)))));
        let moved = S::add_bits(normal, S::bits(S::splat(f32::from_bits(REBASE.wrapping_neg()))));
        let product = S::add_bits(moved, S::bits(addend));
        S::mul_add(S::float(S::where_nonzero(product, w)), keep, chain)
    }
}

/// A format's product over the whole of k.
struct FloatBlock<E, const N: usize> {
    shape: Shape,
    x: *const u8,
    /// Bytes between columns.
    stride: usize,
    format: PhantomData<E>,
}

/// The kernel of the format `E`.
///
/// # Safety
/// As [`super::Kernel`].
#[inline(always)]
pub(super) unsafe fn float<S: Simd, E: Float<S, N>, const N: usize, const MOST: usize>(
    tiles: Tiles<'_>,
    x: &Acts,
    y: Output,
) {
    let shape = Shape::of(tiles.layout);
    let stride = x.stride() / E::COLUMNS * E::X_BYTES;
    let block = FloatBlock::<E, N> { shape, x: E::activations(x), stride, format: PhantomData };
    // SAFETY: passed on.
    unsafe { walk::<S, _, MOST>(tiles, y, &block) }
}

impl<E, const N: usize> FloatBlock<E, N> {
    /// Adds `columns` columns to the chains, and advances `w` and `x` past them, and `fetched` by
    /// `each` lines at every turn.
    #[inline(always)]
    unsafe fn steps<S: Simd, const R: usize, const C: usize>(
        columns: usize,
        (task, fetched, each): (&Task, &mut usize, usize),
        w: &mut *const u8,
        x: &mut [*const u8; C],
        chains: &mut [[[S::F; N]; C]; R],
    ) where
        E: Float<S, N>,
    {
        // SAFETY: the caller's pointers are good for these columns.
        unsafe {
            // Every group is a multiple of 32 columns (f32: of 16), hence of 4 steps.
            for _ in 0..columns / (4 * E::COLUMNS) {
                task.fetch::<S>(*fetched..*fetched + each);
                *fetched += each;
                for _ in 0..4 {
                    for (r, chains) in chains.iter_mut().enumerate() {
                        E::step(w.add(4 * S::LANES * r), x, chains);
                    }
                    *w = w.add(E::VECTORS * VECTOR_BYTES);
                    for x in x.iter_mut() {
                        *x = x.add(E::X_BYTES);
                    }
                }
            }
        }
    }
}

impl<S: Simd, E: Float<S, N>, const N: usize> Block<S> for FloatBlock<E, N> {
    /// acc = acc + Σ w·x · scale per group; without scales the row is one group and its sum the
    /// result.
    #[inline(always)]
    unsafe fn run<const R: usize, const C: usize>(&self, task: &Task) {
        let shape = self.shape;
        // SAFETY: offsets stay within the tile and within the columns' padding.
        unsafe {
            let mut x = [self.x; C];
            for (c, x) in x.iter_mut().enumerate() {
                *x = x.add((task.column + c) * self.stride);
            }
            let mut w = task.tile.add(4 * S::LANES * task.first);
            let zero = S::splat(0.0);
            let mut acc = [[zero; C]; R];
            let mut chains = [[[zero; N]; C]; R];
            let mut scales = task.tile.add(2 * shape.group_bytes + 2 * S::LANES * task.first);
            // Many fetches at once would hold up the loads behind them.
            let turns = shape.pair_columns / (4 * E::COLUMNS);
            let (each, rest) = (task.lines / turns, task.lines % turns);
            let mut fetched = 0;
            for _ in 0..shape.pairs {
                task.fetch::<S>(fetched..fetched + rest);
                fetched += rest;
                let Some(factor) = E::SCALE else {
                    Self::steps(
                        shape.pair_columns,
                        (task, &mut fetched, each),
                        &mut w,
                        &mut x,
                        &mut chains,
                    );
                    continue;
                };
                for half in 0..2 {
                    chains = [[[zero; N]; C]; R];
                    Self::steps(
                        shape.group,
                        (task, &mut fetched, each),
                        &mut w,
                        &mut x,
                        &mut chains,
                    );
                    for (r, (acc, chains)) in acc.iter_mut().zip(chains).enumerate() {
                        let scale = S::load_f16(scales.add(32 * half + 2 * S::LANES * r));
                        let scale = S::mul(scale, S::splat(factor));
                        for (acc, chains) in acc.iter_mut().zip(chains) {
                            *acc = S::add(*acc, S::mul(E::sum(chains), scale));
                        }
                    }
                }
                w = w.add(VECTOR_BYTES);
                scales = scales.add(2 * shape.group_bytes + VECTOR_BYTES);
            }
            if E::SCALE.is_none() {
                for (acc, chains) in acc.iter_mut().zip(chains) {
                    *acc = chains.map(
                        #[inline(always)]
                        |chains| E::sum(chains),
                    );
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                for (c, acc) in acc.iter().enumerate() {
                    task.store::<S>(r, c, *acc);
                }
            }
        }
    }
}
