//! Kimi-Linear checkpoints of Hugging Face, and Ling-3 (`BailingHybridForCausalLM`): KDA, attention
//! over latents, experts.
//!
//! A head's rows of `kv_b_proj` are those of its keys, transposed here, and those of its values.
//! Ling-3's decay is bounded, its attention turns (neighbours are pairs) and is gated by heads.
//! Layout: SPEC.md, "Latent attention". Test: `tests/parity_experts.rs`.

use super::hybrid::NETWORKS;
use super::pairs;
use crate::convert::table::Kind::{Flag, Inner, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{
    Adapter, Blocked, Channels, Embedding, Experts, Head, Matrix, PerHead, Vector,
};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling, joined};

pub(super) const KIMI_LINEAR: Architecture = Architecture {
    name: "kimi_linear",
    title: "Kimi-Linear",
    model_types: &["kimi_linear"],
    layouts: &[Layout::new(MARK, "layers.", 0).spelled(&KIMI)],
    hyper: HYPER,
    checks: &["stands = 1"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORMS),
        (Layers::Word("network_types", "mlp"), NETWORK),
        (Layers::Word("network_types", "experts"), EXPERTS),
        (Layers::Word("layer_types", "delta"), DELTA),
        (Layers::Word("layer_types", "attention"), ATTENTION),
    ],
    pairs: &[pairs::HEAD, pairs::LATENT, pairs::OUTPUT, pairs::NETWORK],
    ignored: &[],
};

pub(super) const BAILING_HYBRID: Architecture = Architecture {
    name: "bailing_hybrid",
    title: "Ling-3",
    model_types: &["bailing_hybrid"],
    layouts: &[Layout::new(MARK, "layers.", 0).spelled(&BAILING)],
    hyper: &joined::<{ HYPER.len() + TURNING.len() }>(HYPER, TURNING),
    checks: &[],
    layers: &[
        (Layers::All, NORMS),
        (Layers::Word("network_types", "mlp"), NETWORK),
        (Layers::Word("network_types", "experts"), EXPERTS),
        (Layers::Word("layer_types", "delta"), DELTA),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), ROPE),
    ],
    ..KIMI_LINEAR
};

const MARK: &[&str] = &["layers.0.self_attn.q_conv1d.weight"];
const KIMI: Spelling = Spelling { body: "model.", parts: &[] };
const BAILING: Spelling = Spelling {
    body: "model.",
    parts: &[
        ("embed_tokens.", "word_embeddings."),
        (".self_attn.o_proj.", ".attention.dense."),
        (".self_attn.", ".attention."),
        (".gate.e_score_correction_bias", ".gate.expert_bias"),
        (".block_sparse_moe.", ".mlp."),
        (".w1.", ".gate_proj."),
        (".w3.", ".up_proj."),
        (".w2.", ".down_proj."),
    ],
};

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",       "the number of layers",          Size,
        &["config.num_hidden_layers | layers()"]),
    Param("layer_types",   "the kinds of the layers",       Words(&[
        ("delta", "delta"), ("attention", "attention"),
    ]), &["where(self_attn.kv_b_proj.weight, attention, delta)"]),
    Param("network_types", "the kinds of the networks",     NETWORKS,
        &["where(block_sparse_moe.gate.weight, experts, mlp)"]),
    Param("norm_eps",      "the norms' epsilon",            Number, &["config.rms_norm_eps"]),
    Param("out_norm_eps",  "the heads' norm's epsilon",     Number, &["norm_eps"]),
    Param("latent_norm_eps", "the latents' norms' epsilon", Number, &["1e-6"]),
    Param("activation",    "the activation",                OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    Param("n_context",     "the longest text",              Size,
        &["config.model_max_length | config.max_position_embeddings"]),
    Param("n_vocab",       "rows of the embedding",         Size,   &[]),
    Param("d_model",       "the width",                     Size,   &[]),
    Param("d_ff",          "the network's width",           Size,   &[]),
    Param("n_head",        "the number of delta heads",     Size,
        &["first(self_attn.b_proj.weight)"]),
    Param("n_key_head",    "the number of heads of keys",   Size,   &["n_head"]),
    Param("d_head",        "the size of a head of values",  Size,
        &["last(self_attn.o_norm.weight)"]),
    Param("d_key",         "the size of a head of keys",    Size,
        &["first(self_attn.k_conv1d.weight) // n_head"]),
    Param("d_qkv",         "channels of the convolution",   Inner,
        &["2*n_key_head*d_key + n_head*d_head"]),
    Param("d_conv",        "the convolution's width",       Size,
        &["last(self_attn.q_conv1d.weight)"]),
    Param("rank_decay",    "the rank of the decay",         Size,   &[]),
    Param("rank_gate",     "the rank of the gate",          Size,   &[]),
    Param("has_gate",      "whether y is gated",            Flag,   &["true"]),
    Param("sigmoid_gate",  "whether the gate is a sigmoid", Flag,   &["true"]),
    Param("decay_per_key", "whether keys have decays",      Flag,   &["true"]),
    Param("least_log_decay", "the gate's lower bound",      Number, &[
        "config.kda_lower_bound if config.kda_safe_gate | -5 if config.kda_safe_gate?",
    ]),
    Param("n_attn_head",   "the number of attention heads", Size,
        &["config.num_attention_heads"]),
    Param("d_nope",        "the size of a key's own part",  Size,   &["config.qk_nope_head_dim"]),
    Param("d_rope",        "the size of the shared part",   Size,   &["config.qk_rope_head_dim"]),
    Param("d_value",       "the size of a value",           Size,   &["config.v_head_dim"]),
    Param("d_kv_latent",   "the size of a latent",          Size,   &["config.kv_lora_rank"]),
    Param("d_q_latent",    "the rank of queries",           Size,   &["config.q_lora_rank?"]),
    Param("stands",        "whether nothing turns",         Flag,
        &["config.mla_use_nope | true"]),
    Param("has_attn_gate", "whether attention is gated",    Flag,
        &["true if config.model_type=bailing_hybrid | false"]),
    Param("n_expert",      "the number of experts",         Size,   &["config.num_experts?"]),
    Param("n_expert_used", "experts of a token",            Size,
        &["config.num_experts_per_token | config.num_experts_per_tok?"]),
    Param("n_expert_group", "groups of experts",            Size,
        &["config.num_expert_group | config.n_group?"]),
    Param("n_expert_group_used", "groups of a token",       Size,   &["config.topk_group?"]),
    Param("d_expert",      "an expert's width",             Size,
        &["config.moe_intermediate_size?"]),
    Param("d_shared",      "the shared expert's width",     Size,   &[]),
    Param("scores",        "the kind of scores",            OneOf(&["sigmoid"]),
        &["config.moe_router_activation_func | config.score_function?"]),
    Param("has_sigmoid_router", "whether scores are sigmoid", Flag, &["true"]),
    Param("has_router_norm", "whether scores are normed",   Flag,
        &["config.moe_renormalize | config.norm_topk_prob | true"]),
    Param("router_eps",    "the epsilon of that norm",      Number, &["1e-20"]),
    Param("router_scale",  "what weights are multiplied by", Number,
        &["config.routed_scaling_factor | 1"]),
];

#[rustfmt::skip]
const TURNING: &[Param] = &[
    Param("n_rot",              "channels that turn",            Size,   &["d_rope"]),
    Param("rope_base",          "the base of the frequencies",   Number,
        &["config.rope_parameters.rope_theta | config.rope_theta"]),
    Param("rope_type",          "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.rope_type | config.rope_scaling.rope_type?"]),
    Param("has_adjacent_pairs", "whether pairs are neighbours",  Flag,   &["true"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["embed_tokens.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

#[rustfmt::skip]
const NORMS: &[Row] = &[
    Row("norm.weight",     Vector("d_model"), &["input_layernorm.weight"]),
    Row("mlp_norm.weight", Vector("d_model"), &["post_attention_layernorm.weight"]),
];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp.gate", Matrix("d_ff", "d_model"), &["mlp.gate_proj.weight"]),
    Row("mlp.up",   Matrix("d_ff", "d_model"), &["mlp.up_proj.weight"]),
    Row("mlp.down", Matrix("d_model", "d_ff"), &["mlp.down_proj.weight"]),
];

const UP_AND_DOWN: [&str; 3] = [
    "block_sparse_moe.shared_experts.gate_proj.weight",
    "block_sparse_moe.shared_experts.up_proj.weight",
    "block_sparse_moe.shared_experts.down_proj.weight",
];

#[rustfmt::skip]
const EXPERTS: &[Row] = &[
    Row("router.weight", Blocked("n_expert", "d_model"), &["block_sparse_moe.gate.weight"]),
    Row("router.bias",   Vector("n_expert"),
        &["block_sparse_moe.gate.e_score_correction_bias?"]),
    Row("experts.gate",  Experts("n_expert", "d_expert", "d_model"),
        &["block_sparse_moe.experts.*.w1.weight"]),
    Row("experts.up",    Experts("n_expert", "d_expert", "d_model"),
        &["block_sparse_moe.experts.*.w3.weight"]),
    Row("experts.down",  Experts("n_expert", "d_model", "d_expert"),
        &["block_sparse_moe.experts.*.w2.weight"]),
    Row("shared.gate",   Matrix("d_shared", "d_model"), &[UP_AND_DOWN[0]]),
    Row("shared.up",     Matrix("d_shared", "d_model"), &[UP_AND_DOWN[1]]),
    Row("shared.down",   Matrix("d_model", "d_shared"), &[UP_AND_DOWN[2]]),
];

const QKV: &str = "self_attn.q_proj.weight; self_attn.k_proj.weight; self_attn.v_proj.weight";
const CONV: &str =
    "self_attn.q_conv1d.weight; self_attn.k_conv1d.weight; self_attn.v_conv1d.weight";

/// Decay and gate: through a lower rank, or straight.
#[rustfmt::skip]
const DELTA: &[Row] = &[
    Row("in_proj.qkv",     Matrix("d_qkv", "d_model"),           &[QKV]),
    Row("in_proj.beta",    Adapter("n_head", "d_model"),         &["self_attn.b_proj.weight"]),
    Row("in_proj.dt.a",    Adapter("rank_decay", "d_model"),     &["self_attn.f_a_proj.weight?"]),
    Row("in_proj.dt.b",    Adapter("n_head*d_key", "rank_decay"), &["self_attn.f_b_proj.weight?"]),
    Row("in_proj.dt",      Matrix("n_head*d_key", "d_model"),    &["self_attn.f_proj.weight?"]),
    Row("in_proj.z.a",     Adapter("rank_gate", "d_model"),      &["self_attn.g_a_proj.weight?"]),
    Row("in_proj.z.b",     Adapter("n_head*d_head", "rank_gate"), &["self_attn.g_b_proj.weight?"]),
    Row("in_proj.z.bias",  Channels("n_head*d_head"),            &["self_attn.g_b_proj.bias?"]),
    Row("in_proj.z",       Matrix("n_head*d_head", "d_model"),   &["self_attn.g_proj.weight?"]),
    Row("dt_bias",         Vector("n_head*d_key"),               &["self_attn.dt_bias"]),
    Row("A",               PerHead("n_head*d_key", "d_key"),     &["-exp(self_attn.A_log)"]),
    Row("conv.weight",     Blocked("d_qkv", "d_conv"),           &[CONV]),
    Row("conv.bias",       Channels("d_qkv"),                    &["0"]),
    Row("out_norm.weight", Vector("d_head"),                     &["self_attn.o_norm.weight"]),
    Row("out_proj",        Matrix("d_model", "n_head*d_head"),   &["self_attn.o_proj.weight"]),
];

const KEYS: &str =
    "self_attn.kv_b_proj.weight[0 of d_nope, d_value each n_attn_head][split]^T[flat]";
const VALUES: &str = "self_attn.kv_b_proj.weight[1 of d_nope, d_value each n_attn_head]";

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("attn.q_low",          Matrix("d_q_latent", "d_model"), &["self_attn.q_a_proj.weight?"]),
    Row("attn.q_norm.weight",  Vector("d_q_latent"),  &["self_attn.q_a_layernorm.weight?"]),
    Row("attn.q",              Matrix("n_attn_head*(d_nope + d_rope)", "d_model"),
        &["self_attn.q_proj.weight?"]),
    Row("attn.q",              Matrix("n_attn_head*(d_nope + d_rope)", "d_q_latent"),
        &["self_attn.q_b_proj.weight?"]),
    Row("attn.kv",             Matrix("d_kv_latent + d_rope", "d_model"),
        &["self_attn.kv_a_proj_with_mqa.weight"]),
    Row("attn.kv_norm.weight", Vector("d_kv_latent"), &["self_attn.kv_a_layernorm.weight"]),
    Row("attn.keys",           Experts("n_attn_head", "d_kv_latent", "d_nope"),  &[KEYS]),
    Row("attn.values",         Experts("n_attn_head", "d_value", "d_kv_latent"), &[VALUES]),
    Row("attn.gate",           Matrix("n_attn_head", "d_model"),
        &["self_attn.g_proj.weight?"]),
    Row("attn.out",            Matrix("d_model", "n_attn_head*d_value"),
        &["self_attn.o_proj.weight"]),
];

const ROPE: &[Row] = &[Row("attn.rope", Vector("n_rot // 2"), &["rope({rope_base}, {n_rot})"])];
