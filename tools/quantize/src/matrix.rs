//! One matrix, or one of several in a tensor: its rows encoded by search and by the method asked
//! for, and both judged on the inputs held out.
//!
//! A few thousand rows are decoded at a time, so that a head of any size fits. Not here: the codes
//! (`codes.rs`). Test: `tests/`.

use std::ops::Range;

use brooklet_formats::FormatError;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::quant::{EncodeError, TileLayout, decode_row, place_tile};
use brooklet_formats::zeroed::Zeroed;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::codes::{self, CHUNK};
use crate::gram::Gram;
use crate::inputs::Moments;
use crate::{Method, Result};

/// Rows decoded at a time: whole chunks.
const ROWS: usize = 64 * CHUNK;

/// Of the mean of the diagonal, what is added to it.
const DAMPING: f32 = 0.01;

/// The method by which a matrix was encoded in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By the method asked for.
    Calibrated,
    /// By search alone: the method asked for is worse on the texts held out.
    Worse,
    /// By search alone: no text has inputs of it, or nothing that can be computed with.
    NoInputs,
}

/// What became of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its name; several in one tensor are one outcome.
    pub name: String,
    /// How many matrices it is.
    pub n: usize,
    /// Of these, those encoded by the method asked for; by search as it is better; by search for
    /// want of inputs.
    pub counts: [usize; 3],
    /// The sums of squared errors of outputs on the texts held out: by search alone, and as it is.
    pub errors: [f64; 2],
}

impl Outcome {
    pub(crate) fn new(name: &str) -> Outcome {
        Outcome { name: name.to_owned(), n: 0, counts: [0; 3], errors: [0.0; 2] }
    }

    fn add(&mut self, verdict: Verdict, [search, other]: [f64; 2]) {
        self.n += 1;
        self.counts[verdict as usize] += 1;
        self.errors[0] += search;
        self.errors[1] += if verdict == Verdict::Calibrated { other } else { search };
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        json!([self.n, self.counts, self.errors]).to_string().into_bytes()
    }

    pub(crate) fn from_bytes(name: &str, bytes: &[u8]) -> Option<Outcome> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let n = serde_json::from_value(value.get(0)?.clone()).ok()?;
        let counts = serde_json::from_value(value.get(1)?.clone()).ok()?;
        let errors = serde_json::from_value(value.get(2)?.clone()).ok()?;
        Some(Outcome { name: name.to_owned(), n, counts, errors })
    }
}

/// A matrix of a file, to be encoded anew.
pub(crate) struct Source<'a> {
    pub(crate) file: &'a BrkFile,
    pub(crate) name: &'a str,
    /// As it stands there.
    pub(crate) from: TileLayout,
    /// As it shall be.
    pub(crate) to: TileLayout,
}

impl Source<'_> {
    /// The rows as f32, (rows, cols).
    fn rows(&self, bytes: &[u8], rows: Range<usize>) -> Vec<f32> {
        let mut weights = vec![0.0; rows.len() * self.from.cols];
        weights.par_chunks_mut(self.from.cols).zip(rows).for_each(|(out, row)| {
            decode_row(&self.from, bytes, row, out);
        });
        weights
    }

    fn failed(&self, first_row: usize) -> impl Fn(EncodeError) -> FormatError {
        let (path, tensor) = (self.file.path().to_owned(), self.name.to_owned());
        move |source| FormatError::Weight {
            path: path.clone(),
            tensor: tensor.clone(),
            source: EncodeError { row: first_row + source.row, ..source },
        }
    }

    /// Encodes all of it by search into `matrix`; columns weigh as much as `importance` says, which
    /// has so many numbers for each of several matrices below each other.
    pub(crate) fn search(&self, matrix: &mut [u8], importance: Option<&[f32]>) -> Result<()> {
        let bytes = self.file.require(self.name)?.bytes;
        let n = importance.map_or(1, |columns| columns.len() / self.to.cols);
        let part = self.to.rows / n;
        for (i, end) in (1..=n).map(|i| i * part).enumerate() {
            let columns = importance.map(|columns| &columns[i * self.to.cols..][..self.to.cols]);
            let method = match columns {
                Some(columns) if columns.iter().any(|weight| *weight > 0.0) => {
                    codes::Method::Weighted(columns)
                }
                _ => codes::Method::Search,
            };
            for first in (i * part..end).step_by(ROWS) {
                let weights = self.rows(&bytes, first..end.min(first + ROWS));
                let encoded = codes::encode(&self.to, &weights, method);
                self.place(&encoded.map_err(self.failed(first))?, first, matrix);
            }
        }
        Ok(())
    }

    /// Encodes the rows `part` into `matrix`, whose inputs have these moments.
    pub(crate) fn calibrate(
        &self,
        part: Range<usize>,
        moments: Moments,
        method: Method,
        (matrix, outcome): (&mut [u8], &mut Outcome),
    ) -> Result<()> {
        let bytes = self.file.require(self.name)?.bytes;
        let Moments { gram, held_out, n } = moments;
        let importance = gram.diagonal();
        let metric = match method {
            Method::Gptq if n > 0 => gram.metric(DAMPING),
            _ => None,
        };
        let method = match (method, &metric) {
            (Method::Gptq, Some(metric)) => Some(codes::Method::Gptq(metric)),
            (Method::Scales, _) if importance.iter().any(|w| *w > 0.0) => {
                Some(codes::Method::Weighted(&importance))
            }
            _ => None,
        };
        let (mut errors, mut calibrated) = ([0.0; 2], Vec::new());
        for first in part.clone().step_by(ROWS) {
            let weights = self.rows(&bytes, first..part.end.min(first + ROWS));
            let plain = codes::encode(&self.to, &weights, codes::Method::Search);
            let plain = plain.map_err(self.failed(first))?;
            errors[0] += self.judge(&weights, &plain, &held_out)?;
            self.place(&plain, first, matrix);
            if let Some(method) = method {
                let other = codes::encode(&self.to, &weights, method);
                let other = other.map_err(self.failed(first))?;
                errors[1] += self.judge(&weights, &other, &held_out)?;
                calibrated.push((first, other));
            }
        }
        let verdict = match method {
            None => Verdict::NoInputs,
            // NaN too.
            Some(_) if errors[1] <= errors[0] => Verdict::Calibrated,
            Some(_) => Verdict::Worse,
        };
        if verdict == Verdict::Calibrated {
            calibrated.iter().for_each(|(first, encoded)| self.place(encoded, *first, matrix));
        }
        outcome.add(verdict, errors);
        Ok(())
    }

    /// The sum of squared errors of the outputs of encoded rows, on inputs with these moments.
    fn judge(&self, weights: &[f32], encoded: &[u8], held_out: &Gram) -> Result<f64> {
        let (cols, n) = (self.to.cols, weights.len() / self.to.cols);
        let layout = TileLayout::new(self.to.dtype, n, cols, self.to.group)?;
        let mut matrix = vec![0; layout.total_bytes()];
        for (tile, encoded) in encoded.chunks_exact(layout.encoded_bytes()).enumerate() {
            place_tile(&layout, encoded, tile, &mut matrix);
        }
        let chunks = weights.par_chunks(CHUNK * cols).enumerate().map(|(i, weights)| {
            let n = weights.len() / cols;
            let mut errors = vec![0.0; weights.len()];
            let mut decoded = vec![0.0; cols];
            for (r, row) in weights.chunks_exact(cols).enumerate() {
                decode_row(&layout, &matrix, i * CHUNK + r, &mut decoded);
                for (c, (exact, decoded)) in row.iter().zip(&decoded).enumerate() {
                    errors[c * n + r] = exact - decoded;
                }
            }
            held_out.weigh(&errors)
        });
        // In order: the same sum for any number of threads.
        Ok(chunks.collect::<Vec<f64>>().into_iter().sum())
    }

    /// Puts encoded tiles into the whole matrix, from row `first` on.
    fn place(&self, encoded: &[u8], first: usize, matrix: &mut [u8]) {
        let tiles = encoded.chunks_exact(self.to.encoded_bytes()).enumerate();
        for (i, encoded) in tiles {
            place_tile(&self.to, encoded, first / brooklet_formats::quant::TILE_ROWS + i, matrix);
        }
    }

    /// Memory for all of it.
    pub(crate) fn memory(&self) -> Result<Zeroed<u8>> {
        let memory = Zeroed::try_new(self.to.total_bytes());
        Ok(memory.map_err(FormatError::io("take memory for", self.file.path()))?)
    }
}
