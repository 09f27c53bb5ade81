//! States kept fresh: what is done to them depends on where they stand, not on how tokens come, for
//! every architecture; and what a state is made anew from is all that it knows.

use brooklet::horizon::Horizon;
use brooklet::{EngineError, EngineOptions, Isa, Model, Session, State};
use brooklet_formats::DType;
use brooklet_tests::{architectures, bits, converted, fixture, open, some_tokens, values};

fn session(model: &Model, chunk: usize, horizon: Horizon) -> Session {
    let mut session = Session::new(model, &EngineOptions::new().threads(1).chunk(chunk));
    session.keep_within(horizon).expect("a horizon");
    session
}

/// State and logits behind tokens that come `at_once` at a time.
fn read(model: &Model, ids: &[u32], at_once: usize, horizon: Horizon) -> (State, Vec<u32>) {
    let mut session = session(model, 16, horizon);
    for ids in ids.chunks(at_once) {
        session.prefill(ids).expect("tokens");
    }
    let logits = bits(session.logits());
    (session.state().clone(), logits)
}

#[test]
fn every_architecture_however_tokens_come() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut faded = 0;
    for (name, path) in architectures(temp.path(), DType::F32) {
        let model = open(&path, Isa::detect());
        if model.state_layout().context().is_some_and(|most| most < 200) {
            continue;
        }
        let ids = some_tokens(&model, 200, 3);
        let fading = Horizon::new().retention(0.99);
        let expected = read(&model, &ids, 1, fading);
        for at_once in [7, 64, 200] {
            assert!(read(&model, &ids, at_once, fading) == expected, "{name}: {at_once}");
        }
        let plain = read(&model, &ids, 200, Horizon::new());
        let has_matrices = model.state_layout().slots().iter().any(|slot| slot.is_matrix);
        assert_eq!(plain.0 != expected.0, has_matrices, "{name}");
        faded += usize::from(has_matrices);
        // Made anew before tokens 128 and 192, each time from the 64 before.
        let renewed = Horizon::new().renewal(128);
        let expected = read(&model, &ids[128..], 72, Horizon::new());
        for at_once in [1, 64, 200] {
            assert!(read(&model, &ids, at_once, renewed) == expected, "{name}: {at_once}");
        }
        // Both.
        let both = renewed.retention(0.99);
        assert!(read(&model, &ids, 1, both) == read(&model, &ids, 200, both), "{name}: both");
    }
    assert!(faded > 3, "{faded}");
}

/// A Mamba-2, which the repository has.
fn mamba(temp: &tempfile::TempDir) -> Model {
    let source = fixture("fixtures/mamba2-a").expect("one of the repository");
    open(&converted(&source, temp.path(), DType::F32), Isa::detect())
}

#[test]
fn what_is_lost_is_the_part_that_was_asked_for() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let model = mamba(&temp);
    let ids = some_tokens(&model, 65, 3);
    let mut session = session(&model, 16, Horizon::new().retention(0.5_f32.powf(1.0 / 64.0)));
    session.prefill(&ids[..64]).expect("tokens");
    // Nothing is lost before the next token is read: this is the state that is saved.
    let whole = session.state().clone();
    assert!(whole == read(&model, &ids[..64], 64, Horizon::new()).0);
    let mut half = whole.clone();
    for (i, slot) in model.state_layout().slots().iter().enumerate() {
        if slot.is_matrix {
            let values: Vec<f32> = whole.get(i).iter().map(|x| x * 0.5).collect();
            half.set(i, &values);
        }
    }
    let mut plain = Session::new(&model, &EngineOptions::new().threads(1));
    plain.set_state(half).expect("its own");
    let expected = plain.step(ids[64]).expect("a token").to_vec();
    session.step(ids[64]).expect("a token");
    let difference = brooklet_tests::max_difference(session.logits(), &expected);
    assert!(difference < 1e-4, "{difference}");
    let [a, b] = [session.state(), plain.state()].map(values);
    assert!(brooklet_tests::max_difference(&a, &b) < 1e-4);
}

#[test]
fn ways_back_and_saved_states_keep_their_bits() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let model = mamba(&temp);
    let ids = some_tokens(&model, 200, 3);
    let fading = Horizon::new().retention(0.98);
    let mut session = session(&model, 16, fading);
    session.keep_rollback(40);
    session.prefill(&ids[..140]).expect("tokens");
    session.rollback(30).expect("a way back over a loss");
    assert!(*session.state() == read(&model, &ids[..110], 16, fading).0);
    session.prefill(&ids[110..128]).expect("tokens");
    let saved = session.snapshot();
    session.prefill(&ids[128..]).expect("tokens");
    let expected = read(&model, &ids, 200, fading);
    assert!(*session.state() == expected.0);
    session.resume(&saved).expect("its own");
    session.prefill(&ids[128..]).expect("tokens");
    assert!((session.state().clone(), bits(session.logits())) == expected);
    // Made anew, it goes back as far as that, and knows then what it was made from.
    session.keep_within(Horizon::new().renewal(128)).expect("a horizon");
    session.reset();
    session.prefill(&ids[..128]).expect("tokens");
    for id in &ids[128..150] {
        session.step(*id).expect("a token");
    }
    let reach = session.rollback_reach();
    assert!((16..22).contains(&reach), "{reach}");
    session.rollback(12).expect("a way back");
    session.prefill(&ids[138..]).expect("tokens");
    assert!(*session.state() == read(&model, &ids[128..], 72, Horizon::new()).0);
}

#[test]
fn numbers_outside_their_range_are_errors() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut session = session(&mamba(&temp), 16, Horizon::new());
    let wrong = [
        Horizon::new().retention(0.0),
        Horizon::new().retention(1.5),
        Horizon::new().retention(f32::NAN),
        Horizon::new().renewal(0),
        Horizon::new().renewal(64),
        Horizon::new().renewal(200),
    ];
    for horizon in wrong {
        let error = session.keep_within(horizon).expect_err("no horizon");
        assert!(matches!(error, EngineError::Horizon { .. }), "{error}");
    }
}
