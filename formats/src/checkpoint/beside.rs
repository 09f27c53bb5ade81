//! The texts beside the weights of a folder: `config.json`, `params.json`, `tokenizer.json`, chat
//! templates.
//!
//! Here: which of them are read, and how: with byte order marks, Python's infinities, links that
//! lead nowhere. A text that is there and cannot be read is an error; taking it for absent would
//! convert another model than the folder has. Not here: the weights (`folder`). Source: cache docs
//! of huggingface_hub; mistral-inference `args.py`. Test: at the end of this file, and `tests`.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::sniff::is_lfs_pointer;
use crate::FormatError;
use crate::atomic::open_regular;

/// Longest text files that are read: a tokenizer, which is handed on as it is, and JSON, which is
/// parsed here.
const TOKENIZER_MAX: u64 = 256 << 20;
pub(super) const JSON_MAX: u64 = 32 << 20;
/// A vocabulary of tiktoken, whose merges are worked out.
const TIKTOKEN_MAX: u64 = 16 << 20;

/// Files that belong to the weights they lie beside.
pub(super) const NAMES: [&str; 16] = [
    "config.json",
    "generation_config.json",
    "params.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tiktoken.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "rwkv_vocab_v20230424.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// The files beside the weights.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) config: Option<Value>,
    pub(super) generation: Option<Value>,
    pub(super) tokenizer_json: Option<Vec<u8>>,
    /// `tiktoken.model`, where there is no tokenizer.json, and the names of its special tokens.
    pub(super) tiktoken: Option<Vec<u8>>,
    pub(super) tokenizer_config: Option<Value>,
    pub(super) chat_template: Option<String>,
    /// Files that were left alone, and why.
    pub(super) notes: Vec<String>,
}

/// Where the configuration is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Config<'a> {
    /// In the weights.
    Inside,
    /// In `config.json`, if it is there.
    Beside,
    /// In `params.json` where there is no `config.json`: the weights have Mistral's names.
    Mistral,
    /// In this file, whatever stands beside the weights.
    At(&'a Path),
}

/// Reads what lies beside the weights in `folder`.
pub(super) fn beside(folder: &Path, config: Config<'_>) -> Result<Beside, FormatError> {
    let found = match config {
        Config::Inside => None,
        Config::At(path) => Some(object(path, parse(path, &read_text(path, JSON_MAX)?)?)?),
        Config::Beside | Config::Mistral => read_object(&folder.join("config.json"))?,
    };
    let mut all = Beside { config: found, ..Beside::default() };
    if matches!(config, Config::Mistral) && all.config.is_none() {
        all.config = read_object(&folder.join("params.json"))?.map(from_params);
    }
    if !matches!(config, Config::Inside) {
        all.generation = read_json(&folder.join("generation_config.json"))?;
    }
    all.tokenizer_json = read_optional(&folder.join("tokenizer.json"), TOKENIZER_MAX)?;
    if all.tokenizer_json.is_none() {
        all.tiktoken = read_optional(&folder.join("tiktoken.model"), TIKTOKEN_MAX)?;
    }
    if all.tiktoken.is_some() {
        all.tokenizer_config = read_json(&folder.join("tokenizer_config.json"))?;
    }
    let template = folder.join("chat_template.jinja");
    if leads_out(folder, &template) {
        // Whoever made the folder does not own that file: it would be copied into the model.
        all.notes.push(format!(
            "{}: a link out of its folder is not followed; put the file itself there",
            template.display()
        ));
    } else if let Some(bytes) = read_optional(&template, JSON_MAX)? {
        // As Jinja reads it.
        all.chat_template = Some(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"));
    }
    if all.chat_template.is_none() {
        let config = read_json(&folder.join("tokenizer_config.json"))?;
        all.chat_template = config.as_ref().and_then(chat_template);
    }
    Ok(all)
}

/// Mistral's `params.json` as a `config.json`. Of models of mamba_ssm it has the arguments that
/// differ from that package's defaults.
fn from_params(params: Value) -> Value {
    let Value::Object(mut config) = params else { return params };
    if let Some(n) = config.remove("n_layers") {
        config.insert("n_layer".to_owned(), n);
    }
    config.remove("model_type");
    if !config.contains_key("n_heads") && !config.contains_key("ssm_cfg") {
        let own = config.iter().filter(|(key, _)| ["d_state", "expand"].contains(&key.as_str()));
        let own: Map<String, Value> =
            own.map(|(key, value)| (key.clone(), value.clone())).collect();
        config.insert("ssm_cfg".to_owned(), own.into());
    }
    config.into()
}

/// Whether a link leads out of `folder`, but for those of huggingface_hub's cache into its own
/// `blobs`.
fn leads_out(folder: &Path, path: &Path) -> bool {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    let (Ok(target), Ok(folder)) = (fs::canonicalize(path), fs::canonicalize(folder)) else {
        return false;
    };
    let cache = folder.parent().filter(|snapshots| snapshots.ends_with("snapshots"));
    let blobs = cache.and_then(Path::parent).map(|cache| cache.join("blobs"));
    is_link && !target.starts_with(&folder) && !blobs.is_some_and(|own| target.starts_with(own))
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

/// A JSON object, if its file is there.
fn read_object(path: &Path) -> Result<Option<Value>, FormatError> {
    read_json(path)?.map(|value| object(path, value)).transpose()
}

/// An error unless the file at `path` is a JSON object: anything else would say nothing.
fn object(path: &Path, value: Value) -> Result<Value, FormatError> {
    if value.is_object() {
        return Ok(value);
    }
    let (path, expected) = (path.to_owned(), "a JSON object".to_owned());
    let kind = if value.is_array() { "a list" } else { "a single value" };
    Err(FormatError::Field { path, what: "the file", expected, found: kind.to_owned() })
}

/// A JSON file, if it is there.
pub(super) fn read_json(path: &Path) -> Result<Option<Value>, FormatError> {
    let Some(bytes) = read_optional(path, JSON_MAX)? else { return Ok(None) };
    parse(path, &bytes).map(Some)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Value, FormatError> {
    let parsed = serde_json::from_slice(bytes).or_else(|e| {
        // Python writes infinities and NaN as bare words, which JSON does not have.
        serde_json::from_slice(&quote_non_finite(bytes)).map_err(|_| e)
    });
    parsed.map_err(json_error(path))
}

pub(super) fn json_error(path: &Path) -> impl FnOnce(serde_json::Error) -> FormatError {
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

/// Whether a file of that name is there. A link that leads nowhere and what is no regular file are
/// errors, but for folders.
pub(super) fn is_there(path: &Path) -> Result<bool, FormatError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(FormatError::io("open", path)(error)),
        Ok(_) => {}
    }
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(FormatError::NotAModel {
            path: path.to_owned(),
            found: "a link to a file that is not there".to_owned(),
            mend: "download the file, or remove the link",
        }),
        Err(error) => Err(FormatError::io("open", path)(error)),
        Ok(found) if found.is_dir() => Ok(false),
        Ok(_) => open_regular(path).map(|_| true),
    }
}

/// The text of a file, if it is there.
pub(super) fn read_optional(path: &Path, max: u64) -> Result<Option<Vec<u8>>, FormatError> {
    if !is_there(path)? {
        return Ok(None);
    }
    read_text(path, max).map(Some)
}

/// The text of a file in UTF-8, without a byte order mark.
pub(super) fn read_text(path: &Path, max: u64) -> Result<Vec<u8>, FormatError> {
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
    Ok(without_mark(bytes))
}

/// Text as editors on Windows save it: UTF-8 after a byte order mark, or UTF-16.
pub(crate) fn without_mark(mut bytes: Vec<u8>) -> Vec<u8> {
    let wide = |pair: fn([u8; 2]) -> u16, bytes: &[u8]| {
        let units: Vec<u16> = bytes[2..].as_chunks().0.iter().map(|b| pair(*b)).collect();
        String::from_utf16_lossy(&units).into_bytes()
    };
    match bytes.as_slice() {
        [0xef, 0xbb, 0xbf, ..] => bytes.split_off(3),
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes, &bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes, &bytes),
        _ => bytes,
    }
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
    fn byte_order_marks() {
        let utf16 = |bytes: fn(u16) -> [u8; 2]| {
            "\u{feff}{\"a\": \"ö\"}\r\n".encode_utf16().flat_map(bytes).collect::<Vec<u8>>()
        };
        let plain = "{\"a\": \"ö\"}\r\n".as_bytes();
        for bytes in [
            plain.to_vec(),
            [&[0xef, 0xbb, 0xbf], plain].concat(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
        ] {
            assert_eq!(without_mark(bytes), plain);
        }
    }

    #[test]
    fn params_of_mistral() {
        let params = json!({"dim": 64, "n_layers": 2, "n_groups": 8, "model_type": "mamba"});
        let expected = json!({"dim": 64, "n_layer": 2, "n_groups": 8, "ssm_cfg": {}});
        assert_eq!(from_params(params), expected);
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
