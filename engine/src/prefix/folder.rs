//! Copies of states in a folder: what one process has read, the next one need not.
//!
//! One state file (`.brks`, f32) for each copy, whose tail is the whole text. Its name has the
//! model's fingerprint, how states are kept, the number of tokens and a hash of them, so that a
//! list of names is enough to find the longest; the tokens themselves are compared before it is
//! used. Files appear whole or not at all, and whoever finds one damaged or gone reads the text
//! instead: processes may share a folder, and it may be emptied at any time. The files that were
//! not used for longest go first. Files are written by a thread of its own (`writer`), and what was
//! read of one to compare it is not read again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use brooklet_formats::{DType, state_file};
use xxhash_rust::xxh3::Xxh3;

use super::writer::Writer;
use crate::model::Model;
use crate::snapshot::Snapshot;
use crate::{EngineError, Result};

const ENDING: &str = "brks";

/// Files that are looked at for where a text parts from others.
const PARTINGS: usize = 64;

/// Tokens of files that are remembered at most: 16 MB.
const REMEMBERED: usize = 4 << 20;

/// A folder of states.
pub(super) struct Folder {
    place: Arc<Place>,
    /// How the names of this model's files begin.
    prefix: String,
    /// The texts of the newest files, by their names: a name says which text it is.
    tails: HashMap<String, Vec<u32>>,
    writer: Writer,
}

/// Where files are written, and how many bytes of them may be there.
pub(super) struct Place {
    path: PathBuf,
    most: u64,
}

/// A name as [`Folder`] makes them: the beginning, the tokens, their hash.
struct Name<'a> {
    prefix: &'a str,
    tokens: usize,
    hash: u64,
}

impl Folder {
    pub(super) fn new(model: &Model, path: &Path, most: u64) -> Result<Folder> {
        let refused = |why: String| EngineError::PrefixFolder { folder: path.to_owned(), why };
        let layout = model.state_layout();
        if layout.paged().iter().any(|piece| piece.dtype == DType::Int8) {
            let why = "keys and values in 8 bits are not the same bits when they come back";
            return Err(refused(why.to_owned()));
        }
        std::fs::create_dir_all(path).map_err(|error| refused(error.to_string()))?;
        let window = layout.window().unwrap_or(0);
        let prefix = format!("{:016x}-{}-{window}", model.fingerprint(), layout.dtype());
        let place = Arc::new(Place { path: path.to_owned(), most });
        let writer = Writer::new(place.clone());
        Ok(Folder { place, prefix, tails: HashMap::new(), writer })
    }

    /// The longest beginning of `tokens` that has more of them than `than`.
    pub(super) fn find(&self, model: &Model, tokens: &[u32], than: usize) -> Option<Snapshot> {
        let names: Vec<String> = self.place.names().map(|(name, _)| name).collect();
        let mut ours: Vec<Name<'_>> = names
            .iter()
            .filter_map(|name| Name::parse(name))
            .filter(|name| name.prefix == self.prefix)
            .filter(|name| name.tokens > than && name.tokens <= tokens.len())
            .collect();
        ours.sort_by_key(|name| name.tokens);
        let (mut hash, mut at) = (Xxh3::new(), 0);
        ours.retain(|name| {
            update(&mut hash, &tokens[at..name.tokens]);
            at = name.tokens;
            hash.digest() == name.hash
        });
        ours.iter().rev().find_map(|name| {
            let path = self.place.path(&name.to_string());
            let snapshot = Snapshot::load(model, &path).ok()?;
            let is_it = snapshot.tail == tokens[..name.tokens]
                && snapshot.state.position() == name.tokens as u64
                && (name.tokens < tokens.len() || !snapshot.logits.is_empty());
            is_it.then(|| touch(&path))?;
            Some(snapshot)
        })
    }

    /// How many tokens the text has in common with the newest of those that files have read more
    /// of than `than`.
    pub(super) fn common(&mut self, tokens: &[u32], than: usize) -> usize {
        let mut ours: Vec<(SystemTime, String)> = self
            .place
            .names()
            .filter(|(name, _)| {
                let name = Name::parse(name).filter(|name| name.prefix == self.prefix);
                name.is_some_and(|name| name.tokens > than)
            })
            .filter_map(|(name, entry)| Some((entry.metadata().ok()?.modified().ok()?, name)))
            .collect();
        ours.sort_by(|a, b| b.cmp(a));
        ours.truncate(PARTINGS);
        let most = ours.iter().map(|(_, name)| self.same(name, tokens)).max().unwrap_or(0);
        if self.tails.len() > PARTINGS {
            self.tails.retain(|name, _| ours.iter().any(|(_, newest)| newest == name));
        }
        most
    }

    /// How many tokens the text has in common with a file's, which is read once.
    fn same(&mut self, name: &str, tokens: &[u32]) -> usize {
        if let Some(tail) = self.tails.get(name) {
            return super::tree::common(tail, tokens);
        }
        // A wrong one costs a copy more, or a passage read twice.
        let file = state_file::open(&self.place.path(name)).ok();
        let tail = file.and_then(|file| state_file::peek_tail(&file)).unwrap_or_default();
        let same = super::tree::common(&tail, tokens);
        self.remember(name.to_owned(), tail);
        same
    }

    fn remember(&mut self, name: String, tail: Vec<u32>) {
        let all: usize = self.tails.values().map(Vec::len).sum();
        if all + tail.len() <= REMEMBERED {
            self.tails.insert(name, tail);
        }
    }

    /// Keeps a copy, which has read `tokens`, some time from now.
    pub(super) fn insert(&mut self, tokens: &[u32], snapshot: &Snapshot) {
        let mut hash = Xxh3::new();
        update(&mut hash, tokens);
        let name = Name { prefix: &self.prefix, tokens: tokens.len(), hash: hash.digest() };
        let name = name.to_string();
        let copy = Snapshot { tail: tokens.to_vec(), unread: 0, ..snapshot.clone() };
        if self.writer.write(name.clone(), copy) {
            self.remember(name, tokens.to_vec());
        }
    }

    /// Waits until all is written.
    pub(super) fn flush(&self) {
        self.writer.flush();
    }
}

impl Place {
    /// Writes a copy, whole or not at all.
    pub(super) fn write(&self, name: &str, copy: &Snapshot) {
        let path = self.path(name);
        // Copies within a prompt have no logits; those of its end take their place.
        if path.exists() && copy.logits.is_empty() {
            return touch(&path);
        }
        if let Err(error) = copy.save(&path, DType::F32) {
            log::warn!("{}: {error}", path.display());
            return;
        }
        self.shrink(&path);
    }

    /// Removes files until all fit, but for `newest`.
    fn shrink(&self, newest: &Path) {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = self
            .names()
            .filter_map(|(name, entry)| {
                Name::parse(&name)?;
                let found = entry.metadata().ok()?;
                Some((found.modified().ok()?, found.len(), self.path(&name)))
            })
            .collect();
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, path) in files {
            if bytes <= self.most {
                break;
            }
            if path != newest || size > self.most {
                // Another process may have been first.
                let _ = std::fs::remove_file(path);
                bytes -= size;
            }
        }
    }

    /// The files in the folder.
    fn names(&self) -> impl Iterator<Item = (String, std::fs::DirEntry)> {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            Some((entry.file_name().into_string().ok().filter(|_| is_file)?, entry))
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Name<'_> {
    fn parse(name: &str) -> Option<Name<'_>> {
        let name = name.strip_suffix(ENDING)?.strip_suffix('.')?;
        let (rest, hash) = name.rsplit_once('-')?;
        let (prefix, tokens) = rest.rsplit_once('-')?;
        let hash = u64::from_str_radix(hash, 16).ok().filter(|_| hash.len() == 16)?;
        let fingerprint = prefix.split('-').next()?;
        u64::from_str_radix(fingerprint, 16).ok().filter(|_| fingerprint.len() == 16)?;
        Some(Name { prefix, tokens: tokens.parse().ok()?, hash })
    }
}

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{:016x}.{ENDING}", self.prefix, self.tokens, self.hash)
    }
}

fn update(hash: &mut Xxh3, tokens: &[u32]) {
    for token in tokens {
        hash.update(&token.to_le_bytes());
    }
}

/// The file is used now.
fn touch(path: &Path) {
    // A file that cannot be touched goes earlier, that is all.
    let file = std::fs::File::options().append(true).open(path);
    let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_others() {
        let name = Name { prefix: "00000000000000ab-f32-0", tokens: 12, hash: 0xfe };
        let text = name.to_string();
        assert_eq!(text, "00000000000000ab-f32-0-12-00000000000000fe.brks");
        let again = Name::parse(&text).expect("a name");
        assert_eq!((again.prefix, again.tokens, again.hash), (name.prefix, 12, 0xfe));
        for other in ["talk.brks", "a-b-c.brks", "00000000000000ab-f32-0-12-fe.brks", ""] {
            assert!(Name::parse(other).is_none(), "{other}");
        }
    }
}
