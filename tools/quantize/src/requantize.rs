//! The way through: a `.brk` file in, one in other number formats out.
//!
//! Which format a matrix gets is the converter's rule (`ConvertOptions::dtype_in`). Matrices in a
//! format with searched codes (int4, int5, int6) are calibrated; others are rounded as conversion
//! rounds them, or copied. Finished matrices are kept beside the target until that is there.
//! Test: `tests/`.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use brooklet::{Model, ModelOptions};
use brooklet_formats::atomic::Target;
use brooklet_formats::brk::{self, BrkFile, BrkWriter};
use brooklet_formats::checkpoint::Imatrix;
use brooklet_formats::convert::{ConvertOptions, Equalized};
use brooklet_formats::quant::{TileLayout, fine::Grid, take_tile};
use brooklet_formats::{DType, FormatError};
use xxhash_rust::xxh3::Xxh3;

use crate::calibrate::Calibrator;
use crate::equal::Equal;
use crate::importance::Importance;
use crate::matrix::{Outcome, Source};
use crate::side::Side;
use crate::text::{Sequences, Text};
use crate::{QuantizeError, Result};

/// Changes with everything that changes the bytes of a result.
const VERSION: u64 = 1;

/// How inputs are made use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Columns weigh as much as their inputs' squares while scales are searched.
    Scales,
    /// Columns are rounded one by one, and those that follow make up for the errors.
    Gptq,
}

/// A calibration.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// How.
    pub method: Method,
    /// The text.
    pub text: Text,
}

/// How a file is quantized.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number formats. Tokenizers, LoRAs and the like do not matter here.
    pub formats: ConvertOptions,
    /// With the model's inputs, or by search alone.
    pub calibration: Option<Calibration>,
    /// Without a calibration, the importance of columns while scales are searched.
    pub imatrix: Option<Imatrix>,
    /// Threads; 0 is one for each processor.
    pub threads: usize,
    /// Files that are never replaced, beside the source.
    pub inputs: Vec<PathBuf>,
    /// Added to what the file says of its making.
    pub recipe: String,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Thousandths of layers done; the head is one.
    pub done: u64,
    /// Those in all.
    pub total: u64,
    /// The thing being worked on.
    pub doing: &'a str,
}

/// The result.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Tensors written.
    pub n_tensors: usize,
    /// Weights written.
    pub n_weights: u64,
    /// Bytes of the file read.
    pub source_bytes: u64,
    /// Bytes of the file written.
    pub target_bytes: u64,
    /// Bits of tensor data per weight, scales and padding included.
    pub bits_per_weight: f64,
    /// Tokens of calibration, those held out included; 0 without.
    pub tokens: usize,
    /// Matrices found finished, of a conversion that was stopped.
    pub resumed: usize,
    /// How much was equalized; none if it was not to be.
    pub equalized: Option<Equalized>,
    /// With an imatrix, the matrices that it says something of.
    pub weighted: usize,
    /// What became of the calibrated matrices.
    pub outcomes: Vec<Outcome>,
}

/// Called between steps; a break ends the work, which goes on when it is started again.
pub type OnProgress<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + Send + 'a;

/// Tells how far the work is.
pub(crate) struct Reporter<'a> {
    progress: &'a mut OnProgress<'a>,
    target: PathBuf,
    /// How a break is told.
    broken: &'static str,
    doing: String,
    done: usize,
    total: usize,
}

/// Units of a step.
const STEP: u64 = 1000;

impl<'a> Reporter<'a> {
    /// Of work on the file `target`.
    pub(crate) fn new(
        progress: &'a mut OnProgress<'a>,
        target: &Path,
        broken: &'static str,
    ) -> Reporter<'a> {
        let (target, doing) = (target.to_owned(), String::new());
        Reporter { progress, target, broken, doing, done: 0, total: 1 }
    }

    /// So many steps lie ahead.
    pub(crate) fn begin(&mut self, steps: usize) {
        self.total = steps;
    }

    /// Step number `step` begins.
    pub(crate) fn stage(&mut self, step: usize, doing: String) -> Result<()> {
        self.done = step;
        self.doing = doing;
        self.at(0.0)
    }

    /// So much of the step is done.
    pub(crate) fn at(&mut self, part: f64) -> Result<()> {
        let done = self.done as u64 * STEP + (part * STEP as f64) as u64;
        let total = self.total as u64 * STEP;
        match (self.progress)(Progress { done: done.min(total), total, doing: &self.doing }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                let (path, what) = (self.target.clone(), self.broken);
                Err(FormatError::Cancelled { path, what }.into())
            }
        }
    }
}

/// Writes the model in the file at `source` in other number formats to `target`, whole or not at
/// all.
///
/// # Errors
/// The source cannot be read, or was rounded already; the calibration text says too little; the
/// target cannot be written, is the source, or is there and no `.brk` file; `progress` broke.
pub fn requantize<'a>(
    source: &Path,
    target: &Path,
    options: &Options,
    progress: &'a mut OnProgress<'a>,
) -> Result<Summary> {
    let file = BrkFile::open(source)?;
    let inputs = options.inputs.iter().map(PathBuf::as_path).chain([source]);
    let target = Target::new(target, brk::KIND, inputs).force(options.formats.force);
    target.check()?;
    // Before the long work.
    let is_fitted = options.calibration.is_some() || options.imatrix.is_some();
    self::layouts(&file, &options.formats, is_fitted)?;
    let broken = "conversion stopped, to go on when it is started again";
    let mut report = Reporter::new(progress, target.path(), broken);
    let equal = Equal::of(&file, &target, &options.formats, &mut report)?;
    let weights = equal.as_ref().map_or(&file, |equal| &equal.file);
    let layouts = self::layouts(weights, &options.formats, is_fitted)?;
    let importance = match &options.imatrix {
        Some(imatrix) => Importance::of(&file, equal.as_ref().map(|equal| &equal.file), imatrix)?,
        None => Importance::default(),
    };
    pool(options.threads)?.install(|| {
        let side = calibrate(weights, &target, &layouts, options, &mut report)?;
        let mut summary =
            write(weights, &target, (&layouts, &importance), options, (side, &equal), &mut report)?;
        summary.source_bytes = file.file_len();
        Ok(summary)
    })
}

/// Threads; 0 is one for each processor.
pub(crate) fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|error| QuantizeError::Threads(error.to_string()))
}

/// The layout that each matrix shall have. One that was rounded before can only stay as it is.
fn layouts(
    file: &BrkFile,
    options: &ConvertOptions,
    calibrate: bool,
) -> Result<HashMap<String, TileLayout>> {
    let mut layouts = HashMap::new();
    if let Some(recipe) = &options.recipe {
        let matrices = file.tensors().iter().filter(|info| info.tile_layout().is_some());
        recipe.check(matrices.map(|info| info.name.as_str()))?;
    }
    for info in file.tensors() {
        let Some(from) = info.tile_layout() else { continue };
        let dtype = options.dtype_in(file, &info.name);
        let group = options.group_of(dtype, from.cols);
        let same = dtype == from.dtype && options.group.is_none_or(|_| group == from.group);
        let stays = same && !(calibrate && is_calibrated(dtype));
        if !stays && from.dtype.element_bits() < 16 {
            let (file, tensor) = (file.path().to_owned(), info.name.clone());
            return Err(QuantizeError::Rounded { file, tensor, found: from.dtype });
        }
        let to = options.layout_of(&info.name, (from.rows, from.cols), dtype)?;
        layouts.insert(info.name.clone(), if same { from } else { to });
    }
    Ok(layouts)
}

/// Makes, or finds, the calibrated matrices; gives where they are, the tokens read, and how many
/// were found.
fn calibrate(
    file: &BrkFile,
    target: &Target,
    layouts: &HashMap<String, TileLayout>,
    options: &Options,
    report: &mut Reporter<'_>,
) -> Result<(Option<Side>, usize, usize)> {
    let Some(calibration) = options.calibration.as_ref().filter(|_| layouts.values().any(is_fine))
    else {
        return Ok((None, 0, 0));
    };
    let model = Model::from_file(file.clone(), &ModelOptions::default())?;
    let sequences = Sequences::new(&model, &calibration.text)?;
    let mut key = Xxh3::new();
    for number in [VERSION, file.fingerprint(), calibration.method as u64] {
        key.update(&number.to_le_bytes());
    }
    for info in file.tensors() {
        let layout = layouts
            .get(&info.name)
            .map_or((0, 0, false), |l| (l.dtype.id(), l.group, l.by_columns));
        key.update(&[layout.0, layout.1 as u8, u8::from(layout.2)]);
    }
    for (tokens, held_out) in sequences.tokens.iter().zip(&sequences.held_out) {
        key.update(&[u8::from(*held_out)]);
        tokens.iter().for_each(|id| key.update(&id.to_le_bytes()));
    }
    let tokens = sequences.tokens.iter().map(Vec::len).sum();
    let mut side = Side::open(target.path(), key.digest())?;
    let resumed = side.len();
    let (method, threads) = (calibration.method, options.threads);
    let side_file = &mut side;
    Calibrator { model: &model, layouts, method, threads, sequences, side: side_file }
        .run(report)?;
    Ok((Some(side), tokens, resumed))
}

/// Writes the target, and removes the file beside it.
fn write(
    file: &BrkFile,
    target: &Target,
    (layouts, importance): (&HashMap<String, TileLayout>, &Importance),
    options: &Options,
    ((mut side, tokens, resumed), equal): ((Option<Side>, usize, usize), &Option<Equal>),
    report: &mut Reporter<'_>,
) -> Result<Summary> {
    let mut meta = file.meta().clone();
    meta.provenance.recipe = match &*meta.provenance.recipe {
        "" => options.recipe.clone(),
        before => format!("{before}; {}", options.recipe),
    };
    meta.provenance.recipe += equal.as_ref().map_or("", |equal| &equal.recipe);
    let mut writer = BrkWriter::create(target, meta, file.tokenizer_blob()?.to_vec())?;
    let (mut outcomes, mut n_weights, mut weighted) = (Vec::new(), 0, 0);
    for info in file.tensors() {
        report.at(1.0)?;
        n_weights += info.n_elements();
        let tensor = file.require(&info.name)?;
        let Some(&layout) = layouts.get(&info.name) else {
            writer.plain(&info.name, &info.shape, tensor.as_f32().unwrap_or_default())?;
            continue;
        };
        let kept = side.as_mut().and_then(|side| Some((side.report(&info.name)?.to_vec(), side)));
        let matrix = match kept {
            Some((report, side)) => {
                outcomes.extend(Outcome::from_bytes(&info.name, &report));
                side.get(&info.name)?
            }
            None => {
                let from = info.tile_layout().unwrap_or(layout);
                let source = Source { file, name: &info.name, from, to: layout };
                let mut matrix = source.memory()?;
                match source.from == source.to {
                    true => matrix.copy_from_slice(&tensor.bytes),
                    false => {
                        let columns = importance.get(&info.name).filter(|_| is_fine(&layout));
                        weighted += usize::from(columns.is_some());
                        source.search(&mut matrix, columns)?;
                    }
                }
                matrix
            }
        };
        writer.tiles(&info.name, layout, |tile, out| {
            take_tile(&layout, &matrix, tile, out);
            Ok(())
        })?;
    }
    let written = writer.finish()?;
    side.into_iter().for_each(Side::finish);
    Ok(Summary {
        n_tensors: written.n_tensors,
        n_weights,
        source_bytes: file.file_len(),
        target_bytes: written.file_len,
        bits_per_weight: written.tensor_bytes as f64 * 8.0 / n_weights.max(1) as f64,
        tokens,
        resumed,
        equalized: match options.formats.equalize {
            true => Some(equal.as_ref().map(|equal| equal.equalized).unwrap_or_default()),
            false => None,
        },
        weighted,
        outcomes,
    })
}

fn is_fine(layout: &TileLayout) -> bool {
    is_calibrated(layout.dtype)
}

/// Whether a format's codes can be calibrated.
pub fn is_calibrated(dtype: DType) -> bool {
    Grid::of(dtype).is_some()
}

/// The line in which a file tells how it was made, calibrated on a text of this name.
pub fn made_by(formats: &ConvertOptions, text: &str) -> String {
    let end = if formats.equalize { "" } else { " --no-equalize" };
    format!("requantize {} --calibrate={text}{end}", formats.formats())
}
