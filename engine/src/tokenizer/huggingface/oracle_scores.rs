//! Tokens with scores: Unigram against the crate `tokenizers`, SentencePiece's encoding against its
//! definition, the table of `Precompiled` against the crate.
//!
//! Files and texts are made up at random, as in `oracle`.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::{NormalizedString, Normalizer as _, NormalizerWrapper};

use super::oracle::{Both, Random, TEXTS, some_text};
use super::{HuggingFace, normalize};

/// Tokens of a few letters with scores; some scores are equal.
fn some_tokens(random: &mut Random, fallback: bool) -> Vec<(String, f64)> {
    let mut tokens: Vec<(String, f64)> = vec![("<unk>".to_owned(), 0.0)];
    if fallback {
        (0..=255)
            .filter(|byte| *byte != 0xa9 || random.flag())
            .for_each(|byte| tokens.push((format!("<0x{byte:02X}>"), 0.0)));
    }
    for _ in 0..random.below(70) {
        let length = 1 + random.below(4);
        let text: String =
            (0..length).map(|_| *random.one(&["a", "b", "c", "é", "▁", "漢", "x"])).collect();
        if tokens.iter().all(|(other, _)| *other != text) {
            tokens.push((text, -(random.below(12) as f64) / 2.0));
        }
    }
    tokens
}

fn some_unigram(random: &mut Random) -> Value {
    let fallback = random.flag();
    let tokens = some_tokens(random, fallback);
    let metaspace = |split: bool| {
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
            "split": split})
    };
    let pre_tokenizers = [json!(null), metaspace(true), metaspace(false)];
    let added = json!({"id": 0, "content": "</s>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": if random.flag() { vec![added] } else { vec![] },
        "normalizer": null, "pre_tokenizer": random.one(&pre_tokenizers), "post_processor": null,
        "decoder": metaspace(true),
        "model": {"type": "Unigram", "unk_id": 0, "vocab": tokens, "byte_fallback": fallback},
    })
}

/// SentencePiece's encoding as it is defined: the neighbours of the best score, the first of
/// equals, become one, until none are a token.
fn by_definition(tokens: &[(String, f64)], n_reserved: usize, text: &str) -> Vec<u32> {
    let id = |text: &str| tokens.iter().skip(n_reserved).position(|(token, _)| token == text);
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f64, usize)> = None;
        for at in 1..symbols.len() {
            let Some(id) = id(&[&*symbols[at - 1], &symbols[at]].concat()) else { continue };
            let score = tokens[n_reserved + id].1;
            if best.is_none_or(|(most, _)| score > most) {
                best = Some((score, at));
            }
        }
        let Some((_, at)) = best else { break };
        let second = symbols.remove(at);
        symbols[at - 1] += &second;
    }
    let mut ids = Vec::new();
    for symbol in symbols {
        let byte = |byte| tokens.iter().position(|(token, _)| *token == format!("<0x{byte:02X}>"));
        match id(&symbol) {
            Some(id) => ids.push((n_reserved + id) as u32),
            None => match symbol.bytes().map(byte).collect::<Option<Vec<_>>>() {
                Some(bytes) => ids.extend(bytes.into_iter().map(|id| id as u32)),
                None if ids.last() == Some(&0) => {}
                None => ids.push(0),
            },
        }
    }
    ids
}

fn sentence_piece(tokens: &[(String, f64)], n_reserved: usize, fallback: bool) -> HuggingFace {
    let score = |(i, (text, score)): (usize, &(String, f64))| {
        json!([text, if i < n_reserved { Value::Null } else { json!(score) }])
    };
    let vocab: Vec<Value> = tokens.iter().enumerate().map(score).collect();
    let file = json!({"model": {"type": "SentencePiece", "unk_id": 0, "byte_fallback": fallback,
        "vocab": vocab}});
    HuggingFace::from_json(file.to_string().as_bytes()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn unigram_models_read_texts_as_theirs(seed in any::<u64>()) {
        let mut random = Random(seed);
        let file = some_unigram(&mut random);
        let both = Both::new(file.to_string().as_bytes());
        TEXTS.iter().for_each(|text| both.agree(text));
        for _ in 0..8 {
            both.agree(&some_text(&mut random, file["added_tokens"].as_array().unwrap()));
        }
    }

    #[test]
    fn sentence_piece_is_its_definition(seed in any::<u64>()) {
        let mut random = Random(seed);
        let fallback = random.flag();
        let tokens = some_tokens(&mut random, fallback);
        let is_reserved = |(text, _): &&(String, f64)| text.starts_with('<');
        let n_reserved = tokens.iter().take_while(is_reserved).count();
        let ours = sentence_piece(&tokens, n_reserved, fallback);
        for _ in 0..8 {
            let text = some_text(&mut random, &[]);
            let mut ids = Vec::new();
            ours.encode(text.as_bytes(), &[], usize::MAX, &mut ids).unwrap();
            prop_assert_eq!(&ids, &by_definition(&tokens, n_reserved, &text), "{}", text);
        }
    }
}

#[test]
fn hostile_tokens_are_refused_and_long_texts_end() {
    let file = |kind: &str, vocab: Value, unknown: Value| {
        let file = json!({"model": {"type": kind, "unk_id": unknown, "vocab": vocab}});
        HuggingFace::from_json(file.to_string().as_bytes()).map_err(|error| error.to_string())
    };
    for kind in ["Unigram", "SentencePiece"] {
        let refused = |vocab, unknown| file(kind, vocab, unknown).unwrap_err();
        assert!(refused(json!([["a".repeat(2000), 0.0]]), json!(0)).contains("longer than"));
        assert!(refused(json!([["a", 0.0]]), json!(1)).contains("number 1 of 1"));
        assert!(refused(json!({"a": 0}), json!(0)).contains("no scores"));
        assert!(refused(json!([["a"]]), json!(0)).contains("tokenizer.json"));
        let long =
            file(kind, json!([["<unk>", 0.0], ["a", -1.0], ["aa", -1.5]]), json!(0)).unwrap();
        let mut ids = Vec::new();
        long.encode(&[b"a".repeat(1_000_001), b"xx".to_vec()].concat(), &[], usize::MAX, &mut ids)
            .unwrap();
        let pairs = ids.iter().filter(|id| **id == 2).count();
        assert_eq!((ids.len(), pairs, ids.last()), (500_002, 500_000, Some(&0)), "{kind}");
        // Without a token for what is unknown, Unigram says so; the other passes over it.
        let without = file(kind, json!([["a", 0.0]]), Value::Null).unwrap();
        assert_eq!(without.encode(b"b", &[], usize::MAX, &mut ids).is_err(), kind == "Unigram");
    }
    let word_piece = file("WordPiece", json!({"a": 0}), Value::Null).unwrap_err();
    assert!(word_piece.contains("WordPiece"), "{word_piece}");
}

#[test]
fn invalid_bytes_are_tokens_where_there_are_some() {
    let bytes = (0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0));
    let tokens: Vec<(String, f64)> = [("<unk>".to_owned(), 0.0)].into_iter().chain(bytes).collect();
    let vocab: Vec<Value> = tokens.iter().map(|(text, _)| json!([text, null])).collect();
    let file = json!({"model": {"type": "SentencePiece", "unk_id": 0, "byte_fallback": true,
        "vocab": vocab}, "decoder": {"type": "Sequence", "decoders": [
        {"type": "ByteFallback"}, {"type": "Fuse"}]}});
    let ours = HuggingFace::from_json(file.to_string().as_bytes()).unwrap();
    let (text, mut ids) = (b"a\xff\xc3(\n", Vec::new());
    ours.encode(text, &[], usize::MAX, &mut ids).unwrap();
    assert_eq!(ids, text.map(|byte| u32::from(byte) + 1));
    assert_eq!(ours.decode(&ids).unwrap(), text);
}

/// A double array of these entries, put together one node after the other.
fn double_array(entries: &[(&str, u32)]) -> Vec<u32> {
    let (mut units, mut used) = (vec![0u32; 4096], vec![false; 4096]);
    used[0] = true;
    let mut work = vec![(0usize, String::new())];
    while let Some((at, prefix)) = work.pop() {
        let value = entries.iter().find(|(text, _)| *text == prefix).map(|(_, value)| *value);
        let mut labels: Vec<u8> = entries
            .iter()
            .filter_map(|(text, _)| {
                text.as_bytes().strip_prefix(prefix.as_bytes())?.first().copied()
            })
            .collect();
        labels.sort_unstable();
        labels.dedup();
        let free = |base: &usize| {
            let at = labels.iter().map(|label| base ^ usize::from(*label));
            at.chain(value.map(|_| *base)).all(|place| !used[place])
        };
        let base = (1..4096 - 256).find(free).expect("a free place");
        units[at] |= ((base ^ at) as u32) << 10;
        if let Some(value) = value {
            units[at] |= 0x100;
            (units[base], used[base]) = (value | 1 << 31, true);
        }
        for label in labels {
            let child = base ^ usize::from(label);
            (units[child], used[child]) = (u32::from(label), true);
            let next = [prefix.as_bytes(), &[label]].concat();
            // Texts of ASCII, so that every prefix is one.
            work.push((child, String::from_utf8(next).unwrap()));
        }
    }
    units
}

#[test]
fn replacements_of_sentence_piece() {
    let entries = [("A", 0), ("Bc", 2), ("B", 5), ("x", 7), ("\t", 8)];
    let replacements = b"a\0bd\0e\0\0 \0";
    let trie: Vec<u8> = double_array(&entries).iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let table = [&(trie.len() as u32).to_le_bytes()[..], &trie, replacements].concat();
    let theirs = tokenizers::normalizers::Precompiled::from(&table).unwrap();
    let json = serde_json::to_value(NormalizerWrapper::from(theirs.clone())).unwrap();
    let ours = normalize::read(&json).unwrap();
    for text in ["AAA", "zA\tz", "Bé x", "xx", "漢A"] {
        let mut normal = NormalizedString::from(text);
        theirs.normalize(&mut normal).unwrap();
        assert_eq!(normalize::apply(&ours, text).unwrap().text, normal.get(), "{text}");
    }
    // The longest entry counts.
    assert_eq!(normalize::apply(&ours, "BcBBc\tAx").unwrap().text, "bdebd a");
}
