//! Zamba checkpoints of Hugging Face.
//!
//! A transformer's tensors stand in the first layer that has it, and others share them. Heads of
//! Mamba-1 have a Δ, B and C each: their matrices stand along a diagonal here. Layout: SPEC.md,
//! "Zamba". Test: `tests/parity_hybrid.rs`.

use super::hybrid::{D_MODEL, N_ATTN_HEAD, N_CONTEXT, N_KV_HEAD, N_LAYER, N_VOCAB};
use super::pairs;
use crate::convert::table::Kind::{Flag, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Kind, Layers, Layout, Param, Row, Spelling};

pub(super) const ZAMBA: Architecture = Architecture {
    name: "zamba",
    title: "Zamba",
    model_types: &["zamba"],
    layouts: &[Layout::new(&["layers.0.mamba.x_proj_weight"], "layers.", 0)
        .spelled(&BODY)
        .nested(NESTED)],
    hyper: HYPER,
    checks: &["n_attn_head % n_kv_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, MIXER),
        (Layers::Word("layer_types", "owner"), LINEAR),
        (Layers::Word("layer_types", "owner"), ATTENTION),
        (Layers::Word("layer_types", "owner"), NETWORK),
        (Layers::Word("layer_types", "shared"), LINEAR),
    ],
    pairs: &[pairs::HEAD, pairs::BESIDE_SHARED],
    ignored: &[],
};

pub(super) const BODY: Spelling =
    Spelling { body: "model.", parts: &[(".shared_transformer.", ".shared_transf.")] };
/// Mamba in layers with a transformer.
pub(super) const NESTED: &str = "mamba_decoder.";
/// Kinds of layers: with a transformer's weights, with those of another layer, with none.
pub(super) const KINDS: Kind =
    Words(&[("owner", "owner"), ("shared", "shared"), ("mamba", "mamba")]);
pub(super) const LAYER_TYPES: Param =
    Param("layer_types", "the kinds of the layers", KINDS, &[WHERE]);
const WHERE: &str =
    "where(shared_transformer.self_attn.q_proj.weight, owner, linear.weight, shared, mamba)";
pub(super) const SHARED_HEAD: Param = Param(
    "d_attn_head",
    "the size of an attention head",
    Size,
    &["config.attention_head_dim | 2*d_model // n_attn_head"],
);
/// Heads are twice as large as they would be without the embedding.
pub(super) const SCALE: Param =
    Param("attn_scale", "what scores are multiplied by", Number, &[HALF_HEAD]);
const HALF_HEAD: &str = "(2^1 * d_attn_head^-1)^0.5";
pub(super) const GELU: Param = Param("exact_gelu", "whether networks have gelu", Flag, &["true"]);
pub(super) const ACTIVATION: Param =
    Param("activation", "the networks' activation", OneOf(&["gelu"]), &["config.hidden_act?"]);

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    LAYER_TYPES,
    Param("norm_eps",    "the norms' epsilon",       Number, &["config.rms_norm_eps | 1e-5"]),
    ACTIVATION,
    Param("mamba_activation", "Mamba's activation",  OneOf(&["silu", "swish"]),
        &["config.hidden_mamba_act?"]),
    GELU,
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    Param("d_ff",        "the network's width",      Size,   &[]),
    Param("d_inner",     "the width inside",         Size,
        &["config.mamba_expand*d_model | 2*d_model"]),
    Param("n_scan_head", "heads of Mamba",           Size,   &["first(mamba.A_log)"]),
    Param("d_scan",      "channels of a head",       Size,   &["second(mamba.A_log)"]),
    Param("d_state",     "the state's size",         Size,   &["last(mamba.A_log)"]),
    Param("head_rank",   "a head's rank of dt",      Size,   &["last(mamba.dt_proj_weight)"]),
    Param("dt_rank",     "the rank of dt",           Size,   &["n_scan_head*head_rank"]),
    Param("d_conv",      "the convolution's width",  Size,   &["last(mamba.conv1d.weight)"]),
    N_ATTN_HEAD,
    N_KV_HEAD,
    SHARED_HEAD,
    SCALE,
];

#[rustfmt::skip]
pub(super) const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["embed_tokens.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["final_layernorm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

const X_PROJ: &str = "diagonal(mamba.x_proj_weight, {0}, {head_rank}); \
    diagonal(mamba.x_proj_weight, {head_rank}, {head_rank + 2*d_state})";

#[rustfmt::skip]
const MIXER: &[Row] = &[
    Row("norm.weight",    Vector("d_model"),             &["input_layernorm.weight"]),
    Row("in_proj.x",      Matrix("d_inner", "d_model"),
        &["mamba.in_proj.weight[0 of 1, 1 each d_inner]"]),
    Row("in_proj.z",      Matrix("d_inner", "d_model"),
        &["mamba.in_proj.weight[1 of 1, 1 each d_inner]"]),
    Row("conv.weight",    Blocked("d_inner", "d_conv"),  &["mamba.conv1d.weight"]),
    Row("conv.bias",      Channels("d_inner"),           &["mamba.conv1d.bias | 0"]),
    Row("x_proj",         Adapter("dt_rank + 2*n_scan_head*d_state", "d_inner"), &[X_PROJ]),
    Row("dt_proj",        Adapter("d_inner", "dt_rank"),
        &["diagonal(mamba.dt_proj_weight, {0}, {d_scan})"]),
    Row("dt_proj.bias",   Channels("d_inner"),           &["mamba.dt_proj_bias"]),
    Row("A",              Blocked("d_inner", "d_state"), &["-exp(mamba.A_log[flat])"]),
    Row("D",              Channels("d_inner"),           &["mamba.D"]),
    Row("out_proj",       Matrix("d_model", "d_inner"),  &["mamba.out_proj.weight"]),
];

pub(super) const LINEAR: &[Row] =
    &[Row("linear", Matrix("d_model", "d_model"), &["linear.weight"])];

#[rustfmt::skip]
pub(super) const ATTENTION: &[Row] = &[
    Row("attn_norm.weight", Vector("2*d_model"),
        &["shared_transformer.input_layernorm.weight"]),
    Row("attn.q",           Matrix("n_attn_head*d_attn_head", "2*d_model"),
        &["shared_transformer.self_attn.q_proj.weight"]),
    Row("attn.k",           Matrix("n_kv_head*d_attn_head", "2*d_model"),
        &["shared_transformer.self_attn.k_proj.weight"]),
    Row("attn.v",           Matrix("n_kv_head*d_attn_head", "2*d_model"),
        &["shared_transformer.self_attn.v_proj.weight"]),
    Row("attn.out",         Matrix("d_model", "n_attn_head*d_attn_head"),
        &["shared_transformer.self_attn.o_proj.weight"]),
    Row("mlp_norm.weight",  Vector("d_model"),
        &["shared_transformer.pre_ff_layernorm.weight"]),
    Row("mlp.down",         Matrix("d_model", "d_ff"),
        &["shared_transformer.feed_forward.down_proj.weight"]),
];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp.gate", Matrix("d_ff", "d_model"),
        &["shared_transformer.feed_forward.gate_proj.weight"]),
    Row("mlp.up",   Matrix("d_ff", "d_model"),
        &["shared_transformer.feed_forward.up_proj.weight"]),
];
