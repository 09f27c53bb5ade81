//! The users of a session: the loop that writes text, and embeddings. With the demo model.

use std::ops::ControlFlow;
use std::path::Path;

use brooklet::generate::{Ended, Limits, Piece, Reason, generate};
use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::tokenizer::Tokenizer;
use brooklet::{Engine, EngineError, EngineOptions, Model, Pooling, Run, Session, Text, Want};

fn demo() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    Model::open(path).expect("the demo model")
}

fn options(threads: usize, chunk: usize) -> EngineOptions {
    EngineOptions { threads, chunk, ..EngineOptions::default() }
}

/// The text behind `prompt` with the likeliest tokens, its ids, and how it ended; broken off after
/// `most` tokens.
fn write(
    limits: &Limits<'_>,
    text: &Text,
    model: &Model,
    most: usize,
) -> (String, Vec<u32>, Ended) {
    let mut session = Session::new(model, &options(1, 64));
    let mut sampler = Sampler::new(SamplerOptions::greedy(), model.n_vocab()).expect("options");
    session.prefill(&text.prompt(b"Once upon a time").expect("a prompt")).expect("prefill");
    let (mut written, mut ids) = (String::new(), Vec::new());
    let ended = generate(&mut session, &mut sampler, text, limits, |piece: Piece<'_>| {
        written.push_str(piece.text);
        ids.extend(piece.token);
        let flow =
            if ids.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        Ok::<_, EngineError>(flow)
    });
    (written, ids, ended.expect("text"))
}

#[test]
fn every_reason_to_stop() {
    let model = demo();
    let text = Text::of(&model).expect("a tokenizer");
    let all = Limits { tokens: 24, ..Limits::default() };
    let (whole, ids, ended) = write(&all, &text, &model, usize::MAX);
    assert_eq!(
        (ended.reason, ended.tokens, ended.pending),
        (Reason::Length, 24, ids.last().copied())
    );
    assert_eq!(whole.as_bytes(), text.tokenizer.decode(&ids).expect("known ids"));

    // A stop string that the text holds.
    let stops = [whole[7..12].to_owned()];
    let (before, _, ended) = write(&Limits { stops: &stops, ..all }, &text, &model, usize::MAX);
    assert_eq!(ended.reason, Reason::Stop);
    assert_eq!(before, whole[..whole.find(&stops[0]).expect("it is there")]);

    let (start, broken, ended) = write(&all, &text, &model, 5);
    assert_eq!((ended.reason, ended.tokens, &broken[..]), (Reason::Cancelled, 5, &ids[..5]));
    assert!(whole.starts_with(&start));

    // A token that ends the text, if it may.
    let ending = Text { ends: vec![ids[3]], ..text.clone() };
    let at = ids.iter().position(|id| *id == ids[3]).expect("it is there");
    let (_, before, ended) = write(&all, &ending, &model, usize::MAX);
    assert_eq!((ended.reason, ended.tokens, ended.pending), (Reason::End, at, Some(ids[3])));
    assert_eq!(before, ids[..at]);
    let (_, on, _) = write(&Limits { ignore_end: true, ..all }, &ending, &model, usize::MAX);
    assert_eq!(on, ids);

    // Without a vocabulary there are ids and no text.
    let mute = Text { tokenizer: Tokenizer::none(), ..text };
    let mut session = Session::new(&model, &options(1, 64));
    session.prefill(&[1, 2, 3]).expect("prefill");
    let mut sampler = Sampler::new(SamplerOptions::greedy(), model.n_vocab()).expect("options");
    let emit = |piece: Piece<'_>| {
        assert!(piece.token.is_some() && piece.text.is_empty());
        Ok::<_, EngineError>(ControlFlow::Continue(()))
    };
    generate(&mut session, &mut sampler, &mute, &Limits { tokens: 3, ..all }, emit)
        .expect("tokens");
}

/// A head with more rows than the vocabulary has tokens.
#[test]
fn padding_is_never_chosen() {
    let model = demo();
    let all = Limits { tokens: 24, ..Limits::default() };
    let bytes = Text::new(Tokenizer::bytes());
    let (_, ids, _) = write(&all, &bytes, &model, usize::MAX);
    assert_eq!(ids.len(), 24);
    assert!(bytes.tokenizer.decode(&ids).is_ok(), "{ids:?}");

    let logits = vec![0.0; model.n_vocab()];
    assert_eq!(bytes.known(&logits).len(), 256);
    assert_eq!(bytes.known(&logits[..9]).len(), 9);
    // An end that only the model's configuration knows, and no vocabulary at all.
    assert_eq!(Text { ends: vec![300], ..bytes.clone() }.known(&logits).len(), 301);
    assert_eq!(
        Text { tokenizer: Tokenizer::none(), ..bytes }.known(&logits).len(),
        model.n_vocab()
    );
}

#[test]
fn prompts_of_nothing() {
    let model = demo();
    let text = Text { begin: None, ends: vec![7], ..Text::of(&model).expect("a tokenizer") };
    assert_eq!(text.prompt(b"").expect("an end stands for it"), [7]);
    let begins = Text { begin: Some(3), ..text.clone() };
    assert_eq!(begins.prompt(b"").expect("the beginning"), [3]);
    let neither = Text { ends: vec![], ..text };
    assert!(matches!(neither.prompt(b""), Err(EngineError::EmptyPrompt)));
}

#[test]
fn an_embedding_is_the_hidden_state_and_costs_no_second_pass() {
    let model = demo();
    let tokens: Vec<u32> = (0..50).map(|i| i * 37 % 250 + 1).collect();
    let mut plain = Session::new(&model, &options(1, 64));
    let logits = plain.prefill(&tokens).expect("a prompt").to_vec();

    // One token after the other: the hidden state after each.
    let mut engine = Engine::new(&model, &options(1, 1));
    let mut state = model.new_state();
    let mut rows = Vec::new();
    for &token in &tokens {
        let run = Run { state: &mut state, tokens: &[token], want: Want::None };
        engine.forward(&mut [run]).expect("a token");
        let mut row = vec![0.0; model.d_model()];
        engine.hidden(0, &mut row).expect("one column");
        rows.push(row);
    }
    assert!(engine.hidden(1, &mut vec![0.0; model.d_model()]).is_err());
    let mean = |i: usize| {
        (rows.iter().map(|row| f64::from(row[i])).sum::<f64>() / rows.len() as f64) as f32
    };
    let means: Vec<f32> = (0..model.d_model()).map(mean).collect();

    for (threads, chunk) in [(1, 64), (2, 7), (1, 1)] {
        let mut session = Session::new(&model, &options(threads, chunk));
        for (pooling, expected) in [(Pooling::Last, &rows[rows.len() - 1]), (Pooling::Mean, &means)]
        {
            let mut embedding = vec![0.0; model.d_model()];
            session.reset();
            session.embed_with(&tokens, pooling, &mut embedding, |_| true).expect("a prompt");
            assert_eq!(&embedding, expected, "{pooling:?}, chunks of {chunk}");
            assert_eq!(session.logits(), logits);
            assert_eq!(session.state(), plain.state());
        }
        // Broken off: nothing is written.
        let mut embedding = vec![9.0; model.d_model()];
        if chunk < tokens.len() {
            let read = session
                .embed_with(&tokens, Pooling::Last, &mut embedding, |_| false)
                .expect("a chunk");
            assert_eq!(read, chunk);
            assert!(embedding.iter().all(|&x| x == 9.0));
        }
    }
}

#[test]
fn states_are_exchanged() {
    let model = demo();
    let mut session = Session::new(&model, &options(1, 64));
    session.prefill(&[5, 6, 7]).expect("a prompt");
    let (mut other, read) = (model.new_state(), session.state().clone());
    session.swap_state(&mut other).expect("the same model");
    assert_eq!((other, session.state()), (read, &model.new_state()));
}
