//! [`Plan`]: every tensor of the file to be, and the source tensors that its values come from, as
//! the tables of an architecture say.
//!
//! Sizes are bound by the first tensor that shows them and checked by all others. A tensor of the
//! checkpoint has its place once a planned tensor takes it; one without a place, unless the family
//! lists it as saying nothing, is an error: it would be missed in the results. Nothing is read here
//! but the norm of RWKV's embedding, and a head, to see whether it is the embedding. Test:
//! `tests/parity_*.rs` convert every fixture, `tests/rwkv_shapes.rs` and `tests/mamba_layouts.rs`
//! break every tensor.

use std::cell::RefCell;
use std::collections::HashSet;
use std::iter;
use std::ops::Range;

use serde_json::{Map, Value};

use super::equalize::{Factors, Tensor};
use super::formula::Context;
use super::hyper::Hyper;
use super::options::ConvertOptions;
use super::place::{Place, first_found};
use super::syntax::{Cell, Choice};
use super::table::{Architecture, Layers, Role, Row, Shape};
use super::values::Values;
use crate::FormatError;
use crate::checkpoint::{Checkpoint, MetaValue};
use crate::quant::TILE_ROWS;
use crate::threads::Threads;

/// Channels of a block (SPEC.md, "Blocked tensors").
const BLOCK: usize = 16;
/// Values compared at a time when looking whether the head is the embedding.
const COMPARED: usize = 1 << 18;

/// The form of a planned tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// A matrix in tiles.
    Matrix { rows: usize, cols: usize, role: Role },
    /// Matrices of `n` experts below each other, each with zeros up to whole tiles.
    Experts { n: usize, rows: usize, cols: usize },
    /// So many f32 values, each of the source's standing for as many as `each`, then zeros.
    Vector { len: usize, padded: usize, each: usize },
    /// f32 values `[channel, j]` in blocks of channels.
    Blocked { channels: usize, k: usize },
}

/// A tensor of the file to be.
pub(super) struct Planned<'a> {
    pub(super) name: String,
    pub(super) form: Storage,
    values: Values<'a>,
}

/// The tensors and hyper-parameters of the file to be.
pub(super) struct Plan<'a> {
    pub(super) config: Map<String, Value>,
    pub(super) tensors: Vec<Planned<'a>>,
}

impl Plan<'_> {
    /// Rows of the embedding.
    pub(super) fn n_vocab(&self) -> usize {
        self.config.get("n_vocab").and_then(Value::as_u64).unwrap_or(0) as usize
    }

    /// The factors that equalize the tensors for the number formats asked for.
    pub(super) fn factors(
        &self,
        architecture: &Architecture,
        options: &ConvertOptions,
        threads: &Threads,
        each: &mut dyn FnMut(&str) -> Result<(), FormatError>,
    ) -> Result<Factors, FormatError> {
        let tensors = self.tensors.iter().map(|planned| Tensor {
            name: &planned.name,
            shape: planned.shape(),
            target: planned.matrix().map(|(_, _, role)| options.dtype_of(&planned.name, role)),
            is_rounded: false,
            source: Box::new(move |rows, out| match planned.matrix() {
                Some((_, cols, _)) => planned.read_rows(rows, cols, out),
                None => {
                    out.extend(planned.read()?);
                    Ok(())
                }
            }),
        });
        let tensors: Vec<_> = tensors.collect();
        Factors::find(architecture.pairs, &self.config, &tensors, threads, each)
    }

    /// Weights in all tensors.
    pub(super) fn n_weights(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.shape().iter().product::<usize>() as u64).sum()
    }
}

impl Planned<'_> {
    /// The shape in the file.
    pub(super) fn shape(&self) -> Vec<usize> {
        match self.form {
            Storage::Matrix { rows, cols, .. } => vec![rows, cols],
            Storage::Experts { n, rows, cols } => vec![n * rows.next_multiple_of(TILE_ROWS), cols],
            Storage::Vector { padded, .. } => vec![padded],
            Storage::Blocked { channels, k } => vec![channels.div_ceil(BLOCK), k, BLOCK],
        }
    }

    /// Rows and columns in the file, and the purpose, of a matrix.
    pub(super) fn matrix(&self) -> Option<(usize, usize, Role)> {
        match (self.form, &self.shape()[..]) {
            (Storage::Matrix { rows, cols, role }, _) => Some((rows, cols, role)),
            (Storage::Experts { .. }, &[rows, cols]) => Some((rows, cols, Role::Big)),
            _ => None,
        }
    }

    pub(super) fn is_matrix(&self) -> bool {
        matches!(self.form, Storage::Matrix { .. } | Storage::Experts { .. })
    }

    /// Appends rows of a matrix.
    pub(super) fn read_rows(
        &self,
        rows: Range<usize>,
        cols: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), FormatError> {
        let Storage::Experts { rows: own, .. } = self.form else {
            return self.values.read(rows.start * cols..rows.end * cols, out);
        };
        let padded = own.next_multiple_of(TILE_ROWS);
        for expert in rows.start / padded..rows.end.div_ceil(padded) {
            let first = expert * padded;
            let (start, end) =
                (rows.start.max(first) - first, rows.end.min(first + padded) - first);
            let (from, to) = (expert * own + start.min(own), expert * own + end.min(own));
            let len = out.len() + (end - start) * cols;
            self.values.read(from * cols..to * cols, out)?;
            out.resize(len, 0.0);
        }
        Ok(())
    }

    /// All values of any other tensor.
    pub(super) fn read(&self) -> Result<Vec<f32>, FormatError> {
        let mut values = Vec::new();
        match self.form {
            Storage::Matrix { rows, cols, .. } => self.values.read(0..rows * cols, &mut values)?,
            Storage::Experts { n, rows, cols } => {
                self.read_rows(0..n * rows.next_multiple_of(TILE_ROWS), cols, &mut values)?;
            }
            Storage::Vector { len, padded, each } => {
                self.values.read(0..len / each, &mut values)?;
                if each > 1 {
                    values = values.into_iter().flat_map(|v| iter::repeat_n(v, each)).collect();
                }
                values.resize(padded, 0.0);
            }
            Storage::Blocked { channels, k } => {
                let mut plain = Vec::new();
                self.values.read(0..channels * k, &mut plain)?;
                values.resize(channels.next_multiple_of(BLOCK) * k, 0.0);
                for (channel, own) in plain.chunks_exact(k).enumerate() {
                    for (j, &value) in own.iter().enumerate() {
                        values[(channel / BLOCK * k + j) * BLOCK + channel % BLOCK] = value;
                    }
                }
            }
        }
        Ok(values)
    }
}

/// The plan for a checkpoint in a layout of `architecture`. A head that is tied to the embedding is
/// a tensor of its own if they shall be `untied`.
pub(super) fn plan<'a>(
    architecture: &'static Architecture,
    place: Place<'a>,
    untied: bool,
) -> Result<Plan<'a>, FormatError> {
    let hyper = Hyper::read(architecture, place)?;
    let mut reading =
        Reading { place, architecture, hyper, tensors: Vec::new(), placed: HashSet::new() };
    for row in architecture.trunk {
        reading.row(row, None)?;
    }
    reading.tie(untied);
    for i in 0..reading.n_layer()? {
        for (layers, rows) in architecture.layers {
            let has_rows = match layers {
                Layers::All => true,
                Layers::First => i == 0,
                Layers::AfterFirst => i > 0,
                Layers::If(flag) => reading.hyper.size_of(flag)? == Some(1),
                Layers::Word(param, word) => reading.hyper.word(param, i) == Some(word),
            };
            if has_rows {
                for row in *rows {
                    reading.row(row, Some(i))?;
                }
            }
        }
    }
    reading.finish()
}

/// A plan in the making.
struct Reading<'a> {
    place: Place<'a>,
    architecture: &'static Architecture,
    hyper: Hyper<'a>,
    tensors: Vec<Planned<'a>>,
    placed: HashSet<&'a str>,
}

impl<'a> Reading<'a> {
    fn n_layer(&self) -> Result<usize, FormatError> {
        Ok(self.hyper.size_of("n_layer")?.unwrap_or(0))
    }

    /// Plans the tensor of a line, outside of the layers or of one.
    fn row(&mut self, row: &'static Row, layer: Option<usize>) -> Result<(), FormatError> {
        let &Row(name, shape, _) = row;
        let text = row.cell(self.place.layout.column);
        if text.is_empty() {
            return Ok(());
        }
        let cell = Cell::parse(text).map_err(|rest| self.hyper.typo(rest))?;
        let found = first_found(&cell.choices, |choice| {
            if !self.hyper.holds(choice.guard) {
                return Ok(None);
            }
            let (place, hyper, taken) = (self.place, &self.hyper, RefCell::default());
            let context = Context { place, hyper, layer, expert: Default::default(), taken };
            let values = context.values(choice)?;
            Ok(Some((values, context.taken.into_inner(), choice)))
        });
        let (values, taken, choice) = match found {
            Err(FormatError::MissingTensor { .. }) | Ok(None) if cell.optional => return Ok(()),
            Ok(None) => return Err(self.hyper.typo(text)),
            found => found?.ok_or_else(|| self.hyper.typo(text))?,
        };
        let form = self.form(shape, &values, choice)?;
        self.placed.extend(taken.iter().map(|tensor| &*tensor.name));
        if matches!(shape, Shape::Head(..)) && self.repeats_the_embedding(form, &values)? {
            return Ok(());
        }
        let name = match layer {
            Some(i) => format!("layers.{i}.{name}"),
            None => name.to_owned(),
        };
        self.tensors.push(Planned { name, form, values });
        Ok(())
    }

    /// The form of `shape`; binds the sizes that the values show, or checks those that are bound.
    fn form(
        &mut self,
        shape: Shape,
        values: &Values<'a>,
        choice: &Choice<'_>,
    ) -> Result<Storage, FormatError> {
        let dims = shape.dims();
        let source = values.tensor().map_or("", |tensor| &*tensor.name);
        let mut each = 1;
        let n_expert = match shape {
            Shape::Experts(n, ..) => self.hyper.size_of(n)?.unwrap_or(0),
            _ => 1,
        };
        let fits = match (shape, values.len()) {
            // One number for all of them.
            (_, None) => true,
            (Shape::PerHead(dim, d_head), Some(len)) => {
                let d_head = self.hyper.size_of(d_head)?;
                let of_heads = d_head.and_then(|d_head| len.checked_mul(d_head));
                if of_heads.is_some() && of_heads == self.hyper.size_of(dim)? {
                    each = d_head.unwrap_or(1);
                    true
                } else {
                    self.hyper.bind(dim, len, source)?
                }
            }
            (Shape::Vector(dim) | Shape::Channels(dim), Some(len)) => {
                self.hyper.bind(dim, len, source)?
            }
            (Shape::Table(dim), Some(_)) => match values.matrix_shape() {
                Some((_, cols)) => self.hyper.bind(dim, cols, source)?,
                None => false,
            },
            (_, Some(_)) => match values.matrix_shape() {
                Some((rows, cols)) if n_expert > 1 => {
                    rows.is_multiple_of(n_expert)
                        && self.hyper.bind(dims[0], rows / n_expert, source)?
                        && self.hyper.bind(dims[1], cols, source)?
                }
                Some((rows, cols)) => {
                    self.hyper.bind(dims[0], rows, source)?
                        && self.hyper.bind(dims[1], cols, source)?
                }
                None => false,
            },
        };
        let mut sizes = Vec::new();
        for dim in &dims {
            sizes.extend(self.hyper.size_of(dim)?.filter(|_| fits));
        }
        let form = match (shape, &sizes[..]) {
            (Shape::Vector(_) | Shape::PerHead(..), &[len]) => {
                Storage::Vector { len, padded: len, each }
            }
            (Shape::Channels(_), &[len]) => {
                Storage::Vector { len, padded: len.next_multiple_of(BLOCK), each }
            }
            (Shape::Blocked(..), &[channels, k]) => Storage::Blocked { channels, k },
            (Shape::Table(_), &[cols]) => {
                let rows = values.matrix_shape().map_or(0, |(rows, _)| rows);
                Storage::Matrix { rows, cols, role: Role::Embedding }
            }
            (Shape::Adapter(..), &[rows, cols]) => {
                Storage::Matrix { rows, cols, role: Role::Adapter }
            }
            (Shape::Embedding(..), &[rows, cols]) => {
                Storage::Matrix { rows, cols, role: Role::Embedding }
            }
            (Shape::Experts(..), &[rows, cols]) if n_expert > 0 => {
                Storage::Experts { n: n_expert, rows, cols }
            }
            (Shape::Matrix(..) | Shape::Head(..), &[rows, cols]) => {
                Storage::Matrix { rows, cols, role: Role::Big }
            }
            _ => return Err(self.misfit(&dims, values, choice)),
        };
        Ok(form)
    }

    /// "This tensor has not the shape that the others ask for."
    fn misfit(&self, dims: &[&str], values: &Values<'a>, choice: &Choice<'_>) -> FormatError {
        let Some(tensor) = values.tensor() else { return self.hyper.typo(choice.text) };
        let dims: Vec<String> = dims.iter().map(|dim| self.hyper.described(dim)).collect();
        let how = match choice.text.split(" if ").next() {
            Some(text) if !tensor.name.ends_with(text) => format!(" as {text}"),
            _ => String::new(),
        };
        self.place.shape_error(tensor, format!("[{}]{how}", dims.join(", ")))
    }

    /// Where there is no head, makes one of the embedding, or makes the embedding one.
    fn tie(&mut self, untied: bool) {
        if self.tensors.iter().any(|tensor| tensor.name == "head") {
            return;
        }
        let mut heads = Vec::new();
        for tensor in &mut self.tensors {
            let Storage::Matrix { rows, cols, role: role @ Role::Embedding } = &mut tensor.form
            else {
                continue;
            };
            if !untied {
                *role = Role::Big;
            } else if tensor.name == "embed" {
                let form = Storage::Matrix { rows: *rows, cols: *cols, role: Role::Big };
                let values = tensor.values.clone();
                heads.push(Planned { name: "head".to_owned(), form, values });
            }
        }
        self.tensors.extend(heads);
    }

    /// Whether a head of this form has the embedding's values.
    fn repeats_the_embedding(&self, form: Storage, head: &Values<'a>) -> Result<bool, FormatError> {
        let (Storage::Matrix { rows, cols, .. }, Some(embed)) = (form, self.tensors.first()) else {
            return Ok(false);
        };
        if embed.shape() != [rows, cols] {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let at_a_time = (COMPARED / cols).max(1) * cols;
        for start in (0..rows * cols).step_by(at_a_time) {
            let range = start..(start + at_a_time).min(rows * cols);
            ours.clear();
            theirs.clear();
            head.read(range.clone(), &mut ours)?;
            embed.values.read(range, &mut theirs)?;
            if ours.iter().zip(&theirs).any(|(x, y)| x.to_bits() != y.to_bits()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(self) -> Result<Plan<'a>, FormatError> {
        let checkpoint = self.place.checkpoint;
        let n_layer = self.n_layer()?;
        let of_layers = |name: &str| {
            let n = if name.contains('*') { n_layer } else { 1 };
            let names = (0..n).map(|i| self.place.name(None, &name.replace('*', &i.to_string())));
            names.collect::<Vec<_>>()
        };
        let ignored: HashSet<String> =
            self.architecture.ignored.iter().flat_map(|name| of_layers(name)).collect();
        let begins = |name: &str| {
            let mut prefixes = self.architecture.ignored.iter().filter(|name| name.ends_with('.'));
            prefixes.any(|prefix| name.starts_with(prefix))
        };
        let is_lost =
            |name: &str| !self.placed.contains(name) && !ignored.contains(name) && !begins(name);
        if let Some(tensor) = checkpoint.tensors().iter().find(|tensor| is_lost(&tensor.name)) {
            return Err(FormatError::Tensor {
                path: checkpoint.path().to_owned(),
                tensor: tensor.name.clone(),
                what: "the name",
                expected: format!(
                    "that of a tensor of {} with {n_layer} layers",
                    self.architecture.name
                ),
                found: format!("one without a place there, of shape {:?}", tensor.shape),
            });
        }
        self.hyper.check()?;
        Ok(Plan { config: self.hyper.into_config(), tensors: self.tensors })
    }
}

/// Whether the checkpoint says that it is of this architecture, where that must be said.
fn is_of_type(architecture: &Architecture, checkpoint: &Checkpoint, is_assumed: bool) -> bool {
    let config = checkpoint.config().and_then(|config| config.get("model_type")?.as_str());
    let gguf = checkpoint.metadata().get("general.architecture").and_then(MetaValue::as_str);
    let types = architecture.model_types;
    types.is_empty() || is_assumed || config.or(gguf).is_some_and(|found| types.contains(&found))
}

/// The architecture of a checkpoint, and its place in it.
pub(super) fn recognise<'a>(
    architectures: &[&'static Architecture],
    checkpoint: &'a Checkpoint,
) -> Result<(&'static Architecture, Place<'a>), FormatError> {
    let mut each = architectures.iter();
    let found = each.find_map(|each| {
        is_of_type(each, checkpoint, architectures.len() == 1).then_some(())?;
        Some((*each, Place::find(each, checkpoint)?))
    });
    found.ok_or_else(|| {
        let some = checkpoint.tensors().iter().take(4);
        let some: Vec<String> = some.map(|t| format!("{} {:?}", t.name, t.shape)).collect();
        let known: Vec<&str> = architectures.iter().map(|each| each.title).collect();
        FormatError::UnknownArchitecture {
            path: checkpoint.path().to_owned(),
            kind: checkpoint.kind().name(),
            n_tensors: checkpoint.tensors().len(),
            some: some.join(", "),
            known: known.join(", "),
        }
    })
}
