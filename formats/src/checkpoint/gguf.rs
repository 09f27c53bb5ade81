//! GGUF: llama.cpp's file of key-values and tensors, versions 2 and 3.
//!
//! Here: the header. Not here: the blocks (`ggml_blocks`), what the keys and names mean. A model
//! may be split over several files (`folder`); the big-endian variant is refused by name. Bounds:
//! the header takes at most [`HEADER_MAX`] bytes of memory, arrays nest [`DEPTH_MAX`] deep. Source:
//! ggml docs/gguf.md. Test: at the end of this file, and `tests`.

use std::mem::size_of;
use std::path::Path;
use std::sync::Arc;

use super::dtype::SourceDType;
use super::meta::MetaValue;
use super::source::{Blob, Fields, SourceFile};
use super::table::Table;
use super::tensor::SourceTensor;
use crate::FormatError;

/// Memory for key-values and tensor entries together: a vocabulary of 250 000 tokens takes a tenth
/// of it.
const HEADER_MAX: u64 = 256 << 20;

/// Nesting of arrays in arrays; none is known to nest at all.
const DEPTH_MAX: usize = 4;

/// Dimensions of a tensor (`GGML_MAX_DIMS`).
const DIMS_MAX: u32 = 4;

/// Least bytes of a key-value, and of a tensor's entry: both bound the counts in the header.
const KEY_VALUE_MIN: u64 = 8 + 4 + 1;
const TENSOR_MIN: u64 = 8 + 4 + 4 + 8;

/// Most bytes of a tensor's name.
const NAME_MAX: u64 = 1024;

/// Reads key-values and tensors of `file`.
pub(super) fn read(file: &Arc<SourceFile>) -> Result<Table, FormatError> {
    // Byte 0: the magic number, which `sniff` saw.
    let mut header =
        Header { fields: Fields::new(file, 4), file: Arc::clone(file), budget: HEADER_MAX };
    let version = header.fields.u32("the version")?;
    match version {
        2 | 3 => {}
        1 => return Err(file.field("the GGUF version", "2 or 3", "1 (convert the model again)")),
        _ if (1..=3).contains(&version.swap_bytes()) => {
            return Err(file.field("the byte order", "little-endian", "big-endian"));
        }
        _ => return Err(file.field("the GGUF version", "2 or 3", version)),
    }
    let n_tensor = header.count("the number of tensors", TENSOR_MIN)?;
    let n_key = header.count("the number of key-values", KEY_VALUE_MIN)?;

    let mut table = Table::default();
    for _ in 0..n_key {
        let key = header.text()?;
        let kind = header.fields.u32("a value's type")?;
        let value = header.value(kind, 0)?;
        table.metadata.insert(key, value);
    }
    let alignment = table.metadata.get("general.alignment").map_or(Some(32), MetaValue::as_u64);
    let Some(alignment) = alignment.filter(|&n| n.is_power_of_two() && n <= 1 << 20) else {
        let found = format!("{:?}", table.metadata["general.alignment"]);
        return Err(file.field("general.alignment", "a power of two", found));
    };

    let mut entries = Vec::new();
    for _ in 0..n_tensor {
        entries.push(header.entry()?);
    }
    let start = header.fields.position().next_multiple_of(alignment).min(file.len());
    let blob = Blob::Plain { file: Arc::clone(file), offset: start, len: file.len() - start };
    for Entry { name, shape, type_id, offset } in entries {
        let dtype = SourceDType::from_ggml(type_id).map_err(|unread| {
            let expected =
                "F32, F16, BF16, F64, Q4_0 to Q8_0, Q2_K to Q6_K, IQ1 to IQ4, TQ1_0, TQ2_0, MXFP4 or NVFP4";
            file.tensor(&name, "number format", expected, format_args!("{unread} (id {type_id})"))
        })?;
        if !offset.is_multiple_of(alignment) {
            return Err(file.tensor(
                &name,
                "offset",
                format_args!("a multiple of {alignment}"),
                offset,
            ));
        }
        table.tensors.push(SourceTensor::new(name, shape, dtype, blob.clone(), offset)?);
    }
    Ok(table)
}

/// An error unless the file is one of `n` parts, as its own key-values say; files of other kinds
/// say nothing.
pub(super) fn check_parts(file: &SourceFile, table: &Table, n: usize) -> Result<(), FormatError> {
    let count = table.metadata.get("split.count").and_then(MetaValue::as_u64).unwrap_or(n as u64);
    match (count, n) {
        _ if count.max(1) == n as u64 => Ok(()),
        (_, 1) => Err(FormatError::NotAModel {
            path: file.path().to_owned(),
            found: format!("one of {count} parts of a split GGUF model under a name of its own"),
            mend: "name the parts NAME-00001-of-0000N.gguf again, as llama-gguf-split does",
        }),
        _ => Err(file.field("split.count", format_args!("{n}, as the name says"), count)),
    }
}

/// An error unless the parts have as many tensors together as the first one says.
pub(super) fn check_total(path: &Path, table: &Table) -> Result<(), FormatError> {
    let total = table.metadata.get("split.tensors.count").and_then(MetaValue::as_u64);
    let found = table.tensors.len();
    if total.is_none_or(|total| total == found as u64) {
        return Ok(());
    }
    Err(FormatError::Field {
        path: path.to_owned(),
        what: "split.tensors.count",
        expected: format!("{found}, the number of tensors in all parts"),
        found: total.unwrap_or(0).to_string(),
    })
}

/// A tensor's entry, before its type is looked at.
struct Entry {
    name: String,
    shape: Vec<usize>,
    type_id: u32,
    offset: u64,
}

struct Header {
    fields: Fields,
    file: Arc<SourceFile>,
    /// Bytes of memory that the header may still take.
    budget: u64,
}

impl Header {
    /// A count of things of at least `min` bytes each, which must fit into the rest of the file.
    fn count(&mut self, what: &'static str, min: u64) -> Result<u64, FormatError> {
        let n = self.fields.u64(what)?;
        let most = self.fields.remaining() / min;
        if n > most {
            return Err(self.file.field(
                what,
                format_args!("at most {most} in a file of this length"),
                n,
            ));
        }
        Ok(n)
    }

    fn spend(&mut self, bytes: u64) -> Result<(), FormatError> {
        self.budget = self.budget.checked_sub(bytes).ok_or_else(|| {
            let expected = format!("at most {HEADER_MAX} bytes");
            self.file.field("the size of the header in memory", expected, "more")
        })?;
        Ok(())
    }

    fn text(&mut self) -> Result<String, FormatError> {
        let len = self.fields.u64("the length of a text")?;
        // A lossy decoding may turn every byte into three.
        self.spend(len.saturating_mul(3).saturating_add(size_of::<String>() as u64))?;
        self.fields.text(len, "a text")
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<MetaValue, FormatError> {
        self.spend(size_of::<MetaValue>() as u64)?;
        let fields = &mut self.fields;
        let what = "a value";
        Ok(match kind {
            0 => MetaValue::Unsigned(u8::from_le_bytes(fields.array(what)?).into()),
            1 => MetaValue::Signed(i8::from_le_bytes(fields.array(what)?).into()),
            2 => MetaValue::Unsigned(u16::from_le_bytes(fields.array(what)?).into()),
            3 => MetaValue::Signed(i16::from_le_bytes(fields.array(what)?).into()),
            4 => MetaValue::Unsigned(u32::from_le_bytes(fields.array(what)?).into()),
            5 => MetaValue::Signed(i32::from_le_bytes(fields.array(what)?).into()),
            6 => MetaValue::Float(f32::from_le_bytes(fields.array(what)?).into()),
            7 => MetaValue::Bool(u8::from_le_bytes(fields.array(what)?) != 0),
            8 => MetaValue::Text(self.text()?),
            9 => self.array(depth)?,
            10 => MetaValue::Unsigned(u64::from_le_bytes(fields.array(what)?)),
            11 => MetaValue::Signed(i64::from_le_bytes(fields.array(what)?)),
            12 => MetaValue::Float(f64::from_le_bytes(fields.array(what)?)),
            _ => return Err(self.file.field("a value's type", "0 to 12", kind)),
        })
    }

    fn array(&mut self, depth: usize) -> Result<MetaValue, FormatError> {
        let kind = self.fields.u32("an array's type")?;
        let n = self.count("the length of an array", 1)?;
        if kind == 9 && depth >= DEPTH_MAX {
            return Err(self.file.field(
                "an array",
                format_args!("nested at most {DEPTH_MAX} deep"),
                "deeper",
            ));
        }
        match kind {
            0 => self.numbers(n, MetaValue::Unsigneds, |b| u8::from_le_bytes(b).into()),
            1 => self.numbers(n, MetaValue::Signeds, |b| i8::from_le_bytes(b).into()),
            2 => self.numbers(n, MetaValue::Unsigneds, |b| u16::from_le_bytes(b).into()),
            3 => self.numbers(n, MetaValue::Signeds, |b| i16::from_le_bytes(b).into()),
            4 => self.numbers(n, MetaValue::Unsigneds, |b| u32::from_le_bytes(b).into()),
            5 => self.numbers(n, MetaValue::Signeds, |b| i32::from_le_bytes(b).into()),
            6 => self.numbers(n, MetaValue::Floats, |b| f32::from_le_bytes(b).into()),
            7 => self.numbers(n, MetaValue::Bools, |b| u8::from_le_bytes(b) != 0),
            8 => {
                let mut texts = Vec::new();
                for _ in 0..n {
                    texts.push(self.text()?);
                }
                Ok(MetaValue::Texts(texts))
            }
            9 => {
                let mut list = Vec::new();
                for _ in 0..n {
                    list.push(self.value(9, depth + 1)?);
                }
                Ok(MetaValue::List(list))
            }
            10 => self.numbers(n, MetaValue::Unsigneds, u64::from_le_bytes),
            11 => self.numbers(n, MetaValue::Signeds, i64::from_le_bytes),
            12 => self.numbers(n, MetaValue::Floats, f64::from_le_bytes),
            _ => Err(self.file.field("an array's type", "0 to 12", kind)),
        }
    }

    /// An array of `n` numbers of `B` bytes.
    fn numbers<const B: usize, T>(
        &mut self,
        n: u64,
        array: fn(Vec<T>) -> MetaValue,
        number: fn([u8; B]) -> T,
    ) -> Result<MetaValue, FormatError> {
        self.spend(n.saturating_mul((B + size_of::<T>()) as u64))?;
        let bytes = self.fields.bytes(n.saturating_mul(B as u64), "an array")?;
        Ok(array(bytes.as_chunks().0.iter().map(|b| number(*b)).collect()))
    }

    fn entry(&mut self) -> Result<Entry, FormatError> {
        let len = self.fields.u64("the length of a tensor's name")?;
        if len > NAME_MAX {
            return Err(self.file.field(
                "the length of a tensor's name",
                format_args!("at most {NAME_MAX}"),
                len,
            ));
        }
        self.spend(2 * len + size_of::<Entry>() as u64 + size_of::<SourceTensor>() as u64)?;
        let name = self.fields.text(len, "a tensor's name")?;
        let n_dim = self.fields.u32("a tensor's dimensions")?;
        if n_dim > DIMS_MAX {
            return Err(self.file.tensor(
                &name,
                "number of dimensions",
                format_args!("at most {DIMS_MAX}"),
                n_dim,
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dim {
            let dim = self.fields.u64("a tensor's dimensions")?;
            let dim = usize::try_from(dim)
                .map_err(|_| self.file.tensor(&name, "dimension", "in memory", dim))?;
            shape.push(dim);
        }
        // The file counts from the innermost dimension.
        shape.reverse();
        let type_id = self.fields.u32("a tensor's type")?;
        let offset = self.fields.u64("a tensor's offset")?;
        Ok(Entry { name, shape, type_id, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{survives_every_cut_and_flip, temporary};
    use super::super::{Checkpoint, CheckpointKind, MetaValue};

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn array(kind: u32, n: u64, bytes: &[u8]) -> Vec<u8> {
        [&kind.to_le_bytes()[..], &n.to_le_bytes(), bytes].concat()
    }

    /// A file with these key-values (type and bytes) and one tensor of that type, with 64 bytes of
    /// ones.
    fn file(keys: &[(&str, u32, Vec<u8>)], type_id: u32, shape: &[u64]) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend([1, keys.len() as u64].iter().flat_map(|n| n.to_le_bytes()));
        for (key, kind, value) in keys {
            bytes.extend([&text(key)[..], &kind.to_le_bytes(), value].concat());
        }
        bytes.extend([&text("t")[..], &(shape.len() as u32).to_le_bytes()].concat());
        bytes.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend([&type_id.to_le_bytes()[..], &[0; 8]].concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend([1; 64]);
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Checkpoint, String> {
        Checkpoint::open(temporary(bytes).path()).map_err(|e| e.to_string())
    }

    #[test]
    fn values_of_every_type() {
        let numbers = |n: usize| (0..n as u8).collect::<Vec<_>>();
        let keys = [
            ("u8", 0, vec![200]),
            ("i8", 1, vec![0xff]),
            ("u16", 2, vec![1, 1]),
            ("i16", 3, vec![0xfe, 0xff]),
            ("u32", 4, vec![1, 0, 0, 0]),
            ("i32", 5, vec![0xff; 4]),
            ("f32", 6, 1.5f32.to_le_bytes().into()),
            ("bool", 7, vec![1]),
            ("text", 8, text("hé")),
            ("u64", 10, vec![0xff; 8]),
            ("i64", 11, vec![0xff; 8]),
            ("f64", 12, (-0.1f64).to_le_bytes().into()),
            ("texts", 9, array(8, 2, &[text("a"), text("")].concat())),
            ("bytes", 9, array(0, 3, &numbers(3))),
            ("ints", 9, array(5, 1, &[0xff; 4])),
            ("floats", 9, array(6, 1, &1.5f32.to_le_bytes())),
            ("bools", 9, array(7, 2, &[0, 1])),
            ("lists", 9, array(9, 2, &[array(1, 1, &[0xff]), array(12, 0, &[])].concat())),
        ];
        let checkpoint = open(&file(&keys, 0, &[4, 2])).unwrap();
        assert_eq!(checkpoint.kind(), CheckpointKind::Gguf);
        assert_eq!(checkpoint.get("t").unwrap().shape, [2, 4]);
        let meta = checkpoint.metadata();
        assert_eq!(meta["u8"].as_u64(), Some(200));
        assert_eq!(meta["i8"], MetaValue::Signed(-1));
        assert_eq!(meta["u16"].as_u64(), Some(257));
        assert_eq!(meta["i16"].as_f64(), Some(-2.0));
        assert_eq!(meta["u32"].as_u64(), Some(1));
        assert_eq!(meta["i32"].as_u64(), None);
        assert_eq!(meta["f32"].as_f64(), Some(1.5));
        assert_eq!(meta["bool"].as_bool(), Some(true));
        assert_eq!(meta["text"].as_str(), Some("hé"));
        assert_eq!(meta["u64"].as_u64(), Some(u64::MAX));
        assert_eq!(meta["i64"], MetaValue::Signed(-1));
        assert_eq!(meta["f64"].as_f64(), Some(-0.1));
        assert_eq!(meta["texts"].as_texts(), Some(&["a".to_owned(), String::new()][..]));
        assert_eq!(meta["bytes"].to_integers(), Some(vec![0, 1, 2]));
        assert_eq!(meta["ints"].to_integers(), Some(vec![-1]));
        assert_eq!(meta["floats"].as_floats(), Some(&[1.5][..]));
        assert_eq!(meta["bools"], MetaValue::Bools(vec![false, true]));
        let lists = [MetaValue::Signeds(vec![-1]), MetaValue::Floats(vec![])];
        assert_eq!(meta["lists"], MetaValue::List(lists.into()));
    }

    #[test]
    fn cut_and_flipped() {
        survives_every_cut_and_flip(&file(
            &[("k", 4, vec![1, 0, 0, 0]), ("a", 9, array(8, 2, &[text("x"), text("yz")].concat()))],
            2,
            &[32, 2],
        ));
    }

    #[test]
    fn what_is_refused_and_why() {
        let u32_key = |key, value: u32| vec![(key, 4, value.to_le_bytes().to_vec())];
        let huge = u64::MAX.to_le_bytes();
        let deep = (0..6).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner));
        let version = |version: u32| {
            let mut bytes = file(&[], 0, &[4]);
            bytes[4..8].copy_from_slice(&version.to_le_bytes());
            bytes
        };
        let count = |at: usize| {
            let mut bytes = file(&[], 0, &[4]);
            bytes[at..at + 8].copy_from_slice(&huge);
            bytes
        };
        for (bytes, words) in [
            (file(&u32_key("split.count", 3), 0, &[4]), "one of 3 parts"),
            (file(&u32_key("general.alignment", 3), 0, &[4]), "power of two"),
            (file(&[("k", 8, huge.to_vec())], 0, &[4]), "size of the header"),
            (file(&[("k", 9, array(0, u64::MAX, &[]))], 0, &[4]), "array"),
            (file(&[("k", 9, array(99, 1, &[]))], 0, &[4]), "array"),
            (file(&[("k", 9, deep)], 0, &[4]), "deep"),
            (file(&[("k", 13, vec![])], 0, &[4]), "type"),
            (file(&[], 9, &[256]), "Q8_1"),
            (file(&[], 36, &[256]), "unknown type (id 36)"),
            (file(&[], 4_000_000, &[256]), "\"t\""),
            (file(&[], 0, &[17]), "\"t\""),
            (file(&[], 0, &[u64::MAX, 2]), "\"t\""),
            (file(&[], 2, &[16]), "multiple of 32"),
            (file(&[], 0, &[1; 5]), "dimensions"),
            (version(1), "1 (convert"),
            (version(4), "2 or 3"),
            (version(3u32.swap_bytes()), "big-endian"),
            (count(8), "number of tensors"),
            (count(16), "number of key-values"),
        ] {
            let message = open(&bytes).err().unwrap();
            assert!(message.contains(words), "{message}");
        }
    }
}
