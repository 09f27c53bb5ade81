//! The machine's own limits, in the instructions the matrix kernels use: reading memory, int8 and
//! bf16 dot products, f32 multiply-adds. Benchmarks set the kernels' figures beside these, measured
//! in the same run. Not here: clocks and threads; a caller times a call and divides. Test: below.

use std::hint::black_box;

use super::isa::{Isa, Set};
use super::simd::{Simd, simd};

/// Independent accumulators: more than any of the instructions needs to hide its latency.
const CHAINS: usize = 12;

/// A measurement, written once for any registers: returns how many multiply-adds were done, or
/// the exclusive or of what was read.
trait Measure {
    fn on<S: Simd + Int8>(self, s: S) -> u64;
    /// Where there are no registers.
    fn without(self) -> u64;
}

/// Measures on the registers of `isa`.
fn measure(isa: Isa, measure: impl Measure) -> u64 {
    match isa.set() {
        Set::Scalar | Set::Portable => measure.without(),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2(s) => simd!(s, measure.on(s)),
        #[cfg(target_arch = "x86_64")]
        Set::AvxVnni(s) => simd!(s, measure.on(s)),
        #[cfg(target_arch = "x86_64")]
        Set::Avx512(s) => match s.with_bf16() {
            Some(s) => simd!(s, measure.on(s)),
            None => simd!(s, measure.on(s)),
        },
        #[cfg(target_arch = "aarch64")]
        Set::Neon(s) => simd!(s, measure.on(s)),
        #[cfg(target_arch = "aarch64")]
        Set::NeonDotprod(s) => simd!(s, measure.on(s)),
        #[cfg(target_arch = "aarch64")]
        Set::NeonI8mm(s) => simd!(s, measure.on(s.dotprod())),
    }
}

/// Reads `bytes` once, in order, with the instruction set's widest loads; returns the exclusive or
/// of its words of 64 bits.
pub fn read(isa: Isa, bytes: &[u8]) -> u64 {
    measure(isa, Read(bytes))
}

struct Read<'a>(&'a [u8]);

impl Measure for Read<'_> {
    #[inline(always)]
    fn on<S: Simd + Int8>(self, s: S) -> u64 {
        const SUMS: usize = 4;
        let register = 4 * S::LANES;
        let (whole, rest) = self.0.split_at(self.0.len() / (SUMS * register) * SUMS * register);
        let mut sums = [s.splat_bits(0); SUMS];
        for block in whole.chunks_exact(SUMS * register) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a register from `i` registers on, in a block of four.
                *sum = s.xor(*sum, unsafe { s.load(block.as_ptr().add(register * i)) });
            }
        }
        let sum = s.xor(s.xor(sums[0], sums[1]), s.xor(sums[2], sums[3]));
        let mut words = [0u64; 8];
        // SAFETY: a register is 64 bytes at most.
        unsafe { s.store(words.as_mut_ptr().cast(), s.float(sum)) };
        words.iter().fold(xor(rest), |a, b| a ^ b)
    }

    fn without(self) -> u64 {
        xor(self.0)
    }
}

fn xor(bytes: &[u8]) -> u64 {
    bytes.as_chunks::<8>().0.iter().fold(0, |sum, word| sum ^ u64::from_le_bytes(*word))
}

/// Runs `rounds` rounds of int8 multiply-adds in registers (`vpdpbusd`, `vpmaddubsw`, `sdot`,
/// `smlal`); returns how many multiply-adds that is, 0 where no kernel of this instruction set uses
/// such an instruction.
pub fn int8_multiply_adds(isa: Isa, rounds: usize) -> usize {
    measure(isa, Int8MultiplyAdds(rounds)) as usize
}

/// Multiply-adds of 8 bits.
trait Int8: Simd {
    /// How many an instruction does.
    const AT_ONCE: usize = 4 * Self::LANES;
    /// sum + codes · x, by one instruction.
    fn step(self, sum: Self::I, codes: Self::I, x: Self::I) -> Self::I;
}

struct Int8MultiplyAdds(usize);

impl Measure for Int8MultiplyAdds {
    #[inline(always)]
    fn on<S: Simd + Int8>(self, s: S) -> u64 {
        let [a, b] = black_box([s.splat_bits(0x0303_0303), s.splat_bits(0x0505_0505)]);
        let mut sums = [s.splat_bits(0); CHAINS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.step(*sum, a, b);
            }
        }
        black_box(sums);
        (self.0 * CHAINS * S::AT_ONCE) as u64
    }

    fn without(self) -> u64 {
        0
    }
}

/// Runs `rounds` rounds of bf16 pair dot products in registers; returns how many multiply-adds that
/// is, 0 where there is no such instruction.
pub fn bf16_multiply_adds(isa: Isa, rounds: usize) -> usize {
    measure(isa, Bf16MultiplyAdds(rounds)) as usize
}

struct Bf16MultiplyAdds(usize);

impl Measure for Bf16MultiplyAdds {
    #[inline(always)]
    fn on<S: Simd + Int8>(self, s: S) -> u64 {
        // An instruction that does this at once flushes.
        if !S::FLUSHES {
            return 0;
        }
        // Pairs of 0.5, pairs of 0.25.
        let [a, b] = black_box([s.splat_bits(0x3f00_3f00), s.splat_bits(0x3e80_3e80)]);
        let mut sums = [s.splat(0.0); CHAINS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.dot_bf16(a, b, *sum);
            }
        }
        black_box(sums);
        (self.0 * CHAINS * 2 * S::LANES) as u64
    }

    fn without(self) -> u64 {
        0
    }
}

/// Runs `rounds` rounds of f32 fused multiply-adds in registers; returns how many that is, 0 where
/// there are none.
pub fn f32_multiply_adds(isa: Isa, rounds: usize) -> usize {
    measure(isa, F32MultiplyAdds(rounds)) as usize
}

struct F32MultiplyAdds(usize);

impl Measure for F32MultiplyAdds {
    #[inline(always)]
    fn on<S: Simd + Int8>(self, s: S) -> u64 {
        let [a, b] = black_box([s.splat(0.5), s.splat(0.25)]);
        let mut sums = [s.splat(0.0); CHAINS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.mul_add(a, *sum, b);
            }
        }
        black_box(sums);
        (self.0 * CHAINS * S::LANES) as u64
    }

    fn without(self) -> u64 {
        0
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Int8;
    use crate::kernels::simd::{avx2::Avx2, avx512::Avx512};

    impl Int8 for Avx2<false> {
        // The sums of 16 bits wrap or saturate: nobody looks at them.
        #[inline(always)]
        fn step(self, sum: __m256i, _: __m256i, x: __m256i) -> __m256i {
            // SAFETY: the processor has AVX2 (`self`).
            unsafe { _mm256_maddubs_epi16(sum, x) }
        }
    }

    impl Int8 for Avx2<true> {
        #[inline(always)]
        fn step(self, sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
            // SAFETY: the processor has AVX-VNNI (`self`).
            unsafe { _mm256_dpbusd_avx_epi32(sum, codes, x) }
        }
    }

    impl<const BF16: bool> Int8 for Avx512<BF16> {
        #[inline(always)]
        fn step(self, sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
            // SAFETY: the processor has AVX-512 VNNI (`self`).
            unsafe { _mm512_dpbusd_epi32(sum, codes, x) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::{Int8, Simd};
    use crate::kernels::matmul::sdot;
    use crate::kernels::simd::neon::{Base, Dotprod, Neon};

    impl Int8 for Neon<Base> {
        const AT_ONCE: usize = 2 * Self::LANES;

        #[inline(always)]
        fn step(self, sum: uint32x4_t, _: uint32x4_t, x: uint32x4_t) -> uint32x4_t {
            // SAFETY: every AArch64 has NEON.
            unsafe {
                let a = vget_low_s8(vreinterpretq_s8_u32(sum));
                let x = vget_low_s8(vreinterpretq_s8_u32(x));
                vreinterpretq_u32_s16(vmlal_s8(vreinterpretq_s16_u32(sum), a, x))
            }
        }
    }

    impl Int8 for Neon<Dotprod> {
        #[inline(always)]
        fn step(self, sum: uint32x4_t, codes: uint32x4_t, x: uint32x4_t) -> uint32x4_t {
            // SAFETY: every AArch64 has NEON.
            sdot::<0>(self, sum, codes, unsafe { vreinterpretq_s8_u32(x) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_reads_everything() {
        let bytes: Vec<u8> = (0..1000).map(|i| (i * 37 % 251) as u8).collect();
        for isa in Isa::available() {
            assert_eq!(read(isa, &bytes), xor(&bytes));
            assert_eq!(int8_multiply_adds(isa, 2), 2 * int8_multiply_adds(isa, 1));
            assert_eq!(bf16_multiply_adds(isa, 2), 2 * bf16_multiply_adds(isa, 1));
            assert_eq!(f32_multiply_adds(isa, 2), 2 * f32_multiply_adds(isa, 1));
        }
    }
}
