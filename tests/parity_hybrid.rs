//! Hybrids of recurrent layers and attention against transformers: logits of every position. Each
//! fixture's README states its tolerance.

use brooklet::Isa;
use brooklet_formats::DType;
use brooklet_tests::{check_logits, converted, fixture, logits, max_difference, open, read_npy};

/// Tokens of held-out text that the trained model reads.
const N_TOKENS: usize = 256;

/// Compares the logits of the fixture `folder`.
fn check(folder: &str, tolerance: f32) {
    check_logits(folder, ".", "logits_f64.npy", tolerance, |_, _, _| {});
}

#[test]
fn qwen3_5() {
    check("qwen3_5-a", 3.4e-4);
    check("qwen3_5-long", 6.4e-4);
    check("qwen3_5-released", 5.7e-4);
}

#[test]
fn lfm2() {
    check("lfm2-a", 1.5e-4);
    check("lfm2-bf16", 1e-4);
}

#[test]
fn gguf() {
    for (folder, tolerance) in [("gguf-qwen35-a", 3.4e-4), ("gguf-lfm2-a", 1.5e-4)] {
        for (format, expected) in [("F32", "logits-F32.npy"), ("Q8_0", "logits_f64-Q8_0.npy")] {
            check_logits(
                folder,
                &format!("model-{format}.gguf"),
                expected,
                tolerance,
                |_, _, _| {},
            );
        }
    }
    check_logits(
        "gguf-lfm2-q4km",
        "model-Q4_K_M.gguf",
        "logits_f64-Q4_K_M.npy",
        1.5e-4,
        |_, _, _| {},
    );
}

#[test]
fn granitemoehybrid() {
    check("granitemoehybrid-c", 1e-4);
}

#[test]
fn bamba() {
    check("bamba-b", 2e-4);
}

#[test]
fn nemotron_h() {
    check("nemotron_h-a", 1e-4);
}

/// A model that was trained for this project: real weights, held-out text.
#[test]
fn trained() {
    let Some(folder) = fixture("models/qwen35-demo") else { return };
    let ids = read_npy(&folder.join("fixtures/ids.npy"));
    let tokens: Vec<u32> = ids.values.iter().take(N_TOKENS).map(|&id| id as u32).collect();
    let expected = read_npy(&folder.join("fixtures/logits.npy"));
    let temp = tempfile::tempdir().expect("a temporary folder");
    let file = converted(&folder, temp.path(), DType::F32);
    let found = logits(&open(&file, Isa::detect()), &tokens, 64, 2);
    let expected = &expected.values[..found.len()];
    let difference = max_difference(&found, expected);
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    println!("{difference:.2e} of {largest}");
    assert!(difference < 1e-4 * largest, "{difference}");
}
