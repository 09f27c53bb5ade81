//! A slot: its line in the metadata, and its values to be written.
//!
//! Not here: the bytes of its elements (`elements`). Source: `SPEC.md`, "Slots".

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::DType;

/// The number formats that a slot may have.
pub const FORMATS: [DType; 3] = [DType::F32, DType::F16, DType::Int8];

/// A slot as the metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotInfo {
    /// The layer it belongs to.
    pub layer: usize,
    /// Its name in the layer: `att.wkv`, `conv`, …
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    #[serde(rename = "format", with = "format_name")]
    pub dtype: DType,
}

impl SlotInfo {
    /// Elements in the slot; `None` if memory cannot address them.
    pub(super) fn len(&self) -> Option<usize> {
        let n = self.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
        (n <= isize::MAX as usize / size_of::<f32>()).then_some(n)
    }
}

/// A slot to be written.
#[derive(Clone, Debug)]
pub struct SlotValues<'a> {
    /// The layer it belongs to.
    pub layer: usize,
    /// Its name in the layer.
    pub name: &'a str,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Its elements in C order.
    pub values: Cow<'a, [f32]>,
}

/// A number format in JSON: by its name, and only one that slots may have.
mod format_name {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::FORMATS;
    use crate::DType;

    pub(super) fn serialize<S: Serializer>(
        dtype: &DType,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(dtype.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<DType, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = FORMATS.into_iter().find(|dtype| dtype.name() == name);
        known.ok_or_else(|| {
            D::Error::custom(format!("slot format {name:?}: expected f32, f16 or int8"))
        })
    }
}
