//! Number formats by a budget: of each matrix the one that pays most.
//!
//! KL adds up over matrices, as their errors have nothing to do with each other (for pruning:
//! Xu et al. 2023, arXiv 2308.10438; for bits: HAWQ-V3, arXiv 2011.10680). So the harm of int4 is
//! measured matrix by matrix, that of other formats follows by their errors of rounding, and a
//! knapsack chooses. The choice is then measured as a whole, which takes in what does not add up,
//! and the rounding of activations. Not here: the writing (`requantize.rs`). Test:
//! `tests/budget.rs`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use brooklet::Model;
use brooklet::layerwise::Layerwise;
use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::convert::ConvertOptions;

use crate::items::{Item, MEASURED, Possible, items, layout};
use crate::knapsack::{self, Limit};
use crate::measure::{self, Meter, rounded, together};
use crate::plan::{Chosen, Plan, split};
use crate::requantize::{OnProgress, Reporter, is_calibrated, pool};
use crate::text::{Text, passages};
use crate::{Calibration, Method, QuantizeError, Result};

/// The bound of what a model may take, or lose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bits of tensor data per weight, scales and padding included.
    Bits(f64),
    /// Bytes of the file.
    Bytes(u64),
    /// KL from the exact weights' logits, in nats per token.
    Divergence(f64),
}

/// How formats are chosen.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The bound.
    pub budget: Budget,
    /// Overrides are kept; `group` holds for formats that have a choice.
    pub formats: ConvertOptions,
    /// How the file will be written.
    pub calibration: Option<Calibration>,
    /// Threads; 0 is one for each processor.
    pub threads: usize,
}

/// Floating-point operations that measuring may take, about; two or three minutes of two cores.
const WORK: f64 = 1e13;

/// Tokens that items are measured on, at the least and at the most; all together, more.
const TOKENS: (usize, usize) = (256, 512);
const TOGETHER: usize = 4096;

/// Tokens of a passage, and of how many some are chosen.
const LENGTH: usize = 256;
const CANDIDATES: usize = 48;

/// Layers that share items, at the most.
const MAX_SPAN: usize = 8;

/// Bytes that a file's metadata may grow by beside the recipe, and its sections by alignment.
const SLACK: u64 = 1024;

/// How often a plan is made anew, as it loses more or less than its parts.
const ROUNDS: usize = 4;

/// A plan that loses at least this part of what it may is good enough.
const NEAR: f64 = 0.9;

/// Of the KL by search, what calibration leaves, about: of int4's 0.71 in mamba2-demo, 0.73 in
/// rwkv7-demo, 0.74 in mamba1-demo, 0.80 in qwen35-demo and 0.84 in rwkv7-nano, where int5's is
/// 0.82; of mixtures 0.64 to 0.77 (`benches/FIDELITY.md`, "Budgets"). Rather too much than too
/// little, as `--max-kl` is a bound.
const LEFT_BY_GPTQ: f64 = 0.78;

/// The part of the KL by search that a format is expected to have as it will be written.
fn left(calibration: Option<&Calibration>, dtype: DType) -> f64 {
    match calibration.map(|calibration| calibration.method) {
        Some(Method::Gptq) if is_calibrated(dtype) => LEFT_BY_GPTQ,
        _ => 1.0,
    }
}

/// The sizes that stand between matrices and a budget.
struct Frame {
    weights: u64,
    /// Bytes of the tensors that are no matrices.
    plain: u64,
    /// Bytes of the file that are no tensors.
    around: u64,
}

impl Frame {
    fn new(file: &BrkFile) -> Frame {
        let tensors = file.tensors();
        let is_plain = |info: &&_| brooklet_formats::brk::TensorInfo::tile_layout(info).is_none();
        let all: u64 = tensors.iter().map(|info| info.len).sum();
        Frame {
            weights: tensors.iter().map(|info| info.n_elements()).sum(),
            plain: tensors.iter().filter(is_plain).map(|info| info.len).sum(),
            around: file.file_len() - all + SLACK,
        }
    }

    fn bits(&self, matrices: u64) -> f64 {
        (self.plain + matrices) as f64 * 8.0 / self.weights.max(1) as f64
    }

    /// The most bytes of matrices that a budget leaves.
    fn limit(&self, budget: Budget, recipe: u64) -> Option<u64> {
        let left = match budget {
            Budget::Bits(bits) => (bits * self.weights as f64 / 8.0) as u64,
            Budget::Bytes(bytes) => bytes.saturating_sub(self.around + recipe),
            Budget::Divergence(_) => return None,
        };
        Some(left.saturating_sub(self.plain))
    }
}

/// Chooses the number formats of the model in the file at `source`, which has its weights as f32,
/// f16 or bf16, and writes nothing. The text is that of the calibration, or the built-in one.
///
/// # Errors
/// The budget cannot be kept; the source cannot be read or was rounded already; the text says too
/// little; `progress` broke.
pub fn plan<'a>(
    source: &Path,
    options: &PlanOptions,
    progress: &'a mut OnProgress<'a>,
) -> Result<Plan> {
    let mut report = Reporter::new(progress, source, "planning stopped, nothing was written");
    pool(options.threads)?.install(|| {
        let planner = Planner::new(source, options, &mut report)?;
        planner.run(&mut report)
    })
}

struct Planner<'a> {
    options: &'a PlanOptions,
    model: Model,
    frame: Frame,
    items: Vec<Item>,
    /// Texts to measure items on, and all together.
    texts: [Vec<Vec<u32>>; 2],
}

impl<'a> Planner<'a> {
    fn new(
        source: &Path,
        options: &'a PlanOptions,
        report: &mut Reporter<'_>,
    ) -> Result<Planner<'a>> {
        report.stage(0, "errors of rounding".to_owned())?;

        let model = Model::open(source)?;
        let frame = Frame::new(model.file());
        let text = options.calibration.as_ref().map_or(&Text::BuiltIn, |c| &c.text);
        let most = measure::most_tokens(model.n_vocab()).max(1);
        let walk = Layerwise::new(&model, vec![vec![0]], &Default::default())?;
        let n_layer = model.n_layer();
        // Layers share items, and then tokens get fewer, until measuring is no more work than it
        // may be.
        let (mut span, mut tokens) = (1, TOKENS.1.min(most));
        let items = loop {
            let items = items(model.file(), &walk, n_layer, &options.formats, span)?;
            let open = items.iter().filter(|item| item.formats.len() > 1);
            let layers: usize = open.map(|item| measure::cost(item, n_layer)).sum();
            let passes = layers as f64 / (n_layer + 1) as f64;
            let work = |tokens: usize| 2.0 * frame.weights as f64 * passes * tokens as f64;
            while work(tokens) > WORK && tokens > TOKENS.0 {
                tokens /= 2;
            }
            if work(tokens) <= WORK || span >= MAX_SPAN.min(n_layer) {
                break items;
            }
            span *= 2;
        };
        let length = LENGTH.min(tokens);
        let candidates = passages(&model, text, CANDIDATES * length, length)?;
        let (each, all) = (tokens / length, TOGETHER.min(8 * tokens) / length);
        report.stage(0, "the calibration text".to_owned())?;
        let all = measure::known(&model, candidates, (all, options.threads), report)?;
        let each = all.iter().step_by(all.len().div_ceil(each).max(1)).cloned().collect();
        Ok(Planner { options, model, frame, items, texts: [each, all] })
    }

    fn run(&self, report: &mut Reporter<'_>) -> Result<Plan> {
        let Planner { options, model, items, texts, .. } = self;
        let formats = |item: &Item| item.formats.clone();
        let least: u64 = items.iter().map(|item| smallest(&formats(item))).sum();
        let room = self.frame.limit(options.budget, self.recipe_bytes());
        if room.is_some_and(|room| room < least) {
            return Err(self.impossible(least));
        }
        let n_layer = model.n_layer();
        let costs = items.iter().map(|item| measure::cost(item, n_layer)).sum::<usize>();
        let whole = 2 * n_layer * texts[1].len() / texts[0].len().max(1);
        report.begin(costs + whole);
        let meter = Meter::new(model, &texts[0], options.threads, report)?;
        let to = |item: &Item, name: &str| match item.formats.len() {
            1 => Ok(None),
            _ => {
                let info = &model.file().require(name)?.info;
                Ok(Some(layout(&options.formats, info, MEASURED)?))
            }
        };
        let measured = meter.measure(items, to, report)?;
        // The part of the sum of all items' KL that they make together.
        let mut scale = 1.0;
        let mut best: Option<Plan> = None;
        let mut nearest = f64::INFINITY;
        report.stage(costs, "all together".to_owned())?;
        let mut exact = measure::exact(model, (&texts[1][..], options.threads), report)?;
        for _ in 0..ROUNDS {
            report.stage(costs, "all together".to_owned())?;
            let choices = self.choices(&measured, scale);
            let limit = match (options.budget, room) {
                (Budget::Divergence(nats), _) => Limit::Loss(nats),
                (_, room) => Limit::Bytes(room.unwrap_or(u64::MAX)),
            };
            let Some(taken) = knapsack::solve(&choices, limit) else {
                return Err(self.unreachable(nearest.min(least_loss(&choices))));
            };
            let plan = self.measured((&choices, &taken), &mut exact, report)?;
            let Budget::Divergence(nats) = options.budget else { return Ok(plan) };
            let sum: f64 = plan.chosen.iter().map(|chosen| chosen.divergence).sum();
            nearest = nearest.min(plan.divergence);
            let found = plan.divergence;
            let is_better = |best: &Plan| plan.bytes < best.bytes;
            if found <= nats && best.as_ref().is_none_or(is_better) {
                let is_smallest = self.frame.bits(least) >= plan.bits_per_weight;
                best = Some(plan);
                if found >= NEAR * nats || is_smallest {
                    break;
                }
            }
            if sum <= 0.0 {
                break;
            }
            scale *= found / sum;
        }
        best.ok_or_else(|| self.unreachable(nearest))
    }

    /// The choices that the knapsack has.
    fn choices(&self, measured: &[f64], scale: f64) -> Vec<Vec<knapsack::Choice>> {
        let calibration = self.options.calibration.as_ref();
        let each = self.items.iter().zip(measured).map(|(item, measured)| {
            let choice = |possible: &Possible| knapsack::Choice {
                bytes: possible.bytes,
                loss: measured * possible.error * left(calibration, possible.dtype) * scale,
            };
            item.formats.iter().map(choice).collect()
        });
        each.collect()
    }

    /// The plan with these choices, its KL measured.
    fn measured(
        &self,
        (choices, taken): (&[Vec<knapsack::Choice>], &[usize]),
        exact: &mut Layerwise,
        report: &mut Reporter<'_>,
    ) -> Result<Plan> {
        let Planner { options, model, frame, items, texts } = self;
        let mut instead = HashMap::new();
        let mut chosen = Vec::new();
        let (mut bytes, mut by_search) = (0, 0.0);
        for ((item, choices), taken) in items.iter().zip(choices).zip(taken) {
            let Possible { dtype, bytes: own, .. } = item.formats[*taken];
            for name in &item.names {
                let to = layout(&options.formats, &model.file().require(name)?.info, dtype)?;
                instead.insert(name.clone(), rounded(model, name, to)?);
                report.at(0.0)?;
            }
            let divergence = choices[*taken].loss;
            bytes += own;
            by_search += divergence / left(options.calibration.as_ref(), dtype);
            let (part, names) = (item.part.clone(), item.names.clone());
            let weights = item.weights;
            chosen.push(Chosen { part, names, dtype, weights, bytes: own, divergence });
        }
        let sum: f64 = chosen.iter().map(|chosen| chosen.divergence).sum();
        let texts_of_all = (&texts[1][..], options.threads);
        let found = together(model, &instead, exact, texts_of_all, report)?;
        let divergence = if by_search > 0.0 { found * sum / by_search } else { found };
        let mut plan = Plan {
            chosen,
            divergence,
            bits_per_weight: frame.bits(bytes),
            bytes: 0,
            tokens: [0, 1].map(|i| texts[i].iter().map(Vec::len).sum()),
        };
        plan.bytes = frame.around + frame.plain + bytes + self.recipe_bytes();
        Ok(plan)
    }

    /// At the most the bytes of a recipe in a file: a line for each part in each format, which
    /// lists layers.
    fn recipe_bytes(&self) -> u64 {
        let names = self.items.iter().flat_map(|item| &item.names);
        let mut parts: BTreeMap<&str, u64> = BTreeMap::new();
        for name in names {
            *parts.entry(split(name).map_or(name, |(_, part)| part)).or_default() += 1;
        }
        let line = |part: &str| 64 + 2 * part.len() as u64;
        parts.iter().map(|(part, n)| line(part) * (*n).min(5) + 6 * n).sum()
    }

    fn impossible(&self, least: u64) -> QuantizeError {
        let file = self.model.file().path().to_owned();
        let (asked, least) = match self.options.budget {
            Budget::Bytes(bytes) => {
                let least = self.frame.around + self.frame.plain + least + self.recipe_bytes();
                (format!("{bytes} bytes"), format!("{least} bytes"))
            }
            Budget::Bits(bits) => {
                // Rounded up, so that what is named is possible.
                let least = (self.frame.bits(least) * 1000.0).ceil() / 1000.0;
                (format!("{bits} bits per weight"), format!("{least} bits per weight"))
            }
            Budget::Divergence(_) => (String::new(), String::new()),
        };
        QuantizeError::Budget { file, asked, least }
    }

    fn unreachable(&self, least: f64) -> QuantizeError {
        let file = self.model.file().path().to_owned();
        let asked = match self.options.budget {
            Budget::Divergence(nats) => format!("KL {nats:e}"),
            budget => format!("{budget:?}"),
        };
        QuantizeError::Budget { file, asked, least: format!("KL {least:.2e}") }
    }
}

fn smallest(formats: &[Possible]) -> u64 {
    formats.iter().map(|possible| possible.bytes).min().unwrap_or(0)
}

fn least_loss(choices: &[Vec<knapsack::Choice>]) -> f64 {
    let least =
        |of: &Vec<knapsack::Choice>| of.iter().map(|c| c.loss).fold(f64::INFINITY, f64::min);
    choices.iter().map(least).sum()
}
