//! LFM3 checkpoints of Hugging Face: LFM2's with attention to windows, norms behind the blocks, and
//! a gate on every head.
//!
//! Layout: SPEC.md, "LFM3". Test: `tests/parity_hybrid.rs`.

use super::lfm2::{BODY, CONV, TRUNK};
use super::pairs;
use crate::convert::table::Kind::{Factor, Flag, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{Channels, Matrix, Vector};
use crate::convert::table::{Architecture, Kind, Layers, Layout, Param, Row};

pub(super) const LFM3: Architecture = Architecture {
    name: "lfm3",
    title: "LFM3",
    model_types: &["lfm3"],
    layouts: &[Layout::new(&["layers.0.operator_norm.weight"], "layers.", 0).spelled(&BODY)],
    hyper: HYPER,
    checks: &["default_share = 1", "sliding_share = 1"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, BLOCK),
        (Layers::If("has_post_norm"), POST_NORMS),
        (Layers::Word("layer_types", "conv"), CONV),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), FULL_ROPE),
        (Layers::Word("layer_types", "sliding_attention"), ATTENTION),
        (Layers::Word("layer_types", "sliding_attention"), SLIDING_ROPE),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::SHORT_CONV, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

const KINDS: Kind = Words(&[
    ("conv", "conv"),
    ("full_attention", "attention"),
    ("sliding_attention", "sliding_attention"),
]);

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",       "the number of layers",          Size,
        &["config.num_hidden_layers | layers()"]),
    Param("layer_types",   "the kinds of the layers",       KINDS,  &["config.layer_types"]),
    Param("window",        "the window of attention",       Size,   &["config.sliding_window?"]),
    Param("norm_eps",      "the norms' epsilon",            Number, &["config.norm_eps | 1e-5"]),
    Param("n_context",     "the longest text",              Size,
        &["config.max_position_embeddings | 128000"]),
    Param("n_vocab",       "rows of the embedding",         Size,   &[]),
    Param("d_model",       "the width",                     Size,   &["config.hidden_size"]),
    Param("d_ff",          "the network's width",           Size,
        &["first(feed_forward.w1.weight)"]),
    Param("d_conv",        "the convolution's width",       Size,
        &["config.conv_L_cache | last(conv.conv.weight)"]),
    Param("n_attn_head",   "the number of attention heads", Size,
        &["config.num_attention_heads"]),
    Param("n_kv_head",     "heads of keys and values",      Size,
        &["config.num_key_value_heads | n_attn_head"]),
    Param("d_attn_head",   "the size of an attention head", Size,
        &["config.head_dim | d_model // n_attn_head"]),
    Param("n_rot",         "channels that turn",            Size,   &["d_attn_head"]),
    Param("full_base",     "the base of the frequencies",   Factor,
        &["config.rope_parameters.full_attention.rope_theta | 1000000"]),
    Param("sliding_base",  "the base of the frequencies",   Factor,
        &["config.rope_parameters.sliding_attention.rope_theta | 10000"]),
    Param("full_type",     "the kind of rotary positions",  OneOf(&["default", "proportional"]),
        &["config.rope_parameters.full_attention.rope_type?"]),
    Param("sliding_type",  "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.sliding_attention.rope_type?"]),
    // The share of pairs that turn, where the frequencies are those of all.
    Param("full_share",    "the share of channels that turn", Factor, &[PROPORTIONAL]),
    Param("default_share", "the share of channels that turn", Factor, &[DEFAULT]),
    Param("sliding_share", "the share of channels that turn", Factor,
        &["config.rope_parameters.sliding_attention.partial_rotary_factor | 1"]),
    Param("has_qk_norm",   "whether q and k are normed",    Flag,
        &["has_any(self_attn.q_norm.weight)"]),
    Param("has_post_norm", "whether blocks have a second norm", Flag,
        &["has_any(post_operator_norm.weight)"]),
    Param("has_attn_gate", "whether attention is gated",    Flag,
        &["has_any(self_attn.gate_proj.weight)"]),
    Param("gates_heads",   "whether heads have one gate",   Flag,   &["true"]),
];
const PROPORTIONAL: &str = "config.rope_parameters.full_attention.partial_rotary_factor \
                            if config.rope_parameters.full_attention.rope_type=proportional | 1";
const DEFAULT: &str = "1 if config.rope_parameters.full_attention.rope_type=proportional \
                       | config.rope_parameters.full_attention.partial_rotary_factor | 1";

#[rustfmt::skip]
const BLOCK: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),         &["operator_norm.weight"]),
    Row("mlp_norm.weight", Vector("d_model"),         &["ffn_norm.weight"]),
    Row("mlp.gate",        Matrix("d_ff", "d_model"), &["feed_forward.w1.weight"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"), &["feed_forward.w3.weight"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"), &["feed_forward.w2.weight"]),
];

#[rustfmt::skip]
const POST_NORMS: &[Row] = &[
    Row("post_norm.weight",     Vector("d_model"), &["post_operator_norm.weight"]),
    Row("mlp_post_norm.weight", Vector("d_model"), &["post_ffn_norm.weight"]),
];

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("attn.q",             Matrix("n_attn_head*d_attn_head", "d_model"),
        &["self_attn.q_proj.weight"]),
    Row("attn.k",             Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.k_proj.weight"]),
    Row("attn.v",             Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.v_proj.weight"]),
    Row("attn.q.bias",        Channels("n_attn_head*d_attn_head"), &["self_attn.q_proj.bias?"]),
    Row("attn.k.bias",        Channels("n_kv_head*d_attn_head"),   &["self_attn.k_proj.bias?"]),
    Row("attn.v.bias",        Channels("n_kv_head*d_attn_head"),   &["self_attn.v_proj.bias?"]),
    Row("attn.gate",          Matrix("n_attn_head", "d_model"),
        &["self_attn.gate_proj.weight?"]),
    Row("attn.q_norm.weight", Vector("d_attn_head"),  &["self_attn.q_norm.weight?"]),
    Row("attn.k_norm.weight", Vector("d_attn_head"),  &["self_attn.k_norm.weight?"]),
    Row("attn.out",           Matrix("d_model", "n_attn_head*d_attn_head"),
        &["self_attn.o_proj.weight"]),
    Row("attn.out.bias",      Vector("d_model"),      &["self_attn.o_proj.bias?"]),
];

#[rustfmt::skip]
const FULL_ROPE: &[Row] = &[
    Row("attn.rope", Vector("n_rot // 2"),
        &["rope({full_base}, {n_rot}, {n_rot*full_share // 2})"]),
];

#[rustfmt::skip]
const SLIDING_ROPE: &[Row] =
    &[Row("attn.rope", Vector("n_rot // 2"), &["rope({sliding_base}, {n_rot})"])];
