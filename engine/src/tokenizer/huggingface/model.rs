//! The model of a `tokenizer.json`, of one of the kinds that can be run: a piece of text to tokens.
//!
//! Not here: the kinds themselves (`bpe`, `unigram`). Test: `oracle.rs`.

use super::json;
use super::unigram::Unigram;
use super::vocab::Vocab;
use super::{bpe, bpe::Bpe, unigram};

/// A model.
#[derive(Debug)]
pub(super) enum Model {
    Bpe(Box<Bpe>),
    Unigram(Box<Unigram>),
}

/// Memory for the encoding of one piece after the other.
#[derive(Default)]
pub(super) struct Work {
    bpe: bpe::Work,
    unigram: unigram::Work,
}

impl Model {
    /// Reads the model of a file.
    pub(super) fn new(model: json::Model) -> Result<Self, String> {
        match model.kind.as_deref() {
            Some("BPE") | None => Ok(Model::Bpe(Box::new(Bpe::new(model)?))),
            Some("SentencePiece") => Ok(Model::Bpe(Box::new(Bpe::of_scores(model)?))),
            Some("Unigram") => Ok(Model::Unigram(Box::new(Unigram::new(model)?))),
            Some(other) => {
                Err(format!("a model of kind {other} is not supported, only BPE and Unigram"))
            }
        }
    }

    /// Every token of the model.
    pub(super) fn vocab(&self) -> &Vocab {
        match self {
            Model::Bpe(bpe) => &bpe.vocab,
            Model::Unigram(unigram) => &unigram.vocab,
        }
    }

    /// One more than the largest id.
    pub(super) fn n_vocab(&self) -> usize {
        match self {
            Model::Bpe(bpe) => bpe.n_vocab,
            Model::Unigram(unigram) => unigram.n_vocab(),
        }
    }

    /// Appends the tokens of a piece.
    pub(super) fn encode(
        &self,
        piece: &str,
        work: &mut Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), String> {
        match self {
            Model::Bpe(bpe) => bpe.encode(piece, &mut work.bpe, ids),
            Model::Unigram(unigram) => unigram.encode(piece, &mut work.unigram, ids),
        }
    }
}
