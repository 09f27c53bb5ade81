//! MiniMax checkpoints of Hugging Face: lightning attention, attention, experts.
//!
//! Projections of lightning attention stand side by side in every head. The factors of sums are
//! folded: those of what is added into the outputs, those of the residual stream stand beside the
//! norms, whose results it becomes. Layout: SPEC.md, "Hybrids", "Linear attention". Test:
//! `tests/parity_experts.rs`.

use super::hybrid::{
    D_ATTN_HEAD, D_MODEL, N_ATTN_HEAD, N_CONTEXT, N_KV_HEAD, N_LAYER, N_VOCAB, ROPE,
};
use super::pairs;
use crate::convert::table::Kind::{Factor, Flag, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{Blocked, Embedding, Experts, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Kind, Layers, Layout, Param, Row, Spelling};

pub(super) const MINIMAX: Architecture = Architecture {
    name: "minimax",
    title: "MiniMax",
    model_types: &["minimax", "minimax_text_01", "MiniMaxText01", "minimax_m1"],
    layouts: &[Layout::new(&["layers.0.block_sparse_moe.gate.weight"], "layers.", 0).spelled(&BODY)],
    hyper: HYPER,
    checks: &["n_attn_head % n_kv_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, EXPERTS),
        (Layers::Word("layer_types", "linear"), LINEAR),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), ROPE),
    ],
    pairs: &[pairs::HEAD, pairs::OUTPUT, pairs::VALUES, pairs::UP_DOWN],
    ignored: IGNORED,
};

const BODY: Spelling = Spelling { body: "model.", parts: &[] };
/// Powers of what a state keeps, for blocks of tokens.
const IGNORED: &[&str] = &[
    "layers.*.self_attn.query_decay",
    "layers.*.self_attn.key_decay",
    "layers.*.self_attn.diagonal_decay",
];
const KINDS: Kind =
    Words(&[("linear_attention", "linear"), ("conv", "linear"), ("full_attention", "attention")]);
const TURNING: &str = "config.rope_parameters.partial_rotary_factor*d_attn_head // 1 \
    | config.partial_rotary_factor*d_attn_head // 1 | config.rotary_dim | d_attn_head";

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("layer_types",   "the kinds of the layers",       KINDS,
        &["config.layer_types | counted(config.attn_type_list)"]),
    Param("window",        "the window of attention",       OneOf(&["none"]),
        &["config.sliding_window?"]),
    Param("postnorm",      "whether norms stand behind sums", OneOf(&["true"]),
        &["config.postnorm?"]),
    Param("norm_eps",      "the norms' epsilon",            Number,
        &["config.rms_norm_eps | 1e-5"]),
    Param("out_norm_eps",  "the epsilon of the norm of all heads", Number, &["1e-6"]),
    Param("activation",    "the activation",                OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    N_ATTN_HEAD,
    N_KV_HEAD,
    D_ATTN_HEAD,
    Param("n_rot",         "channels that turn",            Size,   &[TURNING]),
    Param("rope_base",     "the base of the frequencies",   Number,
        &["config.rope_parameters.rope_theta | config.rope_theta | 1000000"]),
    Param("rope_type",     "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.rope_type | config.rope_scaling.rope_type?"]),
    Param("n_head",        "the number of heads",           Size,   &["n_attn_head"]),
    Param("d_head",        "the size of a head of values",  Size,   &["d_attn_head"]),
    Param("d_key",         "the size of a head of keys",    Size,   &["d_attn_head"]),
    Param("query_scale",   "the factor of q",               Number, &["1"]),
    Param("silu_q",        "whether a silu makes q",        Flag,   &["true"]),
    Param("silu_k",        "whether a silu makes k",        Flag,   &["true"]),
    Param("silu_v",        "whether a silu makes v",        Flag,   &["true"]),
    Param("wide_norm",     "whether heads share a norm",    Flag,   &["true"]),
    Param("has_gate",      "whether y is gated",            Flag,   &["true"]),
    Param("sigmoid_gate",  "whether the gate is a sigmoid", Flag,   &["true"]),
    Param("n_expert",      "the number of experts",         Size,   &["config.num_local_experts"]),
    Param("n_expert_used", "experts of a token",            Size,
        &["config.num_experts_per_tok"]),
    Param("d_expert",      "an expert's width",             Size,   &["config.intermediate_size"]),
    Param("has_router_norm", "whether scores are normed",   Flag,   &["true"]),
    Param("linear_alpha",  "the residual's factor, linear", Factor, &[
        "config.linear_attn_alpha_factor | config.layernorm_linear_attention_alpha | 1",
    ]),
    Param("linear_beta",   "the output's factor, linear",   Factor, &[
        "config.linear_attn_beta_factor | config.layernorm_linear_attention_beta | 1",
    ]),
    Param("full_alpha",    "the residual's factor, full",   Factor, &[
        "config.full_attn_alpha_factor | config.layernorm_full_attention_alpha | 1",
    ]),
    Param("full_beta",     "the output's factor, full",     Factor, &[
        "config.full_attn_beta_factor | config.layernorm_full_attention_beta | 1",
    ]),
    Param("mlp_alpha",     "the residual's factor, experts", Factor,
        &["config.mlp_alpha_factor | config.layernorm_mlp_alpha | 1"]),
    Param("mlp_beta",      "the output's factor, experts",  Factor,
        &["config.mlp_beta_factor | config.layernorm_mlp_beta | 1"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["embed_tokens.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

#[rustfmt::skip]
const EXPERTS: &[Row] = &[
    Row("norm.weight",       Vector("d_model"), &["input_layernorm.weight"]),
    Row("mlp_norm.weight",   Vector("d_model"), &["post_attention_layernorm.weight"]),
    Row("mlp_norm.residual", Vector("1"),       &["{mlp_alpha}"]),
    Row("router.weight",     Blocked("n_expert", "d_model"), &["block_sparse_moe.gate.weight"]),
    Row("experts.gate",      Experts("n_expert", "d_expert", "d_model"),
        &["block_sparse_moe.experts.*.w1.weight"]),
    Row("experts.up",        Experts("n_expert", "d_expert", "d_model"),
        &["block_sparse_moe.experts.*.w3.weight"]),
    Row("experts.down",      Experts("n_expert", "d_model", "d_expert"),
        &["{mlp_beta} * block_sparse_moe.experts.*.w2.weight"]),
];

/// A head keeps e^−s, s = 2^(−8 (h + 1) / n_head) · (1 − layer / (n_layer − 1 + 1e-5) + 1e-5).
const DECAY: &str = "exp(-self_attn.slope_rate) \
    | exp(-(2^(-8*(1 + index())*{n_head}^-1)) * {1.00001 - layer*(n_layer - 0.99999)^-1})";

#[rustfmt::skip]
const LINEAR: &[Row] = &[
    Row("norm.residual",   Vector("1"), &["{linear_alpha}"]),
    Row("in_proj.q",       Matrix("n_head*d_key", "d_model"),
        &["self_attn.qkv_proj.weight[0 of d_key, d_key, d_head each n_head]"]),
    Row("in_proj.k",       Matrix("n_head*d_key", "d_model"),
        &["self_attn.qkv_proj.weight[1 of d_key, d_key, d_head each n_head]"]),
    Row("in_proj.v",       Matrix("n_head*d_head", "d_model"),
        &["self_attn.qkv_proj.weight[2 of d_key, d_key, d_head each n_head]"]),
    Row("in_proj.z",       Matrix("n_head*d_head", "d_model"), &["self_attn.output_gate.weight"]),
    Row("decay",           Vector("n_head"),        &[DECAY]),
    Row("out_norm.weight", Vector("n_head*d_head"), &["self_attn.norm.weight"]),
    Row("out_proj",        Matrix("d_model", "n_head*d_head"),
        &["{linear_beta} * self_attn.out_proj.weight"]),
];

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("norm.residual", Vector("1"), &["{full_alpha}"]),
    Row("attn.q",        Matrix("n_attn_head*d_attn_head", "d_model"),
        &["self_attn.q_proj.weight"]),
    Row("attn.k",        Matrix("n_kv_head*d_attn_head", "d_model"), &["self_attn.k_proj.weight"]),
    Row("attn.v",        Matrix("n_kv_head*d_attn_head", "d_model"), &["self_attn.v_proj.weight"]),
    Row("attn.out",      Matrix("d_model", "n_attn_head*d_attn_head"),
        &["{full_beta} * self_attn.o_proj.weight"]),
];
