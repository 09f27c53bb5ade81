//! Sixteen f32 lanes in registers, for the few loops that the compiler does not vectorise well by
//! itself.
//!
//! A [`LaneKernel`] is written once over a [`Vector`] type and run with the one of the instruction
//! set: one AVX-512 register, two AVX registers, four NEON registers ([`Sixteen`]), or an array.
//! Each operation is the IEEE one, so all give the same bits. Not here: the registers' operations
//! (`simd`).

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::isa::{Isa, Set};
use super::lanes::{Lanes, WIDTH};
use super::math::{HAS_MUL_ADD, ROUND, fused_multiply_add, mul_add, power_of_two};
#[cfg(target_arch = "aarch64")]
use super::simd::neon::Neon;
use super::simd::{Simd, registers, simd};
use super::state::MAX_F16;

/// Sixteen f32 lanes.
pub(crate) trait Vector: Copy {
    /// Registers that they take: how many vectors a loop can keep depends on it.
    const REGISTERS: usize;
    /// All lanes `v`.
    fn splat(v: f32) -> Self;
    /// The first sixteen values of `x`.
    fn load(x: &[f32]) -> Self;
    /// Writes the lanes to the first sixteen values of `x`.
    fn store(self, x: &mut [f32]);
    /// The first sixteen values of `x`, widened.
    fn load_f16(x: &[f16]) -> Self;
    /// Writes the lanes to the first sixteen elements of `x`, rounded to the nearest (ties to even)
    /// of −65504 to 65504.
    fn store_f16(self, x: &mut [f16]);
    /// Lane by lane sum.
    fn add(self, other: Self) -> Self;
    /// Lane by lane difference.
    fn sub(self, other: Self) -> Self;
    /// Lane by lane product.
    fn mul(self, other: Self) -> Self;
    /// Lane by lane `self · factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// [`Vector::mul_add`] of single numbers.
    fn mul_add_one(number: f32, factor: f32, addend: f32) -> f32;
    /// Lane by lane the larger; NaN stays NaN.
    fn max(self, floor: Self) -> Self;
    /// [`power_of_two`] of each lane.
    fn power_of_two(self) -> Self;
    /// The largest magnitude in any lane; NaN counts as larger than all numbers.
    fn largest(v: [Self; 4]) -> f32;
    /// Writes the lanes to the first 32 codes, rounded to the nearest integer (ties to even; NaN
    /// becomes 0), which must fit them, and returns the sum of what it wrote modulo 2³¹.
    fn store_codes(v: [Self; 2], codes: &mut [i8]) -> i32;
    /// Fetches a cache line that will be read soon.
    fn prefetch(line: &Lanes);
}

/// Code over any [`Vector`].
pub(crate) trait LaneKernel {
    /// Runs it; mark the implementation `#[inline(always)]`.
    fn run<V: Vector>(self);
}

impl Isa {
    /// Runs `kernel` with this instruction set's vectors.
    #[inline]
    pub(crate) fn run_lanes(self, kernel: impl LaneKernel) {
        match self.set() {
            Set::Scalar | Set::Portable => kernel.run::<Lanes>(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(s) => run_on::<_, 2>(s, kernel),
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni(s) => run_on::<_, 2>(s.plain(), kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(s) => run_on::<_, 1>(s, kernel),
            #[cfg(target_arch = "aarch64")]
            Set::Neon(_) | Set::NeonDotprod(_) | Set::NeonI8mm(_) => {
                run_on::<_, 4>(Neon::new(), kernel);
            }
        }
    }
}

/// Runs `kernel` on vectors of `N` registers. `proof` is why these may exist: see
/// [`Sixteen::set`].
#[inline(always)]
fn run_on<S: Simd, const N: usize>(proof: S, kernel: impl LaneKernel) {
    simd!(proof, kernel.run::<Sixteen<S, N>>());
}

/// Sixteen lanes in `N` registers.
#[derive(Clone, Copy)]
struct Sixteen<S: Simd, const N: usize>([S::F; N]);

impl<S: Simd, const N: usize> Sixteen<S, N> {
    /// The instruction set.
    #[inline(always)]
    fn set() -> S {
        const { assert!(N * S::LANES == WIDTH) };
        // SAFETY: the type is private to this module, where `run_on` alone names it, and that has a
        // value of `S`; generic code meets it only as the `V` that `run_on` hands out.
        unsafe { S::assume() }
    }

    #[inline(always)]
    fn each(f: impl Fn(S, usize) -> S::F) -> Self {
        Sixteen(registers(
            #[inline(always)]
            |i| f(Self::set(), i),
        ))
    }
}

impl<S: Simd, const N: usize> Vector for Sixteen<S, N> {
    const REGISTERS: usize = N;
    #[inline(always)]
    fn splat(v: f32) -> Self {
        Sixteen([Self::set().splat(v); N])
    }
    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        let x = x[..WIDTH].as_ptr();
        Self::each(
            #[inline(always)]
            // SAFETY: `N` registers are the sixteen lanes that were just sliced.
            |s, i| s.float(unsafe { s.load(x.add(S::LANES * i).cast()) }),
        )
    }
    #[inline(always)]
    fn store(self, x: &mut [f32]) {
        let x = x[..WIDTH].as_mut_ptr();
        for (i, v) in self.0.into_iter().enumerate() {
            // SAFETY: `N` registers are the sixteen lanes that were just sliced.
            unsafe { Self::set().store(x.add(S::LANES * i), v) }
        }
    }
    #[inline(always)]
    fn prefetch(line: &Lanes) {
        Self::set().prefetch(std::ptr::from_ref(line).cast());
    }
    #[inline(always)]
    fn load_f16(x: &[f16]) -> Self {
        let x = x[..WIDTH].as_ptr();
        Self::each(
            #[inline(always)]
            // SAFETY: `N` registers are the sixteen lanes that were just sliced.
            |s, i| unsafe { s.load_f16(x.add(S::LANES * i).cast()) },
        )
    }
    #[inline(always)]
    fn store_f16(self, x: &mut [f16]) {
        let x = x[..WIDTH].as_mut_ptr();
        for (i, v) in self.0.into_iter().enumerate() {
            // SAFETY: `N` registers are the sixteen lanes that were just sliced.
            unsafe { Self::set().store_f16(x.add(S::LANES * i), v) }
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self::each(
            #[inline(always)]
            |s, i| s.add(self.0[i], other.0[i]),
        )
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self::each(
            #[inline(always)]
            |s, i| s.sub(self.0[i], other.0[i]),
        )
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self::each(
            #[inline(always)]
            |s, i| s.mul(self.0[i], other.0[i]),
        )
    }
    // Every instruction set with registers has the instruction.
    #[inline(always)]
    fn mul_add_one(number: f32, factor: f32, addend: f32) -> f32 {
        number.mul_add(factor, addend)
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self::each(
            #[inline(always)]
            |s, i| s.mul_add(self.0[i], factor.0[i], addend.0[i]),
        )
    }
    #[inline(always)]
    fn max(self, floor: Self) -> Self {
        Self::each(
            #[inline(always)]
            |s, i| s.max(self.0[i], floor.0[i]),
        )
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self::each(
            #[inline(always)]
            |s, i| {
                let exponent = s.shift_left::<23>(s.bits(self.0[i]));
                s.float(s.add_bits(exponent, s.splat_bits(127 << 23)))
            },
        )
    }
    #[inline(always)]
    fn largest(v: [Self; 4]) -> f32 {
        let s = Self::set();
        // Magnitudes are ordered as their bits are.
        let mut largest = s.splat_bits(0);
        for v in v {
            for v in v.0 {
                largest = s.max_bits(largest, s.mask(s.bits(v), 0x7fff_ffff));
            }
        }
        f32::from_bits(s.largest(largest) as u32)
    }
    #[inline(always)]
    fn store_codes(v: [Self; 2], codes: &mut [i8]) -> i32 {
        let s = Self::set();
        let v: [[S::I; N]; 2] = registers(
            #[inline(always)]
            |i| {
                registers(
                    #[inline(always)]
                    |j| s.nearest(v[i].0[j]),
                )
            },
        );
        codes[..2 * WIDTH].copy_from_slice(&s.low_bytes(v));
        let mut sum = s.splat_bits(0);
        for v in v.as_flattened() {
            sum = s.add_bits(sum, *v);
        }
        s.sum(sum)
    }
}

impl Vector for Lanes {
    const REGISTERS: usize = 4;
    #[inline(always)]
    fn splat(v: f32) -> Self {
        Lanes::splat(v)
    }
    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        Lanes::load(x)
    }
    #[inline(always)]
    fn store(self, x: &mut [f32]) {
        Lanes::store(self, x);
    }
    #[inline(always)]
    fn prefetch(_: &Lanes) {}
    // Without instructions for it a conversion is long.
    #[inline(never)]
    fn load_f16(x: &[f16]) -> Self {
        let mut v = Lanes::ZERO;
        x[..WIDTH].convert_to_f32_slice(&mut v.0);
        v
    }
    #[inline(never)]
    fn store_f16(self, x: &mut [f16]) {
        x[..WIDTH].convert_from_f32_slice(&self.0.map(|v| v.clamp(-MAX_F16, MAX_F16)));
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }
    #[inline(always)]
    fn mul_add_one(number: f32, factor: f32, addend: f32) -> f32 {
        mul_add(number, factor, addend)
    }
    // Where no instruction does it, the C library is slow. In f64 the product is exact, and a sum
    // rounded there and again to f32 is the right one unless its bits below an f32's last are those
    // of a tie.
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        let mut v = Lanes::ZERO;
        if HAS_MUL_ADD {
            for i in 0..WIDTH {
                v.0[i] = self.0[i].mul_add(factor.0[i], addend.0[i]);
            }
            return v;
        }
        let mut ties = [false; WIDTH];
        for i in 0..WIDTH {
            let sum = f64::from(self.0[i]) * f64::from(factor.0[i]) + f64::from(addend.0[i]);
            v.0[i] = sum as f32;
            // One bit less than a tie's zeros: a subnormal f32 has its last bit further up.
            ties[i] =
                sum.to_bits().trailing_zeros() >= f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS - 1;
        }
        if ties.contains(&true) { fused_multiply_adds(&self, &factor, &addend) } else { v }
    }
    #[inline(always)]
    fn max(self, floor: Self) -> Self {
        self.zip(floor, |x, floor| if x < floor { floor } else { x })
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        self.map(power_of_two)
    }
    #[inline(always)]
    fn largest(v: [Self; 4]) -> f32 {
        // Magnitudes are ordered as their bits are.
        let mut largest = [0; WIDTH];
        for v in v {
            for i in 0..WIDTH {
                largest[i] = largest[i].max(v.0[i].abs().to_bits() as i32);
            }
        }
        f32::from_bits(largest.into_iter().fold(0, i32::max) as u32)
    }
    #[inline(always)]
    fn store_codes(v: [Self; 2], codes: &mut [i8]) -> i32 {
        let mut sum = 0;
        for (v, codes) in v.iter().zip(codes[..2 * WIDTH].as_chunks_mut::<WIDTH>().0) {
            for i in 0..WIDTH {
                // The low byte of what adding ROUND gives is the integer in two's complement.
                let code = (v.0[i] + ROUND).to_bits() as i8;
                codes[i] = if v.0[i].is_nan() { 0 } else { code };
                sum += i32::from(codes[i]);
            }
        }
        sum
    }
}

/// [`fused_multiply_add`] of each lane.
#[cold]
#[inline(never)]
fn fused_multiply_adds(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    let mut v = Lanes::ZERO;
    for i in 0..WIDTH {
        v.0[i] = fused_multiply_add(a.0[i], b.0[i], c.0[i]);
    }
    v
}
