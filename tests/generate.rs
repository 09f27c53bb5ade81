//! The users of a session: the loop that writes text, and embeddings. With the demo model.

use std::ops::ControlFlow;
use std::path::Path;

use brooklet::generate::{Ended, Limits, Piece, Reason, generate};
use brooklet::sampler::{Sampler, SamplerOptions, log_softmax, top_k};
use brooklet::tokenizer::Tokenizer;
use brooklet::{
    Engine, EngineError, EngineOptions, Model, Pieces, Pooling, Run, Session, Text, Want,
};

fn demo() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    Model::open(path).expect("the demo model")
}

fn options(threads: usize, chunk: usize) -> EngineOptions {
    EngineOptions::new().threads(threads).chunk(chunk)
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
    let all = Limits::new(24);
    let (whole, ids, ended) = write(&all, &text, &model, usize::MAX);
    assert_eq!(
        (ended.reason, ended.tokens, ended.pending),
        (Reason::Length, 24, ids.last().copied())
    );
    assert_eq!(whole.as_bytes(), text.tokenizer.decode(&ids).expect("known ids"));

    // A stop string that the text holds.
    let stops = [whole[7..12].to_owned()];
    let (before, _, ended) = write(&all.stops(&stops), &text, &model, usize::MAX);
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
    let (_, on, _) = write(&all.ignore_end(true), &ending, &model, usize::MAX);
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
    generate(&mut session, &mut sampler, &mute, &all.tokens(3), emit).expect("tokens");
}

/// The iterator writes what the loop with a callback does, and ends as it does.
#[test]
fn pieces_are_the_same_text() {
    let model = demo();
    let text = Text::of(&model).expect("a tokenizer");
    let (whole, ids, _) = write(&Limits::new(24), &text, &model, usize::MAX);
    let stops = [whole[7..12].to_owned()];
    let at = ids.iter().position(|id| *id == ids[9]).expect("it is there");
    let ending = Text { ends: vec![ids[9]], ..text.clone() };
    // Held back at the end: what may begin a stop string.
    let held = [format!("{}~", &whole[whole.len() - 3..])];
    let cases: [(&Text, Limits<'_>, usize); 5] = [
        (&text, Limits::new(24), 24),
        (&text, Limits::new(0), 0),
        (&text, Limits::new(24).stops(&stops), usize::MAX),
        (&text, Limits::new(24).stops(&held), 24),
        (&ending, Limits::new(24), at),
    ];
    for (text, limits, tokens) in cases {
        let (expected, ids, ended) = write(&limits, text, &model, usize::MAX);
        let mut session = Session::new(&model, &options(1, 64));
        let mut sampler = Sampler::new(SamplerOptions::greedy(), model.n_vocab()).expect("options");
        session.prefill(&text.prompt(b"Once upon a time").expect("a prompt")).expect("prefill");
        let mut pieces = Pieces::new(&mut session, &mut sampler, text, limits);
        let (mut written, mut found) = (String::new(), Vec::new());
        for piece in &mut pieces {
            let piece = piece.expect("a token");
            written.push_str(&piece.text);
            found.extend(piece.token);
        }
        assert_eq!((&written, &found), (&expected, &ids));
        assert_eq!(pieces.ended(), ended);
        assert!(tokens == usize::MAX || found.len() == tokens);
        assert!(pieces.next().is_none());
    }
    // An error ends it: here, no prompt was read.
    let bad = Text { ends: Vec::new(), ..text };
    let mut session = Session::new(&model, &options(1, 64));
    session.prefill(&[1]).expect("prefill");
    let options = SamplerOptions::greedy().logit_bias([(5, 1e9)]);
    let mut sampler = Sampler::new(options, model.n_vocab()).expect("options");
    let pieces = Pieces::new(&mut session, &mut sampler, &bad, Limits::new(3));
    let tokens: Vec<_> = pieces.map(|piece| piece.expect("a token").token).collect();
    assert_eq!(tokens, [Some(5); 3], "tokens were accepted and read");
}

/// The logits of a piece are the model's, whatever the sampler does to them.
#[test]
fn pieces_have_logits() {
    let model = demo();
    let text = Text::of(&model).expect("a tokenizer");
    let mut session = Session::new(&model, &options(1, 64));
    session.prefill(&text.prompt(b"Once upon a time").expect("a prompt")).expect("prefill");
    let first = session.logits().to_vec();
    let banned = top_k(&first, 1)[0].0;
    let options = SamplerOptions::greedy().logit_bias([(banned, f32::NEG_INFINITY)]);
    let mut sampler = Sampler::new(options, model.n_vocab()).expect("options");
    let mut seen = 0;
    generate(&mut session, &mut sampler, &text, &Limits::new(3), |piece: Piece<'_>| {
        let Some(token) = piece.token else { return Ok(ControlFlow::Continue(())) };
        if seen == 0 {
            assert_eq!(piece.logits, first);
            assert_eq!(token, top_k(&first, 2)[1].0);
        }
        seen += 1;
        let probability = log_softmax(piece.logits, token).exp();
        assert!(probability > 0.0 && probability <= 1.0);
        Ok::<_, EngineError>(ControlFlow::Continue(()))
    })
    .expect("text");
    assert_eq!(seen, 3);
}

/// Both the file's end tokens and the tokenizer's own end a text.
#[test]
fn both_ends_are_known() {
    let model = demo();
    let named = &model.meta().tokenizer.eos_ids;
    let text = Text::of(&model).expect("a tokenizer");
    let own = text.tokenizer.eos().expect("World has an end");
    assert!(named.iter().all(|id| text.ends.contains(id)));
    assert!(text.ends.contains(&own));
}

/// A head with more rows than the vocabulary has tokens.
#[test]
fn padding_is_never_chosen() {
    let model = demo();
    let all = Limits::new(24);
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
