//! Safetensors of projects that store some tensors turned, brought back to the form that all others
//! have.
//!
//! web-rwkv's converter transposes tuned states; its files are told by their ends, `.st` and
//! `.state`, for nothing in them tells. MLX keeps the channels of a convolution last. Not here:
//! models of web-rwkv, whose names and shapes tell (`convert::families`). Sources: web-rwkv
//! `convert_safetensors.py`; mlx-lm `models/mamba.py`. Test: at the end of this file, and
//! `tests/tuned_state.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use super::meta::MetaValue;
use super::tensor::SourceTensor;

/// Turns what is turned.
pub(super) fn undo(
    tensors: &mut [SourceTensor],
    metadata: &BTreeMap<String, MetaValue>,
    file: Option<&Path>,
) {
    let end = file.and_then(|file| file.extension()?.to_str()).unwrap_or_default();
    let is_web_rwkv = end == "st" || end == "state";
    let is_mlx = metadata.get("format").and_then(MetaValue::as_str) == Some("mlx");
    for tensor in tensors {
        let is_state = is_web_rwkv && tensor.name.ends_with(".time_state");
        let is_conv = is_mlx
            && tensor.name.ends_with("conv1d.weight")
            && matches!(tensor.shape[..], [_, _, 1]);
        if is_state || is_conv {
            *tensor = tensor.clone().turned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use std::fs;

    fn read(file: &str, name: &str, metadata: &str, shape: [usize; 3]) -> (Vec<usize>, Vec<f32>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        let n: usize = shape.iter().product();
        let header = format!(
            r#"{{"__metadata__":{{"format":"{metadata}"}},
                "{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[0,{}]}}}}"#,
            n * 4
        );
        let values = (0..n).flat_map(|i| (i as f32).to_le_bytes());
        let len = (header.len() as u64).to_le_bytes();
        fs::write(&path, [&len[..], header.as_bytes(), &values.collect::<Vec<u8>>()].concat())
            .unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        (checkpoint.tensors()[0].shape.clone(), checkpoint.read(name).unwrap())
    }

    #[test]
    fn states_and_convolutions() {
        let state = "blocks.0.att.time_state";
        let (plain, turned) = (vec![0., 1., 2., 3.], vec![0., 2., 1., 3.]);
        assert_eq!(read("a.st", state, "pt", [1, 2, 2]).1, turned);
        assert_eq!(read("a.state", state, "pt", [1, 2, 2]).1, turned);
        assert_eq!(read("a.safetensors", state, "pt", [1, 2, 2]).1, plain);
        assert_eq!(read("a.st", "blocks.0.att.r_k", "pt", [1, 2, 2]).1, plain);
        let conv = "backbone.layers.0.mixer.conv1d.weight";
        let counted = vec![0., 1., 2., 3., 4., 5.];
        assert_eq!(read("a", conv, "mlx", [3, 2, 1]), (vec![3, 1, 2], counted.clone()));
        assert_eq!(read("a", conv, "pt", [3, 2, 1]), (vec![3, 2, 1], counted));
    }
}
