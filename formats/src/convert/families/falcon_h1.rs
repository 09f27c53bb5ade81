//! Falcon-H1 checkpoints: Hugging Face, GGUF.
//!
//! Each layer has Mamba-2 and attention side by side, on the same input. All multipliers are folded
//! into matrices; the head is therefore stored apart from the embedding. llama.cpp's converter has
//! done so already, but for the head of a file without one, whose logits are off by a factor in
//! llama.cpp, too. Layout: SPEC.md, "Hybrids". Test: `tests/parity_hybrid.rs`.

use super::hybrid::{
    D_ATTN_HEAD, D_MODEL, DT, N_ATTN_HEAD, N_CONTEXT, N_CONV, N_KV_HEAD, N_LAYER, N_VOCAB,
};
use super::pairs;
use crate::convert::table::Kind::{Factor, Flag, Inner, Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling};

pub(super) const FALCON_H1: Architecture = Architecture {
    name: "falcon_h1",
    title: "Falcon-H1",
    model_types: &["falcon_h1", "falcon-h1"],
    layouts: &[
        Layout::new(&["layers.0.pre_ff_layernorm.weight"], "layers.", 0).spelled(&BODY),
        Layout::new(&["blk.0.ssm_in.weight"], "blk.", 1),
    ],
    hyper: HYPER,
    checks: &["d_inner % n_head = 0", "n_head % n_group = 0", "n_attn_head % n_kv_head = 0"],
    trunk: TRUNK,
    layers: &[(Layers::All, MIXER), (Layers::All, ATTENTION), (Layers::All, NETWORK)],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

const BODY: Spelling = Spelling { body: "model.", parts: &[] };

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("norm_eps",    "the norms' epsilon",            Number,
        &["config.rms_norm_eps", "gguf.attention.layer_norm_rms_epsilon"]),
    Param("activation",  "the activation",                OneOf(&["silu", "swish"]),
        &["config.hidden_act?", ""]),
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    Param("d_ff",        "the network's width",           Size,   &[]),
    Param("n_head",      "the number of heads",           Size,
        &["config.mamba_n_heads", "first(ssm_a)"]),
    Param("d_inner",     "the width inside",              Size,
        &["config.mamba_d_ssm | config.mamba_expand*d_model", "gguf.ssm.inner_size"]),
    Param("d_head",      "the head size",                 Size,   &["d_inner // n_head"]),
    Param("d_conv",      "the convolution's width",       Size,
        &["config.mamba_d_conv", "gguf.ssm.conv_kernel"]),
    Param("d_state",     "the state's size",              Size,
        &["config.mamba_d_state", "gguf.ssm.state_size"]),
    Param("n_group",     "the number of groups",          Size,
        &["config.mamba_n_groups", "gguf.ssm.group_count"]),
    N_CONV,
    Param("n_b",         "rows of B",                     Inner,  &["n_group*d_state"]),
    DT,
    Param("norm_before_gate", "whether the norm stands before the gate", Flag,
        &["config.mamba_norm_before_gate | false", "false"]),
    N_ATTN_HEAD,
    N_KV_HEAD,
    D_ATTN_HEAD,
    Param("n_rot",       "channels that turn",            Size,   &["d_attn_head"]),
    Param("rope_base",   "the base of the frequencies",   Number, &[
        "config.rope_parameters.rope_theta | config.rope_theta | 10000",
        "gguf.rope.freq_base",
    ]),
    Param("rope_type",   "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.rope_type | config.rope_scaling.rope_type?", ""]),
    Param("m_embed",     "the embedding's multiplier",    Factor,
        &["config.embedding_multiplier | 1", ""]),
    Param("m_head",      "the head's multiplier",         Factor,
        &["config.lm_head_multiplier | 1", ""]),
    Param("m_in",        "the multiplier of Mamba-2's input", Factor,
        &["config.ssm_in_multiplier | 1", ""]),
    Param("m_z",         "the multiplier of z",           Factor,
        &["m_in*config.ssm_multipliers.0 | m_in", ""]),
    Param("m_x",         "the multiplier of x",           Factor,
        &["m_in*config.ssm_multipliers.1 | m_in", ""]),
    Param("m_b",         "the multiplier of B",           Factor,
        &["m_in*config.ssm_multipliers.2 | m_in", ""]),
    Param("m_c",         "the multiplier of C",           Factor,
        &["m_in*config.ssm_multipliers.3 | m_in", ""]),
    Param("m_dt",        "the multiplier of dt",          Factor,
        &["m_in*config.ssm_multipliers.4 | m_in", ""]),
    Param("m_ssm_out",   "Mamba-2's multiplier",          Factor,
        &["config.ssm_out_multiplier | 1", ""]),
    Param("m_attn_in",   "the multiplier of q, k, v",     Factor,
        &["config.attention_in_multiplier | 1", ""]),
    Param("m_key",       "the multiplier of k",           Factor,
        &["config.key_multiplier | 1", ""]),
    Param("m_attn_out",  "attention's multiplier",        Factor,
        &["config.attention_out_multiplier | 1", ""]),
    Param("m_gate",      "the multiplier of the gate",    Factor,
        &["config.mlp_multipliers.0 | 1", ""]),
    Param("m_down",      "the network's multiplier",      Factor,
        &["config.mlp_multipliers.1 | 1", ""]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"),
        &["{m_embed} * embed_tokens.weight", "token_embd.weight"]),
    Row("norm_f.weight", Vector("d_model"), &["final_layernorm.weight", "output_norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"), &[
        "{m_head} * lm_head.weight | {m_head} * embed_tokens.weight",
        "output.weight?",
    ]),
];

const XBC: &str = "{m_x} * mamba.in_proj.weight[1 of d_inner, d_inner, n_b, n_b, n_head]; \
    {m_b} * mamba.in_proj.weight[2 of d_inner, d_inner, n_b, n_b, n_head]; \
    {m_c} * mamba.in_proj.weight[3 of d_inner, d_inner, n_b, n_b, n_head]";

#[rustfmt::skip]
const MIXER: &[Row] = &[
    Row("norm.weight",       Vector("d_model"),
        &["input_layernorm.weight", "attn_norm.weight"]),
    Row("in_proj.z",         Matrix("d_inner", "d_model"), &[
        "{m_z} * mamba.in_proj.weight[0 of d_inner, n_conv, n_head]",
        "ssm_in.weight[0 of d_inner, n_conv, n_head]",
    ]),
    Row("in_proj.xbc",       Matrix("n_conv", "d_model"),
        &[XBC, "ssm_in.weight[1 of d_inner, n_conv, n_head]"]),
    Row("in_proj.dt",        Adapter("n_head", "d_model"), &[
        "{m_dt} * mamba.in_proj.weight[2 of d_inner, n_conv, n_head]",
        "ssm_in.weight[2 of d_inner, n_conv, n_head]",
    ]),
    Row("dt_bias",           Vector("n_head"),             &["mamba.dt_bias", "ssm_dt.bias"]),
    Row("conv.weight",       Blocked("n_conv", "d_conv"),
        &["mamba.conv1d.weight", "ssm_conv1d.weight"]),
    Row("conv.bias",         Channels("n_conv"),
        &["mamba.conv1d.bias | 0", "ssm_conv1d.bias | 0"]),
    Row("A",                 Vector("n_head"),             &["-exp(mamba.A_log)", "ssm_a"]),
    Row("D",                 Vector("n_head"),             &["mamba.D", "ssm_d"]),
    Row("gated_norm.weight", Vector("d_inner"),
        &["mamba.norm.weight if config.mamba_rms_norm?", "ssm_norm.weight?"]),
    Row("out_proj",          Matrix("d_model", "d_inner"),
        &["{m_ssm_out} * mamba.out_proj.weight", "ssm_out.weight"]),
];

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("attn.q",    Matrix("n_attn_head*d_attn_head", "d_model"),
        &["{m_attn_in} * self_attn.q_proj.weight", "attn_q.weight"]),
    Row("attn.k",    Matrix("n_kv_head*d_attn_head", "d_model"),
        &["{m_attn_in*m_key} * self_attn.k_proj.weight", "attn_k.weight"]),
    Row("attn.v",    Matrix("n_kv_head*d_attn_head", "d_model"),
        &["{m_attn_in} * self_attn.v_proj.weight", "attn_v.weight"]),
    Row("attn.rope", Vector("n_rot // 2"), &["rope({rope_base}, {n_rot})"]),
    Row("attn.out",  Matrix("d_model", "n_attn_head*d_attn_head"),
        &["{m_attn_out} * self_attn.o_proj.weight", "attn_output.weight"]),
];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp_norm.weight", Vector("d_model"),
        &["pre_ff_layernorm.weight", "ffn_norm | ffn_norm.weight"]),
    Row("mlp.gate",        Matrix("d_ff", "d_model"),
        &["{m_gate} * feed_forward.gate_proj.weight", "ffn_gate.weight"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"),
        &["feed_forward.up_proj.weight", "ffn_up.weight"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"),
        &["{m_down} * feed_forward.down_proj.weight", "ffn_down.weight"]),
];
