//! The parts that the Mamba families share: names outside of the layers, and hyper-parameters.
//!
//! Columns: Hugging Face's and the original layout of state-spaces, which differ in one letter;
//! llama.cpp's GGUF, which stores A itself and not log(−A); the first one without `backbone.`,
//! whose layers are the same. Sources: transformers `modeling_mamba{,2}.py`, mamba_ssm
//! `mixer_seq_simple.py`, llama.cpp `convert_hf_to_gguf.py`.

use crate::convert::table::Kind::{Number, OneOf, Size};
use crate::convert::table::Shape::{Embedding, Head, Vector};
use crate::convert::table::{Layout, Param, Row};

/// The columns of the tables, by a tensor that tells each.
pub(super) const fn layouts(marks: [&'static [&'static str]; 3]) -> [Layout; 3] {
    let [backbone, gguf, bare] = marks;
    [
        Layout::new(backbone, "backbone.layers.", 0).with_config(),
        Layout::new(gguf, "blk.", 1),
        Layout::new(bare, "layers.", 2).with_config(),
    ]
}

pub(super) const N_LAYER: Param = Param(
    "n_layer",
    "the number of layers",
    Size,
    &["config.num_hidden_layers | config.n_layer | gguf.block_count | layers()"],
);
/// mamba_ssm's config.json does not carry its epsilon, 1e-5.
pub(super) const NORM_EPS: Param = Param(
    "norm_eps",
    "the norms' epsilon",
    Number,
    &["config.layer_norm_epsilon | config.rms_norm_eps | config.norm_epsilon \
       | gguf.attention.layer_norm_rms_epsilon | 1e-5"],
);
pub(super) const ACTIVATION: Param =
    Param("activation", "the activation", OneOf(&["silu", "swish"]), &["config.hidden_act?"]);

#[rustfmt::skip]
pub(super) const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &[
        "backbone.embeddings.weight | backbone.embedding.weight",
        "token_embd.weight",
        "embeddings.weight | embedding.weight",
    ]),
    Row("norm_f.weight", Vector("d_model"), &[
        "backbone.norm_f.weight",
        "output_norm.weight",
        "norm_f.weight",
    ]),
    Row("head",          Head("n_vocab", "d_model"),
        &["lm_head.weight?",                                        "output.weight?"]),
];
