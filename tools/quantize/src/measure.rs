//! The harm that a number format does to a model's logits: KL from those of the exact weights, in
//! nats per token, on calibration texts.
//!
//! Of each item alone, in int4: the layers before it run once for all, those behind it again. And
//! of all items together, each in its format. Memory: the residual streams of all texts twice, and
//! either exact distributions, up to [`LOGITS`] bytes, or the matrices of all items in their
//! formats. Not here: which matrices (`items.rs`), what is made of it (`budget.rs`). Test:
//! `tests/budget.rs`.

use std::collections::HashMap;

use brooklet::layerwise::{Kept, Layerwise, Weights};
use brooklet::{EngineOptions, Model};
use brooklet_formats::quant::TileLayout;
use rayon::prelude::*;

use crate::items::Item;
use crate::matrix::Source;
use crate::requantize::Reporter;
use crate::score::LogProbs;
use crate::{QuantizeError, Result};

/// Bytes of the distributions that are kept.
const LOGITS: usize = 1 << 26;

/// Tokens of a pass, and rows of logits that are compared at a time.
const CHUNK: usize = 256;
const ROWS: usize = 64;

/// Tokens of a passage that are read to see whether the model knows it.
const PROBE: usize = 64;

/// The most tokens whose distributions are kept.
pub(crate) fn most_tokens(n_vocab: usize) -> usize {
    LOGITS / size_of::<f32>() / n_vocab.max(1)
}

/// The matrix `name` of a model's file, by search in the layout `to`.
pub(crate) fn rounded(model: &Model, name: &str, to: TileLayout) -> Result<Weights> {
    let file = model.file();
    let tensor = file.require(name)?;
    let source = Source { file, name, from: tensor.info.tile_layout().unwrap_or(to), to };
    let mut matrix = source.memory()?;
    if source.from == to {
        matrix.copy_from_slice(&tensor.bytes);
    } else {
        source.search(&mut matrix, None)?;
    }
    Ok(Weights::new(to, matrix))
}

fn options(threads: usize) -> EngineOptions {
    EngineOptions::new().threads(threads).chunk(CHUNK).logits(1)
}

/// Runs all texts through the layers from `first` on.
fn run(
    walk: &mut Layerwise,
    layers: std::ops::Range<usize>,
    instead: &HashMap<String, Weights>,
    mut each: impl FnMut() -> Result<()>,
) -> Result<()> {
    for i in layers {
        let mut layer = walk.layer(i, instead, None)?;
        for text in 0..walk.n_texts() {
            walk.run(&mut layer, text, true)?;
            each()?;
        }
    }
    Ok(())
}

/// Exact distributions of some tokens: KL(p || q) = Σ p l − ln Σ exp l, less the same of q's
/// logits, takes one exponential for each of q's.
struct Exact {
    n_vocab: usize,
    /// (tokens, n_vocab)
    p: Vec<f32>,
    /// Σ p l − ln Σ exp l of each.
    sums: Vec<f64>,
}

impl Exact {
    fn new(n_vocab: usize, logits: &[f32]) -> Exact {
        let mut p = vec![0.0; logits.len()];
        let rows = p.par_chunks_exact_mut(n_vocab).zip(logits.par_chunks_exact(n_vocab));
        let sums = rows.map(|(p, logits)| {
            let log_probs = LogProbs::new(logits);
            p.iter_mut().zip(log_probs.iter()).for_each(|(p, log)| *p = log.exp() as f32);
            expected(p, logits) - log_probs.normalizer()
        });
        let sums = sums.collect();
        Exact { n_vocab, p, sums }
    }

    /// KL of each token's logits beside the exact ones; in order, so that their sum is the same
    /// for any number of threads.
    fn divergences(&self, logits: &[f32]) -> Vec<f64> {
        let rows = self.p.par_chunks_exact(self.n_vocab).zip(&self.sums);
        let rows = rows.zip(logits.par_chunks_exact(self.n_vocab));
        let of = rows.map(|((p, sum), logits)| {
            sum - (expected(p, logits) - LogProbs::new(logits).normalizer())
        });
        of.collect()
    }
}

/// Σ p l.
fn expected(p: &[f32], logits: &[f32]) -> f64 {
    p.iter().zip(logits).map(|(p, logit)| f64::from(*p) * f64::from(*logit)).sum()
}

/// Up to `n` of some passages, those that the model knows how to read: where it saves half of the
/// `ln n_vocab` nats that a token costs who knows nothing. What a format does to a text of another
/// kind, code for a model of novels, says little of the text that the model is for. If few are so,
/// a quarter of all, those it reads best. Of many only the beginning is read.
pub(crate) fn known(
    model: &Model,
    mut passages: Vec<Vec<u32>>,
    (n, threads): (usize, usize),
    report: &mut Reporter<'_>,
) -> Result<Vec<Vec<u32>>> {
    for (n, read) in [(n + n.div_ceil(2), PROBE), (n, usize::MAX)] {
        let parts = passages.iter().map(|ids| ids[..read.min(ids.len())].to_vec());
        let mut nats: Vec<(f64, usize)> = Vec::new();
        for (i, nats_of) in
            nats_of(model, parts.collect(), threads, report)?.into_iter().enumerate()
        {
            nats.push((nats_of, i));
        }
        nats.sort_by(|a, b| a.0.total_cmp(&b.0));
        let limit = (model.n_vocab() as f64).ln() / 2.0;
        let known = nats.iter().take_while(|(nats, _)| *nats <= limit).count();
        nats.truncate(known.max(passages.len().div_ceil(4)));
        // In the order of the text, spread over it.
        let mut kept: Vec<usize> = nats.into_iter().map(|(_, i)| i).collect();
        kept.sort_unstable();
        let n = n.min(kept.len());
        let spread = (0..n).map(|i| passages[kept[i * kept.len() / n]].clone());
        passages = spread.collect();
    }
    Ok(passages)
}

/// The nats that a token of each text costs, but for the first ones: from nothing every text is
/// strange.
fn nats_of(
    model: &Model,
    texts: Vec<Vec<u32>>,
    threads: usize,
    report: &mut Reporter<'_>,
) -> Result<Vec<f64>> {
    let mut walk = Layerwise::new(model, texts.clone(), &options(threads))?;
    run(&mut walk, 0..model.n_layer(), &HashMap::new(), || report.at(0.0))?;
    let mut logits = Vec::new();
    let nats = texts.iter().enumerate().map(|(text, ids)| {
        let first = (ids.len() / 2).min(PROBE / 2);
        walk.logits(text, first..ids.len(), &mut logits);
        let rows = logits.par_chunks_exact(model.n_vocab()).zip(&ids[first + 1..]);
        let of: Vec<f64> = rows.map(|(row, next)| -LogProbs::new(row).of(*next)).collect();
        of.iter().sum::<f64>() / of.len().max(1) as f64
    });
    Ok(nats.collect())
}

/// Measures items one by one.
pub(crate) struct Meter<'a> {
    model: &'a Model,
    texts: &'a [Vec<u32>],
    threads: usize,
    /// Texts before the layer at hand, and behind the last one.
    walk: Layerwise,
    last: Kept,
    /// The exact distributions of each text.
    exact: Vec<Exact>,
}

impl<'a> Meter<'a> {
    /// For texts with [`most_tokens`] at the most.
    pub(crate) fn new(
        model: &'a Model,
        texts: &'a [Vec<u32>],
        threads: usize,
        report: &mut Reporter<'_>,
    ) -> Result<Self> {
        let mut walk = Layerwise::new(model, texts.to_vec(), &options(threads))?;
        let first = walk.streams();
        run(&mut walk, 0..model.n_layer(), &HashMap::new(), || report.at(0.0))?;
        let mut logits = Vec::new();
        let exact = texts.iter().enumerate().map(|(text, ids)| {
            walk.logits(text, 0..ids.len(), &mut logits);
            Exact::new(model.n_vocab(), &logits)
        });
        let exact = exact.collect();
        let last = walk.streams();
        walk.put(&first);
        Ok(Meter { model, texts, threads, walk, last, exact })
    }

    /// The KL that each item alone makes in the layouts that `to` says; 0 without measuring for an
    /// item that it says none for. Called once.
    pub(crate) fn measure(
        mut self,
        items: &[Item],
        to: impl Fn(&Item, &str) -> Result<Option<TileLayout>>,
        report: &mut Reporter<'_>,
    ) -> Result<Vec<f64>> {
        let n_layer = self.model.n_layer();
        let mut found = vec![0.0; items.len()];
        let mut done = 0;
        for layer in (0..n_layer).map(Some).chain([None]) {
            let before = self.walk.streams();
            for (item, found) in
                items.iter().zip(&mut found).filter(|(item, _)| item.layer == layer)
            {
                let mut instead = HashMap::new();
                for name in &item.names {
                    if let Some(to) = to(item, name)? {
                        instead.insert(name.clone(), rounded(self.model, name, to)?);
                    }
                }
                report.stage(done, item.label())?;
                done += cost(item, n_layer);
                if !instead.is_empty() {
                    *found = self.of(item, &instead, report)?;
                    self.walk.put(&before);
                }
            }
            if let Some(layer) = layer {
                run(&mut self.walk, layer..layer + 1, &HashMap::new(), || Ok(()))?;
            }
        }
        Ok(found)
    }

    /// The KL that an item makes.
    fn of(
        &mut self,
        item: &Item,
        instead: &HashMap<String, Weights>,
        report: &mut Reporter<'_>,
    ) -> Result<f64> {
        let n_layer = self.model.n_layer();
        let check = || report.at(0.0);
        let mut altered = None;
        let walk = match item.layer {
            Some(layer) => {
                run(&mut self.walk, layer..n_layer, instead, check)?;
                &mut self.walk
            }
            None => {
                let model = self.model.with(instead)?;
                let mut walk = Layerwise::new(&model, self.texts.to_vec(), &options(self.threads))?;
                if is_head_alone(item) {
                    walk.put(&self.last);
                } else {
                    run(&mut walk, 0..n_layer, instead, check)?;
                }
                altered.insert(walk)
            }
        };
        let (mut sum, mut n) = (0.0, 0);
        let mut other = Vec::new();
        for (text, exact) in self.exact.iter().enumerate() {
            walk.logits(text, 0..self.texts[text].len(), &mut other);
            let nats = exact.divergences(&other);
            sum += nats.iter().sum::<f64>();
            n += nats.len();
        }
        mean(self.model, sum, n)
    }
}

/// Whether an item outside of layers changes nothing before them.
fn is_head_alone(item: &Item) -> bool {
    item.names.iter().all(|name| name == "head")
}

/// Layers that are run for an item.
pub(crate) fn cost(item: &Item, n_layer: usize) -> usize {
    match item.layer {
        Some(layer) => n_layer - layer + 1,
        None if is_head_alone(item) => 1,
        None => n_layer + 1,
    }
}

/// Texts behind the last layer of a model as it is, to compare with.
pub(crate) fn exact(
    model: &Model,
    (texts, threads): (&[Vec<u32>], usize),
    report: &mut Reporter<'_>,
) -> Result<Layerwise> {
    let mut exact = Layerwise::new(model, texts.to_vec(), &options(threads))?;
    run(&mut exact, 0..model.n_layer(), &HashMap::new(), || report.at(0.0))?;
    Ok(exact)
}

/// The KL that matrices make all together, from the texts in [`exact`].
pub(crate) fn together(
    model: &Model,
    instead: &HashMap<String, Weights>,
    exact: &mut Layerwise,
    (texts, threads): (&[Vec<u32>], usize),
    report: &mut Reporter<'_>,
) -> Result<f64> {
    let altered = model.with(instead)?;
    let mut other = Layerwise::new(&altered, texts.to_vec(), &options(threads))?;
    run(&mut other, 0..model.n_layer(), instead, || report.at(0.0))?;
    let (mut sum, mut n) = (0.0, 0);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (text, tokens) in texts.iter().enumerate() {
        for first in (0..tokens.len()).step_by(ROWS) {
            let rows = first..tokens.len().min(first + ROWS);
            exact.logits(text, rows.clone(), &mut ours);
            other.logits(text, rows, &mut theirs);
            let nats = Exact::new(model.n_vocab(), &ours).divergences(&theirs);
            sum += nats.iter().sum::<f64>();
            n += nats.len();
            report.at(0.0)?;
        }
    }
    mean(model, sum, n)
}

fn mean(model: &Model, sum: f64, n: usize) -> Result<f64> {
    let mean = sum / n.max(1) as f64;
    let file = || model.file().path().to_owned();
    if mean.is_finite() { Ok(mean) } else { Err(QuantizeError::NotFinite { file: file() }) }
}
