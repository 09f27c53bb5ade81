//! RWKV-6 checkpoints: BlinkDL's, llama.cpp's GGUF, rwkv.cpp's files.
//!
//! The five adapters of the data-dependent mixing, for w, k, v, r, g in this order, are stored in
//! one; here each stands alone. llama.cpp's converter divides the output matrices of layer i by
//! 2^(i / rescale_every_n_layers), and its engine halves the residual stream as often: both are
//! undone here, since only epsilons notice. Test: `tests/parity_rwkv.rs`.

use super::plan::Plan;
use super::rwkv::Dim::{Att, Ff, Model, RankDecay, RankMix};
use super::rwkv::Shape::{Adapter, Matrix, Vector};
use super::rwkv::{LN_EPS, LN_X_EPS, Layout, Reading, Row};
use crate::FormatError;
use crate::checkpoint::{Checkpoint, MetaValue};

const GGUF: usize = 1;
const RWKV_CPP: usize = 2;

const LAYOUTS: &[Layout] = &[
    Layout::blinkdl(MARKS),
    Layout::gguf(&["blk.0.time_mix_lerp_x.weight", "blk.0.time_mix_decay_w1.weight"], GGUF),
    Layout::rwkv_cpp(MARKS, RWKV_CPP),
];
const MARKS: &[&str] =
    &["blocks.0.att.time_maa_x", "blocks.0.att.time_maa_w1", "blocks.0.att.time_decay_w1"];

/// Canonical name, shape; cells for BlinkDL, GGUF, rwkv.cpp.
#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("ln1.weight",      Vector(Model),             &["ln1.weight",             "attn_norm.weight"]),
    Row("ln1.bias",        Vector(Model),             &["ln1.bias",               "attn_norm.bias"]),
    Row("ln2.weight",      Vector(Model),             &["ln2.weight",             "attn_norm_2.weight"]),
    Row("ln2.bias",        Vector(Model),             &["ln2.bias",               "attn_norm_2.bias"]),
    Row("att.maa_x",       Vector(Model),             &["att.time_maa_x",         "time_mix_lerp_x.weight"]),
    Row("att.maa_w",       Vector(Model),             &["att.time_maa_w",         "time_mix_lerp_fused.weight[0/5] | time_mix_lerp_w.weight"]),
    Row("att.maa_k",       Vector(Model),             &["att.time_maa_k",         "time_mix_lerp_fused.weight[1/5] | time_mix_lerp_k.weight"]),
    Row("att.maa_v",       Vector(Model),             &["att.time_maa_v",         "time_mix_lerp_fused.weight[2/5] | time_mix_lerp_v.weight"]),
    Row("att.maa_r",       Vector(Model),             &["att.time_maa_r",         "time_mix_lerp_fused.weight[3/5] | time_mix_lerp_r.weight"]),
    Row("att.maa_g",       Vector(Model),             &["att.time_maa_g",         "time_mix_lerp_fused.weight[4/5] | time_mix_lerp_g.weight"]),
    Row("att.maa_w1.w",    Adapter(RankMix, Model),   &["att.time_maa_w1^T[0/5]", "time_mix_w1.weight[0/5]",                                  "att.time_maa_w1[0/5]"]),
    Row("att.maa_w1.k",    Adapter(RankMix, Model),   &["att.time_maa_w1^T[1/5]", "time_mix_w1.weight[1/5]",                                  "att.time_maa_w1[1/5]"]),
    Row("att.maa_w1.v",    Adapter(RankMix, Model),   &["att.time_maa_w1^T[2/5]", "time_mix_w1.weight[2/5]",                                  "att.time_maa_w1[2/5]"]),
    Row("att.maa_w1.r",    Adapter(RankMix, Model),   &["att.time_maa_w1^T[3/5]", "time_mix_w1.weight[3/5]",                                  "att.time_maa_w1[3/5]"]),
    Row("att.maa_w1.g",    Adapter(RankMix, Model),   &["att.time_maa_w1^T[4/5]", "time_mix_w1.weight[4/5]",                                  "att.time_maa_w1[4/5]"]),
    Row("att.maa_w2.w",    Adapter(Model, RankMix),   &["att.time_maa_w2[0/5]^T", "time_mix_w2.weight[0/5]",                                  "att.time_maa_w2[0/5]"]),
    Row("att.maa_w2.k",    Adapter(Model, RankMix),   &["att.time_maa_w2[1/5]^T", "time_mix_w2.weight[1/5]",                                  "att.time_maa_w2[1/5]"]),
    Row("att.maa_w2.v",    Adapter(Model, RankMix),   &["att.time_maa_w2[2/5]^T", "time_mix_w2.weight[2/5]",                                  "att.time_maa_w2[2/5]"]),
    Row("att.maa_w2.r",    Adapter(Model, RankMix),   &["att.time_maa_w2[3/5]^T", "time_mix_w2.weight[3/5]",                                  "att.time_maa_w2[3/5]"]),
    Row("att.maa_w2.g",    Adapter(Model, RankMix),   &["att.time_maa_w2[4/5]^T", "time_mix_w2.weight[4/5]",                                  "att.time_maa_w2[4/5]"]),
    Row("att.receptance",  Matrix(Att, Model),        &["att.receptance.weight",  "time_mix_receptance.weight"]),
    Row("att.key",         Matrix(Att, Model),        &["att.key.weight",         "time_mix_key.weight"]),
    Row("att.value",       Matrix(Att, Model),        &["att.value.weight",       "time_mix_value.weight"]),
    Row("att.gate",        Matrix(Att, Model),        &["att.gate.weight",        "time_mix_gate.weight"]),
    Row("att.output",      Matrix(Model, Att),        &["att.output.weight",      "rescaled(time_mix_output.weight)"]),
    Row("att.decay_base",  Vector(Att),               &["att.time_decay",         "time_mix_decay.weight"]),
    Row("att.decay_w1",    Adapter(RankDecay, Model), &["att.time_decay_w1^T",    "time_mix_decay_w1.weight",                                 "att.time_decay_w1"]),
    Row("att.decay_w2",    Adapter(Att, RankDecay),   &["att.time_decay_w2^T",    "time_mix_decay_w2.weight",                                 "att.time_decay_w2"]),
    Row("att.bonus",       Vector(Att),               &["att.time_faaaa",         "time_mix_first.weight"]),
    Row("att.ln_x.weight", Vector(Att),               &["att.ln_x.weight",        "time_mix_ln.weight"]),
    Row("att.ln_x.bias",   Vector(Att),               &["att.ln_x.bias",          "time_mix_ln.bias"]),
    Row("ffn.maa_k",       Vector(Model),             &["ffn.time_maa_k",         "channel_mix_lerp_k.weight"]),
    Row("ffn.maa_r",       Vector(Model),             &["ffn.time_maa_r",         "channel_mix_lerp_r.weight"]),
    Row("ffn.key",         Matrix(Ff, Model),         &["ffn.key.weight",         "channel_mix_key.weight"]),
    Row("ffn.receptance",  Matrix(Model, Model),      &["ffn.receptance.weight",  "channel_mix_receptance.weight"]),
    Row("ffn.value",       Matrix(Model, Ff),         &["ffn.value.weight",       "rescaled(channel_mix_value.weight)"]),
];

/// Whether the names are RWKV-6's.
pub(super) fn recognises(checkpoint: &Checkpoint) -> bool {
    Layout::of(LAYOUTS, checkpoint).is_some()
}

/// What to write.
pub(super) fn plan(checkpoint: &Checkpoint) -> Result<Plan<'_>, FormatError> {
    let Some(layout) = Layout::of(LAYOUTS, checkpoint) else {
        return Err(super::plan::unknown_architecture(checkpoint));
    };
    let mut reading = Reading::new("rwkv6", checkpoint, layout);
    let mut ln_eps = LN_EPS;
    if layout.column == GGUF {
        ln_eps = reading
            .gguf("attention.layer_norm_epsilon")
            .and_then(MetaValue::as_f64)
            .unwrap_or(ln_eps);
        reading.rescale_every = reading.gguf_size("rescale_every_n_layers").unwrap_or(0);
    }
    // The bonus is (n_head, d_head).
    reading.d_head =
        Some(reading.first_layer(LAYER, "att.bonus")?.shape.get(1).copied().unwrap_or(0));
    reading.plan.set("ln_eps", ln_eps);
    reading.plan.set("ln_x_eps", LN_X_EPS);
    reading.trunk(ln_eps)?;
    for i in 0..reading.n_layer() {
        reading.layer(i, LAYER)?;
    }
    reading.finish(&[])
}
