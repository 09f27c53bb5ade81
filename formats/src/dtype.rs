//! The table of number formats: what one weight of a matrix is stored as.
//!
//! Here: ids as they stand in the file, names as people type them, sizes, group lengths. Not here:
//! the bytes of a tile (`quant::tile`) and the codecs (`quant::*`).
//! Source: `SPEC.md`, "Format ids". Test: at the end of this file.

use std::fmt;

/// The number format of a tensor's elements. The discriminants are the ids in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DType {
    /// IEEE 754 binary32.
    F32 = 0,
    /// IEEE 754 binary16.
    F16 = 1,
    /// bfloat16: the upper half of an f32.
    Bf16 = 2,
    /// `value = q · scale`, `q` in −127..=127, one f16 scale per row and group.
    Int8 = 3,
    /// `value = q · scale`, `q` in −8..=7, one f16 scale per row and group: what `int4` was before
    /// [`DType::Int4`].
    Int4V1 = 4,
    /// `value = e4m3(code) · scale`: 4 exponent bits, 3 mantissa bits, largest 448.
    Fp8E4m3 = 5,
    /// `value = e5m2(code) · scale`: 5 exponent bits, 2 mantissa bits, largest 57344.
    Fp8E5m2 = 6,
    /// The bytes of [`DType::Fp8E4m3`], multiplied by the L-Mul rule (arXiv 2410.00907).
    Lmul = 7,
    /// `value = table[code] · scale · step`: 16 values, one 8-bit scale per row and 32 columns, one
    /// f16 step per row.
    Int4 = 8,
    /// `value = q · scale · step`, `q` in −16..=15, scales and steps as those of [`DType::Int4`].
    Int5 = 9,
    /// `value = q · scale · step`, `q` in −32..=31, scales and steps as those of [`DType::Int4`].
    Int6 = 10,
}

impl DType {
    /// Every format, in the order of the ids.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Int8,
        Self::Int4V1,
        Self::Fp8E4m3,
        Self::Fp8E5m2,
        Self::Lmul,
        Self::Int4,
        Self::Int5,
        Self::Int6,
    ];

    /// The name that people type and read.
    ///
    /// ```
    /// use brooklet_formats::DType;
    /// assert_eq!(DType::Fp8E4m3.name(), "fp8-e4m3");
    /// assert_eq!(DType::parse("int4"), Some(DType::Int4));
    /// ```
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4V1 => "int4-v1",
            Self::Fp8E4m3 => "fp8-e4m3",
            Self::Fp8E5m2 => "fp8-e5m2",
            Self::Lmul => "lmul",
            Self::Int4 => "int4",
            Self::Int5 => "int5",
            Self::Int6 => "int6",
        }
    }

    /// The format of that [name](Self::name), or `None`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The format id in the file.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The format of that [id](Self::id), or `None`.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// Bits of one element, without its share of the scale.
    pub const fn element_bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::Int8 | Self::Fp8E4m3 | Self::Fp8E5m2 | Self::Lmul => 8,
            Self::Int6 => 6,
            Self::Int5 => 5,
            Self::Int4 | Self::Int4V1 => 4,
        }
    }

    /// Whether each row carries one scale per group of columns.
    pub const fn has_scales(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Whether scales are integers of 8 bits under a step per row, kept apart from the codes; f16
    /// beside these otherwise.
    pub const fn has_steps(self) -> bool {
        matches!(self, Self::Int4 | Self::Int5 | Self::Int6)
    }

    /// Columns that may share a scale, ascending.
    ///
    /// ```
    /// use brooklet_formats::DType;
    /// assert_eq!(DType::Int8.groups(), [32, 64, 128]);
    /// assert_eq!(DType::Int4.groups(), [32]);
    /// assert_eq!(DType::F16.groups(), [0]);
    /// ```
    pub const fn groups(self) -> &'static [usize] {
        match self {
            _ if self.has_steps() => &[32],
            _ if self.has_scales() => &[32, 64, 128],
            _ => &[0],
        }
    }

    /// Columns that share a scale when nothing else is asked for: 32 where scales have 8 bits, 64
    /// for the other integers, 128 for FP8 and L-Mul (whose codes carry exponents of their own), 0
    /// for the formats without scales.
    pub const fn default_group(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 0,
            Self::Int4 | Self::Int5 | Self::Int6 => 32,
            Self::Int8 | Self::Int4V1 => 64,
            Self::Fp8E4m3 | Self::Fp8E5m2 | Self::Lmul => 128,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, UnknownDType> {
        Self::parse(name).ok_or_else(|| UnknownDType(name.to_owned()))
    }
}

/// A name that is no number format; its Display lists those that are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDType(pub String);

impl fmt::Display for UnknownDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown number format {:?}, expected one of", self.0)?;
        DType::ALL
            .iter()
            .enumerate()
            .try_for_each(|(i, dtype)| write!(f, "{}{dtype}", if i == 0 { " " } else { ", " }))
    }
}

impl std::error::Error for UnknownDType {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_come_back() {
        for (id, dtype) in DType::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(dtype.id()), id);
            assert_eq!(DType::from_id(dtype.id()), Some(dtype));
            assert_eq!(dtype.name().parse(), Ok(dtype));
            assert_eq!(dtype.has_scales(), dtype.default_group() != 0);
            assert!(dtype.groups().contains(&dtype.default_group()));
        }
        assert_eq!(DType::from_id(11), None);
        assert_eq!(
            "int3".parse::<DType>().unwrap_err().to_string(),
            "unknown number format \"int3\", expected one of \
             f32, f16, bf16, int8, int4-v1, fp8-e4m3, fp8-e5m2, lmul, int4, int5, int6"
        );
    }
}
