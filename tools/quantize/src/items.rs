//! [`Item`]: matrices that get one number format together, and what each format costs.
//!
//! A matrix is an item; low-rank adapters of a layer are one together, as each is small. In deep
//! models neighbouring layers share items, so that there are not too many to measure. Errors of
//! rounding are taken on some of the weights, each format's as a part of int4's: the harm that int4
//! does, once measured, tells so what the others do. Not here: that harm (`measure.rs`). Test:
//! `tests/budget.rs`.

use std::collections::HashMap;

use brooklet::layerwise::Layerwise;
use brooklet_formats::brk::{BrkFile, TensorInfo};
use brooklet_formats::convert::ConvertOptions;
use brooklet_formats::quant::{TILE_ROWS, TileLayout, decode_tile, encode_tile, place_tile};
use brooklet_formats::{DType, FormatError};
use half::f16;
use rayon::prelude::*;

use crate::plan::split;
use crate::{QuantizeError, Result};

/// The format whose harm is measured.
pub(crate) const MEASURED: DType = DType::Int4;

/// The formats to choose from, small ones first.
const FORMATS: [DType; 5] = [MEASURED, DType::Int5, DType::Int6, DType::Int8, DType::F16];

/// Tiles of a matrix on which errors of rounding are taken.
const SAMPLED: usize = 4;

/// A matrix with so many in a model's weights is nobody's companion.
const LARGE: u64 = 64;

/// Matrices that get one number format together.
pub(crate) struct Item {
    /// Its part of a layer, or its name outside of layers.
    pub(crate) part: String,
    pub(crate) names: Vec<String>,
    /// The first layer that it stands in; `None` outside of layers.
    pub(crate) layer: Option<usize>,
    pub(crate) weights: u64,
    /// The formats that it may have, at least one.
    pub(crate) formats: Vec<Possible>,
}

/// A format that an item may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Possible {
    pub(crate) dtype: DType,
    pub(crate) bytes: u64,
    /// The squared error of rounding, as a part of int4's.
    pub(crate) error: f64,
}

impl Item {
    /// Its name for people.
    pub(crate) fn label(&self) -> String {
        match self.layer {
            Some(layer) => format!("layer {layer}, {}", self.part),
            None => self.part.clone(),
        }
    }
}

/// The layout that a matrix has in a format.
pub(crate) fn layout(
    options: &ConvertOptions,
    info: &TensorInfo,
    dtype: DType,
) -> Result<TileLayout> {
    let &[rows, cols] = &info.shape[..] else { unreachable!("a matrix has two dimensions") };
    Ok(options.layout_of(&info.name, (rows, cols), dtype)?)
}

/// The items of a model: matrices of `span` neighbouring layers share them. A matrix for which the
/// options have an override has that format alone.
///
/// # Errors
/// A matrix was rounded before, or cannot be read.
pub(crate) fn items(
    file: &BrkFile,
    walk: &Layerwise,
    n_layer: usize,
    options: &ConvertOptions,
    span: usize,
) -> Result<Vec<Item>> {
    let mut layers: HashMap<String, usize> = HashMap::new();
    for i in 0..n_layer {
        for spec in walk.tensors(i)? {
            layers.entry(spec.name).or_insert(i);
        }
    }
    let matrices = || file.tensors().iter().filter(|info| info.tile_layout().is_some());
    let all: u64 = matrices().map(TensorInfo::n_elements).sum();
    let rule = ConvertOptions::new(MEASURED);
    let mut items: Vec<(Item, Vec<Vec<f64>>)> = Vec::new();
    let mut places = HashMap::new();
    for info in matrices() {
        let name = &info.name;
        let layer = layers.get(name).copied();
        let is_small = info.n_elements() < all / LARGE && rule.dtype_in(file, name) != MEASURED;
        let part = match (layer, split(name)) {
            (Some(_), Some(_)) if is_small => "adapters",
            (Some(_), Some((_, part))) => part,
            _ => name,
        };
        let pinned = options.override_of(name);
        let formats: Vec<DType> = match pinned {
            Some(dtype) => vec![dtype],
            None => FORMATS.to_vec(),
        };
        let layouts = formats.iter().map(|dtype| layout(options, info, *dtype));
        let layouts = layouts.collect::<Result<Vec<_>>>()?;
        let errors = errors(file, info, &layouts)?;
        let key = (layer.map(|layer| layer / span), part.to_owned(), pinned);
        let place = *places.entry(key).or_insert_with(|| {
            let possible = |dtype: &DType| Possible { dtype: *dtype, bytes: 0, error: 0.0 };
            let formats = formats.iter().map(possible).collect();
            let (part, names) = (part.to_owned(), Vec::new());
            items.push((Item { part, names, layer, weights: 0, formats }, Vec::new()));
            items.len() - 1
        });
        let (item, of_all) = &mut items[place];
        item.names.push(name.clone());
        item.layer = item.layer.min(layer);
        item.weights += info.n_elements();
        for (possible, layout) in item.formats.iter_mut().zip(&layouts) {
            possible.bytes += layout.total_bytes() as u64;
        }
        of_all.push(errors);
    }
    Ok(items.into_iter().map(|(item, errors)| with_errors(item, &errors)).collect())
}

/// Fills in the errors: those of all matrices together, the last being int4's. A format that one
/// of them cannot be in goes.
fn with_errors(mut item: Item, of_all: &[Vec<f64>]) -> Item {
    let sum = |i: usize| of_all.iter().map(|errors| errors[i]).sum::<f64>();
    let measured = sum(item.formats.len());
    for (i, possible) in item.formats.iter_mut().enumerate() {
        possible.error = if measured > 0.0 { sum(i) / measured } else { 0.0 };
    }
    if item.formats.len() > 1 {
        item.formats.retain(|possible| possible.error.is_finite());
    }
    item
}

/// The sums of squared errors of rounding to these layouts, then to int4, about those of the whole
/// matrix; infinite where a format cannot hold it.
fn errors(file: &BrkFile, info: &TensorInfo, layouts: &[TileLayout]) -> Result<Vec<f64>> {
    let tensor = file.require(&info.name)?;
    let Some(from) = info.tile_layout() else { return Ok(Vec::new()) };
    if from.dtype.element_bits() < 16 {
        let (file, tensor) = (file.path().to_owned(), info.name.clone());
        return Err(QuantizeError::Rounded { file, tensor, found: from.dtype });
    }
    let mut layouts = layouts.to_vec();
    layouts.push(TileLayout::new(MEASURED, from.rows, from.cols, MEASURED.default_group())?);
    let stride = from.n_tiles().div_ceil(SAMPLED);
    let tile = |tile: usize| {
        let mut rows = vec![0.0; from.tile_floats()];
        decode_tile(&from, &tensor.bytes, tile, &mut rows);
        let fits = rows.iter().all(|x| x.abs() <= f16::MAX.to_f32());
        let of = |layout: &TileLayout| match (layout.dtype, tile % stride) {
            (DType::F16, _) if !fits => Ok(f64::INFINITY),
            (_, 0) => error(&from, layout, &rows),
            _ => Ok(0.0),
        };
        layouts.iter().map(of).collect::<Result<Vec<f64>, FormatError>>()
    };
    let tiles: Vec<_> = (0..from.n_tiles()).into_par_iter().map(tile).collect();
    let mut sums = vec![0.0; layouts.len()];
    for tile in tiles {
        sums.iter_mut().zip(tile?).for_each(|(sum, error)| *sum += error * stride as f64);
    }
    Ok(sums)
}

/// The sum of squared errors of a tile, whose rows are padded as `from` says.
fn error(from: &TileLayout, to: &TileLayout, rows: &[f32]) -> Result<f64, FormatError> {
    let one = TileLayout::new(to.dtype, TILE_ROWS, to.cols, to.group)?;
    let mut padded = vec![0.0; one.tile_floats()];
    let each = rows.chunks_exact(from.padded_cols());
    for (padded, row) in padded.chunks_exact_mut(one.padded_cols()).zip(each) {
        padded[..to.cols].copy_from_slice(&row[..to.cols]);
    }
    let mut encoded = vec![0; one.encoded_bytes()];
    if encode_tile(&one, &padded, &mut encoded).is_err() {
        return Ok(f64::INFINITY);
    }
    let mut matrix = vec![0; one.total_bytes()];
    place_tile(&one, &encoded, 0, &mut matrix);
    let mut decoded = vec![0.0; one.tile_floats()];
    decode_tile(&one, &matrix, 0, &mut decoded);
    Ok(padded.iter().zip(&decoded).map(|(x, y)| f64::from(x - y).powi(2)).sum())
}
