//! Small checkpoints for the tests beside this folder: a Mamba-1 of one layer in safetensors, and
//! conversion.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::convert::{ConvertOptions, Summary, convert};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// Shapes and values by names.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Puts a tensor with the values `value(0)`, `value(1)`, … into `tensors`.
pub(crate) fn put(
    tensors: &mut Tensors,
    name: &str,
    shape: &[usize],
    value: impl Fn(usize) -> f32,
) {
    let values = (0..shape.iter().product()).map(value).collect();
    tensors.insert(name.to_owned(), (shape.to_vec(), values));
}

/// A Mamba-1: 6 tokens, a width of 4, 8 inside, whole numbers for weights.
pub(crate) fn mamba() -> Tensors {
    let mut all = Tensors::new();
    let counted = |i: usize| (i % 7) as f32 - 3.0;
    put(&mut all, "backbone.embeddings.weight", &[6, 4], counted);
    put(&mut all, "backbone.norm_f.weight", &[4], |_| 1.0);
    let layer: [(&str, &[usize]); 10] = [
        ("norm.weight", &[4]),
        ("mixer.in_proj.weight", &[16, 4]),
        ("mixer.conv1d.weight", &[8, 1, 2]),
        ("mixer.conv1d.bias", &[8]),
        ("mixer.x_proj.weight", &[5, 8]),
        ("mixer.dt_proj.weight", &[8, 1]),
        ("mixer.dt_proj.bias", &[8]),
        ("mixer.A_log", &[8, 2]),
        ("mixer.D", &[8]),
        ("mixer.out_proj.weight", &[4, 8]),
    ];
    for (name, shape) in layer {
        put(&mut all, &format!("backbone.layers.0.{name}"), shape, counted);
    }
    all
}

/// Writes a safetensors file.
pub(crate) fn write(path: &Path, tensors: &Tensors) {
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|(_, v)| v.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, (shape, _)), bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor"))
    });
    serialize_to_file(views, None, path).expect("a file");
}

/// A folder with a model and its `config.json`.
pub(crate) fn folder(tensors: &Tensors, config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("model.safetensors"), tensors);
    fs::write(folder.path().join("config.json"), config).expect("a file");
    folder
}

/// Converts to f32: what the conversion says, and the fingerprint and the recipe of the file.
pub(crate) fn converted(
    source: &Path,
    change: impl FnOnce(&mut ConvertOptions),
) -> Result<(Summary, String, String), String> {
    let target = tempfile::tempdir().expect("a folder");
    let target = target.path().join("model.brk");
    let mut options = ConvertOptions::new(DType::F32);
    change(&mut options);
    let summary = convert(source, &target, &options, &mut |_| ControlFlow::Continue(()));
    let summary = summary.map_err(|error| error.to_string())?;
    let file = BrkFile::open(&target).expect("a model");
    let recipe = file.meta().provenance.recipe.clone();
    Ok((summary, format!("{:?}", file.fingerprint()), recipe))
}
