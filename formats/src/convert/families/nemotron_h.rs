//! Nemotron-H checkpoints, with experts or without: Hugging Face, GGUF.
//!
//! A layer is one part: Mamba-2, attention without positions, a squared-ReLU network, or experts
//! that are such networks, maybe in a latent space. The time steps' floor (`time_step_min`) acts in
//! transformers on whole texts and not token by token: it is not applied here. Layout: SPEC.md,
//! "Hybrids", "Experts". Test: `tests/parity_hybrid.rs`, `tests/parity_experts.rs`.

use super::hybrid::{
    ATTENTION, ATTENTION_OUT, D_ATTN_HEAD, D_MODEL, DT, KINDS, MIXER, MIXER_OUT, N_ATTN_HEAD,
    N_CONTEXT, N_CONV, N_KV_HEAD, N_LAYER, N_VOCAB,
};
use super::pairs;
use crate::convert::table::Kind::{Flag, Number, OneOf, Size};
use crate::convert::table::Shape::{Blocked, Embedding, Experts, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling};

pub(super) const NEMOTRON_H: Architecture = Architecture {
    name: "nemotron_h",
    title: "Nemotron-H",
    model_types: &["nemotron_h", "nemotron_h_moe"],
    layouts: &[
        Layout::new(&["layers.0.norm.weight"], "layers.", 0).spelled(&SPELLING),
        Layout::new(&["blk.0.attn_norm.weight"], "blk.", 1),
    ],
    hyper: HYPER,
    checks: &["d_inner % n_head = 0", "n_head % n_group = 0", "n_attn_head % n_kv_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::Word("layer_types", "mamba2"), MIXER),
        (Layers::Word("layer_types", "mamba2"), MIXER_OUT),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), ATTENTION_OUT),
        (Layers::Word("layer_types", "mlp"), NORM),
        (Layers::Word("layer_types", "mlp"), NETWORK),
        (Layers::Word("layer_types", "experts"), NORM),
        (Layers::Word("layer_types", "experts"), EXPERTS),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::VALUES, pairs::RELU_NETWORK],
    ignored: &["mtp."],
};

/// Every part is called a mixer.
const SPELLING: Spelling = Spelling {
    body: "backbone.",
    parts: &[
        (".input_layernorm.", ".norm."),
        (".mamba.", ".mixer."),
        (".self_attn.", ".mixer."),
        (".mlp.", ".mixer."),
    ],
};

/// GGUF's kinds, by the tensors that each has.
const BY_TENSORS: &str =
    "where(ssm_in.weight, mamba, attn_q.weight, attention, ffn_gate_inp.weight, moe, mlp)";

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("layer_types", "the kinds of the layers",    KINDS, &[
        "config.layers_block_type | config.layer_types | config.hybrid_override_pattern",
        BY_TENSORS,
    ]),
    Param("norm_eps",    "the norms' epsilon",         Number, &[
        "config.layer_norm_epsilon | config.rms_norm_eps",
        "gguf.attention.layer_norm_epsilon | gguf.attention.layer_norm_rms_epsilon",
    ]),
    Param("activation",  "Mamba-2's activation",       OneOf(&["silu", "swish"]),
        &["config.mamba_hidden_act?", ""]),
    Param("relu2",       "the network's activation",   OneOf(&["relu2"]),
        &["config.mlp_hidden_act?", ""]),
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    Param("d_ff",        "the network's width",        Size,   &[]),
    Param("n_head",      "the number of heads",        Size,
        &["config.mamba_num_heads", "gguf.ssm.time_step_rank"]),
    Param("d_head",      "the head size",              Size,
        &["config.mamba_head_dim", "gguf.ssm.inner_size // n_head"]),
    Param("d_inner",     "the width inside",           Size,
        &["n_head*d_head", "gguf.ssm.inner_size"]),
    Param("d_conv",      "the convolution's width",    Size,
        &["config.conv_kernel | config.mamba_d_conv", "gguf.ssm.conv_kernel"]),
    Param("d_state",     "the state's size",           Size,
        &["config.ssm_state_size", "gguf.ssm.state_size"]),
    Param("n_group",     "the number of groups",       Size,
        &["config.n_groups | config.mamba_n_groups", "gguf.ssm.group_count"]),
    N_CONV,
    DT,
    N_ATTN_HEAD,
    N_KV_HEAD,
    D_ATTN_HEAD,
    Param("n_expert",           "the number of experts",          Size,
        &["config.n_routed_experts?", "gguf.expert_count?"]),
    Param("n_expert_used",      "experts of a token",             Size,
        &["config.num_experts_per_tok?", "gguf.expert_used_count?"]),
    Param("n_expert_group",     "groups of experts",              Size,
        &["config.n_group?", "gguf.expert_group_count?"]),
    Param("n_expert_group_used", "groups of a token",             Size,
        &["config.topk_group?", "gguf.expert_group_used_count?"]),
    Param("d_expert",           "an expert's width",              Size,
        &["config.moe_intermediate_size?", "gguf.expert_feed_forward_length?"]),
    Param("d_shared",           "the shared expert's width",      Size, &[
        "config.moe_shared_expert_intermediate_size?",
        "gguf.expert_shared_feed_forward_length?",
    ]),
    Param("d_latent",           "the width of experts' inputs",   Size,
        &["config.moe_latent_size?", "gguf.moe_latent_size?"]),
    Param("d_in",               "the width that experts see",     Size,
        &["d_latent | d_model", "d_latent | d_model"]),
    Param("has_relu_experts",   "whether experts have no gate",   Flag,   &["true", "true"]),
    Param("has_sigmoid_router", "whether scores are sigmoid",     Flag,   &["true", "true"]),
    Param("has_router_norm",    "whether scores are normed",      Flag,
        &["config.norm_topk_prob | true", "gguf.expert_weights_norm | true"]),
    Param("router_eps",         "the epsilon of that norm",       Number, &["1e-20", "1e-20"]),
    Param("router_scale",       "what weights are multiplied by", Number,
        &["config.routed_scaling_factor | 1", "gguf.expert_weights_scale | 1"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"),
        &["embeddings.weight", "token_embd.weight"]),
    Row("norm_f.weight", Vector("d_model"),
        &["norm_f.weight", "output_norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),
        &["lm_head.weight?", "output.weight?"]),
];

const NORM: &[Row] =
    &[Row("mlp_norm.weight", Vector("d_model"), &["input_layernorm.weight", "attn_norm.weight"])];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp.up",   Matrix("d_ff", "d_model"), &["mlp.up_proj.weight", "ffn_up.weight"]),
    Row("mlp.down", Matrix("d_model", "d_ff"), &["mlp.down_proj.weight", "ffn_down.weight"]),
];

#[rustfmt::skip]
const EXPERTS: &[Row] = &[
    Row("router.weight", Blocked("n_expert", "d_model"),
        &["mlp.gate.weight", "ffn_gate_inp.weight"]),
    Row("router.bias",   Vector("n_expert"),
        &["mlp.gate.e_score_correction_bias", "exp_probs_b.bias?"]),
    Row("experts.up",    Experts("n_expert", "d_expert", "d_in"), &[
        "mlp.experts.*.up_proj.weight | mlp.experts.up_proj[flat]",
        "ffn_up_exps.weight[flat]",
    ]),
    Row("experts.down",  Experts("n_expert", "d_in", "d_expert"), &[
        "mlp.experts.*.down_proj.weight | mlp.experts.down_proj[flat]",
        "ffn_down_exps.weight[flat]",
    ]),
    Row("shared.up",     Matrix("d_shared", "d_model"),
        &["mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"]),
    Row("shared.down",   Matrix("d_model", "d_shared"),
        &["mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"]),
    Row("latent.down",   Matrix("d_latent", "d_model"),
        &["mlp.fc1_latent_proj.weight?", "ffn_latent_down.weight?"]),
    Row("latent.up",     Matrix("d_model", "d_latent"),
        &["mlp.fc2_latent_proj.weight?", "ffn_latent_up.weight?"]),
];
