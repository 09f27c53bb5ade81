//! RWKV's logits and final states against independent reference implementations, for every version
//! and checkpoint layout.
//!
//! Each fixture holds tokens, the logits after each of them and the state after the last, from the
//! implementation that its README names; an f32 engine must meet them within the tolerance that the
//! README states. Third-party models (`rwkvcpp-tiny`) and trained ones are not in the repository:
//! they are read from `../shared`, skipped where absent.

use brooklet::{Isa, State};
use brooklet_formats::DType;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_tests::{Array, converted, fixture, max_difference, open, read_json, read_npy, run};
use std::path::Path;

/// Converts `model` to f32 and compares the logits after every token with `expected` on the slowest
/// and the fastest instruction set. Returns the final state.
fn check(model: &Path, tokens: &[u32], expected: &Array, tolerance: f32, isas: &[Isa]) -> State {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let file = converted(model, temp.path(), DType::F32);
    let mut last = None;
    for &isa in isas {
        let (found, state) = run(&open(&file, isa), tokens, 16, 2);
        let found = &found[found.len() - expected.values.len()..];
        let difference = max_difference(found, &expected.values);
        println!("{}: {difference:.1e} of {tolerance:.1e} on {}", model.display(), isa.name());
        assert!(difference < tolerance, "{}: {difference} on {}", model.display(), isa.name());
        last = Some(state);
    }
    last.expect("an instruction set")
}

/// Checks a fixture of our own: the logits in the file `logits`, and the final state.
fn own(name: &str, model: &str, logits: &str, tolerance: f32) {
    let state = own_logits(name, model, logits, tolerance);
    if let (Some(state), Some(expected)) =
        (state, fixture(&format!("fixtures/{name}/state.safetensors")))
    {
        check_state(&state, &Checkpoint::open(&expected).expect("a state"), tolerance);
    }
}

/// Checks the logits of a fixture of our own; returns the final state.
fn own_logits(name: &str, model: &str, logits: &str, tolerance: f32) -> Option<State> {
    let file = |file: &str| fixture(&format!("fixtures/{name}/{file}"));
    let (model, json, logits) = (file(model)?, file("fixture.json")?, file(logits)?);
    let tokens: Vec<u32> =
        serde_json::from_value(read_json(&json)["token_ids"].clone()).expect("ids");
    Some(check(&model, &tokens, &read_npy(&logits), tolerance, &[Isa::scalar(), Isa::detect()]))
}

/// Compares a state with the reference's, each tensor relative to its largest value (at least 1).
fn check_state(state: &State, expected: &Checkpoint, tolerance: f32) {
    for (i, slot) in state.layout().slots().iter().enumerate() {
        let found = &state.get(i);
        let at = |name: &str| expected.read(&format!("blocks.{}.{name}", slot.layer));
        // Hugging Face's RWKV-4 keeps (1, d_model, n_layer) for each kind of state.
        let column = |i: usize| {
            let values = expected.read(&format!("state.{i}")).expect("a state");
            let n_layer = values.len() / slot.n_elements();
            values.into_iter().skip(slot.layer).step_by(n_layer).collect::<Vec<f32>>()
        };
        let pick = |name: &str, i: usize| at(name).unwrap_or_else(|_| column(i));
        let expected = match slot.name {
            "att.shift" => pick("att_x_prev", 1),
            "ffn.shift" => pick("ffn_x_prev", 0),
            "att.wkv_num" => pick("att_aa", 2),
            "att.wkv_den" => pick("att_bb", 3),
            "att.wkv_max" => pick("att_pp", 4),
            "att.wkv" => at("att_kv").expect("a state"),
            name => panic!("the state has an unknown part {name}"),
        };
        let largest = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        let mut difference = max_difference(found, &expected);
        if slot.name == "att.wkv" {
            // RWKV-7's reference keeps (head, value, key), the others (head, key, value) as we do.
            let n = slot.shape[2];
            let turned: Vec<f32> = (0..expected.len())
                .map(|i| expected[i / (n * n) * n * n + i % n * n + i / n % n])
                .collect();
            difference = difference.min(max_difference(found, &turned));
        }
        assert!(
            difference < tolerance * largest,
            "layer {} {}: {difference}",
            slot.layer,
            slot.name
        );
    }
}

/// Checks a file of rwkv.cpp's tests: the official package's logits on its weights, and the peer's
/// own expectation for the three bytes of its prompt.
fn rwkv_cpp(name: &str, model: &str, oracle: &str, tolerance: f32, peer_tolerance: f32) {
    let file = |file: &str| fixture(&format!("fixtures/rwkvcpp-tiny/{name}/{file}"));
    let (Some(path), Some(oracle), Some(peer)) =
        (file(model), file(oracle), file("expected-logits.npy"))
    else {
        return;
    };
    let text = b" \"Once upon a time, in a land far away,\" said Bob to Alice; ther".map(u32::from);
    check(&path, &text, &read_npy(&oracle), tolerance, &[Isa::scalar(), Isa::detect()]);
    check(&path, &b"\"in".map(u32::from), &read_npy(&peer), peer_tolerance, &[Isa::detect()]);
}

/// Checks a model that was trained, at 256 tokens of its held-out text.
fn trained(name: &str, model: &str, tolerance: f32) {
    let file = |file: &str| fixture(&format!("models/{name}/{file}"));
    let (Some(path), Some(ids), Some(logits)) =
        (file(model), file("fixtures/ids.npy"), file("fixtures/logits.npy"))
    else {
        return;
    };
    let tokens: Vec<u32> = read_npy(&ids).values.iter().map(|id| *id as u32).collect();
    check(&path, &tokens, &read_npy(&logits), tolerance, &[Isa::detect()]);
}

#[test]
fn rwkv4() {
    own("rwkv4-a", "model.pth", "logits_f64.npy", 1e-4);
    // Without the class's halving of the residual stream, which only the norms' epsilons notice.
    own("rwkv4_hf-a", "model.safetensors", "logits_no_rescale.npy", 1e-4);
    own("rwkv4_hf-a", "model.safetensors", "logits_f64.npy", 1e-3);
    rwkv_cpp("4v0-660K", "tiny-rwkv-4v0-660K-FP32.bin", "oracle-logits-FP32.npy", 1.2e-4, 1e-5);
    rwkv_cpp("4v0-660K", "tiny-rwkv-4v0-660K-FP16.bin", "oracle-logits-FP16.npy", 1.6e-4, 1e-2);
    rwkv_cpp(
        "4v0-660K",
        "blinkdl-4v0-660K-f32.safetensors",
        "oracle-logits-FP32.npy",
        1.2e-4,
        1e-5,
    );
}

#[test]
fn rwkv5() {
    own("rwkv5.0-a", "model.pth", "logits_f64.npy", 1.5e-4);
    own("rwkv5.2-a", "model.pth", "logits_f64.npy", 1.9e-4);
    rwkv_cpp(
        "5v2-730K",
        "tiny-rwkv-5v2-730K-FP32.bin",
        "oracle-logits-FP32-eps1e-5.npy",
        1.7e-4,
        1e-5,
    );
    // The official package's epsilon: the peer, with another, is more than one away.
    rwkv_cpp("5v2-730K", "blinkdl-5v2-730K-f32.safetensors", "oracle-logits-FP32.npy", 1.7e-4, 1.5);
}

#[test]
fn rwkv6() {
    own("rwkv6-a", "model.pth", "logits_f64.npy", 1.9e-4);
}

#[test]
fn rwkv7() {
    own("rwkv7-a", "model.pth", "logits_f64.npy", 2e-4);
    own("rwkv7-bf16", "model.pth", "logits_f64.npy", 7e-4);
    own("rwkv7_fla-bf16", "model.safetensors", "logits_f64.npy", 7e-4);
    rwkv_cpp("7v0-834K", "tiny-rwkv-7v0-834K-FP32.bin", "oracle-logits-FP32.npy", 1e-4, 1e-5);
    rwkv_cpp("7v0-834K", "tiny-rwkv-7v0-834K-FP16.bin", "oracle-logits-FP16.npy", 1e-4, 1e-2);
    rwkv_cpp("7v0-834K", "blinkdl-7v0-834K-f32.safetensors", "oracle-logits-FP32.npy", 1e-4, 1e-5);
    rwkv_cpp("7v0-834K", "blinkdl-7v0-834K-f32.pth", "oracle-logits-FP32.npy", 1e-4, 1e-5);
}

#[test]
fn rwkv7_gguf() {
    for (format, tolerance) in
        [("F32", 7e-4), ("BF16", 7e-4), ("F16", 7e-4), ("Q8_0", 2.4e-3), ("Q4_0", 1.1e-4)]
    {
        own_logits(
            "gguf-rwkv7-bf16",
            &format!("model-{format}.gguf"),
            &format!("logits-{format}.npy"),
            tolerance,
        );
    }
}

#[test]
fn rwkv7_trained() {
    trained("rwkv7-nano", "rwkv7-nano.safetensors", 1e-3);
    trained("rwkv7-demo", "rwkv7-demo.pth", 1e-3);
}
