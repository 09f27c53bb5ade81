//! Log-linear Mamba-2 checkpoints of flash-linear-attention.
//!
//! Rows of in_proj: z, what the convolution takes, dt, then the levels' weights of each head. The
//! norm goes over all groups. Layout: SPEC.md, "Mamba". Test: `tests/parity_mamba.rs`.

use super::fla::MLP;
use super::mamba::{ACTIVATION, TRUNK};
use super::pairs;
use crate::convert::table::Kind::{Flag, Inner, Limits, Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const LOG_LINEAR_MAMBA2: Architecture = Architecture {
    name: "log_linear_mamba2",
    title: "Log-linear Mamba-2",
    model_types: &["log_linear_mamba2"],
    layouts: &[Layout::new(&["backbone.layers.0.mixer.L"], "backbone.layers.", 0)],
    hyper: HYPER,
    checks: &[
        "d_inner % n_head = 0",
        "n_head % n_group = 0",
        "n_conv = d_inner + 2*n_group*d_state",
    ],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER), (Layers::All, MLP)],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::NETWORK],
    ignored: &[],
};

#[rustfmt::skip]
const HYPER: &[Param] = &[
    ACTIVATION,
    Param("n_layer",          "the number of layers",          Size,
        &["config.num_hidden_layers | layers()"]),
    Param("norm_eps",         "the norms' epsilon",            Number, &["config.norm_eps | 1e-5"]),
    Param("norm",             "whether y is normed",           OneOf(&["true"]),
        &["config.rmsnorm?"]),
    Param("norm_before_gate", "whether the norm stands before the gate", OneOf(&["false"]),
        &["config.norm_before_gate?"]),
    Param("wide_norm",        "whether the norm goes over all groups", Flag, &["true"]),
    Param("n_vocab",          "rows of the embedding",         Size,   &[]),
    Param("d_model",          "the width",                     Size,   &[]),
    Param("d_ff",             "the network's width",           Size,   &[]),
    Param("n_head",           "the number of heads",           Size,   &["first(mixer.A_log)"]),
    Param("n_level",          "the number of levels",          Size,   &["last(mixer.L)"]),
    Param("d_inner",          "the width inside",              Size,
        &["last(mixer.out_proj.weight)"]),
    Param("d_head",           "the head size",                 Size,   &["d_inner // n_head"]),
    Param("n_conv",           "channels of the convolution",   Inner,
        &["first(mixer.conv1d.weight)"]),
    Param("d_conv",           "the convolution's width",       Size,
        &["last(mixer.conv1d.weight)"]),
    Param("n_group",          "the number of groups",          Size,   &["config.n_groups | 1"]),
    Param("d_state",          "the state's size",              Size,
        &["config.state_size | (n_conv - d_inner) // (2*n_group)"]),
    Param("dt",               "the limits of dt",              Limits,
        &["config.dt_limit | config.time_step_limit?"]),
];

const Z: &str = "mixer.in_proj.weight[0 of d_inner, n_conv, n_head, n_head*n_level]";
const XBC: &str = "mixer.in_proj.weight[1 of d_inner, n_conv, n_head, n_head*n_level]";
const STEP: &str = "mixer.in_proj.weight[2 of d_inner, n_conv, n_head, n_head*n_level]";
const LEVELS: &str = "mixer.in_proj.weight[3 of d_inner, n_conv, n_head, n_head*n_level]";
const DT_BIAS: &str = "mixer.dt_bias \
    + mixer.in_proj.bias[2 of d_inner, n_conv, n_head, n_head*n_level] | mixer.dt_bias";

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("norm.weight",         Vector("d_model"),                &["mixer_norm.weight"]),
    Row("in_proj.z",           Matrix("d_inner", "d_model"),     &[Z]),
    Row("in_proj.z.bias",      Channels("d_inner"),
        &["mixer.in_proj.bias[0 of d_inner, n_conv, n_head, n_head*n_level]?"]),
    Row("in_proj.xbc",         Matrix("n_conv", "d_model"),      &[XBC]),
    Row("in_proj.xbc.bias",    Channels("n_conv"),
        &["mixer.in_proj.bias[1 of d_inner, n_conv, n_head, n_head*n_level]?"]),
    Row("in_proj.dt",          Adapter("n_head", "d_model"),     &[STEP]),
    Row("dt_bias",             Vector("n_head"),                 &[DT_BIAS]),
    Row("in_proj.levels",      Adapter("n_head*n_level", "d_model"), &[LEVELS]),
    Row("in_proj.levels.bias", Channels("n_head*n_level"),
        &["mixer.in_proj.bias[3 of d_inner, n_conv, n_head, n_head*n_level]?"]),
    Row("level_scale",         Vector("n_head*n_level"),         &["mixer.L"]),
    Row("conv.weight",         Blocked("n_conv", "d_conv"),      &["mixer.conv1d.weight"]),
    Row("conv.bias",           Channels("n_conv"),               &["mixer.conv1d.bias | 0"]),
    Row("A",                   Vector("n_head"),                 &["-exp(mixer.A_log)"]),
    Row("D",                   Vector("n_head"),                 &["mixer.D"]),
    Row("gated_norm.weight",   Vector("d_inner"),                &["mixer.norm.weight"]),
    Row("out_proj",            Matrix("d_model", "d_inner"),     &["mixer.out_proj.weight"]),
    Row("out_proj.bias",       Vector("d_model"),                &["mixer.out_proj.bias?"]),
];
