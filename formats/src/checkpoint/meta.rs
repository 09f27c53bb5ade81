//! [`MetaValue`]: the key-values that a checkpoint file carries beside its tensors.
//!
//! Here: GGUF's typed values, and the text and integer fields of the other formats in the same
//! shape. Not here: what the keys mean. Arrays are kept typed, so that a vocabulary costs what its
//! text costs. Source: GGUF specification, "gguf_metadata_value_type". Test: `gguf`.

/// A value of a checkpoint's metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaValue {
    /// A truth value.
    Bool(bool),
    /// u8 to u64.
    Unsigned(u64),
    /// i8 to i64.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// Text; bytes that are not UTF-8 stand as U+FFFD.
    Text(String),
    /// An array of truth values.
    Bools(Vec<bool>),
    /// An array of u8 to u64.
    Unsigneds(Vec<u64>),
    /// An array of i8 to i64.
    Signeds(Vec<i64>),
    /// An array of f32 or f64.
    Floats(Vec<f64>),
    /// An array of texts.
    Texts(Vec<String>),
    /// An array of arrays.
    List(Vec<MetaValue>),
}

impl MetaValue {
    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The number, if it is an integer from 0 on.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(value) => Some(*value as f64),
            Self::Signed(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The texts, if it is an array of them.
    pub fn as_texts(&self) -> Option<&[String]> {
        match self {
            Self::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// The numbers, if it is an array of integers that fit i64.
    pub fn to_integers(&self) -> Option<Vec<i64>> {
        match self {
            Self::Signeds(values) => Some(values.clone()),
            Self::Unsigneds(values) => values.iter().map(|&v| i64::try_from(v).ok()).collect(),
            _ => None,
        }
    }

    /// The numbers, if it is an array of floats.
    pub fn as_floats(&self) -> Option<&[f64]> {
        match self {
            Self::Floats(values) => Some(values),
            _ => None,
        }
    }
}
