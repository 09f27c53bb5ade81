//! [`SourceDType`]: the number format of a foreign tensor.
//!
//! Here: the table of names and sizes, the ids of GGUF, rwkv.cpp, safetensors and torch. Not here:
//! decoding (`decode`, `ggml_blocks`), our own formats ([`crate::DType`]). Sources: safetensors
//! README "Format"; torch/storage.py; ggml.h `enum ggml_type`; rwkv.cpp docs/FILE_FORMAT.md. Test:
//! at the end of this file.

use std::fmt;

/// The number format of a tensor in a foreign checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the name that its format gives it")]
pub enum SourceDType {
    F64,
    F32,
    F16,
    Bf16,
    F8E4m3,
    F8E5m2,
    F8E8m0,
    F4,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    U4,
    Bool,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Tq1_0,
    Tq2_0,
    Mxfp4,
    Nvfp4,
}

use SourceDType as T;

impl SourceDType {
    /// The name as the formats write it: `F32`, `BF16`, `F8_E4M3`, `Q4_K`, …
    pub const fn name(self) -> &'static str {
        match self {
            T::F64 => "F64",
            T::F32 => "F32",
            T::F16 => "F16",
            T::Bf16 => "BF16",
            T::F8E4m3 => "F8_E4M3",
            T::F8E5m2 => "F8_E5M2",
            T::F8E8m0 => "F8_E8M0",
            T::F4 => "F4",
            T::I64 => "I64",
            T::I32 => "I32",
            T::I16 => "I16",
            T::I8 => "I8",
            T::U64 => "U64",
            T::U32 => "U32",
            T::U16 => "U16",
            T::U8 => "U8",
            T::U4 => "U4",
            T::Bool => "BOOL",
            T::Q4_0 => "Q4_0",
            T::Q4_1 => "Q4_1",
            T::Q5_0 => "Q5_0",
            T::Q5_1 => "Q5_1",
            T::Q8_0 => "Q8_0",
            T::Q2K => "Q2_K",
            T::Q3K => "Q3_K",
            T::Q4K => "Q4_K",
            T::Q5K => "Q5_K",
            T::Q6K => "Q6_K",
            T::Iq4Nl => "IQ4_NL",
            T::Iq4Xs => "IQ4_XS",
            T::Iq1S => "IQ1_S",
            T::Iq1M => "IQ1_M",
            T::Iq2Xxs => "IQ2_XXS",
            T::Iq2Xs => "IQ2_XS",
            T::Iq2S => "IQ2_S",
            T::Iq3Xxs => "IQ3_XXS",
            T::Iq3S => "IQ3_S",
            T::Tq1_0 => "TQ1_0",
            T::Tq2_0 => "TQ2_0",
            T::Mxfp4 => "MXFP4",
            T::Nvfp4 => "NVFP4",
        }
    }

    /// Elements per block: 1 for plain numbers, 2 where two share a byte, 32 to 256 for ggml's
    /// blocks.
    pub const fn block_len(self) -> usize {
        match self {
            T::Q4_0 | T::Q4_1 | T::Q5_0 | T::Q5_1 | T::Q8_0 | T::Iq4Nl | T::Mxfp4 => 32,
            T::Q2K | T::Q3K | T::Q4K | T::Q5K | T::Q6K | T::Tq1_0 | T::Tq2_0 => 256,
            T::Iq1S | T::Iq1M | T::Iq2Xxs | T::Iq2Xs | T::Iq2S => 256,
            T::Iq3Xxs | T::Iq3S | T::Iq4Xs => 256,
            T::Nvfp4 => 64,
            T::F4 | T::U4 => 2,
            _ => 1,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            T::F64 | T::I64 | T::U64 => 8,
            T::F32 | T::I32 | T::U32 => 4,
            T::F16 | T::Bf16 | T::I16 | T::U16 => 2,
            T::F8E4m3 | T::F8E5m2 | T::F8E8m0 | T::I8 | T::U8 | T::Bool => 1,
            T::F4 | T::U4 => 1,
            T::Q4_0 | T::Iq4Nl => 18,
            T::Q4_1 => 20,
            T::Q5_0 => 22,
            T::Q5_1 => 24,
            T::Q8_0 => 34,
            T::Q2K => 84,
            T::Q3K => 110,
            T::Q4K => 144,
            T::Q5K => 176,
            T::Q6K => 210,
            T::Iq4Xs => 136,
            T::Iq1S => 50,
            T::Iq1M => 56,
            T::Iq2Xxs => 66,
            T::Iq2Xs => 74,
            T::Iq2S => 82,
            T::Iq3Xxs => 98,
            T::Iq3S => 110,
            T::Tq1_0 => 54,
            T::Tq2_0 => 66,
            T::Mxfp4 => 17,
            T::Nvfp4 => 36,
        }
    }

    /// Whether the elements are whole numbers, which no weight of a model is.
    pub const fn is_integer(self) -> bool {
        matches!(
            self,
            T::I64 | T::I32 | T::I16 | T::I8 | T::U64 | T::U32 | T::U16 | T::U8 | T::U4 | T::Bool
        )
    }

    /// Numbers in 32 bits.
    pub(crate) const fn per_word(self) -> usize {
        4 * self.block_len() / self.block_bytes()
    }

    /// Bytes of `n` elements; `None` when `n` is no whole number of blocks or the product
    /// overflows.
    pub(crate) const fn bytes_of(self, n: usize) -> Option<u64> {
        if !n.is_multiple_of(self.block_len()) {
            return None;
        }
        (n as u64 / self.block_len() as u64).checked_mul(self.block_bytes() as u64)
    }

    /// The dtype of that name in a safetensors header.
    pub(crate) fn from_safetensors(name: &str) -> Option<Self> {
        Some(match name {
            "F64" => T::F64,
            "F32" => T::F32,
            "F16" => T::F16,
            "BF16" => T::Bf16,
            "F8_E4M3" => T::F8E4m3,
            "F8_E5M2" => T::F8E5m2,
            "F8_E8M0" => T::F8E8m0,
            "I64" => T::I64,
            "I32" => T::I32,
            "I16" => T::I16,
            "I8" => T::I8,
            "U64" => T::U64,
            "U32" => T::U32,
            "U16" => T::U16,
            "U8" => T::U8,
            "BOOL" => T::Bool,
            _ => return None,
        })
    }

    /// The dtype of a torch storage class (`FloatStorage`) or of a torch dtype (`float32`).
    pub(crate) fn from_torch(name: &str) -> Option<Self> {
        Some(match name {
            "DoubleStorage" | "float64" | "double" => T::F64,
            "FloatStorage" | "float32" | "float" => T::F32,
            "HalfStorage" | "float16" | "half" => T::F16,
            "BFloat16Storage" | "bfloat16" => T::Bf16,
            "Float8_e4m3fnStorage" | "float8_e4m3fn" => T::F8E4m3,
            "Float8_e5m2Storage" | "float8_e5m2" => T::F8E5m2,
            "Float8_e8m0fnuStorage" | "float8_e8m0fnu" => T::F8E8m0,
            "LongStorage" | "int64" | "long" => T::I64,
            "IntStorage" | "int32" | "int" => T::I32,
            "ShortStorage" | "int16" | "short" => T::I16,
            "CharStorage" | "int8" => T::I8,
            "ByteStorage" | "uint8" => T::U8,
            "uint16" => T::U16,
            "uint32" => T::U32,
            "uint64" => T::U64,
            "BoolStorage" | "bool" => T::Bool,
            _ => return None,
        })
    }

    /// The type of that id in a GGUF file (`enum ggml_type`), or the name of a type that is not
    /// read.
    pub(crate) fn from_ggml(id: u32) -> Result<Self, &'static str> {
        Ok(match id {
            0 => T::F32,
            1 => T::F16,
            2 => T::Q4_0,
            3 => T::Q4_1,
            6 => T::Q5_0,
            7 => T::Q5_1,
            8 => T::Q8_0,
            10 => T::Q2K,
            11 => T::Q3K,
            12 => T::Q4K,
            13 => T::Q5K,
            14 => T::Q6K,
            20 => T::Iq4Nl,
            23 => T::Iq4Xs,
            24 => T::I8,
            25 => T::I16,
            26 => T::I32,
            27 => T::I64,
            28 => T::F64,
            30 => T::Bf16,
            39 => T::Mxfp4,
            4 => return Err("Q4_2"),
            5 => return Err("Q4_3"),
            9 => return Err("Q8_1"),
            15 => return Err("Q8_K"),
            16 => T::Iq2Xxs,
            17 => T::Iq2Xs,
            18 => T::Iq3Xxs,
            19 => T::Iq1S,
            21 => T::Iq3S,
            22 => T::Iq2S,
            29 => T::Iq1M,
            34 => T::Tq1_0,
            35 => T::Tq2_0,
            40 => T::Nvfp4,
            _ => return Err("an unknown type"),
        })
    }

    /// The type of that id in an rwkv.cpp file, or the name of a type that was dropped.
    pub(crate) fn from_rwkvcpp(id: u32) -> Result<Self, &'static str> {
        Ok(match id {
            0 => T::F32,
            1 => T::F16,
            2 => T::Q4_0,
            3 => T::Q4_1,
            7 => T::Q5_0,
            8 => T::Q5_1,
            9 => T::Q8_0,
            4 => return Err("Q4_1_O"),
            5 => return Err("Q4_2"),
            6 => return Err("Q4_3"),
            _ => return Err("an unknown type"),
        })
    }
}

impl fmt::Display for SourceDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_whole_blocks_only() {
        assert_eq!(T::Q4_0.bytes_of(64), Some(36));
        assert_eq!(T::Q4_0.bytes_of(33), None);
        assert_eq!(T::Q6K.bytes_of(512), Some(420));
        assert_eq!(T::F64.bytes_of(usize::MAX), (usize::MAX as u64).checked_mul(8));
    }
}
