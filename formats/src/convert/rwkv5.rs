//! RWKV-5 checkpoints (5.0, 5.1, 5.2): BlinkDL's and rwkv.cpp's files.
//!
//! The versions differ in what is there: 5.0 has no gate; 5.0 and 5.1 have one decay and one bonus
//! per head, 5.2 one per channel. rwkv.cpp stores exp(-exp(time_decay)) and exp(time_first), and
//! runs the norm over heads with another epsilon than the official package: a file of its kind
//! keeps it. Test: `tests/parity_rwkv.rs`.

use super::plan::Plan;
use super::rwkv::Dim::{Att, Ff, Model};
use super::rwkv::Shape::{Matrix, PerHead, Vector};
use super::rwkv::{LN_EPS, LN_X_EPS, Layout, Reading, Row};
use crate::FormatError;
use crate::checkpoint::Checkpoint;

const RWKV_CPP: usize = 1;
/// Epsilon of the norm over heads in rwkv.cpp (`rwkv_group_norm_eps_1e_minus_5`), for this version
/// only.
const RWKV_CPP_LN_X_EPS: f64 = 1e-5;

const LAYOUTS: &[Layout] = &[Layout::blinkdl(MARKS), Layout::rwkv_cpp(MARKS, RWKV_CPP)];
const MARKS: &[&str] = &[
    "blocks.0.att.ln_x.weight",
    "blocks.0.att.ln_x.bias",
    "blocks.0.att.time_faaaa",
    "blocks.0.att.gate.weight",
];

/// Canonical name, shape; cells for BlinkDL, rwkv.cpp.
#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("ln1.weight",      Vector(Model),        &["ln1.weight"]),
    Row("ln1.bias",        Vector(Model),        &["ln1.bias"]),
    Row("ln2.weight",      Vector(Model),        &["ln2.weight"]),
    Row("ln2.bias",        Vector(Model),        &["ln2.bias"]),
    Row("att.mix_k",       Vector(Model),        &["att.time_mix_k"]),
    Row("att.mix_v",       Vector(Model),        &["att.time_mix_v"]),
    Row("att.mix_r",       Vector(Model),        &["att.time_mix_r"]),
    Row("att.key",         Matrix(Att, Model),   &["att.key.weight"]),
    Row("att.value",       Matrix(Att, Model),   &["att.value.weight"]),
    Row("att.receptance",  Matrix(Att, Model),   &["att.receptance.weight"]),
    Row("att.output",      Matrix(Model, Att),   &["att.output.weight"]),
    Row("att.decay",       PerHead(Att),         &["exp(-exp(att.time_decay))",            "att.time_decay"]),
    Row("att.bonus",       PerHead(Att),         &["att.time_faaaa | exp(att.time_first)", "att.time_faaaa | att.time_first"]),
    Row("att.ln_x.weight", Vector(Att),          &["att.ln_x.weight"]),
    Row("att.ln_x.bias",   Vector(Att),          &["att.ln_x.bias"]),
    Row("ffn.mix_k",       Vector(Model),        &["ffn.time_mix_k"]),
    Row("ffn.mix_r",       Vector(Model),        &["ffn.time_mix_r"]),
    Row("ffn.key",         Matrix(Ff, Model),    &["ffn.key.weight"]),
    Row("ffn.receptance",  Matrix(Model, Model), &["ffn.receptance.weight"]),
    Row("ffn.value",       Matrix(Model, Ff),    &["ffn.value.weight"]),
];

/// What versions 5.1 and 5.2 have besides.
#[rustfmt::skip]
const GATE: &[Row] = &[
    Row("att.mix_g", Vector(Model),      &["att.time_mix_g"]),
    Row("att.gate",  Matrix(Att, Model), &["att.gate.weight"]),
];

/// Whether the names are RWKV-5's, when they are not those of a later version.
pub(super) fn recognises(checkpoint: &Checkpoint) -> bool {
    Layout::of(LAYOUTS, checkpoint).is_some()
}

/// What to write.
pub(super) fn plan(checkpoint: &Checkpoint) -> Result<Plan<'_>, FormatError> {
    let Some(layout) = Layout::of(LAYOUTS, checkpoint) else {
        return Err(super::plan::unknown_architecture(checkpoint));
    };
    let mut reading = Reading::new("rwkv5", checkpoint, layout);
    // The decay is (n_head) or (n_head, d_head).
    let n_head = reading.first_layer(LAYER, "att.decay")?.shape.first().copied().unwrap_or(0);
    let d_att = reading.first_layer(LAYER, "att.key")?.matrix_shape().0;
    reading.d_head = Some(d_att / n_head.max(1));
    let has_gate =
        ["att.gate", "att.mix_g"].iter().any(|name| reading.first_layer(GATE, name).is_ok());
    reading.plan.set("has_gate", has_gate);
    reading.plan.set("ln_eps", LN_EPS);
    let ln_x_eps = if layout.rwkv_cpp { RWKV_CPP_LN_X_EPS } else { LN_X_EPS };
    reading.plan.set("ln_x_eps", ln_x_eps);
    reading.trunk(LN_EPS)?;
    for i in 0..reading.n_layer() {
        reading.layer(i, LAYER)?;
        if has_gate {
            reading.layer(i, GATE)?;
        }
    }
    reading.finish(&[])
}
