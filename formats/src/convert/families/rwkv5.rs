//! RWKV-5 checkpoints (5.0, 5.1, 5.2): BlinkDL's, rwkv.cpp's and web-rwkv's files, folders of
//! Hugging Face with a class of their own.
//!
//! The versions differ in what is there: 5.0 has no gate; 5.0 and 5.1 have one decay and one bonus
//! per head, 5.2 one per channel. The bonus of 5.0 is called time_first and is a logarithm;
//! web-rwkv calls that of 5.2 by this name and leaves its values. rwkv.cpp stores
//! exp(-exp(time_decay)) and exp(time_first), and runs the norm over heads with another epsilon
//! (`rwkv_group_norm_eps_1e_minus_5`, for this version only) than the official package (64e-5
//! whatever the head size; 8²·1e-5 in training): a file of its kind keeps it. Test:
//! `tests/parity_rwkv.rs`.

use super::pairs;
use super::rwkv::{EMBED, HUGGING_FACE_HEAD, TUNED_STATES, blinkdl, hugging_face, rwkv_cpp};
use crate::convert::table::Kind::{Flag, Inner, Number, Size};
use crate::convert::table::Shape::{Embedding, Matrix, PerHead, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const RWKV5: Architecture = Architecture {
    name: "rwkv5",
    title: "RWKV-5",
    model_types: &[],
    layouts: LAYOUTS,
    hyper: HYPER,
    checks: &["d_att % d_head = 0"],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER), (Layers::If("has_gate"), GATE)],
    pairs: &[pairs::RWKV, pairs::RWKV_HEADS],
    ignored: &[TUNED_STATES],
};

/// The columns of the tables.
const LAYOUTS: &[Layout] = &{
    let [rwkv, model, bare] = hugging_face(MARKS, 2);
    [blinkdl(MARKS), rwkv_cpp(MARKS, 1), rwkv, model, bare]
};
const MARKS: &[&str] = &[
    "blocks.0.att.ln_x.weight",
    "blocks.0.att.ln_x.bias",
    "blocks.0.att.time_faaaa",
    "blocks.0.att.gate.weight",
];

/// The decay is (n_head) or (n_head, d_head).
#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",  "the number of layers",             Size,   &["layers()"]),
    Param("n_vocab",  "rows of the embedding",            Size,   &[]),
    Param("d_model",  "the width",                        Size,   &[]),
    Param("d_att",    "the width of the time mix",        Size,   &[]),
    Param("d_ff",     "the width of the channel mix",     Size,   &[]),
    Param("d_head",   "the head size",                    Size,
        &["first(att.key.weight) // first(att.time_decay)"]),
    Param("has_gate", "whether there is a gate",          Flag,
        &["has(att.gate.weight, att.time_mix_g)"]),
    Param("decays",   "channels that share a decay",      Inner,
        &["first(att.key.weight) // count(att.time_decay)"]),
    Param("ln_eps",   "the norms' epsilon",               Number,
        &["1e-5",  "1e-5", "config.layer_norm_epsilon | 1e-5"]),
    Param("ln_x_eps", "the epsilon of the norm of heads", Number,
        &["64e-5", "1e-5", "1e-5*config.head_size_divisor^2 | 64e-5"]),
    Param("ln_out_eps", "the last norm's epsilon",        Number, &["",      "",     "1e-5"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &[EMBED]),
    Row("ln_out.weight", Vector("d_model"),               &["ln_out.weight"]),
    Row("ln_out.bias",   Vector("d_model"),               &["ln_out.bias"]),
    Row("head",          Matrix("n_vocab", "d_model"),
        &["head.weight", "head.weight", HUGGING_FACE_HEAD]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("ln1.weight",      Vector("d_model"),            &["ln1.weight"]),
    Row("ln1.bias",        Vector("d_model"),            &["ln1.bias"]),
    Row("ln2.weight",      Vector("d_model"),            &["ln2.weight"]),
    Row("ln2.bias",        Vector("d_model"),            &["ln2.bias"]),
    Row("att.mix_k",       Vector("d_model"),            &["att.time_mix_k"]),
    Row("att.mix_v",       Vector("d_model"),            &["att.time_mix_v"]),
    Row("att.mix_r",       Vector("d_model"),            &["att.time_mix_r"]),
    Row("att.key",         Matrix("d_att", "d_model"),   &["att.key.weight"]),
    Row("att.value",       Matrix("d_att", "d_model"),   &["att.value.weight"]),
    Row("att.receptance",  Matrix("d_att", "d_model"),   &["att.receptance.weight"]),
    Row("att.output",      Matrix("d_model", "d_att"),   &["att.output.weight"]),
    Row("att.decay",       PerHead("d_att", "d_head"),
        &["exp(-exp(att.time_decay))",            "att.time_decay"]),
    Row("att.bonus",       PerHead("d_att", "d_head"),
        &[BONUS, "att.time_faaaa | att.time_first"]),
    Row("att.ln_x.weight", Vector("d_att"),              &["att.ln_x.weight"]),
    Row("att.ln_x.bias",   Vector("d_att"),              &["att.ln_x.bias"]),
    Row("ffn.mix_k",       Vector("d_model"),            &["ffn.time_mix_k"]),
    Row("ffn.mix_r",       Vector("d_model"),            &["ffn.time_mix_r"]),
    Row("ffn.key",         Matrix("d_ff", "d_model"),    &["ffn.key.weight"]),
    Row("ffn.receptance",  Matrix("d_model", "d_model"), &["ffn.receptance.weight"]),
    Row("ffn.value",       Matrix("d_model", "d_ff"),    &["ffn.value.weight"]),
];

const BONUS: &str = "att.time_faaaa | att.time_first if decays=1 | exp(att.time_first)";

/// In versions 5.1 and 5.2.
#[rustfmt::skip]
const GATE: &[Row] = &[
    Row("att.mix_g", Vector("d_model"),          &["att.time_mix_g"]),
    Row("att.gate",  Matrix("d_att", "d_model"), &["att.gate.weight"]),
];
