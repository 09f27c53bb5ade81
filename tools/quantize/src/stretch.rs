//! A model for longer texts than it was trained on, without training: LongMamba's token filter (Ye
//! et al. 2025, arXiv 2504.16053, §4).
//!
//! A channel of a Mamba forgets by exp(Δ A) at every token. Most channels forget within some
//! hundred tokens: *local* ones. *Global* ones hold the first token of a training text at its end
//! still, and nothing taught them what to do with ten times as many: they decay away. So their
//! tokens with a small Δ, which say little, are left out (Δ = 0), as many as it takes for a text of
//! `length` tokens to decay as one of `trained` does:
//!
//! ```text
//! Δ of a channel   ▂ ▁ ▇ ▁ ▂ ▅ ▁ ▁ ▆ ▂ …     length · mean(Δ that are left) = trained · mean(Δ)
//! left             · · ▇ · · ▅ · · ▆ · …
//! ```
//!
//! The least Δ of every channel becomes a tensor of the file, `dt_least`; nothing else changes.
//! Test: `tests/stretch.rs`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use brooklet::layerwise::{Inputs, Layerwise, Observer};
use brooklet::{EngineOptions, Model, ModelOptions};
use brooklet_formats::atomic::Target;
use brooklet_formats::brk::{self, BrkFile, BrkWriter};
use brooklet_formats::quant::{decode_row, take_tile};

use crate::product::{View, multiply};
use crate::requantize::{OnProgress, Reporter};
use crate::text::{Text, passages};
use crate::{QuantizeError, Result};

/// Tokens whose Δ are looked at.
const TOKENS: usize = 8192;

/// Tokens of a passage, at most.
const PASSAGE: usize = 2048;

/// Channels in a block of a blocked tensor.
const BLOCK: usize = 16;

/// A global channel still holds this part of the first token of a training text at its end, unless
/// another is asked for: the paper's least.
pub const THRESHOLD: f64 = 1e-30;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// The length of the texts that the model was trained on.
    pub trained: usize,
    /// That of the texts that it shall read.
    pub length: usize,
    /// The part of the first token that a global channel holds at the end of a training text.
    pub threshold: f64,
    /// The text whose Δ are looked at.
    pub text: Text,
    /// Replace a file that is no `.brk` file.
    pub force: bool,
    /// Files that are never replaced, beside the source.
    pub inputs: Vec<PathBuf>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stretched {
    /// Channels (heads, in Mamba-2) of all layers.
    pub channels: usize,
    /// Global ones among them.
    pub global: usize,
    /// The part of the tokens that global channels leave out, on average.
    pub left_out: f64,
    /// Tokens that were looked at.
    pub tokens: usize,
}

/// Where Δ of a layer comes from: softplus(matrix · x + bias), times A.
struct Steps {
    /// The matrix, (channels, k).
    matrix: &'static str,
    bias: &'static str,
    is_blocked: bool,
}

/// Mamba-1's and Mamba-2's.
const STEPS: [Steps; 2] = [
    Steps { matrix: "dt_proj", bias: "dt_proj.bias", is_blocked: true },
    Steps { matrix: "in_proj.dt", bias: "dt_bias", is_blocked: false },
];

/// Writes the model in the file at `source` to `target` with the least Δ of every channel, whole or
/// not at all.
///
/// # Errors
/// The source cannot be read or has no Mamba in it; the text says too little; the target cannot be
/// written, is the source, or is there and no `.brk` file; `progress` broke.
pub fn stretch<'a>(
    source: &Path,
    target: &Path,
    asked: &Stretch,
    progress: &'a mut OnProgress<'a>,
) -> Result<Stretched> {
    let file = BrkFile::open(source)?;
    let inputs = asked.inputs.iter().map(PathBuf::as_path).chain([source]);
    let target = Target::new(target, brk::KIND, inputs).force(asked.force);
    target.check()?;
    let model = Model::from_file(file.clone(), &ModelOptions::default())?;
    let has_steps = |i| STEPS.iter().any(|steps| steps.are_in(&file, i));
    if !(0..model.n_layer()).any(has_steps) {
        return Err(QuantizeError::NoMamba { file: source.to_owned() });
    }
    let texts = passages(&model, &asked.text, TOKENS, asked.trained.min(PASSAGE))?;
    let mut found = Stretched { tokens: texts.iter().map(Vec::len).sum(), ..Stretched::default() };
    let mut report = Reporter::new(progress, target.path(), "broken off");
    report.begin(model.n_layer());
    let mut walk = Layerwise::new(&model, texts, &EngineOptions::default())?;
    let mut least: HashMap<String, Vec<f32>> = HashMap::new();
    for i in 0..model.n_layer() {
        report.stage(i, format!("layer {i}"))?;
        let steps = STEPS.iter().find(|steps| steps.are_in(&file, i));
        let read = Arc::new(Columns::new(steps.map(|steps| steps.name(i, steps.matrix))));
        let mut layer = walk.layer(i, &HashMap::new(), Some(read.clone()))?;
        for text in 0..walk.n_texts() {
            walk.run(&mut layer, text, true)?;
            report.at(text as f64 / walk.n_texts() as f64)?;
        }
        if let Some(steps) = steps {
            let channels = steps.channels(&file, i, &read.take())?;
            let bias = file.require(&steps.name(i, steps.bias))?;
            let mut values = vec![0.0; bias.as_f32().map_or(0, <[f32]>::len)];
            for (value, channel) in values.iter_mut().zip(channels) {
                *value = asked.least(channel, &mut found);
            }
            least.insert(format!("layers.{i}.dt_least"), values);
        }
    }
    found.left_out /= found.global.max(1) as f64;
    write(&file, &target, asked, &least)?;
    Ok(found)
}

/// One channel: Δ of all tokens, and the slowest of its A.
struct Channel {
    steps: Vec<f32>,
    a: f32,
}

impl Stretch {
    /// The least Δ of a channel; 0 of a local one.
    fn least(&self, channel: Channel, found: &mut Stretched) -> f32 {
        let Channel { mut steps, a } = channel;
        found.channels += 1;
        let sum: f64 = steps.iter().copied().map(f64::from).sum();
        let mean = sum / steps.len().max(1) as f64;
        let decay = (f64::from(a) * mean * self.trained as f64).exp();
        if decay <= self.threshold || self.length <= self.trained {
            return 0.0;
        }
        found.global += 1;
        // The largest ones stay, until they are as much of all as a training text is of a long one.
        steps.sort_unstable_by(|a, b| b.total_cmp(a));
        let enough = sum * self.trained as f64 / self.length as f64;
        let (mut kept, mut n) = (0.0, 0);
        while n < steps.len() && (kept < enough || n == 0) {
            kept += f64::from(steps[n]);
            n += 1;
        }
        found.left_out += 1.0 - n as f64 / steps.len() as f64;
        steps[n - 1]
    }
}

impl Steps {
    fn name(&self, layer: usize, name: &str) -> String {
        format!("layers.{layer}.{name}")
    }

    /// Whether layer `layer` is of this kind: gated delta nets have a matrix of that name, too, but
    /// nothing that is added to a convolution of x, B and C.
    fn are_in(&self, file: &BrkFile, layer: usize) -> bool {
        let has = |name: &str| file.tensor(&self.name(layer, name)).is_some();
        let of_mamba = if self.is_blocked { "x_proj" } else { "in_proj.xbc" };
        has(self.matrix) && has(self.bias) && has("A") && has(of_mamba)
    }

    /// The channels of layer `layer` behind the inputs `x` of the matrix, (tokens, k).
    fn channels(&self, file: &BrkFile, layer: usize, x: &[f32]) -> Result<Vec<Channel>> {
        let tensor = file.require(&self.name(layer, self.matrix))?;
        let (bias, a) = (self.name(layer, self.bias), self.name(layer, "A"));
        let (bias, a) = (file.require(&bias)?, file.require(&a)?);
        let [bias, a] = [&bias, &a].map(|tensor| tensor.as_f32().unwrap_or_default());
        let Some(layout) = tensor.info.tile_layout() else { return Ok(Vec::new()) };
        let (rows, k) = (layout.rows, layout.cols);
        let (tokens, mut row) = (x.len() / k, vec![0.0; k]);
        let mut channels = Vec::with_capacity(rows);
        for c in 0..rows {
            decode_row(&layout, &tensor.bytes, c, &mut row);
            let mut steps = vec![0.0; tokens];
            let (x, w) = (View::rows(x, (tokens, k), k), View::rows(&row, (1, k), k));
            multiply((&mut steps, 1), (1.0, 0.0), x, w.transposed());
            let b = bias.get(c).copied().unwrap_or_default();
            steps.iter_mut().for_each(|step| *step = softplus(*step + b));
            channels.push(Channel { steps, a: self.slowest(a, c, rows) });
        }
        Ok(channels)
    }

    /// The A of channel `c` that is nearest to 0.
    fn slowest(&self, a: &[f32], c: usize, rows: usize) -> f32 {
        if !self.is_blocked {
            return a.get(c).copied().unwrap_or_default();
        }
        let n = a.len() / (rows.div_ceil(BLOCK) * BLOCK);
        let at = |j| a.get((c / BLOCK * n + j) * BLOCK + c % BLOCK).copied();
        (0..n).filter_map(at).fold(f32::NEG_INFINITY, f32::max)
    }
}

/// ln(1 + eˣ), without overflow.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// The inputs of one matrix.
struct Columns {
    name: Option<String>,
    x: Mutex<Vec<f32>>,
}

impl Columns {
    fn new(name: Option<String>) -> Columns {
        Columns { name, x: Mutex::default() }
    }

    fn take(&self) -> Vec<f32> {
        std::mem::take(&mut *self.x.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Observer for Columns {
    fn product(&self, name: &str, _: usize, x: &Inputs<'_>) {
        if self.name.as_deref() == Some(name) {
            let mut all = self.x.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            x.columns().for_each(|column| all.extend_from_slice(column));
        }
    }
}

/// Writes the file again, with what is new.
fn write(
    file: &BrkFile,
    target: &Target,
    asked: &Stretch,
    least: &HashMap<String, Vec<f32>>,
) -> Result<()> {
    let mut meta = file.meta().clone();
    let recipe = &mut meta.provenance.recipe;
    let before = if recipe.is_empty() { "" } else { "; " };
    *recipe += &format!("{before}stretch {} to {}", asked.trained, asked.length);
    let mut writer = BrkWriter::create(target, meta, file.tokenizer_blob()?.to_vec())?;
    for info in file.tensors().iter().filter(|info| !least.contains_key(&info.name)) {
        let tensor = file.require(&info.name)?;
        match info.tile_layout() {
            None => {
                writer.plain(&info.name, &info.shape, tensor.as_f32().unwrap_or_default())?;
            }
            Some(layout) => writer.tiles(&info.name, layout, |tile, out| {
                take_tile(&layout, &tensor.bytes, tile, out);
                Ok(())
            })?,
        }
    }
    let mut names: Vec<&String> = least.keys().collect();
    names.sort();
    for name in names {
        writer.plain(name, &[least[name].len()], &least[name])?;
    }
    writer.finish()?;
    Ok(())
}
