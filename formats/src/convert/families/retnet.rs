//! RetNet checkpoints of flash-linear-attention.
//!
//! Layout: SPEC.md, "Linear attention". Test: `tests/parity_linear.rs`.

use super::fla::{
    ACTIVATION, CONVOLUTIONS, D_CONV, D_FF, D_HEAD, D_KEY, D_MODEL, GATE, HAS_CONV, HAS_GATE, MLP,
    N_HEAD, N_KEY_HEAD, N_LAYER, N_VOCAB, NO_ATTENTION, NORM_EPS, QKV, TRUNK,
};
use super::pairs;
use crate::convert::table::Kind::{Number, OneOf};
use crate::convert::table::Shape::Vector;
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const RETNET: Architecture = Architecture {
    name: "retnet",
    title: "RetNet",
    model_types: &["retnet"],
    layouts: &[Layout::new(&["model.layers.0.attn.q_proj.weight"], "model.layers.", 0)],
    hyper: HYPER,
    checks: &["n_head % n_key_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, QKV),
        (Layers::If("has_conv"), CONVOLUTIONS),
        (Layers::All, LAYER),
        (Layers::If("has_gate"), GATE),
        (Layers::All, MLP),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::NETWORK],
    ignored: &[],
};

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    NORM_EPS,
    Param("out_norm_eps", "the heads' norm's epsilon",  Number, &["norm_eps"]),
    ACTIVATION,
    Param("feature_map",  "the feature map of q and k", OneOf(&["identity"]),
        &["config.feature_map?"]),
    Param("gate",         "the gate's activation",      OneOf(&["silu", "swish"]),
        &["config.gate_fn?"]),
    NO_ATTENTION,
    N_VOCAB,
    D_MODEL,
    D_FF,
    N_HEAD,
    N_KEY_HEAD,
    D_KEY,
    D_HEAD,
    HAS_CONV,
    D_CONV,
    HAS_GATE,
];

/// Heads fade by 2⁻⁵, 2⁻⁶, …
#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("rope",            Vector("d_key // 2"), &["rope(10000, {d_key})"]),
    Row("decay",           Vector("n_head"),     &["1 - 2^(-5 - index())"]),
    Row("out_norm.weight", Vector("d_head"),
        &["attn.g_norm_swish_gate.weight | attn.g_norm.weight | 1"]),
];
