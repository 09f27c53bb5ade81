//! Jamba checkpoints: Hugging Face, GGUF.
//!
//! Mamba-1 whose dt, B and C are normed, with weights, and attention without positions; behind both
//! a network, or experts. Layout: SPEC.md, "Hybrids", "Experts". Test: `tests/parity_experts.rs`.

use super::hybrid::{
    ATTENTION, ATTENTION_OUT, D_ATTN_HEAD, D_MODEL, N_ATTN_HEAD, N_CONTEXT, N_KV_HEAD, N_LAYER,
    N_VOCAB, NETWORKS,
};
use super::pairs;
use crate::convert::table::Kind::{Number, OneOf, Size, Words};
use crate::convert::table::Shape::{
    Adapter, Blocked, Channels, Embedding, Experts, Head, Matrix, Vector,
};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling};

pub(super) const JAMBA: Architecture = Architecture {
    name: "jamba",
    title: "Jamba",
    model_types: &["jamba"],
    layouts: &[
        Layout::new(&["layers.0.pre_ff_layernorm.weight"], "layers.", 0).spelled(&BODY),
        Layout::new(&["blk.0.ffn_norm.weight"], "blk.", 1),
    ],
    hyper: HYPER,
    checks: &["n_attn_head % n_kv_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORM),
        (Layers::Word("network_types", "mlp"), NETWORK),
        (Layers::Word("network_types", "experts"), EXPERTS),
        (Layers::Word("layer_types", "mamba1"), MIXER),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), ATTENTION_OUT),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::STEP, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

const BODY: Spelling = Spelling { body: "model.", parts: &[] };

const RANK: &str = "(config.hidden_size + 15) // 16 if config.mamba_dt_rank=auto \
    | config.mamba_dt_rank | (config.hidden_size + 15) // 16";

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("layer_types",   "the kinds of the layers",   Words(&[
        ("mamba1", "mamba1"), ("attention", "attention"),
    ]), &[
        "where(mamba.in_proj.weight, mamba1, attention)",
        "where(ssm_in.weight, mamba1, attention)",
    ]),
    Param("network_types", "the kinds of the networks", NETWORKS, &[
        "where(feed_forward.router.weight, experts, mlp)",
        "where(ffn_gate_inp.weight, experts, mlp)",
    ]),
    Param("norm_eps",      "the norms' epsilon",        Number,
        &["config.rms_norm_eps", "gguf.attention.layer_norm_rms_epsilon"]),
    Param("bcdt_rms_eps",  "the epsilon of the norms of dt, B, C", Number,
        &["norm_eps", "norm_eps"]),
    Param("activation",    "the activation",            OneOf(&["silu", "swish"]),
        &["config.hidden_act?", ""]),
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    Param("d_ff",          "the network's width",       Size,   &[]),
    Param("d_inner",       "the width inside",          Size,
        &["config.mamba_expand*d_model | 2*d_model", "gguf.ssm.inner_size"]),
    Param("d_state",       "the state's size",          Size,
        &["config.mamba_d_state", "gguf.ssm.state_size"]),
    Param("d_conv",        "the convolution's width",   Size,
        &["config.mamba_d_conv", "gguf.ssm.conv_kernel"]),
    Param("dt_rank",       "the rank of dt",            Size,   &[RANK, "gguf.ssm.time_step_rank"]),
    N_ATTN_HEAD,
    N_KV_HEAD,
    D_ATTN_HEAD,
    Param("n_expert",      "the number of experts",     Size,
        &["config.num_experts?", "gguf.expert_count?"]),
    Param("n_expert_used", "experts of a token",        Size,
        &["config.num_experts_per_tok?", "gguf.expert_used_count?"]),
    Param("d_expert",      "an expert's width",         Size, &[
        "config.intermediate_size",
        "gguf.expert_feed_forward_length | gguf.feed_forward_length",
    ]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"),
        &["embed_tokens.weight", "token_embd.weight"]),
    Row("norm_f.weight", Vector("d_model"),
        &["final_layernorm.weight", "output_norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),
        &["lm_head.weight?", "output.weight?"]),
];

const NORM: &[Row] =
    &[Row("mlp_norm.weight", Vector("d_model"), &["pre_ff_layernorm.weight", "ffn_norm.weight"])];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp.gate", Matrix("d_ff", "d_model"),
        &["feed_forward.gate_proj.weight", "ffn_gate.weight"]),
    Row("mlp.up",   Matrix("d_ff", "d_model"),
        &["feed_forward.up_proj.weight", "ffn_up.weight"]),
    Row("mlp.down", Matrix("d_model", "d_ff"),
        &["feed_forward.down_proj.weight", "ffn_down.weight"]),
];

/// Of one tensor for each expert, or of the halves of one for all.
const GATE: &str = "feed_forward.experts.*.gate_proj.weight \
    | feed_forward.experts.gate_up_proj[flat][0 of d_expert, d_expert each n_expert]";
const UP: &str = "feed_forward.experts.*.up_proj.weight \
    | feed_forward.experts.gate_up_proj[flat][1 of d_expert, d_expert each n_expert]";

#[rustfmt::skip]
const EXPERTS: &[Row] = &[
    Row("router.weight", Blocked("n_expert", "d_model"),
        &["feed_forward.router.weight", "ffn_gate_inp.weight"]),
    Row("experts.gate",  Experts("n_expert", "d_expert", "d_model"),
        &[GATE, "ffn_gate_exps.weight[flat]"]),
    Row("experts.up",    Experts("n_expert", "d_expert", "d_model"),
        &[UP, "ffn_up_exps.weight[flat]"]),
    Row("experts.down",  Experts("n_expert", "d_model", "d_expert"), &[
        "feed_forward.experts.*.down_proj.weight | feed_forward.experts.down_proj[flat]",
        "ffn_down_exps.weight[flat]",
    ]),
];

const NORMS: &str = "mamba.dt_layernorm.weight; mamba.b_layernorm.weight; mamba.c_layernorm.weight";

#[rustfmt::skip]
const MIXER: &[Row] = &[
    Row("norm.weight",      Vector("d_model"),
        &["input_layernorm.weight", "attn_norm.weight"]),
    Row("in_proj.x",        Matrix("d_inner", "d_model"),
        &["mamba.in_proj.weight[0/2]", "ssm_in.weight[0/2]"]),
    Row("in_proj.x.bias",   Channels("d_inner"),           &["mamba.in_proj.bias[0/2]?", ""]),
    Row("in_proj.z",        Matrix("d_inner", "d_model"),
        &["mamba.in_proj.weight[1/2]", "ssm_in.weight[1/2]"]),
    Row("in_proj.z.bias",   Channels("d_inner"),           &["mamba.in_proj.bias[1/2]?", ""]),
    Row("conv.weight",      Blocked("d_inner", "d_conv"),
        &["mamba.conv1d.weight", "ssm_conv1d.weight"]),
    Row("conv.bias",        Channels("d_inner"),
        &["mamba.conv1d.bias | 0", "ssm_conv1d.bias | 0"]),
    Row("x_proj",           Adapter("dt_rank + 2*d_state", "d_inner"),
        &["mamba.x_proj.weight", "ssm_x.weight"]),
    Row("bcdt_norm.weight", Vector("dt_rank + 2*d_state"),
        &[NORMS, "ssm_dt_norm.weight; ssm_b_norm.weight; ssm_c_norm.weight"]),
    Row("dt_proj",          Adapter("d_inner", "dt_rank"),
        &["mamba.dt_proj.weight", "ssm_dt.weight"]),
    Row("dt_proj.bias",     Channels("d_inner"),           &["mamba.dt_proj.bias", "ssm_dt.bias"]),
    Row("A",                Blocked("d_inner", "d_state"), &["-exp(mamba.A_log)", "ssm_a"]),
    Row("D",                Channels("d_inner"),           &["mamba.D", "ssm_d"]),
    Row("out_proj",         Matrix("d_model", "d_inner"),
        &["mamba.out_proj.weight", "ssm_out.weight"]),
    Row("out_proj.bias",    Vector("d_model"),             &["mamba.out_proj.bias?", ""]),
];
