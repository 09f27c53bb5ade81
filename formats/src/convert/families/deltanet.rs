//! DeltaNet and Gated DeltaNet checkpoints of flash-linear-attention.
//!
//! Projections in front of the convolution are one matrix here, and so are their taps. Layout:
//! SPEC.md, "DeltaNet". Test: `tests/parity_delta.rs`.

use crate::convert::table::Kind::{Flag, Inner, Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const DELTANET: Architecture = Architecture {
    name: "deltanet",
    title: "DeltaNet",
    model_types: &["delta_net"],
    layouts: &[LAYOUT],
    hyper: &hyper(&["config.num_heads"], &["n_head"]),
    checks: &["d_qkv = 2*n_key_head*d_key + n_head*d_head", "n_head % n_key_head = 0"],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER), (Layers::If("has_gate"), GATE), (Layers::All, MLP)],
    ignored: &[],
};

pub(super) const GATED_DELTANET: Architecture = Architecture {
    name: "gated_deltanet",
    title: "Gated DeltaNet",
    model_types: &["gated_deltanet"],
    layouts: &[LAYOUT],
    hyper: &hyper(&["first(attn.A_log)"], &["config.num_heads | n_head"]),
    layers: &[
        (Layers::All, LAYER),
        (Layers::All, DECAY),
        (Layers::If("has_gate"), GATE),
        (Layers::All, MLP),
    ],
    ..DELTANET
};

/// The one layout, by two tensors of its first layer.
const LAYOUT: Layout = Layout::new(
    &["model.layers.0.attn.b_proj.weight & model.layers.0.attn.k_conv1d.weight"],
    "model.layers.",
    0,
);

/// Heads of keys and of values may differ in number where a decay tells that of values.
#[rustfmt::skip]
const fn hyper(n_head: &'static [&'static str], n_key_head: &'static [&'static str]) -> [Param; 20] {
    [
        Param("n_layer",       "the number of layers",         Size,                      &["config.num_hidden_layers | layers()"]),
        Param("norm_eps",      "the norms' epsilon",           Number,                    &["config.norm_eps | 1e-6"]),
        Param("out_norm_eps",  "the heads' norm's epsilon",    Number,                    &["norm_eps"]),
        Param("activation",    "the activation",               OneOf(&["silu", "swish"]), &["config.hidden_act?"]),
        Param("gate",          "the gate's activation",        OneOf(&["silu", "swish"]), &["config.output_gate_activation?"]),
        Param("qk_activation", "the activation of q and k",    OneOf(&["silu"]),          &["config.qk_activation?"]),
        Param("qk_norm",       "the norm of q and k",          OneOf(&["l2"]),            &["config.qk_norm?"]),
        Param("n_vocab",       "rows of the embedding",        Size,                      &[]),
        Param("d_model",       "the width",                    Size,                      &[]),
        Param("d_ff",          "the network's width",          Size,                      &[]),
        Param("d_conv",        "the convolution's width",      Size,                      &["last(attn.q_conv1d.weight)"]),
        Param("n_head",        "the number of heads",          Size,                      n_head),
        Param("n_key_head",    "the number of heads of keys",  Size,                      n_key_head),
        Param("d_keys",        "the width of keys",            Inner,                     &["first(attn.k_proj.weight)"]),
        Param("d_values",      "the width of values",          Inner,                     &["first(attn.v_proj.weight)"]),
        Param("d_qkv",         "channels of the convolution",  Inner,                     &["2*d_keys + d_values"]),
        Param("d_key",         "the size of a head of keys",   Size,                      &["d_keys // n_key_head"]),
        Param("d_head",        "the size of a head of values", Size,                      &["d_values // n_head"]),
        Param("has_gate",      "whether y is gated",           Flag,                      &["has(attn.g_proj.weight)"]),
        Param("negative_eigenvalues", "whether eigenvalues may be negative", Flag,        &["config.allow_neg_eigval | false"]),
    ]
}

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["model.embeddings.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["model.norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),                        &["attn_norm.weight"]),
    Row("in_proj.qkv",     Matrix("d_qkv", "d_model"),               &["attn.q_proj.weight; attn.k_proj.weight; attn.v_proj.weight"]),
    Row("in_proj.beta",    Adapter("n_head", "d_model"),             &["attn.b_proj.weight"]),
    Row("conv.weight",     Blocked("d_qkv", "d_conv"),               &["attn.q_conv1d.weight; attn.k_conv1d.weight; attn.v_conv1d.weight"]),
    Row("conv.bias",       Channels("d_qkv"),                        &["0"]),
    Row("out_norm.weight", Vector("d_head"),                         &["attn.o_norm.weight"]),
    Row("out_proj",        Matrix("d_model", "n_head*d_head"),       &["attn.o_proj.weight"]),
];

/// A is negative, as Mamba-2's.
#[rustfmt::skip]
const DECAY: &[Row] = &[
    Row("in_proj.dt", Adapter("n_head", "d_model"), &["attn.a_proj.weight"]),
    Row("dt_bias",    Vector("n_head"),             &["attn.dt_bias"]),
    Row("A",          Vector("n_head"),             &["-exp(attn.A_log)"]),
];

const GATE: &[Row] =
    &[Row("in_proj.z", Matrix("n_head*d_head", "d_model"), &["attn.g_proj.weight"])];

#[rustfmt::skip]
const MLP: &[Row] = &[
    Row("mlp_norm.weight", Vector("d_model"),         &["mlp_norm.weight"]),
    Row("mlp.gate",        Matrix("d_ff", "d_model"), &["mlp.gate_proj.weight"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"), &["mlp.up_proj.weight"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"), &["mlp.down_proj.weight"]),
];
