//! RWKV-6 checkpoints of flash-linear-attention, whose keys are smaller than their values. The five
//! mixtures are stored for r, w, k, v, g in this order.
//!
//! They become files of `rwkv6`. Layout: SPEC.md, "RWKV". Test: `tests/parity_rwkv.rs`.

use super::fla::{N_LAYER, NO_ATTENTION};
use super::pairs;
use crate::convert::table::Kind::{Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Embedding, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const RWKV6_FLA: Architecture = Architecture {
    name: "rwkv6",
    title: "RWKV-6 of flash-linear-attention",
    model_types: &[],
    layouts: &[Layout::new(&["model.layers.0.attn.x_proj.0.mu"], "model.layers.", 0).with_config()],
    hyper: HYPER,
    checks: &["d_att % d_head = 0"],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER)],
    pairs: &[pairs::RWKV, pairs::RWKV_HEADS],
    ignored: &[],
};

/// The norm of heads has the norms' epsilon.
#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("activation",    "the activation",                   OneOf(&["sqrelu"]),
        &["config.hidden_act?"]),
    Param("gate",          "the gate's activation",            OneOf(&["silu", "swish"]),
        &["config.gate_fn?"]),
    NO_ATTENTION,
    Param("n_vocab",       "rows of the embedding",            Size,   &[]),
    Param("d_model",       "the width",                        Size,   &[]),
    Param("d_ff",          "the width of the channel mix",     Size,   &[]),
    Param("d_att",         "the width of the time mix",        Size,
        &["first(attn.v_proj.linear.weight)"]),
    Param("d_key",         "the size of a head of keys",       Size,   &["second(attn.bonus)"]),
    Param("d_head",        "the head size",                    Size,
        &["d_att // first(attn.bonus)"]),
    Param("rank_mix",      "the rank of the mixing adapters",  Size,   &[]),
    Param("rank_decay",    "the rank of the decay's adapter",  Size,   &[]),
    Param("ln_eps",        "the norms' epsilon",               Number, &["config.norm_eps | 1e-5"]),
    Param("ln_x_eps",      "the epsilon of the norm of heads", Number, &["ln_eps"]),
];

const EMBED: &str = "model.embeddings.weight if config.norm_first=false \
    | layer_norm(model.embeddings.weight, model.layers.0.pre_norm.weight, \
                 model.layers.0.pre_norm.bias, {ln_eps}) \
    | layer_norm(model.embeddings.weight, model.layers.0.pre_norm.weight, 0, {ln_eps}) \
          if config.norm_bias=false";

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &[EMBED]),
    Row("ln_out.weight", Vector("d_model"),               &["model.norm.weight"]),
    Row("ln_out.bias",   Vector("d_model"),
        &["model.norm.bias | 0 if config.norm_bias=false"]),
    Row("head",          Matrix("n_vocab", "d_model"),
        &["lm_head.weight | model.embeddings.weight if config.tie_word_embeddings"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("ln1.weight",      Vector("d_model"),             &["attn_norm.weight"]),
    Row("ln1.bias",        Vector("d_model"),
        &["attn_norm.bias | 0 if config.norm_bias=false"]),
    Row("ln2.weight",      Vector("d_model"),             &["ffn_norm.weight"]),
    Row("ln2.bias",        Vector("d_model"),
        &["ffn_norm.bias | 0 if config.norm_bias=false"]),
    Row("att.maa_x",       Vector("d_model"),             &["attn.x_proj.0.mu"]),
    Row("att.maa_w",       Vector("d_model"),             &["attn.x_bias[1/5]"]),
    Row("att.maa_w1.w",    Adapter("rank_mix", "d_model"), &["attn.x_proj.0.linear.weight[1/5]"]),
    Row("att.maa_w2.w",    Adapter("d_model", "rank_mix"), &["attn.x_proj.2.weight^T[1/5]^T"]),
    Row("att.maa_k",       Vector("d_model"),             &["attn.x_bias[2/5]"]),
    Row("att.maa_w1.k",    Adapter("rank_mix", "d_model"), &["attn.x_proj.0.linear.weight[2/5]"]),
    Row("att.maa_w2.k",    Adapter("d_model", "rank_mix"), &["attn.x_proj.2.weight^T[2/5]^T"]),
    Row("att.maa_v",       Vector("d_model"),             &["attn.x_bias[3/5]"]),
    Row("att.maa_w1.v",    Adapter("rank_mix", "d_model"), &["attn.x_proj.0.linear.weight[3/5]"]),
    Row("att.maa_w2.v",    Adapter("d_model", "rank_mix"), &["attn.x_proj.2.weight^T[3/5]^T"]),
    Row("att.maa_r",       Vector("d_model"),             &["attn.x_bias[0/5]"]),
    Row("att.maa_w1.r",    Adapter("rank_mix", "d_model"), &["attn.x_proj.0.linear.weight[0/5]"]),
    Row("att.maa_w2.r",    Adapter("d_model", "rank_mix"), &["attn.x_proj.2.weight^T[0/5]^T"]),
    Row("att.maa_g",       Vector("d_model"),             &["attn.x_bias[4/5]"]),
    Row("att.maa_w1.g",    Adapter("rank_mix", "d_model"), &["attn.x_proj.0.linear.weight[4/5]"]),
    Row("att.maa_w2.g",    Adapter("d_model", "rank_mix"), &["attn.x_proj.2.weight^T[4/5]^T"]),
    Row("att.receptance",  Matrix("d_att // d_head * d_key", "d_model"),
        &["attn.r_proj.linear.weight"]),
    Row("att.key",         Matrix("d_att // d_head * d_key", "d_model"),
        &["attn.k_proj.linear.weight"]),
    Row("att.value",       Matrix("d_att", "d_model"),    &["attn.v_proj.linear.weight"]),
    Row("att.gate",        Matrix("d_att", "d_model"),    &["attn.g_proj.linear.weight"]),
    Row("att.output",      Matrix("d_model", "d_att"),    &["attn.o_proj.weight"]),
    Row("att.decay_base",  Vector("d_att // d_head * d_key"),
        &["attn.w_proj.linear.lora.2.bias"]),
    Row("att.decay_w1",    Adapter("rank_decay", "d_model"),
        &["attn.w_proj.linear.lora.0.weight"]),
    Row("att.decay_w2",    Adapter("d_att // d_head * d_key", "rank_decay"),
        &["attn.w_proj.linear.lora.2.weight"]),
    Row("att.bonus",       Vector("d_att // d_head * d_key"), &["attn.bonus"]),
    Row("att.ln_x.weight", Vector("d_att"),               &["attn.g_norm.weight | 1"]),
    Row("att.ln_x.bias",   Vector("d_att"),               &["attn.g_norm.bias | 0"]),
    Row("ffn.maa_k",       Vector("d_model"),             &["ffn.key.mu"]),
    Row("ffn.maa_r",       Vector("d_model"),             &["ffn.receptance.mu"]),
    Row("ffn.key",         Matrix("d_ff", "d_model"),     &["ffn.key.linear.weight"]),
    Row("ffn.receptance",  Matrix("d_model", "d_model"),  &["ffn.receptance.linear.weight"]),
    Row("ffn.value",       Matrix("d_model", "d_ff"),     &["ffn.value.weight"]),
];
