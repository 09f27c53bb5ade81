//! A model as a folder or as several files: Hugging Face's layout, the older one of state-spaces,
//! Mistral's, a cache of huggingface_hub, parts without an index.
//!
//! Here: which files are the weights. Not here: the weight files themselves, the texts beside them
//! (`beside`). Order of choice: safetensors before PyTorch, one file before shards, as in
//! transformers `modeling_utils.py`; else the only weight file there is, or all parts of the only
//! one that is split. Source: huggingface_hub serialization docs ("sharded checkpoints") and cache
//! docs; mamba_ssm/utils/hf.py; llama.cpp `tools/gguf-split`. Test: `tests`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::beside::{self, JSON_MAX, json_error, read_text};
use crate::atomic::folder_of;
use crate::{FormatError, brk};

/// Most parts of a split file.
const PARTS_MAX: usize = 10_000;

/// Weight files by the ends of their names.
const EXTENSIONS: [&str; 7] = ["safetensors", "st", "pth", "pt", "bin", "ckpt", "gguf"];

/// Files that training leaves beside the weights.
const NO_WEIGHTS: [&str; 5] =
    ["training_args.", "optimizer.", "scheduler.", "scaler.", "rng_state"];

/// Where the weights are.
#[derive(Debug)]
pub(super) enum Weights {
    One(PathBuf),
    /// All parts, in their order.
    Parts(Vec<PathBuf>),
    /// An index file: tensor names to shards.
    Sharded(PathBuf),
}

/// The folder of the model in `folder`: itself, or, of a cache of huggingface_hub
/// (`models--ORG--NAME`), the snapshot that its `refs/main` names, else the only one.
pub(super) fn of_cache(folder: &Path) -> Result<PathBuf, FormatError> {
    let snapshots = folder.join("snapshots");
    if !snapshots.is_dir() {
        return Ok(folder.to_owned());
    }
    let head = folder.join("refs").join("main");
    if let Some(text) = beside::read_optional(&head, JSON_MAX)? {
        let name = String::from_utf8_lossy(&text).trim().to_owned();
        if !is_file_name(&name) {
            let (path, expected) = (head, "the name of a snapshot".to_owned());
            return Err(FormatError::Field { path, what: "the file", expected, found: name });
        }
        let snapshot = snapshots.join(name);
        if snapshot.is_dir() {
            return Ok(snapshot);
        }
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&snapshots).map_err(FormatError::io("list", &snapshots))? {
        let path = entry.map_err(FormatError::io("list", &snapshots))?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([snapshot]) => Ok(snapshot),
        Err(found) => Err(FormatError::NotAModel {
            path: folder.to_owned(),
            found: format!("a cache with {} snapshots, of which refs/main names none", found.len()),
            mend: "give the folder of the snapshot that is meant",
        }),
    }
}

fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// Finds the weights of `folder`.
pub(super) fn weights(folder: &Path) -> Result<Weights, FormatError> {
    for (name, sharded) in [
        ("model.safetensors", false),
        ("model.safetensors.index.json", true),
        ("pytorch_model.bin", false),
        ("pytorch_model.bin.index.json", true),
        ("consolidated.safetensors", false),
        ("consolidated.safetensors.index.json", true),
        ("model.pth", false),
        ("adapter_model.safetensors", false),
        ("adapter_model.bin", false),
    ] {
        let path = folder.join(name);
        if beside::is_there(&path)? {
            return Ok(if sharded { Weights::Sharded(path) } else { Weights::One(path) });
        }
    }
    let mut candidates = Vec::new();
    for entry in fs::read_dir(folder).map_err(FormatError::io("list", folder))? {
        let path = entry.map_err(FormatError::io("list", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let is_weights = EXTENSIONS.contains(&extension)
            && !NO_WEIGHTS.iter().any(|start| name.starts_with(start));
        if is_weights && beside::is_there(&path)? {
            candidates.push(path);
        }
    }
    candidates.sort();
    let Some(first) = candidates.first() else {
        return Err(FormatError::NotAModel {
            path: folder.to_owned(),
            found: "a folder without weights".to_owned(),
            mend: "it must hold model.safetensors, pytorch_model.bin or one other weight file",
        });
    };
    if candidates.len() == 1 || Part::of(first).is_some() {
        let weights = of_file(first)?;
        let parts = match &weights {
            Weights::Parts(parts) => &parts[..],
            _ => std::slice::from_ref(first),
        };
        if candidates.iter().all(|path| parts.contains(path)) {
            return Ok(weights);
        }
    }
    let names: Vec<_> = candidates.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    Err(FormatError::NotAModel {
        path: folder.to_owned(),
        found: format!("a folder with several weight files ({})", names.join(", ")),
        mend: "name the one that is meant",
    })
}

/// The weights that `file` is, or that it is a part of.
pub(super) fn of_file(file: &Path) -> Result<Weights, FormatError> {
    let Some(part) = Part::of(file) else { return Ok(Weights::One(file.to_owned())) };
    let index = folder_of(file).join(format!("{}.{}.index.json", part.stem, part.extension));
    if part.extension != "gguf" && beside::is_there(&index)? {
        return Ok(Weights::Sharded(index));
    }
    let paths: Vec<PathBuf> = (1..=part.n).map(|i| file.with_file_name(part.name(i))).collect();
    let mut missing = Vec::new();
    for path in &paths {
        if !beside::is_there(path)? {
            missing.push(path.file_name().unwrap_or_default().to_string_lossy());
        }
    }
    if missing.is_empty() {
        return Ok(Weights::Parts(paths));
    }
    let more =
        if missing.len() > 8 { format!(" and {} more", missing.len() - 8) } else { String::new() };
    missing.truncate(8);
    Err(FormatError::NotAModel {
        path: file.to_owned(),
        found: format!(
            "one of {} parts, of which {}{more} are missing",
            part.n,
            missing.join(", ")
        ),
        mend: "put all parts into one folder",
    })
}

/// A name `STEM-00001-of-00003.EXTENSION`.
struct Part<'a> {
    stem: &'a str,
    /// Digits of the numbers.
    width: usize,
    n: usize,
    extension: &'a str,
}

impl<'a> Part<'a> {
    fn of(path: &'a Path) -> Option<Self> {
        let (name, extension) = path.file_name()?.to_str()?.rsplit_once('.')?;
        let (rest, total) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let count = |text: &str| {
            let digits = text.len() >= 2 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<usize>().ok().filter(|n| digits && (1..=PARTS_MAX).contains(n))
        };
        let (number, n) = (count(number)?, count(total)?);
        (number <= n && EXTENSIONS.contains(&extension)).then_some(Part {
            stem,
            width: total.len(),
            n,
            extension,
        })
    }

    fn name(&self, i: usize) -> String {
        let Part { stem, width, n, extension } = self;
        format!("{stem}-{i:0width$}-of-{n:0width$}.{extension}")
    }
}

/// The files of the checkpoint at `opened`, whose weights are in `weights`: where a folder was
/// opened, or the index of one, every file in it; else the weights and what is known to belong to
/// them. A `.brk` file in the folder is what an earlier conversion made, not a part of it.
pub(super) fn inputs(opened: &Path, weights: &[PathBuf]) -> Vec<PathBuf> {
    let mut inputs = [weights, &[opened.to_owned()]].concat();
    let mut folders = Vec::new();
    if let Some(first) = weights.first() {
        folders.push(folder_of(first));
    }
    let is_index = opened.extension().is_some_and(|extension| extension == "json");
    let whole = opened.is_dir() || is_index;
    if opened.is_dir() && !folders.contains(&opened) {
        folders.push(opened);
    }
    for folder in folders {
        inputs.extend(beside::NAMES.map(|name| folder.join(name)));
        if whole && let Ok(entries) = fs::read_dir(folder) {
            let paths = entries.flatten().map(|entry| entry.path());
            inputs.extend(paths.filter(|path| path.is_file() && !brk::KIND.recognises(path)));
        }
    }
    inputs
}

/// The index of a sharded model.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads an index file: each shard's path with the names of the tensors that must be in it.
pub(super) fn shards(index: &Path) -> Result<BTreeMap<PathBuf, Vec<String>>, FormatError> {
    let bytes = read_text(index, JSON_MAX)?;
    let parsed: Index = serde_json::from_slice(&bytes).map_err(json_error(index))?;
    let folder = folder_of(index);
    let mut shards = BTreeMap::<_, Vec<_>>::new();
    for (tensor, shard) in parsed.weight_map {
        // A shard is a file of this folder: an index must not lead the reader elsewhere.
        if !is_file_name(&shard) {
            let (path, expected) = (index.to_owned(), "the name of a file beside it".to_owned());
            return Err(FormatError::Field { path, what: "a shard", expected, found: shard });
        }
        shards.entry(folder.join(shard)).or_default().push(tensor);
    }
    Ok(shards)
}
