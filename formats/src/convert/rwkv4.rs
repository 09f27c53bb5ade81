//! RWKV-4 checkpoints: BlinkDL's, Hugging Face's `RwkvForCausalLM`, rwkv.cpp's files.
//!
//! The decay is kept as the engine adds it, -exp(time_decay), which is what rwkv.cpp stores.
//! Hugging Face's class divides weights in memory while it runs, never in its files. Test:
//! `tests/parity_rwkv.rs`.

use super::plan::Plan;
use super::rwkv::Dim::{Att, Ff, Model};
use super::rwkv::Shape::{Matrix, Vector};
use super::rwkv::{LN_EPS, Layout, Reading, Row};
use crate::FormatError;
use crate::checkpoint::Checkpoint;

const HUGGING_FACE: usize = 1;
const RWKV_CPP: usize = 2;

const LAYOUTS: &[Layout] = &[
    Layout::blinkdl(MARKS),
    Layout {
        layers: "rwkv.blocks.",
        embed: "rwkv.embeddings.weight",
        ln0: "rwkv.blocks.0.pre_ln",
        ln_out: "rwkv.ln_out",
        column: HUGGING_FACE,
        ..Layout::blinkdl(&[
            "rwkv.blocks.0.attention.time_decay",
            "rwkv.blocks.0.attention.time_first",
        ])
    },
    Layout::rwkv_cpp(MARKS, RWKV_CPP),
];
const MARKS: &[&str] =
    &["blocks.0.att.time_decay", "blocks.0.att.time_first", "blocks.0.att.time_mix_k"];

/// Canonical name, shape; cells for BlinkDL, Hugging Face, rwkv.cpp.
#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("ln1.weight",     Vector(Model),        &["ln1.weight",            "ln1.weight"]),
    Row("ln1.bias",       Vector(Model),        &["ln1.bias",              "ln1.bias"]),
    Row("ln2.weight",     Vector(Model),        &["ln2.weight",            "ln2.weight"]),
    Row("ln2.bias",       Vector(Model),        &["ln2.bias",              "ln2.bias"]),
    Row("att.mix_k",      Vector(Model),        &["att.time_mix_k",        "attention.time_mix_key"]),
    Row("att.mix_v",      Vector(Model),        &["att.time_mix_v",        "attention.time_mix_value"]),
    Row("att.mix_r",      Vector(Model),        &["att.time_mix_r",        "attention.time_mix_receptance"]),
    Row("att.key",        Matrix(Att, Model),   &["att.key.weight",        "attention.key.weight"]),
    Row("att.value",      Matrix(Att, Model),   &["att.value.weight",      "attention.value.weight"]),
    Row("att.receptance", Matrix(Att, Model),   &["att.receptance.weight", "attention.receptance.weight"]),
    Row("att.output",     Matrix(Model, Att),   &["att.output.weight",     "attention.output.weight"]),
    Row("att.decay",      Vector(Att),          &["-exp(att.time_decay)",  "-exp(attention.time_decay)",       "att.time_decay"]),
    Row("att.bonus",      Vector(Att),          &["att.time_first",        "attention.time_first"]),
    Row("ffn.mix_k",      Vector(Model),        &["ffn.time_mix_k",        "feed_forward.time_mix_key"]),
    Row("ffn.mix_r",      Vector(Model),        &["ffn.time_mix_r",        "feed_forward.time_mix_receptance"]),
    Row("ffn.key",        Matrix(Ff, Model),    &["ffn.key.weight",        "feed_forward.key.weight"]),
    Row("ffn.receptance", Matrix(Model, Model), &["ffn.receptance.weight", "feed_forward.receptance.weight"]),
    Row("ffn.value",      Matrix(Model, Ff),    &["ffn.value.weight",      "feed_forward.value.weight"]),
];

/// Whether the names are RWKV-4's, when they are not those of a later version.
pub(super) fn recognises(checkpoint: &Checkpoint) -> bool {
    Layout::of(LAYOUTS, checkpoint).is_some()
}

/// What to write.
pub(super) fn plan(checkpoint: &Checkpoint) -> Result<Plan<'_>, FormatError> {
    let Some(layout) = Layout::of(LAYOUTS, checkpoint) else {
        return Err(super::plan::unknown_architecture(checkpoint));
    };
    let mut reading = Reading::new("rwkv4", checkpoint, layout);
    let ln_eps = match layout.column {
        HUGGING_FACE => reading.config_float("layer_norm_epsilon").unwrap_or(LN_EPS),
        _ => LN_EPS,
    };
    reading.plan.set("ln_eps", ln_eps);
    // Hugging Face's class does not apply its epsilon to the last norm.
    reading.plan.set("ln_out_eps", LN_EPS);
    reading.trunk(ln_eps)?;
    for i in 0..reading.n_layer() {
        reading.layer(i, LAYER)?;
    }
    reading.finish(&[])
}
