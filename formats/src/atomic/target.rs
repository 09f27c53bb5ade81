//! Where a file is to be written, and what must not be lost by it.
//!
//! Here: [`Target`], the only place where it is decided whether something may be replaced. Not
//! here: the writing (`super`), the file under construction (`part`). The rule: no input is written
//! onto, whatever name leads to it; what is there and is not of the kind being written is replaced
//! only when that was asked for. An output that is a symbolic link is written through: the link
//! stays, the file that it leads to is replaced. Tests: `tests`.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::place::{folder_of, open_regular};
use crate::FormatError;
use crate::platform::number_at;

/// Links that are followed one after the other, as Linux does.
const MAX_LINKS: usize = 40;

/// For a file that is made of nothing that lies on the disk.
pub const NO_INPUTS: [PathBuf; 0] = [];

/// A kind of file, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name, such as ".brk".
    pub name: &'static str,
    /// The bytes that every such file starts with.
    pub magic: &'static [u8],
}

impl Kind {
    /// Whether the file at `path` is of this kind. One that cannot be read is not.
    pub fn recognises(&self, path: &Path) -> bool {
        let mut start = Vec::new();
        let read =
            open_regular(path).is_ok_and(|(file, _)| file.take(64).read_to_end(&mut start).is_ok());
        read && start.starts_with(self.magic)
    }
}

/// An output: its place, its kind, what it is made from.
///
/// ```
/// use brooklet_formats::{atomic::{AtomicFile, NO_INPUTS, Target}, state_file};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("notes.txt");
/// std::fs::write(&path, "dear to somebody")?;
/// let target = Target::new(&path, state_file::KIND, NO_INPUTS);
/// assert!(AtomicFile::create(&target).is_err());
/// assert!(AtomicFile::create(&target.force(true)).is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Target {
    path: PathBuf,
    kind: Kind,
    inputs: Vec<PathBuf>,
    force: bool,
}

impl Target {
    /// A file of `kind` at `path`, made from `inputs`: every file that is read on the way, and
    /// every other one that belongs to those. Inputs that do not exist do not matter.
    pub fn new<I>(path: impl Into<PathBuf>, kind: Kind, inputs: I) -> Target
    where
        I: IntoIterator<Item: Into<PathBuf>>,
    {
        let inputs = inputs.into_iter().map(Into::into).collect();
        Target { path: path.into(), kind, inputs, force: false }
    }

    /// With `force`, a file of another kind is replaced, too. An input never is.
    #[must_use]
    pub fn force(self, force: bool) -> Target {
        Target { force, ..self }
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fails where `AtomicFile::create` would refuse; for asking
    /// before long work starts.
    ///
    /// # Errors
    /// The path leads to an input, to a file of another kind, or to something that is not a regular
    /// file.
    pub fn check(&self) -> Result<(), FormatError> {
        self.look(&self.resolve()?).map(drop)
    }

    /// The path of the file itself, where `path` is a symbolic link, which need not lead to
    /// anything yet.
    pub(super) fn resolve(&self) -> Result<PathBuf, FormatError> {
        // A pipe behind /dev/stdout has no other path.
        self.regular(&self.path)?;
        let mut real = self.path.clone();
        for _ in 0..MAX_LINKS {
            if !fs::symlink_metadata(&real).is_ok_and(|found| found.is_symlink()) {
                return Ok(real);
            }
            match fs::canonicalize(&real) {
                Ok(whole) => return Ok(whole),
                // A file without a path: one that was deleted, behind /dev/stdout.
                Err(error) if fs::metadata(&real).is_ok() => {
                    return Err(FormatError::io("replace", &self.path)(error));
                }
                Err(_) => {}
            }
            let next = fs::read_link(&real).map_err(FormatError::io("follow", &real))?;
            real = folder_of(&real).join(next);
        }
        let source = io::Error::other("it is a symbolic link that leads round in a circle");
        Err(FormatError::Io { action: "follow", path: self.path.clone(), source })
    }

    /// The file that is at `real` and may be replaced, if there is one.
    pub(super) fn look(&self, real: &Path) -> Result<Option<Metadata>, FormatError> {
        let Some(found) = self.regular(real)? else { return Ok(None) };
        if let Some(input) = self.inputs.iter().find(|input| is_one_file(input, real)) {
            return Err(FormatError::OntoInput { path: self.path.clone(), input: input.clone() });
        }
        // An empty file holds nothing that could be lost: `mktemp` makes one, and so does `>`.
        if self.force || found.len() == 0 || self.kind.recognises(real) {
            return Ok(Some(found));
        }
        Err(FormatError::InTheWay { path: self.path.clone(), kind: self.kind.name })
    }

    /// The file at `path`; an error if it is something else.
    fn regular(&self, path: &Path) -> Result<Option<Metadata>, FormatError> {
        match fs::metadata(path) {
            Ok(found) if found.is_file() => Ok(Some(found)),
            Ok(_) => {
                let source = io::Error::other("it is there and is not a regular file");
                Err(FormatError::Io { action: "replace", path: self.path.clone(), source })
            }
            // Creating a file there says what is wrong, if anything is.
            Err(_) => Ok(None),
        }
    }
}

/// Whether both paths lead to the same file, through links of either sort.
fn is_one_file(a: &Path, b: &Path) -> bool {
    let canonical = || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    matches!((number_at(a), number_at(b)), (Ok(a), Ok(b)) if a == b) || canonical()
}
