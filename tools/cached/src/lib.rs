//! Checkpoints in the place of models: each is converted once, into a cache folder.
//!
//! The file's name there says which checkpoint it came from, as which files of which size and age,
//! into which number format, by which version; if any of these changes, it is converted again, and
//! the older file is removed. It appears whole or not at all, so that two programs may convert the
//! same checkpoint at a time. The command line and the Python package share the folder. Not here:
//! the conversion (`brooklet_formats::convert`), and what people are told of it. Tests: below, and
//! `tests/cli/checkpoints.rs` of the command line.

#![forbid(unsafe_code)]

use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use brooklet_formats::brk::{self, BrkFile};
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_formats::{DType, FormatError};

/// The number format of a checkpoint's matrices when none is asked for.
pub const DTYPE: DType = DType::Int8;
/// Changes when the same checkpoint becomes another file though the program's version stays.
const VERSION: u32 = 1;
/// Bytes of a checkpoint's own name in the name of its file.
const MAX_STEM: usize = 40;
/// Endings of the small files that a conversion reads beside the weights.
const BESIDE: [&str; 4] = ["json", "jinja", "txt", "model"];

/// The checkpoint at `path`, if it is one. What is neither that nor a model is left to whoever
/// opens it as a model, who has the words for it.
///
/// # Errors
/// It is a checkpoint, or a folder, and cannot be read.
pub fn checkpoint_at(path: &Path) -> Result<Option<Checkpoint>, FormatError> {
    if brk::KIND.recognises(path) {
        return Ok(None);
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Checkpoint::open(path).map(Some),
        Ok(found) if found.is_file() => match Checkpoint::open(path) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(FormatError::NotAModel { .. } | FormatError::Io { .. }) => Ok(None),
            Err(error) => Err(error),
        },
        _ => Ok(None),
    }
}

/// `$XDG_CACHE_HOME/brooklet`, `~/.cache/brooklet`, or what the system has in their place.
pub fn folder() -> Option<PathBuf> {
    let variable =
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .or_else(|| variable("LOCALAPPDATA"));
    folder.map(|folder| folder.join("brooklet"))
}

/// The file that a checkpoint becomes in a cache folder.
pub struct Place {
    folder: PathBuf,
    /// Start of the names of older versions of it.
    prefix: String,
    name: String,
}

impl Place {
    /// The place of `checkpoint`, which stands at `source`, in `folder`.
    pub fn new(folder: PathBuf, source: &Path, checkpoint: &Checkpoint, dtype: DType) -> Place {
        let (prefix, name) = names(source, checkpoint, dtype);
        Place { folder, prefix, name }
    }

    /// The cache folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Whether it is there, and a model.
    pub fn is_there(&self) -> bool {
        BrkFile::open(&self.file()).is_ok()
    }

    /// Makes the cache folder.
    ///
    /// # Errors
    /// The system refuses.
    pub fn make_folder(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)
    }

    /// Removes what older versions of the checkpoint became. Whoever runs one of them keeps it.
    pub fn remove_older(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let other = entry.file_name().to_string_lossy().into_owned();
            let number = other.strip_prefix(&self.prefix).and_then(|n| n.strip_suffix(".brk"));
            let is_number = |n: &str| n.len() == 16 && u64::from_str_radix(n, 16).is_ok();
            if number.is_some_and(is_number) && other != self.name {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The name in the cache folder of what a checkpoint becomes, and how the names of older versions
/// of it begin.
fn names(path: &Path, checkpoint: &Checkpoint, dtype: DType) -> (String, String) {
    let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let stem = place.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let stem: String = stem.chars().filter(|c| plain(*c)).take(MAX_STEM).collect();
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    let prefix = format!("{stem}-{:08x}-{dtype}-", hasher.finish() as u32);

    let weights = checkpoint.files();
    let is_read = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        weights.contains(path) || ending.is_some_and(|ending| BESIDE.contains(&ending))
    };
    let mut files: Vec<_> = checkpoint
        .inputs()
        .into_iter()
        .filter(is_read)
        .filter_map(|path| Some((path.canonicalize().ok()?, stamp(&fs::metadata(&path).ok()?))))
        .collect();
    files.sort();
    files.dedup();
    (files, env!("CARGO_PKG_VERSION"), VERSION, brk::VERSION).hash(&mut hasher);
    let name = format!("{prefix}{:016x}.brk", hasher.finish());
    (prefix, name)
}

/// Size and age of a file.
fn stamp(found: &Metadata) -> (u64, Option<SystemTime>) {
    (found.len(), found.modified().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_files_of_a_checkpoint_go_and_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let (prefix, name) = ("a-00000000-int8-".to_owned(), format!("a-00000000-int8-{:016x}", 2));
        let name = name + ".brk";
        let older = format!("{prefix}{:016x}.brk", 1);
        let others = ["a-00000000-int8-1.brk", "b-00000000-int8-0000000000000001.brk", "a.txt"];
        for file in others.into_iter().chain([&name[..], &older]) {
            fs::write(folder.path().join(file), "").expect("a file");
        }
        let place = Place { folder: folder.path().to_owned(), prefix, name };
        place.remove_older();
        assert!(place.file().exists() && !folder.path().join(&older).exists());
        assert!(others.iter().all(|file| folder.path().join(file).exists()));
        assert!(!place.is_there(), "an empty file is no model");
    }

    #[test]
    fn no_checkpoint_is_nothing_and_a_broken_folder_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = folder.path().join("notes.txt");
        fs::write(&text, "no model").expect("a file");
        assert!(checkpoint_at(&text).expect("a file that can be read").is_none());
        assert!(checkpoint_at(&folder.path().join("nothing")).expect("nothing there").is_none());
        assert!(checkpoint_at(folder.path()).is_err());
    }
}
