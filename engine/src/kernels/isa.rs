//! Instruction sets: detection, names, the `BROOKLET_ISA` override, and [`Isa::run`].
//!
//! Nothing is decided when the binary is compiled: one binary carries every variant its
//! architecture has. An [`Isa`] exists only where the processor has the instructions, so that no
//! safe code can run others. Not here: what the instructions do (`simd`). Tests: below.

use std::ffi::OsString;
use std::fmt;
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

use super::simd::{Inlined, Simd};
#[cfg(target_arch = "x86_64")]
use super::simd::{avx2::Avx2, avx512::Avx512};
#[cfg(target_arch = "aarch64")]
use super::simd::{neon, neon::Neon};

/// An instruction set of this processor that kernels exist for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Set);

/// Which one it is, with the proof that the processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Set {
    /// The definition of every kernel: plain loops.
    Scalar,
    /// Portable SIMD (the `wide` crate), for processors without a hand-written kernel.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2<false>),
    /// The same with AVX-VNNI (Intel's processors without AVX-512, since Alder Lake).
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Avx2<true>),
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    /// AArch64 as every processor has it (Cortex-A53, A72).
    #[cfg(target_arch = "aarch64")]
    Neon(Neon<neon::Base>),
    /// AArch64 with the 8-bit dot product `sdot` (Cortex-A55, A76).
    #[cfg(target_arch = "aarch64")]
    NeonDotprod(Neon<neon::Dotprod>),
    /// AArch64 with `usdot` too (FEAT_I8MM: Cortex-A510, Neoverse V1).
    #[cfg(target_arch = "aarch64")]
    NeonI8mm(Neon<neon::I8mm>),
}

/// An instruction set was asked for by a name that names none of this processor's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// It does not exist, or this processor lacks it.
    #[error(
        "instruction set {name:?} is not available on this machine (BROOKLET_ISA: {})",
        Isa::names()
    )]
    Unavailable {
        /// The name.
        name: String,
    },
    /// The environment variable is no text.
    #[error("BROOKLET_ISA is {value:?}, which is not UTF-8: expected one of {}", Isa::names())]
    NotUtf8 {
        /// Its value.
        value: OsString,
    },
}

impl Isa {
    /// The instruction sets of this processor, slowest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        let sets = [
            Some(Set::Scalar),
            Some(Set::Portable),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Set::Avx2),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().and_then(Avx2::with_vnni).map(Set::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(Set::Avx512),
            #[cfg(target_arch = "aarch64")]
            Some(Set::Neon(Neon::new())),
            #[cfg(target_arch = "aarch64")]
            Neon::<neon::Dotprod>::detect().map(Set::NeonDotprod),
            #[cfg(target_arch = "aarch64")]
            Neon::<neon::I8mm>::detect().map(Set::NeonI8mm),
        ];
        sets.into_iter().flatten().map(Isa)
    }

    /// The definition of every kernel, in plain loops: what the others are tested against.
    pub fn scalar() -> Isa {
        Isa(Set::Scalar)
    }

    /// The choice for processors without a hand-written kernel.
    pub fn portable() -> Isa {
        Isa(Set::Portable)
    }

    /// The fastest instruction set of this processor.
    pub fn detect() -> Isa {
        Isa::available().next_back().unwrap_or(Isa::scalar())
    }

    /// The instruction set of that name.
    ///
    /// # Errors
    /// It does not exist here, or this processor lacks it.
    pub fn by_name(name: &str) -> Result<Isa, IsaError> {
        Isa::available()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| IsaError::Unavailable { name: name.to_owned() })
    }

    /// [`Isa::detect`], unless the environment variable `BROOKLET_ISA` names another.
    ///
    /// # Errors
    /// The variable is not UTF-8, or names an instruction set that does not exist here or that this
    /// processor lacks.
    pub fn from_env() -> Result<Isa, IsaError> {
        Isa::chosen(std::env::var_os("BROOKLET_ISA"))
    }

    /// The choice that the environment variable's value makes.
    fn chosen(value: Option<OsString>) -> Result<Isa, IsaError> {
        match value.filter(|value| !value.is_empty()).map(OsString::into_string) {
            None => Ok(Isa::detect()),
            Some(Ok(name)) => Isa::by_name(&name),
            Some(Err(value)) => Err(IsaError::NotUtf8 { value }),
        }
    }

    /// The name that `BROOKLET_ISA` takes.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Scalar => "scalar",
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Set::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Set::NeonDotprod(_) => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Set::NeonI8mm(_) => "neon-i8mm",
        }
    }

    /// The names of the instruction sets of this processor, for messages.
    pub fn names() -> String {
        Isa::available().map(Isa::name).collect::<Vec<_>>().join(", ")
    }

    /// Which one it is.
    #[inline(always)]
    pub(crate) fn set(self) -> Set {
        self.0
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

    /// Calls `f`, compiled for this instruction set. Called by [`simd!`](super::simd::simd).
    #[inline(always)]
    pub(crate) fn run<R>(self, f: Inlined<impl FnOnce() -> R>) -> R {
        match self.0 {
            Set::Scalar | Set::Portable => f.0(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(s) => s.run(f),
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni(s) => s.plain().run(f),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(s) => s.run(f),
            #[cfg(target_arch = "aarch64")]
            Set::Neon(_) | Set::NeonDotprod(_) | Set::NeonI8mm(_) => Neon::new().run(f),
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for isa in Isa::available() {
            assert_eq!(Isa::by_name(isa.name()), Ok(isa));
            assert_eq!(Isa::chosen(Some(isa.name().into())), Ok(isa));
        }
        assert_eq!(Isa::available().next(), Some(Isa::scalar()));
        assert_eq!(Isa::chosen(None), Ok(Isa::detect()));
        assert_eq!(Isa::chosen(Some(OsString::new())), Ok(Isa::detect()));
    }

    #[test]
    fn other_names_are_refused() {
        let error = Isa::chosen(Some("avx1024".into())).unwrap_err().to_string();
        assert!(error.contains("\"avx1024\"") && error.contains("portable"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let value = OsString::from_vec(b"avx\xff".to_vec());
        let error = Isa::chosen(Some(value.clone())).unwrap_err();
        assert_eq!(error, IsaError::NotUtf8 { value });
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }
}
