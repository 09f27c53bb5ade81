//! `.safetensors`: an 8-byte header length, a JSON header, tensor bytes.
//!
//! Here: the header of one file. Not here: sharded models (`folder`), reading of bytes (`tensor`).
//! The header is parsed into a list, not into a JSON tree: a hostile one costs about its own
//! length. Source: huggingface/safetensors README "Format". Test: at the end of this file, and
//! `tests` against the `safetensors` crate.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::dtype::SourceDType;
use super::meta::MetaValue;
use super::source::{Blob, SourceFile};
use super::table::Table;
use super::tensor::SourceTensor;
use crate::FormatError;

/// The longest header that is read, as in the reference implementation.
const HEADER_MAX: u64 = 100_000_000;

/// Reads the table of tensors of `file`.
pub(super) fn read(file: &Arc<SourceFile>) -> Result<Table, FormatError> {
    let mut len = [0; 8];
    file.read_at(0, &mut len, "the header length")?;
    let len = u64::from_le_bytes(len);
    file.check(8, len, "the header")?;
    if len > HEADER_MAX {
        return Err(file.field("the header length", format_args!("at most {HEADER_MAX}"), len));
    }
    let mut json = vec![0; len as usize];
    file.read_at(8, &mut json, "the header")?;
    let header: Header = serde_json::from_slice(&json).map_err(|source| FormatError::Json {
        path: file.path().to_owned(),
        what: "the header",
        source,
    })?;

    let blob = Blob::Plain { file: Arc::clone(file), offset: 8 + len, len: file.len() - 8 - len };
    let mut table = Table::default();
    table
        .metadata
        .extend(header.metadata.into_iter().map(|(key, value)| (key, MetaValue::Text(value))));
    for (name, entry) in header.tensors {
        let Some(dtype) = SourceDType::from_safetensors(&entry.dtype) else {
            return Err(file.tensor(&name, "number format", "one that is known", entry.dtype));
        };
        let (begin, end) = entry.data_offsets;
        let present = file.len() - 8 - len;
        if end > present {
            let needed = format!("at least {end} bytes of tensor data");
            return Err(file.tensor(
                &name,
                "the file",
                needed,
                format_args!("{present} (is it cut off?)"),
            ));
        }
        let tensor = SourceTensor::new(name, entry.shape, dtype, blob.clone(), begin)?;
        if end.checked_sub(begin) != dtype.bytes_of(tensor.numel()) {
            let expected = format!("those of {:?} {dtype}", tensor.shape);
            return Err(file.tensor(
                &tensor.name,
                "data offsets",
                expected,
                format_args!("{begin}..{end}"),
            ));
        }
        table.tensors.push(tensor);
    }
    Ok(table)
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

#[derive(Default)]
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        header.tensors.push((key, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Table)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use super::super::tests::{survives_every_cut_and_flip, temporary};

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn open(header: &str, data: &[u8]) -> Result<Checkpoint, String> {
        Checkpoint::open(temporary(&file(header, data)).path()).map_err(|e| e.to_string())
    }

    #[test]
    fn every_float_and_no_integer() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},
            "b":{"dtype":"F8_E4M3","shape":[],"data_offsets":[4,5]},
            "c":{"dtype":"I32","shape":[1],"data_offsets":[5,9]},
            "d":{"dtype":"F64","shape":[0,7],"data_offsets":[9,9]}}"#;
        let checkpoint = open(header, &[0x80, 0x3f, 0, 0, 0x38, 1, 0, 0, 0]).unwrap();
        assert_eq!(checkpoint.read("a").unwrap(), [1.0, 0.0]);
        assert_eq!(checkpoint.read("b").unwrap(), [1.0]);
        assert!(checkpoint.read("d").unwrap().is_empty());
        let message = checkpoint.read("c").unwrap_err().to_string();
        assert!(message.contains("\"c\"") && message.contains("I32"), "{message}");
        assert!(checkpoint.read("e").is_err());
        assert_eq!(checkpoint.metadata()["format"].as_str(), Some("pt"));
    }

    #[test]
    fn cut_and_flipped() {
        let header =
            r#"{"__metadata__":{"k":"v"},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
        survives_every_cut_and_flip(&file(header, &[0; 4]));
    }

    #[test]
    fn broken_headers_are_errors_that_name_the_tensor() {
        // Where addresses have 32 bits, the header's reader says it.
        let huge = if usize::BITS < 64 { "header" } else { "\"t\"" };
        for (entry, words) in [
            (r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, "cut off"),
            (r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#, "\"t\""),
            (r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#, "\"t\""),
            (r#"{"dtype":"F4","shape":[1],"data_offsets":[0,4]}"#, "F4"),
            (r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#, "header"),
            (r#"{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}"#, huge),
            (r#"{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}"#, "cut off"),
            (r#"{"dtype":"F32"}"#, "header"),
        ] {
            let message = open(&format!("{{\"t\":{entry}}}"), &[0; 4]).err().unwrap();
            assert!(message.contains(words), "{message}");
        }
        let twice = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let message = open(&format!("{{\"t\":{twice},\"t\":{twice}}}"), &[0; 4]).err().unwrap();
        assert!(message.contains("once"), "{message}");
    }
}
