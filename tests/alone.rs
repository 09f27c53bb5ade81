//! Texts of which a device chooses the tokens by itself, several before it is asked, against those
//! that the host chooses: the same tokens, text, reason, state and logits, wherever a text ends.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::path::Path;

use brooklet::generate::{Ended, Limits, Piece, generate};
use brooklet::sampler::{Sampler, SamplerOptions, SamplerState, Step};
use brooklet::tokenizer::Tokenizer;
use brooklet::{DType, Device, EngineError, EngineOptions, Model, ModelOptions, Session, Text};
use brooklet_tests::{bits, converted, fixture};

/// A text that was written.
#[derive(Debug, PartialEq)]
struct Written {
    text: String,
    ids: Vec<u32>,
    ended: Result<Ended, String>,
    /// Behind it: what its bits hash to.
    logits: u64,
    state: u64,
    position: u64,
    sampler: SamplerState,
}

/// What the caller does with its piece number `.0`.
#[derive(Clone, Copy, Debug)]
enum Then {
    GoOn,
    Break(usize),
    Fail(usize),
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Goes on behind a prompt; also how many tokens came without logits, which the device has chosen.
fn write(
    model: &Model,
    (text, options): (&Text, SamplerOptions),
    limits: Limits<'_>,
    then: Then,
) -> (Written, usize) {
    let mut session = Session::new(model, &EngineOptions::new().threads(1));
    let mut sampler = Sampler::new(options, model.n_vocab()).expect("options");
    session.prefill(&prompt_of(text)).expect("prefill");
    let (mut written, mut ids, mut alone) = (String::new(), Vec::new(), 0);
    let ended = generate(&mut session, &mut sampler, text, &limits, |piece: Piece<'_>| {
        written.push_str(piece.text);
        alone += usize::from(piece.token.is_some() && piece.logits.is_empty());
        ids.extend(piece.token);
        match then {
            Then::Break(at) if ids.len() == at => Ok(ControlFlow::Break(())),
            Then::Fail(at) if ids.len() == at => Err(EngineError::NoTokens),
            _ => Ok(ControlFlow::Continue(())),
        }
    });
    assert!(session.has_logits());
    let state = session.state();
    let slots = 0..state.layout().slots().len();
    let done = Written {
        text: written,
        ids,
        ended: ended.map_err(|error| error.to_string()),
        logits: hash(&bits(session.logits())),
        state: hash(&slots.map(|slot| bits(&state.get(slot))).collect::<Vec<_>>()),
        position: state.position(),
        sampler: sampler.state(),
    };
    (done, alone)
}

/// A model, and the words that its texts are in.
struct Subject {
    model: Model,
    text: Text,
}

impl Subject {
    /// The demo model, which writes text.
    fn demo(device: Device) -> Subject {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
        let model = Model::open_with(path, &ModelOptions::new().device(device));
        let model = model.expect("the demo model");
        Subject { text: Text::of(&model).expect("a tokenizer"), model }
    }

    /// A fixture, which writes ids; `None` where it is not here.
    fn of(fixture_name: &str, device: Device) -> Option<Subject> {
        let source = fixture(&format!("fixtures/{fixture_name}"))?;
        let temp = tempfile::tempdir().expect("a temporary folder");
        let file = converted(&source, temp.path(), DType::Int8);
        let model = Model::open_with(&file, &ModelOptions::new().device(device));
        let model = model.unwrap_or_else(|error| panic!("{fixture_name}: {error}"));
        Some(Subject { model, text: Text::new(Tokenizer::none()) })
    }
}

fn prompt_of(text: &Text) -> Vec<u32> {
    match text.tokenizer.has_text() {
        true => text.prompt(b"Once upon a time").expect("a prompt"),
        false => vec![1, 2, 3],
    }
}

/// Every way to end, of a text by such a sampler: a device alone, and the host between tokens.
fn every_end(subject: &Subject, options: &SamplerOptions) {
    let Subject { model, text } = subject;
    let write = |text: &Text, limits: Limits<'_>, then: Then| {
        write(model, (text, options.clone()), limits, then)
    };
    let compare = |text: &Text, limits: Limits<'_>, then: Then| {
        let (expected, by_device) = write(text, limits.without_logits(false), then);
        assert_eq!(by_device, 0, "nobody asked for that");
        let (done, by_device) = write(text, limits.without_logits(true), then);
        assert_eq!(done, expected, "{limits:?} {then:?}");
        assert!(by_device > 0 || expected.ids.len() < 3, "{limits:?} {then:?}: by the host");
        expected
    };
    let whole = compare(text, Limits::new(40), Then::GoOn);
    println!("{:?}", whole.ids);
    for n in [1, 2, 3, 8, 9, 10, 17, 18] {
        compare(text, Limits::new(n), Then::GoOn);
        compare(text, Limits::new(40), Then::Break(n));
        compare(text, Limits::new(40), Then::Fail(n));
        let ending = Text { ends: vec![whole.ids[n]], ..text.clone() };
        let done = compare(&ending, Limits::new(40), Then::GoOn);
        assert!(done.ids.len() <= n);
        compare(&ending, Limits::new(40).ignore_end(true), Then::GoOn);
        // Where there is text.
        if let Some((at, _)) = whole.text.char_indices().nth(3 * n) {
            let stops = [whole.text[at..].chars().take(4).collect::<String>()];
            compare(text, Limits::new(40).stops(&stops), Then::GoOn);
        }
    }
}

/// Samplers that a device knows: the likeliest, and draws in other orders of their steps.
fn samplers() -> [SamplerOptions; 3] {
    let draw = SamplerOptions::new().seed(3).temperature(0.8).top_k(50).top_p(0.9).min_p(0.01);
    let last = draw.clone().steps(Step::TEMPERATURE_LAST);
    [SamplerOptions::greedy().seed(3), draw, last]
}

/// What a device cannot do asks the host.
fn others_ask_the_host(subject: &Subject) {
    let Subject { model, text } = subject;
    let new = || SamplerOptions::new().seed(1);
    for options in [new().temperature(0.0).repetition_penalty(1.2), new().typical_p(0.9)] {
        let write = |is_without| {
            let limits = Limits::new(20).without_logits(is_without);
            write(model, (text, options.clone()), limits, Then::GoOn)
        };
        let ((done, by_device), (expected, none)) = (write(true), write(false));
        assert_eq!((done, by_device, none), (expected, 0, 0));
    }
    // So does a session with a way back, and it has one.
    let mut session = Session::new(model, &EngineOptions::new().threads(1));
    session.keep_rollback(20);
    session.prefill(&prompt_of(text)).expect("prefill");
    let before = bits(session.logits());
    let mut sampler = Sampler::new(SamplerOptions::greedy(), model.n_vocab()).expect("options");
    let limits = Limits::new(12).without_logits(true);
    let emit = |_: Piece<'_>| Ok::<_, EngineError>(ControlFlow::Continue(()));
    generate(&mut session, &mut sampler, text, &limits, emit).expect("text");
    session.rollback(11).expect("a way back");
    assert_eq!(bits(session.logits()), before);
}

/// Other states than RWKV-7's, and one with keys and values, which needs the host.
fn other_models(device: Device) {
    let sources =
        [("rwkv4_hf-a/model.safetensors", true), ("mamba2-a", true), ("falcon_h1-a", false)];
    for (name, may) in sources {
        let Some(Subject { model, text }) = Subject::of(name, device) else { continue };
        let write = |is_without| {
            let limits = Limits::new(20).without_logits(is_without).ignore_end(true);
            write(&model, (&text, SamplerOptions::greedy().seed(1)), limits, Then::Break(13))
        };
        let ((done, alone), (expected, none)) = (write(true), write(false));
        assert_eq!((done, none), (expected, 0), "{name}");
        println!("{name}: {alone} tokens");
        assert!(alone == 0 || may, "{name}");
        // A card has no program of one token for some models.
        assert!(alone > 0 || !may || device != Device::Interpreter, "{name}");
    }
}

#[test]
fn the_interpreter_goes_on_alone() {
    for name in ["rwkv7-bf16/model.pth", "rwkv6-a/model.pth"] {
        let Some(subject) = Subject::of(name, Device::Interpreter) else { continue };
        samplers().iter().for_each(|options| every_end(&subject, options));
        others_ask_the_host(&subject);
    }
    other_models(Device::Interpreter);
}

/// The processor is the host.
#[test]
fn the_processor_does_not() {
    let Subject { model, text } = Subject::demo(Device::Cpu);
    let limits = Limits::new(20).without_logits(true);
    assert_eq!(write(&model, (&text, SamplerOptions::greedy()), limits, Then::GoOn).1, 0);
}

#[cfg(feature = "cuda")]
#[test]
fn a_card_goes_on_alone() {
    match brooklet::cards() {
        Ok(cards) if cards.is_empty() => return println!("SKIPPED: no card here"),
        Ok(cards) => println!("{cards:?}"),
        Err(error) => panic!("{error}"),
    }
    let subject = Subject::demo(Device::Cuda(0));
    samplers().iter().for_each(|options| every_end(&subject, options));
    others_ask_the_host(&subject);
    other_models(Device::Cuda(0));
}
