//! rwkv.cpp's `.bin`: six header fields, then every parameter with its own small header.
//!
//! Here: versions 100 and 101 with FP32, FP16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0. The block layouts of
//! version 101 are those of today's ggml; the quantized types of version 100 had others and are
//! refused, as rwkv.cpp itself does. Not here: that time_decay and time_first are stored
//! exponentiated, LoRA matrices transposed. Source: rwkv.cpp docs/FILE_FORMAT.md and
//! rwkv_file_format.inc. Test: at the end of this file, and `tests`.

use std::sync::Arc;

use super::dtype::SourceDType;
use super::meta::MetaValue;
use super::source::{Blob, Fields, SourceFile};
use super::table::Table;
use super::tensor::{SourceTensor, product};
use crate::FormatError;

/// Dimensions of a parameter; rwkv.cpp has 1 to 3.
const DIMS_MAX: u32 = 4;

/// Most bytes of a parameter's name, and most parameters.
const NAME_MAX: u32 = 1024;
const PARAMETERS_MAX: usize = 1 << 17;

const OLD: &str = "quantize the FP16 or FP32 file again with a newer rwkv.cpp, \
                   or convert the original checkpoint";

/// Reads the table of tensors of `file`.
pub(super) fn read(file: &Arc<SourceFile>) -> Result<Table, FormatError> {
    // Byte 0: the magic number, which `sniff` saw.
    let mut fields = Fields::new(file, 4);
    let mut table = Table::default();
    for (i, name) in
        ["version", "n_vocab", "n_embed", "n_layer", "data_type"].into_iter().enumerate()
    {
        let value = fields.u32("the header")?;
        if i == 0 && !(100..=101).contains(&value) {
            return Err(file.field("the rwkv.cpp file version", "100 or 101", value));
        }
        table.metadata.insert(format!("rwkv.cpp.{name}"), MetaValue::Unsigned(value.into()));
    }
    let version = table.metadata["rwkv.cpp.version"].as_u64();

    let blob = Blob::whole(file);
    while fields.remaining() > 0 {
        if table.tensors.len() == PARAMETERS_MAX {
            return Err(file.field(
                "the number of parameters",
                format_args!("at most {PARAMETERS_MAX}"),
                "more",
            ));
        }
        let n_dim = fields.u32("a parameter's header")?;
        let name_len = fields.u32("a parameter's header")?;
        let type_id = fields.u32("a parameter's header")?;
        if !(1..=DIMS_MAX).contains(&n_dim) || name_len > NAME_MAX {
            let found = format!(
                "{n_dim} dimensions, a name of {name_len} bytes at byte {}",
                fields.position() - 12
            );
            return Err(file.field(
                "a parameter's header",
                "1 to 4 dimensions and a short name",
                found,
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dim {
            shape.push(fields.u32("a parameter's shape")? as usize);
        }
        // The file counts from the innermost dimension.
        shape.reverse();
        let name = fields.text(name_len.into(), "a parameter's name")?;
        let dtype = SourceDType::from_rwkvcpp(type_id).map_err(|removed| {
            let expected = "FP32, FP16, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0";
            file.tensor(&name, "number format", expected, format_args!("{removed} (id {type_id})"))
        })?;
        if version == Some(100) && dtype.block_len() > 1 {
            return Err(FormatError::NotAModel {
                path: file.path().to_owned(),
                found: format!(
                    "an rwkv.cpp file of version 100 in the old {dtype} layout of tensor {name:?}"
                ),
                mend: OLD,
            });
        }
        let bytes = product(&shape).and_then(|numel| dtype.bytes_of(numel));
        let offset = fields.position();
        // `new` says what is wrong when `bytes` is none.
        if let Some(bytes) = bytes {
            fields.skip(bytes, "a parameter's data")?;
        }
        table.tensors.push(SourceTensor::new(name, shape, dtype, blob.clone(), offset)?);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{survives_every_cut_and_flip, temporary};
    use super::super::{Checkpoint, CheckpointKind};

    fn file(version: u32, parameters: &[(u32, &[u32], &str, usize)]) -> Vec<u8> {
        let mut bytes = b"fmgg".to_vec();
        let put = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        bytes.extend(put(&[version, 256, 64, 1, 0]));
        for &(type_id, shape, name, len) in parameters {
            bytes.extend(put(&[shape.len() as u32, name.len() as u32, type_id]));
            bytes.extend(put(shape));
            bytes.extend(name.as_bytes());
            bytes.extend(vec![0; len]);
        }
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Checkpoint, String> {
        Checkpoint::open(temporary(bytes).path()).map_err(|e| e.to_string())
    }

    #[test]
    fn quantized_parameters_of_version_101() {
        let checkpoint = open(&file(
            101,
            &[(7, &[64, 3], "a", 132), (9, &[32, 2], "b", 68), (0, &[5], "c", 20)],
        ))
        .unwrap();
        assert_eq!(checkpoint.kind(), CheckpointKind::RwkvCpp);
        assert_eq!(checkpoint.get("a").unwrap().shape, [3, 64]);
        assert_eq!(checkpoint.read("b").unwrap(), [0.0; 64]);
        assert_eq!(checkpoint.metadata()["rwkv.cpp.n_embed"].as_u64(), Some(64));
    }

    #[test]
    fn cut_and_flipped() {
        survives_every_cut_and_flip(&file(
            101,
            &[(0, &[3], "ln", 12), (7, &[32, 2], "att.key", 44)],
        ));
    }

    #[test]
    fn what_is_refused_and_why() {
        for (bytes, words) in [
            (file(100, &[(2, &[64, 3], "a", 240)]), "quantize the FP16"),
            (file(101, &[(5, &[64, 3], "a", 240)]), "Q4_2"),
            (file(101, &[(77, &[64, 3], "a", 240)]), "id 77"),
            (file(99, &[]), "100 or 101"),
            (file(101, &[]), "no tensors"),
            (file(101, &[(0, &[64, 3], "a", 700)]), "truncated"),
            (file(101, &[(2, &[48, 2], "a", 54)]), "multiple of 32"),
            (file(101, &[(0, &[u32::MAX; 3], "a", 4)]), "\"a\""),
            (file(101, &[(0, &[1; 5], "a", 4)]), "5 dimensions"),
            (file(101, &[(0, &[1], "a", 4), (0, &[1], "a", 4)]), "once"),
        ] {
            let message = open(&bytes).err().unwrap();
            assert!(message.contains(words), "{message}");
        }
    }
}
