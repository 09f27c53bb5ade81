//! HGRN checkpoints of flash-linear-attention, the first version.
//!
//! Layout: SPEC.md, "Linear attention". Test: `tests/parity_linear.rs`.

use super::fla::{ACTIVATION, D_FF, D_MODEL, MLP, N_LAYER, N_VOCAB, NO_ATTENTION, NORM_EPS, TRUNK};
use super::pairs;
use crate::convert::table::Kind::{Flag, Number, Size};
use crate::convert::table::Shape::{Blocked, Channels, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const HGRN: Architecture = Architecture {
    name: "hgrn",
    title: "HGRN",
    model_types: &["hgrn"],
    layouts: &[Layout::new(&["model.layers.0.attn.f_proj.weight"], "model.layers.", 0)],
    hyper: HYPER,
    checks: &[],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER), (Layers::If("has_conv"), CONVOLUTIONS), (Layers::All, MLP)],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::NETWORK],
    ignored: &[],
};

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    NORM_EPS,
    Param("out_norm_eps", "the last norm's epsilon", Number, &["norm_eps"]),
    ACTIVATION,
    NO_ATTENTION,
    N_VOCAB,
    D_MODEL,
    D_FF,
    Param("d_inner",      "the width inside",        Size,   &["first(attn.i_proj.weight)"]),
    Param("has_conv",     "whether there are convolutions", Flag,
        &["has(attn.i_conv1d.weight)"]),
    Param("d_conv",       "the convolution's width", Size,   &[]),
    Param("linear_conv",  "whether no silu follows the convolution", Flag, &["true"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),            &["attn_norm.weight"]),
    Row("in_proj.i",       Matrix("d_inner", "d_model"), &["attn.i_proj.weight"]),
    Row("in_proj.f",       Matrix("d_inner", "d_model"), &["attn.f_proj.weight"]),
    Row("in_proj.z",       Matrix("d_inner", "d_model"), &["attn.g_proj.weight"]),
    Row("least_decay",     Vector("d_inner"),  &["lower_bound(model.lower_bounds) | 0"]),
    Row("out_norm.weight", Vector("d_inner"),            &["attn.g_norm.weight | 1"]),
    Row("out_proj",        Matrix("d_model", "d_inner"), &["attn.o_proj.weight"]),
];

#[rustfmt::skip]
const CONVOLUTIONS: &[Row] = &[
    Row("conv_i.weight", Blocked("d_inner", "d_conv"), &["attn.i_conv1d.weight"]),
    Row("conv_i.bias",   Channels("d_inner"),          &["attn.i_conv1d.bias | 0"]),
    Row("conv_f.weight", Blocked("d_inner", "d_conv"), &["attn.f_conv1d.weight"]),
    Row("conv_f.bias",   Channels("d_inner"),          &["attn.f_conv1d.bias | 0"]),
];
