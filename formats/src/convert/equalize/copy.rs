//! A `.brk` file with its tensors multiplied, for what is to be quantized from it: so that the
//! model which is run to calibrate has the weights that will be rounded. Test:
//! `tests/equalize.rs`.

use std::path::Path;

use super::tensor::Tensor;
use super::{Equalized, Factors};
use crate::atomic::Target;
use crate::brk::{self, BrkFile, BrkWriter, Transform};
use crate::convert::families::ARCHITECTURES;
use crate::convert::options::ConvertOptions;
use crate::quant::{decode_row, take_tile};
use crate::threads::Threads;
use crate::{DType, FormatError};

/// Writes `file`, equalized for the number formats that `options` ask for, to `path`, with the
/// tensors that change as f32 (bf16 stays: factors are powers of two). `None`, and no file, if
/// there is nothing to equalize. `each` is called between blocks of rows; its failure ends it.
///
/// # Errors
/// The copy cannot be written.
pub fn equalized_copy(
    file: &BrkFile,
    path: &Path,
    options: &ConvertOptions,
    each: &mut dyn FnMut(&str) -> Result<(), FormatError>,
) -> Result<Option<Equalized>, FormatError> {
    let meta = file.meta();
    let family = ARCHITECTURES.iter().find(|family| family.name == meta.architecture);
    let Some(family) = family.filter(|_| options.equalize) else { return Ok(None) };
    let tensors = file.tensors().iter().map(|info| {
        let from = info.tile_layout();
        let source = file.require(&info.name)?;
        Ok(Tensor {
            name: &info.name,
            shape: info.shape.clone(),
            target: from.map(|_| options.dtype_in(file, &info.name)),
            is_rounded: info.dtype.has_scales() || info.transform != Transform::None,
            source: Box::new(move |rows, out| {
                let Some(from) = &from else {
                    out.extend_from_slice(source.as_f32().unwrap_or_default());
                    return Ok(());
                };
                let start = out.len();
                out.resize(start + rows.len() * from.cols, 0.0);
                for (row, out) in rows.zip(out[start..].chunks_exact_mut(from.cols)) {
                    decode_row(from, &source.bytes, row, out);
                }
                Ok(())
            }),
        })
    });
    let tensors = tensors.collect::<Result<Vec<Tensor<'_>>, FormatError>>()?;
    let threads = Threads::new(options.threads);
    let factors = Factors::find(family.pairs, &meta.config, &tensors, &threads, each)?;
    if factors.is_empty() {
        return Ok(None);
    }
    let target = Target::new(path, brk::KIND, [file.path()]);
    let mut writer = BrkWriter::create(&target, meta.clone(), file.tokenizer_blob()?.to_vec())?;
    writer.set_threads(threads);
    for (info, tensor) in file.tensors().iter().zip(&tensors) {
        each(tensor.name)?;
        let name = tensor.name;
        match info.tile_layout() {
            None => {
                let mut values = Vec::new();
                (tensor.source)(0..1, &mut values)?;
                factors.apply_plain(name, &tensor.shape, &mut values);
                writer.plain(name, &tensor.shape, &values)?;
            }
            Some(from) if factors.has(name) => {
                let dtype = if from.dtype == DType::Bf16 { DType::Bf16 } else { DType::F32 };
                writer.matrix(name, from.rows, from.cols, dtype, 0, |rows, out| {
                    each(name)?;
                    (tensor.source)(rows.clone(), out)?;
                    factors.apply(name, rows, from.cols, out);
                    Ok(())
                })?;
            }
            Some(from) => {
                let bytes = file.require(name)?.bytes;
                writer.tiles(name, from, |tile, out| {
                    take_tile(&from, &bytes, tile, out);
                    Ok(())
                })?;
            }
        }
    }
    writer.finish()?;
    Ok(Some(factors.equalized))
}
