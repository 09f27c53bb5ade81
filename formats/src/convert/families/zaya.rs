//! ZAYA checkpoints of Hugging Face: attention behind convolutions, experts behind a router with a
//! network of its own, scales on the residual stream.
//!
//! The embedding's shift and scale are folded into it; the head is therefore stored apart from it.
//! transformers takes −1 for the balancing bias of the choice without an expert, whatever the file
//! says, and so does this. Layout: SPEC.md, "ZAYA". Test: `tests/parity_experts.rs`.

use super::hybrid::{D_ATTN_HEAD, D_MODEL, N_ATTN_HEAD, N_CONTEXT, N_KV_HEAD, N_LAYER, N_VOCAB};
use super::pairs;
use super::qwen3_5_moe::{EXPERTS, SIZES};
use crate::convert::table::Kind::{Factor, Flag, Inner, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{Blocked, Embedding, Experts, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Kind, Layers, Layout, Param, Row, Spelling};

pub(super) const ZAYA: Architecture = Architecture {
    name: "zaya",
    title: "ZAYA",
    model_types: &["zaya"],
    layouts: &[Layout::new(&["layers.0.mlp.gate.balancing_biases"], "layers.", 0).spelled(&BODY)],
    hyper: HYPER,
    checks: &["n_attn_head % n_kv_head = 0", "n_expert_used = 1", "sliding_share = share"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, ATTENTION),
        (Layers::All, RESIDUALS),
        (Layers::All, ROUTER),
        (Layers::All, NETWORKS),
        (Layers::AfterFirst, CARRY),
        (Layers::Word("layer_types", "attention"), ROPE),
        (Layers::Word("layer_types", "sliding_attention"), SLIDING_ROPE),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::ROUTED, pairs::UP_DOWN],
    ignored: &[],
};

const BODY: Spelling = Spelling { body: "model.", parts: &[] };
const KINDS: Kind = Words(&[("hybrid", "attention"), ("hybrid_sliding", "sliding_attention")]);

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("layer_types",    "the kinds of the layers",       KINDS,
        &["config.layer_types | where(hybrid)"]),
    Param("window",         "the window of attention",       Size,   &["config.sliding_window?"]),
    Param("norm_eps",       "the norms' epsilon",            Number,
        &["config.rms_norm_eps | 1e-5"]),
    Param("activation",     "the activation",                OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    Param("attention_bias", "whether attention has biases",  OneOf(&["false"]),
        &["config.attention_bias?"]),
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    N_ATTN_HEAD,
    N_KV_HEAD,
    D_ATTN_HEAD,
    Param("has_compressed_attention", "whether attention is convolved", Flag, &["true"]),
    Param("d_conv",         "the width of the convolution over channels", Size,
        &["last(self_attn.qkv_proj.conv_qk_depthwise.weight)"]),
    Param("d_heads_conv",   "the width of the convolution over heads", Size,
        &["last(self_attn.qkv_proj.conv_qk_grouped.weight)"]),
    Param("n_mixed",        "channels of q and k",           Inner,
        &["n_attn_head*d_attn_head + n_kv_head*d_attn_head"]),
    Param("share",          "the share of channels that turn", Factor, &[SHARE]),
    Param("sliding_share",  "the share of channels that turn", Factor, &[SLIDING_SHARE]),
    Param("n_rot",          "channels that turn",            Size,   &["d_attn_head*share // 1"]),
    Param("rope_base",      "the base of the frequencies",   Factor,
        &["config.rope_parameters.hybrid.rope_theta | config.rope_theta | 5000000"]),
    Param("sliding_base",   "the base of the frequencies",   Factor,
        &["config.rope_parameters.hybrid_sliding.rope_theta | 10000"]),
    Param("rope_type",      "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.hybrid.rope_type?"]),
    Param("sliding_type",   "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.hybrid_sliding.rope_type?"]),
    SIZES[0],
    SIZES[1],
    SIZES[2],
    Param("d_router",       "the width of the router's network", Size,
        &["first(mlp.gate.down_proj.weight)"]),
    Param("skip_bias",      "the bias of no expert",         Number, &["-1"]),
];
const SHARE: &str = "config.rope_parameters.hybrid.partial_rotary_factor \
                     | config.partial_rotary_factor | 0.5";
const SLIDING_SHARE: &str = "config.rope_parameters.hybrid_sliding.partial_rotary_factor | share";

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &[EMBED]),
    Row("norm_f.weight", Vector("d_model"),          &["norm.weight | final_norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),
        &["lm_head.weight | embed_tokens.weight"]),
    Row("head.bias",     Vector("n_vocab"),          &["lm_head.bias?"]),
];
const EMBED: &str =
    "shifted(embed_tokens.weight, input_hidden_states_bias, input_hidden_states_scale)";

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("norm.weight", Vector("d_model"), &["input_layernorm.weight"]),
    Row("attn.q",      Matrix("n_attn_head*d_attn_head", "d_model"),
        &["self_attn.qkv_proj.q_proj.weight"]),
    Row("attn.k",      Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.qkv_proj.k_proj.weight"]),
    Row("attn.v",      Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.qkv_proj.v_proj_current.weight; self_attn.qkv_proj.v_proj_delayed.weight"]),
    Row("attn.conv.weight",       Vector("n_mixed*d_conv"),
        &["self_attn.qkv_proj.conv_qk_depthwise.weight"]),
    Row("attn.conv.bias",         Vector("n_mixed"),
        &["self_attn.qkv_proj.conv_qk_depthwise.bias"]),
    Row("attn.heads_conv.weight", Vector("n_mixed*d_attn_head*d_heads_conv"),
        &["self_attn.qkv_proj.conv_qk_grouped.weight"]),
    Row("attn.heads_conv.bias",   Vector("n_mixed"),
        &["self_attn.qkv_proj.conv_qk_grouped.bias"]),
    Row("attn.temperature",       Vector("n_kv_head"),
        &["self_attn.qk_norm.temp | self_attn.qkv_proj.temp"]),
    Row("attn.out",    Matrix("d_model", "n_attn_head*d_attn_head"),
        &["self_attn.o_proj.weight"]),
    Row("mlp_norm.weight", Vector("d_model"), &["post_attention_layernorm.weight"]),
];

#[rustfmt::skip]
const ROPE: &[Row] =
    &[Row("attn.rope", Vector("n_rot // 2"), &["rope({rope_base}, {n_rot})"])];
#[rustfmt::skip]
const SLIDING_ROPE: &[Row] =
    &[Row("attn.rope", Vector("n_rot // 2"), &["rope({sliding_base}, {n_rot})"])];

#[rustfmt::skip]
const RESIDUALS: &[Row] = &[
    Row("residual.y_shift",     Vector("d_model"),
        &["post_attention_residual_scale.hidden_states_bias"]),
    Row("residual.y_scale",     Vector("d_model"),
        &["post_attention_residual_scale.hidden_states_scale"]),
    Row("residual.x_shift",     Vector("d_model"),
        &["post_attention_residual_scale.residual_bias"]),
    Row("residual.x_scale",     Vector("d_model"),
        &["post_attention_residual_scale.residual_scale"]),
    Row("mlp_residual.y_shift", Vector("d_model"),
        &["post_mlp_residual_scale.hidden_states_bias"]),
    Row("mlp_residual.y_scale", Vector("d_model"),
        &["post_mlp_residual_scale.hidden_states_scale"]),
    Row("mlp_residual.x_shift", Vector("d_model"),
        &["post_mlp_residual_scale.residual_bias"]),
    Row("mlp_residual.x_scale", Vector("d_model"),
        &["post_mlp_residual_scale.residual_scale"]),
];

#[rustfmt::skip]
const ROUTER: &[Row] = &[
    Row("router.down.weight", Blocked("d_router", "d_model"),  &["mlp.gate.down_proj.weight"]),
    Row("router.down.bias",   Vector("d_router"),              &["mlp.gate.down_proj.bias"]),
    Row("router.norm.weight", Vector("d_router"),
        &["mlp.gate.router_mlp.norm.weight"]),
    Row("router.fc1.weight",  Blocked("d_router", "d_router"), &["mlp.gate.router_mlp.fc1.weight"]),
    Row("router.fc1.bias",    Vector("d_router"),              &["mlp.gate.router_mlp.fc1.bias"]),
    Row("router.fc2.weight",  Blocked("d_router", "d_router"), &["mlp.gate.router_mlp.fc2.weight"]),
    Row("router.fc2.bias",    Vector("d_router"),              &["mlp.gate.router_mlp.fc2.bias"]),
    Row("router.weight",      Blocked("n_expert + 1", "d_router"),
        &["mlp.gate.router_mlp.out_proj.weight"]),
    Row("router.bias",        Vector("n_expert"),
        &["mlp.gate.balancing_biases[0 of n_expert, 1]"]),
];

/// What the router gets from the one of the layer below.
const CARRY: &[Row] = &[Row("router.carry", Vector("d_router"), &["mlp.gate.router_states_scale"])];

#[rustfmt::skip]
const NETWORKS: &[Row] = &[
    Row("experts.gate", Experts("n_expert", "d_expert", "d_model"), EXPERTS[0].2),
    Row("experts.up",   Experts("n_expert", "d_expert", "d_model"), EXPERTS[1].2),
    Row("experts.down", Experts("n_expert", "d_model", "d_expert"), EXPERTS[2].2),
];
