//! Layer after layer: the inputs of a layer's matrices are observed while all texts run through it,
//! its matrices are encoded, and the layer as it is then makes the inputs of the next.
//!
//! Within a layer all inputs are those of its exact matrices. Where layers share a matrix, the
//! first of them decides. Memory: the residual streams of all texts, one layer in f32, and moments
//! of inputs up to [`MOMENTS`]; a layer that asks for more runs several times. Test: `tests/`.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use brooklet::layerwise::{Layerwise, Observer, TensorSpec, Weights};
use brooklet::{EngineOptions, Model};
use brooklet_formats::quant::fine::Grid;
use brooklet_formats::quant::{TILE_ROWS, TileLayout};
use brooklet_formats::zeroed::Zeroed;

use crate::gram::Gram;
use crate::inputs::{Collector, Part};
use crate::matrix::{Outcome, Source};
use crate::requantize::Reporter;
use crate::side::Side;
use crate::text::Sequences;
use crate::{Method, Result};

/// Bytes of moments that are kept at once, if a single matrix's are not more.
const MOMENTS: usize = 1 << 30;

/// Tokens of a pass.
const CHUNK: usize = 256;

/// Everything that a calibration depends on.
pub(crate) struct Calibrator<'a> {
    pub(crate) model: &'a Model,
    /// The layout that each matrix shall have.
    pub(crate) layouts: &'a HashMap<String, TileLayout>,
    pub(crate) method: Method,
    pub(crate) threads: usize,
    pub(crate) sequences: Sequences,
    pub(crate) side: &'a mut Side,
}

/// Rows of a matrix with inputs of their own.
struct Own<'a> {
    spec: &'a TensorSpec,
    rows: Range<usize>,
}

impl Own<'_> {
    fn part(&self) -> Part {
        Part { name: self.spec.name.clone(), first_row: self.rows.start }
    }

    fn cols(&self) -> usize {
        self.spec.shape[1]
    }

    fn is_last(&self) -> bool {
        self.rows.end == self.spec.shape[0]
    }
}

/// The matrices that stand below each other in a tensor.
fn parts(spec: &TensorSpec) -> impl Iterator<Item = Own<'_>> {
    let rows = spec.shape[0];
    let each = match spec.part_rows {
        part if part == rows => rows,
        part => part.next_multiple_of(TILE_ROWS),
    };
    (0..rows).step_by(each).map(move |first| Own { spec, rows: first..rows.min(first + each) })
}

/// Cuts parts into groups whose moments fit, each of at least one.
fn groups<'a>(parts: Vec<Own<'a>>, limit: usize) -> Vec<Vec<Own<'a>>> {
    let mut groups: Vec<Vec<Own<'a>>> = Vec::new();
    let mut bytes = usize::MAX;
    for part in parts {
        let own = 2 * Gram::bytes(part.cols());
        bytes = bytes.saturating_add(own);
        match groups.last_mut() {
            Some(group) if bytes <= limit => group.push(part),
            _ => {
                groups.push(vec![part]);
                bytes = own;
            }
        }
    }
    groups
}

/// The parts of the time of a layer that observing its inputs takes, and encoding its matrices;
/// the rest passes on to the next layer.
const OBSERVING: f64 = 0.5;
const ENCODING: f64 = 0.35;

impl Calibrator<'_> {
    /// Encodes every matrix whose format is worth it, and keeps it in the side file.
    pub(crate) fn run(mut self, report: &mut Reporter<'_>) -> Result<()> {
        let options = EngineOptions::new().threads(self.threads).chunk(CHUNK).logits(1);
        let mut walk = Layerwise::new(self.model, self.sequences.tokens.clone(), &options)?;
        let n_layer = self.model.n_layer();
        let layers = (0..n_layer).map(|i| self.matrices_of(&walk, i));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let mut names = HashSet::new();
        // By layer, the matrices that are shared with an earlier one.
        let shared = layers.iter().map(|specs| {
            let repeated = specs.iter().filter(|spec| !names.insert(spec.name.clone()));
            repeated.map(|spec| spec.name.clone()).collect::<Vec<_>>()
        });
        let shared: Vec<Vec<String>> = shared.collect();
        let head = self.head();
        let is_open = |side: &Side, spec: &TensorSpec| side.report(&spec.name).is_none();
        // The head counts as a layer.
        report.begin(n_layer + 1);
        for (i, specs) in layers.iter().enumerate() {
            report.stage(i, format!("layer {} of {n_layer}", i + 1))?;
            let fine = specs.iter().filter(|spec| self.is_fine(&spec.name));
            let open: Vec<&TensorSpec> = fine.filter(|spec| is_open(self.side, spec)).collect();
            let parts = open.iter().flat_map(|spec| parts(spec)).collect();
            self.encode(&mut walk, Some((i, &shared[i])), groups(parts, MOMENTS), report)?;
            let mut instead = HashMap::new();
            for spec in specs {
                let weights = self.finished(&spec.name)?;
                instead.extend(weights.map(|weights| (spec.name.clone(), weights)));
            }
            let mut layer = walk.layer(i, &instead, None)?;
            for text in 0..walk.n_texts() {
                walk.run(&mut layer, text, true)?;
                let passed = (text + 1) as f64 / walk.n_texts() as f64;
                report.at(OBSERVING + ENCODING + (1.0 - OBSERVING - ENCODING) * passed)?;
            }
        }
        report.stage(n_layer, "head".to_owned())?;
        if let Some(spec) = head.filter(|spec| is_open(self.side, spec)) {
            self.encode(&mut walk, None, groups(parts(&spec).collect(), MOMENTS), report)?;
        }
        Ok(())
    }

    /// The matrices that layer `i` takes out of the file.
    fn matrices_of(&self, walk: &Layerwise, i: usize) -> Result<Vec<TensorSpec>> {
        let mut specs = walk.tensors(i)?;
        specs.retain(|spec| spec.is_matrix && self.layouts.contains_key(&spec.name));
        Ok(specs)
    }

    fn is_fine(&self, name: &str) -> bool {
        self.layouts.get(name).is_some_and(|layout| Grid::of(layout.dtype).is_some())
    }

    /// The head, if it is to be calibrated.
    fn head(&self) -> Option<TensorSpec> {
        let meta = self.model.meta();
        let name = if self.layouts.contains_key("head") { "head" } else { "embed" };
        let mut specs = Model::tensors(&meta.architecture, &meta.config).ok()?;
        let at = specs.iter().position(|spec| spec.name == name)?;
        self.is_fine(name).then(|| specs.swap_remove(at))
    }

    /// Observes the inputs of the parts, group by group, and encodes them. `layer` is the layer and
    /// its matrices that are finished; `None` is the head.
    fn encode(
        &mut self,
        walk: &mut Layerwise,
        layer: Option<(usize, &Vec<String>)>,
        groups: Vec<Vec<Own<'_>>>,
        report: &mut Reporter<'_>,
    ) -> Result<()> {
        let mut matrices: HashMap<String, (Zeroed<u8>, Outcome)> = HashMap::new();
        let n_groups = groups.len() as f64;
        for (g, group) in groups.into_iter().enumerate() {
            let share = |part: f64| (g as f64 + part) / n_groups * (OBSERVING + ENCODING);
            let observing = OBSERVING / (OBSERVING + ENCODING);
            let wanted = group.iter().map(|own| (own.part(), own.cols()));
            let collector = Arc::new(Collector::new(wanted));
            let mut instead = HashMap::new();
            for name in layer.iter().flat_map(|(_, shared)| *shared) {
                let weights = self.finished(name)?;
                instead.extend(weights.map(|weights| (name.clone(), weights)));
            }
            let observer = || Arc::clone(&collector) as Arc<dyn Observer>;
            let mut loaded = match layer {
                Some((i, _)) => Some(walk.layer(i, &instead, Some(observer()))?),
                None => None,
            };
            for text in 0..walk.n_texts() {
                match &mut loaded {
                    Some(loaded) => walk.run(loaded, text, false)?,
                    None => walk.head(&group[0].spec.name, text, &*collector),
                }
                collector.flush(self.sequences.held_out[text]);
                report.at(share(observing * (text + 1) as f64 / walk.n_texts() as f64))?;
            }
            drop(loaded);
            let n = group.len() as f64;
            for (i, own) in group.into_iter().enumerate() {
                let Some(moments) = collector.take(&own.part()) else { continue };
                let name = &own.spec.name;
                let source = self.source(name)?;
                if !matrices.contains_key(name) {
                    matrices.insert(name.clone(), (source.memory()?, Outcome::new(name)));
                }
                if let Some((matrix, outcome)) = matrices.get_mut(name) {
                    let into = (&mut **matrix, outcome);
                    source.calibrate(own.rows.clone(), moments, self.method, into)?;
                }
                report.at(share(observing + (1.0 - observing) * (i + 1) as f64 / n))?;
                if own.is_last()
                    && let Some((matrix, outcome)) = matrices.remove(name)
                {
                    self.side.put(name, &outcome.to_bytes(), &matrix)?;
                }
            }
        }
        Ok(())
    }

    fn source<'a>(&'a self, name: &'a str) -> Result<Source<'a>> {
        let file = self.model.file();
        let tensor = file.require(name)?;
        let from = tensor.info.tile_layout().unwrap_or(self.layouts[name]);
        Ok(Source { file, name, from, to: self.layouts[name] })
    }

    /// The matrix `name` as the target will have it; `None` if that is as the source has it.
    fn finished(&mut self, name: &str) -> Result<Option<Weights>> {
        if self.side.report(name).is_some() {
            return Ok(Some(Weights::new(self.layouts[name], self.side.get(name)?)));
        }
        let source = self.source(name)?;
        if source.from == source.to {
            return Ok(None);
        }
        let mut matrix = source.memory()?;
        source.search(&mut matrix, None)?;
        Ok(Some(Weights::new(source.to, matrix)))
    }
}
