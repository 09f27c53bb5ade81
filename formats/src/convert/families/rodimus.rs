//! Rodimus checkpoints of flash-linear-attention: mixers alone, or (Rodimus+) each with attention
//! and a network behind it.
//!
//! Layout: SPEC.md, "Rodimus". Test: `tests/parity_linear.rs`.

use super::fla::{MLP, TRUNK};
use super::pairs;
use crate::convert::table::Kind::{Flag, Inner, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, joined};

pub(super) const RODIMUS: Architecture = Architecture {
    name: "rodimus",
    title: "Rodimus",
    model_types: &["rodimus"],
    layouts: &[Layout::new(&["model.layers.0.mixer.tau_gate_proj.weight"], "model.layers.", 0)],
    hyper: HYPER,
    checks: &[],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER)],
    pairs: &[pairs::HEAD, pairs::INNER, pairs::OUTPUT, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

pub(super) const RODIMUS_PLUS: Architecture = Architecture {
    name: "rodimus_plus",
    title: "Rodimus+",
    layouts: &[Layout::new(
        &["model.layers.0.mixer.tau_gate_proj.weight & model.layers.0.ska_attn.k_proj.weight"],
        "model.layers.",
        0,
    )],
    hyper: &joined::<{ HYPER.len() + PLUS.len() }>(HYPER, PLUS),
    checks: &["d_model % n_attn_head = 0"],
    layers: &[
        (Layers::All, LAYER),
        (Layers::All, ATTENTION),
        (Layers::If("has_qk_norm"), QK_NORM),
        (Layers::All, MLP),
    ],
    ..RODIMUS
};

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",    "the number of layers",       Size,
        &["config.num_hidden_layers | layers()"]),
    Param("norm_eps",   "the norms' epsilon",         Number, &["config.norm_eps | 1e-5"]),
    Param("key_eps",    "the least length of a key",  Number, &["config.k_norm_eps | 1e-12"]),
    Param("activation", "the activation",             OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    Param("conv",       "whether there is a convolution", OneOf(&["true"]),
        &["config.use_short_conv?"]),
    Param("attn",       "layers of plain attention among the others", OneOf(&["null"]),
        &["config.attn?"]),
    Param("n_vocab",    "rows of the embedding",      Size,   &[]),
    Param("d_model",    "the width",                  Size,   &["config.hidden_size"]),
    Param("d_inner",    "the width inside",           Size,   &["first(mixer.up_proj.weight)"]),
    Param("d_key",      "the size of a key",          Size,   &["first(mixer.k_proj.weight)"]),
    Param("d_conv",     "the convolution's width",    Size,   &["last(mixer.short_conv.weight)"]),
    Param("rank_value_gate", "the rank of the gate of values", Size, &[]),
];

/// The norms of q and k have an epsilon of their own; a window that is null is none, one that is
/// not said is 1024 tokens.
#[rustfmt::skip]
const PLUS: &[Param] = &[
    Param("d_ff",        "the network's width",           Size,   &[]),
    Param("n_attn_head", "the number of attention heads", Size,
        &["config.ska_attn.num_heads"]),
    Param("n_kv_head",   "heads of values",               Size,   &["n_attn_head"]),
    Param("d_attn_head", "the size of an attention head", Size,   &["d_model // n_attn_head"]),
    Param("shares_key",  "whether heads share keys",      Flag,   &["true"]),
    Param("has_qk_norm", "whether q and k are normed",    Flag,
        &["has(ska_attn.q_norm.weight)"]),
    Param("qk_norm_eps", "the epsilon of q's and k's norms", Number, &["1e-5"]),
    Param("sees_all",    "whether attention has no window", Inner,
        &["is_null(config.ska_attn.window_size)"]),
    Param("window",      "the window of attention",       Size,
        &["config.ska_attn.window_size | 1024 if sees_all=0?"]),
    Param("layer_types", "the kinds of attention",        Words(&[
        ("sliding_attention", "sliding_attention"),
        ("full_attention", "attention"),
    ]), &[
        "where(mixer_norm.weight, sliding_attention, none) if window \
         | where(mixer_norm.weight, full_attention, none)",
    ]),
    Param("n_context",   "the longest text",              Size,
        &["config.max_position_embeddings | 2048"]),
    Param("n_rot",       "channels that turn",            Size,   &["d_attn_head"]),
    Param("rope_base",   "the base of the frequencies",   Number,
        &["config.ska_attn.rope_theta | 10000"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("mixer_norm.weight", Vector("d_model"),                      &["mixer_norm.weight"]),
    Row("in_proj.up",        Matrix("d_inner", "d_model"),           &["mixer.up_proj.weight"]),
    Row("in_proj.z",         Matrix("d_inner", "d_model"),           &["mixer.gate_proj.weight"]),
    Row("conv.weight",       Blocked("d_inner", "d_conv"),           &["mixer.short_conv.weight"]),
    Row("conv.bias",         Channels("d_inner"),           &["mixer.short_conv.bias | 0"]),
    Row("inner.q",           Matrix("d_key", "d_inner"),             &["mixer.q_proj.weight"]),
    Row("inner.k",           Matrix("d_key", "d_inner"),             &["mixer.k_proj.weight"]),
    Row("inner.gate",        Adapter("d_key", "d_inner"),     &["mixer.g_gate_proj.weight"]),
    Row("inner.gate.bias",   Vector("d_key"),                 &["mixer.g_gate_proj.bias"]),
    Row("inner.tau",         Adapter("d_key", "d_inner"),     &["mixer.tau_gate_proj.weight"]),
    Row("inner.tau.bias",    Vector("d_key"),                 &["mixer.tau_gate_proj.bias"]),
    Row("value_gate.a",      Adapter("rank_value_gate", "d_inner"),
        &["mixer.i_gate_proj.0.weight"]),
    Row("value_gate.b",      Adapter("d_inner", "rank_value_gate"),
        &["mixer.i_gate_proj.1.weight"]),
    Row("value_gate.bias",   Channels("d_inner"),             &["mixer.i_gate_proj.1.bias?"]),
    Row("residual",          Vector("d_inner"),               &["mixer.residual_weight"]),
    Row("out_norm.weight",   Vector("d_inner"),               &["mixer.activation_norm.weight"]),
    Row("out_proj",          Matrix("d_model", "d_inner"),           &["mixer.down_proj.weight"]),
];

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("norm.weight", Vector("d_model"),            &["ska_attn_norm.weight"]),
    Row("attn.q",      Matrix("n_attn_head*d_attn_head", "d_model"), &["ska_attn.q_proj.weight"]),
    Row("attn.k",      Matrix("d_attn_head", "d_model"),             &["ska_attn.k_proj.weight"]),
    Row("attn.v",      Matrix("n_kv_head*d_attn_head", "d_model"),   &["ska_attn.v_proj.weight"]),
    Row("attn.q.bias", Channels("n_attn_head*d_attn_head"),          &["ska_attn.q_proj.bias?"]),
    Row("attn.k.bias", Channels("d_attn_head"),                      &["ska_attn.k_proj.bias?"]),
    Row("attn.v.bias", Channels("n_kv_head*d_attn_head"),            &["ska_attn.v_proj.bias?"]),
    Row("attn.rope",   Vector("n_rot // 2"),                   &["rope({rope_base}, {n_rot})"]),
    Row("attn.out",    Matrix("d_model", "n_attn_head*d_attn_head"), &["ska_attn.o_proj.weight"]),
];

#[rustfmt::skip]
const QK_NORM: &[Row] = &[
    Row("attn.q_norm.weight", Vector("d_attn_head"), &["ska_attn.q_norm.weight"]),
    Row("attn.k_norm.weight", Vector("d_attn_head"), &["ska_attn.k_norm.weight"]),
];
