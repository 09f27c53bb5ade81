//! Texts by a grammar, with the demo model and with vocabularies of every kind.

use std::ops::ControlFlow;
use std::path::Path;

use brooklet::generate::{Ended, Limits, Piece, Reason, generate_many, generate_with};
use brooklet::sampler::{Sampler, SamplerOptions, SamplerState};
use brooklet::speculate::{Lookup, Speculation};
use brooklet::tokenizer::Tokenizer;
use brooklet::{EngineError, EngineOptions, Grammar, Model, Session, State, Syntax, Text};
use serde_json::Value;

const PERSON: &str = r#"{"type": "object", "additionalProperties": false,
    "properties": {"name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"type": "array", "items": {"enum": ["sea", "tea"]}, "maxItems": 2}},
    "required": ["name", "age", "likes"]}"#;

fn demo() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    Model::open(path).expect("the demo model")
}

fn options() -> EngineOptions {
    EngineOptions::new().threads(1).chunk(16).logits(8)
}

fn sampler(model: &Model, seed: u64, grammar: &Grammar) -> Sampler {
    let options = SamplerOptions::new().temperature(0.9).seed(seed);
    let mut sampler = Sampler::new(options, model.n_vocab()).expect("options");
    sampler.constrain(grammar.clone());
    sampler
}

/// The text behind a prompt, and how it ended.
fn write(
    model: &Model,
    text: &Text,
    mut sampler: Sampler,
    guess: bool,
) -> Result<(String, Ended), EngineError> {
    let mut session = Session::new(model, &options());
    let prompt = text.prompt(b"The captain said: ")?;
    session.prefill(&prompt)?;
    let mut speculation = Speculation::new(Lookup::new(), 6).always();
    speculation.begin(&prompt);
    let speculation = guess.then_some(&mut speculation);
    let mut written = String::new();
    let limits = Limits::new(200);
    let keep = |piece: Piece<'_>| {
        written.push_str(piece.text);
        Ok::<_, EngineError>(ControlFlow::Continue(()))
    };
    let ended = generate_with(&mut session, &mut sampler, speculation, text, &limits, keep)?;
    Ok((written, ended))
}

fn matches_person(text: &str) {
    let json: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let object = json.as_object().expect("an object");
    assert_eq!(object.len(), 3, "{text}");
    assert!(object["name"].as_str().is_some_and(|name| name.chars().count() <= 12), "{text}");
    assert!(object["age"].as_u64().is_some_and(|age| age <= 120), "{text}");
    let likes = object["likes"].as_array().expect("a list");
    assert!(
        likes.len() <= 2 && likes.iter().all(|like| *like == "sea" || *like == "tea"),
        "{text}"
    );
}

#[test]
fn a_schema_gives_json_that_matches_it() {
    let model = demo();
    let text = Text::of(&model).expect("a tokenizer");
    let grammar = text.grammar(Syntax::JsonSchema, PERSON).expect("a schema");
    let mut written = Vec::new();
    for seed in 0..4 {
        let (plain, ended) = write(&model, &text, sampler(&model, seed, &grammar), false).unwrap();
        assert!(matches!(ended.reason, Reason::Grammar | Reason::End), "{ended:?} {plain}");
        matches_person(&plain);
        // The same again, and with guesses.
        let again = write(&model, &text, sampler(&model, seed, &grammar), true).unwrap();
        assert_eq!(again, (plain.clone(), ended));
        written.push(plain);
    }
    assert!(written.windows(2).any(|two| two[0] != two[1]), "{written:?}");

    // All of them at once.
    let mut session = Session::new(&model, &options());
    session.prefill(&text.prompt(b"The captain said: ").unwrap()).unwrap();
    let mut states: Vec<State> = vec![session.state().clone(); 4];
    let mut samplers: Vec<Sampler> = (0..4).map(|seed| sampler(&model, seed, &grammar)).collect();
    let logits = session.logits().to_vec();
    let mut together = vec![String::new(); 4];
    let from = (&mut states[..], &logits[..]);
    generate_many(session.engine(), from, &mut samplers, &text, &Limits::new(200), |i, piece| {
        together[i].push_str(piece.text);
        Ok::<_, EngineError>(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!(together, written);
}

#[test]
fn a_text_ends_where_its_grammar_does() {
    let model = demo();
    let text = Text::of(&model).expect("a tokenizer");
    let written = |syntax, source: &str| {
        let grammar = text.grammar(syntax, source).expect("a grammar");
        write(&model, &text, sampler(&model, 3, &grammar), false).expect("text")
    };
    let (only, ended) = written(Syntax::Regex, "Ahoy, [ab]{3}!");
    assert_eq!((only.len(), ended.reason), (10, Reason::Grammar));
    assert!(only.starts_with("Ahoy, ") && only.ends_with('!'), "{only}");
    let lark = "start: greeting \" \" (\"Ann\" | \"Bob\")\ngreeting: \"Hello\" | \"Good day\"\n";
    let (greeting, ended) = written(Syntax::Lark, lark);
    let all = ["Hello Ann", "Hello Bob", "Good day Ann", "Good day Bob"];
    assert!(all.contains(&&*greeting), "{greeting}");
    assert_eq!(ended.reason, Reason::Grammar);
    // Once more with the same sampler: only behind a new start.
    let grammar = text.grammar(Syntax::Regex, "yes|no").expect("a grammar");
    let mut sampler = sampler(&model, 1, &grammar);
    let logits = vec![0.0; model.n_vocab()];
    let word = |sampler: &mut Sampler| {
        let mut ids = Vec::new();
        while !sampler.is_over() {
            let id = sampler.sample(&logits);
            sampler.accept(id);
            ids.push(id);
        }
        sampler.check().expect("allowed tokens");
        text.tokenizer.decode_lossy(&ids).expect("known tokens")
    };
    assert!(["yes", "no"].contains(&&*word(&mut sampler)));
    assert_eq!(word(&mut sampler), "");
    sampler.restart_grammar();
    assert!(["yes", "no"].contains(&&*word(&mut sampler)));
    sampler.reset();
    assert!(["yes", "no"].contains(&&*word(&mut sampler)));
}

#[test]
fn a_saved_sampler_goes_on_in_the_middle_of_a_text() {
    let model = demo();
    let text = Text::of(&model).expect("a tokenizer");
    let grammar = |source| text.grammar(Syntax::Regex, source).expect("a grammar");
    let logits = vec![0.0; model.n_vocab()];
    let draw = |sampler: &mut Sampler, n: usize| -> Vec<u32> {
        let mut ids = Vec::new();
        while !sampler.is_over() && ids.len() < n {
            let id = sampler.sample(&logits);
            sampler.accept(id);
            ids.push(id);
        }
        sampler.check().expect("allowed tokens");
        ids
    };
    let source = "[a-f]{30}[0-9]{5}";
    let mut first = sampler(&model, 3, &grammar(source));
    let begun = draw(&mut first, 7);
    let bytes = first.state().to_bytes();
    let state = SamplerState::from_bytes(&bytes).expect("a state");
    let expected = draw(&mut first, 1000);
    let mut second = sampler(&model, 9, &grammar(source));
    second.restore(&state).expect("the same grammar");
    assert_eq!(draw(&mut second, 1000), expected);
    let all = text.tokenizer.decode_lossy(&[begun, expected].concat()).expect("known tokens");
    assert_eq!(all.len(), 35, "{all}");
    // Another grammar begins, and so does the same one when it is asked to.
    let mut other = sampler(&model, 9, &grammar("x{3}"));
    other.restore(&state).expect("another grammar");
    let xs = draw(&mut other, 1000);
    assert_eq!(text.tokenizer.decode_lossy(&xs).expect("known tokens"), "xxx");
    second.restore(&state).expect("the same grammar");
    second.restart_grammar();
    let anew = draw(&mut second, 1000);
    assert_eq!(text.tokenizer.decode_lossy(&anew).expect("known tokens").len(), 35);
    // Tokens that it does not allow are no place in it, and change nothing.
    let mut forged = bytes.clone();
    let last = forged.len() - 4;
    forged[last..].copy_from_slice(&5_u32.to_le_bytes());
    let forged = SamplerState::from_bytes(&forged).expect("a state");
    let before = second.state();
    assert!(second.restore(&forged).is_err() && second.state() == before);
}

/// What any vocabulary gives by a regular expression, with logits that do not care.
fn draw(tokenizer: Tokenizer, ends: Vec<u32>, regex: &str) -> String {
    let text = Text { ends, ..Text::new(tokenizer) };
    let grammar = text.grammar(Syntax::Regex, regex).expect("a grammar");
    let n_vocab = text.tokenizer.n_vocab() + 3;
    let mut sampler = Sampler::new(SamplerOptions::new().seed(5), n_vocab).expect("options");
    sampler.constrain(grammar);
    let (logits, mut ids) = (vec![0.0; n_vocab], Vec::new());
    while !sampler.is_over() {
        let id = sampler.sample(&logits);
        sampler.accept(id);
        ids.extend(Some(id).filter(|id| !text.ends.contains(id)));
        assert!(ids.len() < 1000);
    }
    let written = text.tokenizer.decode_lossy(&ids).expect("known tokens");
    sampler.check().unwrap_or_else(|error| panic!("{}: {error}: {written}", text.tokenizer.kind()));
    written
}

#[test]
fn every_kind_of_vocabulary() {
    // A character of three bytes from tokens of one.
    let regex = "[a-c]{5}(€|ü){3}";
    let vocabulary = serde_json::json!({
        "added_tokens": [{"id": 7, "content": "<end>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}],
        "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "merges": [["a", "b"]],
            "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "Ã¼": 4, "Ã": 5, "¼": 6}},
    });
    let json = vocabulary.to_string();
    let hugging_face = Tokenizer::from_huggingface_json(json.as_bytes()).expect("a tokenizer");
    let regex_of_ü = "[a-c]{5}ü{3}";
    for (tokenizer, ends, regex) in [
        (Tokenizer::bytes(), vec![], regex),
        (Tokenizer::bytes(), vec![0], regex),
        (Tokenizer::world(), vec![0], regex),
        // An end that stands for text, too.
        (Tokenizer::world(), vec![261, 0], regex),
        (hugging_face, vec![7], regex_of_ü),
    ] {
        let kind = tokenizer.kind();
        let text = draw(tokenizer, ends, regex);
        let (letters, rest) = text.split_at(5);
        assert!(letters.bytes().all(|byte| (b'a'..=b'c').contains(&byte)), "{kind}: {text}");
        assert_eq!(rest.chars().filter(|c| "€ü".contains(*c)).count(), 3, "{kind}: {text}");
        assert_eq!(rest.chars().count(), 3, "{kind}: {text}");
    }
    let mute = Text::new(Tokenizer::none());
    assert!(mute.grammar(Syntax::Regex, "a").is_err());
}

#[test]
fn a_model_that_can_write_none_of_it_is_told() {
    let model = demo();
    let text = Text::of(&model).expect("a tokenizer");
    let grammar = text.grammar(Syntax::Regex, "z").expect("a grammar");
    let options = SamplerOptions::greedy().logit_bias(text.bias("z", f32::NEG_INFINITY).unwrap());
    let mut sampler = Sampler::new(options, model.n_vocab()).expect("options");
    sampler.constrain(grammar);
    match write(&model, &text, sampler, false) {
        Err(EngineError::Grammar { .. }) => {}
        Ok((text, ended)) => assert_eq!((text.as_str(), ended.tokens), ("", 0)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn hostile_grammars_are_refused_or_bounded() {
    let text = Text::new(Tokenizer::bytes());
    let nested = |open: &str, close: &str, n: usize| open.repeat(n) + "a" + &close.repeat(n);
    let refused: [(Syntax, String); 9] = [
        (Syntax::Regex, "(".to_owned()),
        (Syntax::Regex, nested("(", ")", 100_000)),
        (Syntax::Regex, "a".repeat(2 << 20)),
        (Syntax::JsonSchema, "{".to_owned()),
        (Syntax::JsonSchema, nested(r#"{"not":"#, "}", 10_000)),
        (Syntax::JsonSchema, r##"{"$ref": "file:///etc/passwd"}"##.to_owned()),
        (Syntax::Lark, String::new()),
        (Syntax::Lark, "start: nothing".to_owned()),
        (Syntax::Lark, format!("start: {}", nested("(", ")", 100_000))),
    ];
    for (syntax, source) in refused {
        let found = text.grammar(syntax, &source);
        let start: String = source.chars().take(40).collect();
        let error = found.expect_err(&start).to_string();
        assert!(error.starts_with("grammar: ") && error.len() < 2000, "{start}: {error}");
    }
    // Taken or refused, and bounded either way.
    let heavy: [(Syntax, &str); 5] = [
        (Syntax::Regex, "((a{100}){100}){100}"),
        (Syntax::Regex, "(a|b)*a(a|b){30}"),
        (Syntax::JsonSchema, r##"{"$ref": "#"}"##),
        (Syntax::JsonSchema, r##"{"type": "array", "items": {"$ref": "#"}}"##),
        (Syntax::Lark, "start: start start | \"a\" | \"\""),
    ];
    for (syntax, source) in heavy {
        let Ok(grammar) = text.grammar(syntax, source) else { continue };
        let mut sampler = Sampler::new(SamplerOptions::greedy(), 256).expect("options");
        sampler.constrain(grammar);
        let logits = vec![0.0; 256];
        for _ in 0..40 {
            if sampler.is_over() || sampler.check().is_err() {
                break;
            }
            let token = sampler.sample(&logits);
            sampler.accept(token);
        }
    }
}
