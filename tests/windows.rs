//! Attention that sees a window of a text: states of constant size, and what is asked for in place
//! of attention to every token (`ModelOptions::window`).
//!
//! Not here: what a query sees (`kernels/attention`), models with windows of their own
//! (`parity_hybrid.rs`, and every suite over `MODELS`).

use brooklet::{DType, EngineError, EngineOptions, Extent, Model, ModelOptions, Session, State};
use brooklet_tests::{bits, converted, fixture, logits, run, some_tokens};

/// The model `name`, opened for each of `windows`.
fn opened<const N: usize>(name: &str, windows: [Option<usize>; N]) -> Option<[Model; N]> {
    let source = fixture(&format!("fixtures/{name}"))?;
    let temp = tempfile::tempdir().expect("a temporary folder");
    let file = converted(&source, temp.path(), DType::F32);
    Some(windows.map(|window| {
        // Copied: the folder goes away.
        let options = ModelOptions::new().window(window).mmap(false);
        Model::open_with(&file, &options).unwrap_or_else(|error| panic!("{error}"))
    }))
}

const LFM2: &str = "lfm2-a";
const VOCABULARY: usize = 272;

#[test]
fn a_window_changes_nothing_until_a_token_leaves_it() {
    let Some([full, wide, narrow]) = opened(LFM2, [None, Some(200), Some(30)]) else { return };
    let tokens = some_tokens(&full, 200, 1);
    let expected = logits(&full, &tokens, 16, 2);
    assert!(bits(&logits(&wide, &tokens, 16, 2)) == bits(&expected));
    let found = logits(&narrow, &tokens, 16, 2);
    // The first four stay in view.
    let same = 34 * VOCABULARY;
    assert!(bits(&found[..same]) == bits(&expected[..same]));
    assert!(found[same..].iter().zip(&expected[same..]).any(|(a, b)| (a - b).abs() > 1e-3));
    for chunk in [1, 64, 150] {
        assert!(bits(&logits(&narrow, &tokens, chunk, 2)) == bits(&found), "chunks of {chunk}");
    }
}

#[test]
fn a_state_with_a_window_is_of_constant_size() {
    let Some([full, narrow]) = opened(LFM2, [None, Some(30)]) else { return };
    let (growing, constant) = (full.state_layout(), narrow.state_layout());
    assert!(growing.bytes_per_token() > 0 && growing.context().is_some());
    assert_eq!((constant.bytes_per_token(), constant.context()), (0, None));
    let (extent, layers, bytes) = constant.extents().next().expect("attention");
    assert_eq!((extent, layers), (Extent::Ring { tokens: 30, first: 4 }, 1));
    assert_eq!(bytes, growing.bytes_per_token());
    // One page of the first tokens, two that take turns.
    assert_eq!(constant.bytes() - growing.bytes(), 3 * 64 * bytes);

    let mut lengths = Vec::new();
    for n in [40, 100, 1000] {
        let (_, state) = run(&narrow, &some_tokens(&narrow, n, 2), 50, 1);
        lengths.push(state.to_bytes(DType::F32).expect("bytes").len());
    }
    assert!(lengths[0].abs_diff(lengths[2]) < 8 && lengths[1] == lengths[2], "{lengths:?}");
}

/// Saved, loaded and forked in the middle of a ring; both forks go on as if alone.
#[test]
fn rings_are_saved_and_forked() {
    for name in [LFM2, "lfm3-a", "lfm3-long", "samba-a", "recurrent_gemma-a"] {
        let window = (name == LFM2).then_some(30);
        let Some([model]) = opened(name, [window]) else { continue };
        let tokens = some_tokens(&model, 300, 3);
        let expected = logits(&model, &tokens, 7, 1);
        for at in [3, 64, 130, 257] {
            let (_, state) = run(&model, &tokens[..at], 64, 1);
            let bytes = state.to_bytes(DType::F32).expect("bytes");
            let loaded = State::from_bytes(&model, &bytes).expect("a state");
            assert!(loaded == state, "{name} {at}");
            let mut sessions = [state.clone(), loaded, state].map(|state| {
                let options = EngineOptions::new().threads(1);
                let mut session = Session::new(&model, &options);
                session.set_state(state).expect("its own");
                session
            });
            for (i, token) in tokens.iter().enumerate().skip(at) {
                let row = &expected[i * model.n_vocab()..][..model.n_vocab()];
                for (s, session) in sessions.iter_mut().enumerate() {
                    // The first goes another way; nobody sees it.
                    let token = if s == 0 { (*token + 1) % model.n_vocab() as u32 } else { *token };
                    let found = session.step(token).expect("a step");
                    assert!(s == 0 || bits(found) == bits(row), "{name}: {at}, token {i}");
                }
            }
        }
    }
}

/// Until a token is forgotten a file says the same; then one is no state of the other.
#[test]
fn states_of_another_window_are_refused() {
    let Some([full, narrow]) = opened(LFM2, [None, Some(30)]) else { return };
    for (model, other) in [(&full, &narrow), (&narrow, &full)] {
        let (_, state) = run(model, &some_tokens(model, 50, 4), 50, 1);
        let bytes = state.to_bytes(DType::F32).expect("bytes");
        let mut session = Session::new(other, &EngineOptions::default());
        let error = session.set_state(state).expect_err("another window");
        assert!(matches!(error, EngineError::StateWindow { .. }), "{error}");
        assert!(error.to_string().contains("the last 30 tokens"), "{error}");
        assert!(State::from_bytes(other, &bytes).is_err());
        let (_, short) = run(model, &some_tokens(model, 34, 4), 50, 1);
        assert!(State::from_bytes(other, &short.to_bytes(DType::F32).expect("bytes")).is_ok());
    }
}

#[test]
fn a_window_is_for_attention_to_every_token() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for (name, window) in [("mamba2-a", 100), ("qwen4_exp-a", 30), (LFM2, 0)] {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let file = converted(&source, temp.path(), DType::F32);
        let options = ModelOptions::new().window(Some(window));
        let error = Model::open_with(&file, &options).err().expect("refused");
        assert!(matches!(error, EngineError::NoWindow { .. }), "{error}");
        assert!(error.to_string().contains(&format!("a window of {window} tokens")), "{error}");
    }
}

/// Beyond the context, too; without a window that is an error before anything has changed.
#[test]
fn a_text_of_any_length() {
    let Some(source) = fixture(&format!("fixtures/{LFM2}")) else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    let file = converted(&source, temp.path(), DType::F32);
    let open = |window| {
        let options = ModelOptions::new().window(window).context(Some(70));
        Session::new(
            &Model::open_with(&file, &options).expect("a model"),
            &EngineOptions::default(),
        )
    };
    let [mut full, mut narrow] = [None, Some(30)].map(open);
    let tokens = some_tokens(full.model(), 500, 5);
    full.prefill(&tokens[..70]).expect("a text that fits");
    let before = full.state().clone();
    let error = full.step(tokens[70]).expect_err("full");
    assert!(matches!(error, EngineError::Context { limit: 70, .. }), "{error}");
    assert!(*full.state() == before);
    narrow.prefill(&tokens).expect("a text of any length");
    assert!(narrow.logits().iter().all(|logit| logit.is_finite()));
}
