//! Checkpoints of flash-linear-attention with gated slot attention.
//!
//! Layout: SPEC.md, "Linear attention". Test: `tests/parity_linear.rs`.

use super::fla::{
    ACTIVATION, CONVOLUTIONS, D_CONV, D_FF, D_HEAD, D_KEY, D_MODEL, HAS_CONV, MLP, N_HEAD,
    N_KEY_HEAD, N_LAYER, N_VOCAB, NO_ATTENTION, NORM_EPS, QKV, TRUNK,
};
use super::pairs;
use crate::convert::table::Kind::{Number, OneOf, Size};
use crate::convert::table::Shape::{Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const GSA: Architecture = Architecture {
    name: "gsa",
    title: "GSA",
    model_types: &["gsa"],
    layouts: &[Layout::new(&["model.layers.0.attn.f_proj.weight"], "model.layers.", 0)],
    hyper: HYPER,
    checks: &["n_head % n_key_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, QKV),
        (Layers::If("has_conv"), CONVOLUTIONS),
        (Layers::All, LAYER),
        (Layers::All, MLP),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::NETWORK],
    ignored: &[],
};

/// The last norm is called with its own epsilon.
#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    NORM_EPS,
    Param("out_norm_eps",  "the last norm's epsilon",    Number, &["1e-5"]),
    ACTIVATION,
    Param("feature_map",   "the feature map of q and k", OneOf(&["swish"]),
        &["config.feature_map?"]),
    NO_ATTENTION,
    N_VOCAB,
    D_MODEL,
    D_FF,
    N_HEAD,
    N_KEY_HEAD,
    D_KEY,
    D_HEAD,
    Param("n_slot",        "the number of slots",        Size,
        &["first(attn.f_proj.weight) // n_key_head"]),
    HAS_CONV,
    D_CONV,
    Param("decay_divisor", "the gate's divisor",         Number,
        &["config.gate_logit_normalizer | 8"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("in_proj.f",       Matrix("n_key_head*n_slot", "d_model"), &["attn.f_proj.weight"]),
    Row("out_norm.weight", Vector("n_head*d_head"),               &["attn.g_norm.weight | 1"]),
];
