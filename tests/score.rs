//! Scores of endings and embeddings of many texts: those of one text at a time, for every
//! architecture.

use brooklet::score::{self, Score};
use brooklet::{Engine, EngineOptions, Isa, Pooling, Session};
use brooklet_formats::DType;
use brooklet_tests::{architectures, bits, converted, fixture, open_for, some_tokens};

/// ln softmax, as it is defined.
fn log_prob(logits: &[f32], token: u32) -> f64 {
    let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
    f64::from(logits[token as usize]) - sum.ln()
}

#[test]
fn endings_are_scored_as_one_by_one() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for (name, path) in architectures(temp.path(), DType::F32) {
        let model = open_for(&path, Isa::detect(), DType::F32);
        let ids = some_tokens(&model, 70, 3);
        let options = EngineOptions::new().threads(1).chunk(16).logits(7);
        let mut session = Session::new(&model, &options);
        session.prefill(&ids[..9]).expect("a beginning");
        let (state, logits) = (session.state().clone(), session.logits().to_vec());
        let likeliest = {
            let of = |logits: &[f32]| {
                let max = logits.iter().copied().fold(f32::MIN, f32::max);
                logits.iter().position(|l| *l == max).expect("the largest") as u32
            };
            let first = of(&logits);
            vec![first, of(session.step(first).expect("a step"))]
        };
        let endings: [&[u32]; 6] =
            [&ids[9..12], &ids[20..21], &[], &ids[9..50], &likeliest, &ids[30..37]];
        session.set_state(state.clone()).expect("its own");
        score::endings(&mut session, &endings, |_| true).expect_err("no logits");
        session.reset();
        session.prefill(&ids[..9]).expect("a beginning");
        let scores = score::endings(&mut session, &endings, |_| true);
        let scores = scores.expect("scores").expect("not broken off");
        assert!(*session.state() == state && session.has_logits(), "{name}");
        assert_eq!(bits(session.logits()), bits(&logits), "{name}");
        for (i, (ending, score)) in endings.iter().zip(&scores).enumerate() {
            session.set_state(state.clone()).expect("its own");
            let (mut logits, mut sum) = (logits.clone(), 0.0);
            for id in *ending {
                sum += log_prob(&logits, *id);
                logits = session.step(*id).expect("a step").to_vec();
            }
            assert_eq!(score.tokens, ending.len());
            assert!((score.log_prob - sum).abs() < 1e-3, "{name}, {i}: {score:?}, {sum}");
            assert!(i != 4 || score.is_greedy, "{name}");
        }
        assert!(scores.iter().any(|score| !score.is_greedy), "{name}");
        // Alone, an ending has the same score.
        session.reset();
        session.prefill(&ids[..9]).expect("a beginning");
        let one = score::endings(&mut session, &[&ids[9..50]], |_| true);
        assert_eq!(one.expect("a score").expect("a score"), [scores[3]], "{name}");
    }
}

#[test]
fn embeddings_are_those_of_one_text() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for (name, path) in architectures(temp.path(), DType::F32) {
        let model = open_for(&path, Isa::detect(), DType::F32);
        let ids = some_tokens(&model, 70, 3);
        let texts: [&[u32]; 5] = [&ids[..1], &ids[5..40], &ids[2..18], &ids[..70], &ids[1..9]];
        let options = EngineOptions::new().threads(1).chunk(16).logits(1);
        let mut engine = Engine::new(&model, &options);
        let mut session = Session::new(&model, &options);
        for pooling in [Pooling::Last, Pooling::Mean] {
            let many = score::embeddings(&mut engine, &texts, pooling, |_| true);
            let many = many.expect("embeddings").expect("not broken off");
            for (text, many) in texts.iter().zip(&many) {
                session.reset();
                let mut one = vec![0.0; model.d_model()];
                session.embed_with(text, pooling, &mut one, |_| true).expect("an embedding");
                assert_eq!(bits(&one), bits(many), "{name}, {pooling:?}");
            }
        }
    }
}

#[test]
fn nothing_odd_goes_through() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("one of the repository");
    let model = open_for(&converted(&source, temp.path(), DType::F32), Isa::detect(), DType::F32);
    let mut engine = Engine::new(&model, &EngineOptions::default());
    let mut session = Session::new(&model, &EngineOptions::new());
    session.prefill(&[1]).expect("a beginning");
    let mut of = |ending: &[u32]| score::endings(&mut session, &[ending], |_| false);
    of(&[1, u32::MAX]).expect_err("no token");
    assert_eq!(of(&[1, 2]).expect("no error"), None, "broken off");
    let none = Score { is_greedy: true, ..Score::default() };
    assert_eq!(of(&[]).expect("no error"), Some(vec![none]));
    let mut embed =
        |texts: &[&[u32]]| score::embeddings(&mut engine, texts, Pooling::Mean, |_| true);
    embed(&[&[1], &[]]).expect_err("no tokens");
    assert_eq!(embed(&[]).expect("no error"), Some(vec![]));
}
