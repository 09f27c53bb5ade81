//! OLMo-Hybrid checkpoints of Hugging Face.
//!
//! Layers with a delta rule norm their inputs, those with attention their outputs; q and k are
//! normed before heads are cut. Names of norms are those of released files, or those that
//! transformers has in memory; convolutions stand one behind the other wherever files cut them.
//! Layout: SPEC.md, "Hybrids". Test: `tests/parity_hybrid.rs`.

use super::hybrid::{N_ATTN_HEAD, N_CONTEXT, N_KV_HEAD, N_LAYER, N_VOCAB};
use super::pairs;
use crate::convert::table::Kind::{Flag, Inner, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Kind, Layers, Layout, Param, Row, Spelling};

pub(super) const OLMO_HYBRID: Architecture = Architecture {
    name: "olmo_hybrid",
    title: "OLMo-Hybrid",
    model_types: &["olmo_hybrid"],
    layouts: &[Layout::new(&["layers.0.mlp.gate_proj.weight"], "layers.", 0).spelled(&BODY)],
    hyper: HYPER,
    checks: &["n_head % n_key_head = 0", "n_attn_head % n_kv_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, NETWORK),
        (Layers::Word("layer_types", "delta"), DELTA),
        (Layers::Word("layer_types", "attention"), ATTENTION),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

const BODY: Spelling = Spelling { body: "model.", parts: &[] };
const KINDS: Kind = Words(&[("linear_attention", "delta"), ("full_attention", "attention")]);
const NORMS: Kind = Words(&[("linear_attention", "before"), ("full_attention", "after")]);

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("layer_types",   "the kinds of the layers",       KINDS,
        &["config.layer_types | interval(4)"]),
    Param("norms",         "the places of the norms",       NORMS,
        &["config.layer_types | interval(4)"]),
    Param("norm_eps",      "the norms' epsilon",            Number, &["config.rms_norm_eps"]),
    Param("out_norm_eps",  "the heads' norm's epsilon",     Number, &["1e-5"]),
    Param("activation",    "the activation",                OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    N_CONTEXT,
    N_VOCAB,
    Param("d_model",       "the width",                     Size,   &["config.hidden_size"]),
    Param("d_ff",          "the network's width",           Size,   &[]),
    N_ATTN_HEAD,
    N_KV_HEAD,
    Param("d_attn_head",   "the size of an attention head", Size,   &["d_model // n_attn_head"]),
    Param("has_qk_norm",   "whether q and k are normed",    Flag,   &["true"]),
    Param("whole_qk_norm", "whether all heads together",    Flag,   &["true"]),
    Param("n_rot",         "channels that turn",            Size,
        &["d_attn_head if config.rope_parameters?"]),
    Param("rope_base",     "the base of the frequencies",   Number,
        &["config.rope_parameters.rope_theta?"]),
    Param("rope_type",     "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.rope_type?"]),
    Param("n_head",        "the number of delta heads",     Size,
        &["config.linear_num_value_heads | n_attn_head"]),
    Param("n_key_head",    "the number of heads of keys",   Size,
        &["config.linear_num_key_heads | n_attn_head"]),
    Param("d_key",         "the size of a head of keys",    Size,
        &["config.linear_key_head_dim | 3*d_model // (4*n_key_head)"]),
    Param("d_head",        "the size of a head of values",  Size,
        &["config.linear_value_head_dim | 2*d_key"]),
    Param("d_conv",        "the convolution's width",       Size,
        &["config.linear_conv_kernel_dim | 4"]),
    Param("d_qkv",         "channels of the convolution",   Inner,
        &["2*n_key_head*d_key + n_head*d_head"]),
    Param("has_gate",      "whether y is gated",            Flag,   &["true"]),
    Param("negative_eigenvalues", "whether eigenvalues may be negative", Flag,
        &["config.linear_allow_neg_eigval | true"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["embed_tokens.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp.gate", Matrix("d_ff", "d_model"), &["mlp.gate_proj.weight"]),
    Row("mlp.up",   Matrix("d_ff", "d_model"), &["mlp.up_proj.weight"]),
    Row("mlp.down", Matrix("d_model", "d_ff"), &["mlp.down_proj.weight"]),
];

const QKV: &str = "linear_attn.q_proj.weight; linear_attn.k_proj.weight; linear_attn.v_proj.weight";
const TAPS: &str = "linear_attn.q_conv1d.weight; linear_attn.k_conv1d.weight; \
    linear_attn.v_conv1d.weight | linear_attn.conv1d.weight";

#[rustfmt::skip]
const DELTA: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),
        &["attention_layer_norm.weight | input_layernorm.weight"]),
    Row("mlp_norm.weight", Vector("d_model"),
        &["feedforward_layer_norm.weight | post_attention_layernorm.weight"]),
    Row("in_proj.qkv",     Matrix("d_qkv", "d_model"),         &[QKV]),
    Row("in_proj.z",       Matrix("n_head*d_head", "d_model"), &["linear_attn.g_proj.weight"]),
    Row("in_proj.beta",    Adapter("n_head", "d_model"),       &["linear_attn.b_proj.weight"]),
    Row("in_proj.dt",      Adapter("n_head", "d_model"),       &["linear_attn.a_proj.weight"]),
    Row("dt_bias",         Vector("n_head"),                   &["linear_attn.dt_bias"]),
    Row("A",               Vector("n_head"),                   &["-exp(linear_attn.A_log)"]),
    Row("conv.weight",     Blocked("d_qkv", "d_conv"),         &[TAPS]),
    Row("conv.bias",       Channels("d_qkv"),                  &["0"]),
    Row("out_norm.weight", Vector("d_head"),                   &["linear_attn.o_norm.weight"]),
    Row("out_proj",        Matrix("d_model", "n_head*d_head"), &["linear_attn.o_proj.weight"]),
];

/// transformers 5.24 writes one of the norms under the name that it has in other layers.
#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("post_norm.weight",     Vector("d_model"),
        &["post_attention_layernorm.weight | feedforward_layer_norm.weight"]),
    Row("mlp_post_norm.weight", Vector("d_model"),    &["post_feedforward_layernorm.weight"]),
    Row("attn.q",               Matrix("n_attn_head*d_attn_head", "d_model"),
        &["self_attn.q_proj.weight"]),
    Row("attn.k",               Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.k_proj.weight"]),
    Row("attn.v",               Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.v_proj.weight"]),
    Row("attn.q_norm.weight",   Vector("n_attn_head*d_attn_head"),
        &["self_attn.q_norm.weight"]),
    Row("attn.k_norm.weight",   Vector("n_kv_head*d_attn_head"),
        &["self_attn.k_norm.weight"]),
    Row("attn.rope",            Vector("n_rot // 2"),
        &["rope({rope_base}, {n_rot}) if config.rope_parameters?"]),
    Row("attn.out",             Matrix("d_model", "n_attn_head*d_attn_head"),
        &["self_attn.o_proj.weight"]),
];
