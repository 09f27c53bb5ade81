//! Our reading of `tokenizer.json` against the crate `tokenizers`: the same pieces and the same
//! ids, or an error.
//!
//! Over all characters where Unicode's tables count; over texts and files made up at random; over
//! the fixture and texts of `shared/` where they are. The crate is the reference implementation; it
//! is linked into tests only.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::{
    NormalizedString, Normalizer as _, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper, Tokenizer as Theirs,
};

use super::pre_tokenize::Cut;
use super::{HuggingFace, normalize, pre_tokenize};
use crate::tokenizer::tests::shared;

/// Every character, with `apart` behind each; the planes in which none is assigned are left out.
fn all_characters(apart: &str) -> String {
    ('\0'..'\u{34000}')
        .chain('\u{e0000}'..'\u{e1000}')
        .chain('\u{10fff0}'..=char::MAX)
        .flat_map(|c| std::iter::once(c).chain(apart.chars()))
        .collect()
}

/// Texts that have what pre-tokenizers tell apart.
pub(super) const TEXTS: [&str; 12] = [
    "",
    " ",
    "Hello,  it's “naïve”\n\n\t  don't 12x34 ",
    "  leading, and 😀\u{1f3fd} 漢字かな\u{a0}x",
    "a\u{301}\u{0}\u{7f}\u{ad}é ١٢٣ Ⅷ ½ ２",
    "I'LL we'ſ 'S 'K \u{212a}'s DON'T\r\n\r\n  \r\n x",
    "12345678901 1,234.50 -- --- ... !!! ?! $a+b<c=d>e^f`g|h~i",
    "trailing   ",
    "\n \n\n  \n",
    "▁under▁score  ▁ ▁▁x",
    "HTMLElement fooBar42 ǅ snake_case\u{200d}x नमस्ते ไทย",
    "<s>a</s> <pad>  b <mask>c <extra_0>",
];

fn pieces(json: &Value, text: &str) -> Vec<String> {
    let steps = pre_tokenize::read(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    let cut = Cut::new(&steps, text, true).unwrap();
    cut.pieces.iter().map(|piece| cut.text[piece.clone()].to_owned()).collect()
}

fn their_pieces(pre: &PreTokenizerWrapper, text: &str) -> Vec<String> {
    let mut cut = PreTokenizedString::from(text);
    pre.pre_tokenize(&mut cut).unwrap();
    let splits = cut.get_splits(OffsetReferential::Normalized, OffsetType::None);
    splits
        .into_iter()
        .map(|(piece, _, _)| piece.to_owned())
        .filter(|piece| !piece.is_empty())
        .collect()
}

fn same_pieces(json: &Value, texts: &[&str]) {
    let theirs: PreTokenizerWrapper = serde_json::from_value(json.clone()).unwrap();
    for text in texts {
        let (ours, theirs) = (pieces(json, text), their_pieces(&theirs, text));
        if ours != theirs {
            let at = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
            panic!("{json}: piece {at} is {:?}, not {:?}", ours.get(at), theirs.get(at));
        }
    }
}

fn split(expression: &str, behavior: &str, invert: bool) -> Value {
    json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior,
        "invert": invert})
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The expressions of tokenizers in use: Llama 3, Qwen 2, GPT-4 (possessive), GPT-4o, DeepSeek,
/// Falcon, StarCoder, Qwen 3.5, Kimi, and parts of the language that they leave out.
const EXPRESSIONS: [&str; 25] = [
    GPT2,
    concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+",
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+",
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    concat!(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++",
        r"|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+",
        r"|\s++(?!\S)|\s*[\r\n]|\s+",
    ),
    concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    concat!(
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+",
        "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+",
        "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+",
        "|\\s+(?!\\S)|\\s+",
    ),
    concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    concat!(
        r"[\p{Han}]+",
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    r"[^\p{L}&&[^\p{Han}]]+",
    r"\P{Han}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[\p{P}\$\+<=>\^~\|`]+",
    "[0-9][0-9][0-9]",
    r"\p{N}",
    r"\d{2,4}|\D",
    r"\w+|[^\w\s]+",
    r"(?:ab|a)(?:b|c)?|x{2}|(e|é)+",
    r"(?=\s)\s\S?|.(?!.)",
    r"(\p{Lu}\p{Ll}*)(?=\p{Lu})",
    r"\x41|\u0042|\x{1F600}|\t",
    r"(?:\p{L}\p{M}*){1,2}",
    r"[a-f0-9]+",
    r"\p{L}(?!\p{L}|\d+(?=x))",
    r"[^a-z]",
    r"[\S]{3}",
];

#[test]
fn regular_expressions_cut_as_theirs() {
    for expression in EXPRESSIONS {
        for behavior in
            ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
        {
            same_pieces(&split(expression, behavior, false), &TEXTS);
            same_pieces(&split(expression, behavior, true), &TEXTS);
        }
    }
    for literal in [" ", "ab", "  ", "▁", ".", "s"] {
        for behavior in
            ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
        {
            let json = json!({"type": "Split", "pattern": {"String": literal}, "behavior": behavior,
                "invert": false});
            same_pieces(&json, &TEXTS);
        }
    }
}

#[test]
fn classes_hold_the_same_characters() {
    let all = all_characters("");
    let categories =
        "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn";
    // Each run of characters of one category is a piece.
    let runs: Vec<String> = categories.split(' ').map(|name| format!("\\p{{{name}}}+")).collect();
    same_pieces(&split(&runs.join("|"), "Isolated", false), &[&all]);
    let classes = [
        r"\s",
        r"\d",
        r"\w",
        r"[^\W\d_]",
        ".",
        "(?i:s)",
        "(?i:[^a-k])",
        r"\PL",
        r"[^\s\p{L}\p{N}]",
    ];
    for expression in classes {
        same_pieces(&split(expression, "Contiguous", false), &[&all]);
    }
    // And the names belong to the right ones.
    let some: String = ('\0'..'\u{3100}').collect();
    for name in categories.split(' ').chain(["L", "M", "N", "P", "S", "Z", "C"]) {
        same_pieces(&split(&format!("\\p{{{name}}}"), "Contiguous", false), &[&some]);
    }
}

#[test]
fn pre_tokenizers_cut_as_theirs() {
    let byte_level = |prefix: bool, regex: bool| {
        json!({"type": "ByteLevel",
        "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex})
    };
    let digits = |single: bool| json!({"type": "Digits", "individual_digits": single});
    let metaspace = |scheme: &str, split: bool| {
        json!({"type": "Metaspace", "replacement": "▁",
        "prepend_scheme": scheme, "split": split})
    };
    let sequence = |steps: &[Value]| json!({"type": "Sequence", "pretokenizers": steps});
    let mut all = vec![
        byte_level(false, true),
        byte_level(true, true),
        byte_level(false, false),
        byte_level(true, false),
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}),
        digits(false),
        digits(true),
        json!({"type": "Punctuation"}),
        json!({"type": "Whitespace"}),
        json!({"type": "WhitespaceSplit"}),
        json!({"type": "Metaspace", "replacement": "_", "add_prefix_space": true}),
        sequence(&[]),
        sequence(&[digits(true), byte_level(true, true)]),
        sequence(&[split(GPT2, "Isolated", false), byte_level(false, false)]),
        sequence(&[
            json!({"type": "Punctuation", "behavior": "Contiguous"}),
            byte_level(false, true),
            digits(false),
            split("[0-9][0-9][0-9]", "Isolated", false),
        ]),
        sequence(&[json!({"type": "WhitespaceSplit"}), metaspace("first", true)]),
        sequence(&[digits(true), sequence(&[metaspace("first", true)])]),
    ];
    for scheme in ["always", "first", "never"] {
        all.extend([metaspace(scheme, true), metaspace(scheme, false)]);
    }
    for json in &all {
        same_pieces(json, &TEXTS);
    }
    let (joined, apart) = (all_characters(""), all_characters("x"));
    for json in [
        byte_level(false, true),
        digits(false),
        json!({"type": "Punctuation", "behavior": "Contiguous"}),
    ] {
        same_pieces(&json, &[&joined, &apart]);
    }
}

fn same_normal(json: &Value, text: &str) {
    let theirs: NormalizerWrapper = serde_json::from_value(json.clone()).unwrap();
    let mut normal = NormalizedString::from(text);
    theirs.normalize(&mut normal).unwrap();
    let ours = normalize::apply(&normalize::read(json).unwrap(), text).unwrap().text;
    if ours != normal.get() {
        let at = ours.chars().zip(normal.get().chars()).take_while(|(a, b)| a == b).count();
        let near = |text: &str| text.chars().skip(at.saturating_sub(3)).take(8).collect::<String>();
        panic!("{json}: {:?}, not {:?}", near(&ours), near(normal.get()));
    }
}

#[test]
fn normalizers_agree() {
    let replace = |pattern: Value, content: &str| {
        json!({"type": "Replace", "pattern": pattern,
        "content": content})
    };
    let strip = |left: bool, right: bool| {
        json!({"type": "Strip", "strip_left": left,
        "strip_right": right})
    };
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let small = [
        json!({"type": "Lowercase"}),
        replace(json!({"String": " "}), "▁"),
        replace(json!({"String": "ll"}), ""),
        replace(json!({"Regex": " {2,}|\\n+"}), "<>"),
        strip(true, true),
        strip(true, false),
        strip(false, true),
        json!({"type": "ByteLevel"}),
        json!({"type": "Sequence", "normalizers": [prepend, replace(json!({"String": " "}), "▁"),
            {"type": "NFC"}]}),
        prepend,
    ];
    for json in &small {
        TEXTS.iter().for_each(|text| same_normal(json, text));
    }
    // Each character alone, behind a letter and before marks that are to be put in order or
    // composed.
    let texts = [all_characters("x"), all_characters("\u{323}\u{301}a"), all_characters("e")];
    let hangul = "\u{1100}\u{1161}\u{11a8}\u{ac00}\u{11a8}\u{1112}\u{1175}";
    for form in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"] {
        texts
            .iter()
            .map(String::as_str)
            .chain([hangul])
            .for_each(|text| same_normal(&json!({"type": form}), text));
    }
}

/// Both readings of a file, and the ids of a text by both.
pub(super) struct Both(HuggingFace, Theirs);

impl Both {
    pub(super) fn new(json: &[u8]) -> Self {
        Both(HuggingFace::from_json(json).unwrap(), Theirs::from_bytes(json).unwrap())
    }

    #[track_caller]
    pub(super) fn agree(&self, text: &str) {
        let mut ours = Vec::new();
        self.0.encode(text.as_bytes(), &[], usize::MAX, &mut ours).unwrap();
        let theirs = self.1.encode_fast(text, false).unwrap();
        if ours != theirs.get_ids() {
            let at = ours.iter().zip(theirs.get_ids()).take_while(|(a, b)| a == b).count();
            panic!(
                "{text:.200?}: id {at} is {:?}, not {:?}",
                ours.get(at),
                theirs.get_ids().get(at)
            );
        }
        let n_vocab = self.0.n_vocab();
        assert!(ours.iter().all(|&id| (id as usize) < n_vocab));
    }
}

#[test]
fn gpt_neox_and_the_demo_read_texts_alike() {
    for path in
        ["fixtures/tokenizer-gpt-neox-20b/20B_tokenizer.json", "models/rwkv7-nano/tokenizer.json"]
    {
        let Some(json) = shared(path) else { continue };
        let both = Both::new(&json);
        TEXTS.iter().for_each(|text| both.agree(text));
        both.agree(&all_characters(""));
        both.agree(&"a".repeat(20_000));
        both.agree(&" ".repeat(5000));
        both.agree(&"<|endoftext|> x <|padding|><|endoftext|>    ".repeat(50));
        for data in ["heldout", "wikitext2-test", "calibration"] {
            let Some(text) = shared(&format!("data/{data}.txt")) else { continue };
            both.agree(&String::from_utf8_lossy(&text[..text.len().min(100_000)]));
        }
    }
}

/// Numbers that follow from a seed (Knuth's generator).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    pub(super) fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    pub(super) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

const ALPHABET: [&str; 16] =
    ["a", "b", "c", "d", "é", "▁", "Ġ", "x", "1", "2", " ", "  ", "'s", "\n", "漢", "e\u{301}"];

/// A text of the letters that the made-up files know, and some that they do not.
pub(super) fn some_text(random: &mut Random, added: &[Value]) -> String {
    let mut text = String::new();
    for _ in 0..random.below(60) {
        match random.below(12) {
            0 if !added.is_empty() => text += random.one(added)["content"].as_str().unwrap(),
            1 => text += *random.one(&TEXTS),
            _ => text += *random.one(&ALPHABET),
        }
    }
    text
}

/// A file: a vocabulary by merges at random, everything else on or off.
fn some_file(random: &mut Random) -> Value {
    let (prefix, suffix) = (*random.one(&["", "", "##"]), *random.one(&["", "", "</w>"]));
    let mut vocab: Vec<String> = vec!["<unk>".to_owned()];
    let add = |vocab: &mut Vec<String>, text: String| {
        if !vocab.contains(&text) {
            vocab.push(text);
        }
    };
    for c in ["a", "b", "c", "d", "é", "▁", "Ġ", "1"] {
        for (before, behind) in [("", ""), (prefix, ""), ("", suffix), (prefix, suffix)] {
            if random.below(8) > 0 {
                add(&mut vocab, [before, c, behind].concat());
            }
        }
    }
    let fallback = random.flag();
    if fallback {
        (0..=255)
            .filter(|byte| *byte != 0xa9 || random.flag())
            .for_each(|byte| add(&mut vocab, format!("<0x{byte:02X}>")));
    }
    let mut merges = Vec::new();
    for _ in 0..random.below(60) {
        let (a, b) = (random.one(&vocab).clone(), random.one(&vocab).clone());
        let ends = suffix.is_empty() || !a.ends_with(suffix);
        if let Some(rest) =
            b.strip_prefix(prefix).filter(|_| ends && !a.starts_with('<') && !b.starts_with('<'))
        {
            add(&mut vocab, format!("{a}{rest}"));
            merges.push(json!([a, b]));
        }
    }
    let mut added = Vec::new();
    for content in ["<s>", "</s>", "ab", "</s>a", "b c", "É", "x1", "<pad>"] {
        if random.below(3) == 0 {
            let mut flag = || random.flag();
            added.push(
                json!({"id": 0, "content": content, "single_word": flag(), "lstrip": flag(),
                    "rstrip": flag(),
                "normalized": flag(), "special": flag()}),
            );
        }
    }
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizers = [
        json!(null),
        json!({"type": "NFC"}),
        json!({"type": "Lowercase"}),
        replace.clone(),
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}),
    ];
    let metaspace = |scheme: &str| {
        json!({"type": "Metaspace", "replacement": "▁",
        "prepend_scheme": scheme, "split": true})
    };
    let pre_tokenizers = [
        json!(null),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true}),
        json!({"type": "WhitespaceSplit"}),
        metaspace("always"),
        metaspace("first"),
        split(GPT2, "Isolated", false),
    ];
    let ids: serde_json::Map<String, Value> =
        vocab.iter().zip(0..).map(|(text, id)| (text.clone(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": random.one(&normalizers), "pre_tokenizer": random.one(&pre_tokenizers),
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": *random.one(&[Some("<unk>"), None]),
            "continuing_subword_prefix": prefix, "end_of_word_suffix": suffix,
            "fuse_unk": random.flag(), "byte_fallback": fallback, "ignore_merges": random.flag(),
            "vocab": ids, "merges": merges},
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn files_made_up_at_random_are_read_alike(seed in any::<u64>()) {
        let mut random = Random(seed);
        let file = some_file(&mut random);
        let both = Both::new(file.to_string().as_bytes());
        let added = file["added_tokens"].as_array().unwrap();
        for _ in 0..8 {
            both.agree(&some_text(&mut random, added));
        }
    }

    #[test]
    fn any_text_is_cut_alike(
        which in 0..8usize, text in any::<String>(),
        spaced in "[ a-zA-Z0-9'\\r\\n\\t.,!é漢\u{300}]{0,60}"
    ) {
        same_pieces(&split(EXPRESSIONS[which], "Isolated", false), &[&text, &spaced]);
    }
}

#[test]
fn hostile_files_and_texts_end() {
    let refused =
        |expression: &str| pre_tokenize::read(&split(expression, "Isolated", false)).is_err();
    for expression in [
        "",
        "a*",
        "(a*)*b",
        "(",
        "(a",
        "a)",
        "[",
        "[]",
        "[a",
        "a{2",
        "a{2,1}",
        "a{99999}",
        "\\",
        "\\p{Xx}",
        "(?<=a)b",
        "^a",
        "a$",
        "a+?",
        "[a&&b]",
        "[&&[a]]",
        "[a&&[b]c]",
        "[a&&[b]&&[c]]",
        "[a&&[b]",
        "[[a]b]",
        "\\p{Hangul}",
        "[[:alpha:]]",
        "[b-a]",
        "(?i:é)",
        "(?i:\\pL)",
        "\\1",
        "(?:a|)",
    ] {
        assert!(refused(expression), "{expression}");
    }
    assert!(
        refused(&"(".repeat(4000))
            && refused(&"a".repeat(5000))
            && refused("(((((ab){99}){99}){99}){99}){99}")
    );
    // Going back without end is an error of the text.
    let steps = pre_tokenize::read(&split("(?:a+)+b", "Isolated", false)).unwrap();
    assert!(Cut::new(&steps, &"a".repeat(100), true).is_err());
    assert_eq!(Cut::new(&steps, "aaab", true).unwrap().pieces.first(), Some(&(0..4)));
    // So is growing without end.
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let steps =
        normalize::read(&json!({"type": "Sequence", "normalizers": vec![double; 40]})).unwrap();
    assert!(normalize::apply(&steps, "a a").is_err());
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false,
        "trim_offsets": true});
    let steps =
        pre_tokenize::read(&json!({"type": "Sequence", "pretokenizers": vec![level; 40]})).unwrap();
    assert!(Cut::new(&steps, "é", true).is_err());
    // A long word is merged in less than quadratic time.
    let file = json!({"model": {"type": "BPE", "vocab": {"a": 0, "aa": 1, "aaaa": 2},
        "merges": ["a a", "aa aa"]}});
    let long = HuggingFace::from_json(file.to_string().as_bytes()).unwrap();
    let mut ids = Vec::new();
    long.encode(&b"a".repeat(1_000_001), &[], usize::MAX, &mut ids).unwrap();
    assert_eq!((ids.len(), ids[0], ids.last()), (250_001, 2, Some(&0)));
}
