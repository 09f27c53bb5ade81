//! Models with mixtures of experts against transformers: logits of every position. Each fixture's
//! README states its tolerance.

use brooklet_tests::check_logits;

/// Compares the logits of the fixture `folder`.
fn check(folder: &str, tolerance: f32) {
    check_logits(folder, ".", "logits_f64.npy", tolerance, |_, _, _| {});
}

/// Compares the logits of a GGUF file, whose weights are de-quantized for the reference, too.
fn check_gguf(folder: &str, format: &str, tolerance: f32) {
    let expected =
        if format == "F32" { "logits-F32.npy".into() } else { format!("logits_f64-{format}.npy") };
    let model = format!("model-{format}.gguf");
    check_logits(folder, &model, &expected, tolerance, |_, _, _| {});
}

#[test]
fn qwen3_5_moe() {
    check("qwen3_5_moe-a", 1.8e-4);
    check_gguf("gguf-qwen35moe-a", "F32", 1.8e-4);
    check_gguf("gguf-qwen35moe-a", "Q8_0", 2.6e-4);
}
