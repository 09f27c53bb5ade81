//! What saving a state as f16 or int8 costs: KL of the continuation's logits against the state that was never rounded.
//!
//! At every 512 tokens of a text the state goes through bytes of the format, and the next 128 tokens are read from there and
//! from the exact state. README's figures are printed by `cargo test -p brooklet-tests --release --test state_error --
//! --nocapture`; without `../shared` the demo model reads README itself.

use std::path::{Path, PathBuf};

use brooklet::{DType, Engine, EngineOptions, Isa, Model, Run, State, Want};
use brooklet_tests::{converted, fixture, open, shared};

const BEFORE: usize = 512;
const AFTER: usize = 128;
const STARTS: usize = if cfg!(debug_assertions) { 2 } else { 32 };

/// Logits after each of `tokens`, from `state` on.
fn read(engine: &mut Engine, state: &mut State, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for tokens in tokens.chunks(engine.chunk()) {
        engine.forward(&mut [Run { state, tokens, want: Want::All }]).expect("a forward pass");
        all.extend((0..tokens.len()).map(|row| engine.logits(row).to_vec()));
    }
    all
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    logits.iter().map(|x| f64::from(x - max) - sum.ln()).collect()
}

/// KL(p || q) in nats.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0)
}

/// Measures one format and asserts that the mean is below `bound`.
fn measure(name: &str, model: &Model, tokens: &[u32], dtype: DType, bound: f64) {
    let mut engine = Engine::new(model, &EngineOptions { threads: 2, chunk: 64, logits: 64 });
    let mut state = model.new_state();
    let mut found = Vec::new();
    let mut bytes = 0;
    for span in tokens.chunks_exact(BEFORE + AFTER).take(STARTS) {
        let (before, after) = span.split_at(BEFORE);
        read(&mut engine, &mut state, before);
        let saved = state.to_bytes(dtype).expect("bytes");
        bytes = saved.len();
        let mut rounded = State::from_bytes(model, &saved).expect("a state");
        let exact = read(&mut engine, &mut state, after);
        let other = read(&mut engine, &mut rounded, after);
        found.extend(exact.iter().zip(&other).map(|(p, q)| kl(p, q)));
    }
    let mean = found.iter().sum::<f64>() / found.len() as f64;
    found.sort_by(f64::total_cmp);
    let p99 = found[found.len() * 99 / 100];
    println!("{name} {dtype}: {bytes} bytes, {} positions, mean KL {mean:.1e}, p99 {p99:.1e}", found.len());
    assert!(found.len() >= AFTER && mean.is_finite());
    assert!(mean < bound, "{name} {dtype}: {mean}");
    assert!(dtype == DType::F32 || mean > 0.0, "the state was rounded");
}

fn check(name: &str, path: &Path, bounds: [f64; 3]) {
    let model = open(path, Isa::best());
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = shared().map_or(own, |shared| shared.join("data/heldout.txt"));
    let text = std::fs::read_to_string(text).expect("a text");
    let text: String = text.chars().take(2 << 20).collect();
    let tokens = model.tokenizer().and_then(|t| t.encode(&text)).expect("tokens");
    for (dtype, bound) in [DType::F32, DType::F16, DType::Int8].into_iter().zip(bounds) {
        measure(name, &model, &tokens, dtype, bound);
    }
}

#[test]
fn the_demo_model() {
    // Its activations are rounded to int8: the least change of a state flips some of them, which costs about 1e-4 by itself.
    let demo: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    check("rwkv7-nano int8", &demo, [1e-15, 1e-3, 1e-3]);
}

#[test]
fn models_in_f32() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["rwkv7-nano/rwkv7-nano.safetensors", "mamba1-demo", "mamba2-demo"] {
        if let Some(source) = fixture(&format!("models/{name}")) {
            check(name, &converted(&source, folder.path(), DType::F32), [1e-15, 1e-6, 1e-3]);
        }
    }
}
