//! Shared by hybrids of Mamba-2 and attention: the lines of their tables that do not
//! differ. Names are those of transformers' Bamba, and GGUF's. Layout: SPEC.md, "Hybrids".

use crate::convert::table::Kind::{Inner, Limits, Number, Size, Words};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Matrix, Vector};
use crate::convert::table::{Kind, Param, Row};

/// Kinds of layers: the names that transformers writes, those of released files, and one letter
/// each in Nemotron-H's.
pub(super) const KINDS: Kind = Words(&[
    ("linear_attention", "mamba2"),
    ("mamba", "mamba2"),
    ("M", "mamba2"),
    ("full_attention", "attention"),
    ("attention", "attention"),
    ("*", "attention"),
    ("mlp", "mlp"),
    ("-", "mlp"),
    ("moe", "experts"),
    ("E", "experts"),
]);

/// Kinds of the networks behind mixers, where layers differ.
pub(super) const NETWORKS: Kind = Words(&[("mlp", "mlp"), ("experts", "experts")]);

#[rustfmt::skip]
pub(super) const N_LAYER: Param = Param("n_layer", "the number of layers", Size,
    &["config.num_hidden_layers | layers()", "gguf.block_count"]);
#[rustfmt::skip]
pub(super) const N_CONTEXT: Param = Param("n_context", "the longest text", Size,
    &["config.max_position_embeddings", "gguf.context_length"]);
pub(super) const N_VOCAB: Param = Param("n_vocab", "rows of the embedding", Size, &[]);
pub(super) const D_MODEL: Param =
    Param("d_model", "the width", Size, &["config.hidden_size", "gguf.embedding_length"]);
#[rustfmt::skip]
pub(super) const N_CONV: Param = Param("n_conv", "channels of the convolution", Inner,
    &["d_inner + 2*n_group*d_state", "d_inner + 2*n_group*d_state"]);
pub(super) const DT: Param =
    Param("dt", "the limits of dt", Limits, &["config.time_step_limit?", ""]);
#[rustfmt::skip]
pub(super) const N_ATTN_HEAD: Param = Param("n_attn_head", "the number of attention heads", Size,
    &["config.num_attention_heads", "gguf.attention.head_count"]);
#[rustfmt::skip]
pub(super) const N_KV_HEAD: Param = Param("n_kv_head", "heads of keys and values", Size, &[
    "config.num_key_value_heads | n_attn_head",
    "largest(gguf.attention.head_count_kv) | gguf.attention.head_count_kv",
]);
#[rustfmt::skip]
pub(super) const D_ATTN_HEAD: Param = Param("d_attn_head", "the size of an attention head", Size, &[
    "config.head_dim | d_model // n_attn_head",
    "gguf.attention.key_length | d_model // n_attn_head",
]);
pub(super) const ROPE_BASE: Param = Param(
    "rope_base",
    "the base of the frequencies",
    Number,
    &["config.rope_parameters.rope_theta | config.rope_theta | 10000"],
);

/// The parts of what Mamba-2 reads: z, the convolution's input, dt.
const Z: &str = "mamba.in_proj.weight[0 of d_inner, n_conv, n_head]";
const XBC: &str = "mamba.in_proj.weight[1 of d_inner, n_conv, n_head]";
const STEP: &str = "mamba.in_proj.weight[2 of d_inner, n_conv, n_head]";
const DT_BIAS: &str =
    "mamba.dt_bias + mamba.in_proj.bias[2 of d_inner, n_conv, n_head] | mamba.dt_bias";
const GGUF_Z: &str = "ssm_in.weight[0 of d_inner, n_conv, n_head]";
const GGUF_XBC: &str = "ssm_in.weight[1 of d_inner, n_conv, n_head]";
const GGUF_STEP: &str = "ssm_in.weight[2 of d_inner, n_conv, n_head]";

#[rustfmt::skip]
pub(super) const MIXER: &[Row] = &[
    Row("norm.weight",       Vector("d_model"),
        &["input_layernorm.weight", "attn_norm.weight"]),
    Row("in_proj.z",         Matrix("d_inner", "d_model"), &[Z, GGUF_Z]),
    Row("in_proj.z.bias",    Channels("d_inner"),
        &["mamba.in_proj.bias[0 of d_inner, n_conv, n_head]?", ""]),
    Row("in_proj.xbc",       Matrix("n_conv", "d_model"),  &[XBC, GGUF_XBC]),
    Row("in_proj.xbc.bias",  Channels("n_conv"),
        &["mamba.in_proj.bias[1 of d_inner, n_conv, n_head]?", ""]),
    Row("in_proj.dt",        Adapter("n_head", "d_model"), &[STEP, GGUF_STEP]),
    Row("dt_bias",           Vector("n_head"),             &[DT_BIAS, "ssm_dt.bias"]),
    Row("conv.weight",       Blocked("n_conv", "d_conv"),
        &["mamba.conv1d.weight", "ssm_conv1d.weight"]),
    Row("conv.bias",         Channels("n_conv"),
        &["mamba.conv1d.bias | 0", "ssm_conv1d.bias | 0"]),
    Row("A",                 Vector("n_head"),             &["-exp(mamba.A_log)", "ssm_a"]),
    Row("D",                 Vector("n_head"),             &["mamba.D", "ssm_d"]),
    Row("gated_norm.weight", Vector("d_inner"),
        &["mamba.norm.weight", "ssm_norm.weight"]),
];

/// Behind the norm: attention without rotary positions.
#[rustfmt::skip]
pub(super) const ATTENTION: &[Row] = &[
    Row("norm.weight", Vector("d_model"),
        &["input_layernorm.weight", "attn_norm.weight"]),
    Row("attn.q",      Matrix("n_attn_head*d_attn_head", "d_model"),
        &["self_attn.q_proj.weight", "attn_q.weight"]),
    Row("attn.k",      Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.k_proj.weight", "attn_k.weight"]),
    Row("attn.v",      Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.v_proj.weight", "attn_v.weight"]),
];

/// The output of a mixer, where no multiplier is folded into it.
#[rustfmt::skip]
pub(super) const MIXER_OUT: &[Row] = &[
    Row("out_proj",      Matrix("d_model", "d_inner"),
        &["mamba.out_proj.weight", "ssm_out.weight"]),
    Row("out_proj.bias", Vector("d_model"),            &["mamba.out_proj.bias?", ""]),
];

#[rustfmt::skip]
pub(super) const ATTENTION_OUT: &[Row] = &[
    Row("attn.out", Matrix("d_model", "n_attn_head*d_attn_head"),
        &["self_attn.o_proj.weight", "attn_output.weight"]),
];

pub(super) const ROPE: &[Row] =
    &[Row("attn.rope", Vector("n_rot // 2"), &["rope({rope_base}, {n_rot})"])];
