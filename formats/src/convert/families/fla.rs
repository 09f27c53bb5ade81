//! Tables that checkpoints of flash-linear-attention share.

use crate::convert::table::Kind::{Flag, Number, OneOf, Size};
use crate::convert::table::Shape::{Blocked, Channels, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Param, Row};

pub(super) const N_LAYER: Param =
    Param("n_layer", "the number of layers", Size, &["config.num_hidden_layers | layers()"]);
pub(super) const NORM_EPS: Param =
    Param("norm_eps", "the norms' epsilon", Number, &["config.norm_eps | 1e-6"]);
pub(super) const ACTIVATION: Param =
    Param("activation", "the activation", OneOf(&["silu", "swish"]), &["config.hidden_act?"]);
/// Layers of softmax attention may stand among others; no table here has them.
pub(super) const NO_ATTENTION: Param =
    Param("attn", "the layers of softmax attention", OneOf(&["null"]), &["config.attn?"]);
pub(super) const N_VOCAB: Param = Param("n_vocab", "rows of the embedding", Size, &[]);
pub(super) const D_MODEL: Param = Param("d_model", "the width", Size, &[]);
pub(super) const D_FF: Param = Param("d_ff", "the network's width", Size, &[]);
pub(super) const N_HEAD: Param =
    Param("n_head", "the number of heads", Size, &["config.num_heads"]);
pub(super) const N_KEY_HEAD: Param =
    Param("n_key_head", "heads of keys and values", Size, &["config.num_kv_heads | n_head"]);
pub(super) const D_KEY: Param =
    Param("d_key", "the size of a head of keys", Size, &["first(attn.q_proj.weight) // n_head"]);
pub(super) const D_HEAD: Param = Param(
    "d_head",
    "the size of a head of values",
    Size,
    &["first(attn.v_proj.weight) // n_key_head"],
);
/// Heads may have convolutions in front of them.
pub(super) const HAS_CONV: Param = Param(
    "has_conv",
    "whether convolutions stand before heads",
    Flag,
    &["has(attn.q_conv1d.weight)"],
);
pub(super) const D_CONV: Param = Param("d_conv", "the convolution's width", Size, &[]);
pub(super) const HAS_GATE: Param = Param(
    "has_gate",
    "whether y is gated",
    Flag,
    &["has(attn.g_proj.weight, attn.g_proj.1.weight)"],
);

#[rustfmt::skip]
pub(super) const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["model.embeddings.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["model.norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

#[rustfmt::skip]
pub(super) const MLP: &[Row] = &[
    Row("mlp_norm.weight", Vector("d_model"),         &["mlp_norm.weight"]),
    Row("mlp.gate",        Matrix("d_ff", "d_model"), &["mlp.gate_proj.weight"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"), &["mlp.up_proj.weight"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"), &["mlp.down_proj.weight"]),
];

/// Projections of heads that may share keys and values.
#[rustfmt::skip]
pub(super) const QKV: &[Row] = &[
    Row("norm.weight", Vector("d_model"),                        &["attn_norm.weight"]),
    Row("in_proj.q",   Matrix("n_head*d_key", "d_model"),        &["attn.q_proj.weight"]),
    Row("in_proj.k",   Matrix("n_key_head*d_key", "d_model"),     &["attn.k_proj.weight"]),
    Row("in_proj.v",   Matrix("n_key_head*d_head", "d_model"),    &["attn.v_proj.weight"]),
    Row("out_proj",    Matrix("d_model", "n_head*d_head"),       &["attn.o_proj.weight"]),
];

/// Their convolutions, where they have some.
#[rustfmt::skip]
pub(super) const CONVOLUTIONS: &[Row] = &[
    Row("conv_q.weight", Blocked("n_head*d_key", "d_conv"),     &["attn.q_conv1d.weight"]),
    Row("conv_q.bias",   Channels("n_head*d_key"),              &["attn.q_conv1d.bias | 0"]),
    Row("conv_k.weight", Blocked("n_key_head*d_key", "d_conv"),  &["attn.k_conv1d.weight"]),
    Row("conv_k.bias",   Channels("n_key_head*d_key"),           &["attn.k_conv1d.bias | 0"]),
    Row("conv_v.weight", Blocked("n_key_head*d_head", "d_conv"), &["attn.v_conv1d.weight"]),
    Row("conv_v.bias",   Channels("n_key_head*d_head"),          &["attn.v_conv1d.bias | 0"]),
];

pub(super) const GATE: &[Row] =
    &[Row("in_proj.z", Matrix("n_head*d_head", "d_model"), &["attn.g_proj.weight"])];
