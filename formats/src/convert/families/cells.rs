//! LSTM and GRU language models: torch's own cells (`torch.nn.LSTM`, `torch.nn.GRU`) between an
//! embedding and a head, which torch's word-language-model example calls encoder and decoder.
//!
//! Layout: SPEC.md, "LSTM and GRU". Test: `tests/parity_cells.rs`.

use super::hybrid::N_VOCAB;
use crate::convert::table::Kind::Size;
use crate::convert::table::Shape::{Channels, Embedding, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling};

pub(super) const LSTM: Architecture = Architecture {
    name: "lstm",
    title: "LSTM",
    model_types: &["lstm", "LSTM"],
    layouts: LAYOUTS,
    hyper: HYPER,
    checks: &[],
    trunk: TRUNK,
    layers: &[
        (Layers::First, &[row_of("4*d_model", "d_embed")]),
        (Layers::AfterFirst, &[row_of("4*d_model", "d_model")]),
        (Layers::All, &rows_of("4*d_model")),
    ],
    pairs: &[],
    ignored: &[],
};

pub(super) const GRU: Architecture = Architecture {
    name: "gru",
    title: "GRU",
    model_types: &["gru", "GRU"],
    layouts: LAYOUTS,
    hyper: HYPER,
    checks: &[],
    trunk: TRUNK,
    layers: &[
        (Layers::First, &[row_of("3*d_model", "d_embed")]),
        (Layers::AfterFirst, &[row_of("3*d_model", "d_model")]),
        (Layers::All, &rows_of("3*d_model")),
    ],
    pairs: &[],
    ignored: &[],
};

const LAYOUTS: &[Layout] =
    &[Layout::new(&[MARK], "rnn.*_l", 0), Layout::new(&[MARK], "rnn.*_l", 0).spelled(&EXAMPLE)];
const MARK: &str = "embedding.weight & rnn.weight_ih_l0";
const EXAMPLE: Spelling =
    Spelling { body: "", parts: &[("embedding.", "encoder."), ("head.", "decoder.")] };

#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer", "the number of layers",  Size, &["layers()"]),
    N_VOCAB,
    Param("d_embed", "the embedding's width", Size, &[]),
    Param("d_model", "the cells of a layer",  Size, &["last(weight_hh)"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",     Embedding("n_vocab", "d_embed"), &["embedding.weight"]),
    Row("head",      Head("n_vocab", "d_model"),      &["head.weight | embedding.weight"]),
    Row("head.bias", Vector("n_vocab"),               &["head.bias?"]),
];

/// What reads the layer below, and its shape.
const fn row_of(rows: &'static str, cols: &'static str) -> Row {
    Row("in_proj", Matrix(rows, cols), &["weight_ih"])
}

/// The others, with so many rows.
const fn rows_of(rows: &'static str) -> [Row; 3] {
    [
        Row("in_proj.bias", Channels(rows), &["bias_ih?"]),
        Row("recurrent", Matrix(rows, "d_model"), &["weight_hh"]),
        Row("recurrent.bias", Channels(rows), &["bias_hh?"]),
    ]
}
