//! Samba checkpoints of flash-linear-attention: Mamba-1 and attention to a window.
//!
//! Layout: SPEC.md, "Samba". Test: `tests/parity_hybrid.rs`.

use super::fla::MLP;
use super::mamba::{ACTIVATION, N_LAYER, TRUNK};
use super::mamba1::MIXER;
use super::pairs;
use crate::convert::table::Kind::{Number, Size, Words};
use crate::convert::table::Shape::{Channels, Matrix, Vector};
use crate::convert::table::{Architecture, Kind, Layers, Layout, Param, Row};

pub(super) const SAMBA: Architecture = Architecture {
    name: "samba",
    title: "Samba",
    model_types: &["samba"],
    layouts: &[Layout::new(&["backbone.layers.0.mixer_norm.weight"], "backbone.layers.", 0)],
    hyper: HYPER,
    checks: &["d_model % n_attn_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORM),
        (Layers::Word("layer_types", "mamba1"), MIXER),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "sliding_attention"), ATTENTION),
        (Layers::All, MLP),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::STEP, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

const KINDS: Kind = Words(&[
    ("mamba", "mamba1"),
    ("full_attention", "attention"),
    ("sliding_attention", "sliding_attention"),
]);

#[rustfmt::skip]
const HYPER: &[Param] = &[
    ACTIVATION,
    N_LAYER,
    Param("norm_eps",    "the norms' epsilon",            Number, &["config.norm_eps | 1e-5"]),
    Param("window",      "the window of attention",       Size,   &["config.attn.window_size?"]),
    Param("layer_types", "the kinds of the layers",       KINDS,  &[
        "listed(config.attn.layers, mamba, sliding_attention) if window \
         | listed(config.attn.layers, mamba)",
    ]),
    Param("n_context",   "the longest text",              Size,
        &["config.max_position_embeddings | 2048"]),
    Param("n_vocab",     "rows of the embedding",         Size,   &[]),
    Param("d_model",     "the width",                     Size,   &["config.hidden_size"]),
    Param("d_ff",        "the network's width",           Size,   &["first(mlp.gate_proj.weight)"]),
    Param("d_inner",     "the width inside",              Size,   &["first(mixer.A_log)"]),
    Param("d_state",     "the state's size",              Size,   &["last(mixer.A_log)"]),
    Param("d_conv",      "the convolution's width",       Size,   &["last(mixer.conv1d.weight)"]),
    Param("dt_rank",     "the rank of dt",                Size,   &["last(mixer.dt_proj.weight)"]),
    Param("n_attn_head", "the number of attention heads", Size,   &["config.attn.num_heads"]),
    Param("n_kv_head",   "heads of keys and values",      Size,
        &["config.attn.num_kv_heads | n_attn_head"]),
    Param("d_attn_head", "the size of an attention head", Size,   &["d_model // n_attn_head"]),
    Param("n_rot",       "channels that turn",            Size,   &["d_attn_head"]),
    Param("rope_base",   "the base of the frequencies",   Number,
        &["config.attn.rope_theta | 10000"]),
];

const NORM: &[Row] = &[Row("norm.weight", Vector("d_model"), &["mixer_norm.weight"])];

#[rustfmt::skip]
const ATTENTION: &[Row] = &[
    Row("attn.q",      Matrix("n_attn_head*d_attn_head", "d_model"), &["mixer.q_proj.weight"]),
    Row("attn.k",      Matrix("n_kv_head*d_attn_head", "d_model"),   &["mixer.k_proj.weight"]),
    Row("attn.v",      Matrix("n_kv_head*d_attn_head", "d_model"),   &["mixer.v_proj.weight"]),
    Row("attn.q.bias", Channels("n_attn_head*d_attn_head"),          &["mixer.q_proj.bias?"]),
    Row("attn.k.bias", Channels("n_kv_head*d_attn_head"),            &["mixer.k_proj.bias?"]),
    Row("attn.v.bias", Channels("n_kv_head*d_attn_head"),            &["mixer.v_proj.bias?"]),
    Row("attn.rope",   Vector("n_rot // 2"),                   &["rope({rope_base}, {n_rot})"]),
    Row("attn.out",    Matrix("d_model", "n_attn_head*d_attn_head"), &["mixer.o_proj.weight"]),
];
