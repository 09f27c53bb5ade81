//! Linear attention with a decay for every key against flash-linear-attention: logits of every
//! position. Each fixture's README states its tolerance.

use brooklet_tests::check_logits;

/// Compares the logits of the fixture `folder`.
fn check(folder: &str, tolerance: f32) {
    check_logits(folder, ".", "logits_f64.npy", tolerance, |_, _, _| {});
}

#[test]
fn gla() {
    check("gla-a", 1.1e-4);
}

#[test]
fn xlstm() {
    check("xlstm-a", 1.2e-4);
}

#[test]
fn hgrn2() {
    check("hgrn2-a", 1e-4);
}
