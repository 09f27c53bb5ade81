//! LightNet checkpoints of flash-linear-attention.
//!
//! Layout: SPEC.md, "Linear attention". Test: `tests/parity_linear.rs`.

use super::fla::{
    ACTIVATION, CONVOLUTIONS, D_CONV, D_FF, D_HEAD, D_KEY, D_MODEL, HAS_CONV, HAS_GATE, MLP,
    N_LAYER, N_VOCAB, NO_ATTENTION, NORM_EPS, QKV, TRUNK,
};
use super::pairs;
use crate::convert::table::Kind::{Flag, Number, Size};
use crate::convert::table::Shape::{Adapter, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const LIGHTNET: Architecture = Architecture {
    name: "lightnet",
    title: "LightNet",
    model_types: &["lightnet"],
    layouts: &[Layout::new(&["model.layers.0.attn.g_proj.1.weight"], "model.layers.", 0)],
    hyper: HYPER,
    checks: &[],
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

/// The last norm is called with its own epsilon; no silu follows the convolutions.
#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    NORM_EPS,
    Param("out_norm_eps", "the last norm's epsilon",      Number, &["1e-5"]),
    ACTIVATION,
    NO_ATTENTION,
    N_VOCAB,
    D_MODEL,
    D_FF,
    Param("rank_gate",    "the rank of the gate",         Size,   &[]),
    Param("n_head",       "the number of heads",          Size,
        &["config.num_heads | config.hidden_size // config.expand_ratio"]),
    Param("n_key_head",    "heads of keys and values",     Size,   &["n_head"]),
    D_KEY,
    D_HEAD,
    HAS_CONV,
    D_CONV,
    HAS_GATE,
    Param("linear_conv",  "whether no silu follows the convolution", Flag, &["true"]),
    Param("silu_q",       "whether a silu makes q",       Flag,   &["true"]),
    Param("wide_norm",    "whether heads share a norm",   Flag,   &["true"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("in_proj.z.a",     Adapter("rank_gate", "d_model"),       &["attn.g_proj.0.weight"]),
    Row("in_proj.z.b",     Adapter("n_head*d_head", "rank_gate"), &["attn.g_proj.1.weight"]),
    Row("out_norm.weight", Vector("n_head*d_head"),               &["attn.g_norm.weight | 1"]),
];
