//! Mamba-3 checkpoints of flash-linear-attention, with one input and one output (no MIMO).
//!
//! Rows of in_proj: z, x, then B and C, then what makes steps: dt, A, λ, angles. Layout: SPEC.md,
//! "Mamba". Test: `tests/parity_mamba.rs`.

use super::pairs;
use crate::convert::table::Kind::{Inner, Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const MAMBA3: Architecture = Architecture {
    name: "mamba3",
    title: "Mamba-3",
    model_types: &["mamba3"],
    layouts: &[Layout::new(&["backbone.layers.0.mixer.B_norm.weight"], "backbone.layers.", 0)],
    hyper: HYPER,
    checks: &["d_inner % n_head = 0", "n_head % n_group = 0"],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER)],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT],
    ignored: &[],
};

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",    "the number of layers",         Size,
        &["config.num_hidden_layers | layers()"]),
    Param("norm_eps",   "the norms' epsilon",           Number, &["config.norm_eps | 1e-5"]),
    Param("activation", "the activation",               OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    Param("mimo",       "whether a head has several inputs", OneOf(&["false"]),
        &["config.is_mimo?"]),
    Param("n_vocab",    "rows of the embedding",        Size,   &[]),
    Param("d_model",    "the width",                    Size,   &[]),
    Param("n_head",     "the number of heads",          Size,   &["first(mixer.D)"]),
    Param("d_inner",    "the width inside",             Size,   &["last(mixer.out_proj.weight)"]),
    Param("d_head",     "the head size",                Size,   &["d_inner // n_head"]),
    Param("d_state",    "the state's size",             Size,   &["first(mixer.B_norm.weight)"]),
    Param("n_group",    "the number of groups",         Size,   &["config.n_groups | 1"]),
    Param("n_bc",       "rows of B and C",              Inner,  &["2*n_group*d_state"]),
    Param("n_pair",     "pairs that turn",              Size,
        &["first(mixer.in_proj.weight) - 2*d_inner - n_bc - 3*n_head"]),
    Param("n_rates",    "rows of steps",                Inner,  &["3*n_head + n_pair"]),
    Param("a_floor",    "the least -A",                 Number, &["config.A_floor | 1e-4"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["backbone.embeddings.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["backbone.norm_f.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("norm.weight",       Vector("d_model"),            &["norm.weight"]),
    Row("in_proj.z",         Matrix("d_inner", "d_model"),
        &["mixer.in_proj.weight[0 of d_inner, d_inner, n_bc, n_rates]"]),
    Row("in_proj.x",         Matrix("d_inner", "d_model"),
        &["mixer.in_proj.weight[1 of d_inner, d_inner, n_bc, n_rates]"]),
    Row("in_proj.bc",        Matrix("n_bc", "d_model"),
        &["mixer.in_proj.weight[2 of d_inner, d_inner, n_bc, n_rates]"]),
    Row("in_proj.rates",     Adapter("n_rates", "d_model"),
        &["mixer.in_proj.weight[3 of d_inner, d_inner, n_bc, n_rates]"]),
    Row("dt_bias",           Vector("n_head"),             &["mixer.dt_bias"]),
    Row("b_norm.weight",     Vector("d_state"),            &["mixer.B_norm.weight"]),
    Row("c_norm.weight",     Vector("d_state"),            &["mixer.C_norm.weight"]),
    Row("b_bias",            Vector("n_head*d_state"),     &["mixer.B_bias"]),
    Row("c_bias",            Vector("n_head*d_state"),     &["mixer.C_bias"]),
    Row("D",                 Vector("n_head"),             &["mixer.D"]),
    Row("gated_norm.weight", Vector("d_inner"),            &["mixer.norm.weight?"]),
    Row("out_proj",          Matrix("d_model", "d_inner"), &["mixer.out_proj.weight"]),
];
