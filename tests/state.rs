//! State as a value, for every architecture and for states kept as f32 and smaller: fork, reset,
//! save and load, chunked against stepped, all bit-exact; and what is refused.
//!
//! One test runs over one model of each architecture. Not here: the file's bytes
//! (`formats/src/state_file`), the error of the smaller formats (`state_error.rs`).

use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::{DType, Engine, EngineError, EngineOptions, Isa, Model, ModelOptions, Run, Session};
use brooklet::{Slot, Snapshot, State, Want};
use brooklet_tests::{
    MODELS, bits, converted, fixture, open, open_for, run, smallest_state, some_tokens, values,
};

/// Calls `test` for every architecture, with f32 weights and with states of both formats.
fn each(test: impl Fn(&str, &Model)) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let file = converted(&source, temp.path(), DType::F32);
        for state in [DType::F32, smallest_state(&file)] {
            test(&format!("{name}, state {state}"), &open_for(&file, Isa::detect(), state));
        }
    }
}

/// The slots that may be kept as f16.
fn matrices(model: &Model) -> impl Iterator<Item = (usize, &Slot)> {
    const NAMES: [&str; 8] =
        ["att.wkv", "ssm", "delta", "linear", "mlstm", "mesa", "slot_keys", "slot_values"];
    let slots = model.state_layout().slots().iter().enumerate();
    slots.filter(|(_, slot)| NAMES.contains(&slot.name))
}

fn session(model: &Model, chunk: usize) -> Session {
    Session::new(model, &EngineOptions::new().threads(1).chunk(chunk).logits(1))
}

/// Reads `tokens` one by one; the bits of the logits after each.
fn step(session: &mut Session, tokens: &[u32]) -> Vec<Vec<u32>> {
    tokens.iter().map(|token| bits(session.step(*token).expect("a step"))).collect()
}

#[test]
fn fork_reset_and_chunks() {
    each(|name, model| {
        let (prompt, rest) = (some_tokens(model, 23, 1), some_tokens(model, 9, 2));
        let mut one = session(model, 64);
        let empty = one.state().clone();
        let first = bits(one.prefill(&prompt).expect("a prompt"));
        let fork = one.state().clone();
        let after = step(&mut one, &rest);
        assert_eq!(one.state().position(), 32, "{name}");
        assert!(*one.state() != fork && fork != empty, "{name}: the fork is a copy of its own");

        // The fork goes the same way, and another way without harm to it.
        one.set_state(fork.clone()).expect("its own state");
        step(&mut one, &some_tokens(model, 5, 3));
        one.set_state(fork.clone()).expect("its own state");
        assert!(step(&mut one, &rest) == after, "{name}: a fork");
        let end = one.state().clone();

        // From the start again, in one chunk, in several, and step by step.
        one.reset();
        assert!(*one.state() == empty, "{name}: reset");
        assert!(bits(one.prefill(&prompt).expect("a prompt")) == first, "{name}: after a reset");
        assert!(*one.state() == fork, "{name}: after a reset");
        for chunk in [1, 7, 16] {
            let mut other = session(model, chunk);
            assert!(
                bits(other.prefill(&prompt).expect("a prompt")) == first,
                "{name}: chunks of {chunk}"
            );
            assert!(*other.state() == fork, "{name}: chunks of {chunk}");
        }
        let mut stepped = session(model, 1);
        assert!(step(&mut stepped, &prompt).last() == Some(&first), "{name}: stepped");
        assert!(step(&mut stepped, &rest) == after && *stepped.state() == end, "{name}: stepped");
    });
}

#[test]
fn save_load_continue() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    each(|name, model| {
        let (prompt, rest) = (some_tokens(model, 23, 4), some_tokens(model, 9, 5));
        let mut one = session(model, 64);
        let first = bits(one.prefill(&prompt).expect("a prompt"));
        let path = folder.path().join("one.brks");
        let saved = one.snapshot();
        saved.save(&path, DType::F32).expect("saved");
        let after = step(&mut one, &rest);

        // Another session, and the same one; from the file, from bytes, and from a value.
        let loaded = Snapshot::load(model, &path).expect("loaded");
        let bytes = saved.to_bytes(DType::F32).expect("bytes");
        assert!(loaded == saved, "{name}: the file");
        assert!(
            Snapshot::from_bytes(model, &bytes).expect("a snapshot") == saved,
            "{name}: the bytes"
        );
        assert!(
            State::load(model, &path).expect("a state") == saved.state,
            "{name}: the state alone"
        );
        let state = State::from_bytes(model, &saved.state.to_bytes(DType::F32).expect("bytes"));
        assert!(state.expect("a state") == saved.state, "{name}: the state alone");
        if model.state_layout().dtype() != DType::F32 {
            // Vectors are rounded, matrices have been.
            let bytes = saved.state.to_bytes(DType::F16).expect("bytes");
            let state = State::from_bytes(model, &bytes).expect("a state");
            for (i, _) in matrices(model) {
                assert!(bits(&state.get(i)) == bits(&saved.state.get(i)), "{name}: saved as f16");
            }
        }
        for (mut session, from) in [(session(model, 64), &loaded), (one, &saved)] {
            assert!(session.resume(from).expect("resumed"), "{name}: the logits are known");
            assert!(bits(session.logits()) == first, "{name}: logits");
            assert!(step(&mut session, &rest) == after, "{name}: going on");
        }

        // With a token that was sampled and not read, the logits come from reading it.
        let mut unread = Snapshot { tail: vec![prompt[0], rest[0]], unread: 1, ..saved };
        let refused = unread.to_bytes(DType::F32).expect("bytes");
        assert!(
            Snapshot::from_bytes(model, &refused).is_err(),
            "{name}: logits beside unread tokens"
        );
        unread.logits.clear();
        unread.save(&path, DType::F32).expect("saved");
        let mut other = session(model, 64);
        assert!(other.resume(&Snapshot::load(model, &path).expect("loaded")).expect("resumed"));
        assert!(bits(other.logits()) == after[0], "{name}: the unread token");
        assert!(step(&mut other, &rest[1..]) == after[1..], "{name}: going on");
    });
}

#[test]
fn the_sampler_goes_on_too() {
    each(|name, model| {
        let options = SamplerOptions::new()
            .temperature(1.5)
            .frequency_penalty(0.5)
            .penalty_decay(0.9)
            .seed(5);
        let mut sampler = Sampler::new(options, model.n_vocab()).expect("valid options");
        let mut session = session(model, 16);
        session.prefill(&some_tokens(model, 10, 6)).expect("a prompt");
        let write = |session: &mut Session, sampler: &mut Sampler| {
            let tokens = (0..12).map(|_| {
                let token = sampler.sample(session.logits());
                sampler.accept(token);
                session.step(token).expect("a step");
                token
            });
            tokens.collect::<Vec<u32>>()
        };
        write(&mut session, &mut sampler);
        let saved = Snapshot {
            sampler: Some(sampler.state()),
            tail: vec![1, 2],
            note: "a note".to_owned(),
            ..session.snapshot()
        };
        let bytes = saved.to_bytes(DType::F32).expect("bytes");
        let expected = write(&mut session, &mut sampler);
        let loaded = Snapshot::from_bytes(model, &bytes).expect("loaded");
        assert!(loaded == saved, "{name}");
        sampler.reset();
        sampler.restore(loaded.sampler.as_ref().expect("a sampler")).expect("restored");
        session.resume(&loaded).expect("resumed");
        assert_eq!(write(&mut session, &mut sampler), expected, "{name}");
    });
}

#[test]
fn any_file_loads_into_either_format() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let file = converted(&source, folder.path(), DType::F32);
        let [full, half] =
            [DType::F32, smallest_state(&file)].map(|state| open_for(&file, Isa::detect(), state));
        let (_, wide) = run(&full, &some_tokens(&full, 30, 8), 16, 1);
        let narrow =
            State::from_bytes(&half, &wide.to_bytes(DType::F32).expect("bytes")).expect("a state");
        assert_eq!(narrow.position(), 30, "{name}");
        let halves = matrices(&half).map(|(_, slot)| slot.n_elements()).sum::<usize>();
        let saved = full.state_layout().bytes() - half.state_layout().bytes();
        // Pages are smaller, too.
        let has_pages = !full.state_layout().paged().is_empty();
        assert!(
            has_pages || saved.abs_diff(halves * 2) < 64 * full.n_layer(),
            "{name}: {saved} bytes of {halves} halves"
        );
        for (i, slot) in full.state_layout().slots().iter().enumerate() {
            let (wide, narrow) = (wide.get(i), narrow.get(i));
            let is_matrix = matrices(&half).any(|(matrix, _)| matrix == i);
            assert_eq!(bits(&wide) == bits(&narrow), !is_matrix, "{name}: {}", slot.name);
            let near =
                |(wide, narrow): (&f32, &f32)| (wide - narrow).abs() <= wide.abs() / 2048.0 + 3e-8;
            assert!(wide.iter().zip(&*narrow).all(near), "{name}: {}", slot.name);
        }
        // And back, without a loss.
        let back = State::from_bytes(&full, &narrow.to_bytes(DType::F32).expect("bytes"))
            .expect("a state");
        assert!(bits(&values(&back)) == bits(&values(&narrow)), "{name}");
        let again =
            State::from_bytes(&half, &back.to_bytes(DType::F32).expect("bytes")).expect("a state");
        assert!(again == narrow, "{name}");
    }
}

#[test]
fn a_state_of_the_other_format_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/mamba2-a").expect("the repository has it");
    let file = converted(&source, folder.path(), DType::F32);
    let [full, half] = [DType::F32, DType::F16].map(|state| open_for(&file, Isa::detect(), state));
    let mut foreign = half.new_state();
    assert!(foreign != full.new_state());
    let mut session = session(&full, 4);
    let mut engine = Engine::new(&full, &EngineOptions::default());
    for error in [
        engine.forward(&mut [Run { state: &mut foreign, tokens: &[1], want: Want::Last }]).err(),
        session.swap_state(&mut foreign).err(),
        session.resume(&Snapshot::new(foreign.clone())).err(),
        session.set_state(foreign).err(),
    ] {
        let error = error.expect("refused");
        let is = matches!(error, EngineError::StateFormat { model: DType::F32, state: DType::F16 });
        assert!(is && error.to_string().contains("kept as f16"), "{error}");
    }
    for (state, expected) in [
        (DType::Bf16, "expected f32, f16 or int8"),
        (DType::Int8, "no keys and values of attention"),
    ] {
        let error = Model::open_with(&file, &ModelOptions::new().state(state)).err();
        let line = error.expect("refused").to_string();
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn other_models_and_damaged_files_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [four, seven, int8] = [
        ("rwkv4_hf-a/model.safetensors", DType::F32),
        ("rwkv7-bf16/model.pth", DType::F32),
        ("rwkv7-bf16/model.pth", DType::Int8),
    ]
    .map(|(name, dtype)| {
        let source = fixture(&format!("fixtures/{name}")).expect("the repository has it");
        open(&converted(&source, folder.path(), dtype), Isa::detect())
    });
    let path = folder.path().join("seven.brks");
    seven.new_state().save(&path, DType::F32).expect("saved");
    for (model, expected) in [(&four, "rwkv4 with fingerprint"), (&int8, "rwkv7 with fingerprint")]
    {
        let error = Snapshot::load(model, &path).expect_err("another model");
        let text = error.to_string();
        assert!(matches!(error, EngineError::ForeignStateFile { .. }), "{text}");
        for part in [
            "seven.brks",
            expected,
            &format!("{:016x}", model.fingerprint()),
            &format!("found rwkv7 with fingerprint {:016x}", seven.fingerprint()),
        ] {
            assert!(text.contains(part), "{part:?}: {text}");
        }
        assert!(
            State::load(model, &path).is_err()
                && session(model, 1).set_state(seven.new_state()).is_err()
        );
    }
    let with = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = Snapshot::new(seven.new_state());
        change(&mut snapshot);
        let bytes = snapshot.to_bytes(DType::F32).expect("bytes");
        Snapshot::from_bytes(&seven, &bytes).expect_err("refused").to_string()
    };
    let n_vocab = seven.n_vocab() as u32;
    assert!(with(&|s| s.tail = vec![n_vocab]).contains("a token of the state must be below"));
    assert!(with(&|s| s.logits = vec![0.0; 3]).contains("the number of logits must be"));
    let bytes = std::fs::read(&path).expect("bytes");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
    assert!(State::load(&seven, &path).expect_err("truncated").to_string().contains("truncated"));
    assert!(seven.new_state().to_bytes(DType::Int4).is_err());
    assert!(
        State::load(&seven, folder.path())
            .expect_err("a folder")
            .to_string()
            .contains("not a regular file")
    );
}

#[test]
fn any_bits_are_a_state() {
    // A file may hold any numbers: what follows is no text, but no panic either.
    each(|name, model| {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0] {
            let mut state = model.new_state();
            for (i, slot) in model.state_layout().slots().iter().enumerate() {
                state.set(i, &vec![value; slot.n_elements()]);
            }
            let bytes = state.to_bytes(DType::F32).expect("bytes");
            let mut one = session(model, 4);
            one.resume(&Snapshot::from_bytes(model, &bytes).expect("a snapshot")).expect("resumed");
            one.prefill(&some_tokens(model, 6, 7)).expect("a prompt");
            let mut sampler =
                Sampler::new(SamplerOptions::default(), model.n_vocab()).expect("options");
            assert!((sampler.sample(one.logits()) as usize) < model.n_vocab(), "{name}");
        }
    });
}
