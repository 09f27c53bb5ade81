//! Nemotron-H checkpoints of Hugging Face without experts.
//!
//! A layer is one part: Mamba-2, attention without positions, or a squared-ReLU network. The time
//! steps' floor (`time_step_min`) acts in transformers on whole texts and not token by token: it is
//! not applied here. Layout: SPEC.md, "Hybrids". Test: `tests/parity_hybrid.rs`.

use super::hybrid::{
    ATTENTION, ATTENTION_OUT, D_ATTN_HEAD, D_MODEL, DT, KINDS, MIXER, MIXER_OUT, N_ATTN_HEAD,
    N_CONTEXT, N_CONV, N_KV_HEAD, N_LAYER, N_VOCAB,
};
use crate::convert::table::Kind::{Number, OneOf, Size};
use crate::convert::table::Shape::{Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling};

pub(super) const NEMOTRON_H: Architecture = Architecture {
    name: "nemotron_h",
    title: "Nemotron-H",
    model_types: &["nemotron_h"],
    layouts: &[Layout::new(&["layers.0.norm.weight"], "layers.", 0).spelled(&SPELLING)],
    hyper: HYPER,
    checks: &["d_inner % n_head = 0", "n_head % n_group = 0", "n_attn_head % n_kv_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::Word("layer_types", "mamba2"), MIXER),
        (Layers::Word("layer_types", "mamba2"), MIXER_OUT),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), ATTENTION_OUT),
        (Layers::Word("layer_types", "mlp"), NETWORK),
    ],
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

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("layer_types", "the kinds of the layers",    KINDS,
        &["config.layers_block_type | config.layer_types | config.hybrid_override_pattern"]),
    Param("norm_eps",    "the norms' epsilon",         Number,
        &["config.layer_norm_epsilon | config.rms_norm_eps"]),
    Param("activation",  "Mamba-2's activation",       OneOf(&["silu", "swish"]),
        &["config.mamba_hidden_act?"]),
    Param("relu2",       "the network's activation",   OneOf(&["relu2"]),
        &["config.mlp_hidden_act?"]),
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    Param("d_ff",        "the network's width",        Size,   &["config.intermediate_size"]),
    Param("n_head",      "the number of heads",        Size,   &["config.mamba_num_heads"]),
    Param("d_head",      "the head size",              Size,   &["config.mamba_head_dim"]),
    Param("d_inner",     "the width inside",           Size,   &["n_head*d_head"]),
    Param("d_conv",      "the convolution's width",    Size,   &["config.conv_kernel"]),
    Param("d_state",     "the state's size",           Size,   &["config.ssm_state_size"]),
    Param("n_group",     "the number of groups",       Size,   &["config.n_groups"]),
    N_CONV,
    DT,
    N_ATTN_HEAD,
    N_KV_HEAD,
    D_ATTN_HEAD,
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["embeddings.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["norm_f.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp_norm.weight", Vector("d_model"),         &["input_layernorm.weight"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"), &["mlp.up_proj.weight"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"), &["mlp.down_proj.weight"]),
];
