//! Hybrids of recurrent layers and attention against transformers: logits of every position. Each
//! fixture's README states its tolerance.

use brooklet_tests::{check_logits, check_trained};

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
fn lfm3() {
    check("lfm3-a", 1.1e-4);
    check("lfm3-long", 1e-4);
}

#[test]
fn recurrent_gemma() {
    check("recurrent_gemma-a", 1e-4);
}

#[test]
fn samba() {
    check("samba-a", 1.1e-4);
}

#[test]
fn gguf() {
    for (folder, tolerance) in
        [("gguf-qwen35-a", 3.4e-4), ("gguf-lfm2-a", 1.5e-4), ("gguf-falcon-h1-a", 1e-4)]
    {
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

#[test]
fn falcon_h1() {
    check("falcon_h1-a", 1e-4);
}

#[test]
fn zamba() {
    check("zamba-a", 1.9e-4);
    check("zamba2-b", 3e-4);
}

#[test]
fn olmo_hybrid() {
    check("olmo_hybrid-a", 3.7e-4);
    check("olmo_hybrid-long", 5.4e-4);
}

/// A model that was trained for this project: real weights, held-out text.
#[test]
fn trained() {
    check_trained("qwen35-demo");
}
