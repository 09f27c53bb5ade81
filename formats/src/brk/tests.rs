//! The weight file: round trips, refusals, hostile bytes.

use std::fs;
use std::path::Path;

use super::*;
use crate::quant::{self, TileLayout};
use crate::{DType, FormatError};

/// Deterministic weights in −1..1.
fn weights(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + 13) % 1999) as f32 / 1000.0 - 0.999).collect()
}

fn meta() -> Meta {
    let config = serde_json::json!({ "n_layer": 2, "d_model": 40, "ln_eps": 1e-5 });
    Meta {
        architecture: "rwkv7".to_owned(),
        config: config.as_object().cloned().unwrap_or_default(),
        tokenizer: TokenizerMeta { kind: TokenizerKind::World, bos_id: None, eos_ids: vec![0] },
        chat_template: Some("User: {{ text }}\n\nAssistant:".to_owned()),
        provenance: Provenance { source_file: "small.pth".to_owned(), ..Provenance::default() },
    }
}

/// A file with every number format, plain tensors of one to four dimensions, and a tokenizer.
fn write_small(path: &Path) -> Written {
    let mut writer = BrkWriter::create(path, meta(), b"a tokenizer".to_vec()).unwrap();
    writer.plain("bias", &[3], &[1.0, -2.0, 0.5]).unwrap();
    for dtype in DType::ALL {
        let (rows, cols, group) = (19, 40, if dtype.has_scales() { 32 } else { 0 });
        let w = weights(rows * cols);
        writer
            .matrix(dtype.name(), rows, cols, dtype, group, |rows, out| {
                out.extend_from_slice(&w[rows.start * cols..rows.end * cols]);
                Ok(())
            })
            .unwrap();
    }
    writer.plain("A", &[2, 3, 1, 2], &weights(12)).unwrap();
    writer.finish().unwrap()
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.brk");
    let written = write_small(&path);
    for mmap in [true, false] {
        let file = BrkFile::open_with(&path, OpenOptions { mmap }).unwrap();
        assert_eq!(file.path(), path);
        assert_eq!(file.file_len(), written.file_len);
        assert_eq!(*file.meta(), meta());
        assert_eq!(&*file.tokenizer_blob().unwrap(), b"a tokenizer");
        assert_eq!(file.tensors().len(), written.n_tensors);
        assert_eq!(file.tensor("bias").unwrap().as_f32(), Some(&[1.0, -2.0, 0.5][..]));
        assert_eq!(file.tensor("A").unwrap().info.shape, [2, 3, 1, 2]);
        assert_eq!(file.tensor("A").unwrap().as_f32(), Some(&weights(12)[..]));
        for dtype in DType::ALL {
            let tensor = file.require(dtype.name()).unwrap();
            assert!(tensor.bytes.as_ptr().addr().is_multiple_of(64));
            let layout = tensor.info.tile_layout().unwrap();
            assert_eq!(layout, TileLayout::new(dtype, 19, 40, layout.group).unwrap());
            let mut row = vec![0.0; 40];
            quant::decode_row(&layout, &tensor.bytes, 18, &mut row);
            for (x, y) in weights(19 * 40)[18 * 40..].iter().zip(&row) {
                assert!((x - y).abs() < 0.13, "{dtype}: {x} {y}");
            }
        }
        let mut calls = 0;
        file.verify(|_, _| calls += 1).unwrap();
        assert_eq!(calls, 1 + written.n_tensors);
        assert!(file.tensor("none").is_none());
        assert!(matches!(file.require("none"), Err(FormatError::MissingTensor { .. })));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
}
