//! Speculation: whoever asks for logits gets the bits of plain decoding, whatever was guessed, and
//! the text is the same, greedy and sampled.

use std::ops::ControlFlow;
use std::path::Path;

use brooklet::generate::{Ended, Limits, generate_with};
use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::speculate::{Draft, DraftModel, Guessed, Lookup, MAX_GUESSES, Speculation};
use brooklet::{EngineError, EngineOptions, Isa, Model, ModelOptions, Session, Text};
use brooklet_formats::DType;
use brooklet_tests::{Liar, MODELS, bits, converted, fixture, open, some_tokens};

fn options() -> EngineOptions {
    EngineOptions::new().threads(1).chunk(16).logits(1 + MAX_GUESSES)
}

/// So many liars, whose guesses are read together; how many guesses were wrong.
fn speculated(model: &Model, liars: u32, name: &str) -> usize {
    let sampler = Sampler::new(SamplerOptions::greedy(), 1).expect("options");
    let ids = some_tokens(model, 70, 5);
    let (prompt, rest) = ids.split_at(9);
    let mut plain = Session::new(model, &options());
    plain.prefill(prompt).expect("a prompt");
    let mut session = Session::new(model, &options());
    session.keep_rollback(20);
    session.prefill(prompt).expect("a prompt");
    let liars = (0..liars).map(|i| Liar::new(vec![ids.clone()], 1 + 7 * i));
    let liars = liars.map(|liar| Box::new(liar) as Box<dyn Draft>).collect();
    let mut speculation = Speculation::beside(liars, 6).always();
    speculation.begin(prompt);
    for (i, id) in rest.iter().enumerate() {
        let expected = bits(plain.step(*id).expect("a step"));
        let found = speculation.step(&mut session, *id, &sampler).expect("a step");
        assert_eq!(bits(found), expected, "{name}: token {i}");
        if i % 17 == 16 {
            speculation.settle(&mut session).expect("settled");
            assert_eq!(bits(session.logits()), expected, "{name}: settled at {i}");
            assert!(*session.state() == *plain.state(), "{name}: settled at {i}");
        }
    }
    speculation.settle(&mut session).expect("settled");
    assert!(*session.state() == *plain.state(), "{name}: in the end");
    // The way back holds what is certain, and nothing else.
    session.rollback(20).expect("a way back");
    let mut short = Session::new(model, &options());
    short.prefill(&ids[..50]).expect("a prompt");
    assert!(*session.state() == *short.state(), "{name}: back");
    let Guessed { tokens, passes, guesses, right } = speculation.guessed();
    assert!(tokens == rest.len() && right < guesses, "{name}");
    assert!(passes < tokens, "{name}: {passes} passes");
    guesses - right
}

#[test]
fn every_architecture_gives_the_bits_of_plain_decoding() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let (mut wrong, mut found) = (0, 0);
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        found += 1;
        let model = open(&converted(&source, temp.path(), DType::Int8), Isa::detect());
        wrong += speculated(&model, 1, name);
        let together = speculated(&model, 3, name);
        assert!(together > 10, "{name}: {together}");
    }
    assert!(wrong > 10 * found);
}

#[test]
fn a_text_ends_where_the_context_does_and_goes_on_where_a_window_moves() {
    const CONTEXT: usize = 70;
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/lfm2-a").expect("one of the repository");
    let file = converted(&source, temp.path(), DType::F32);
    let sampler = Sampler::new(SamplerOptions::greedy(), 1).expect("options");
    for window in [None, Some(30)] {
        let opening = ModelOptions::new().window(window).context(Some(CONTEXT));
        let model = Model::open_with(&file, &opening).expect("a model");
        let ids = some_tokens(&model, CONTEXT + 50, 5);
        let [mut plain, mut session] = [(); 2].map(|()| Session::new(&model, &options()));
        let mut speculation = Speculation::new(Liar::new(vec![ids.clone()], 3), 6).always();
        for session in [&mut plain, &mut session] {
            session.prefill(&ids[..50]).expect("a prompt");
        }
        speculation.begin(&ids[..50]);
        let end = if window.is_some() { ids.len() } else { CONTEXT };
        for id in &ids[50..end] {
            let expected = bits(plain.step(*id).expect("it fits"));
            let found = speculation.step(&mut session, *id, &sampler).expect("it fits");
            assert_eq!(bits(found), expected);
        }
        if window.is_none() {
            let error = speculation.step(&mut session, ids[end], &sampler).expect_err("full");
            assert!(matches!(error, EngineError::Context { .. }), "{error}");
        }
        speculation.settle(&mut session).expect("settled");
        assert!(*session.state() == *plain.state());
    }
}

/// The demo model, which is in the repository.
fn demo() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    open(&path, Isa::detect())
}

/// So many tokens behind a prompt, and how they ended.
fn written(
    model: &Model,
    prompt: &str,
    sampling: &SamplerOptions,
    mut speculation: Option<&mut Speculation>,
) -> (Vec<u32>, Ended) {
    let text = Text::of(model).expect("a tokenizer");
    let ids = text.prompt(prompt.as_bytes()).expect("a prompt");
    let mut session = Session::new(model, &options());
    let mut sampler = Sampler::new(sampling.clone(), model.n_vocab()).expect("options");
    session.prefill(&ids).expect("a prompt");
    let mut tokens = Vec::new();
    if let Some(speculation) = &mut speculation {
        speculation.begin(&ids);
    }
    let limits = Limits::new(400).ignore_end(true);
    let ended = generate_with::<EngineError>(
        &mut session,
        &mut sampler,
        speculation,
        &text,
        &limits,
        |piece| {
            tokens.extend(piece.token);
            Ok(ControlFlow::Continue(()))
        },
    );
    (tokens, ended.expect("a text"))
}

#[test]
fn texts_are_the_same_greedy_and_sampled() {
    let model = demo();
    let prompt = "The old man and the sea. The old man and the sea. The old man";
    let greedy = SamplerOptions::greedy();
    let sampled = greedy.clone().temperature(0.8).top_p(0.9).seed(7);
    let penalized = sampled.clone().repetition_penalty(1.2).penalty_window(64);
    for sampling in [greedy, sampled, penalized] {
        let expected = written(&model, prompt, &sampling, None);
        for always in [false, true] {
            let draft = || DraftModel::new(&model, &model, &options()).expect("its own vocabulary");
            let both: [Box<dyn Draft>; 2] = [Box::new(Lookup::new()), Box::new(draft())];
            let speculations = [
                Speculation::new(Lookup::new(), 8),
                Speculation::new(draft(), 4),
                Speculation::beside(both.into(), 4),
            ];
            for (i, speculation) in speculations.into_iter().enumerate() {
                let mut speculation = if always { speculation.always() } else { speculation };
                let found = written(&model, prompt, &sampling, Some(&mut speculation));
                assert_eq!(found, expected, "{sampling:?}, {i}, {always}");
                let Guessed { guesses, right, passes, tokens } = speculation.guessed();
                // A model's guesses for itself are right, whatever the sampler does; the text ends
                // before the last of them are asked for.
                assert!(i != 1 || right + 8 > guesses, "{sampling:?}: {right} of {guesses}");
                assert!(!always || i == 0 || passes * 4 < tokens, "{passes} for {tokens}");
            }
        }
    }
}

#[test]
fn wrong_tokens_and_models_are_errors() {
    let model = demo();
    let sampler = Sampler::new(SamplerOptions::greedy(), model.n_vocab()).expect("options");
    let mut session = Session::new(&model, &options());
    let text = [5, 6, 7, 5, 6, 7, 5];
    session.prefill(&text).expect("a prompt");
    let mut speculation = Speculation::new(Lookup::new(), 8).always();
    speculation.begin(&text);
    let bad = model.n_vocab() as u32;
    for _ in 0..2 {
        let error = speculation.step(&mut session, bad, &sampler).expect_err("no token");
        assert!(matches!(error, EngineError::UnknownToken { .. }), "{error}");
        // It goes on as if nothing had been: guessed right, guessed wrong.
        for id in [6, 7, 9] {
            speculation.step(&mut session, id, &sampler).expect("a token");
        }
    }
    speculation.settle(&mut session).expect("settled");
    let mut plain = Session::new(&model, &options());
    plain.prefill(&[&text[..], &[6, 7, 9, 6, 7, 9]].concat()).expect("a prompt");
    assert!(*session.state() == *plain.state());
    let temp = tempfile::tempdir().expect("a temporary folder");
    let other = fixture("fixtures/rwkv7-bf16/model.pth").expect("one of the repository");
    let other = open(&converted(&other, temp.path(), DType::F32), Isa::detect());
    let error = DraftModel::new(&other, &model, &options()).err().expect("another vocabulary");
    assert!(matches!(error, EngineError::DraftVocabulary { .. }), "{error}");
}
