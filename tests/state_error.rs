//! The cost of a rounded state: KL of the logits against those from the state that was never
//! rounded.
//!
//! Saved as f16 or int8: at every 512 tokens of a text the state goes through bytes of the format,
//! and the next 128 tokens are read from there and from the exact state. Kept as f16, or with keys
//! and values as int8: every token rounds it. README's figures are printed by
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
    let mut engine = Engine::new(model, &EngineOptions::new().threads(2).chunk(64).logits(64));
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

/// Every position of a text, with states kept as f32 and smaller.
#[test]
fn kept_in_fewer_bits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let names = ["rwkv7-nano/rwkv7-nano.safetensors", "mamba1-demo", "mamba2-demo", "qwen35-demo"];
    for name in names {
        let Some(source) = fixture(&format!("models/{name}")) else { continue };
        let file = converted(&source, folder.path(), DType::F32);
        let open = |state| open_for(&file, Isa::detect(), state);
        let exact = open(DType::F32);
        let has_attention = !exact.state_layout().paged().is_empty();
        // Attention reads the whole text again for every token: a shorter one.
        let n = if has_attention { 4 * BEFORE } else { STARTS * BEFORE };
        let tokens: Vec<u32> = text_tokens(&exact).into_iter().take(n).collect();
        let read = |model: &Model| {
            let options = EngineOptions::new().threads(2).chunk(64).logits(64);
            read(&mut Engine::new(model, &options), &mut model.new_state(), &tokens)
        };
        let expected = read(&exact);
        let int8 = has_attention.then_some((DType::Int8, 1e-4));
        for (state, bound) in [(DType::F16, 2e-6)].into_iter().chain(int8) {
            let rounded = read(&open(state));
            let found: Vec<f64> = expected.iter().zip(&rounded).map(|(p, q)| kl(p, q)).collect();
            let mean = found.iter().sum::<f64>() / found.len() as f64;
            println!("{name} kept as {state}: {} positions, mean KL {mean:.1e}", found.len());
            assert!(mean > 0.0 && mean < bound, "{name} {state}: {mean}");
        }
    }
}

/// Tiny models of random weights: their logits move by about what their states do. Where two
/// experts score nearly equally, a rounded state may choose the other one: that token's logits may
/// be far away, the others' are not. Zamba's scores are the largest of all: int8 moves them most.
#[test]
fn every_architecture_kept_in_fewer_bits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let file = converted(&source, folder.path(), DType::F32);
        let open = |state| open_for(&file, Isa::detect(), state);
        let exact = open(DType::F32);
        let has_experts = exact.meta().config.contains_key("n_expert");
        let n_vocab = exact.n_vocab();
        let read = |model: &Model| logits(model, &some_tokens(model, TOKENS, 3), 16, 2);
        let expected = read(&exact);
        let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let int8 = (!exact.state_layout().paged().is_empty()).then_some((DType::Int8, 0.1));
        for (state, bound) in [(DType::F16, 5e-3)].into_iter().chain(int8) {
            let model = open(state);
            let rounded = read(&model);
            let rows = expected.chunks_exact(n_vocab).zip(rounded.chunks_exact(n_vocab));
            let mut rows: Vec<f32> = rows.map(|(a, b)| max_difference(a, b) / largest).collect();
            rows.sort_by(f32::total_cmp);
            let difference = rows[TOKENS - 1 - if has_experts { TOKENS / 32 } else { 0 }];
            println!("{name} kept as {state}: logits {difference:.1e} of the largest");
            assert!(difference < bound, "{name} {state}: {difference}");
            assert_eq!(difference > 0.0, model.state_layout().dtype() == state, "{name}");
        }
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
