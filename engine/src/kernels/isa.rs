//! Instruction sets: detection at start, the `BROOKLET_ISA` override, and [`Isa::run`].
//!
//! Nothing is decided when the binary is compiled: one binary carries every variant its
//! architecture has.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;

#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

use crate::EngineError;

/// An instruction set that kernels exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// The definition of every kernel: plain loops.
    Scalar,
    /// Portable SIMD (the `wide` crate), for processors without a hand-written kernel.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same with AVX-VNNI (Intel's processors without AVX-512, since Alder Lake).
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AArch64 as every processor has it (Cortex-A53, A72).
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// AArch64 with the 8-bit dot product `sdot` (Cortex-A55, A76).
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// AArch64 with `usdot` too (FEAT_I8MM: Cortex-A510, Neoverse V1).
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
}

impl Isa {
    /// Every instruction set this build knows, slowest first.
    pub const ALL: &'static [Isa] = &[
        Isa::Scalar,
        Isa::Portable,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm,
    ];

    /// The name that `BROOKLET_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => "neon-i8mm",
        }
    }

    /// Whether this processor can run it.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar | Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            // Every AArch64 that this is compiled for has NEON.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Isa::NeonDotprod.available() && is_aarch64_feature_detected!("i8mm"),
        }
    }

    /// The names of the instruction sets this processor can run, for messages.
    pub fn names() -> String {
        let names = Isa::ALL.iter().filter(|isa| isa.available()).map(|isa| isa.name());
        names.collect::<Vec<_>>().join(", ")
    }

    /// The fastest instruction set of this processor.
    pub fn best() -> Isa {
        *Isa::ALL.iter().rev().find(|isa| isa.available()).unwrap_or(&Isa::Scalar)
    }

    /// [`Isa::best`], unless the environment variable `BROOKLET_ISA` names another.
    ///
    /// # Errors
    /// The variable names an instruction set that does not exist here or that this processor lacks.
    pub fn from_env() -> Result<Isa, EngineError> {
        match std::env::var("BROOKLET_ISA") {
            Ok(name) if !name.is_empty() => Isa::ALL
                .iter()
                .copied()
                .find(|isa| isa.name() == name && isa.available())
                .ok_or(EngineError::Isa { name }),
            _ => Ok(Isa::best()),
        }
    }

    /// How many bytes ahead a kernel fetches what it reads once and in order; 0 where the processor
    /// does that by itself.
    ///
    /// Measured: an Emerald Rapids reads int4 at 60 % of its memory's speed without it and at 85 %
    /// with it, 4 to 16 KB ahead alike; a Zen 4 reads at full speed without it, and up to a quarter
    /// slower with it.
    #[inline]
    pub(crate) fn fetch_ahead() -> usize {
        #[cfg(target_arch = "x86_64")]
        {
            // Asked once: under a hypervisor the question takes microseconds.
            static AHEAD: LazyLock<usize> = LazyLock::new(|| {
                // SAFETY: every x86-64 processor has the instruction. Newer compilers know.
                #[allow(unused_unsafe)]
                let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
                let intel = [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes);
                if [vendor.ebx, vendor.edx, vendor.ecx] == intel { 8192 } else { 0 }
            });
            *AHEAD
        }
        #[cfg(not(target_arch = "x86_64"))]
        0
    }

    /// Runs `f` compiled for this instruction set: its body and all that is inlined into it may use
    /// the wider vectors. The result does not depend on the instruction set, since the compiler
    /// never fuses or reorders float operations. Mark the closure `#[inline(always)]`: left out of
    /// line, it is compiled for the oldest processor.
    #[inline(always)]
    pub(crate) fn run<R>(self, f: impl FnOnce() -> R) -> R {
        match self {
            Isa::Scalar | Isa::Portable => f(),
            // SAFETY: an `Isa` reaches kernels only from `best`, `from_env` or a test that asked
            // `available`.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => unsafe { run_avx2(f) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { run_avx512(f) },
            // What the extensions add is for the matrix kernels.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => f(),
        }
    }
}

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn run_avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}
