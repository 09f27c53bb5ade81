//! DeltaNet and its relatives against flash-linear-attention: logits of every position, and the
//! matrix state after the last. Each fixture's README states its tolerance.

use brooklet::Model;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_tests::{check_logits, fixture, max_difference, run};

/// Compares the logits of the fixture `folder`, and its matrix states.
fn check(folder: &str, tolerance: f32) {
    check_logits(folder, ".", "logits_f64.npy", tolerance, |model, tokens, _| {
        check_state(folder, model, tokens);
    });
}

/// Theirs is (n_head, n_key, n_value), as ours is.
fn check_state(folder: &str, model: &Model, tokens: &[u32]) {
    let expected = fixture(&format!("fixtures/{folder}/state.safetensors")).expect("it lies there");
    let expected = Checkpoint::open(&expected).expect("state.safetensors");
    let (_, state) = run(model, tokens, 24, 2);
    let slots = state.layout().slots().iter().enumerate();
    let mut seen = 0;
    for (i, slot) in slots.filter(|(_, slot)| slot.name == "delta") {
        let name = format!("layer.{}.recurrent_state", slot.layer);
        let difference = max_difference(&state.get(i), &expected.read(&name).expect("the tensor"));
        println!("  {name} {difference:.2e}");
        assert!(difference < 1e-4, "{folder} {name}: {difference}");
        seen += 1;
    }
    assert_eq!(seen, model.n_layer());
}

#[test]
fn gated_deltanet() {
    check("gated_deltanet-c", 1e-4);
    check("gated_deltanet-a", 1.4e-4);
}

#[test]
fn deltanet() {
    check("delta_net-a", 1.4e-4);
    check("delta_net-c", 1.4e-4);
}

#[test]
fn kda() {
    check("kda-a", 1e-4);
}

#[test]
fn gated_deltaproduct() {
    check("gated_deltaproduct-a", 2.9e-4);
}

#[test]
fn comba() {
    check("comba-a", 1.8e-4);
}
