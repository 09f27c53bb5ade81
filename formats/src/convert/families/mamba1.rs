//! Mamba-1 checkpoints: Hugging Face (`MambaForCausalLM`, `FalconMambaForCausalLM`), state-spaces,
//! GGUF, or bare weights.
//!
//! Falcon-Mamba norms dt, B and C (`mixer_rms_eps`, by default 1e-6; llama.cpp does it with the
//! block norms' epsilon). Layout: SPEC.md, "Mamba-1". Test: `tests/parity_mamba.rs`.

use super::mamba::{ACTIVATION, N_LAYER, NORM_EPS, TRUNK, layouts};
use super::pairs;
use crate::convert::table::Kind::{Number, Size};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const MAMBA1: Architecture = Architecture {
    name: "mamba1",
    title: "Mamba-1",
    model_types: &[],
    layouts: LAYOUTS,
    hyper: HYPER,
    checks: &[],
    trunk: TRUNK,
    layers: &[(Layers::All, NORM), (Layers::All, MIXER)],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::STEP],
    ignored: &[],
};

const LAYOUTS: &[Layout] = &layouts([
    &["backbone.layers.0.mixer.x_proj.weight"],
    &["blk.0.ssm_x.weight"],
    &["layers.0.mixer.x_proj.weight"],
]);

#[rustfmt::skip]
const HYPER: &[Param] = &[
    ACTIVATION,
    N_LAYER,
    NORM_EPS,
    Param("n_vocab",      "rows of the embedding",                Size,   &[]),
    Param("d_model",      "the width",                            Size,   &[]),
    Param("d_inner",      "the width inside",                     Size,
        &["first(mixer.A_log)",         "first(ssm_a)"]),
    Param("d_state",      "the state's size",                     Size,
        &["last(mixer.A_log)",          "last(ssm_a)"]),
    Param("d_conv",       "the convolution's width",              Size,
        &["last(mixer.conv1d.weight)",  "last(ssm_conv1d.weight)"]),
    Param("dt_rank",      "the rank of dt",                       Size,
        &["last(mixer.dt_proj.weight)", "last(ssm_dt.weight)"]),
    Param("bcdt_rms_eps", "the epsilon of the norms of dt, B, C", Number, &[
        "config.mixer_rms_eps | 1e-6 if config.model_type=falcon_mamba \
         | norm_eps if gguf.ssm.dt_b_c_rms?",
    ]),
];

const NORM: &[Row] = &[Row("norm.weight", Vector("d_model"), &["norm.weight", "attn_norm.weight"])];

#[rustfmt::skip]
pub(super) const MIXER: &[Row] = &[
    Row("in_proj.x",      Matrix("d_inner", "d_model"),
        &["mixer.in_proj.weight[0/2]", "ssm_in.weight[0/2]"]),
    Row("in_proj.x.bias", Channels("d_inner"),
        &["mixer.in_proj.bias[0/2]?",  ""]),
    Row("in_proj.z",      Matrix("d_inner", "d_model"),
        &["mixer.in_proj.weight[1/2]", "ssm_in.weight[1/2]"]),
    Row("in_proj.z.bias", Channels("d_inner"),
        &["mixer.in_proj.bias[1/2]?",  ""]),
    Row("conv.weight",    Blocked("d_inner", "d_conv"),
        &["mixer.conv1d.weight",       "ssm_conv1d.weight"]),
    Row("conv.bias",      Channels("d_inner"),
        &["mixer.conv1d.bias | 0",     "ssm_conv1d.bias | 0"]),
    Row("x_proj",         Adapter("dt_rank + 2*d_state", "d_inner"),
        &["mixer.x_proj.weight",       "ssm_x.weight"]),
    Row("dt_proj",        Adapter("d_inner", "dt_rank"),
        &["mixer.dt_proj.weight",      "ssm_dt.weight"]),
    Row("dt_proj.bias",   Channels("d_inner"),
        &["mixer.dt_proj.bias",        "ssm_dt.bias"]),
    Row("A",              Blocked("d_inner", "d_state"),
        &["-exp(mixer.A_log)",         "ssm_a"]),
    Row("D",              Channels("d_inner"),
        &["mixer.D",                   "ssm_d"]),
    Row("out_proj",       Matrix("d_model", "d_inner"),
        &["mixer.out_proj.weight",     "ssm_out.weight"]),
    Row("out_proj.bias",  Vector("d_model"),
        &["mixer.out_proj.bias?",      ""]),
];
