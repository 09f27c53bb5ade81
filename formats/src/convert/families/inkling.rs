//! Inkling checkpoints as transformers names them (`inkling_text`, the text model alone): attention
//! with scores by distance, to windows and to all; short convolutions over keys, values and what
//! blocks add; experts of which every token gets the last few.
//!
//! The embedding is normed here, and factors that stand alone are folded into the tensors before
//! them. Layout: SPEC.md, "Experts". Test: `tests/parity_experts.rs`.

use super::pairs;
use crate::convert::table::Kind::{Factor, Flag, Inner, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{Blocked, Channels, Embedding, Experts, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Kind, Layers, Layout, Param, Row, Spelling};

pub(super) const INKLING: Architecture = Architecture {
    name: "inkling",
    title: "Inkling",
    model_types: &["inkling_text"],
    layouts: &[
        Layout::new(&["layers.0.self_attn.rel_logits_proj.proj"], "layers.", 0).spelled(&BODY)
    ],
    hyper: HYPER,
    checks: &[],
    trunk: TRUNK,
    layers: &[
        (Layers::All, BLOCK),
        (Layers::Word("layer_types", "attention"), FULL),
        (Layers::Word("layer_types", "sliding_attention"), SLIDING),
        (Layers::Word("network_types", "mlp"), MLP),
        (Layers::Word("network_types", "experts"), EXPERTS),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::NETWORK],
    ignored: &["mtp."],
};

const BODY: Spelling = Spelling { body: "model.", parts: &[] };
const KINDS: Kind = Words(&[("hybrid", "attention"), ("hybrid_sliding", "sliding_attention")]);
const NETWORKS: Kind = Words(&[("dense", "mlp"), ("sparse", "experts")]);

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",       "the number of layers",           Size,
        &["config.num_hidden_layers | layers()"]),
    Param("layer_types",   "the kinds of the layers",        KINDS, &[
        "config.layer_types | listed(config.local_layer_ids, hybrid, hybrid_sliding) \
         | interval(6, hybrid_sliding, hybrid)",
    ]),
    Param("network_types", "the kinds of the networks",      NETWORKS,
        &["where(mlp.gate_proj.weight, dense, sparse)"]),
    Param("norm_eps",      "the norms' epsilon",             Number,
        &["config.rms_norm_eps | 1e-6"]),
    Param("activation",    "the activation",                 OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    Param("n_context",     "the longest text",               Size,
        &["config.max_position_embeddings | config.model_max_length | 131072"]),
    Param("window",        "the window of attention",        Size,
        &["config.sliding_window_size | config.sliding_window | 512"]),
    Param("n_vocab",       "rows of the embedding",          Size,
        &["config.unpadded_vocab_size | config.vocab_size"]),
    Param("n_padding",     "rows behind them",               Inner,
        &["config.vocab_size - n_vocab"]),
    Param("d_model",       "the width",                      Size,   &["config.hidden_size"]),
    Param("head_divisor",  "the divisor before the head",    Factor, &[
        "config.logits_mup_width_multiplier | config.embedding_multiplier | 24",
    ]),
    Param("d_ff",          "the network's width",            Size,
        &["first(mlp.gate_proj.weight)?"]),
    Param("d_conv",        "the convolutions' width",        Size,
        &["last(self_attn.k_sconv.conv1d.weight)"]),
    Param("linear_conv",   "whether no silu follows the convolution", Flag, &["true"]),
    Param("has_kv_conv",   "whether keys and values are convolved",   Flag, &["true"]),
    Param("n_attn_head",   "the number of attention heads",  Size,
        &["config.num_attention_heads | 64"]),
    Param("n_kv_head",     "heads of keys and values",       Size,
        &["config.num_key_value_heads | 8"]),
    Param("d_attn_head",   "the size of an attention head",  Size,   &["config.head_dim | 128"]),
    Param("n_window_head", "attention heads of windows",     Size,
        &["config.swa_num_attention_heads | 64"]),
    Param("n_window_kv_head", "their heads of keys and values", Size,
        &["config.swa_num_key_value_heads | 16"]),
    Param("d_window_head", "the size of a head of windows",  Size,
        &["config.swa_head_dim | 128"]),
    Param("has_qk_norm",   "whether q and k are normed",     Flag,   &["true"]),
    // Of queries, it is in the weights of their norm.
    Param("attn_scale",    "the factor of scores",           Number, &["1"]),
    Param("n_profile",     "profiles of distances",          Size,   &["config.d_rel | 16"]),
    Param("n_distance",    "distances that count",           Size,   &["config.rel_extent | 1024"]),
    Param("score_floor",   "the text's length from which scores grow", Size,
        &["config.log_scaling_n_floor?"]),
    Param("score_growth",  "how much scores grow",           Number,
        &["config.log_scaling_alpha | 0.1"]),
    Param("n_routed",      "the number of experts to choose", Inner,
        &["config.n_routed_experts | config.num_local_experts | 256"]),
    Param("n_expert_always", "experts of every token",       Size,
        &["config.n_shared_experts | 2"]),
    Param("n_expert",      "the number of experts",          Size,
        &["n_routed + n_expert_always"]),
    Param("n_expert_used", "experts of a token",             Size,
        &["config.num_experts_per_tok + n_expert_always | 6 + n_expert_always"]),
    Param("d_expert",      "an expert's width",              Size,
        &["config.moe_intermediate_size | 3072"]),
    Param("has_sigmoid_router", "whether scores are sigmoids", Flag, &["true"]),
    Param("has_router_norm", "whether scores are normed",    Flag,   &["true"]),
    Param("router_scale",  "the multiplier of scores",       Number, &["config.route_scale | 8"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"),
        &["rms_norm(embed_tokens.weight[0 of n_vocab, n_padding], \
                    embed_tokens.embed_norm.weight, {norm_eps})"]),
    Row("norm_f.weight", Vector("d_model"), &["norm.weight * {head_divisor^-1}"]),
    Row("head",          Head("n_vocab", "d_model"),
        &["lm_head.weight[0 of n_vocab, n_padding]"]),
];

/// Taps of convolutions that add their input: 1 more in the last.
const OUT_CONV: &str = "attn_sconv.conv1d.weight + (1 + index() % {d_conv}) // {d_conv}";
const MLP_CONV: &str = "mlp_sconv.conv1d.weight + (1 + index() % {d_conv}) // {d_conv}";
const K_CONV: &str = "self_attn.k_sconv.conv1d.weight + (1 + index() % {d_conv}) // {d_conv}";
const V_CONV: &str = "self_attn.v_sconv.conv1d.weight + (1 + index() % {d_conv}) // {d_conv}";

#[rustfmt::skip]
const BLOCK: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),            &["input_layernorm.weight"]),
    Row("mlp_norm.weight", Vector("d_model"),            &["post_attention_layernorm.weight"]),
    Row("out_conv.weight", Blocked("d_model", "d_conv"), &[OUT_CONV]),
    Row("out_conv.bias",   Channels("d_model"),          &["0"]),
    Row("mlp_conv.weight", Blocked("d_model", "d_conv"), &[MLP_CONV]),
    Row("mlp_conv.bias",   Channels("d_model"),          &["0"]),
];

#[rustfmt::skip]
const FULL: &[Row] = &[
    Row("attn.q",             Matrix("n_attn_head*d_attn_head", "d_model"),
        &["self_attn.q_proj.weight"]),
    Row("attn.k",             Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.k_proj.weight"]),
    Row("attn.v",             Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.v_proj.weight"]),
    Row("k_conv.weight",      Blocked("n_kv_head*d_attn_head", "d_conv"),
        &[K_CONV]),
    Row("k_conv.bias",        Channels("n_kv_head*d_attn_head"), &["0"]),
    Row("v_conv.weight",      Blocked("n_kv_head*d_attn_head", "d_conv"),
        &[V_CONV]),
    Row("v_conv.bias",        Channels("n_kv_head*d_attn_head"), &["0"]),
    Row("attn.q_norm.weight", Vector("d_attn_head"),
        &["self_attn.q_norm.weight * {d_attn_head^-1}"]),
    Row("attn.k_norm.weight", Vector("d_attn_head"),      &["self_attn.k_norm.weight"]),
    Row("attn.mix",           Matrix("n_attn_head*n_profile", "d_model"),
        &["self_attn.r_proj.weight"]),
    Row("attn.profiles",      Vector("n_profile*n_distance"),
        &["self_attn.rel_logits_proj.proj"]),
    Row("attn.out",           Matrix("d_model", "n_attn_head*d_attn_head"),
        &["self_attn.o_proj.weight"]),
];

#[rustfmt::skip]
const SLIDING: &[Row] = &[
    Row("attn.q",             Matrix("n_window_head*d_window_head", "d_model"),
        &["self_attn.q_proj.weight"]),
    Row("attn.k",             Matrix("n_window_kv_head*d_window_head", "d_model"),
        &["self_attn.k_proj.weight"]),
    Row("attn.v",             Matrix("n_window_kv_head*d_window_head", "d_model"),
        &["self_attn.v_proj.weight"]),
    Row("k_conv.weight",      Blocked("n_window_kv_head*d_window_head", "d_conv"),
        &[K_CONV]),
    Row("k_conv.bias",        Channels("n_window_kv_head*d_window_head"), &["0"]),
    Row("v_conv.weight",      Blocked("n_window_kv_head*d_window_head", "d_conv"),
        &[V_CONV]),
    Row("v_conv.bias",        Channels("n_window_kv_head*d_window_head"), &["0"]),
    Row("attn.q_norm.weight", Vector("d_window_head"),
        &["self_attn.q_norm.weight * {d_window_head^-1}"]),
    Row("attn.k_norm.weight", Vector("d_window_head"),    &["self_attn.k_norm.weight"]),
    Row("attn.mix",           Matrix("n_window_head*n_profile", "d_model"),
        &["self_attn.r_proj.weight"]),
    Row("attn.profiles",      Vector("n_profile*window"),
        &["self_attn.rel_logits_proj.proj"]),
    Row("attn.out",           Matrix("d_model", "n_window_head*d_window_head"),
        &["self_attn.o_proj.weight"]),
];

#[rustfmt::skip]
const MLP: &[Row] = &[
    Row("mlp.gate", Matrix("d_ff", "d_model"), &["mlp.gate_proj.weight"]),
    Row("mlp.up",   Matrix("d_ff", "d_model"), &["mlp.up_proj.weight"]),
    Row("mlp.down", Matrix("d_model", "d_ff"), &["mlp.down_proj.weight * mlp.global_scale"]),
];

/// Those to choose, then those of every token.
const GATE: &str = "mlp.experts.gate_up_proj[flat][0 of d_expert, d_expert each n_routed]; \
    mlp.shared_experts.gate_proj[flat]";
const UP: &str = "mlp.experts.gate_up_proj[flat][1 of d_expert, d_expert each n_routed]; \
    mlp.shared_experts.up_proj[flat]";
const DOWN: &str = "mlp.experts.down_proj[flat] * mlp.gate.global_scale; \
    mlp.shared_experts.down_proj[flat] * mlp.gate.global_scale";

#[rustfmt::skip]
const EXPERTS: &[Row] = &[
    Row("router.weight", Blocked("n_expert", "d_model"),             &["mlp.gate.weight"]),
    Row("router.bias",   Vector("n_routed"),
        &["mlp.gate.e_score_correction_bias"]),
    Row("experts.gate",  Experts("n_expert", "d_expert", "d_model"), &[GATE]),
    Row("experts.up",    Experts("n_expert", "d_expert", "d_model"), &[UP]),
    Row("experts.down",  Experts("n_expert", "d_model", "d_expert"), &[DOWN]),
];
