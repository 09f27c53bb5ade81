//! Kimi's `tiktoken.model` as a `tokenizer.json`.
//!
//! Each line has a token in base 64 and its rank, which is its id. tiktoken merges the neighbours
//! whose union has the least rank; a `tokenizer.json` lists the merges, which are found by playing
//! each token's back: with the lower ranks alone, two parts of it are left. Behind the ranks come
//! 256 special tokens, named in `tokenizer_config.json` or by their number. Sources:
//! `tokenization_kimi.py` of Kimi's checkpoints; tiktoken `src/lib.rs`. Test:
//! `tests/cli/tokenizers.rs`.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::byte_level::{self, KIMI};

/// The longest token that is played back: in Kimi's vocabulary 128 bytes.
const MAX_TOKEN: usize = 256;
/// Special tokens behind the ranks.
const N_SPECIAL: usize = 256;

/// The `tokenizer.json` of the file's text and of `tokenizer_config.json`, or why there is none.
pub(super) fn tokenizer_json(file: &[u8], config: Option<&Value>) -> Result<Vec<u8>, String> {
    let mut ranks: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut tokens = Vec::new();
    for (i, line) in file.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let token = read(line).filter(|(token, rank)| {
            *rank == tokens.len() && ranks.insert(token.clone(), *rank).is_none()
        });
        let expected = "a token in base 64 of at most 256 bytes, and its rank";
        let (token, _) = token
            .ok_or_else(|| format!("line {} of tiktoken.model: expected {expected}", i + 1))?;
        tokens.push(token);
    }
    let mut merges = Vec::new();
    let mut vocab = Map::new();
    for (rank, token) in tokens.iter().enumerate() {
        vocab.insert(byte_level::text_of(token), json!(rank));
        if let Some(at) = last_merge(&ranks, token, rank) {
            let [left, right] = [&token[..at], &token[at..]].map(byte_level::text_of);
            merges.push(format!("{left} {right}"));
        }
    }
    let named = config.and_then(|config| config.get("added_tokens_decoder"));
    let mut added = Vec::new();
    for id in tokens.len()..tokens.len() + N_SPECIAL {
        let entry = named.and_then(|named| named.get(id.to_string()));
        let text = entry.and_then(|entry| entry.get("content")).and_then(Value::as_str);
        let special = entry.and_then(|entry| entry.get("special")).and_then(Value::as_bool);
        let reserved = format!("<|reserved_token_{id}|>");
        let text = text.unwrap_or(&reserved);
        added.push(byte_level::added(id, text, special.unwrap_or(true)));
    }
    Ok(byte_level::tokenizer_json(vocab, json!(merges), added, &KIMI))
}

/// The token and the rank of a line.
fn read(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let at = line.iter().position(|byte| *byte == b' ')?;
    let token = STANDARD.decode(&line[..at]).ok()?;
    let rank = std::str::from_utf8(line[at..].trim_ascii()).ok()?.parse().ok()?;
    (1..=MAX_TOKEN).contains(&token.len()).then_some((token, rank))
}

/// Where the last merge that makes `token` joins its two parts; `None` where no merges make it, as
/// of a single byte.
fn last_merge(ranks: &HashMap<Vec<u8>, usize>, token: &[u8], rank: usize) -> Option<usize> {
    // The parts' ends, and the rank of each part with the next.
    let mut ends: Vec<usize> = (0..=token.len()).collect();
    let joined = |ends: &[usize], i: usize| {
        let both = ends.get(i + 2).and_then(|end| ranks.get(&token[ends[i]..*end]));
        both.copied().filter(|both| *both < rank).unwrap_or(usize::MAX)
    };
    let mut with_next: Vec<usize> = (0..token.len()).map(|i| joined(&ends, i)).collect();
    while ends.len() > 3 {
        let (at, least) = with_next.iter().copied().enumerate().min_by_key(|(_, rank)| *rank)?;
        if least == usize::MAX {
            return None;
        }
        ends.remove(at + 1);
        with_next.remove(at + 1);
        with_next[at] = joined(&ends, at);
        if at > 0 {
            with_next[at - 1] = joined(&ends, at - 1);
        }
    }
    (ends.len() == 3).then(|| ends[1])
}
