//! Tokenizers out of GGUF metadata: a converted file tokenizes as the model's own tokenizer does.
//!
//! The files are made here: a Mamba of one layer with the metadata that llama.cpp's converter
//! writes.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use brooklet::tokenizer::Tokenizer;
use brooklet_formats::DType;
use brooklet_formats::brk::{BrkFile, OpenOptions, TokenizerKind};
use brooklet_formats::convert::{ConvertOptions, convert};
use brooklet_tests::{converted, fixture};
use serde_json::Value;

/// `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const UNKNOWN: i32 = 2;
const BYTE: i32 = 6;

/// A GGUF file being written.
#[derive(Default)]
struct Gguf {
    n_key: u64,
    keys: Vec<u8>,
}

impl Gguf {
    fn key(&mut self, name: &str, kind: u32, value: &[u8]) {
        self.n_key += 1;
        self.keys.extend([&text(name)[..], &kind.to_le_bytes(), value].concat());
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name, 8, &text(value));
    }

    fn number(&mut self, name: &str, value: u32) {
        self.key(name, 4, &value.to_le_bytes());
    }

    fn texts(&mut self, name: &str, values: &[String]) {
        let list: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        let head = [&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        self.key(name, 9, &[head, list].concat());
    }

    /// Tokens with their types, below `tokenizer.ggml.`.
    fn tokens(&mut self, tokens: &[(String, i32)]) {
        let texts: Vec<String> = tokens.iter().map(|(text, _)| text.clone()).collect();
        self.texts("tokenizer.ggml.tokens", &texts);
        let types: Vec<u8> = tokens.iter().flat_map(|(_, kind)| kind.to_le_bytes()).collect();
        let head = [&5u32.to_le_bytes()[..], &(tokens.len() as u64).to_le_bytes()].concat();
        self.key("tokenizer.ggml.token_type", 9, &[head, types].concat());
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.key(name, 7, &[value.into()]);
    }

    /// Tokens with types and scores.
    fn scored(&mut self, model: &str, tokens: &[(&str, i32, f32)]) {
        self.text("tokenizer.ggml.model", model);
        let texts: Vec<_> =
            tokens.iter().map(|(text, kind, _)| ((*text).to_owned(), *kind)).collect();
        self.tokens(&texts);
        let scores: Vec<u8> = tokens.iter().flat_map(|(.., score)| score.to_le_bytes()).collect();
        let head = [&6u32.to_le_bytes()[..], &(tokens.len() as u64).to_le_bytes()].concat();
        self.key("tokenizer.ggml.scores", 9, &[head, scores].concat());
    }

    /// Writes it with the tensors of a Mamba of one layer and converts it.
    fn convert(mut self, n_vocab: u64, folder: &Path) -> (BrkFile, Option<String>) {
        self.text("general.architecture", "mamba");
        let tensors: [(&str, &[u64]); 12] = [
            ("token_embd.weight", &[16, n_vocab]),
            ("output_norm.weight", &[16]),
            ("blk.0.attn_norm.weight", &[16]),
            ("blk.0.ssm_in.weight", &[16, 32]),
            ("blk.0.ssm_conv1d.weight", &[4, 16]),
            ("blk.0.ssm_conv1d.bias", &[16]),
            ("blk.0.ssm_x.weight", &[16, 9]),
            ("blk.0.ssm_dt.weight", &[1, 16]),
            ("blk.0.ssm_dt.bias", &[16]),
            ("blk.0.ssm_a", &[4, 16]),
            ("blk.0.ssm_d", &[16]),
            ("blk.0.ssm_out.weight", &[16, 16]),
        ];
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend([tensors.len() as u64, self.n_key].iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend(self.keys);
        let mut offset = 0u64;
        for (name, shape) in tensors {
            bytes.extend([&text(name)[..], &(shape.len() as u32).to_le_bytes()].concat());
            bytes.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
            bytes.extend([&0u32.to_le_bytes()[..], &offset.to_le_bytes()].concat());
            offset += (4 * shape.iter().product::<u64>()).next_multiple_of(32);
        }
        bytes.resize(bytes.len().next_multiple_of(32) + offset as usize, 0);
        let (source, target) = (folder.join("model.gguf"), folder.join("model.brk"));
        fs::write(&source, bytes).expect("a file");
        let summary = convert(&source, &target, &ConvertOptions::new(DType::Int8), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
        // Read, not mapped: Windows replaces no file that is mapped.
        let file = BrkFile::open_with(&target, OpenOptions { mmap: false });
        (file.unwrap_or_else(|e| panic!("{e}")), summary.tokenizer_note)
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn tokenizer(file: &BrkFile) -> Tokenizer {
    let section = file.tokenizer_blob().expect("the section");
    Tokenizer::from_meta(file.meta().tokenizer.kind.name(), &section)
        .unwrap_or_else(|e| panic!("{e}"))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("JSON")
}

/// GPT-NeoX's tokenizer, as llama.cpp's converter takes it apart, gives the ids of the original.
#[test]
fn gpt_neox() {
    let Some(folder) = fixture("fixtures/tokenizer-gpt-neox-20b") else { return };
    let original = json(&folder.join("20B_tokenizer.json"));
    let n_vocab = 50280;
    let mut tokens: Vec<(String, i32)> =
        (0..n_vocab).map(|i| (format!("[PAD{i}]"), UNUSED)).collect();
    for (text, id) in original["model"]["vocab"].as_object().expect("a vocabulary") {
        tokens[id.as_u64().expect("an id") as usize] = (text.clone(), NORMAL);
    }
    for added in original["added_tokens"].as_array().expect("a list") {
        let kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
        let text = added["content"].as_str().expect("text");
        tokens[added["id"].as_u64().expect("an id") as usize] = (text.to_owned(), kind);
    }
    let merges: Vec<String> =
        serde_json::from_value(original["model"]["merges"].clone()).expect("texts");
    let mut gguf = Gguf::default();
    gguf.text("tokenizer.ggml.model", "gpt2");
    gguf.text("tokenizer.ggml.pre", "mpt");
    gguf.tokens(&tokens);
    gguf.texts("tokenizer.ggml.merges", &merges);
    gguf.number("tokenizer.ggml.eos_token_id", 0);
    gguf.number("tokenizer.ggml.bos_token_id", 0);
    let temp = tempfile::tempdir().expect("a temporary folder");
    let (file, note) = gguf.convert(n_vocab, temp.path());
    assert_eq!(note, None);
    let meta = &file.meta().tokenizer;
    assert_eq!(
        (meta.kind, meta.bos_id, &meta.eos_ids[..]),
        (TokenizerKind::HuggingFace, None, &[0][..])
    );
    let ours = tokenizer(&file);
    let cases = json(&folder.join("cases.json"));
    let cases = cases.as_array().or_else(|| cases["cases"].as_array()).expect("cases");
    for case in cases {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(ours.encode(case["text"].as_str().expect("text")).expect("ids"), ids, "{case}");
    }
    assert!(cases.len() > 20);
}

/// Our own byte-level vocabulary in the committed fixture.
#[test]
fn of_the_fixture() {
    let Some(model) = fixture("fixtures/gguf-mamba-a/model-F32.gguf") else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    let file = BrkFile::open(&converted(&model, temp.path(), DType::Int8)).expect("a file");
    let tokenizer = tokenizer(&file);
    let ids = tokenizer.encode("the end of<|endoftext|>\n it").expect("ids");
    assert_eq!(tokenizer.decode(&ids).expect("bytes"), b"the end of<|endoftext|>\n it");
    assert!(ids.contains(&0) && ids.len() < 14, "{ids:?}");
    assert_eq!(file.meta().tokenizer.eos_ids, [0]);
}

/// The text that llama.cpp stores for a token of bytes: Python's `repr`, without `b'` and `'`.
fn repr(bytes: &[u8]) -> String {
    let quoted = bytes.contains(&b'\'') && bytes.contains(&b'"');
    let escaped = |byte: &u8| match byte {
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b'\'' if quoted => "\\'".to_owned(),
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(escaped).collect()
}

/// The usual World vocabulary is recognised; another one is carried over.
#[test]
fn world() {
    let usual = Tokenizer::world();
    let n_vocab = 65536;
    let mut tokens: Vec<(String, i32)> =
        (0..n_vocab).map(|i| (format!("[PAD{i}]"), UNUSED)).collect();
    tokens[0] = ("<s>".to_owned(), CONTROL);
    for id in 1..usual.n_vocab() as u32 {
        tokens[id as usize] = (repr(usual.token_bytes(id).expect("a token")), NORMAL);
    }
    for own in [false, true] {
        if own {
            // Without the longest token, "a whole word" more or less.
            tokens[usual.n_vocab() - 1].1 = UNUSED;
        }
        let mut gguf = Gguf::default();
        gguf.text("tokenizer.ggml.model", "rwkv");
        gguf.tokens(&tokens);
        let temp = tempfile::tempdir().expect("a temporary folder");
        let (file, note) = gguf.convert(n_vocab, temp.path());
        assert_eq!(note, None);
        assert_eq!(file.meta().tokenizer.kind, TokenizerKind::World);
        assert_eq!(file.meta().tokenizer.eos_ids, [0]);
        assert_eq!(file.tokenizer_blob().expect("the section").is_empty(), !own);
        let ours = tokenizer(&file);
        let text = "It's \"the\" end: 'tis \\ \n\t日本語 \u{1f980}";
        assert_eq!(ours.encode(text).expect("ids"), usual.encode(text).expect("ids"));
        let last = usual.n_vocab() as u32 - 1;
        let is_there = ours.token_bytes(last).is_some_and(|bytes| !bytes.is_empty());
        assert_eq!(is_there, !own);
    }
}

/// SentencePiece's byte-pair encoding: scores, bytes, the space in front, control tokens, unused
/// ids.
#[test]
fn llama() {
    let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens = vec![("<unk>", UNKNOWN, 0.0), ("<s>", CONTROL, 0.0), ("</s>", CONTROL, 0.0)];
    tokens.extend(bytes.iter().map(|text| (text.as_str(), BYTE, 0.0)));
    let first = tokens.len() as u32;
    // "ab" and "bc" have one score, so that the first in the text counts; "\u{2581}a" is better.
    let pieces = ["\u{2581}", "a", "b", "c", "\u{2581}a", "ab", "bc", "[PAD]", "d d", "abc"];
    let scores = [-9.0, -9.0, -9.0, -9.0, -1.0, -2.0, -2.0, 0.0, 0.0, -5.0];
    let kinds = [1, 1, 1, 1, 1, 1, 1, UNUSED, USER_DEFINED, 1];
    tokens.extend(pieces.into_iter().zip(kinds).zip(scores).map(|((a, b), c)| (a, b, c)));
    let id = |text: &str| {
        let at = pieces.iter().position(|piece| *piece == text);
        at.map_or_else(|| u32::from(text.as_bytes()[0]) + 3, |at| first + at as u32)
    };
    let ids = |texts: &[&str]| texts.iter().map(|text| id(text)).collect::<Vec<_>>();
    let temp = tempfile::tempdir().expect("a temporary folder");
    for prefix in [true, false] {
        let mut gguf = Gguf::default();
        gguf.scored("llama", &tokens);
        gguf.number("tokenizer.ggml.bos_token_id", 1);
        gguf.number("tokenizer.ggml.eos_token_id", 2);
        if !prefix {
            gguf.flag("tokenizer.ggml.add_space_prefix", false);
            gguf.flag("tokenizer.ggml.add_bos_token", false);
        }
        let (file, note) = gguf.convert(288, temp.path());
        let meta = &file.meta().tokenizer;
        assert_eq!((note, meta.kind), (None, TokenizerKind::HuggingFace));
        assert_eq!((meta.bos_id, &meta.eos_ids[..]), (prefix.then_some(1), &[2][..]));
        let ours = tokenizer(&file);
        let encode = |text: &str| ours.encode(text).expect("ids");
        let space = "\u{2581}";
        if prefix {
            assert_eq!(encode("abc"), ids(&["\u{2581}a", "bc"]));
            assert_eq!(encode(" bcbc"), ids(&[space, space, "bc", "bc"]));
            assert_eq!(encode("</s>cab"), [&[2][..], &ids(&[space, "c", "ab"])].concat());
            assert_eq!(ours.decode(&encode("abc  a")).expect("bytes"), b"abc  a");
        } else {
            assert_eq!(encode("abcb"), ids(&["abc", "b"]));
            assert_eq!(encode("bcab a"), ids(&["bc", "ab", "\u{2581}a"]));
            assert_eq!(encode("bd dc"), ids(&["b", "d d", "c"]));
        }
        let text = "ab\n\u{e9} d\u{1f980}";
        assert_eq!(ours.decode(&encode(text)).expect("bytes"), text.as_bytes());
        assert!(encode(text).ends_with(&[0xf0 + 3, 0x9f + 3, 0xa6 + 3, 0x80 + 3]));
    }
}

/// Unigram: the best sum of scores, spaces as SentencePiece normalizes them.
#[test]
fn t5() {
    let tokens = [
        ("<pad>", CONTROL, 0.0),
        ("</s>", CONTROL, 0.0),
        ("<unk>", UNKNOWN, 0.0),
        ("\u{2581}", NORMAL, -2.0),
        ("a", NORMAL, -3.0),
        ("b", NORMAL, -3.0),
        ("\u{2581}ab", NORMAL, -4.0),
        ("ba", NORMAL, -3.5),
    ];
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut gguf = Gguf::default();
    gguf.scored("t5", &tokens);
    gguf.number("tokenizer.ggml.eos_token_id", 1);
    gguf.flag("tokenizer.ggml.remove_extra_whitespaces", true);
    let (file, note) = gguf.convert(40, temp.path());
    assert_eq!((note, &file.meta().tokenizer.eos_ids[..]), (None, &[1][..]));
    assert_eq!(file.meta().tokenizer.bos_id, None);
    let ours = tokenizer(&file);
    assert_eq!(ours.encode("ab").expect("ids"), [6]);
    // "\u{2581}" "a" "ba" is worth -8.5, "\u{2581}ab" "a" -7.
    assert_eq!(ours.encode("  aba   b ").expect("ids"), [6, 4, 3, 5]);
    assert_eq!(ours.encode("bazz</s>").expect("ids"), [3, 7, 2, 1]);
    assert_eq!(ours.decode(&[6, 4, 3, 5]).expect("bytes"), b"aba b");
}

#[test]
fn unknown_ones_are_left_out_with_a_note() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut gguf = Gguf::default();
    gguf.text("tokenizer.ggml.model", "bert");
    gguf.tokens(&[("[UNK]".to_owned(), CONTROL)]);
    let (file, note) = gguf.convert(40, temp.path());
    assert_eq!(file.meta().tokenizer.kind, TokenizerKind::None);
    assert!(note.is_some_and(|note| note.contains("\"bert\"")));

    let mut gguf = Gguf::default();
    gguf.text("tokenizer.ggml.model", "llama");
    gguf.tokens(&[("<unk>".to_owned(), UNKNOWN)]);
    let (_, note) = gguf.convert(40, temp.path());
    assert!(note.is_some_and(|note| note.contains("no scores")));

    let mut gguf = Gguf::default();
    gguf.text("tokenizer.ggml.model", "gpt2");
    gguf.text("tokenizer.ggml.pre", "of-tomorrow");
    gguf.tokens(&[("a".to_owned(), NORMAL), ("b".to_owned(), NORMAL), ("ab".to_owned(), NORMAL)]);
    gguf.texts("tokenizer.ggml.merges", &["a b".to_owned(), "a c".to_owned()]);
    let (file, note) = gguf.convert(40, temp.path());
    assert_eq!(tokenizer(&file).encode("aba").expect("ids"), [2, 0]);
    assert!(note.is_some_and(|note| note.contains("of-tomorrow")));
}
