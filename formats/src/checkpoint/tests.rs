//! Checkpoints against real files, and the fixtures' readers for the tests beside this one.
//!
//! Here: every fixture opened, listed and read whole; twins compared; small files truncated at every byte
//! and flipped. Third-party fixtures lie outside the repository and are skipped in the open where absent.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file of the shared fixtures, or `None` with a note.
pub(super) fn shared(name: &str) -> Option<PathBuf> {
    let root = env::var_os("BROOKLET_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let path = root.join(name);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

/// A temporary file with these bytes, alone in its folder.
pub(super) fn temporary(bytes: &[u8]) -> Temporary {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    fs::write(&path, bytes).unwrap();
    Temporary { _folder: folder, path }
}

pub(super) struct Temporary {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// An array of a `.npz` file: raw bytes in C order.
pub(super) struct Npy {
    pub(super) bytes: Vec<u8>,
}

impl Npy {
    pub(super) fn f32(&self) -> Vec<f32> {
        self.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

/// Reads a `.npz` of the fixtures: a zip of `.npy` files, whose header ends at `10 + u16 at byte 8`.
pub(super) fn npz(name: &str) -> Option<HashMap<String, Npy>> {
    let file = fs::File::open(shared(&format!("fixtures/{name}"))?).unwrap();
    let mut zip = zip::ZipArchive::new(file).unwrap();
    let n_entry = zip.len();
    let read = |i| {
        let mut entry = zip.by_index(i).unwrap();
        let name = entry.name().unwrap().trim_end_matches(".npy").to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        (name, Npy { bytes: bytes.split_off(header) })
    };
    let names = 0..n_entry;
    Some(names.map(read).collect())
}
