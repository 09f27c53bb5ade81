//! The float formats on registers: the loop over k, and f32, f16 and bf16.
//!
//! ```text
//! for each pair of groups:
//!     for each group of the pair:                      scale[row], of the formats that have scales
//!         for each step of the group:                  1, 2 or 4 columns
//!             chains += w · x                          `Float::step`
//!         acc += (sum of the chains) · scale
//! ```
//!
//! The formats of 8 and 16 bits (f16 aside) work on registers of bf16 pairs: two columns of a row
//! in a lane, multiplied and added by one instruction where there is `vdpbf16ps`. Not here: codes
//! of 8 bits (`float8.rs`). `scalar.rs` defines the order of additions. Tests: `tests.rs`.

use std::marker::PhantomData;

use brooklet_formats::quant::VECTOR_BYTES;
use half::bf16;

use super::product::Product;
use super::walk::{Block, Rows, Scales, Task, in_order, walk};
use super::widened::widened;
use crate::kernels::simd::{Simd, registers};
use crate::kernels::units::Unit;

/// A float format; every row has N sums ("chains") that do not wait for each other.
pub(super) trait Float<const N: usize> {
    /// The activations it reads.
    type X: Unit;
    /// The factor of scales; `None` for a format without.
    const SCALE: Option<f32>;
    /// Columns that a step takes.
    const COLUMNS: usize;
    /// Vectors of weights that a step takes.
    const VECTORS: usize = 1;
    /// Whether it multiplies pairs of bf16, for which AVX-512 may have an instruction.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const PAIRS: bool = false;
    /// Units of activations that a step takes.
    const UNITS: usize = Self::COLUMNS / Self::X::VALUES;

    /// chains += w · x for the register at `w` (of each of the step's vectors) and `C` columns.
    ///
    /// # Safety
    /// The registers of weights and the units of activations can be read.
    unsafe fn step<S: Simd, const C: usize>(
        s: S,
        w: *const u8,
        x: &[*const Self::X; C],
        chains: &mut [[S::F; N]; C],
    );

    /// Multiplies many columns in another way, where that is faster; says whether it did.
    #[inline(always)]
    fn many<S: Simd, const MOST: usize>(_: S, _: &Product<'_, Self::X>) -> bool {
        false
    }

    /// The sum of the chains, per row.
    #[inline(always)]
    fn sum<S: Simd>(s: S, chains: [S::F; N]) -> S::F {
        if N == 1 { chains[0] } else { s.add(chains[0], chains[1]) }
    }
}

/// f32: one chain.
pub(super) struct F32;

impl Float<1> for F32 {
    type X = f32;
    const SCALE: Option<f32> = None;
    const COLUMNS: usize = 1;

    #[inline(always)]
    unsafe fn step<S: Simd, const C: usize>(
        s: S,
        w: *const u8,
        x: &[*const f32; C],
        chains: &mut [[S::F; 1]; C],
    ) {
        // SAFETY: a register of weights can be read at `w`: promised (`Float::step`).
        let w = s.float(unsafe { s.load(w) });
        for ([chain], x) in chains.iter_mut().zip(x) {
            // SAFETY: one activation can be read at `x`: promised (`Float::step`).
            *chain = s.mul_add(w, s.splat(unsafe { **x }), *chain);
        }
    }
}

/// f16: a chain's register holds two columns of half of the rows, as the conversion widens them.
pub(super) struct F16;

impl Float<2> for F16 {
    type X = f32;
    const SCALE: Option<f32> = None;
    const COLUMNS: usize = 2;

    #[inline(always)]
    unsafe fn step<S: Simd, const C: usize>(
        s: S,
        w: *const u8,
        x: &[*const f32; C],
        chains: &mut [[S::F; 2]; C],
    ) {
        // SAFETY: a register of weights, two halves of f16, can be read: promised (`Float::step`).
        let w = unsafe { [s.load_f16(w), s.load_f16(w.add(2 * S::LANES))] };
        for (chains, x) in chains.iter_mut().zip(x) {
            // SAFETY: two activations can be read at `x`: promised (`Float::step`).
            // They need not be aligned to pairs, and any bits are an f64.
            let pair = s.splat_pair(unsafe { x.cast::<f64>().read_unaligned() });
            for (chain, w) in chains.iter_mut().zip(w) {
                *chain = s.mul_add(w, pair, *chain);
            }
        }
    }

    #[inline(always)]
    fn many<S: Simd, const MOST: usize>(s: S, product: &Product<'_, f32>) -> bool {
        widened::<S, MOST>(s, product)
    }

    /// Even columns + odd columns.
    #[inline(always)]
    fn sum<S: Simd>(s: S, chains: [S::F; 2]) -> S::F {
        s.add_pairs(chains[0], chains[1])
    }
}

/// bf16: pairs as they stand; two vectors feed a chain each.
pub(super) struct Bf16;

impl Float<2> for Bf16 {
    type X = bf16;
    const PAIRS: bool = true;
    const SCALE: Option<f32> = None;
    const COLUMNS: usize = 4;
    const VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn step<S: Simd, const C: usize>(
        s: S,
        w: *const u8,
        x: &[*const bf16; C],
        chains: &mut [[S::F; 2]; C],
    ) {
        // SAFETY: a register of each of two vectors of weights can be read: promised
        // (`Float::step`).
        let w = unsafe { [s.load(w), s.load(w.add(VECTOR_BYTES))] };
        for (chains, x) in chains.iter_mut().zip(x) {
            // SAFETY: four activations can be read at `x`: promised (`Float::step`).
            let x = unsafe { pairs(s, x.cast()) };
            for (n, chain) in chains.iter_mut().enumerate() {
                *chain = s.dot_bf16(w[n], x[n], *chain);
            }
        }
    }
}

/// Two pairs of bf16, each in all lanes.
///
/// # Safety
/// They can be read at `x`.
#[inline(always)]
pub(super) unsafe fn pairs<S: Simd>(s: S, x: *const u32) -> [S::I; 2] {
    // SAFETY: two pairs can be read at `x`, aligned or not: promised (Safety).
    unsafe { [s.splat_bits(x.read_unaligned()), s.splat_bits(x.add(1).read_unaligned())] }
}

/// The kernel of the format `E`.
#[inline(always)]
pub(super) fn float<S: Rows, E: Float<N>, const N: usize, const MOST: usize>(
    s: S,
    product: &Product<'_, E::X>,
) {
    if !E::many::<S, MOST>(s, product) {
        walk::<S, FloatBlock<E, N>, MOST>(s, product);
    }
}

struct FloatBlock<E, const N: usize>(PhantomData<E>);

impl<S: Rows, E: Float<N>, const N: usize> Block<S> for FloatBlock<E, N> {
    type X = E::X;

    #[inline(always)]
    fn run<const R: usize, const C: usize>(s: S, task: &Task<'_, E::X, R, C>) {
        let x = task.product().x();
        let mut at = Cursor::<S, E, N, R, C> {
            w: task.codes::<S>(),
            x: registers(
                #[inline(always)]
                |c| x.as_ptr().wrapping_add((task.column() + c) * x.stride()),
            ),
            chains: [[[s.splat(0.0); N]; C]; R],
            fetched: 0,
        };
        let results = match E::SCALE {
            Some(factor) => at.groups(s, task, factor),
            None => at.row(s, task),
        };
        for (r, results) in results.iter().enumerate() {
            for (c, result) in results.iter().enumerate() {
                task.store(s, r, c, *result);
            }
        }
    }
}

/// Where the loop over k stands.
struct Cursor<S: Simd, E: Float<N>, const N: usize, const R: usize, const C: usize> {
    /// The first register's weights of the step that comes next.
    w: *const u8,
    /// Each column's activations for it.
    x: [*const E::X; C],
    chains: [[[S::F; N]; C]; R],
    /// Cache lines fetched so far.
    fetched: usize,
}

impl<S: Rows, E: Float<N>, const N: usize, const R: usize, const C: usize> Cursor<S, E, N, R, C> {
    /// A format without scales: the row is one group, and its chains' sum the result.
    #[inline(always)]
    fn row(&mut self, s: S, task: &Task<'_, E::X, R, C>) -> [[S::F; C]; R] {
        for _ in 0..task.shape.pairs {
            let each = self.fetch_rest(s, task);
            // SAFETY: the tile has so many pairs, and the activations go as far (`Product::new`).
            unsafe { self.steps(s, task, task.shape.pair_columns, each) };
        }
        self.sums(s)
    }

    /// acc = acc + Σ w·x · scale per group.
    #[inline(always)]
    fn groups(&mut self, s: S, task: &Task<'_, E::X, R, C>, factor: f32) -> [[S::F; C]; R] {
        let mut scales: Scales = task.scales::<S>();
        let mut acc = [[s.splat(0.0); C]; R];
        for _ in 0..task.shape.pairs {
            let each = self.fetch_rest(s, task);
            let mut kept = [[[s.splat(0.0); C]; R]; 2];
            for half in 0..2 {
                self.chains = [[[s.splat(0.0); N]; C]; R];
                // SAFETY: the tile has so many pairs of two groups, and the activations go as far
                // (`Product::new`). Scales stand behind both.
                unsafe {
                    self.steps(s, task, task.shape.group, each);
                    if in_order::<S>(C) {
                        kept[half] = self.sums(s);
                    } else {
                        scale(s, scales.of(s, half), factor, &self.sums(s), &mut acc);
                    }
                }
            }
            // Few columns wait for memory, and a processor fetches ahead much better what is read
            // in the order in which it lies there: codes of both groups, then scales.
            if in_order::<S>(C) {
                for (half, sums) in kept.iter().enumerate() {
                    // SAFETY: the pair's scales stand behind its codes.
                    let scales = unsafe { scales.of(s, half) };
                    scale(s, scales, factor, sums, &mut acc);
                }
            }
            self.w = self.w.wrapping_add(VECTOR_BYTES);
            scales = scales.next(&task.shape);
        }
        acc
    }

    /// Fetches this pair's share of cache lines that its turns of [`Cursor::steps`] cannot divide,
    /// and returns how many each of these has to fetch: many fetches at once would hold up the
    /// loads behind them.
    #[inline(always)]
    fn fetch_rest(&mut self, s: S, task: &Task<'_, E::X, R, C>) -> usize {
        let turns = task.shape.pair_columns / (4 * E::COLUMNS);
        let rest = task.lines % turns;
        task.fetch(s, self.fetched..self.fetched + rest);
        self.fetched += rest;
        task.lines / turns
    }

    /// Adds `columns` columns to the chains, and goes past them; every turn fetches `each` lines.
    ///
    /// # Safety
    /// The columns exist in weights and activations.
    #[inline(always)]
    unsafe fn steps(&mut self, s: S, task: &Task<'_, E::X, R, C>, columns: usize, each: usize) {
        // Every group is a multiple of 32 columns (f32: of 16), hence of 4 steps.
        for _ in 0..columns / (4 * E::COLUMNS) {
            task.fetch(s, self.fetched..self.fetched + each);
            self.fetched += each;
            for _ in 0..4 {
                // SAFETY: `columns` columns exist: promised (Safety). This step's are among them.
                // The pointers go past a step only, so at most to the end of tile and columns.
                unsafe {
                    for (r, chains) in self.chains.iter_mut().enumerate() {
                        E::step(s, self.w.add(4 * S::LANES * r), &self.x, chains);
                    }
                    self.w = self.w.add(E::VECTORS * VECTOR_BYTES);
                    for x in &mut self.x {
                        *x = x.add(E::UNITS);
                    }
                }
            }
        }
    }

    /// The chains' sums.
    #[inline(always)]
    fn sums(&self, s: S) -> [[S::F; C]; R] {
        // No `map`: of large arrays it is a function of its own, which has no instruction set.
        let mut sums = [[s.splat(0.0); C]; R];
        for (sums, chains) in sums.iter_mut().zip(&self.chains) {
            for (sum, chains) in sums.iter_mut().zip(chains) {
                *sum = E::sum(s, *chains);
            }
        }
        sums
    }
}

/// acc = acc + sums · (scale · factor).
#[inline(always)]
fn scale<S: Simd, const R: usize, const C: usize>(
    s: S,
    scales: [S::F; R],
    factor: f32,
    sums: &[[S::F; C]; R],
    acc: &mut [[S::F; C]; R],
) {
    for ((acc, sums), scale) in acc.iter_mut().zip(sums).zip(scales) {
        let scale = s.mul(scale, s.splat(factor));
        for (acc, sum) in acc.iter_mut().zip(sums) {
            *acc = s.add(*acc, s.mul(*sum, scale));
        }
    }
}
