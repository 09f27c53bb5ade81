//! Tokenizers of checkpoints: which one is taken, what is said at conversion, where texts end.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    Finished, arg, brooklet, checkpoint, folder, with_input, write_checkpoint_of,
};

/// Files of these names beside a model of `n_vocab` tokens, converted.
fn convert(folder: &Path, n_vocab: usize, beside: &[(&str, String)], more: &[&str]) -> Finished {
    let source = folder.join("model.safetensors");
    write_checkpoint_of(&source, 1, 1, n_vocab);
    for (name, text) in beside {
        std::fs::write(folder.join(name), text).expect("written");
    }
    let (source, target) = (arg(&source), arg(&folder.join("model.brk")));
    brooklet([&["convert", &source, "-o", &target, "--type", "f32"], more].concat())
}

fn meta(folder: &Path) -> Value {
    brooklet(["inspect", &arg(&folder.join("model.brk")), "--json"]).json()["tokenizer"].clone()
}

fn unigram() -> Value {
    let space = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always",
        "split": true});
    let letters = ('a'..='z').map(|c| json!([c.to_string(), -6.0]));
    let vocab: Vec<Value> =
        [json!(["<unk>", 0.0]), json!(["\u{2581}", -2.0])].into_iter().chain(letters).collect();
    let end = json!({"id": 28, "content": "</s>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true});
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [end],
        "normalizer": null, "pre_tokenizer": space, "post_processor": null, "decoder": space,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false}})
}

#[test]
fn unigram_is_carried_over_and_runs() {
    let folder = folder();
    let done = convert(folder.path(), 64, &[("tokenizer.json", unigram().to_string())], &[]);
    assert!(!done.err.contains("note"), "{}", done.err);
    done.ok();
    let model = arg(&folder.path().join("model.brk"));
    assert_eq!(with_input(["tokenize", &model], b"abc a\n").ok(), "1 2 3 4 1 2\n");
    brooklet(["run", "-q", &model, "-p", "abc", "-n", "4"]).ok();
}

#[test]
fn one_that_cannot_be_run_is_said_at_conversion() {
    let word_piece = json!({"version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0}}});
    let folder = folder();
    let done = convert(folder.path(), 64, &[("tokenizer.json", word_piece.to_string())], &[]);
    assert!(done.err.contains("note: ") && done.err.contains("WordPiece"), "{}", done.err);
    assert!(done.err.contains("name another one with --tokenizer"), "{}", done.err);
    done.ok();
}

#[test]
fn a_world_model_has_the_world_vocabulary() {
    let beside = [("tokenizer.json", unigram().to_string())];
    let folder = folder();
    let done = convert(folder.path(), 65536, &beside, &[]);
    assert!(done.err.contains("has the World vocabulary"), "{}", done.err);
    done.ok();
    assert_eq!(meta(folder.path())["kind"], "world");
    // The one that is named counts.
    let named = arg(&folder.path().join("tokenizer.json"));
    convert(folder.path(), 65536, &[], &["--tokenizer", &named]).ok();
    assert_eq!(meta(folder.path())["kind"], "huggingface");
    // With other rows the file beside the weights is the model's.
    convert(folder.path(), 64, &[], &[]).ok();
    assert_eq!(meta(folder.path())["kind"], "huggingface");
}

#[test]
fn every_end_that_a_checkpoint_names_ends_a_text() {
    let mut files = vec![
        ("tokenizer.json", unigram().to_string()),
        ("config.json", json!({"model_type": "rwkv7", "eos_token_id": 3}).to_string()),
        ("generation_config.json", json!({"eos_token_id": [5, 3]}).to_string()),
        ("tokenizer_config.json", json!({"eos_token": {"content": "</s>"}}).to_string()),
        ("special_tokens_map.json", json!({"eos_token": "z"}).to_string()),
    ];
    let of = |files: &[(&str, String)]| {
        let folder = folder();
        convert(folder.path(), 64, files, &[]).ok();
        let mut ids: Vec<u64> =
            serde_json::from_value(meta(folder.path())["eos_ids"].clone()).expect("ids");
        ids.sort_unstable();
        ids
    };
    assert_eq!(of(&files), [3, 5, 27, 28]);
    // With the tokens in the configuration, and line ends of Windows.
    let listed = json!({"eos_token": "end", "added_tokens_decoder": {"40": {"content": "end"}}});
    files[3].1 = listed.to_string().replace(',', ",\r\n");
    files.pop();
    assert_eq!(of(&files), [3, 5, 40]);
}

#[test]
fn world_vocabularies_as_people_have_them() {
    let folder = folder();
    let text = "1 'a' 1\n2 b'\\xff' 1\n3 '\\n' 1\n4 'ab' 2\n".to_owned();
    let json = "{\"1\": \"a\", \"2\": [255], \"3\": \"\\n\", \"4\": \"ab\"}".to_owned();
    let mark = "\u{feff}";
    let files = [
        text.clone(),
        text.replace('\n', "\r\n"),
        format!("{mark}{text}"),
        json.clone(),
        format!("{mark}{}", json.replace(' ', "\r\n")),
    ];
    let model = arg(&folder.path().join("model.brk"));
    for (i, file) in files.iter().enumerate() {
        let path = folder.path().join(format!("vocabulary{i}"));
        std::fs::write(&path, file).expect("written");
        let path = arg(&path);
        assert_eq!(with_input(["tokenize", "--whole", &path], b"aab\xff\n").ok(), "1 4 2 3\n");
        let source = arg(&checkpoint());
        brooklet(["convert", "-q", &source, "-o", &model, "--tokenizer", &path]).ok();
        assert_eq!(with_input(["tokenize", "--whole", &model], b"aab\xff\n").ok(), "1 4 2 3\n");
        assert_eq!(meta(folder.path())["kind"], "world");
    }
    // A tokenizer.json with a mark.
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, format!("{mark}{}", unigram())).expect("written");
    assert_eq!(with_input(["tokenize", &arg(&path)], b"ab\n").ok(), "1 2 3\n");
}

/// A vocabulary of tiktoken: all bytes, then `tokens`.
fn tiktoken(tokens: &[&[u8]]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let base64 = |bytes: &[u8]| -> String {
        let group = |part: &[u8]| {
            let bits = (0..3).fold(0, |n, i| n << 8 | u32::from(*part.get(i).unwrap_or(&0)));
            let digit = |i: usize| match i <= part.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize]),
                false => '=',
            };
            [0, 1, 2, 3].map(digit)
        };
        bytes.chunks(3).flat_map(group).collect()
    };
    let bytes: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let all = bytes.iter().map(Vec::as_slice).chain(tokens.iter().copied());
    all.enumerate().map(|(rank, token)| format!("{} {rank}\n", base64(token))).collect()
}

#[test]
fn kimis_tiktoken_file() {
    let tokens: [&[u8]; 8] =
        [b"he", b" t", b" the", b"er", "\u{4e2d}".as_bytes(), b"\xe4\xb8", b"12", b"123"];
    let names = json!({"added_tokens_decoder": {
        "264": {"content": "[BOS]", "special": true}, "265": {"content": "[EOS]", "special": true}},
        "eos_token": "[EOS]"});
    let beside = [
        ("tiktoken.model", tiktoken(&tokens)),
        ("tokenizer_config.json", names.to_string()),
        ("config.json", "{}".to_owned()),
    ];
    let folder = folder();
    let done = convert(folder.path(), 520, &beside, &[]);
    assert!(!done.err.contains("note"), "{}", done.err);
    done.ok();
    assert_eq!(meta(folder.path())["eos_ids"], json!([265]));
    let model = arg(&folder.path().join("model.brk"));
    let ids = |text: &str| with_input(["tokenize", &model], format!("{text}\n").as_bytes()).ok();
    // " the" comes of " t" and "he"; "er" has a higher rank than "he", which goes first.
    assert_eq!(ids("x there"), "120 258 114 101\n");
    // Numbers are cut after three digits; Chinese stands apart from letters; U+4E2D is no token of
    // merges, whose rank is below its parts', and is one all the same where it stands alone.
    let text = "1234\u{4e2d}\u{4e2d}[EOS]<|reserved_token_270|>\u{4e2d}";
    assert_eq!(ids(text), "263 52 261 173 261 173 265 270 260\n");

    let bad = [("tiktoken.model", "YQ== 0\nYQ== 1\n".to_owned())];
    let done = convert(folder.path(), 520, &bad, &["--force"]);
    assert!(done.err.contains("line 2 of tiktoken.model"), "{}", done.err);
    done.ok();
}
