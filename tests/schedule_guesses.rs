//! Guesses in the scheduler: while a text is alone it reads ahead, and is the one of plain decoding
//! whatever was guessed, whoever comes, goes or is cancelled, for every architecture.

use std::collections::HashMap;
use std::ops::ControlFlow;

use brooklet::generate::{Limits, Reason};
use brooklet::prefix::PrefixCache;
use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::schedule::{Event, Request, Scheduler, Ticket};
use brooklet::speculate::{Draft, DraftModel, Lookup};
use brooklet::tokenizer::Tokenizer;
use brooklet::{EngineError, EngineOptions, Isa, Model, Result, Session, Snapshot, Text};
use brooklet_formats::DType;
use brooklet_tests::{
    Liar, architectures, bits, converted, fixture, open_for, some_tokens, written_alone,
};

/// Fails each time.
struct Broken;

impl Draft for Broken {
    fn guess(&mut self, _: &[u32], _: &Sampler, _: usize, out: &mut Vec<u32>) -> Result<()> {
        out.push(3);
        Err(EngineError::NoTokens)
    }
}

fn sampler(model: &Model, seed: u64) -> Sampler {
    let options = SamplerOptions::new().temperature(0.9).presence_penalty(0.2).seed(seed);
    Sampler::new(options, model.n_vocab()).expect("a sampler")
}

fn options() -> EngineOptions {
    EngineOptions::new().threads(1).chunk(12).logits(7)
}

/// What came of a text.
#[derive(Default)]
struct Got {
    ids: Vec<u32>,
    stands: Option<Box<Snapshot>>,
    reason: Option<Reason>,
}

fn step(scheduler: &mut Scheduler<'_>, got: &mut HashMap<Ticket, Got>) {
    scheduler.step(|ticket, event| {
        let got = got.entry(ticket).or_default();
        assert!(got.reason.is_none(), "nothing follows an end");
        match event {
            Event::Piece(piece) => got.ids.extend(piece.token),
            Event::Stands(stands) => got.stands = Some(stands),
            Event::Ended(ended) => got.reason = Some(ended.expect("no error").reason),
            _ => {}
        }
        ControlFlow::Continue(())
    });
}

/// The logits behind a text are those of a session that has read it in one piece, wherever the
/// state stands.
fn check_stands(model: &Model, stands: &Snapshot, whole: &[u32], what: &str) {
    assert_eq!(stands.tail, whole, "{what}");
    let read = whole.len() - stands.unread;
    assert_eq!(stands.state.position(), read as u64, "{what}");
    let mut plain = Session::new(model, &options());
    plain.prefill(&whole[..read]).expect("a text");
    assert!(*plain.state() == stands.state, "{what}");
    let mut session = Session::new(model, &options());
    session.resume(stands).expect("a state of the model");
    assert_eq!(bits(session.step(1).expect("a step")), {
        plain.reset();
        bits(plain.prefill(&[whole, &[1]].concat()).expect("a text"))
    });
}

#[test]
fn every_text_is_that_of_plain_decoding() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let (mut wrong, mut found) = (0, 0);
    for (name, path) in architectures(temp.path(), DType::Int8) {
        let model = open_for(&path, Isa::detect(), DType::F32);
        found += 1;
        let text = Text::new(Tokenizer::none());
        let ids = some_tokens(&model, 40, 3);
        // (prompt, tokens, pass in which it comes)
        let asked: [(&[u32], usize, usize); 5] = [
            (&ids[..20], 40, 0),
            (&ids[3..5], 12, 6),
            (&ids[..20], 9, 14),
            (&ids[8..9], 30, 40),
            (&ids[..30], 50, 41),
        ];
        let expected: Vec<Vec<u32>> = (0..)
            .zip(asked)
            .map(|(seed, (prompt, n, _))| {
                written_alone(&model, None, prompt, sampler(&model, seed), n)
            })
            .collect();
        let whole = |i: usize| [asked[i].0, &expected[i]].concat();
        let cache = PrefixCache::new(&model, 1 << 28).every(16);
        let mut scheduler = Scheduler::new(&model, &text, &options(), 3, cache);
        let liar = Liar::new((0..asked.len()).map(whole).collect(), 7);
        scheduler.always_guess(vec![Box::new(liar)], 6);
        let (mut got, mut tickets) = (HashMap::new(), Vec::new());
        for pass in 0.. {
            for (seed, (prompt, n, at)) in (0..).zip(asked) {
                if at == pass {
                    let request =
                        Request::new(prompt.to_vec(), sampler(&model, seed), Limits::new(n));
                    let request = Request { keeps_answer: true, tells_end: true, ..request };
                    tickets.push(scheduler.submit(request).expect("a ticket"));
                }
            }
            if pass == 50 {
                // The last is alone soon, and then nobody is.
                scheduler.cancel(tickets[3]);
            }
            step(&mut scheduler, &mut got);
            if pass > 50 && scheduler.is_empty() {
                break;
            }
        }
        for (i, ticket) in tickets.iter().enumerate() {
            let what = format!("{name}, text {i}");
            let got = &got[ticket];
            assert!(expected[i].starts_with(&got.ids), "{what}");
            if i == 3 && got.reason.is_none() {
                continue;
            }
            assert_eq!(got.ids, expected[i], "{what}");
            assert_eq!(got.reason, Some(Reason::Length), "{what}");
            check_stands(&model, got.stands.as_ref().expect("it was asked for"), &whole(i), &what);
        }
        let guessed = scheduler.guessed();
        assert!(guessed.passes < guessed.tokens && guessed.right < guessed.guesses, "{guessed:?}");
        wrong += guessed.guesses - guessed.right;
        // An answer that is gone on with is known but for what guesses left unread.
        let again = [&whole(0)[..], &[5, 6]].concat();
        let request = Request::new(again.clone(), sampler(&model, 9), Limits::new(3));
        let ticket = scheduler.submit(request).expect("a ticket");
        let mut reused = 0;
        // The liar knows nothing of it.
        scheduler.guess(Vec::new(), 0);
        let mut written = Vec::new();
        while !scheduler.is_empty() {
            scheduler.step(|of, event| {
                assert_eq!(of, ticket);
                match event {
                    Event::Read(reading) => reused = reading.reused,
                    Event::Piece(piece) => written.extend(piece.token),
                    _ => {}
                }
                ControlFlow::Continue(())
            });
        }
        assert!(reused + 2 + 8 >= again.len(), "{name}: {reused} of {}", again.len());
        assert_eq!(written, written_alone(&model, None, &again, sampler(&model, 9), 3), "{name}");
    }
    assert!(wrong > 5 * found, "{wrong} wrong guesses");
}

fn small(temp: &std::path::Path) -> Model {
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("one of the repository");
    open_for(&converted(&source, temp, DType::Int8), Isa::detect(), DType::F32)
}

#[test]
fn models_and_the_text_itself_guess_one_text_after_the_other() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let model = small(temp.path());
    let text = Text::new(Tokenizer::none());
    let ids = some_tokens(&model, 60, 3);
    for recall in [1, 8, usize::MAX] {
        let mut scheduler =
            Scheduler::new(&model, &text, &options(), 2, PrefixCache::new(&model, 1 << 20));
        let draft = DraftModel::new(&model, &model, &options()).expect("its own vocabulary");
        scheduler.always_guess(vec![Box::new(Lookup::new()), Box::new(draft.recall(recall))], 5);
        // Longer, shorter, unlike the one before, and like it.
        for (seed, range) in [(1, 0..60), (2, 3..5), (3, 40..44), (4, 0..30), (5, 0..31)] {
            let prompt = &ids[range];
            let request = Request::new(prompt.to_vec(), sampler(&model, seed), Limits::new(25));
            let ticket = scheduler.submit(request).expect("a ticket");
            let mut got = HashMap::new();
            while !scheduler.is_empty() {
                step(&mut scheduler, &mut got);
            }
            let expected = written_alone(&model, None, prompt, sampler(&model, seed), 25);
            assert_eq!(got[&ticket].ids, expected, "{recall}, text {seed}");
        }
        let guessed = scheduler.guessed();
        // A model that has read all of a text knows itself.
        let is_sure = recall == usize::MAX && guessed.right * 10 > guessed.guesses * 7;
        assert!(is_sure || recall < usize::MAX && guessed.guesses > 0, "{recall}: {guessed:?}");
    }
}

#[test]
fn whoever_fails_to_guess_is_not_heard() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let model = small(temp.path());
    let text = Text::new(Tokenizer::none());
    let mut scheduler =
        Scheduler::new(&model, &text, &options(), 2, PrefixCache::new(&model, 1 << 20));
    scheduler.always_guess(vec![Box::new(Broken)], 4);
    let request = Request::new(vec![1, 2, 3], sampler(&model, 1), Limits::new(20));
    let ticket = scheduler.submit(request).expect("a ticket");
    let mut got = HashMap::new();
    while !scheduler.is_empty() {
        step(&mut scheduler, &mut got);
    }
    assert_eq!(got[&ticket].ids, written_alone(&model, None, &[1, 2, 3], sampler(&model, 1), 20));
    assert_eq!(scheduler.guessed().guesses, 0);
}

#[test]
fn a_text_ends_where_the_context_does() {
    let Some(source) = fixture("fixtures/qwen3_5-a") else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    let path = converted(&source, temp.path(), DType::Int8);
    let opening = brooklet::ModelOptions::new().context(Some(40));
    let model = Model::open_with(&path, &opening).expect("a model");
    let text = Text::new(Tokenizer::none());
    let prompt = some_tokens(&model, 10, 2);
    let expected = written_alone(&model, None, &prompt, sampler(&model, 1), 31);
    let texts = vec![[&prompt[..], &expected].concat()];
    let mut scheduler =
        Scheduler::new(&model, &text, &options(), 2, PrefixCache::new(&model, 1 << 20));
    scheduler.always_guess(vec![Box::new(Liar::new(texts, 1))], 6);
    let request = Request::new(prompt, sampler(&model, 1), Limits::new(50));
    scheduler.submit(request).expect("a ticket");
    let (mut ids, mut error) = (Vec::new(), None);
    while !scheduler.is_empty() {
        scheduler.step(|_, event| {
            match event {
                Event::Piece(piece) => ids.extend(piece.token),
                Event::Ended(ended) => error = ended.err(),
                _ => {}
            }
            ControlFlow::Continue(())
        });
    }
    assert_eq!(ids, expected);
    assert!(matches!(error, Some(EngineError::Context { .. })), "{error:?}");
}
