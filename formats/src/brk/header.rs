//! The preamble: the first 64 bytes of a `.brk` file, which say where everything else is.
//!
//! Here: its fields, their writing, their parsing with every bound checked. Not here: the sections
//! it points to (`meta`, `table`). The preamble is written last: a file whose writing was
//! interrupted starts with zeros. Source: `SPEC.md`, "Preamble". Tests: `brk/tests.rs`.

use std::ops::Range;
use std::path::Path;

use byteorder::{ByteOrder, LE};
use xxhash_rust::xxh3::Xxh3;

use super::signature::{MAGIC, VERSION};
use crate::FormatError;

/// Every section and every tensor starts at a multiple of this many bytes.
pub const ALIGN: u64 = 64;
/// The longest metadata section, in bytes.
pub const MAX_METADATA_LEN: u64 = 4 << 20;

/// Bytes of the preamble; the first tensor follows at once.
pub(super) const PREAMBLE_LEN: u64 = 64;
/// Bytes of the preamble that its checksum covers.
const COVERED: usize = 56;

/// `n` rounded up to the next multiple of [`ALIGN`].
pub(crate) fn align(n: u64) -> Option<u64> {
    n.checked_next_multiple_of(ALIGN)
}

/// Where the sections are, in bytes from the start of the file. They follow each other in this
/// order, each aligned, and the last one ends the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preamble {
    /// Start of the metadata: where the tensors end.
    pub(super) metadata_offset: u64,
    pub(super) metadata_len: u64,
    pub(super) table_len: u64,
    pub(super) tokenizer_len: u64,
}

impl Preamble {
    /// Ranges of metadata, table and tokenizer; `None` if one overflows.
    pub(super) fn sections(&self) -> Option<[Range<u64>; 3]> {
        let metadata = self.metadata_offset..self.metadata_offset.checked_add(self.metadata_len)?;
        let table_offset = align(metadata.end)?;
        let table = table_offset..table_offset.checked_add(self.table_len)?;
        let tokenizer_offset = align(table.end)?;
        let tokenizer = tokenizer_offset..tokenizer_offset.checked_add(self.tokenizer_len)?;
        Some([metadata, table, tokenizer])
    }

    /// The 64 bytes, checksum included; `file_len` is the end of the tokenizer section.
    pub(super) fn to_bytes(
        self,
        file_len: u64,
        metadata: &[u8],
        table: &[u8],
    ) -> [u8; PREAMBLE_LEN as usize] {
        let mut bytes = [0; PREAMBLE_LEN as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        LE::write_u32(&mut bytes[8..], VERSION);
        let fields =
            [file_len, self.metadata_offset, self.metadata_len, self.table_len, self.tokenizer_len];
        LE::write_u64_into(&fields, &mut bytes[16..COVERED]);
        let checksum = checksum(&bytes, metadata, table);
        LE::write_u64(&mut bytes[COVERED..], checksum);
        bytes
    }

    /// Parses and checks the preamble of a whole file; the sections are inside the file afterwards.
    pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Self, FormatError> {
        check_magic(path, file)?;
        let file_len = file.len() as u64;
        let Some(bytes) = file.get(..PREAMBLE_LEN as usize) else {
            return Err(truncated(path, "the preamble", 0, PREAMBLE_LEN, file_len));
        };
        check_known(path, "version", LE::read_u32(&bytes[8..]), VERSION)?;
        check_known(path, "flags", LE::read_u32(&bytes[12..]), 0)?;
        let mut fields = [0; 5];
        LE::read_u64_into(&bytes[16..COVERED], &mut fields);
        let [announced_len, metadata_offset, metadata_len, table_len, tokenizer_len] = fields;
        let preamble = Self { metadata_offset, metadata_len, table_len, tokenizer_len };

        if announced_len > file_len {
            return Err(truncated(path, "the file", 0, announced_len, file_len));
        }
        let field = |what, expected: String, found: u64| FormatError::Field {
            path: path.to_owned(),
            what,
            expected,
            found: found.to_string(),
        };
        if announced_len < file_len {
            return Err(field("the length of the file", announced_len.to_string(), file_len));
        }
        if metadata_offset < PREAMBLE_LEN || metadata_offset % ALIGN != 0 {
            let expected = format!("a multiple of {ALIGN}, {PREAMBLE_LEN} at least");
            return Err(field("the offset of the metadata", expected, metadata_offset));
        }
        if metadata_len > MAX_METADATA_LEN {
            let expected = format!("{MAX_METADATA_LEN} at most");
            return Err(field("the length of the metadata", expected, metadata_len));
        }
        let Some([metadata, table, tokenizer]) =
            preamble.sections().filter(|s| s[2].end == file_len)
        else {
            let expected = "such that the sections end with the file".to_owned();
            return Err(field("the offset of the metadata", expected, metadata_offset));
        };

        // In bounds: the sections ascend and the last one ends with the file.
        let section = |range: &Range<u64>| &file[range.start as usize..range.end as usize];
        let stored = LE::read_u64(&bytes[COVERED..]);
        let computed = checksum(bytes, section(&metadata), section(&table));
        if stored != computed {
            return Err(FormatError::Checksum {
                path: path.to_owned(),
                part: "the header".to_owned(),
                expected: stored,
                found: computed,
            });
        }
        for gap in [metadata.end..table.start, table.end..tokenizer.start] {
            check_padding(path, "the padding of the header", section(&gap))?;
        }
        Ok(preamble)
    }
}

/// Padding must be zero: no hidden bytes, and the same model always gives the same file.
pub(super) fn check_padding(
    path: &Path,
    what: &'static str,
    padding: &[u8],
) -> Result<(), FormatError> {
    match padding.iter().find(|&&byte| byte != 0) {
        None => Ok(()),
        Some(byte) => Err(FormatError::Field {
            path: path.to_owned(),
            what,
            expected: "zero".to_owned(),
            found: byte.to_string(),
        }),
    }
}

/// Tells a file of another kind from one of ours, and what it is where that is plain.
fn check_magic(path: &Path, file: &[u8]) -> Result<(), FormatError> {
    if file.starts_with(&MAGIC) {
        return Ok(());
    }
    let is_safetensors = file.get(8) == Some(&b'{');
    let (found, mend) = match file {
        [] => ("an empty file", "convert or download the model again"),
        [b'G', b'G', b'U', b'F', ..] | [b'P', b'K', 3, 4, ..] | [b'f', b'm', b'g', b'g', ..] => {
            CHECKPOINT
        }
        _ if is_safetensors => CHECKPOINT,
        _ if file.starts_with(b"version https://git-lfs") => {
            ("a Git LFS pointer, not the file it stands for", "fetch the file with `git lfs pull`")
        }
        _ => {
            let start = file[..file.len().min(MAGIC.len())].to_vec();
            return Err(FormatError::NotBrk { path: path.to_owned(), found: start });
        }
    };
    Err(FormatError::NotAModel { path: path.to_owned(), found: found.to_owned(), mend })
}

/// The message for a file that `brooklet convert` reads.
const CHECKPOINT: (&str, &str) = (
    "a checkpoint, not a .brk file",
    "convert it first: brooklet convert CHECKPOINT -o MODEL.brk --type int8",
);

fn check_known(path: &Path, what: &'static str, found: u32, known: u32) -> Result<(), FormatError> {
    if found == known {
        return Ok(());
    }
    Err(FormatError::Unknown {
        path: path.to_owned(),
        tensor: None,
        what,
        known: known.to_string(),
        found: found.into(),
    })
}

fn truncated(
    path: &Path,
    what: &'static str,
    offset: u64,
    expected: u64,
    found: u64,
) -> FormatError {
    FormatError::Truncated { path: path.to_owned(), what, offset, expected, found }
}

/// xxh3-64 of the preamble up to its checksum, the metadata and the table.
fn checksum(preamble: &[u8], metadata: &[u8], table: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&preamble[..COVERED]);
    hash.update(metadata);
    hash.update(table);
    hash.digest()
}
