//! The `.brks` state file: what a model remembers of a sequence, and what is needed to go on from
//! it exactly.
//!
//! Here: [`encode`] (a state to bytes), [`StateFile`] (bytes to a checked view, nothing copied) and
//! [`open`] (maps a file). Not here: what the slots mean, and whether they fit a model (the engine
//! compares them). Files are taken as hostile: nothing is allocated for a slot before its length
//! has been compared with the bytes that are there. Source: `SPEC.md`, "The .brks state file".
//! Tests: `state_file/tests.rs` (round trips, every byte cut and flipped).

mod elements;
mod slot;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use byteorder::{ByteOrder, LE};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

pub use self::slot::{FORMATS, SlotInfo, SlotValues};
use crate::atomic::Kind;
use crate::brk::{Bytes, MAX_DIMS, MAX_METADATA_LEN, MAX_NAME_LEN, align};
use crate::{DType, FormatError};

/// The first eight bytes of a state file.
pub const MAGIC: [u8; 8] = *b"\x89BRKS\r\n\x1a";
/// How a state file is told.
pub const KIND: Kind = Kind { name: ".brks", magic: &MAGIC };
/// The version that this crate writes, and the only one that it reads.
pub const VERSION: u32 = 1;
const PREAMBLE_LEN: usize = 64;
/// Bytes of the preamble before its checksum.
const COVERED: usize = 56;
/// Most bytes of a note, escaped as in JSON ([`note_len`]): of the metadata's bound, what is left
/// besides a quarter for all the rest.
pub const MAX_NOTE_LEN: usize = MAX_METADATA_LEN as usize / 4 * 3;
const MAX_LOGITS: u32 = 1 << 24;
const MAX_SAMPLER_LEN: u32 = 1 << 28;

#[derive(Serialize, Deserialize)]
struct Metadata {
    architecture: String,
    slots: Vec<SlotInfo>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tail: Vec<u32>,
    #[serde(default)]
    unread: usize,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    note: String,
}

/// Everything that a state file holds, to be written.
#[derive(Clone, Debug, Default)]
pub struct Contents<'a> {
    /// Name of the model's architecture.
    pub architecture: &'a str,
    /// The model's fingerprint.
    pub fingerprint: u64,
    /// Tokens that the state has read.
    pub position: u64,
    /// The state.
    pub slots: Vec<SlotValues<'a>>,
    /// The last tokens of the sequence, the newest last.
    pub tail: &'a [u32],
    /// Tokens at the end of `tail` that the state has not read.
    pub unread: usize,
    /// Logits after the last token, or none.
    pub logits: &'a [f32],
    /// The sampler's bytes, or none.
    pub sampler: &'a [u8],
    /// Belongs to the program that saves.
    pub note: &'a str,
}

/// The bytes that a note takes in a state file.
pub fn note_len(note: &str) -> usize {
    let escaped = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\x1f' => 6,
        c => c.len_utf8(),
    };
    note.chars().map(escaped).sum()
}

/// The bytes of a state file whose slots are stored as `dtype` where that can hold them.
///
/// # Errors
/// A number format that state files do not have, or parts beyond the bounds of `SPEC.md`.
pub fn encode(contents: &Contents<'_>, dtype: DType) -> Result<Vec<u8>, FormatError> {
    let path = Path::new("(memory)");
    if !FORMATS.contains(&dtype) {
        return Err(field(path, "the number format of a state", "f32, f16 or int8", dtype.name()));
    }
    let slots: Vec<SlotInfo> =
        contents.slots.iter().map(|slot| elements::describe(slot, dtype)).collect();
    let metadata = Metadata {
        architecture: contents.architecture.to_owned(),
        tail: contents.tail.to_vec(),
        unread: contents.unread,
        note: contents.note.to_owned(),
        slots,
    };
    let json = serde_json::to_vec(&metadata).map_err(|source| json_error(path, source))?;
    let mut preamble = [0; PREAMBLE_LEN];
    preamble[..8].copy_from_slice(&MAGIC);
    LE::write_u32(&mut preamble[8..], VERSION);
    LE::write_u64_into(&[contents.fingerprint, contents.position], &mut preamble[24..40]);
    let lens = [
        ("the length of the metadata", json.len(), MAX_METADATA_LEN as u32),
        ("the number of logits", contents.logits.len(), MAX_LOGITS),
        ("the length of the sampler's state", contents.sampler.len(), MAX_SAMPLER_LEN),
    ];
    for (i, (what, len, limit)) in lens.into_iter().enumerate() {
        let within = u32::try_from(len).ok().filter(|&len| len <= limit);
        let len = within
            .ok_or_else(|| field(path, what, &format!("{limit} at most"), &len.to_string()))?;
        LE::write_u32(&mut preamble[40 + 4 * i..], len);
    }

    let parts = Parts::new(
        path,
        &metadata.slots,
        json.len(),
        contents.logits.len(),
        contents.sampler.len(),
    )?;
    let mut bytes = Vec::with_capacity(parts.file_len);
    bytes.extend(preamble);
    bytes.extend(&json);
    for ((slot, info), range) in contents.slots.iter().zip(&metadata.slots).zip(&parts.slots) {
        bytes.resize(range.start, 0);
        elements::encode(info.dtype, &slot.values, &mut bytes);
    }
    bytes.resize(parts.logits.start, 0);
    bytes.extend_from_slice(bytemuck::cast_slice(contents.logits));
    bytes.resize(parts.sampler.start, 0);
    bytes.extend(contents.sampler);
    debug_assert_eq!(bytes.len(), parts.file_len);
    let file_len = bytes.len() as u64;
    LE::write_u64(&mut bytes[16..], file_len);
    let checksum = checksum(&bytes);
    LE::write_u64(&mut bytes[COVERED..], checksum);
    Ok(bytes)
}

/// Maps a state file, for [`StateFile::parse`].
///
/// # Errors
/// It cannot be opened, or is not a regular file.
pub fn open(path: &Path) -> Result<Bytes, FormatError> {
    Bytes::open(path, true)
}

/// The tail of a state file's bytes, of which nothing is checked: a hint at what the file holds,
/// without reading all of it. Nothing where there is none to be read.
pub fn peek_tail(bytes: &[u8]) -> Option<Vec<u32>> {
    let preamble = bytes.get(..PREAMBLE_LEN).filter(|bytes| bytes.starts_with(&MAGIC))?;
    let len = LE::read_u32(&preamble[40..]) as usize;
    let json = bytes.get(PREAMBLE_LEN..)?.get(..len.min(MAX_METADATA_LEN as usize))?;
    Some(serde_json::from_slice::<Metadata>(json).ok()?.tail)
}

/// A checked view of a state file's bytes.
#[derive(Debug)]
pub struct StateFile<'a> {
    path: PathBuf,
    bytes: &'a [u8],
    fingerprint: u64,
    position: u64,
    metadata: Metadata,
    parts: Parts,
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} slots, tail {:?}", self.architecture, self.slots.len(), self.tail)
    }
}

impl<'a> StateFile<'a> {
    /// Checks the bytes of a state file; `path` names it in errors.
    ///
    /// # Errors
    /// Everything that `SPEC.md`, "What a state reader refuses", lists, but for the comparison with
    /// a model.
    pub fn parse(path: &Path, bytes: &'a [u8]) -> Result<Self, FormatError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(not_a_state(path, bytes));
        }
        let truncated = |what, expected, found| FormatError::Truncated {
            path: path.to_owned(),
            what,
            offset: 0,
            expected,
            found,
        };
        let found_len = bytes.len() as u64;
        let preamble = bytes
            .get(..PREAMBLE_LEN)
            .ok_or_else(|| truncated("the preamble", PREAMBLE_LEN as u64, found_len))?;
        for (what, at, known) in
            [("state version", 8, VERSION), ("flags", 12, 0), ("reserved field", 52, 0)]
        {
            let found = LE::read_u32(&preamble[at..]);
            if found != known {
                return Err(FormatError::Unknown {
                    path: path.to_owned(),
                    tensor: None,
                    what,
                    known: known.to_string(),
                    found: found.into(),
                });
            }
        }
        let file_len = LE::read_u64(&preamble[16..]);
        if file_len > found_len {
            return Err(truncated("the file", file_len, found_len));
        }
        if file_len < found_len {
            return Err(field(
                path,
                "the length of the file",
                &file_len.to_string(),
                &found_len.to_string(),
            ));
        }
        let [metadata_len, n_logits, sampler_len] =
            [40, 44, 48].map(|at| LE::read_u32(&preamble[at..]));
        for (what, found, limit) in [
            ("the length of the metadata", metadata_len, MAX_METADATA_LEN as u32),
            ("the number of logits", n_logits, MAX_LOGITS),
            ("the length of the sampler's state", sampler_len, MAX_SAMPLER_LEN),
        ] {
            if found > limit {
                return Err(field(path, what, &format!("{limit} at most"), &found.to_string()));
            }
        }
        let (stored, computed) = (LE::read_u64(&preamble[COVERED..]), checksum(bytes));
        if stored != computed {
            let part = "the state".to_owned();
            return Err(FormatError::Checksum {
                path: path.to_owned(),
                part,
                expected: stored,
                found: computed,
            });
        }
        let metadata_end = PREAMBLE_LEN + metadata_len as usize;
        let json = bytes
            .get(PREAMBLE_LEN..metadata_end)
            .ok_or_else(|| truncated("the metadata", metadata_end as u64, found_len))?;
        let metadata: Metadata =
            serde_json::from_slice(json).map_err(|source| json_error(path, source))?;
        check_metadata(path, &metadata, n_logits)?;
        let parts = Parts::new(
            path,
            &metadata.slots,
            metadata_len as usize,
            n_logits as usize,
            sampler_len as usize,
        )?;
        if parts.file_len as u64 != file_len {
            let expected = format!("{} bytes, as its slots say", parts.file_len);
            return Err(field(path, "the length of the file", &expected, &file_len.to_string()));
        }
        let mut end = metadata_end;
        for part in parts.slots.iter().chain([&parts.logits, &parts.sampler]) {
            // In bounds: the parts ascend, and the last one ends with the file.
            if let Some(byte) = bytes[end..part.start].iter().find(|&&byte| byte != 0) {
                return Err(field(path, "the padding of a state", "zero", &byte.to_string()));
            }
            end = part.end;
        }
        let (fingerprint, position) =
            (LE::read_u64(&preamble[24..]), LE::read_u64(&preamble[32..]));
        Ok(StateFile { path: path.to_owned(), bytes, fingerprint, position, metadata, parts })
    }

    /// The file, or "(memory)".
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the model's architecture.
    pub fn architecture(&self) -> &str {
        &self.metadata.architecture
    }

    /// The model's fingerprint.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Tokens that the state has read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Length of the file in bytes.
    pub fn file_len(&self) -> usize {
        self.parts.file_len
    }

    /// The slots, in the order of the file.
    pub fn slots(&self) -> &[SlotInfo] {
        &self.metadata.slots
    }

    /// The last tokens of the sequence, the newest last.
    pub fn tail(&self) -> &[u32] {
        &self.metadata.tail
    }

    /// Tokens at the end of [`StateFile::tail`] that the state has not read.
    pub fn unread(&self) -> usize {
        self.metadata.unread
    }

    /// The note that the program which saved the state wrote for itself.
    pub fn note(&self) -> &str {
        &self.metadata.note
    }

    /// Decodes slot number `i` into `out`.
    ///
    /// # Panics
    /// There is no slot `i`, or `out` has not as many elements as its shape says.
    pub fn read_slot(&self, i: usize, out: &mut [f32]) {
        let info = &self.metadata.slots[i];
        assert_eq!(Some(out.len()), info.len(), "elements of a slot");
        elements::decode(info.dtype, &self.bytes[self.parts.slots[i].clone()], out);
    }

    /// The bytes of the same state with its slots in another format.
    ///
    /// # Errors
    /// As [`encode`].
    pub fn converted(&self, dtype: DType) -> Result<Vec<u8>, FormatError> {
        let slots = self.slots().iter().enumerate().map(|(i, slot)| {
            let mut values = vec![0.0; slot.len().unwrap_or(0)];
            self.read_slot(i, &mut values);
            SlotValues {
                layer: slot.layer,
                name: &slot.name,
                shape: slot.shape.clone(),
                values: values.into(),
            }
        });
        let contents = Contents {
            architecture: self.architecture(),
            fingerprint: self.fingerprint,
            position: self.position,
            slots: slots.collect(),
            tail: self.tail(),
            unread: self.unread(),
            logits: &self.logits(),
            sampler: self.sampler(),
            note: self.note(),
        };
        encode(&contents, dtype)
    }

    /// Logits after the last token read; empty where there are none.
    pub fn logits(&self) -> Vec<f32> {
        let bytes = &self.bytes[self.parts.logits.clone()];
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// The sampler's bytes; empty where there are none.
    pub fn sampler(&self) -> &[u8] {
        &self.bytes[self.parts.sampler.clone()]
    }
}

/// Where the parts behind the metadata stand.
#[derive(Debug)]
struct Parts {
    slots: Vec<Range<usize>>,
    logits: Range<usize>,
    sampler: Range<usize>,
    file_len: usize,
}

impl Parts {
    fn new(
        path: &Path,
        slots: &[SlotInfo],
        metadata_len: usize,
        n_logits: usize,
        sampler_len: usize,
    ) -> Result<Parts, FormatError> {
        let mut end = (PREAMBLE_LEN + metadata_len) as u64;
        let mut next = |len: Option<usize>| {
            let start = align(end)?;
            end = start.checked_add(len? as u64).filter(|&end| end <= isize::MAX as u64)?;
            Some(start as usize..end as usize)
        };
        let too_large = || field(path, "the size of a state", "what memory can address", "more");
        let lens = slots.iter().map(|slot| elements::stored_len(slot.dtype, slot.len()?));
        let slots = lens.map(&mut next).collect::<Option<Vec<_>>>().ok_or_else(too_large)?;
        let logits = next(Some(4 * n_logits)).ok_or_else(too_large)?;
        let sampler = next(Some(sampler_len)).ok_or_else(too_large)?;
        Ok(Parts { file_len: sampler.end, slots, logits, sampler })
    }
}

fn check_metadata(path: &Path, metadata: &Metadata, n_logits: u32) -> Result<(), FormatError> {
    let mut seen = HashSet::with_capacity(metadata.slots.len());
    for slot in &metadata.slots {
        let what = format!("layer {} {:?}", slot.layer, slot.name);
        if slot.name.is_empty()
            || slot.name.len() > MAX_NAME_LEN
            || slot.name.contains(char::is_control)
        {
            let expected = format!("1 to {MAX_NAME_LEN} bytes without control characters");
            return Err(field(path, "the name of a slot", &expected, &what));
        }
        if slot.shape.is_empty() || slot.shape.len() > MAX_DIMS || slot.shape.contains(&0) {
            let found = format!("{:?} in {what}", slot.shape);
            return Err(field(
                path,
                "the shape of a slot",
                "1 to 4 dimensions of 1 or more",
                &found,
            ));
        }
        if !seen.insert((slot.layer, slot.name.as_str())) {
            return Err(field(path, "a slot", "there once", &format!("{what} twice")));
        }
    }
    if metadata.unread > metadata.tail.len() {
        let expected = format!("{} at most", metadata.tail.len());
        return Err(field(
            path,
            "the number of unread tokens",
            &expected,
            &metadata.unread.to_string(),
        ));
    }
    if metadata.unread > 0 && n_logits > 0 {
        let found = format!("{n_logits} logits and {} unread tokens", metadata.unread);
        return Err(field(path, "a state", "with logits or with unread tokens", &found));
    }
    Ok(())
}

fn not_a_state(path: &Path, bytes: &[u8]) -> FormatError {
    let (found, mend) = match bytes {
        [] => ("an empty file", "save the state again"),
        _ if bytes.starts_with(&crate::brk::MAGIC) => {
            ("a model, not a state", "give it as the model, and a .brks file as the state")
        }
        [b'P', b'K', 3, 4, ..] => (
            "a PyTorch file, not a .brks state",
            "a tuned state is imported by `brooklet state import`",
        ),
        _ => ("no .brks state file", "give a file that `--save-state` wrote"),
    };
    FormatError::NotAModel { path: path.to_owned(), found: found.to_owned(), mend }
}

/// xxh3-64 of the bytes without the checksum itself.
fn checksum(bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&bytes[..COVERED]);
    hash.update(&bytes[PREAMBLE_LEN..]);
    hash.digest()
}

fn field(path: &Path, what: &'static str, expected: &str, found: &str) -> FormatError {
    FormatError::Field {
        path: path.to_owned(),
        what,
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

fn json_error(path: &Path, source: serde_json::Error) -> FormatError {
    FormatError::Json { path: path.to_owned(), what: "the state's metadata", source }
}
