//! LFM2 checkpoints, without experts and with them: Hugging Face, GGUF.
//!
//! The three thirds of a convolution's input are a matrix each here. Layout: SPEC.md, "LFM2",
//! "Experts". Test: `tests/parity_hybrid.rs`, `tests/parity_experts.rs`.

use super::hybrid::NETWORKS;
use super::pairs;
use crate::convert::table::Kind::{Flag, Inner, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{Blocked, Channels, Embedding, Experts, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Kind, Layers, Layout, Param, Row, Spelling, joined};

pub(super) const LFM2: Architecture = Architecture {
    name: "lfm2",
    title: "LFM2",
    model_types: &["lfm2"],
    layouts: LAYOUTS,
    hyper: HYPER,
    checks: &["d_model % n_attn_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORMS),
        (Layers::All, MLP),
        (Layers::Word("layer_types", "conv"), CONV),
        (Layers::Word("layer_types", "attention"), ATTENTION),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::SHORT_CONV, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

pub(super) const LFM2_MOE: Architecture = Architecture {
    name: "lfm2_moe",
    title: "LFM2-MoE",
    model_types: &["lfm2_moe", "lfm2moe"],
    layouts: LAYOUTS,
    hyper: &joined::<{ HYPER.len() + ROUTING.len() }>(HYPER, ROUTING),
    checks: &["d_model % n_attn_head = 0", "gating = 2"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORMS),
        (Layers::Word("network_types", "mlp"), MLP),
        (Layers::Word("network_types", "experts"), EXPERTS),
        (Layers::Word("layer_types", "conv"), CONV),
        (Layers::Word("layer_types", "attention"), ATTENTION),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::SHORT_CONV, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

const LAYOUTS: &[Layout] = &[
    Layout::new(&["layers.0.operator_norm.weight"], "layers.", 0).spelled(&BODY),
    Layout::new(&["token_embd_norm.weight"], "blk.", 1),
];

pub(super) const BODY: Spelling = Spelling { body: "model.", parts: &[] };
const KINDS: Kind = Words(&[("conv", "conv"), ("full_attention", "attention")]);

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",     "the number of layers",          Size,
        &["config.num_hidden_layers | layers()", "gguf.block_count"]),
    Param("layer_types", "the kinds of the layers",       KINDS, &[
        "config.layer_types | listed(config.full_attn_idxs, conv)",
        "counted(gguf.attention.head_count_kv)",
    ]),
    Param("norm_eps",    "the norms' epsilon",            Number,
        &["config.norm_eps | 1e-5", "gguf.attention.layer_norm_rms_epsilon"]),
    Param("n_context",   "the longest text",              Size,
        &["config.max_position_embeddings", "gguf.context_length"]),
    Param("n_vocab",     "rows of the embedding",         Size,   &[]),
    Param("d_model",     "the width",                     Size,
        &["config.hidden_size", "gguf.embedding_length"]),
    Param("d_ff",        "the network's width",           Size,   &[]),
    Param("d_conv",      "the convolution's width",       Size,
        &["config.conv_L_cache", "gguf.shortconv.l_cache"]),
    Param("n_attn_head", "the number of attention heads", Size,
        &["config.num_attention_heads", "gguf.attention.head_count"]),
    Param("n_kv_head",   "heads of keys and values",      Size,
        &["config.num_key_value_heads", "largest(gguf.attention.head_count_kv)"]),
    Param("d_attn_head", "the size of an attention head", Size,
        &["d_model // n_attn_head", "d_model // n_attn_head"]),
    Param("n_rot",       "channels that turn",            Size,   &["d_attn_head", "d_attn_head"]),
    Param("rope_base",   "the base of the frequencies",   Number,
        &["config.rope_parameters.rope_theta | config.rope_theta", "gguf.rope.freq_base"]),
    Param("rope_type",   "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.rope_type | config.rope_scaling.rope_type?", ""]),
    Param("has_qk_norm", "whether q and k are normed",    Flag,   &["true", "true"]),
];

#[rustfmt::skip]
const ROUTING: &[Param] = &[
    Param("network_types",      "the kinds of the networks",          NETWORKS, &[
        "where(feed_forward.gate.weight, experts, mlp)",
        "where(ffn_gate_inp.weight, experts, mlp)",
    ]),
    Param("n_expert",           "the number of experts",              Size,
        &["config.num_experts", "gguf.expert_count"]),
    Param("n_expert_used",      "experts of a token",                 Size,
        &["config.num_experts_per_tok", "gguf.expert_used_count"]),
    Param("d_expert",           "an expert's width",                  Size,
        &["config.moe_intermediate_size", "gguf.expert_feed_forward_length"]),
    Param("gating",             "the kind of scores (2: sigmoid)",    Inner,
        &["2", "gguf.expert_gating_func | 2"]),
    Param("has_sigmoid_router", "whether scores are sigmoid",         Flag,   &["true", "true"]),
    Param("has_router_norm",    "whether scores are normed",          Flag,
        &["config.norm_topk_prob | true", "gguf.expert_weights_norm | true"]),
    Param("router_eps",         "the epsilon of that norm",           Number, &["1e-6", "1e-6"]),
    Param("router_scale",       "what weights are multiplied by",     Number,
        &["config.routed_scaling_factor | 1", "gguf.expert_weights_scale | 1"]),
];

#[rustfmt::skip]
pub(super) const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"),
        &["embed_tokens.weight", "token_embd.weight"]),
    Row("norm_f.weight", Vector("d_model"),
        &["embedding_norm.weight", "token_embd_norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?", "output.weight?"]),
];

#[rustfmt::skip]
const NORMS: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),
        &["operator_norm.weight", "attn_norm.weight"]),
    Row("mlp_norm.weight", Vector("d_model"),         &["ffn_norm.weight", "ffn_norm.weight"]),
];

#[rustfmt::skip]
const MLP: &[Row] = &[
    Row("mlp.gate",        Matrix("d_ff", "d_model"),
        &["feed_forward.w1.weight", "ffn_gate.weight"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"), &["feed_forward.w3.weight", "ffn_up.weight"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"),
        &["feed_forward.w2.weight", "ffn_down.weight"]),
];

const EXPERT_GATE: &str = "feed_forward.experts.*.w1.weight \
    | feed_forward.experts.gate_up_proj[flat][0 of d_expert, d_expert each n_expert]";
const EXPERT_UP: &str = "feed_forward.experts.*.w3.weight \
    | feed_forward.experts.gate_up_proj[flat][1 of d_expert, d_expert each n_expert]";

#[rustfmt::skip]
const EXPERTS: &[Row] = &[
    Row("router.weight", Blocked("n_expert", "d_model"),
        &["feed_forward.gate.weight", "ffn_gate_inp.weight"]),
    Row("router.bias",   Vector("n_expert"),
        &["feed_forward.expert_bias?", "exp_probs_b.bias?"]),
    Row("experts.gate",  Experts("n_expert", "d_expert", "d_model"),
        &[EXPERT_GATE, "ffn_gate_exps.weight[flat]"]),
    Row("experts.up",    Experts("n_expert", "d_expert", "d_model"),
        &[EXPERT_UP, "ffn_up_exps.weight[flat]"]),
    Row("experts.down",  Experts("n_expert", "d_model", "d_expert"), &[
        "feed_forward.experts.*.w2.weight | feed_forward.experts.down_proj[flat]",
        "ffn_down_exps.weight[flat]",
    ]),
];

#[rustfmt::skip]
pub(super) const CONV: &[Row] = &[
    Row("conv.in_b",      Matrix("d_model", "d_model"),
        &["conv.in_proj.weight[0/3]", "shortconv.in_proj.weight[0/3]"]),
    Row("conv.in_c",      Matrix("d_model", "d_model"),
        &["conv.in_proj.weight[1/3]", "shortconv.in_proj.weight[1/3]"]),
    Row("conv.in_x",      Matrix("d_model", "d_model"),
        &["conv.in_proj.weight[2/3]", "shortconv.in_proj.weight[2/3]"]),
    Row("conv.in_b.bias", Channels("d_model"),          &["conv.in_proj.bias[0/3]?", ""]),
    Row("conv.in_c.bias", Channels("d_model"),          &["conv.in_proj.bias[1/3]?", ""]),
    Row("conv.in_x.bias", Channels("d_model"),          &["conv.in_proj.bias[2/3]?", ""]),
    Row("conv.weight",    Blocked("d_model", "d_conv"),
        &["conv.conv.weight", "shortconv.conv.weight"]),
    Row("conv.bias",      Channels("d_model"),          &["conv.conv.bias | 0", "0"]),
    Row("conv.out",       Matrix("d_model", "d_model"),
        &["conv.out_proj.weight", "shortconv.out_proj.weight"]),
    Row("conv.out.bias",  Vector("d_model"),            &["conv.out_proj.bias?", ""]),
];

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("attn.q",             Matrix("n_attn_head*d_attn_head", "d_model"),
        &["self_attn.q_proj.weight", "attn_q.weight"]),
    Row("attn.k",             Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.k_proj.weight", "attn_k.weight"]),
    Row("attn.v",             Matrix("n_kv_head*d_attn_head", "d_model"),
        &["self_attn.v_proj.weight", "attn_v.weight"]),
    Row("attn.q_norm.weight", Vector("d_attn_head"),
        &["self_attn.q_layernorm.weight", "attn_q_norm.weight"]),
    Row("attn.k_norm.weight", Vector("d_attn_head"),
        &["self_attn.k_layernorm.weight", "attn_k_norm.weight"]),
    Row("attn.rope",          Vector("n_rot // 2"),
        &["rope({rope_base}, {n_rot})", "rope({rope_base}, {n_rot})"]),
    Row("attn.out",           Matrix("d_model", "n_attn_head*d_attn_head"),
        &["self_attn.out_proj.weight", "attn_output.weight"]),
];
