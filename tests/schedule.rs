//! The scheduler: every text is that of a session alone, whoever shares its passes, for every
//! architecture.

use std::collections::HashMap;
use std::ops::ControlFlow;

use brooklet::generate::{Ended, Limits, Reason};
use brooklet::prefix::{PrefixCache, Reading};
use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::schedule::{Event, Request, Scheduler, Ticket};
use brooklet::tokenizer::Tokenizer;
use brooklet::{EngineError, EngineOptions, Isa, Model, Pooling, Session, Text};
use brooklet_formats::DType;
use brooklet_tests::{architectures, converted, fixture, open_for, some_tokens, written_alone};

fn sampler(model: &Model, seed: u64) -> Sampler {
    let options = SamplerOptions::new().temperature(0.9).presence_penalty(0.2).seed(seed);
    Sampler::new(options, model.n_vocab()).expect("a sampler")
}

/// What came of a text.
#[derive(Debug, Default)]
struct Got {
    reading: Reading,
    ids: Vec<u32>,
    ended: Option<Result<Ended, EngineError>>,
}

/// Lets a scheduler work until nothing is left.
fn finish(scheduler: &mut Scheduler<'_>, got: &mut HashMap<Ticket, Got>) {
    while !scheduler.is_empty() {
        scheduler.step(|ticket, event| {
            let got = got.entry(ticket).or_default();
            assert!(got.ended.is_none(), "nothing follows an end");
            match event {
                Event::Read(reading) => got.reading = reading,
                Event::Piece(piece) => got.ids.extend(piece.token),
                Event::Ended(ended) => got.ended = Some(ended),
                _ => {}
            }
            ControlFlow::Continue(())
        });
    }
}

#[test]
fn every_text_is_that_of_a_session_alone() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for (name, path) in architectures(temp.path(), DType::F32) {
        let model = open_for(&path, Isa::detect(), DType::F32);
        let text = Text::new(Tokenizer::none());
        let ids = some_tokens(&model, 60, 3);
        let mut tuned = Session::new(&model, &EngineOptions::new().threads(1));
        tuned.prefill(&ids[50..]).expect("a beginning");
        let tuned = tuned.state().clone();
        // (prompt, tokens, whether it begins behind a state)
        let asked: [(&[u32], usize, bool); 7] = [
            (&ids[..30], 9, false),
            (&ids[3..5], 20, false),
            (&ids[..30], 4, false),
            (&ids[..45], 0, false),
            (&ids[7..8], 11, true),
            (&ids[..1], 2, false),
            (&ids[..33], 6, true),
        ];
        for most in [1, 3, 8] {
            let options = EngineOptions::new().threads(1).chunk(12);
            let cache = PrefixCache::new(&model, 1 << 28).every(16);
            let mut scheduler = Scheduler::new(&model, &text, &options, most, cache);
            let (mut got, mut tickets) = (HashMap::new(), Vec::new());
            for (seed, (prompt, n, is_tuned)) in (0..).zip(asked) {
                let limits = Limits::new(n);
                let mut request = Request::new(prompt.to_vec(), sampler(&model, seed), limits);
                request.start = is_tuned.then(|| tuned.clone());
                tickets.push(scheduler.submit(request).expect("a ticket"));
            }
            finish(&mut scheduler, &mut got);
            for (seed, ((prompt, n, is_tuned), ticket)) in (0..).zip(asked.iter().zip(&tickets)) {
                let what = format!("{name}, {most} at a time, text {seed}");
                let got = &got[ticket];
                let start = is_tuned.then_some(&tuned);
                assert_eq!(
                    got.ids,
                    written_alone(&model, start, prompt, sampler(&model, seed), *n),
                    "{what}"
                );
                assert_eq!(got.reading.tokens(), prompt.len(), "{what}");
                let ended = got.ended.as_ref().expect("an end").as_ref().expect("no error");
                assert_eq!((ended.reason, ended.tokens), (Reason::Length, *n), "{what}");
            }
            if most == 1 {
                assert_eq!(got[&tickets[2]].reading.reused, 30, "{name}: a prompt that is known");
                assert_eq!(got[&tickets[3]].reading.reused, 30, "{name}: one that goes on");
            }
        }
    }
}

#[test]
fn texts_are_cancelled_ended_and_refused() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("one of the repository");
    let model = open_for(&converted(&source, temp.path(), DType::F32), Isa::detect(), DType::F32);
    let text = Text::new(Tokenizer::none());
    let cache = PrefixCache::new(&model, 1 << 20);
    let mut scheduler = Scheduler::new(&model, &text, &EngineOptions::new(), 2, cache);
    let request =
        |prompt: &[u32], n| Request::new(prompt.to_vec(), sampler(&model, 1), Limits::new(n));
    scheduler.submit(request(&[], 5)).expect_err("no prompt");
    scheduler.submit(request(&[u32::MAX], 5)).expect_err("no token");
    let tickets: Vec<Ticket> =
        (0..4).map(|i| scheduler.submit(request(&[i + 1], 50)).expect("a ticket")).collect();
    assert_eq!((scheduler.len(), scheduler.has_room()), (4, false));
    let mut pieces = HashMap::new();
    let mut ends = Vec::new();
    let mut step = |scheduler: &mut Scheduler<'_>| {
        scheduler.step(|ticket, event| {
            let n: &mut usize = pieces.entry(ticket).or_default();
            match event {
                Event::Piece(piece) => *n += usize::from(piece.token.is_some()),
                Event::Ended(ended) => ends.push((ticket, ended.expect("no error").reason)),
                _ => {}
            }
            // The first wants three tokens.
            let goes_on = ticket != tickets[0] || *n < 3;
            if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    };
    (0..3).for_each(|_| step(&mut scheduler));
    // The second runs, the last waits: nothing more is heard of them.
    assert!(scheduler.cancel(tickets[1]) && scheduler.cancel(tickets[3]));
    assert!(!scheduler.cancel(tickets[3]));
    while !scheduler.is_empty() {
        step(&mut scheduler);
    }
    assert_eq!(ends, [(tickets[0], Reason::Cancelled), (tickets[2], Reason::Length)]);
    assert_eq!((pieces[&tickets[0]], pieces[&tickets[1]], pieces[&tickets[2]]), (3, 3, 50));
    assert!(!pieces.contains_key(&tickets[3]));
}

#[test]
fn a_text_that_outgrows_the_context_ends_alone() {
    let Some(source) = fixture("fixtures/qwen3_5-a") else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    let path = converted(&source, temp.path(), DType::F32);
    let options = brooklet::ModelOptions::new().context(Some(20));
    let model = Model::open_with(&path, &options).expect("a model");
    let text = Text::new(Tokenizer::none());
    let cache = PrefixCache::new(&model, 1 << 20);
    let mut scheduler = Scheduler::new(&model, &text, &EngineOptions::new(), 4, cache);
    let mut ask = |prompt: usize, n| {
        let prompt = some_tokens(&model, prompt, 2);
        let request = Request::new(prompt, sampler(&model, 1), Limits::new(n));
        scheduler.submit(request).expect("a ticket")
    };
    let (grows, long, fits) = (ask(10, 30), ask(25, 1), ask(4, 8));
    let mut got = HashMap::new();
    finish(&mut scheduler, &mut got);
    let is_full = |got: &Got| matches!(got.ended, Some(Err(EngineError::Context { .. })));
    assert!(is_full(&got[&grows]) && is_full(&got[&long]));
    assert_eq!((got[&grows].ids.len(), got[&long].ids.len(), got[&fits].ids.len()), (11, 0, 8));
}

#[test]
fn answers_are_gone_on_with_and_caches_are_apart() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("one of the repository");
    let model = open_for(&converted(&source, temp.path(), DType::F32), Isa::detect(), DType::F32);
    let text = Text::new(Tokenizer::none());
    let cache = || PrefixCache::new(&model, 1 << 20);
    let mut scheduler = Scheduler::new(&model, &text, &EngineOptions::new(), 2, cache());
    assert_eq!(scheduler.add_cache(cache()), 1);
    let ids = some_tokens(&model, 20, 2);
    let request =
        |prompt: &[u32], n| Request::new(prompt.to_vec(), sampler(&model, 7), Limits::new(n));
    let mut stands = None;
    let mut ask = |scheduler: &mut Scheduler<'_>, request: Request| {
        scheduler.submit(request).expect("a ticket");
        let (mut got, mut read) = (Vec::new(), Reading::default());
        while !scheduler.is_empty() {
            scheduler.step(|_, event| {
                match event {
                    Event::Read(reading) => read = reading,
                    Event::Piece(piece) => got.extend(piece.token),
                    Event::Stands(snapshot) => stands = Some(snapshot),
                    Event::Ended(ended) => assert_eq!(ended.expect("no error").tokens, got.len()),
                    _ => {}
                }
                ControlFlow::Continue(())
            });
        }
        (got, read.reused)
    };
    let first = Request { keeps_answer: true, tells_end: true, ..request(&ids, 6) };
    let (written, _) = ask(&mut scheduler, first);
    // The last token that was written has not been read.
    let talk = [&ids[..], &written, &[5, 6]].concat();
    assert_eq!(ask(&mut scheduler, request(&talk, 3)).1, ids.len() + written.len() - 1);
    let other = Request { cache: 1, ..request(&talk, 3) };
    let (expected, reused) = ask(&mut scheduler, other);
    assert_eq!(reused, 0, "another cache knows nothing of it");
    let nowhere = Request { cache: 2, ..request(&talk, 3) };
    assert!(matches!(
        scheduler.submit(nowhere),
        Err(EngineError::NoSuchCache { cache: 2, caches: 2 })
    ));
    // Where it stood: all tokens, the last of them unread.
    let stands = stands.expect("it was asked for");
    assert_eq!((stands.tail.len(), stands.unread), (ids.len() + written.len(), 1));
    let rest = [stands.unread(), &[5, 6]].concat();
    let start = Request { start: Some(stands.state.clone()), ..request(&rest, 3) };
    let mut ask = |request| {
        let mut got = Vec::new();
        scheduler.submit(request).expect("a ticket");
        while !scheduler.is_empty() {
            scheduler.step(|_, event| {
                if let Event::Piece(piece) = event {
                    got.extend(piece.token);
                }
                ControlFlow::Continue(())
            });
        }
        got
    };
    assert_eq!(ask(start), expected);
}

#[test]
fn embeddings_share_passes_with_texts() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("one of the repository");
    let model = open_for(&converted(&source, temp.path(), DType::F32), Isa::detect(), DType::F32);
    let text = Text::new(Tokenizer::none());
    let options = EngineOptions::new().threads(1).chunk(7);
    let cache = PrefixCache::new(&model, 1 << 20);
    let mut scheduler = Scheduler::new(&model, &text, &options, 3, cache);
    let ids = some_tokens(&model, 40, 2);
    let mut asked = Vec::new();
    for (pooling, n) in [(Pooling::Last, 40), (Pooling::Mean, 33), (Pooling::Mean, 1)] {
        let mut request =
            Request::new(ids[..n].to_vec(), sampler(&model, 1), Limits::new(usize::MAX));
        request.pooling = Some(pooling);
        asked.push((scheduler.submit(request).expect("a ticket"), pooling, n));
    }
    let written = Request::new(ids[..9].to_vec(), sampler(&model, 3), Limits::new(12));
    let written = scheduler.submit(written).expect("a ticket");
    let (mut got, mut vectors) = (HashMap::<Ticket, Got>::new(), HashMap::new());
    while !scheduler.is_empty() {
        scheduler.step(|ticket, event| {
            match event {
                Event::Embedded(vector) => {
                    vectors.insert(ticket, vector.to_vec());
                }
                Event::Piece(piece) => got.entry(ticket).or_default().ids.extend(piece.token),
                _ => {}
            }
            ControlFlow::Continue(())
        });
    }
    assert_eq!(got[&written].ids, written_alone(&model, None, &ids[..9], sampler(&model, 3), 12));
    for (ticket, pooling, n) in asked {
        let mut session = Session::new(&model, &EngineOptions::new().threads(1));
        let mut expected = vec![0.0; model.d_model()];
        session.embed_with(&ids[..n], pooling, &mut expected, |_| true).expect("an embedding");
        assert_eq!(vectors[&ticket], expected, "{pooling:?} of {n}");
    }
}
