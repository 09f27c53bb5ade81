//! Weights that other programs have quantized for themselves, read as the numbers that they stand
//! for: codes and scales, which lie in several tensors, are put together to one.
//!
//! * compressed-tensors, `nvfp4-pack-quantized`: `X.weight_packed` U8, two E2M1 a byte;
//!   `X.weight_scale` E4M3 of 16 columns, over `X.weight_global_scale`
//! * `mxfp4-pack-quantized`: the same codes; `X.weight_scale` E8M0 (as U8) of 32 columns
//! * `pack-quantized`: `X.weight_packed` I32, 4- or 8-bit numbers, with `X.weight_shape`;
//!   `X.weight_scale`, less `X.weight_zero_point`
//! * `float-`, `int-quantized`, MXFP8: `X.weight` FP8 or I8; `X.weight_scale`: one, of rows, of
//!   columns, of blocks
//! * DeepSeek, Qwen: `X.weight` FP8; `X.weight_scale_inv` of blocks, 128 × 128 unless config.json
//!   says otherwise
//! * NVIDIA Model Optimizer: `X.weight` U8 (two E2M1) or FP8; `X.weight_scale`, times
//!   `X.weight_scale_2`
//! * gpt-oss: `X_blocks` U8 `[…, G, 16]`, two E2M1 a byte; `X_scales` E8M0 (as U8) `[…, G]`
//!
//! Low bits come first everywhere. What belongs to activations (`input_scale`, …) is left out.
//! Tensors that fit in none of these ways stay as they are, and conversion refuses them by name
//! (`convert::mistaken`). Sources: compressed-tensors `compressors/*`; transformers
//! `integrations/{finegrained_fp8,mxfp4}.py`; Model Optimizer `nvfp4_tensor.py`; OCP MX
//! specification 1.0. Test: `tests/quantized`, and `tests/quantized_by_others.rs`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::dtype::SourceDType::{self, self as T};
use super::scaled::{Grid, Scales, Whole, Zeros};
use super::tensor::SourceTensor;
use crate::FormatError;

/// Rows and columns of a block of FP8 weights, where the configuration does not say.
const BLOCK: (usize, usize) = (128, 128);

/// Ends of names of tensors that say how activations are rounded.
const OF_ACTIVATIONS: [&str; 8] = [
    ".input_scale",
    ".input_global_scale",
    ".input_zero_point",
    ".output_scale",
    ".output_zero_point",
    ".q_scale",
    ".k_scale",
    ".v_scale",
];

/// Puts codes and scales together. `config`: of the folder. Gives how the first of them was stored,
/// if there are any.
pub(super) fn put_together(
    tensors: &mut Vec<SourceTensor>,
    config: Option<&Value>,
) -> Result<Option<&'static str>, FormatError> {
    let settings = config.and_then(|config| config.get("quantization_config"));
    if settings.is_some_and(is_rotated) {
        return Ok(None);
    }
    let by_name: HashMap<&str, &SourceTensor> =
        tensors.iter().map(|tensor| (&*tensor.name, tensor)).collect();
    let block = settings.and_then(block_of).unwrap_or(BLOCK);
    let all = All { by_name, block };
    let mut made = HashMap::new();
    let mut used = HashSet::new();
    for tensor in tensors.iter() {
        if let Some(whole) = all.whole(tensor)? {
            used.extend(whole.used);
            made.insert(tensor.name.clone(), whole.tensor);
        }
    }
    let first = tensors.iter().find(|tensor| made.contains_key(&tensor.name));
    let how = first.and_then(|tensor| made.get(&tensor.name)).map(|tensor| tensor.dtype.name());
    let is_left_out = |name: &str| OF_ACTIVATIONS.iter().any(|end| name.ends_with(end));
    tensors.retain_mut(|tensor| {
        if let Some(whole) = made.remove(&tensor.name) {
            *tensor = whole;
            return true;
        }
        let is_dropped = how.is_some() && is_left_out(&tensor.name);
        !is_dropped && !used.contains(&tensor.name)
    });
    Ok(how)
}

/// Whether weights are stored rotated, to be read behind products that the model itself has not.
fn is_rotated(settings: &Value) -> bool {
    let groups = settings.get("transform_config").and_then(|config| config.get("config_groups"));
    groups.and_then(Value::as_object).is_some_and(|groups| !groups.is_empty())
}

/// Rows and columns of a block: `weight_block_size`, or `block_structure` of compressed-tensors.
fn block_of(settings: &Value) -> Option<(usize, usize)> {
    let groups = settings.get("config_groups").and_then(Value::as_object);
    let mut structures = groups
        .into_iter()
        .flat_map(|groups| groups.values())
        .filter_map(|group| group.get("weights")?.get("block_structure"));
    let sizes = settings.get("weight_block_size").or_else(|| structures.next())?.as_array()?;
    let size = |i: usize| usize::try_from(sizes.get(i)?.as_u64()?).ok().filter(|&n| n > 0);
    (sizes.len() == 2).then_some((size(0)?, size(1)?))
}

/// The tensors of a checkpoint by their names.
struct All<'a> {
    by_name: HashMap<&'a str, &'a SourceTensor>,
    block: (usize, usize),
}

/// Tensors put together to one.
struct Put {
    tensor: SourceTensor,
    /// Names of those that are in it.
    used: Vec<String>,
}

impl All<'_> {
    /// A tensor that can be read in runs.
    fn get(&self, stem: &str, end: &str) -> Option<&SourceTensor> {
        let found = self.by_name.get(&*format!("{stem}{end}"))?;
        found.is_row_major().then_some(*found)
    }

    /// The tensor that these codes are a part of, if they are codes.
    fn whole(&self, codes: &SourceTensor) -> Result<Option<Put>, FormatError> {
        let name = &*codes.name;
        if !codes.is_row_major() {
            return Ok(None);
        }
        if let Some(stem) = name.strip_suffix(".weight_packed") {
            let target = format!("{stem}.weight");
            let Some(scale) = self.get(stem, ".weight_scale") else { return Ok(None) };
            return match codes.dtype {
                T::U8 => self.pairs(codes, scale, target, stem),
                T::I32 => self.words(codes, scale, target, stem),
                _ => Ok(None),
            };
        }
        if let Some(stem) = name.strip_suffix(".weight") {
            let scale = self.get(stem, ".weight_scale_inv").or(self.get(stem, ".weight_scale"));
            return match (codes.dtype, scale) {
                (T::U8, Some(scale)) => self.pairs(codes, scale, name.to_owned(), stem),
                (T::F8E4m3 | T::F8E5m2 | T::I8, Some(scale)) => self.bytes(codes, scale, stem),
                _ => Ok(None),
            };
        }
        match (name.strip_suffix("_blocks"), &codes.shape[..]) {
            (Some(stem), &[.., groups, 16]) if codes.dtype == T::U8 => {
                let Some(scale) = self.get(stem, "_scales") else { return Ok(None) };
                let mut flat = codes.clone();
                flat.shape.pop();
                flat.shape.pop();
                flat.shape.push(groups.saturating_mul(16));
                self.pairs(&flat, scale, stem.to_owned(), stem)
            }
            _ => Ok(None),
        }
    }

    /// Two codes of E2M1 a byte: NVFP4 where scales are E4M3, MXFP4 where they are powers of two.
    fn pairs(
        &self,
        codes: &SourceTensor,
        scale: &SourceTensor,
        target: String,
        stem: &str,
    ) -> Result<Option<Put>, FormatError> {
        let (width, factors) = match scale.dtype {
            T::F8E4m3 => (16, scale.clone()),
            T::U8 | T::F8E8m0 => (32, scale.read_as(T::F8E8m0, scale.shape.clone())?),
            _ => return Ok(None),
        };
        let mut shape = codes.shape.clone();
        let Some(cols) = shape.last_mut() else { return Ok(None) };
        *cols = cols.saturating_mul(2);
        let fits = cols.is_multiple_of(width) && Some(&(*cols / width)) == scale.shape.last();
        let grid = Grid::of(&shape, &scale.shape, BLOCK);
        let grid = grid.filter(|grid| fits && grid.height == 1);
        let grid = grid.ok_or_else(|| misfit(codes, scale))?;
        let whole = self.whole_scale(stem)?;
        let scales = Scales { factors, grid, bias: 0.0, zeros: Zeros::None, whole };
        let tensor = codes.read_as(T::F4, shape)?.named(target).scaled(Arc::new(scales));
        Ok(Some(self.put(tensor, codes, stem)))
    }

    /// 32-bit words of 4- or 8-bit numbers that are stored without sign.
    fn words(
        &self,
        codes: &SourceTensor,
        scale: &SourceTensor,
        target: String,
        stem: &str,
    ) -> Result<Option<Put>, FormatError> {
        let Some(shape) = self.get(stem, ".weight_shape") else { return Ok(None) };
        // Columns in an order of their own would need more than a grid.
        if self.get(stem, ".weight_g_idx").is_some() {
            return Ok(None);
        }
        let own = shape.read_integers()?;
        let own: Option<Vec<usize>> = own.iter().map(|&n| usize::try_from(n).ok()).collect();
        let (Some([rows, cols]), &[lines, words]) = (own.as_deref(), &codes.shape[..]) else {
            return Err(misfit(codes, shape));
        };
        let bits = |dtype: SourceDType| 32 / dtype.per_word();
        let mut widths = [T::U4, T::U8].into_iter().filter(|dtype| {
            rows == &lines
                && cols.is_multiple_of(dtype.per_word())
                && cols / dtype.per_word() == words
        });
        let dtype = widths.next().ok_or_else(|| misfit(codes, shape))?;
        let grid = Grid::of(&[*rows, *cols], &scale.shape, self.block);
        let grid = grid.filter(|_| is_scale(scale)).ok_or_else(|| misfit(codes, scale))?;
        let zeros = match self.get(stem, ".weight_zero_point") {
            None => Zeros::None,
            Some(zeros) if zeros.dtype == T::I32 => {
                let lines = grid.lines.div_ceil(dtype.per_word());
                if zeros.shape != [lines, grid.per_line] || grid.height != 1 {
                    return Err(misfit(codes, zeros));
                }
                let bytes = vec![lines, grid.per_line.saturating_mul(4)];
                Zeros::Packed(zeros.read_as(T::U8, bytes)?, bits(dtype))
            }
            Some(zeros) => self.beside(codes, scale, zeros)?,
        };
        let bias = (1 << (bits(dtype) - 1)) as f32;
        let scales = Scales { factors: scale.clone(), grid, bias, zeros, whole: Whole::None };
        let tensor = codes.read_as(dtype, vec![*rows, *cols])?;
        let tensor = tensor.named(target).scaled(Arc::new(scales));
        Ok(Some(self.put(tensor, codes, stem)))
    }

    /// A code a byte.
    fn bytes(
        &self,
        codes: &SourceTensor,
        scale: &SourceTensor,
        stem: &str,
    ) -> Result<Option<Put>, FormatError> {
        let factors = match scale.dtype {
            T::U8 => scale.read_as(T::F8E8m0, scale.shape.clone())?,
            _ if is_scale(scale) => scale.clone(),
            _ => return Ok(None),
        };
        let grid = Grid::of(&codes.shape, &scale.shape, self.block);
        let grid = grid.ok_or_else(|| misfit(codes, scale))?;
        let zeros = match self.get(stem, ".weight_zero_point") {
            None => Zeros::None,
            Some(zeros) => self.beside(codes, scale, zeros)?,
        };
        let scales = Scales { factors, grid, bias: 0.0, zeros, whole: self.whole_scale(stem)? };
        let tensor = codes.clone().scaled(Arc::new(scales));
        Ok(Some(self.put(tensor, codes, stem)))
    }

    /// Zero points in the form of the scales.
    fn beside(
        &self,
        codes: &SourceTensor,
        scale: &SourceTensor,
        zeros: &SourceTensor,
    ) -> Result<Zeros, FormatError> {
        let is_number = matches!(zeros.dtype, T::I8 | T::F8E4m3 | T::F8E5m2) || is_scale(zeros);
        if !is_number || zeros.shape != scale.shape {
            return Err(misfit(codes, zeros));
        }
        Ok(Zeros::Beside(zeros.clone()))
    }

    /// The scale of a whole tensor above those of its groups.
    fn whole_scale(&self, stem: &str) -> Result<Whole, FormatError> {
        let over = self.get(stem, ".weight_global_scale").map(|one| (one, true));
        let times = self.get(stem, ".weight_scale_2").map(|one| (one, false));
        let Some((one, is_divisor)) = over.or(times) else { return Ok(Whole::None) };
        if one.numel() != 1 || !is_scale(one) {
            return Err(one.file().tensor(
                &one.name,
                "the scale",
                "one floating-point number",
                format_args!("{:?} of {}", one.shape, one.dtype),
            ));
        }
        let one = one.clone();
        Ok(if is_divisor { Whole::Over(one) } else { Whole::Times(one) })
    }

    fn put(&self, tensor: SourceTensor, codes: &SourceTensor, stem: &str) -> Put {
        let ends = [
            ".weight_packed",
            ".weight_scale",
            ".weight_scale_inv",
            ".weight_scale_2",
            ".weight_global_scale",
            ".weight_shape",
            ".weight_zero_point",
            "_scales",
        ];
        let names = ends.map(|end| format!("{stem}{end}"));
        let is_other = |name: &String| *name != codes.name && self.by_name.contains_key(&**name);
        Put { tensor, used: names.into_iter().filter(is_other).collect() }
    }
}

/// Whether a tensor's numbers can be scales.
fn is_scale(tensor: &SourceTensor) -> bool {
    !tensor.dtype.is_integer() && tensor.dtype.block_len() == 1
}

fn misfit(codes: &SourceTensor, scale: &SourceTensor) -> FormatError {
    codes.file().tensor(
        &scale.name,
        "the shape",
        format_args!("one that fits {} {:?}", codes.name, codes.shape),
        format_args!("{:?} of {}", scale.shape, scale.dtype),
    )
}
