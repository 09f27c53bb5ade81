//! [`Imatrix`]: how much each column of each matrix matters, as llama.cpp's `llama-imatrix`
//! measured it.
//!
//! A file of either kind holds, for each matrix of a GGUF file, the sums of the squares of its
//! inputs by column: `.dat` in the older one, GGUF since. Sources: llama.cpp
//! `tools/imatrix/README.md` and `imatrix.cpp`. Not here: which of our matrices those are
//! (`convert::importance`). Test: below.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Checkpoint;
use super::source::{Fields, SourceFile};
use crate::FormatError;

/// The ends of the names of the two tensors that stand for a matrix in a GGUF file.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// The most entries that a file of the old kind is believed to have.
const MOST_ENTRIES: u32 = 1 << 20;

/// Mean squares of the inputs of matrices, by their names in GGUF.
#[derive(Clone, Debug)]
pub struct Imatrix {
    path: PathBuf,
    entries: BTreeMap<String, Vec<f32>>,
}

impl Imatrix {
    /// Reads a file of either kind.
    ///
    /// # Errors
    /// The file cannot be read, ends early, is of another kind, or holds numbers that are no
    /// squares.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let file = SourceFile::open(path)?;
        let is_gguf = file.len() >= 4 && file.head(4)? == b"GGUF";
        let entries = if is_gguf { of_gguf(path)? } else { of_dat(&file)? };
        for (name, values) in &entries {
            if let Some(value) = values.iter().find(|value| !(0.0..=f32::MAX).contains(*value)) {
                let expected = format!("finite and not negative in the entry {name:?}");
                return Err(file.field("the mean squares", expected, value));
            }
        }
        match entries.is_empty() {
            true => Err(file.field("the entries", "at least one", "none that has seen a token")),
            false => Ok(Imatrix { path: path.to_owned(), entries }),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Mean squares by column, by the names of matrices in GGUF; of experts one after the other.
    pub fn entries(&self) -> &BTreeMap<String, Vec<f32>> {
        &self.entries
    }
}

/// The entries of a GGUF file: sums, divided by how many tokens they are of.
fn of_gguf(path: &Path) -> Result<BTreeMap<String, Vec<f32>>, FormatError> {
    let file = Checkpoint::open(path)?;
    let mut entries = BTreeMap::new();
    for tensor in file.tensors() {
        let Some(name) = tensor.name.strip_suffix(SUMS) else { continue };
        let (mut sums, counts) = (file.read(&tensor.name)?, file.read(&format!("{name}{COUNTS}"))?);
        if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            return Err(FormatError::Tensor {
                path: path.to_owned(),
                tensor: format!("{name}{COUNTS}"),
                what: "the shape",
                expected: format!("one number for each matrix in {:?}", tensor.shape),
                found: format!("{} numbers", counts.len()),
            });
        }
        let cols = sums.len() / counts.len();
        for (sums, count) in sums.chunks_exact_mut(cols.max(1)).zip(&counts) {
            // An expert that no token came to: nothing is known of its columns.
            let factor = if *count > 0.0 { count.recip() } else { 0.0 };
            sums.iter_mut().for_each(|sum| *sum *= factor);
        }
        if counts.iter().any(|count| *count > 0.0) {
            entries.insert(name.to_owned(), sums);
        }
    }
    Ok(entries)
}

/// The entries of a file of the old kind: a name, a number of calls, and means times that number.
fn of_dat(file: &Arc<SourceFile>) -> Result<BTreeMap<String, Vec<f32>>, FormatError> {
    let mut fields = Fields::new(file, 0);
    let (mut entries, n) = (BTreeMap::new(), fields.u32("the number of entries")?);
    if n > MOST_ENTRIES {
        let expected = format!("at most {MOST_ENTRIES}, or \"GGUF\" in its place");
        return Err(file.field("the number of entries", expected, n));
    }
    for _ in 0..n {
        let len = fields.u32("the length of a name")?;
        let name = fields.text(len.into(), "a name")?;
        let calls = fields.u32("the number of calls")? as f32;
        let len = fields.u32("the number of values")?;
        let bytes = fields.bytes(u64::from(len) * 4, "the values")?;
        let (values, _) = bytes.as_chunks::<4>();
        let factor = if calls > 0.0 { calls.recip() } else { 0.0 };
        let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes) * factor);
        if calls > 0.0 {
            entries.insert(name, values.collect());
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file of the old kind: names, calls, and sums as they stand there.
    fn dat(entries: &[(&str, u32, &[f32])]) -> Vec<u8> {
        let mut bytes = (entries.len() as u32).to_le_bytes().to_vec();
        for (name, calls, values) in entries {
            bytes.extend((name.len() as u32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(calls.to_le_bytes());
            bytes.extend((values.len() as u32).to_le_bytes());
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        }
        bytes
    }

    /// A GGUF file of f32 tensors, by name and length.
    fn gguf(tensors: &[(&str, &[f32])]) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        let mut offset = 0u64;
        for (name, values) in tensors {
            bytes.extend((name.len() as u64).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(1u32.to_le_bytes());
            bytes.extend((values.len() as u64).to_le_bytes());
            bytes.extend(0u32.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset += (values.len() as u64 * 4).next_multiple_of(32);
        }
        for (_, values) in tensors {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Imatrix, FormatError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("imatrix");
        fs::write(&path, bytes).expect("a file");
        Imatrix::open(&path)
    }

    #[test]
    fn both_kinds_hold_the_same() {
        let old = dat(&[("blk.0.a.weight", 4, &[4.0, 8.0]), ("never", 0, &[0.0])]);
        let new = gguf(&[
            ("blk.0.a.weight.in_sum2", &[10.0, 20.0]),
            ("blk.0.a.weight.counts", &[10.0]),
            ("never.in_sum2", &[0.0]),
            ("never.counts", &[0.0]),
        ]);
        for bytes in [old, new] {
            let imatrix = read(&bytes).expect("an imatrix");
            let expected = BTreeMap::from([("blk.0.a.weight".to_owned(), vec![1.0, 2.0])]);
            assert_eq!(*imatrix.entries(), expected);
        }
    }

    #[test]
    fn experts_have_counts_of_their_own() {
        let sums: &[f32] = &[1.0, 2.0, 3.0, 4.0, 9.0, 9.0];
        let bytes = gguf(&[("x.in_sum2", sums), ("x.counts", &[1.0, 2.0, 0.0])]);
        let imatrix = read(&bytes).expect("an imatrix");
        assert_eq!(imatrix.entries()["x"], [1.0, 2.0, 1.5, 2.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_no_imatrix_is_an_error() {
        let whole = dat(&[("blk.0.a.weight", 1, &[4.0, 8.0])]);
        for end in 0..whole.len() {
            read(&whole[..end]).expect_err("the end is missing");
        }
        let new = gguf(&[("x.in_sum2", &[1.0, 2.0]), ("x.counts", &[1.0])]);
        for end in 0..new.len() {
            read(&new[..end]).expect_err("the end is missing");
        }
        let text = |bytes: &[u8]| read(bytes).expect_err("no imatrix").to_string();
        assert!(text(&dat(&[("a", 1, &[f32::NAN])])).contains("NaN"));
        assert!(text(&dat(&[("a", 1, &[-1.0])])).contains("-1"));
        assert!(text(&dat(&[])).contains("at least one"));
        assert!(text(b"PK\x03\x04 and more").contains("at most"));
        let odd = gguf(&[("x.in_sum2", &[1.0, 2.0, 3.0]), ("x.counts", &[1.0, 1.0])]);
        assert!(text(&odd).contains("x.counts"));
        let alone = gguf(&[("x.in_sum2", &[1.0])]);
        assert!(text(&alone).contains("x.counts"));
    }
}
