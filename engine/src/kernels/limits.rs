//! The machine's own limits, in the instructions the matrix kernels use: reading memory, int8 and
//! bf16 dot products, f32 multiply-adds. Benchmarks set the kernels' figures beside these, measured
//! in the same run. Not here: clocks and threads; a caller times a call and divides. Test: below.

use super::isa::Isa;

/// Independent accumulators: more than any of the instructions needs to hide its latency.
const CHAINS: usize = 12;

/// Reads `bytes` once, in order, with the instruction set's widest loads; returns the exclusive or
/// of its words of 64 bits.
pub fn read(isa: Isa, bytes: &[u8]) -> u64 {
    match isa {
        // SAFETY: an `Isa` reaches kernels only where the processor has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::read_avx512(bytes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { x86::read_avx2(bytes) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => arm::read(bytes),
        _ => xor(bytes),
    }
}

fn xor(bytes: &[u8]) -> u64 {
    bytes.as_chunks::<8>().0.iter().fold(0, |sum, word| sum ^ u64::from_le_bytes(*word))
}

/// Runs `rounds` rounds of int8 multiply-adds in registers (`vpdpbusd`, `vpmaddubsw`, `usdot`,
/// `sdot`, `smlal`); returns how many multiply-adds that is, 0 where no kernel of this instruction
/// set uses such an instruction.
pub fn int8_multiply_adds(isa: Isa, rounds: usize) -> usize {
    match isa {
        // SAFETY: an `Isa` reaches kernels only where the processor has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::dot_avx512(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86::dot_avx_vnni(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::dot_avx2(rounds) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => arm::multiply_add(rounds),
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod | Isa::NeonI8mm => unsafe { arm::dot(rounds) },
        _ => idle(rounds),
    }
}

/// Runs `rounds` rounds of bf16 pair dot products in registers; returns how many multiply-adds that
/// is, 0 where there is no such instruction.
pub fn bf16_multiply_adds(isa: Isa, rounds: usize) -> usize {
    match isa {
        // SAFETY: an `Isa` reaches kernels only where the processor has it; `avx512bf16` is asked
        // for here.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if is_x86_feature_detected!("avx512bf16") => unsafe {
            x86::dot_bf16_avx512(rounds)
        },
        _ => idle(rounds),
    }
}

/// Runs `rounds` rounds of f32 fused multiply-adds in registers; returns how many that is, 0 where
/// there are none.
pub fn f32_multiply_adds(isa: Isa, rounds: usize) -> usize {
    match isa {
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::fma_avx512(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { x86::fma_avx2(rounds) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => arm::fma(rounds),
        _ => idle(rounds),
    }
}

/// What an instruction set without the instruction does in any number of rounds.
fn idle(_rounds: usize) -> usize {
    0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, xor};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub(super) fn read_avx512(bytes: &[u8]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 4];
        let (blocks, rest) = bytes.as_chunks::<256>();
        for block in blocks {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 64 bytes from 64·i, within the block.
                *sum = _mm512_xor_si512(*sum, unsafe {
                    _mm512_loadu_si512(block.as_ptr().add(64 * i).cast())
                });
            }
        }
        let mut words = [0u64; 32];
        for (i, sum) in sums.into_iter().enumerate() {
            // SAFETY: 8 words from 8·i of 32.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().add(8 * i).cast(), sum) };
        }
        words.iter().fold(xor(rest), |a, b| a ^ b)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn read_avx2(bytes: &[u8]) -> u64 {
        let mut sums = [_mm256_setzero_si256(); 4];
        let (blocks, rest) = bytes.as_chunks::<128>();
        for block in blocks {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 32 bytes from 32·i, within the block.
                *sum = _mm256_xor_si256(*sum, unsafe {
                    _mm256_loadu_si256(block.as_ptr().add(32 * i).cast())
                });
            }
        }
        let mut words = [0u64; 16];
        for (i, sum) in sums.into_iter().enumerate() {
            // SAFETY: 4 words from 4·i of 16.
            unsafe { _mm256_storeu_si256(words.as_mut_ptr().add(4 * i).cast(), sum) };
        }
        words.iter().fold(xor(rest), |a, b| a ^ b)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn dot_avx512(rounds: usize) -> usize {
        let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(5)));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        rounds * CHAINS * 64
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn dot_avx_vnni(rounds: usize) -> usize {
        let (a, b) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(5)));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        rounds * CHAINS * 32
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn dot_avx2(rounds: usize) -> usize {
        let b = black_box(_mm256_set1_epi8(5));
        let mut sums = [b; CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_maddubs_epi16(*sum, b);
            }
        }
        black_box(sums);
        rounds * CHAINS * 32
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn dot_bf16_avx512(rounds: usize) -> usize {
        let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(0.25)));
        let (a, b) = (_mm512_cvtne2ps_pbh(a, a), _mm512_cvtne2ps_pbh(b, b));
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
        rounds * CHAINS * 32
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma_avx512(rounds: usize) -> usize {
        let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(0.25)));
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, *sum, b);
            }
        }
        black_box(sums);
        rounds * CHAINS * 16
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma_avx2(rounds: usize) -> usize {
        let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(0.25)));
        let mut sums = [_mm256_setzero_ps(); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(a, *sum, b);
            }
        }
        black_box(sums);
        rounds * CHAINS * 8
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{CHAINS, xor};
    use crate::kernels::matmul::sdot;
    use std::arch::aarch64::*;
    use std::hint::black_box;

    pub(super) fn read(bytes: &[u8]) -> u64 {
        let (blocks, rest) = bytes.as_chunks::<64>();
        let mut words = [0u64; 8];
        // SAFETY: AArch64 always has NEON; 16 bytes from 16·i of 64, within the block and the
        // words.
        unsafe {
            let mut sums = [vdupq_n_u8(0); 4];
            for block in blocks {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = veorq_u8(*sum, vld1q_u8(block.as_ptr().add(16 * i)));
                }
            }
            for (i, sum) in sums.into_iter().enumerate() {
                vst1q_u64(words.as_mut_ptr().add(2 * i), vreinterpretq_u64_u8(sum));
            }
        }
        words.iter().fold(xor(rest), |a, b| a ^ b)
    }

    pub(super) fn multiply_add(rounds: usize) -> usize {
        // SAFETY: AArch64 always has NEON.
        unsafe {
            let b = black_box(vdup_n_s8(5));
            let mut sums = [vdupq_n_s16(3); CHAINS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = vmlal_s8(*sum, vget_low_s8(vreinterpretq_s8_s16(*sum)), b);
                }
            }
            black_box(sums);
        }
        rounds * CHAINS * 8
    }

    /// # Safety
    /// The processor has `sdot`.
    pub(super) unsafe fn dot(rounds: usize) -> usize {
        // SAFETY: AArch64 always has NEON, and this processor `sdot`.
        unsafe {
            let (a, b) = (black_box(vdupq_n_u8(3)), black_box(vdupq_n_s8(5)));
            let mut sums = [vdupq_n_s32(0); CHAINS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = sdot::<0>(*sum, a, b);
                }
            }
            black_box(sums);
        }
        rounds * CHAINS * 16
    }

    pub(super) fn fma(rounds: usize) -> usize {
        // SAFETY: AArch64 always has NEON.
        unsafe {
            let (a, b) = (black_box(vdupq_n_f32(0.5)), black_box(vdupq_n_f32(0.25)));
            let mut sums = [vdupq_n_f32(0.0); CHAINS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = vfmaq_f32(b, a, *sum);
                }
            }
            black_box(sums);
        }
        rounds * CHAINS * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_reads_everything() {
        let bytes: Vec<u8> = (0..1000).map(|i| (i * 37 % 251) as u8).collect();
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.available()) {
            assert_eq!(read(isa, &bytes), xor(&bytes));
            assert_eq!(int8_multiply_adds(isa, 2), 2 * int8_multiply_adds(isa, 1));
            assert_eq!(bf16_multiply_adds(isa, 2), 2 * bf16_multiply_adds(isa, 1));
            assert_eq!(f32_multiply_adds(isa, 2), 2 * f32_multiply_adds(isa, 1));
        }
    }
}
