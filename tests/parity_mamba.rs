//! Mamba-1, Falcon-Mamba and Mamba-2 against transformers: logits of every position, and the state
//! after the last.
//!
//! One row per checkpoint layout, converted to f32; each fixture's README states its tolerance.

use std::path::Path;

use brooklet::{Engine, EngineOptions, Isa, Model, Run, Want};
use brooklet_formats::DType;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_tests::{bits, check_logits, check_trained, converted, fixture, logits, open};

/// Compares the logits of `model` in the fixture `folder`, and the state where the fixture has one.
fn check(folder: &str, model: &str, expected: &str, tolerance: f32) {
    check_logits(folder, model, expected, tolerance, |model, tokens, fixture| {
        if fixture.get("state").is_some() {
            let state = format!("fixtures/{folder}/state.safetensors");
            check_state(model, tokens, &brooklet_tests::fixture(&state).expect("it lies there"));
        }
    });
}

/// Compares every slot of the state after `tokens`.
fn check_state(model: &Model, tokens: &[u32], expected: &Path) {
    let expected = Checkpoint::open(expected).expect("state.safetensors");
    let mut engine = Engine::new(model, &EngineOptions::new().threads(2).chunk(24).logits(1));
    let mut state = model.new_state();
    for tokens in tokens.chunks(24) {
        engine
            .forward(&mut [Run { state: &mut state, tokens, want: Want::None }])
            .expect("a forward pass");
    }
    let mut largest = 0.0f32;
    for (i, slot) in state.layout().slots().iter().enumerate() {
        let theirs = if slot.name == "conv" { "conv_states" } else { "recurrent_states" };
        let name = format!("layer.{}.{theirs}.0", slot.layer);
        let n = *expected.get(&name).expect("the tensor").shape.last().expect("a shape");
        let theirs = expected.read(&name).expect("the tensor");
        let ours = state.get(i);
        // Ours is (blocks of channels, k, channels of a block), a block being sixteen channels or a
        // head; theirs is (channels, n), with the oldest of n inputs one that no convolution reads
        // any more.
        let (k, width) = (slot.shape[1], slot.shape[2]);
        for (channel, theirs) in theirs.chunks_exact(n).enumerate() {
            for (j, theirs) in theirs[n - k..].iter().enumerate() {
                let ours = ours[(channel / width * k + j) * width + channel % width];
                largest = largest.max((ours - theirs).abs());
            }
        }
    }
    println!("  state {largest:.2e}");
    assert!(largest < 1e-4, "state: {largest}");
}

#[test]
fn mamba1() {
    check("mamba-a", ".", "logits_f64.npy", 1e-4);
    check("mamba-a", "model.safetensors", "logits_f64.npy", 1e-4);
    check("mamba-a-original", ".", "logits_f64.npy", 1e-4);
}

#[test]
fn falcon_mamba() {
    check("falcon_mamba-a", ".", "logits_f64.npy", 1.3e-4);
}

#[test]
fn mamba2() {
    check("mamba2-a", ".", "logits_f64.npy", 1e-4);
    check("mamba2-a-original", ".", "logits_f64.npy", 1e-4);
    check("mamba2-d", ".", "logits_f64.npy", 1e-4);
}

#[test]
fn mamba3() {
    check_logits("mamba3-a", ".", "logits_f64.npy", 1.7e-4, |model, tokens, _| {
        // Shares of threads that have rows of one kind alone, or none.
        let alone = bits(&logits(model, tokens, 16, 1));
        for threads in [3, 8, 16] {
            assert!(bits(&logits(model, tokens, 16, threads)) == alone, "{threads} threads");
        }
    });
}

#[test]
fn log_linear_mamba2() {
    check_logits("log_linear_mamba2-a", ".", "logits_f64.npy", 1.9e-4, |model, _, _| {
        assert_eq!(model.state_layout().context(), Some(16384));
    });
}

/// A text that has as many tokens as the levels can tell apart is the longest; one more token is an
/// error, and the state stays as it was.
#[test]
fn levels_bound_a_text() {
    let Some(source) = fixture("fixtures/log_linear_mamba2-a") else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    let model = open(&converted(&source, temp.path(), DType::F32), Isa::detect());
    let mut engine = Engine::new(&model, &EngineOptions::new().threads(2).chunk(64).logits(1));
    let mut state = model.new_state();
    let tokens: Vec<u32> = (0..64).map(|i| i * 37 % 272).collect();
    for _ in 0..16384 / tokens.len() {
        let run = Run { state: &mut state, tokens: &tokens, want: Want::Last };
        engine.forward(&mut [run]).expect("there is room");
    }
    assert!(engine.logits(0).iter().all(|logit| logit.is_finite()));
    let before = state.clone();
    let run = Run { state: &mut state, tokens: &tokens[..1], want: Want::Last };
    let error = engine.forward(&mut [run]).expect_err("no level is left").to_string();
    assert!(error.contains("16384"), "{error}");
    assert!(state == before);
}

#[test]
fn gguf() {
    for format in ["F32", "F16", "Q8_0", "Q4_0"] {
        let (model, expected) = (format!("model-{format}.gguf"), format!("logits-{format}.npy"));
        check("gguf-mamba-a", &model, &expected, 1.5e-4);
        check("gguf-mamba2-a", &model, &expected, 1e-4);
    }
}

/// The models trained for this project: real weights, held-out text.
#[test]
fn trained() {
    check_trained("mamba1-demo");
    check_trained("mamba2-demo");
}
