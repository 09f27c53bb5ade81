//! Checkpoints of flash-linear-attention whose layers have a delta rule: DeltaNet, Gated DeltaNet,
//! Gated DeltaProduct, KDA, Comba.
//!
//! Projections in front of the convolution are one matrix here, and so are their taps. Layout:
//! SPEC.md, "DeltaNet". Test: `tests/parity_delta.rs`.

use super::fla::{MLP, TRUNK};
use super::pairs;
use crate::convert::table::Kind::{Flag, Inner, Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Matrix, PerHead, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const DELTANET: Architecture = Architecture {
    name: "deltanet",
    title: "DeltaNet",
    model_types: &["delta_net"],
    layouts: &[LAYOUT],
    hyper: &hyper(&["config.num_heads"], &["n_head"], SILU, NONE),
    checks: &[
        "d_qkv = n_key_head*d_key + n_step*(n_key_head*d_key + n_head*d_head)",
        "n_head % n_key_head = 0",
    ],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER), (Layers::If("has_gate"), GATE), (Layers::All, MLP)],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::NETWORK],
    ignored: &[],
};

pub(super) const GATED_DELTANET: Architecture = Architecture {
    name: "gated_deltanet",
    title: "Gated DeltaNet",
    model_types: &["gated_deltanet"],
    hyper: &hyper(OF_DECAYS, OF_KEYS, SILU, NONE),
    layers: &[
        (Layers::All, LAYER),
        (Layers::All, DECAY),
        (Layers::If("has_gate"), GATE),
        (Layers::All, MLP),
    ],
    ..DELTANET
};

pub(super) const GATED_DELTAPRODUCT: Architecture = Architecture {
    name: "gated_deltaproduct",
    title: "Gated DeltaProduct",
    model_types: &["gated_deltaproduct"],
    hyper: &hyper(OF_DECAYS, OF_KEYS, SILU, &["config.num_householder"]),
    ..GATED_DELTANET
};

pub(super) const KDA: Architecture = Architecture {
    name: "kda",
    title: "KDA",
    model_types: &["kda"],
    hyper: &hyper(OF_DECAYS, OF_KEYS, SIGMOID, NONE),
    layers: &[
        (Layers::All, LAYER),
        (Layers::All, DECAY_PER_KEY),
        (Layers::All, LOW_RANK_GATE),
        (Layers::All, MLP),
    ],
    ..DELTANET
};

pub(super) const COMBA: Architecture = Architecture {
    name: "comba",
    title: "Comba",
    model_types: &["comba"],
    hyper: &hyper(OF_DECAYS, OF_KEYS, SIGMOID, NONE),
    layers: &[
        (Layers::All, LAYER),
        (Layers::All, DECAY),
        (Layers::All, CORRECTION),
        (Layers::If("has_gate"), GATE),
        (Layers::All, MLP),
    ],
    ..DELTANET
};

/// The one layout, by two tensors of its first layer.
const LAYOUT: Layout = Layout::new(
    &["model.layers.0.attn.b_proj.weight & model.layers.0.attn.k_conv1d.weight"],
    "model.layers.",
    0,
);

/// The number of heads: of those that decay, of those with keys.
const OF_DECAYS: &[&str] = &["first(attn.A_log)"];
const OF_KEYS: &[&str] = &["config.num_heads | n_head"];
/// Cells for whether the gate is a sigmoid.
const SILU: &[&str] = &["false"];
const SIGMOID: &[&str] = &["true"];
const NONE: &[&str] = &[""];

/// Heads of keys and of values may differ in number where a decay tells that of values.
#[rustfmt::skip]
const fn hyper(
    n_head: &'static [&'static str],
    n_key_head: &'static [&'static str],
    is_sigmoid: &'static [&'static str],
    n_step: &'static [&'static str],
) -> [Param; 28] {
    [
        Param("n_layer",       "the number of layers",         Size,
            &["config.num_hidden_layers | layers()"]),
        Param("norm_eps",      "the norms' epsilon",           Number,
            &["config.norm_eps | 1e-6"]),
        Param("out_norm_eps",  "the heads' norm's epsilon",    Number,
            &["norm_eps"]),
        Param("activation",    "the activation",               OneOf(&["silu", "swish"]),
            &["config.hidden_act?"]),
        Param("gate",          "the gate's activation",        OneOf(&["silu", "swish"]),
            &["config.output_gate_activation?"]),
        Param("qk_activation", "the activation of q and k",    OneOf(&["silu"]),
            &["config.qk_activation?"]),
        Param("qk_norm",       "the norm of q and k",          OneOf(&["l2"]),
            &["config.qk_norm?"]),
        Param("n_vocab",       "rows of the embedding",        Size,                      &[]),
        Param("d_model",       "the width",                    Size,                      &[]),
        Param("d_ff",          "the network's width",          Size,                      &[]),
        Param("d_conv",        "the convolution's width",      Size,
            &["last(attn.q_conv1d.weight)"]),
        Param("n_head",        "the number of heads",          Size,                      n_head),
        Param("n_key_head", "the number of heads of keys", Size, n_key_head),
        Param("n_step",        "the steps of a token",         Size,                      n_step),
        Param("steps",         "the steps of a token",         Inner,
            &["n_step | 1"]),
        Param("rank_decay",    "the rank of the decay",        Size,                      &[]),
        Param("rank_gate",     "the rank of the gate",         Size,                      &[]),
        Param("d_keys",        "the width of keys",            Inner,
            &["first(attn.k_proj.weight)"]),
        Param("d_values",      "the width of values",          Inner,
            &["first(attn.v_proj.weight)"]),
        Param("d_qkv",         "channels of the convolution",  Inner,
            &["first(attn.q_proj.weight) + d_keys + d_values"]),
        Param("d_key",         "the size of a head of keys",   Size,
            &["first(attn.q_proj.weight) // n_key_head"]),
        Param("d_head",        "the size of a head of values", Size,
            &["d_values // (n_head*steps)"]),
        Param("has_gate",      "whether y is gated",           Flag,
            &["has(attn.g_proj.weight, attn.g_proj.1.weight)"]),
        Param("sigmoid_gate", "whether the gate is a sigmoid", Flag, is_sigmoid),
        Param("has_correction", "whether q gives of k away",   Flag,
            &["has(attn.decay, attn.D)"]),
        Param("decay_per_key", "whether keys have decays",     Flag,
            &["has(attn.f_proj.1.weight)"]),
        Param("least_log_decay", "the gate's lower bound",     Number,
            &["config.lower_bound?"]),
        Param("negative_eigenvalues", "whether eigenvalues may be negative", Flag,
            &["config.allow_neg_eigval | false"]),
    ]
}

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("norm.weight",     Vector("d_model"),                        &["attn_norm.weight"]),
    Row("in_proj.qkv",     Matrix("d_qkv", "d_model"),
        &["attn.q_proj.weight; attn.k_proj.weight; attn.v_proj.weight"]),
    Row("in_proj.beta",    Adapter("n_head*steps", "d_model"),       &["attn.b_proj.weight"]),
    Row("conv.weight",     Blocked("d_qkv", "d_conv"),
        &["attn.q_conv1d.weight; attn.k_conv1d.weight; attn.v_conv1d.weight"]),
    Row("conv.bias",       Channels("d_qkv"),                        &["0"]),
    Row("out_norm.weight", Vector("d_head"),                         &["attn.o_norm.weight"]),
    Row("out_proj",        Matrix("d_model", "n_head*d_head"),       &["attn.o_proj.weight"]),
];

/// A is negative, as Mamba-2's.
#[rustfmt::skip]
const DECAY: &[Row] = &[
    Row("in_proj.dt", Adapter("n_head", "d_model"), &["attn.a_proj.weight"]),
    Row("dt_bias",    Vector("n_head"),             &["attn.dt_bias"]),
    Row("A",          Vector("n_head"),             &["-exp(attn.A_log)"]),
];

const GATE: &[Row] =
    &[Row("in_proj.z", Matrix("n_head*d_head", "d_model"), &["attn.g_proj.weight"])];

/// The width between the two halves is that of neither.
#[rustfmt::skip]
const DECAY_PER_KEY: &[Row] = &[
    Row("in_proj.dt.a", Adapter("rank_decay", "d_model"),      &["attn.f_proj.0.weight"]),
    Row("in_proj.dt.b", Adapter("n_head*d_key", "rank_decay"), &["attn.f_proj.1.weight"]),
    Row("dt_bias",      Vector("n_head*d_key"),                &["attn.dt_bias"]),
    Row("A",            PerHead("n_head*d_key", "d_key"),      &["-exp(attn.A_log)"]),
];

#[rustfmt::skip]
const LOW_RANK_GATE: &[Row] = &[
    Row("in_proj.z.a",    Adapter("rank_gate", "d_model"),       &["attn.g_proj.0.weight"]),
    Row("in_proj.z.b",    Adapter("n_head*d_head", "rank_gate"), &["attn.g_proj.1.weight"]),
    Row("in_proj.z.bias", Channels("n_head*d_head"),             &["attn.g_proj.1.bias?"]),
];

/// The share of k that the old state is read by, and the share of that which q loses.
#[rustfmt::skip]
const CORRECTION: &[Row] = &[
    Row("key_share", Vector("n_head"), &["sigmoid(attn.decay) | 1"]),
    Row("D",         Vector("n_head"), &["attn.D | 0"]),
];
