//! Copies of states in a folder: what one process has read, the next one need not.
//!
//! One state file (`.brks`, f32) for each copy, whose tail is the whole text. Its name has the
//! model's fingerprint, how states are kept, the number of tokens and a hash of them, so that a
//! list of names is enough to find the longest; the tokens themselves are compared before it is
//! used. Files appear whole or not at all, and whoever finds one damaged or gone reads the text
//! instead: processes may share a folder, and it may be emptied at any time. The files that were
//! not used for longest go first.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use brooklet_formats::{DType, state_file};
use xxhash_rust::xxh3::Xxh3;

use crate::model::Model;
use crate::snapshot::Snapshot;
use crate::{EngineError, Result};

const ENDING: &str = "brks";

/// Files that are looked at for where a text parts from others.
const PARTINGS: usize = 64;

/// A folder of states.
pub(super) struct Folder {
    path: PathBuf,
    most: u64,
    /// How the names of this model's files begin.
    prefix: String,
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
        Ok(Folder { path: path.to_owned(), most, prefix })
    }

    /// The longest beginning of `tokens` that has more of them than `than`.
    pub(super) fn find(&self, model: &Model, tokens: &[u32], than: usize) -> Option<Snapshot> {
        let names: Vec<String> = self.names().map(|(name, _)| name).collect();
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
            let path = self.place(&name.to_string());
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
    pub(super) fn common(&self, tokens: &[u32], than: usize) -> usize {
        let mut ours: Vec<(SystemTime, String)> = self
            .names()
            .filter(|(name, _)| {
                let name = Name::parse(name).filter(|name| name.prefix == self.prefix);
                name.is_some_and(|name| name.tokens > than)
            })
            .filter_map(|(name, found)| Some((found.modified().ok()?, name)))
            .collect();
        ours.sort_by(|a, b| b.cmp(a));
        let tails = ours.iter().take(PARTINGS).filter_map(|(_, name)| {
            // A wrong one costs a copy more, or a passage read twice.
            state_file::peek_tail(&state_file::open(&self.place(name)).ok()?)
        });
        tails.map(|tail| super::tree::common(&tail, tokens)).max().unwrap_or(0)
    }

    /// Keeps a copy, which has read `tokens`.
    pub(super) fn insert(&self, tokens: &[u32], snapshot: &Snapshot) {
        let mut hash = Xxh3::new();
        update(&mut hash, tokens);
        let name = Name { prefix: &self.prefix, tokens: tokens.len(), hash: hash.digest() };
        let path = self.place(&name.to_string());
        // Copies within a prompt have no logits; those of its end take their place.
        if path.exists() && snapshot.logits.is_empty() {
            return touch(&path);
        }
        let copy = Snapshot { tail: tokens.to_vec(), unread: 0, ..snapshot.clone() };
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
            .filter_map(|(name, found)| {
                Name::parse(&name)?;
                Some((found.modified().ok()?, found.len(), self.place(&name)))
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
    fn names(&self) -> impl Iterator<Item = (String, std::fs::Metadata)> {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let found = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some((entry.file_name().into_string().ok()?, found))
        })
    }

    fn place(&self, name: &str) -> PathBuf {
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
