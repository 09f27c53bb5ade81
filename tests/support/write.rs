//! Writers of files for tests: small foreign checkpoints in f32 (safetensors, GGUF, rwkv.cpp), and
//! models whose matrices stand in columns.

use std::ops::ControlFlow;
use std::path::Path;

use brooklet_formats::atomic::{NO_INPUTS, Target};
use brooklet_formats::brk::{BrkFile, BrkWriter, KIND, Layout, TensorInfo};
use brooklet_formats::quant::take_tile;
use serde_json::Value;

use crate::rwkv::Weights;

/// A value in a GGUF header.
#[derive(Clone, Debug)]
pub enum GgufValue {
    /// A u32.
    U32(u32),
    /// An f32.
    F32(f32),
    /// Text.
    Text(&'static str),
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Writes a `.safetensors` file.
///
/// # Panics
/// The file cannot be written.
pub fn safetensors(path: &Path, weights: &Weights) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, tensor) in weights {
        let start = data.len();
        data.extend(bytes(&tensor.values));
        let entry = serde_json::json!({"dtype": "F32", "shape": tensor.shape,
            "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(path, file).expect("a file");
}

/// Writes a GGUF file, version 3.
///
/// # Panics
/// The file cannot be written.
pub fn gguf(path: &Path, metadata: &[(&str, GgufValue)], weights: &Weights) {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((weights.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        file.extend(text(key));
        match value {
            GgufValue::U32(value) => {
                file.extend([4u32.to_le_bytes(), value.to_le_bytes()].concat())
            }
            GgufValue::F32(value) => {
                file.extend([6u32.to_le_bytes(), value.to_le_bytes()].concat())
            }
            GgufValue::Text(value) => {
                file.extend([8u32.to_le_bytes().to_vec(), text(value)].concat())
            }
        }
    }
    let mut data = Vec::new();
    for (name, tensor) in weights {
        file.extend(text(name));
        file.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|n| file.extend((*n as u64).to_le_bytes()));
        file.extend(0u32.to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes(&tensor.values));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    std::fs::write(path, file).expect("a file");
}

/// Writes an rwkv.cpp file, version 101.
///
/// # Panics
/// The file cannot be written.
pub fn rwkv_cpp(path: &Path, weights: &Weights) {
    let put = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let n_embed = weights.get("ln_out.weight").map_or(0, |tensor| tensor.shape[0]);
    let mut file = b"fmgg".to_vec();
    file.extend(put(&[101, 0, n_embed as u32, 0, 0]));
    for (name, tensor) in weights {
        file.extend(put(&[tensor.shape.len() as u32, name.len() as u32, 0]));
        tensor.shape.iter().rev().for_each(|n| file.extend(put(&[*n as u32])));
        file.extend(name.as_bytes());
        file.extend(bytes(&tensor.values));
    }
    std::fs::write(path, file).expect("a file");
}

/// Writes a tensor of `file` once more; a matrix in columns, if it is asked for and can be.
fn put(writer: &mut BrkWriter, file: &BrkFile, info: &TensorInfo, in_columns: bool) {
    let tensor = file.require(&info.name).expect("a tensor");
    let Some(tiles) = info.tile_layout() else {
        writer.plain(&info.name, &info.shape, tensor.as_f32().expect("f32")).expect("written");
        return;
    };
    let layout = tiles.by_columns().filter(|_| in_columns).unwrap_or(tiles);
    let copy = |tile, out: &mut [u8]| {
        take_tile(&tiles, &tensor.bytes, tile, out);
        Ok(())
    };
    writer.tiles(&info.name, layout, copy).expect("written");
}

/// The file once more, with these hyper-parameters, and beside the tensors whose names end with one
/// of these words vectors of other names.
///
/// # Panics
/// It is no model, or cannot be written.
pub fn edited(
    source: &Path,
    target: &Path,
    config: &[(&str, Value)],
    vectors: &[(&str, &str, Vec<f32>)],
) {
    let file = BrkFile::open(source).expect("a model");
    let target = Target::new(target, KIND, NO_INPUTS);
    let mut writer = BrkWriter::create(&target, file.meta().clone(), Vec::new()).expect("a file");
    let meta = writer.meta_mut();
    meta.tokenizer = Default::default();
    meta.config.extend(config.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    for info in file.tensors() {
        put(&mut writer, &file, info, false);
        for (beside, name, values) in vectors {
            if let Some(layer) = info.name.strip_suffix(beside) {
                let name = format!("{layer}{name}");
                writer.plain(&name, &[values.len()], values).expect("written");
            }
        }
    }
    writer.finish().expect("a file");
}

/// The file once more, with every matrix in columns whose format has them; returns how many.
///
/// # Panics
/// It is no model, or cannot be written.
pub fn in_columns(source: &Path, target: &Path) -> usize {
    let file = BrkFile::open(source).expect("a model");
    let target = Target::new(target, KIND, NO_INPUTS);
    let mut writer = BrkWriter::create(&target, file.meta().clone(), Vec::new()).expect("a file");
    writer.meta_mut().tokenizer = Default::default();
    for info in file.tensors() {
        put(&mut writer, &file, info, true);
    }
    writer.finish().expect("a file");
    let written = BrkFile::open(target.path()).expect("what was written");
    written.verify(|_, _| ControlFlow::Continue(())).expect("a whole file");
    written.tensors().iter().filter(|info| info.layout == Layout::Columns).count()
}
