//! Bamba checkpoints of Hugging Face.
//!
//! Half of an attention head turns. Layout: SPEC.md, "Hybrids". Test:
//! `tests/parity_hybrid.rs`.

use super::hybrid::{
    ATTENTION, ATTENTION_OUT, D_ATTN_HEAD, D_MODEL, DT, KINDS, MIXER, MIXER_OUT, N_ATTN_HEAD,
    N_CONTEXT, N_CONV, N_KV_HEAD, N_LAYER, N_VOCAB, ROPE, ROPE_BASE,
};
use super::pairs;
use crate::convert::table::Kind::{Number, OneOf, Size};
use crate::convert::table::Shape::{Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling};

pub(super) const BAMBA: Architecture = Architecture {
    name: "bamba",
    title: "Bamba",
    model_types: &["bamba"],
    layouts: &[Layout::new(&["layers.0.pre_ff_layernorm.weight"], "layers.", 0).spelled(&BODY)],
    hyper: HYPER,
    checks: &["d_inner % n_head = 0", "n_head % n_group = 0", "n_attn_head % n_kv_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, NETWORK),
        (Layers::Word("layer_types", "mamba2"), MIXER),
        (Layers::Word("layer_types", "mamba2"), MIXER_OUT),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), ROPE),
        (Layers::Word("layer_types", "attention"), ATTENTION_OUT),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

const BODY: Spelling = Spelling { body: "model.", parts: &[] };
const TURNING: &str = "config.rope_parameters.partial_rotary_factor*d_attn_head // 1 \
    | config.partial_rotary_factor*d_attn_head // 1 | config.attn_rotary_emb | d_attn_head // 2";

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("layer_types", "the kinds of the layers",      KINDS, &[
        "config.layer_types | config.layers_block_type | listed(config.attn_layer_indices, mamba)",
    ]),
    Param("norm_eps",    "the norms' epsilon",           Number, &["config.rms_norm_eps"]),
    Param("activation",  "the activation",               OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    Param("d_ff",        "the network's width",          Size,   &[]),
    Param("n_head",      "the number of heads",          Size,   &["config.mamba_n_heads"]),
    Param("d_inner",     "the width inside",             Size,
        &["config.mamba_expand*d_model | 2*d_model"]),
    Param("d_head",      "the head size",                Size,   &["d_inner // n_head"]),
    Param("d_conv",      "the convolution's width",      Size,   &["config.mamba_d_conv"]),
    Param("d_state",     "the state's size",             Size,   &["config.mamba_d_state"]),
    Param("n_group",     "the number of groups",         Size,   &["config.mamba_n_groups"]),
    N_CONV,
    DT,
    N_ATTN_HEAD,
    N_KV_HEAD,
    D_ATTN_HEAD,
    Param("n_rot",       "channels that turn",           Size,   &[TURNING]),
    ROPE_BASE,
    Param("rope_type",   "the kind of rotary positions", OneOf(&["default"]),
        &["config.rope_parameters.rope_type | config.rope_scaling.rope_type?"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["embed_tokens.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["final_layernorm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp_norm.weight", Vector("d_model"),         &["pre_ff_layernorm.weight"]),
    Row("mlp.gate",        Matrix("d_ff", "d_model"), &["feed_forward.gate_proj.weight"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"), &["feed_forward.up_proj.weight"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"), &["feed_forward.down_proj.weight"]),
];
