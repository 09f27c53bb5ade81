//! RWKV-4 checkpoints: BlinkDL's, Hugging Face's `RwkvForCausalLM`, rwkv.cpp's files.
//!
//! The decay is kept as the engine adds it, -exp(time_decay), which is what rwkv.cpp stores.
//! Hugging Face's class divides weights in memory while it runs, never in its files, and does not
//! apply its epsilon to the last norm. Test: `tests/parity_rwkv.rs`.

use super::pairs;
use super::rwkv::{EMBED, blinkdl, rwkv_cpp};
use crate::convert::table::Kind::{Number, Size};
use crate::convert::table::Shape::{Embedding, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const RWKV4: Architecture = Architecture {
    name: "rwkv4",
    title: "RWKV-4",
    model_types: &[],
    layouts: LAYOUTS,
    hyper: HYPER,
    checks: &[],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER)],
    pairs: &[pairs::RWKV],
    ignored: &[],
};

/// The columns of the tables.
const LAYOUTS: &[Layout] = &[
    blinkdl(MARKS),
    Layout::new(
        &["rwkv.blocks.0.attention.time_decay", "rwkv.blocks.0.attention.time_first"],
        "rwkv.blocks.",
        1,
    )
    .with_config(),
    rwkv_cpp(MARKS, 2),
];
const MARKS: &[&str] =
    &["blocks.0.att.time_decay", "blocks.0.att.time_first", "blocks.0.att.time_mix_k"];

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",    "the number of layers",         Size,   &["layers()"]),
    Param("n_vocab",    "rows of the embedding",        Size,   &[]),
    Param("d_model",    "the width",                    Size,   &[]),
    Param("d_att",      "the width of the time mix",    Size,   &[]),
    Param("d_ff",       "the width of the channel mix", Size,   &[]),
    Param("ln_eps",     "the norms' epsilon",           Number,
        &["1e-5", "config.layer_norm_epsilon | 1e-5"]),
    Param("ln_out_eps", "the last norm's epsilon",      Number, &["1e-5"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &[
        EMBED,
        "layer_norm(rwkv.embeddings.weight, \
         rwkv.blocks.0.pre_ln.weight, rwkv.blocks.0.pre_ln.bias, {ln_eps})",
    ]),
    Row("ln_out.weight", Vector("d_model"),               &["ln_out.weight", "rwkv.ln_out.weight"]),
    Row("ln_out.bias",   Vector("d_model"),               &["ln_out.bias",   "rwkv.ln_out.bias"]),
    Row("head",          Matrix("n_vocab", "d_model"),
        &["head.weight",   "head.weight | rwkv.embeddings.weight if config.tie_word_embeddings"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("ln1.weight",     Vector("d_model"),            &["ln1.weight",            "ln1.weight"]),
    Row("ln1.bias",       Vector("d_model"),            &["ln1.bias",              "ln1.bias"]),
    Row("ln2.weight",     Vector("d_model"),            &["ln2.weight",            "ln2.weight"]),
    Row("ln2.bias",       Vector("d_model"),            &["ln2.bias",              "ln2.bias"]),
    Row("att.mix_k",      Vector("d_model"),
        &["att.time_mix_k",        "attention.time_mix_key"]),
    Row("att.mix_v",      Vector("d_model"),
        &["att.time_mix_v",        "attention.time_mix_value"]),
    Row("att.mix_r",      Vector("d_model"),
        &["att.time_mix_r",        "attention.time_mix_receptance"]),
    Row("att.key",        Matrix("d_att", "d_model"),
        &["att.key.weight",        "attention.key.weight"]),
    Row("att.value",      Matrix("d_att", "d_model"),
        &["att.value.weight",      "attention.value.weight"]),
    Row("att.receptance", Matrix("d_att", "d_model"),
        &["att.receptance.weight", "attention.receptance.weight"]),
    Row("att.output",     Matrix("d_model", "d_att"),
        &["att.output.weight",     "attention.output.weight"]),
    Row("att.decay",      Vector("d_att"),
        &["-exp(att.time_decay)",  "-exp(attention.time_decay)", "att.time_decay"]),
    Row("att.bonus",      Vector("d_att"),
        &["att.time_first",        "attention.time_first"]),
    Row("ffn.mix_k",      Vector("d_model"),
        &["ffn.time_mix_k",        "feed_forward.time_mix_key"]),
    Row("ffn.mix_r",      Vector("d_model"),
        &["ffn.time_mix_r",        "feed_forward.time_mix_receptance"]),
    Row("ffn.key",        Matrix("d_ff", "d_model"),
        &["ffn.key.weight",        "feed_forward.key.weight"]),
    Row("ffn.receptance", Matrix("d_model", "d_model"),
        &["ffn.receptance.weight", "feed_forward.receptance.weight"]),
    Row("ffn.value",      Matrix("d_model", "d_ff"),
        &["ffn.value.weight",      "feed_forward.value.weight"]),
];
