//! Going back: every architecture's state and logits have the bits that they had, whether tokens
//! came one by one or many at a time, and go on from there as if nothing had been.

use brooklet::{EngineError, EngineOptions, Isa, Session, State};
use brooklet_formats::DType;
use brooklet_tests::{
    architectures, bits, converted, fixture, open_for, smallest_state, some_tokens,
};

/// So many tokens can be taken back.
const MOST: usize = 40;

/// A session of few tokens in a pass.
fn session(model: &brooklet::Model, rollback: usize) -> Session {
    let options = EngineOptions::new().threads(1).chunk(16).logits(1);
    let mut session = Session::new(model, &options);
    session.keep_rollback(rollback);
    session
}

#[test]
fn every_architecture_goes_back_to_the_same_bits() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for (name, path) in architectures(temp.path(), DType::F32) {
        for state in [DType::F32, smallest_state(&path)] {
            let model = open_for(&path, Isa::detect(), state);
            let ids = some_tokens(&model, 96, 3);
            // Behind each token: the state, and the logits.
            let mut plain = session(&model, 0);
            let known = ids.iter().map(|id| {
                let logits = bits(plain.step(*id).expect("a step"));
                (plain.state().clone(), logits)
            });
            let known: Vec<(State, Vec<u32>)> = known.collect();
            let is_at = |session: &Session, n: usize, what: &str| {
                let what = format!("{name}, {state}: {what} at {n}");
                assert!(*session.state() == known[n - 1].0, "{what}: the state");
                assert!(session.has_logits(), "{what}");
                assert_eq!(bits(session.logits()), known[n - 1].1, "{what}: the logits");
            };
            let mut session = session(&model, MOST);
            session.prefill(&ids[..37]).expect("a prompt");
            for id in &ids[37..60] {
                session.step(*id).expect("a step");
            }
            session.prefill(&ids[60..65]).expect("more");
            let mut at = 65;
            // Near, far, to a copy, between two, into what was read in one pass, and nowhere.
            for (back, on) in [(1, 3), (5, 9), (8, 0), (13, 20), (40, 7), (0, 40), (30, 1)] {
                assert!(session.rollback_reach() >= back, "{name}: {back}");
                session.rollback(back).expect("a way back");
                at -= back;
                is_at(&session, at, "back");
                for id in &ids[at..at + on] {
                    session.step(*id).expect("a step");
                }
                at += on;
                is_at(&session, at, "on");
            }
            let reach = session.rollback_reach();
            assert!(reach <= MOST);
            let error = session.rollback(reach + 1).expect_err("too far");
            assert!(matches!(error, EngineError::Rollback { .. }), "{error}");
            is_at(&session, at, "after an error");
        }
    }
}

#[test]
fn another_state_has_another_past() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("one of the repository");
    let model = open_for(&converted(&source, temp.path(), DType::F32), Isa::detect(), DType::F32);
    let mut session = session(&model, MOST);
    assert!(!session.has_logits());
    session.prefill(&[1, 2, 3]).expect("a prompt");
    assert_eq!((session.rollback_reach(), session.has_logits()), (3, true));
    let fork = session.state().clone();
    session.step(4).expect("a step");
    session.set_state(fork.clone()).expect("its own");
    assert_eq!((session.rollback_reach(), session.has_logits()), (0, false));
    session.step(5).expect("a step");
    session.rollback(1).expect("a way back");
    // Nobody knows the logits of a state that was put in.
    assert!(*session.state() == fork && !session.has_logits());
    session.reset();
    assert_eq!(session.rollback_reach(), 0);
    session.prefill(&[1, 2]).expect("a prompt");
    session.rollback(2).expect("a way back");
    assert!(*session.state() == model.new_state());
    session.keep_rollback(0);
    session.step(1).expect("a step");
    assert_eq!(session.rollback_reach(), 0);
    session.rollback(0).expect("nothing to do");
    session.rollback(1).expect_err("nothing is kept");
}
