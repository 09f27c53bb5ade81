//! The cost of a rounded state: KL of the logits against those from the state that was never
//! rounded.
//!
//! Saved as f16 or int8: at every 512 tokens of a text the state goes through bytes of the format,
//! and the next 128 tokens are read from there and from the exact state. Kept as f16: every token
//! rounds it. README's figures are printed by
//! `cargo test -p brooklet-tests --release --test state_error -- --nocapture`; without `../shared`
//! the demo model reads README itself.

use std::path::{Path, PathBuf};

use brooklet::{DType, Engine, EngineOptions, Isa, Model, Run, State, Want};
use brooklet_tests::{
    MODELS, converted, fixture, logits, max_difference, open, open_for, shared, some_tokens,
};

/// Tokens that tiny models read.
const TOKENS: usize = 64;
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
    println!(
        "{name} {dtype}: {bytes} bytes, {} positions, mean KL {mean:.1e}, p99 {p99:.1e}",
        found.len()
    );
    assert!(found.len() >= AFTER && mean.is_finite());
    assert!(mean < bound, "{name} {dtype}: {mean}");
    assert!(dtype == DType::F32 || mean > 0.0, "the state was rounded");
}

fn text_tokens(model: &Model) -> Vec<u32> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = shared().map_or(own, |shared| shared.join("data/heldout.txt"));
    let text = std::fs::read_to_string(text).expect("a text");
    let text: String = text.chars().take(2 << 20).collect();
    model.tokenizer().and_then(|t| t.encode(&text)).expect("tokens")
}

fn check(name: &str, path: &Path, bounds: [f64; 3]) {
    let model = open(path, Isa::detect());
    let tokens = text_tokens(&model);
    for (dtype, bound) in [DType::F32, DType::F16, DType::Int8].into_iter().zip(bounds) {
        measure(name, &model, &tokens, dtype, bound);
    }
}

/// Every position of a text, with states kept as f16 and as f32.
#[test]
fn kept_as_f16() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["rwkv7-nano/rwkv7-nano.safetensors", "mamba1-demo", "mamba2-demo"] {
        let Some(source) = fixture(&format!("models/{name}")) else { continue };
        let file = converted(&source, folder.path(), DType::F32);
        let models = [DType::F32, DType::F16].map(|state| open_for(&file, Isa::detect(), state));
        let tokens: Vec<u32> = text_tokens(&models[0]).into_iter().take(STARTS * BEFORE).collect();
        let [exact, rounded] = models.map(|model| {
            let mut engine =
                Engine::new(&model, &EngineOptions { threads: 2, chunk: 64, logits: 64 });
            read(&mut engine, &mut model.new_state(), &tokens)
        });
        let found: Vec<f64> = exact.iter().zip(&rounded).map(|(p, q)| kl(p, q)).collect();
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        println!("{name} kept as f16: {} positions, mean KL {mean:.1e}", found.len());
        assert!(mean > 0.0 && mean < 2e-6, "{name}: {mean}");
    }
}

/// Tiny models of random weights: their logits move by about what their states do. Where two experts
/// score nearly equally, a rounded state may choose the other one: that token's logits may be far
/// away, the others' are not.
#[test]
fn every_architecture_kept_as_f16() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let file = converted(&source, folder.path(), DType::F32);
        let models = [DType::F32, DType::F16].map(|state| open_for(&file, Isa::detect(), state));
        let has_matrices = models[1].state_layout().dtype() == DType::F16;
        let has_experts = models[0].meta().config.contains_key("n_expert");
        let [exact, rounded] =
            models.map(|model| logits(&model, &some_tokens(&model, TOKENS, 3), 16, 2));
        let largest = exact.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let n_vocab = exact.len() / TOKENS;
        let rows = exact.chunks_exact(n_vocab).zip(rounded.chunks_exact(n_vocab));
        let mut rows: Vec<f32> = rows.map(|(a, b)| max_difference(a, b) / largest).collect();
        rows.sort_by(f32::total_cmp);
        let difference = rows[TOKENS - 1 - if has_experts { TOKENS / 32 } else { 0 }];
        println!("{name} kept as f16: logits {difference:.1e} of the largest");
        assert!(difference < 5e-3, "{name}: {difference}");
        assert_eq!(difference > 0.0, has_matrices, "{name}");
    }
}

#[test]
fn the_demo_model() {
    // Its activations are rounded to int8: the least change of a state flips some of them, which
    // costs about 1e-4 by itself.
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
