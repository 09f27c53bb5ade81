//! Checkpoints of flash-linear-attention whose heads have a decay for every key: GLA, HGRN2.
//!
//! Layout: SPEC.md, "Linear attention". Test: `tests/parity_linear.rs`.

use super::fla::{
    CONVOLUTIONS, D_CONV, D_HEAD, D_KEY, GATE, HAS_CONV, HAS_GATE, MLP, N_HEAD, N_KEY_HEAD,
    NO_ATTENTION, QKV, TRUNK,
};
use super::pairs;
use crate::convert::table::Kind::{Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Channels, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const GLA: Architecture = Architecture {
    name: "gla",
    title: "GLA",
    model_types: &["gla"],
    layouts: &[Layout::new(&["model.layers.0.attn.gk_proj.1.weight"], "model.layers.", 0)],
    hyper: GLA_HYPER,
    checks: &["n_head % n_key_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, QKV),
        (Layers::If("has_conv"), CONVOLUTIONS),
        (Layers::All, GLA_LAYER),
        (Layers::If("has_gate"), GATE),
        (Layers::All, MLP),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::NETWORK],
    ignored: &[],
};

pub(super) const HGRN2: Architecture = Architecture {
    name: "hgrn2",
    title: "HGRN2",
    model_types: &["hgrn2"],
    layouts: &[Layout::new(&["model.layers.0.attn.f_proj.weight"], "model.layers.", 0)],
    hyper: HGRN2_HYPER,
    checks: &[],
    layers: &[(Layers::All, HGRN2_LAYER), (Layers::All, LAYER), (Layers::All, MLP)],
    ..GLA
};

#[rustfmt::skip]
const GLA_HYPER: &[Param] = &[
    Param("n_layer",       "the number of layers",         Size,
        &["config.num_hidden_layers | layers()"]),
    Param("norm_eps",      "the norms' epsilon",           Number, &["config.norm_eps | 1e-6"]),
    Param("out_norm_eps",  "the heads' norm's epsilon",    Number, &["norm_eps"]),
    Param("activation",    "the activation",               OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    Param("feature_map",   "the feature map of q and k",   OneOf(&["identity"]),
        &["config.feature_map?"]),
    Param("n_vocab",       "rows of the embedding",        Size,   &[]),
    Param("d_model",       "the width",                    Size,   &[]),
    Param("d_ff",          "the network's width",          Size,   &[]),
    Param("rank_decay",    "the rank of the decay",        Size,   &[]),
    NO_ATTENTION,
    N_HEAD,
    N_KEY_HEAD,
    D_KEY,
    D_HEAD,
    HAS_CONV,
    D_CONV,
    HAS_GATE,
    Param("gate",          "the gate's activation",        OneOf(&["silu", "swish"]),
        &["config.gate_fn?"]),
    Param("decay_divisor", "the gate's divisor",           Number,
        &["config.gate_logit_normalizer | 16"]),
    Param("least_log_decay", "the gate's lower bound",     Number, &["config.clamp_min?"]),
];

/// The last norm is called with its own epsilon.
#[rustfmt::skip]
const HGRN2_HYPER: &[Param] = &[
    Param("n_layer",       "the number of layers",         Size,
        &["config.num_hidden_layers | layers()"]),
    Param("norm_eps",      "the norms' epsilon",           Number, &["config.norm_eps | 1e-6"]),
    Param("out_norm_eps",  "the last norm's epsilon",      Number, &["1e-5"]),
    Param("activation",    "the activation",               OneOf(&["silu", "swish"]),
        &["config.hidden_act?"]),
    Param("n_vocab",       "rows of the embedding",        Size,   &[]),
    Param("d_model",       "the width",                    Size,   &[]),
    Param("d_ff",          "the network's width",          Size,   &[]),
    Param("n_head",        "the number of heads",          Size,
        &["config.num_heads | config.hidden_size // config.expand_ratio"]),
    Param("d_key",         "the size of a head of keys",   Size,
        &["first(attn.f_proj.weight) // n_head"]),
    Param("d_head",        "the size of a head of values", Size,
        &["first(attn.i_proj.weight) // n_head"]),
];

#[rustfmt::skip]
const GLA_LAYER: &[Row] = &[
    Row("in_proj.dt.a",    Adapter("rank_decay", "d_model"),         &["attn.gk_proj.0.weight"]),
    Row("in_proj.dt.b",    Adapter("n_key_head*d_key", "rank_decay"), &["attn.gk_proj.1.weight"]),
    Row("dt_bias",         Channels("n_key_head*d_key"),              &["attn.gk_proj.1.bias?"]),
    Row("out_norm.weight", Vector("d_head"),
        &["attn.g_norm_swish_gate.weight | attn.g_norm.weight | 1"]),
];

#[rustfmt::skip]
const HGRN2_LAYER: &[Row] = &[
    Row("in_proj.q",       Matrix("n_head*d_key", "d_model"),      &["attn.q_proj.weight"]),
    Row("in_proj.k",       Matrix("n_head*d_key", "d_model"),      &["attn.f_proj.weight"]),
    Row("in_proj.v",       Matrix("n_head*d_head", "d_model"),     &["attn.i_proj.weight"]),
    Row("least_decay",     Vector("n_head*d_key"),
        &["lower_bound(model.lower_bounds) | 0"]),
    Row("out_norm.weight", Vector("n_head*d_head"),                &["attn.g_norm.weight | 1"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("norm.weight", Vector("d_model"),                  &["attn_norm.weight"]),
    Row("out_proj",    Matrix("d_model", "n_head*d_head"), &["attn.o_proj.weight"]),
];
