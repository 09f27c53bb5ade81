//! Models of real dimensions with random weights, written to a cache folder: speed and memory are
//! real, text is not.
//!
//! Encoding billions of weights would take minutes. A tile is a row of pairs of groups that do not
//! depend on each other, so a thousand pairs are encoded once and every tile is a random choice
//! among them: valid, spread like normal weights, and written as fast as the disk takes it. Not
//! here: sizes and names (`shapes`). Test: `tests/cli/bench.rs`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use brooklet::{Model, TensorSpec};
use brooklet_formats::atomic::{NO_INPUTS, Target};
use brooklet_formats::brk::{
    self, BrkFile, BrkWriter, Meta, Provenance, TokenizerKind, TokenizerMeta,
};
use brooklet_formats::convert::ConvertOptions;
use brooklet_formats::quant::{TILE_ROWS, TileLayout, encode_tile};
use brooklet_formats::{DType, FormatError};
use fastrand::Rng;

use super::shapes::{Shape, Values};
use crate::failure::{Failure, Result};
use crate::interrupt::Watch;
use crate::{cache, progress};

/// Changes whenever the way these files are filled does.
const VERSION: u32 = 3;
/// Pairs encoded per format and spread.
const DISTINCT_PAIRS: usize = 1024;

/// The cached file of `shape`, written first if it is not there.
pub(super) fn model(shape: &Shape, options: &ConvertOptions, quiet: bool) -> Result<PathBuf> {
    let folder = cache::folder()?;
    let dtype = options.dtype;
    let groups = match options.group.unwrap_or(dtype.default_group()) {
        0 => String::new(),
        group => format!("-g{group}"),
    };
    let mut tensors = Model::tensors(shape.architecture, &shape.config())?;
    tensors.retain(|tensor| shape.has(tensor));
    let contents = contents(shape, &tensors);
    let columns = if options.columns { "-columns" } else { "" };
    let path = folder.join(format!("{}-{dtype}{groups}{columns}-{contents:08x}.brk", shape.name));
    if BrkFile::open(&path).is_err() {
        std::fs::create_dir_all(&folder).map_err(Failure::io("create", folder.display()))?;
        write(&path, shape, &tensors, options, quiet)?;
    }
    Ok(path)
}

/// A number that tells files with other tensors from these, so that a newer program does not take
/// an older file.
fn contents(shape: &Shape, tensors: &[TensorSpec]) -> u32 {
    let mut hasher = DefaultHasher::new();
    let plain = |tensor: &&TensorSpec| !tensor.is_matrix;
    let values: Vec<_> = tensors.iter().filter(plain).map(|tensor| shape.values(tensor)).collect();
    (VERSION, format!("{:?} {tensors:?} {values:?}", shape.config())).hash(&mut hasher);
    hasher.finish() as u32
}

fn write(
    path: &Path,
    shape: &Shape,
    tensors: &[TensorSpec],
    options: &ConvertOptions,
    quiet: bool,
) -> Result {
    let watch = Watch::new();
    let world = ["rwkv5", "rwkv6", "rwkv7"].contains(&shape.architecture);
    let tokenizer = if world { TokenizerKind::World } else { TokenizerKind::None };
    let meta = Meta {
        architecture: shape.architecture.to_owned(),
        config: shape.config(),
        tokenizer: TokenizerMeta {
            kind: tokenizer,
            bos_id: None,
            eos_ids: if world { vec![0] } else { Vec::new() },
        },
        chat_template: None,
        provenance: Provenance {
            source_file: shape.name.to_owned(),
            source_format: "random weights".to_owned(),
            converter_version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe: format!("bench --synthetic {} --type {}", shape.name, options.dtype),
            ..Provenance::default()
        },
    };
    let size = |tensor: &TensorSpec| match tensor.is_matrix {
        true => tensor.shape.iter().product::<usize>() as u64,
        false => 0,
    };
    let bar = progress::bar(tensors.iter().map(size).sum(), progress::Unit::Count, quiet);
    bar.set_message(&format!("writing {}", path.display()));
    let mut writer = BrkWriter::create(&Target::new(path, brk::KIND, NO_INPUTS), meta, Vec::new())?;
    let mut random = Rng::with_seed(7);
    let mut banks = Banks(HashMap::new());
    for tensor in tensors {
        watch.check()?;
        let name = &tensor.name;
        let (rows, cols) = match tensor.shape[..] {
            [rows, cols] if tensor.is_matrix => (rows, cols),
            ref plain => {
                writer.plain(name, plain, &fill(plain, shape.values(tensor), &mut random))?;
                continue;
            }
        };
        let dtype = match shape.is_delicate(tensor) {
            true if options.dtype.element_bits() < 8 => DType::Int8,
            _ => options.dtype,
        };
        let layout = options.layout_of(name, (rows, cols), dtype)?;
        let spread = Spread { mean: shape.mean(tensor), std: shape.std(tensor) };
        let mut tiles = Tiles::new(&mut banks, layout, spread, &mut random)?;
        writer.tiles(name, layout, |tile, out| {
            bar.inc((TILE_ROWS * cols) as u64);
            tiles.fill(tile, out)
        })?;
    }
    watch.check()?;
    writer.finish()?;
    bar.finish_and_clear();
    Ok(())
}

/// Values of a plain tensor.
fn fill(shape: &[usize], values: Values, random: &mut Rng) -> Vec<f32> {
    let n = shape.iter().product();
    let uniform = |random: &mut Rng, low: f32, high: f32| low + (high - low) * random.f32();
    (0..n)
        .map(|i| match values {
            Values::Constant(value) => value,
            Values::Uniform(low, high) => uniform(random, low, high),
            Values::NegativeIndex => -((i / 16 % shape[1] + 1) as f32),
            Values::InverseSoftplusDt => {
                uniform(random, 0.001_f32.ln(), 0.1_f32.ln()).exp().exp_m1().ln()
            }
        })
        .collect()
}

/// Format, group, columns in use, and bits of the spread.
type Kind = (DType, usize, usize, [u32; 2]);

/// Encoded pairs, one after the other, by their kind.
struct Banks(HashMap<Kind, Rc<[u8]>>);

/// How weights are spread.
#[derive(Clone, Copy)]
struct Spread {
    mean: f32,
    std: f32,
}

impl Banks {
    /// Pairs with `cols` columns in use.
    fn pairs(
        &mut self,
        layout: TileLayout,
        cols: usize,
        spread: Spread,
        random: &mut Rng,
    ) -> Result<Rc<[u8]>> {
        match self.0.entry((
            layout.dtype,
            layout.group,
            cols,
            [spread.mean, spread.std].map(f32::to_bits),
        )) {
            Entry::Occupied(bank) => Ok(Rc::clone(bank.get())),
            Entry::Vacant(free) => {
                let pair = TileLayout::new(layout.dtype, TILE_ROWS, cols, layout.group)?;
                let mut bank = vec![0; DISTINCT_PAIRS * pair.encoded_bytes()];
                for bytes in bank.chunks_exact_mut(pair.encoded_bytes()) {
                    encode(&pair, TILE_ROWS, spread, random, bytes)?;
                }
                Ok(Rc::clone(free.insert(bank.into())))
            }
        }
    }
}

/// The tiles of one matrix.
struct Tiles<'a> {
    layout: TileLayout,
    spread: Spread,
    random: &'a mut Rng,
    /// Pairs with all columns in use, and with those that the last pair has.
    whole: Rc<[u8]>,
    last: Rc<[u8]>,
}

impl<'a> Tiles<'a> {
    fn new(
        banks: &mut Banks,
        layout: TileLayout,
        spread: Spread,
        random: &'a mut Rng,
    ) -> Result<Tiles<'a>> {
        let pair = layout.pair_cols();
        let last = layout.cols - (layout.n_pairs() - 1) * pair;
        let whole = banks.pairs(layout, pair, spread, random)?;
        let last = banks.pairs(layout, last, spread, random)?;
        Ok(Tiles { layout, spread, random, whole, last })
    }

    /// Fills tile number `tile`.
    fn fill(&mut self, tile: usize, out: &mut [u8]) -> Result<(), FormatError> {
        let rows = (self.layout.rows - tile * TILE_ROWS).min(TILE_ROWS);
        if rows < TILE_ROWS {
            return encode(&self.layout, rows, self.spread, self.random, out);
        }
        let pair = self.layout.pair_bytes();
        let last = self.layout.n_pairs() - 1;
        let (tile, sheet) = out.split_at_mut(self.layout.tile_bytes());
        // Of formats with steps, an encoded pair is its codes, 16 steps, and its scales. All rows
        // get steps of one pair, since these are nearly the same.
        let steps = if sheet.is_empty() { 0 } else { 2 * TILE_ROWS };
        let scales = 2 * TILE_ROWS * usize::from(steps > 0);
        let (of_rows, mut sheet) = sheet.split_at_mut(steps);
        for (p, out) in tile.chunks_exact_mut(pair).enumerate() {
            let bank = if p == last { &self.last } else { &self.whole };
            let choice = self.random.usize(..bank.len() / (pair + steps + scales));
            let chosen = &bank[choice * (pair + steps + scales)..][..pair + steps + scales];
            let (codes, chosen) = chosen.split_at(pair);
            out.copy_from_slice(codes);
            of_rows.copy_from_slice(&chosen[..steps]);
            let (own, rest) = sheet.split_at_mut(scales);
            own.copy_from_slice(&chosen[steps..]);
            sheet = rest;
        }
        Ok(())
    }
}

/// Encodes one tile of normal random weights; its rows from `rows` on are zeros.
fn encode(
    layout: &TileLayout,
    rows: usize,
    Spread { mean, std }: Spread,
    random: &mut Rng,
    out: &mut [u8],
) -> Result<(), FormatError> {
    let mut weights = vec![0.0; layout.tile_floats()];
    for row in weights.chunks_exact_mut(layout.padded_cols()).take(rows) {
        row[..layout.cols].fill_with(|| mean + std * normal(random));
    }
    encode_tile(layout, &weights, out).map_err(|source| FormatError::Weight {
        path: PathBuf::from("(random weights)"),
        tensor: "random".to_owned(),
        source,
    })
}

/// A number of the standard normal distribution (Box and Muller 1958).
fn normal(random: &mut Rng) -> f32 {
    let radius = (-2.0 * (1.0 - random.f32()).ln()).sqrt();
    radius * (std::f32::consts::TAU * random.f32()).cos()
}
