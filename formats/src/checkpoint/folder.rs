//! A model as a folder: Hugging Face's layout, and the older one of state-spaces.
//!
//! Here: which files of a folder are the weights (one or several shards), `config.json`,
//! `tokenizer.json`, the chat template. Not here: the weight files themselves. Order of choice:
//! safetensors before PyTorch, one file before shards, as in transformers `modeling_utils.py`; else
//! the only weight file there is. Source: huggingface_hub serialization docs ("sharded
//! checkpoints"); mamba_ssm/utils/hf.py. Test: `tests`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::sniff::is_lfs_pointer;
use crate::atomic::{folder_of, open_regular};
use crate::{FormatError, brk};

/// Longest text files that are read: a tokenizer, which is handed on as it is, and JSON, which is
/// parsed here.
const TOKENIZER_MAX: u64 = 256 << 20;
const JSON_MAX: u64 = 32 << 20;

/// Files that belong to the weights they lie beside.
const BESIDE: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "params.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "rwkv_vocab_v20230424.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Where the weights of a folder are.
#[derive(Debug)]
pub(super) enum Weights {
    One(PathBuf),
    /// An index file: tensor names to shards.
    Sharded(PathBuf),
}

/// The files beside the weights.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) config: Option<Value>,
    pub(super) tokenizer_json: Option<Vec<u8>>,
    pub(super) chat_template: Option<String>,
}

/// Finds the weights of `folder`.
pub(super) fn weights(folder: &Path) -> Result<Weights, FormatError> {
    for (name, sharded) in [
        ("model.safetensors", false),
        ("model.safetensors.index.json", true),
        ("pytorch_model.bin", false),
        ("pytorch_model.bin.index.json", true),
        ("model.pth", false),
    ] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(if sharded { Weights::Sharded(path) } else { Weights::One(path) });
        }
    }
    let mut candidates = Vec::new();
    for entry in fs::read_dir(folder).map_err(FormatError::io("list", folder))? {
        let path = entry.map_err(FormatError::io("list", folder))?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ["safetensors", "pth", "pt", "bin", "gguf"].contains(&extension) && path.is_file() {
            candidates.push(path);
        }
    }
    candidates.sort();
    match candidates.as_slice() {
        [path] => Ok(Weights::One(path.clone())),
        [] => Err(FormatError::NotAModel {
            path: folder.to_owned(),
            found: "a folder without weights".to_owned(),
            mend: "it must hold model.safetensors, pytorch_model.bin or one other weight file",
        }),
        several => {
            let names: Vec<_> =
                several.iter().filter_map(|path| path.file_name()?.to_str()).collect();
            Err(FormatError::NotAModel {
                path: folder.to_owned(),
                found: format!("a folder with several weight files ({})", names.join(", ")),
                mend: "name the one that is meant",
            })
        }
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
        inputs.extend(BESIDE.map(|name| folder.join(name)));
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
    let folder = index.parent().unwrap_or(Path::new(""));
    let mut shards = BTreeMap::<_, Vec<_>>::new();
    for (tensor, shard) in parsed.weight_map {
        // A shard is a file of this folder: an index must not lead the reader elsewhere.
        let mut parts = Path::new(&shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            let (path, expected) = (index.to_owned(), "the name of a file beside it".to_owned());
            return Err(FormatError::Field { path, what: "a shard", expected, found: shard });
        }
        shards.entry(folder.join(shard)).or_default().push(tensor);
    }
    Ok(shards)
}

/// Reads what lies beside the weights in `folder`; `config.json` only when `with_config`.
pub(super) fn beside(folder: &Path, with_config: bool) -> Result<Beside, FormatError> {
    let config = if with_config { read_json(&folder.join("config.json"))? } else { None };
    let tokenizer_json = read_optional(&folder.join("tokenizer.json"), TOKENIZER_MAX)?;
    let chat_template = match read_optional(&folder.join("chat_template.jinja"), JSON_MAX)? {
        Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        None => read_json(&folder.join("tokenizer_config.json"))?.as_ref().and_then(chat_template),
    };
    Ok(Beside { config, tokenizer_json, chat_template })
}

/// `chat_template` of a tokenizer_config.json: text, or a list of named ones of which "default" is
/// meant.
fn chat_template(config: &Value) -> Option<String> {
    let template = config.get("chat_template")?;
    if let Some(text) = template.as_str() {
        return Some(text.to_owned());
    }
    let named = template.as_array()?;
    let default = named.iter().find(|entry| entry["name"] == "default").or(named.first())?;
    Some(default.get("template")?.as_str()?.to_owned())
}

fn read_json(path: &Path) -> Result<Option<Value>, FormatError> {
    let Some(bytes) = read_optional(path, JSON_MAX)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&bytes).or_else(|e| {
        // Python writes infinities and NaN as bare words, which JSON does not have.
        serde_json::from_slice(&quote_non_finite(&bytes)).map_err(|_| e)
    });
    parsed.map(Some).map_err(json_error(path))
}

fn json_error(path: &Path) -> impl FnOnce(serde_json::Error) -> FormatError {
    move |source| FormatError::Json { path: path.to_owned(), what: "the file", source }
}

/// Replaces bare `Infinity`, `-Infinity` and `NaN` by `{"__float__": "…"}`, as newer transformers
/// write them.
fn quote_non_finite(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut rest, mut in_text) = (json, false);
    while let Some((&byte, after)) = rest.split_first() {
        if in_text && byte == b'\\' {
            let n = rest.len().min(2);
            out.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            continue;
        }
        in_text ^= byte == b'"';
        let word = [&b"-Infinity"[..], b"Infinity", b"NaN"]
            .into_iter()
            .find(|word| rest.starts_with(word));
        match word.filter(|_| !in_text) {
            Some(word) => {
                out.extend_from_slice(&[b"{\"__float__\":\"", word, b"\"}"].concat());
                rest = &rest[word.len()..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

fn read_optional(path: &Path, max: u64) -> Result<Option<Vec<u8>>, FormatError> {
    if !path.is_file() {
        return Ok(None);
    }
    read_text(path, max).map(Some)
}

fn read_text(path: &Path, max: u64) -> Result<Vec<u8>, FormatError> {
    let (file, _) = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(FormatError::io("read", path))?;
    if bytes.len() as u64 > max {
        return Err(FormatError::Field {
            path: path.to_owned(),
            what: "the file",
            expected: format!("at most {max} bytes"),
            found: "more".to_owned(),
        });
    }
    if is_lfs_pointer(&bytes) {
        return Err(FormatError::NotAModel {
            path: path.to_owned(),
            found: "a Git LFS pointer, not the file it stands for".to_owned(),
            mend: "fetch the file with `git lfs pull`",
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn non_finite_numbers_of_python() {
        let parsed: Value = serde_json::from_slice(&quote_non_finite(
            br#"{"time_step_limit": [0.0, Infinity], "Infinity\"": "NaN", "x": -Infinity}"#,
        ))
        .unwrap();
        assert_eq!(parsed["time_step_limit"], json!([0.0, {"__float__": "Infinity"}]));
        assert_eq!(parsed["Infinity\""], "NaN");
        assert_eq!(parsed["x"]["__float__"], "-Infinity");
    }

    #[test]
    fn templates() {
        assert_eq!(chat_template(&json!({"chat_template": "{{ x }}"})).as_deref(), Some("{{ x }}"));
        let several = json!({"chat_template": [
            {"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
        assert_eq!(chat_template(&several).as_deref(), Some("d"));
        assert_eq!(chat_template(&json!({"chat_template": 3})), None);
    }
}
