//! Tables that checkpoints of flash-linear-attention share.

use crate::convert::table::Row;
use crate::convert::table::Shape::{Embedding, Head, Matrix, Vector};

#[rustfmt::skip]
pub(super) const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &["model.embeddings.weight"]),
    Row("norm_f.weight", Vector("d_model"),               &["model.norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &["lm_head.weight?"]),
];

#[rustfmt::skip]
pub(super) const MLP: &[Row] = &[
    Row("mlp_norm.weight", Vector("d_model"),         &["mlp_norm.weight"]),
    Row("mlp.gate",        Matrix("d_ff", "d_model"), &["mlp.gate_proj.weight"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"), &["mlp.up_proj.weight"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"), &["mlp.down_proj.weight"]),
];
