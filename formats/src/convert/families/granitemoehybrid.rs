//! Granite-4-H checkpoints of Hugging Face (`GraniteMoeHybridForCausalLM`) without experts.
//!
//! Its multipliers are folded into matrices: the embedding's, the residual's into what comes out of
//! mixers and networks, the scaling of logits into the head, which is therefore stored apart from
//! the embedding. Layout: SPEC.md, "Hybrids". Test: `tests/parity_hybrid.rs`.

use super::hybrid::{
    ATTENTION, D_ATTN_HEAD, D_MODEL, DT, KINDS, MIXER, N_ATTN_HEAD, N_CONTEXT, N_CONV, N_KV_HEAD,
    N_LAYER, N_VOCAB,
};
use crate::convert::table::Kind::{Factor, Number, OneOf, Size};
use crate::convert::table::Shape::{Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling};

pub(super) const GRANITEMOEHYBRID: Architecture = Architecture {
    name: "granitemoehybrid",
    title: "Granite-4-H",
    model_types: &["granitemoehybrid"],
    layouts: &[
        Layout::new(&["layers.0.shared_mlp.input_linear.weight"], "layers.", 0).spelled(&BODY)
    ],
    hyper: HYPER,
    checks: &["d_inner % n_head = 0", "n_head % n_group = 0", "n_attn_head % n_kv_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, NETWORK),
        (Layers::Word("layer_types", "mamba2"), MIXER),
        (Layers::Word("layer_types", "mamba2"), MIXER_OUT),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), ATTENTION_OUT),
    ],
    ignored: &[],
};

const BODY: Spelling = Spelling { body: "model.", parts: &[] };

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("layer_types", "the kinds of the layers",      KINDS,
        &["config.layer_types | config.layers_block_type"]),
    Param("norm_eps",    "the norms' epsilon",           Number, &["config.rms_norm_eps"]),
    Param("activation",  "the activation",               OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    Param("d_ff",        "the network's width",          Size,
        &["config.shared_intermediate_size"]),
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
    Param("attn_scale",  "what scores are multiplied by", Number, &["config.attention_multiplier"]),
    Param("positions",   "the kind of positions",         OneOf(&["nope"]),
        &["config.position_embedding_type?"]),
    Param("embedding_multiplier", "the multiplier of the embedding", Factor,
        &["config.embedding_multiplier | 1"]),
    Param("residual_multiplier",  "the multiplier of residuals",     Factor,
        &["config.residual_multiplier | 1"]),
    Param("logits_scaling",       "the divisor of logits",           Factor,
        &["config.logits_scaling | 1"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"),
        &["{embedding_multiplier} * embed_tokens.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),
        &["{logits_scaling^-1} * lm_head.weight | {logits_scaling^-1} * embed_tokens.weight"]),
];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp_norm.weight", Vector("d_model"),         &["post_attention_layernorm.weight"]),
    Row("mlp.gate",        Matrix("d_ff", "d_model"), &["shared_mlp.input_linear.weight[0/2]"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"), &["shared_mlp.input_linear.weight[1/2]"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"),
        &["{residual_multiplier} * shared_mlp.output_linear.weight"]),
];

#[rustfmt::skip]
const MIXER_OUT: &[Row] = &[
    Row("out_proj",      Matrix("d_model", "d_inner"),
        &["{residual_multiplier} * mamba.out_proj.weight"]),
    Row("out_proj.bias", Vector("d_model"),
        &["{residual_multiplier} * mamba.out_proj.bias?"]),
];

#[rustfmt::skip]
const ATTENTION_OUT: &[Row] = &[
    Row("attn.out", Matrix("d_model", "n_attn_head*d_attn_head"),
        &["{residual_multiplier} * self_attn.o_proj.weight"]),
];
