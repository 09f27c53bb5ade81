//! MesaNet checkpoints of flash-linear-attention.
//!
//! λ is settled by the converter. Layout: SPEC.md, "MesaNet". Test: `tests/parity_delta.rs`.

use super::fla::{MLP, TRUNK};
use super::pairs;
use crate::convert::table::Kind::{Factor, Flag, Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const MESA_NET: Architecture = Architecture {
    name: "mesa_net",
    title: "MesaNet",
    model_types: &["mesa_net"],
    layouts: &[Layout::new(&["model.layers.0.attn.lambda_params"], "model.layers.", 0)],
    hyper: HYPER,
    checks: &[],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER), (Layers::If("has_gate"), GATE), (Layers::All, MLP)],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::NETWORK],
    ignored: &[],
};

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",       "the number of layers",      Size,
        &["config.num_hidden_layers | layers()"]),
    Param("norm_eps",      "the norms' epsilon",        Number, &["config.norm_eps | 1e-6"]),
    Param("activation",    "the activation",            OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    Param("attn", "layers of plain attention among the others", OneOf(&["null"]),
        &["config.attn?"]),
    Param("n_vocab",       "rows of the embedding",     Size,   &[]),
    Param("d_model",       "the width",                 Size,   &["config.hidden_size"]),
    Param("d_ff",          "the network's width",       Size,   &[]),
    Param("n_head",        "the number of heads",       Size,   &["first(attn.a_proj.weight)"]),
    Param("d_head",        "the size of a head",        Size,
        &["first(attn.v_proj.weight) // n_head"]),
    Param("d_conv",        "the convolution's width",   Size,   &["last(attn.q_conv1d.weight)"]),
    Param("has_gate",      "whether y is gated",        Flag,   &["has(attn.g_proj.weight)"]),
    Param("n_solver_step", "the solver's steps",        Size,
        &["config.max_cg_step_decoding | 30"]),
    Param("least_lambda",  "λ's lower bound",           Factor,
        &["config.lambda_lower_bound | 0.25"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("norm.weight",        Vector("d_model"),                     &["attn_norm.weight"]),
    Row("in_proj.qk",         Matrix("2*n_head*d_head", "d_model"),
        &["attn.q_proj.weight; attn.k_proj.weight"]),
    Row("conv.weight",        Blocked("2*n_head*d_head", "d_conv"),
        &["attn.q_conv1d.weight; attn.k_conv1d.weight"]),
    Row("conv.bias",          Channels("2*n_head*d_head"),
        &["attn.q_conv1d.bias; attn.k_conv1d.bias | 0"]),
    Row("in_proj.v",          Matrix("n_head*d_head", "d_model"),    &["attn.v_proj.weight"]),
    Row("in_proj.gates",      Adapter("2*n_head", "d_model"),
        &["attn.b_proj.weight; attn.a_proj.weight"]),
    Row("in_proj.gates.bias", Vector("2*n_head"),
        &["attn.b_proj.bias; attn.a_proj.bias"]),
    Row("lambda",             Vector("n_head*d_head"),
        &["softplus(attn.lambda_params) + {least_lambda}"]),
    Row("out_norm.weight",    Vector("d_head"),                      &["attn.o_norm.weight"]),
    Row("out_proj",           Matrix("d_model", "n_head*d_head"),    &["attn.o_proj.weight"]),
];

const GATE: &[Row] =
    &[Row("in_proj.z", Matrix("n_head*d_head", "d_model"), &["attn.g_proj.weight"])];
