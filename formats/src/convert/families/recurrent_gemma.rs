//! RecurrentGemma checkpoints of Hugging Face: recurrent blocks and attention to a window.
//!
//! The embedding has its scale here, and the head stands beside it without one. Layout: SPEC.md,
//! "Hybrids". Test: `tests/parity_hybrid.rs`.

use super::pairs;
use crate::convert::table::Kind::{Factor, Flag, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{Blocked, Channels, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Kind, Layers, Layout, Param, Row, Spelling};

pub(super) const RECURRENT_GEMMA: Architecture = Architecture {
    name: "recurrent_gemma",
    title: "RecurrentGemma",
    model_types: &["recurrent_gemma"],
    layouts: &[Layout::new(&["layers.0.temporal_pre_norm.weight"], "layers.", 0).spelled(&BODY)],
    hyper: HYPER,
    checks: &["d_lru % n_block = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, BLOCK),
        (Layers::Word("layer_types", "recurrent"), RECURRENT),
        (Layers::Word("layer_types", "sliding_attention"), ATTENTION),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

const BODY: Spelling = Spelling { body: "model.", parts: &[] };
const KINDS: Kind = Words(&[("recurrent", "recurrent"), ("attention", "sliding_attention")]);

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",     "the number of layers",          Size,
        &["config.num_hidden_layers | layers()"]),
    Param("layer_types", "the kinds of the layers",       KINDS,
        &["repeated(config.block_types) | repeated(config._block_types)"]),
    Param("window",      "the window of attention",       Size,
        &["config.attention_window_size | 2048"]),
    Param("norm_eps",    "the norms' epsilon",            Number, &["config.rms_norm_eps | 1e-6"]),
    Param("activation",  "the activation",                OneOf(&["gelu_pytorch_tanh"]),
        &["config.hidden_activation?"]),
    Param("gelu_mlp",    "whether the network's gate is a gelu", Flag, &["true"]),
    Param("linear_conv", "whether no silu follows the convolution", Flag, &["true"]),
    Param("logit_cap",   "the bound of logits",           Number,
        &["config.logits_soft_cap | 30"]),
    Param("n_vocab",     "rows of the embedding",         Size,   &[]),
    Param("d_model",     "the width",                     Size,   &["config.hidden_size"]),
    Param("embedding_multiplier", "the multiplier of the embedding", Factor,
        &["bf16(d_model^0.5)"]),
    Param("d_ff",        "the network's width",           Size,
        &["first(mlp_block.gate_proj.weight)"]),
    Param("d_lru",       "the width of recurrent blocks", Size,
        &["config.lru_width | d_model"]),
    Param("d_conv",      "the convolution's width",       Size,
        &["config.conv1d_width | last(temporal_block.conv_1d.weight)"]),
    Param("n_attn_head", "the number of attention heads", Size,   &["config.num_attention_heads"]),
    Param("n_block",     "blocks of the gates' matrices", Size,   &["n_attn_head"]),
    Param("n_kv_head",   "heads of keys and values",      Size,
        &["config.num_key_value_heads | n_attn_head"]),
    Param("d_attn_head", "the size of an attention head", Size,
        &["config.head_dim | d_model // n_attn_head"]),
    Param("share",       "the share of channels that turn", Factor, &[
        "config.rope_parameters.partial_rotary_factor | config.partial_rotary_factor | 0.5",
    ]),
    Param("n_rot",       "channels that turn",            Size,   &["d_attn_head*share // 1"]),
    Param("rope_base",   "the base of the frequencies",   Number,
        &["config.rope_parameters.rope_theta | config.rope_theta | 10000"]),
    Param("rope_type",   "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.rope_type | config.rope_scaling.rope_type?"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"),
        &["{embedding_multiplier} * embed_tokens.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["1 + final_norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),
        &["lm_head.weight | embed_tokens.weight"]),
];

#[rustfmt::skip]
const BLOCK: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),         &["1 + temporal_pre_norm.weight"]),
    Row("mlp_norm.weight", Vector("d_model"),         &["1 + channel_pre_norm.weight"]),
    Row("mlp.gate",        Matrix("d_ff", "d_model"), &["mlp_block.gate_proj.weight"]),
    Row("mlp.gate.bias",   Channels("d_ff"),          &["mlp_block.gate_proj.bias?"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"), &["mlp_block.up_proj.weight"]),
    Row("mlp.up.bias",     Channels("d_ff"),          &["mlp_block.up_proj.bias?"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"), &["mlp_block.down_proj.weight"]),
    Row("mlp.down.bias",   Vector("d_model"),         &["mlp_block.down_proj.bias?"]),
];

#[rustfmt::skip]
const RECURRENT: &[Row] = &[
    Row("lru.in_x",            Matrix("d_lru", "d_model"),  &["temporal_block.linear_x.weight"]),
    Row("lru.in_x.bias",       Channels("d_lru"),           &["temporal_block.linear_x.bias?"]),
    Row("lru.in_y",            Matrix("d_lru", "d_model"),  &["temporal_block.linear_y.weight"]),
    Row("lru.in_y.bias",       Channels("d_lru"),           &["temporal_block.linear_y.bias?"]),
    Row("conv.weight",         Blocked("d_lru", "d_conv"),  &["temporal_block.conv_1d.weight"]),
    Row("conv.bias",           Channels("d_lru"),           &["temporal_block.conv_1d.bias | 0"]),
    Row("lru.input_gate",      Vector("d_lru*d_lru // n_block"),
        &["temporal_block.rg_lru.input_gate_weight"]),
    Row("lru.input_gate.bias", Vector("d_lru"), &["temporal_block.rg_lru.input_gate_bias"]),
    Row("lru.decay_gate",      Vector("d_lru*d_lru // n_block"),
        &["temporal_block.rg_lru.recurrent_gate_weight"]),
    Row("lru.decay_gate.bias", Vector("d_lru"), &["temporal_block.rg_lru.recurrent_gate_bias"]),
    Row("lru.rate",            Vector("d_lru"),
        &["-softplus(temporal_block.rg_lru.recurrent_param) * 8"]),
    Row("lru.out",             Matrix("d_model", "d_lru"),  &["temporal_block.linear_out.weight"]),
    Row("lru.out.bias",        Vector("d_model"),           &["temporal_block.linear_out.bias?"]),
];

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("attn.q",        Matrix("n_attn_head*d_attn_head", "d_model"),
        &["temporal_block.q_proj.weight"]),
    Row("attn.q.bias",   Channels("n_attn_head*d_attn_head"), &["temporal_block.q_proj.bias?"]),
    Row("attn.k",        Matrix("n_kv_head*d_attn_head", "d_model"),
        &["temporal_block.k_proj.weight"]),
    Row("attn.k.bias",   Channels("n_kv_head*d_attn_head"),   &["temporal_block.k_proj.bias?"]),
    Row("attn.v",        Matrix("n_kv_head*d_attn_head", "d_model"),
        &["temporal_block.v_proj.weight"]),
    Row("attn.v.bias",   Channels("n_kv_head*d_attn_head"),   &["temporal_block.v_proj.bias?"]),
    Row("attn.rope",     Vector("n_rot // 2"),          &["rope({rope_base}, {n_rot})"]),
    Row("attn.out",      Matrix("d_model", "n_attn_head*d_attn_head"),
        &["temporal_block.o_proj.weight"]),
    Row("attn.out.bias", Vector("d_model"),                   &["temporal_block.o_proj.bias?"]),
];
