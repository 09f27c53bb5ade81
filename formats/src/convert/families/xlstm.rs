//! xLSTM checkpoints of Hugging Face (`xLSTMForCausalLM`: mLSTM in every layer).
//!
//! Layout: SPEC.md, "xLSTM". Test: `tests/parity_linear.rs`.

use super::pairs;
use crate::convert::table::Kind::{Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const XLSTM: Architecture = Architecture {
    name: "xlstm",
    title: "xLSTM",
    model_types: &["xlstm"],
    layouts: &[Layout::new(
        &["backbone.blocks.0.mlstm_layer.igate_preact.bias"],
        "backbone.blocks.",
        0,
    )],
    hyper: HYPER,
    checks: &[],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER)],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::NETWORK],
    ignored: &[],
};

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",    "the number of layers",         Size,
        &["config.num_hidden_layers | config.num_blocks | layers()"]),
    Param("norm_eps",   "the norms' epsilon",           Number, &["config.norm_eps | 1e-6"]),
    Param("read_eps",   "the divisor's epsilon",        Number, &["config.eps | 1e-6"]),
    Param("gate_cap",   "the gates' bound",             Number, &["config.gate_soft_cap | 15"]),
    Param("logit_cap",  "the logits' bound",            Number,
        &["config.output_logit_soft_cap | 30"]),
    Param("weights",    "how weights stand in the file", OneOf(&["single"]),
        &["config.weight_mode?"]),
    Param("out_norm",   "whether the last layer's output is normed", OneOf(&["true"]),
        &["config.add_out_norm?"]),
    Param("n_vocab",    "rows of the embedding",        Size,   &[]),
    Param("d_model",    "the width",                    Size,   &[]),
    Param("d_ff",       "the network's width",          Size,   &[]),
    Param("n_head",     "the number of heads",          Size,   &["config.num_heads"]),
    Param("d_key",      "the size of a head of keys",   Size,
        &["first(mlstm_layer.q.weight) // n_head"]),
    Param("d_head",     "the size of a head of values", Size,
        &["first(mlstm_layer.v.weight) // n_head"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["backbone.embeddings.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["backbone.out_norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

const QKV: &str = "mlstm_layer.q.weight; mlstm_layer.k.weight; mlstm_layer.v.weight";

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("norm.weight",        Vector("d_model"),         &["norm_mlstm.weight"]),
    Row("in_proj.qkv",        Matrix("2*n_head*d_key + n_head*d_head", "d_model"), &[QKV]),
    Row("in_proj.gates",      Adapter("2*n_head", "d_model"),
        &["mlstm_layer.igate_preact.weight; mlstm_layer.fgate_preact.weight"]),
    Row("in_proj.gates.bias", Vector("2*n_head"),
        &["mlstm_layer.igate_preact.bias; mlstm_layer.fgate_preact.bias"]),
    Row("in_proj.z",          Matrix("n_head*d_head", "d_model"),
        &["mlstm_layer.ogate_preact.weight"]),
    Row("out_norm.weight",    Vector("n_head*d_head"),   &["mlstm_layer.multihead_norm.weight"]),
    Row("out_norm.bias",      Vector("n_head*d_head"),
        &["mlstm_layer.multihead_norm.bias | 0"]),
    Row("out_proj",           Matrix("d_model", "n_head*d_head"),
        &["mlstm_layer.out_proj.weight"]),
    Row("mlp_norm.weight",    Vector("d_model"),         &["norm_ffn.weight"]),
    Row("mlp.gate",           Matrix("d_ff", "d_model"), &["ffn.proj_up_gate.weight"]),
    Row("mlp.up",             Matrix("d_ff", "d_model"), &["ffn.proj_up.weight"]),
    Row("mlp.down",           Matrix("d_model", "d_ff"), &["ffn.proj_down.weight"]),
];
