//! RWKV-7 checkpoints: BlinkDL's, llama.cpp's GGUF, flash-linear-attention's Hugging Face folders,
//! rwkv.cpp's files.
//!
//! They differ in names, in fused mixing vectors and in adapters stored `[in, out]` or `[out, in]`.
//! The norm over heads has the epsilon 64e-5 everywhere but in flash-linear-attention, where it
//! grows with the head size. Test: `tests/parity_rwkv.rs`.

use super::plan::Plan;
use super::rwkv::Dim::{Ff, Model, RankA, RankG, RankV, RankW};
use super::rwkv::Shape::{Adapter, Matrix, Vector};
use super::rwkv::{LN_EPS, LN_X_EPS, Layout, Reading, Row};
use crate::FormatError;
use crate::checkpoint::Checkpoint;

const GGUF: usize = 1;
const HUGGING_FACE: usize = 2;
const RWKV_CPP: usize = 3;

const LAYOUTS: &[Layout] = &[
    Layout::blinkdl(&["blocks.0.att.r_k", "blocks.0.att.k_k", "blocks.0.att.x_r"]),
    Layout::gguf(
        &["blk.0.time_mix_r_k.weight", "blk.0.time_mix_k_k.weight", "blk.0.time_mix_a1.weight"],
        GGUF,
    ),
    Layout {
        layers: "model.layers.",
        embed: "model.embeddings.weight",
        ln0: "model.layers.0.pre_norm",
        ln_out: "model.norm",
        head: "lm_head.weight",
        column: HUGGING_FACE,
        ..Layout::blinkdl(&[
            "model.layers.0.attn.r_k",
            "model.layers.0.attn.k_k",
            "model.layers.0.attn.w_lora.lora.0.weight",
        ])
    },
    Layout::rwkv_cpp(&["blocks.0.att.r_k", "blocks.0.att.k_k", "blocks.0.att.x_rwkvag"], RWKV_CPP),
];

/// Canonical name, shape; cells for BlinkDL, GGUF, Hugging Face, rwkv.cpp.
#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("ln1.weight",      Vector(Model),         &["ln1.weight",            "attn_norm.weight",                "attn_norm.weight"]),
    Row("ln1.bias",        Vector(Model),         &["ln1.bias",              "attn_norm.bias",                  "attn_norm.bias"]),
    Row("ln2.weight",      Vector(Model),         &["ln2.weight",            "attn_norm_2.weight",              "ffn_norm.weight"]),
    Row("ln2.bias",        Vector(Model),         &["ln2.bias",              "attn_norm_2.bias",                "ffn_norm.bias"]),
    Row("att.x_r",         Vector(Model),         &["att.x_r",               "time_mix_lerp_fused.weight[0/6]", "attn.x_r | attn.x_x[0/6]",  "att.x_rwkvag[0/6]"]),
    Row("att.x_w",         Vector(Model),         &["att.x_w",               "time_mix_lerp_fused.weight[1/6]", "attn.x_w | attn.x_x[1/6]",  "att.x_rwkvag[1/6]"]),
    Row("att.x_k",         Vector(Model),         &["att.x_k",               "time_mix_lerp_fused.weight[2/6]", "attn.x_k | attn.x_x[2/6]",  "att.x_rwkvag[2/6]"]),
    Row("att.x_v",         Vector(Model),         &["att.x_v",               "time_mix_lerp_fused.weight[3/6]", "attn.x_v | attn.x_x[3/6]",  "att.x_rwkvag[3/6]"]),
    Row("att.x_a",         Vector(Model),         &["att.x_a",               "time_mix_lerp_fused.weight[4/6]", "attn.x_a | attn.x_x[4/6]",  "att.x_rwkvag[4/6]"]),
    Row("att.x_g",         Vector(Model),         &["att.x_g",               "time_mix_lerp_fused.weight[5/6]", "attn.x_g | attn.x_x[5/6]",  "att.x_rwkvag[5/6]"]),
    Row("att.receptance",  Matrix(Model, Model),  &["att.receptance.weight", "time_mix_receptance.weight",      "attn.r_proj.weight"]),
    Row("att.key",         Matrix(Model, Model),  &["att.key.weight",        "time_mix_key.weight",             "attn.k_proj.weight"]),
    Row("att.value",       Matrix(Model, Model),  &["att.value.weight",      "time_mix_value.weight",           "attn.v_proj.weight"]),
    Row("att.output",      Matrix(Model, Model),  &["att.output.weight",     "time_mix_output.weight",          "attn.o_proj.weight"]),
    Row("att.w0",          Vector(Model),         &["att.w0",                "time_mix_w0.weight",              "attn.w_lora.lora.2.bias"]),
    Row("att.w1",          Adapter(RankW, Model), &["att.w1^T",              "time_mix_w1.weight",              "attn.w_lora.lora.0.weight", "att.w1"]),
    Row("att.w2",          Adapter(Model, RankW), &["att.w2^T",              "time_mix_w2.weight",              "attn.w_lora.lora.2.weight", "att.w2"]),
    Row("att.a0",          Vector(Model),         &["att.a0",                "time_mix_a0.weight",              "attn.a_lora.lora.2.bias"]),
    Row("att.a1",          Adapter(RankA, Model), &["att.a1^T",              "time_mix_a1.weight",              "attn.a_lora.lora.0.weight", "att.a1"]),
    Row("att.a2",          Adapter(Model, RankA), &["att.a2^T",              "time_mix_a2.weight",              "attn.a_lora.lora.2.weight", "att.a2"]),
    Row("att.g1",          Adapter(RankG, Model), &["att.g1^T",              "time_mix_g1.weight",              "attn.g_lora.lora.0.weight", "att.g1"]),
    Row("att.g2",          Adapter(Model, RankG), &["att.g2^T",              "time_mix_g2.weight",              "attn.g_lora.lora.2.weight", "att.g2"]),
    Row("att.k_k",         Vector(Model),         &["att.k_k",               "time_mix_k_k.weight",             "attn.k_k"]),
    Row("att.k_a",         Vector(Model),         &["att.k_a",               "time_mix_k_a.weight",             "attn.k_a"]),
    Row("att.r_k",         Vector(Model),         &["att.r_k",               "time_mix_r_k.weight",             "attn.r_k"]),
    Row("att.ln_x.weight", Vector(Model),         &["att.ln_x.weight",       "time_mix_ln.weight",              "attn.g_norm.weight"]),
    Row("att.ln_x.bias",   Vector(Model),         &["att.ln_x.bias",         "time_mix_ln.bias",                "attn.g_norm.bias"]),
    Row("ffn.x_k",         Vector(Model),         &["ffn.x_k",               "channel_mix_lerp_k.weight",       "ffn.x_k"]),
    Row("ffn.key",         Matrix(Ff, Model),     &["ffn.key.weight",        "channel_mix_key.weight",          "ffn.key.weight"]),
    Row("ffn.value",       Matrix(Model, Ff),     &["ffn.value.weight",      "channel_mix_value.weight",        "ffn.value.weight"]),
];

/// The value residual of all layers but the first.
#[rustfmt::skip]
const VALUE_RESIDUAL: &[Row] = &[
    Row("att.v0", Vector(Model),         &["att.v0",   "time_mix_v0.weight", "attn.v_lora.lora.2.bias"]),
    Row("att.v1", Adapter(RankV, Model), &["att.v1^T", "time_mix_v1.weight", "attn.v_lora.lora.0.weight", "att.v1"]),
    Row("att.v2", Adapter(Model, RankV), &["att.v2^T", "time_mix_v2.weight", "attn.v_lora.lora.2.weight", "att.v2"]),
];

/// What the first layer may carry of a value residual, which it does not have.
const IGNORED: &[&str] = &[
    "att.v0",
    "att.v1",
    "att.v2",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "attn.v_lora.lora.0.weight",
    "attn.v_lora.lora.2.weight",
    "attn.v_lora.lora.2.bias",
];

/// Whether the names are RWKV-7's.
pub(super) fn recognises(checkpoint: &Checkpoint) -> bool {
    Layout::of(LAYOUTS, checkpoint).is_some()
}

/// What to write.
pub(super) fn plan(checkpoint: &Checkpoint) -> Result<Plan<'_>, FormatError> {
    let Some(layout) = Layout::of(LAYOUTS, checkpoint) else {
        return Err(super::plan::unknown_architecture(checkpoint));
    };
    let mut reading = Reading::new("rwkv7", checkpoint, layout);
    let r_k = reading.first_layer(LAYER, "att.r_k")?;
    // (n_head, d_head), but for GGUF, which flattens it.
    let d_head = match r_k.shape[..] {
        _ if layout.column == GGUF => reading.gguf_size("wkv.head_size")?,
        [.., d_head] => d_head,
        [] => 0,
    };
    let (mut ln_eps, mut ln_x_eps) = (LN_EPS, LN_X_EPS);
    if layout.column == GGUF {
        ln_eps = reading
            .gguf("attention.layer_norm_epsilon")
            .and_then(|eps| eps.as_f64())
            .unwrap_or(ln_eps);
    }
    if layout.column == HUGGING_FACE {
        ln_eps = reading.config_float("norm_eps").unwrap_or(ln_eps);
        ln_x_eps = ln_eps * d_head as f64;
        reading.no_biases = reading.config_flag("norm_bias") == Some(false);
        reading.no_ln0 = reading.config_flag("norm_first") == Some(false);
    }
    reading.d_head = Some(d_head);
    reading.plan.set("ln_eps", ln_eps);
    reading.plan.set("ln_x_eps", ln_x_eps);
    reading.trunk(ln_eps)?;
    for i in 0..reading.n_layer() {
        reading.layer(i, LAYER)?;
        if i > 0 {
            reading.layer(i, VALUE_RESIDUAL)?;
        }
    }
    reading.finish(IGNORED)
}
