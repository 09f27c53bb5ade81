//! Tests of all tokenizers: the stored cases of the reference implementations, and what holds for
//! every kind.
//!
//! The reference cases lie in `shared/fixtures/tokenizer-*` beside the repository
//! (`BROOKLET_SHARED` names another place); where they are absent the test says so and passes.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A file under `shared/`, or `None` with a word on stderr.
pub(super) fn shared(path: &str) -> Option<Vec<u8>> {
    let root = std::env::var_os("BROOKLET_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let read = std::fs::read(root.join(path)).ok();
    if read.is_none() {
        eprintln!("skipped: {} is not there", root.join(path).display());
    }
    read
}

fn cases(path: &str) -> Option<Vec<Value>> {
    shared(path).map(|json| serde_json::from_slice(&json).expect("a list of cases"))
}

fn ids(case: &Value) -> Vec<u32> {
    serde_json::from_value(case["ids"].clone()).expect("a list of ids")
}

fn hex(text: &str) -> Vec<u8> {
    let nibble = |c: u8| (c as char).to_digit(16).expect("hexadecimal") as u8;
    text.as_bytes().chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
}

/// The text of a stream, piece by piece.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id).to_owned()).collect();
    text.push_str(stream.finish());
    text
}

#[test]
fn world_reference_cases() {
    let tokenizer = Tokenizer::world();
    for case in cases("fixtures/tokenizer-rwkv-world/cases.json").unwrap_or_default() {
        let bytes = hex(case["bytes_hex"].as_str().unwrap());
        assert_eq!(tokenizer.encode(&bytes).unwrap(), ids(&case), "{case}");
        assert_eq!(tokenizer.decode(&ids(&case)).unwrap(), bytes, "{case}");
        assert_eq!(streamed(&tokenizer, &ids(&case)), String::from_utf8_lossy(&bytes), "{case}");
    }
    for case in cases("fixtures/tokenizer-rwkv-world/decode_cases.json").unwrap_or_default() {
        assert_eq!(
            tokenizer.decode(&ids(&case)).unwrap(),
            hex(case["bytes_hex"].as_str().unwrap()),
            "{case}"
        );
    }
}

/// A few of the same, known by heart, for where the reference cases are absent.
#[test]
fn world_vocabulary_is_the_one_of_2023() {
    let tokenizer = Tokenizer::world();
    assert_eq!(tokenizer.encode("  ").unwrap(), [267]);
    assert_eq!(tokenizer.encode("\r\n").unwrap(), [263]);
    let ids = [33155, 45, 21388, 2095, 8079, 34, 33, 10464, 11685, 45814, 261];
    assert_eq!(tokenizer.encode("Hello, brooklet! 你好 déjà\n\n").unwrap(), ids);
    assert_eq!(tokenizer.token_bytes(1), Some(&b"\0"[..]));
    assert_eq!(tokenizer.token_bytes(256), Some(&b"\xff"[..]));
    assert_eq!(tokenizer.token_bytes(65529).map(<[u8]>::len), Some(128));
    assert_eq!(tokenizer.token_bytes(0), Some(&b""[..]));
    assert_eq!(tokenizer.token_bytes(65530), None);
    assert_eq!((tokenizer.n_vocab(), tokenizer.eos()), (65530, Some(0)));
    assert_eq!((tokenizer.token("\n\n"), tokenizer.token("no such token")), (Some(261), None));
    let error = tokenizer.decode(&[65530]).unwrap_err().to_string();
    assert_eq!(error, "token id 65530 is outside the vocabulary of 65530 tokens");
}

#[test]
fn world_asset_is_the_packed_text() {
    let Some(text) = shared("fixtures/tokenizer-rwkv-world/rwkv_vocab_v20230424.txt") else {
        return;
    };
    let built_in = Tokenizer::world();
    let lf: Vec<u8> = text.iter().copied().filter(|&byte| byte != b'\r').collect();
    for text in [text, lf] {
        let read = Tokenizer::world_from_vocab_text(&text).unwrap();
        assert!(read.world_packed() == built_in.world_packed());
    }
    let packed = built_in.world_packed().unwrap();
    let again = Tokenizer::from_meta("world", packed).unwrap();
    assert_eq!(again.encode("Hello").unwrap(), built_in.encode("Hello").unwrap());
}

#[test]
fn gpt_neox_reference_cases() {
    let Some(json) = shared("fixtures/tokenizer-gpt-neox-20b/20B_tokenizer.json") else { return };
    let tokenizer = Tokenizer::from_huggingface_json(&json).unwrap();
    assert_eq!((tokenizer.n_vocab(), tokenizer.eos()), (50277, Some(0)));
    for case in cases("fixtures/tokenizer-gpt-neox-20b/cases.json").unwrap_or_default() {
        let (text, ids) = (case["text"].as_str().unwrap(), ids(&case));
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{case}");
        assert_eq!(
            tokenizer.decode_lossy(&ids).unwrap(),
            case["decoded"].as_str().unwrap(),
            "{case}"
        );
        assert_eq!(streamed(&tokenizer, &ids), case["decoded"].as_str().unwrap(), "{case}");
        let mut stream = tokenizer.stream().skip_special(true);
        let mut skipped: String = ids.iter().map(|&id| stream.push(id).to_owned()).collect();
        skipped.push_str(stream.finish());
        assert_eq!(skipped, case["decoded_skip_special"].as_str().unwrap(), "{case}");
    }
    // Bytes that are no UTF-8 become tokens of single bytes and come back.
    for bytes in [&b"\x80"[..], b"caf\xe9 au lait", b"\xf0\x9f\x98", b"a\x80\x80b\xc3"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(bytes).unwrap()).unwrap(), bytes);
    }
    // This vocabulary lacks the bytes that no UTF-8 text holds.
    assert!(matches!(
        tokenizer.encode(b"ab\xff"),
        Err(EngineError::NotUtf8 { byte: 0xff, offset: 2 })
    ));
}

#[test]
fn demo_model_texts() {
    for model in ["rwkv7-nano", "rwkv7-demo", "mamba1-demo", "mamba2-demo"] {
        let Some(json) = shared(&format!("models/{model}/tokenizer.json")) else { continue };
        let Some(text) = shared(&format!("models/{model}/fixtures/prompt.txt")) else { continue };
        let tokenizer = Tokenizer::from_meta("huggingface", &json).unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!((tokenizer.n_vocab(), tokenizer.eos()), (6144, Some(0)));
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert_eq!(streamed(&tokenizer, &ids).into_bytes(), text);
        assert_eq!(tokenizer.encode("<|endoftext|>").unwrap(), [0]);
        assert_eq!(tokenizer.special_tokens(), [(0, "<|endoftext|>".to_owned())]);
    }
}

/// A small byte-level vocabulary with what an engine must not obey: truncation, padding, dropout, a
/// template.
fn byte_level() -> Tokenizer {
    let mut vocab: serde_json::Map<String, Value> = huggingface::pieces::BYTE_NAMES
        .iter()
        .enumerate()
        .map(|(byte, c)| (c.to_string(), json!(byte)))
        .collect();
    vocab.insert("he".into(), json!(256));
    vocab.insert("hel".into(), json!(257));
    let json = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst",
            "stride": 0},
        "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "x"},
        "added_tokens": [{"id": 258, "content": "</s>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [258], "tokens": ["</s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": 0.9, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "vocab": vocab, "merges": ["h e", "he l"]},
    });
    Tokenizer::from_huggingface_json(json.to_string().as_bytes()).unwrap()
}

#[test]
fn nothing_is_added_cut_or_left_to_chance() {
    let tokenizer = byte_level();
    let hello = [257, 108, 111];
    for _ in 0..20 {
        assert_eq!(tokenizer.encode("hello").unwrap(), hello);
    }
    assert_eq!(tokenizer.encode("hello hello").unwrap().len(), 7);
    assert_eq!(tokenizer.eos(), Some(258));
    assert_eq!(tokenizer.decode(&[257, 258, 33]).unwrap(), b"hel</s>!");
    let mut stream = tokenizer.stream().skip_special(true);
    assert_eq!([257, 258, 33].map(|id| stream.push(id).to_owned()), ["hel", "", "!"]);
    assert!(matches!(
        tokenizer.decode(&[259]),
        Err(EngineError::UnknownToken { id: 259, n_vocab: 259 })
    ));
}

/// Models and steps that are not supported are refused by name.
#[test]
fn other_models_and_steps_are_refused() {
    let bpe = json!({"type": "BPE", "vocab": {"a": 0}, "merges": []});
    let step = |kind: &str| json!({"type": kind, "vocab": [["a", 0.5]]});
    for (field, kind) in [
        ("model", "WordPiece"),
        ("model", "WordLevel"),
        ("normalizer", "Nmt"),
        ("pre_tokenizer", "UnicodeScripts"),
        ("decoder", "CTC"),
    ] {
        let mut file = json!({"version": "1.0", "added_tokens": [], "model": bpe});
        assert!(Tokenizer::from_huggingface_json(file.to_string().as_bytes()).is_ok());
        file[field] = step(kind);
        let error =
            Tokenizer::from_huggingface_json(file.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(kind) && error.contains("not supported"), "{error}");
    }
}

#[test]
fn what_cannot_be_read_is_an_error() {
    for (kind, blob) in [
        ("sentencepiece", &b""[..]),
        ("huggingface", b""),
        ("huggingface", b"{}"),
        ("huggingface", b"\xff"),
        (
            "huggingface",
            br#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":4294967295},"merges":[]}}"#,
        ),
        (
            "huggingface",
            br#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":["b c"]}}"#,
        ),
        ("world", b"rubbish"),
        ("world", b"brkworld"),
    ] {
        assert!(Tokenizer::from_meta(kind, blob).is_err(), "{kind} {blob:?}");
    }
    let none = Tokenizer::from_meta("none", b"").unwrap();
    assert!(matches!(none.encode("a"), Err(EngineError::NoTokenizer)));
    assert!(matches!(none.decode(&[0]), Err(EngineError::NoTokenizer)));
    assert_eq!(none.stream().push(0), "\u{fffd}");
}

#[test]
fn packed_vocabularies_are_checked() {
    let text = b"0 'a' 1\n2 'b' 1\n3 'ab' 2\n";
    let small = Tokenizer::world_from_vocab_text(text).unwrap();
    assert_eq!(small.encode("abba").unwrap(), [3, 2, 0]);
    assert_eq!(small.token_bytes(1), Some(&b""[..]));
    let error = small.encode("abc").unwrap_err().to_string();
    assert_eq!(
        error,
        "the vocabulary has no token that begins with byte 0x63 (byte 2 of the text)"
    );
    let packed = small.world_packed().unwrap();
    for cut in 0..packed.len() {
        assert!(Tokenizer::from_meta("world", &packed[..cut]).is_err() || cut == 0, "{cut}");
    }
    // Every byte of the header and the runs at other values: an error, or a vocabulary that works.
    for at in 0..packed.len() {
        for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
            let mut broken = packed.to_vec();
            broken[at] = value;
            if let Ok(tokenizer) = Tokenizer::from_meta("world", &broken) {
                for id in 0..8 {
                    let _ = tokenizer.token_bytes(id);
                }
                let _ = tokenizer.encode("abba");
            }
        }
    }
}

#[test]
fn tokenizers_are_shared_between_threads() {
    fn check<T: Send + Sync + Clone>(_: &T) {}
    check(&Tokenizer::world());
    fn send<T: Send>(_: &T) {}
    send(&Tokenizer::world().stream());
}

#[test]
fn texts_that_are_too_long_are_left_in_the_middle() {
    let text = "The old man and the sea, <|endoftext|> and 1234 fish. ".repeat(50);
    for tokenizer in [Tokenizer::world(), Tokenizer::bytes(), byte_level()] {
        let ids = tokenizer.encode(&text).unwrap();
        let within = |most: usize| {
            let mut found = vec![7];
            let fits = tokenizer.encode_within(text.as_bytes(), &[], most, &mut found).unwrap();
            (fits, found)
        };
        assert_eq!(within(ids.len() + 1), (true, [&[7], &ids[..]].concat()));
        assert!(!within(ids.len()).0 && !within(0).0);
        let (fits, found) = within(100);
        assert!(!fits && found.len() < 120, "{}: {}", tokenizer.kind(), found.len());
        assert!([&[7], &ids[..]].concat().starts_with(&found));
    }
}

proptest! {
    #[test]
    fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let byte_level = byte_level();
        for tokenizer in [Tokenizer::world(), Tokenizer::bytes(), byte_level] {
            let ids = tokenizer.encode(&bytes).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids).unwrap(), &bytes);
            prop_assert_eq!(streamed(&tokenizer, &ids), String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn any_text_comes_back(text in any::<String>()) {
        for tokenizer in [Tokenizer::world(), byte_level()] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn any_ids_stream_as_they_decode(ids in proptest::collection::vec(0u32..65530, 0..50)) {
        let tokenizer = Tokenizer::world();
        prop_assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode_lossy(&ids).unwrap());
    }

    /// Greedy: no longer token fits where one was chosen.
    #[test]
    fn world_takes_the_longest(text in "[ a-z0-9\\n]{0,60}") {
        let tokenizer = Tokenizer::world();
        let mut rest = text.as_bytes();
        for id in tokenizer.encode(&text).unwrap() {
            let taken = tokenizer.token_bytes(id).unwrap();
            prop_assert!(rest.starts_with(taken));
            for longer in taken.len() + 1..=rest.len() {
                let longer = std::str::from_utf8(&rest[..longer]).unwrap();
                prop_assert_eq!(tokenizer.token(longer), None);
            }
            rest = &rest[taken.len()..];
        }
        prop_assert!(rest.is_empty());
    }
}
