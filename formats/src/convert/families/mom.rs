//! Checkpoints of flash-linear-attention with a mixture of memories.
//!
//! Projections of the memories stand below each other, that of all tokens' last. Layout: SPEC.md,
//! "DeltaNet". Test: `tests/parity_linear.rs`.

use super::fla::{
    ACTIVATION, D_FF, D_MODEL, GATE, MLP, N_LAYER, N_VOCAB, NO_ATTENTION, NORM_EPS, TRUNK,
};
use super::pairs;
use crate::convert::table::Kind::{Flag, Inner, Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Experts, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const MOM: Architecture = Architecture {
    name: "mom",
    title: "MoM",
    model_types: &["mom"],
    layouts: &[Layout::new(&["model.layers.0.attn.gate.weight"], "model.layers.", 0)],
    hyper: HYPER,
    checks: &[],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER), (Layers::If("has_gate"), GATE), (Layers::All, MLP)],
    pairs: &[pairs::HEAD, pairs::MEMORIES, pairs::OUTPUT, pairs::UP_DOWN],
    ignored: &[],
};

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    NORM_EPS,
    Param("out_norm_eps",  "the heads' norm's epsilon",    Number, &["norm_eps"]),
    ACTIVATION,
    NO_ATTENTION,
    Param("backend",       "the kind of memories",         OneOf(&["gated_deltanet"]),
        &["config.mom_backend?"]),
    N_VOCAB,
    D_MODEL,
    D_FF,
    Param("d_conv",        "the convolution's width",      Size,
        &["last(attn.q_conv1d.weight)"]),
    Param("n_head",        "the number of heads",          Size,   &["first(attn.A_log)"]),
    Param("d_key",         "the size of a head of keys",   Size,
        &["first(attn.q_proj.weight) // n_head"]),
    Param("d_head",        "the size of a head of values", Size,   &["first(attn.o_norm.weight)"]),
    Param("has_gate",      "whether y is gated",           Flag,   &["has(attn.g_proj.weight)"]),
    Param("n_expert",      "the memories of the router",   Size,   &["first(attn.gate.weight)"]),
    Param("n_expert_used", "memories of a token",          Size,   &["config.topk"]),
    Param("has_router_norm", "whether scores are normed",  Flag,   &["true"]),
    Param("has_shared_memory", "whether all tokens share one memory", Flag,
        &["config.shared_mem | false"]),
    Param("shares_projections", "whether memories share projections", Flag,
        &["config.single_kv_proj | false"]),
    Param("n_own",         "projections of memories",      Inner,
        &["1 if shares_projections=1 | n_expert + has_shared_memory"]),
];

const K: &str = "attn.shared_k.weight if shares_projections=1 \
    | attn.k_proj.*.weight; attn.shared_k.weight if has_shared_memory=1 | attn.k_proj.*.weight";
const V: &str = "attn.shared_v.weight if shares_projections=1 \
    | attn.v_proj.*.weight; attn.shared_v.weight if has_shared_memory=1 | attn.v_proj.*.weight";
const B: &str = "attn.shared_b.weight if shares_projections=1 \
    | attn.b_proj.*.weight; attn.shared_b.weight if has_shared_memory=1 | attn.b_proj.*.weight";
const A: &str = "attn.shared_a.weight if shares_projections=1 \
    | attn.a_proj.*.weight; attn.shared_a.weight if has_shared_memory=1 | attn.a_proj.*.weight";

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),                            &["attn_norm.weight"]),
    Row("router.weight",   Blocked("n_expert", "d_model"),               &["attn.gate.weight"]),
    Row("in_proj.q",       Experts("1", "n_head*d_key", "d_model"),      &["attn.q_proj.weight"]),
    Row("in_proj.k",       Experts("n_own", "n_head*d_key", "d_model"),  &[K]),
    Row("in_proj.v",       Experts("n_own", "n_head*d_head", "d_model"), &[V]),
    Row("in_proj.beta",    Adapter("n_own*n_head", "d_model"),           &[B]),
    Row("in_proj.dt",      Adapter("n_own*n_head", "d_model"),           &[A]),
    Row("dt_bias",         Vector("n_head"),                             &["attn.dt_bias"]),
    Row("A",               Vector("n_head"),                             &["-exp(attn.A_log)"]),
    Row("conv_q.weight",   Blocked("n_head*d_key", "d_conv"),   &["attn.q_conv1d.weight"]),
    Row("conv_q.bias",     Channels("n_head*d_key"),            &["attn.q_conv1d.bias | 0"]),
    Row("conv_k.weight",   Blocked("n_head*d_key", "d_conv"),   &["attn.k_conv1d.weight"]),
    Row("conv_k.bias",     Channels("n_head*d_key"),            &["attn.k_conv1d.bias | 0"]),
    Row("conv_v.weight",   Blocked("n_head*d_head", "d_conv"),  &["attn.v_conv1d.weight"]),
    Row("conv_v.bias",     Channels("n_head*d_head"),           &["attn.v_conv1d.bias | 0"]),
    Row("out_norm.weight", Vector("d_head"),                    &["attn.o_norm.weight"]),
    Row("out_proj",        Matrix("d_model", "n_head*d_head"),
        &["attn.o_proj.weight"]),
];
