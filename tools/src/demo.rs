//! The demo model that `run` and `chat` use when none is named.
//!
//! Looked for in this order: `$BROOKLET_MODEL`; in `models/` beside the executable; in
//! `../share/brooklet/models` of an installation; in `models/` of the folders above the executable
//! (a build folder inside a clone); in `models/` of the source tree; in `./models`. Test:
//! `tests/cli/run.rs`.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The model that was named, else the demo model.
pub(crate) fn model_or_demo(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    if let Some(path) = std::env::var_os("BROOKLET_MODEL").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    folders().iter().find_map(|folder| first_model(folder)).ok_or_else(|| {
        Failure::usage(
            "no model was named and no demo model found",
            "type `brooklet run MODEL.brk -p PROMPT`, or set BROOKLET_MODEL",
        )
    })
}

fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let executable =
        std::env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
    if let Some(folder) = executable.parent() {
        folders.push(folder.join("models"));
        folders.push(folder.join("../share/brooklet/models"));
        folders.extend(folder.ancestors().skip(1).map(|above| above.join("models")));
    }
    folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"));
    folders.push("models".into());
    folders
}

/// The first model of a folder, by name.
fn first_model(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|e| e == "brk") && path.is_file()).min()
}
