//! Lara-Mini checkpoints of Hugging Face: Qwen3.5's delta heads with one matrix for all that they
//! read, attention to windows and to all, experts with a shared one that has no gate.
//!
//! Norms are plain, and attention turns where it sees a window alone. Layout: SPEC.md, "Experts".
//! Test: `tests/parity_experts.rs`.

use super::pairs;
use super::qwen3_5::{CHECKS, DELTA, HEADS};
use super::qwen3_5_moe::{EXPERTS, SIZES};
use crate::convert::table::Kind::{Flag, Size, Words};
use crate::convert::table::Shape::{Adapter, Blocked, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling, joined};

pub(super) const LARA_MINI: Architecture = Architecture {
    name: "lara_mini",
    title: "Lara-Mini",
    model_types: &["lara_mini"],
    layouts: &[Layout::new(&["layers.0.input_layernorm.weight"], "layers.", 0).spelled(&SPELLING)],
    hyper: &joined::<{ HEADS.len() + OWN.len() }>(HEADS, OWN),
    checks: CHECKS,
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORMS),
        (Layers::All, EXPERTS),
        (Layers::Word("layer_types", "delta"), DELTA_IN),
        (Layers::Word("layer_types", "delta"), DELTA),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), STANDING),
        (Layers::Word("layer_types", "sliding_attention"), ATTENTION),
        (Layers::Word("layer_types", "sliding_attention"), TURNING),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

const SPELLING: Spelling =
    Spelling { body: "model.", parts: &[("linear_attn.norm.", "linear_attn.out_norm.")] };

const OWN: &[Param] = &joined::<{ MIXERS.len() + SIZES.len() }>(MIXERS, SIZES);

#[rustfmt::skip]
const MIXERS: &[Param] = &[
    Param("layer_types",     "the kinds of the layers",   Words(&[
        ("linear_attention", "delta"),
        ("full_attention", "attention"),
        ("sliding_attention", "sliding_attention"),
    ]), &["config.layer_types"]),
    Param("window",          "the window of attention",   Size,  &["config.sliding_window?"]),
    Param("n_rot",           "channels that turn",        Size, &[
        "config.rope_parameters.partial_rotary_factor*d_attn_head // 1 | d_attn_head",
    ]),
    Param("has_router_norm", "whether scores are normed", Flag,
        &["config.norm_topk_prob | true"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["embed_tokens.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

#[rustfmt::skip]
const NORMS: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),             &["input_layernorm.weight"]),
    Row("mlp_norm.weight", Vector("d_model"),             &["post_attention_layernorm.weight"]),
    Row("router.weight",   Blocked("n_expert", "d_model"), &["mlp.gate.weight"]),
];

/// Rows of q, k and v; of z; of b; of a.
const QKV: &str = "linear_attn.in_proj.weight[0 of d_qkv, n_head*d_head, n_head, n_head]";
const Z: &str = "linear_attn.in_proj.weight[1 of d_qkv, n_head*d_head, n_head, n_head]";
const BETA: &str = "linear_attn.in_proj.weight[2 of d_qkv, n_head*d_head, n_head, n_head]";
const STEP: &str = "linear_attn.in_proj.weight[3 of d_qkv, n_head*d_head, n_head, n_head]";

#[rustfmt::skip]
const DELTA_IN: &[Row] = &[
    Row("in_proj.qkv",  Matrix("d_qkv", "d_model"),         &[QKV]),
    Row("in_proj.z",    Matrix("n_head*d_head", "d_model"), &[Z]),
    Row("in_proj.beta", Adapter("n_head", "d_model"),       &[BETA]),
    Row("in_proj.dt",   Adapter("n_head", "d_model"),       &[STEP]),
];

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("attn.q",             Matrix("n_attn_head*d_attn_head", "d_model"),
        &["self_attn.q_proj.weight"]),
    Row("attn.k",             Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.k_proj.weight"]),
    Row("attn.v",             Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.v_proj.weight"]),
    Row("attn.q_norm.weight", Vector("d_attn_head"), &["self_attn.q_norm.weight"]),
    Row("attn.k_norm.weight", Vector("d_attn_head"), &["self_attn.k_norm.weight"]),
    Row("attn.out",           Matrix("d_model", "n_attn_head*d_attn_head"),
        &["self_attn.o_proj.weight"]),
];

const TURNING: &[Row] = &[Row("attn.rope", Vector("n_rot // 2"), &["rope({rope_base}, {n_rot})"])];
/// Frequencies of 0: nothing turns.
const STANDING: &[Row] = &[Row("attn.rope", Vector("n_rot // 2"), &["0"])];
