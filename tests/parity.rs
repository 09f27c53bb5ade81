//! Logits against independent reference implementations, for every architecture and checkpoint layout.
//!
//! Each fixture holds tokens and the logits after each of them, computed in f64; an f32 engine must meet them within the
//! tolerance that the fixture states.

use brooklet::Isa;
use brooklet_formats::DType;
use brooklet_tests::{converted, fixture, logits, max_difference, open, read_npy};

/// Converts `model` of the fixture `folder` to f32 and compares the logits of every position.
fn check(folder: &str, model: &str, expected: &str, tolerance: f32) {
    let Some(folder) = fixture(&format!("fixtures/{folder}")) else { return };
    let text = std::fs::read_to_string(folder.join("fixture.json")).expect("fixture.json");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let tokens: Vec<u32> = serde_json::from_value(json["token_ids"].clone()).expect("token ids");
    let expected = read_npy(&folder.join(expected));
    let temp = tempfile::tempdir().expect("a temporary folder");
    let file = converted(&folder.join(model), temp.path(), DType::F32);
    for isa in [Isa::Scalar, Isa::best()] {
        let found = logits(&open(&file, isa), &tokens, 16, 2);
        let difference = max_difference(&found, &expected.values);
        println!("{}: {} on {}: {difference:.2e}", folder.display(), model, isa.name());
        assert!(difference < tolerance, "{}: {difference} on {}", folder.display(), isa.name());
    }
}

#[test]
fn rwkv7() {
    check("rwkv7-a", "model.pth", "logits_f64.npy", 2e-4);
    check("rwkv7-bf16", "model.pth", "logits_f64.npy", 7e-4);
}
