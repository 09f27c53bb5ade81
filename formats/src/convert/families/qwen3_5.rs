//! Qwen3.5 checkpoints: Hugging Face's of the text model alone, and of the one that sees, too;
//! GGUF.
//!
//! Norms are stored around zero there (x · (1 + w)), but for the heads' behind the delta rule. A
//! query and its gate stand side by side in each head. llama.cpp's converter adds the 1 to norms,
//! and turns the order of value heads: head h reads key head h mod n_key_head there (`is_tiled`).
//! Layout: SPEC.md, "Qwen3.5". Test: `tests/parity_hybrid.rs`.

use super::pairs;
use crate::convert::table::Kind::{Flag, Inner, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Kind, Layers, Layout, Param, Row, Spelling, joined};

pub(super) const QWEN3_5: Architecture = Architecture {
    name: "qwen3_5",
    title: "Qwen3.5",
    model_types: &["qwen3_5", "qwen3_5_text", "qwen35"],
    layouts: LAYOUTS,
    hyper: &joined::<{ HYPER.len() + TILED.len() }>(HYPER, TILED),
    checks: CHECKS,
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORMS),
        (Layers::All, MLP),
        (Layers::Word("layer_types", "delta"), DELTA_IN),
        (Layers::Word("layer_types", "delta"), DELTA),
        (Layers::Word("layer_types", "attention"), ATTENTION),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::VALUES, pairs::NETWORK],
    ignored: IGNORED,
};

pub(super) const CHECKS: &[&str] =
    &["d_qkv = 2*n_key_head*d_key + n_head*d_head", "n_head % n_key_head = 0"];
/// Heads that predict further tokens, and the part that sees.
pub(super) const IGNORED: &[&str] = &["mtp.", "model.mtp.", "model.visual."];
const MARK: &[&str] = &["layers.0.linear_attn.in_proj_qkv.weight"];
pub(super) const TEXT: Spelling = Spelling { body: "model.", parts: &[] };
pub(super) const SEEING: Spelling = Spelling { body: "model.language_model.", parts: &[] };
pub(super) const LAYOUTS: &[Layout] = &[
    Layout::new(MARK, "layers.", 0).spelled(&SEEING),
    Layout::new(MARK, "layers.", 0).spelled(&TEXT),
    Layout::new(&["blk.0.attn_qkv.weight"], "blk.", 1),
];

const KINDS: Kind = Words(&[("linear_attention", "delta"), ("full_attention", "attention")]);
pub(super) const TURNING: &str = "config.rope_parameters.partial_rotary_factor*d_attn_head // 1 \
    | config.partial_rotary_factor*d_attn_head // 1 | d_attn_head // 4";

pub(super) const HYPER: &[Param] = &joined::<{ HEADS.len() + OWN.len() }>(HEADS, OWN);

/// Of all that have such heads: its relatives, too.
#[rustfmt::skip]
pub(super) const HEADS: &[Param] = &[
    Param("n_layer",       "the number of layers",          Size,
        &["config.num_hidden_layers | layers()", "gguf.block_count"]),
    Param("norm_eps",      "the norms' epsilon",            Number,
        &["config.rms_norm_eps", "gguf.attention.layer_norm_rms_epsilon"]),
    Param("out_norm_eps",  "the heads' norm's epsilon",     Number, &["norm_eps", "norm_eps"]),
    Param("activation",    "the activation",                OneOf(&["silu", "swish"]),
        &["config.hidden_act?", ""]),
    Param("n_context",     "the longest text",              Size,
        &["config.max_position_embeddings", "gguf.context_length"]),
    Param("n_vocab",       "rows of the embedding",         Size,   &[]),
    Param("d_model",       "the width",                     Size,   &[]),
    Param("d_ff",          "the network's width",           Size,   &[]),
    Param("n_head",        "the number of delta heads",     Size,
        &["first(linear_attn.A_log)", "first(ssm_a)"]),
    Param("n_key_head",    "the number of heads of keys",   Size,
        &["config.linear_num_key_heads", "gguf.ssm.group_count"]),
    Param("d_head",        "the size of a head of values",  Size,
        &["config.linear_value_head_dim", "last(ssm_norm.weight)"]),
    Param("d_key",         "the size of a head of keys",    Size,
        &["config.linear_key_head_dim", "gguf.ssm.state_size"]),
    Param("d_qkv",         "channels of the convolution",   Inner,
        &["first(linear_attn.conv1d.weight)", "first(ssm_conv1d.weight)"]),
    Param("d_conv",        "the convolution's width",       Size,
        &["last(linear_attn.conv1d.weight)", "last(ssm_conv1d.weight)"]),
    Param("has_gate",      "whether y is gated",            Flag,   &["true", "true"]),
    Param("n_attn_head",   "the number of attention heads", Size,
        &["config.num_attention_heads", "gguf.attention.head_count"]),
    Param("n_kv_head",     "heads of keys and values",      Size, &[
        "config.num_key_value_heads",
        "gguf.attention.head_count_kv | largest(gguf.attention.head_count_kv)",
    ]),
    Param("d_attn_head",   "the size of an attention head", Size,
        &["config.head_dim | 256", "gguf.attention.key_length"]),
    Param("rope_base",     "the base of the frequencies",   Number,
        &["config.rope_parameters.rope_theta | config.rope_theta", "gguf.rope.freq_base"]),
    Param("rope_type",     "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.rope_type | config.rope_scaling.rope_type?", ""]),
    Param("has_qk_norm",   "whether q and k are normed",    Flag,   &["true", "true"]),
];

#[rustfmt::skip]
const OWN: &[Param] = &[
    Param("layer_types",   "the kinds of the layers",       KINDS, &[
        "config.layer_types | interval(config.full_attention_interval) | interval(4)",
        "where(attn_qkv.weight, linear_attention, full_attention)",
    ]),
    Param("n_rot",         "channels that turn",            Size,
        &[TURNING, "gguf.rope.dimension_count"]),
    Param("has_attn_gate", "whether attention is gated",    Flag,   &["true", "true"]),
];

pub(super) const TILED: &[Param] =
    &[Param("is_tiled", "whether heads are tiled", Flag, &["false", "true"])];

#[rustfmt::skip]
pub(super) const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"),
        &["embed_tokens.weight", "token_embd.weight"]),
    Row("norm_f.weight", Vector("d_model"),
        &["1 + norm.weight", "output_norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?", "output.weight?"]),
];

#[rustfmt::skip]
pub(super) const NORMS: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),
        &["1 + input_layernorm.weight", "attn_norm.weight"]),
    Row("mlp_norm.weight", Vector("d_model"),
        &["1 + post_attention_layernorm.weight", "post_attention_norm.weight"]),
];

#[rustfmt::skip]
pub(super) const MLP: &[Row] = &[
    Row("mlp.gate",        Matrix("d_ff", "d_model"), &["mlp.gate_proj.weight", "ffn_gate.weight"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"), &["mlp.up_proj.weight", "ffn_up.weight"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"), &["mlp.down_proj.weight", "ffn_down.weight"]),
];

#[rustfmt::skip]
pub(super) const DELTA_IN: &[Row] = &[
    Row("in_proj.qkv",     Matrix("d_qkv", "d_model"),
        &["linear_attn.in_proj_qkv.weight", "attn_qkv.weight"]),
    Row("in_proj.z",       Matrix("n_head*d_head", "d_model"),
        &["linear_attn.in_proj_z.weight", "attn_gate.weight"]),
    Row("in_proj.beta",    Adapter("n_head", "d_model"),
        &["linear_attn.in_proj_b.weight", "ssm_beta.weight"]),
    Row("in_proj.dt",      Adapter("n_head", "d_model"),
        &["linear_attn.in_proj_a.weight", "ssm_alpha.weight"]),
];

#[rustfmt::skip]
pub(super) const DELTA: &[Row] = &[
    Row("dt_bias",         Vector("n_head"),
        &["linear_attn.dt_bias", "ssm_dt.bias"]),
    Row("A",               Vector("n_head"),
        &["-exp(linear_attn.A_log)", "ssm_a"]),
    Row("conv.weight",     Blocked("d_qkv", "d_conv"),
        &["linear_attn.conv1d.weight", "ssm_conv1d.weight"]),
    Row("conv.bias",       Channels("d_qkv"),                  &["0", "0"]),
    Row("out_norm.weight", Vector("d_head"),
        &["linear_attn.norm.weight", "ssm_norm.weight"]),
    Row("out_proj",        Matrix("d_model", "n_head*d_head"),
        &["linear_attn.out_proj.weight", "ssm_out.weight"]),
];

/// Rows of a query's projection: those of q, then of its gate, in each head.
const QUERY: &str = "self_attn.q_proj.weight[0 of d_attn_head, d_attn_head each n_attn_head]";
const GATE: &str = "self_attn.q_proj.weight[1 of d_attn_head, d_attn_head each n_attn_head]";

const GGUF_QUERY: &str = "attn_q.weight[0 of d_attn_head, d_attn_head each n_attn_head]";
const GGUF_GATE: &str = "attn_q.weight[1 of d_attn_head, d_attn_head each n_attn_head]";

#[rustfmt::skip]
pub(super) const ATTENTION: &[Row] = &[
    Row("attn.q",             Matrix("n_attn_head*d_attn_head", "d_model"), &[QUERY, GGUF_QUERY]),
    Row("attn.gate",          Matrix("n_attn_head*d_attn_head", "d_model"), &[GATE, GGUF_GATE]),
    Row("attn.k",             Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.k_proj.weight", "attn_k.weight"]),
    Row("attn.v",             Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.v_proj.weight", "attn_v.weight"]),
    Row("attn.q_norm.weight", Vector("d_attn_head"),
        &["1 + self_attn.q_norm.weight", "attn_q_norm.weight"]),
    Row("attn.k_norm.weight", Vector("d_attn_head"),
        &["1 + self_attn.k_norm.weight", "attn_k_norm.weight"]),
    Row("attn.rope",          Vector("n_rot // 2"),
        &["rope({rope_base}, {n_rot})", "rope({rope_base}, {n_rot})"]),
    Row("attn.out",           Matrix("d_model", "n_attn_head*d_attn_head"),
        &["self_attn.o_proj.weight", "attn_output.weight"]),
];
