//! The float formats: elements are widened to f32 inside their lane and multiplied by broadcast activations.
//!
//! A lane holds N consecutive columns of one row, so a vector feeds N independent sums per row ("chains", column mod N),
//! which hide the latency of the fused multiply-add; `scalar.rs` defines the same N chains. An FP8 code becomes an f32 by
//! moving its bits: exponent and mantissa keep their places next to each other, only the exponent's bias stays wrong, by
//! a power of two that the activations and the group's scale bring back (`acts::FP8_FACTOR`). L-Mul adds bit patterns
//! instead of multiplying (Luo & Sun 2024, arXiv 2410.00907). f16, whose conversion is an instruction, is beside each
//! instruction set's other code.

use brooklet_formats::quant::VECTOR_BYTES;

use super::simd::{Block, Simd, walk};
use super::{Output, Tiles};

/// A float format with N columns in a lane.
///
/// # Safety
/// Every method needs the instruction set, pointers to a vector's registers, and the activations of its N columns.
pub(super) trait Float<S: Simd, const N: usize> {
    /// What scales are multiplied by; `None` for a format without.
    const SCALE: Option<f32>;
    /// f32 words per activation.
    const X_WORDS: usize = 1;

    /// The N chains' factors that stand in one register at `w`.
    unsafe fn widen(w: *const u8) -> [S::F; N];

    /// The activation that chain n of a vector is multiplied by.
    #[inline(always)]
    unsafe fn activation(x: *const f32, n: usize) -> S::F {
        // SAFETY: passed on.
        unsafe { S::broadcast(x.add(n)) }
    }

    /// chains += w · x for the register at `w` and `C` columns.
    #[inline(always)]
    unsafe fn step<const C: usize>(w: *const u8, x: &[*const f32; C], chains: &mut [[S::F; N]; C]) {
        // SAFETY: passed on.
        unsafe {
            let w = Self::widen(w);
            for (chains, x) in chains.iter_mut().zip(x) {
                for (n, chain) in chains.iter_mut().enumerate() {
                    *chain = S::mul_add(w[n], Self::activation(*x, n), *chain);
                }
            }
        }
    }

    /// The sum of the chains, per row.
    unsafe fn sum(chains: [S::F; N]) -> S::F;
}

/// f32: one chain.
pub(super) struct F32;

impl<S: Simd> Float<S, 1> for F32 {
    const SCALE: Option<f32> = None;

    #[inline(always)]
    unsafe fn widen(w: *const u8) -> [S::F; 1] {
        // SAFETY: passed on.
        unsafe { [S::float(S::load(w))] }
    }

    #[inline(always)]
    unsafe fn sum(chains: [S::F; 1]) -> S::F {
        chains[0]
    }
}

/// bf16: two chains, the upper half of an f32 each.
pub(super) struct Bf16;

impl<S: Simd> Float<S, 2> for Bf16 {
    const SCALE: Option<f32> = None;

    #[inline(always)]
    unsafe fn widen(w: *const u8) -> [S::F; 2] {
        // SAFETY: passed on.
        unsafe {
            let v = S::load(w);
            [S::float(S::shift_left::<16>(v)), S::float(S::mask(v, 0xffff_0000))]
        }
    }

    #[inline(always)]
    unsafe fn sum(chains: [S::F; 2]) -> S::F {
        // SAFETY: passed on.
        unsafe { S::add(chains[0], chains[1]) }
    }
}

/// FP8 with 3 (E4M3) or 2 (E5M2) mantissa bits: four chains.
pub(super) struct Fp8<const E5M2: bool>;

impl<S: Simd, const E5M2: bool> Float<S, 4> for Fp8<E5M2> {
    /// 2¹²⁰ or 2¹¹², of which the activations carry 2⁶⁰.
    const SCALE: Option<f32> = Some((1u64 << if E5M2 { 52 } else { 60 }) as f32);

    #[inline(always)]
    unsafe fn widen(w: *const u8) -> [S::F; 4] {
        // SAFETY: passed on.
        unsafe { move_bits::<S, E5M2>(S::load(w)) }
    }

    #[inline(always)]
    unsafe fn sum(chains: [S::F; 4]) -> S::F {
        // SAFETY: passed on.
        unsafe { S::add(S::add(chains[0], chains[1]), S::add(chains[2], chains[3])) }
    }
}

/// The four FP8 codes of each lane as f32 with the code's own exponent field, unrebased.
///
/// ```text
/// code        s eeee mmm                                           s eeeee mm
/// f32         s 0000eeee mmm00000 00000000 00000000                s 000eeeee mm000000 00000000 00000000
/// ```
#[inline(always)]
unsafe fn move_bits<S: Simd, const E5M2: bool>(v: S::I) -> [S::F; 4] {
    let keep = if E5M2 { 0x8fe0_0000 } else { 0x87f0_0000 };
    // SAFETY: passed on.
    unsafe {
        // Each half's upper byte, its sign bit spread over the bits that the exponent does not use.
        let down = |v| if E5M2 { S::shift_halves_right::<3>(v) } else { S::shift_halves_right::<4>(v) };
        let (odd, even) = (down(v), down(S::shift_halves_left::<8>(v)));
        [S::shift_left::<16>(even), S::shift_left::<16>(odd), even, odd]
            .map(|code| S::float(S::mask(code, keep)))
    }
}

/// L-Mul on E4M3 codes: four chains; an activation is an addend and a factor 0 or 1 (`acts::LmulTerm`).
pub(super) struct Lmul;

impl Lmul {
    /// The exponent fields of all codes are 120 too small.
    const REBASE: u32 = 120 << 23;
}

impl<S: Simd> Float<S, 4> for Lmul {
    const SCALE: Option<f32> = Some(1.0);
    const X_WORDS: usize = 2;

    #[inline(always)]
    unsafe fn widen(w: *const u8) -> [S::F; 4] {
        // SAFETY: passed on.
        unsafe { move_bits::<S, false>(S::load(w)) }
    }

    #[inline(always)]
    unsafe fn step<const C: usize>(w: *const u8, x: &[*const f32; C], chains: &mut [[S::F; 4]; C]) {
        // SAFETY: passed on; an activation is two words.
        unsafe {
            let v = S::load(w);
            let w = move_bits::<S, false>(v);
            // Codes without exponent bits are zero or subnormal: rare enough for a branch.
            if S::any_byte_without(v, 0x78) {
                let factor = S::splat(f32::from_bits(Self::REBASE + (127 << 23)));
                let back = S::bits(S::splat(f32::from_bits(Self::REBASE.wrapping_neg())));
                for (n, w) in w.into_iter().enumerate() {
                    // Multiplying makes subnormals normal; then the pattern is as far from its place as the others.
                    let moved = S::add_bits(S::bits(S::mul(w, factor)), back);
                    for (chains, x) in chains.iter_mut().zip(x) {
                        let sum = S::add_bits(moved, S::broadcast_bits(x.add(2 * n).cast()));
                        let product = S::float(S::where_nonzero(sum, w));
                        chains[n] = S::mul_add(product, S::broadcast(x.add(2 * n + 1)), chains[n]);
                    }
                }
            } else {
                for (chains, x) in chains.iter_mut().zip(x) {
                    for (n, chain) in chains.iter_mut().enumerate() {
                        let sum = S::add_bits(S::bits(w[n]), S::broadcast_bits(x.add(2 * n).cast()));
                        *chain = S::mul_add(S::float(sum), S::broadcast(x.add(2 * n + 1)), *chain);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn sum(chains: [S::F; 4]) -> S::F {
        // SAFETY: passed on.
        unsafe { S::add(S::add(chains[0], chains[1]), S::add(chains[2], chains[3])) }
    }
}

struct FloatBlock<'a, E> {
    tiles: Tiles<'a>,
    x: *const f32,
    /// Words between columns.
    stride: usize,
    format: std::marker::PhantomData<E>,
}

/// The kernel of the format `E`; `x` are its activations, `stride` of them in a column.
///
/// # Safety
/// As [`super::Kernel`].
#[inline(always)]
pub(super) unsafe fn float<S: Simd, E: Float<S, N>, const N: usize, const MOST: usize>(
    tiles: Tiles<'_>,
    x: *const f32,
    stride: usize,
    y: Output,
) {
    let format = std::marker::PhantomData::<E>;
    let block = Wrapped::<_, N>(FloatBlock { tiles, x, stride: stride * E::X_WORDS, format });
    // SAFETY: passed on.
    unsafe { walk::<S, _, MOST>(tiles, y, &block) }
}

/// Carries N into the type.
struct Wrapped<B, const N: usize>(B);

impl<S: Simd, E: Float<S, N>, const N: usize> Block<S> for Wrapped<FloatBlock<'_, E>, N> {
    /// acc = acc + Σ w·x · scale per group; without scales the row is one group and its sum the result.
    #[inline(always)]
    unsafe fn run<const R: usize, const C: usize>(
        &self,
        tile: *const u8,
        first: usize,
        column: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        let block = &self.0;
        let layout = block.tiles.layout;
        // SAFETY: offsets stay within the tile and within the columns' padding.
        unsafe {
            let mut x: [*const f32; C] = std::array::from_fn(|c| block.x.add((column + c) * block.stride));
            let mut w = tile.add(4 * S::LANES * first);
            let mut acc = [[S::splat(0.0); C]; R];
            let mut sum = |w: &mut *const u8, columns: usize| {
                let mut chains = [[[S::splat(0.0); N]; C]; R];
                for _ in 0..columns / N {
                    for (r, chains) in chains.iter_mut().enumerate() {
                        E::step(w.add(4 * S::LANES * r), &x, chains);
                    }
                    *w = w.add(VECTOR_BYTES);
                    for x in &mut x {
                        *x = x.add(N * E::X_WORDS);
                    }
                }
                chains.map(|columns| columns.map(|chains| E::sum(chains)))
            };
            if let Some(factor) = E::SCALE {
                let mut scales = tile.add(2 * layout.group_bytes() + 2 * S::LANES * first);
                for _ in 0..layout.n_pairs() {
                    for half in 0..2 {
                        let sums = sum(&mut w, layout.group);
                        for r in 0..R {
                            let scale = S::load_f16(scales.add(32 * half + 2 * S::LANES * r));
                            let scale = S::mul(scale, S::splat(factor));
                            for (acc, sum) in acc[r].iter_mut().zip(sums[r]) {
                                *acc = S::add(*acc, S::mul(sum, scale));
                            }
                        }
                    }
                    w = w.add(VECTOR_BYTES);
                    scales = scales.add(layout.pair_bytes());
                }
            } else {
                acc = sum(&mut w, layout.padded_cols());
            }
            for (r, acc) in acc.iter().enumerate() {
                for (c, acc) in acc.iter().enumerate() {
                    S::store(out.add(c * out_stride + r * S::LANES), *acc);
                }
            }
        }
    }
}
