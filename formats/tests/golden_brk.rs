//! Old files keep loading: files that were written once are read as ever, and written again byte
//! for byte the same.
//!
//! After a deliberate change of the encoders,
//! `BROOKLET_BLESS=1 cargo test -p brooklet-formats --test golden_brk` writes the files anew.

use std::path::PathBuf;

use brooklet_formats::DType;
use brooklet_formats::atomic::{NO_INPUTS, Target};
use brooklet_formats::brk::{
    BrkFile, BrkWriter, KIND, Meta, Provenance, TokenizerKind, TokenizerMeta,
};
use brooklet_formats::quant::decode_row;

const ROWS: usize = 3;
const COLS: usize = 70;

/// Not symmetric, not periodic in the tile, of mixed size.
fn weight(row: usize, col: usize) -> f32 {
    let n = (row * 89 + col * 37 + 11) % 101;
    (n as f32 - 47.0) / if col.is_multiple_of(9) { 64.0 } else { 512.0 }
}

/// A file that was written once.
struct Golden {
    name: &'static str,
    fingerprint: u64,
    /// Names of tensors, their formats, and how far values may be off.
    tensors: &'static [(&'static str, DType, f32)],
}

const GOLDEN: [Golden; 2] = [
    Golden {
        name: "version-1.brk",
        fingerprint: 4_844_337_641_289_399_784,
        tensors: &[
            ("f32", DType::F32, 0.0),
            ("f16", DType::F16, 5e-4),
            ("bf16", DType::Bf16, 4e-3),
            ("int8", DType::Int8, 4e-3),
            ("int4", DType::Int4V1, 0.1),
            ("fp8-e4m3", DType::Fp8E4m3, 6e-2),
            ("fp8-e5m2", DType::Fp8E5m2, 0.11),
            ("lmul", DType::Lmul, 6e-2),
        ],
    },
    Golden {
        name: "version-1-steps.brk",
        fingerprint: 2_953_786_158_887_321_200,
        tensors: &[
            ("int4", DType::Int4, 0.1),
            ("int5", DType::Int5, 0.05),
            ("int6", DType::Int6, 0.03),
        ],
    },
];

fn write(path: &std::path::Path, golden: &Golden) {
    let mut config = serde_json::Map::new();
    config.insert("ln_eps".to_owned(), 1e-5.into());
    config.insert("n_layer".to_owned(), 1.into());
    let meta = Meta {
        architecture: "rwkv7".to_owned(),
        config,
        tokenizer: TokenizerMeta {
            kind: TokenizerKind::Bytes,
            bos_id: Some(1),
            eos_ids: vec![0, 2],
        },
        chat_template: Some("{{ text }} — µ".to_owned()),
        provenance: Provenance { source_file: "golden.pth".to_owned(), ..Provenance::default() },
    };
    let mut writer =
        BrkWriter::create(&Target::new(path, KIND, NO_INPUTS), meta, b"vocabulary".to_vec())
            .unwrap();
    for &(name, dtype, _) in golden.tensors {
        let group = dtype.default_group().min(32);
        writer
            .matrix(name, ROWS, COLS, dtype, group, |rows, out| {
                out.extend(rows.flat_map(|r| (0..COLS).map(move |c| weight(r, c))));
                Ok(())
            })
            .unwrap();
    }
    writer.plain("vector", &[2, 2], &[1.0, -0.5, 0.25, 3.0]).unwrap();
    writer.finish().unwrap();
}

#[test]
fn what_was_written_once_stays_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for golden in &GOLDEN {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/fixtures/brk")
            .join(golden.name);
        if std::env::var_os("BROOKLET_BLESS").is_some() {
            write(&path, golden);
        }
        let file = BrkFile::open(&path).unwrap();
        file.verify(|_, _| std::ops::ControlFlow::Continue(())).unwrap();
        assert_eq!(file.fingerprint(), golden.fingerprint, "{}", golden.name);
        assert_eq!(file.meta().chat_template.as_deref(), Some("{{ text }} — µ"));
        assert_eq!(&*file.tokenizer_blob().unwrap(), b"vocabulary");
        for &(name, dtype, bound) in golden.tensors {
            check(&file, name, dtype, bound);
        }

        let again = folder.path().join(golden.name);
        write(&again, golden);
        assert!(
            std::fs::read(&again).unwrap() == std::fs::read(&path).unwrap(),
            "the same input, other bytes than {}",
            golden.name
        );
    }
}

/// A tensor has its format, and the weights as near as that keeps them.
fn check(file: &BrkFile, name: &str, dtype: DType, bound: f32) {
    let tensor = file.require(name).unwrap();
    assert_eq!(tensor.info.dtype, dtype);
    let mut row = vec![0.0; COLS];
    for r in 0..ROWS {
        decode_row(&tensor.info.tile_layout().unwrap(), &tensor.bytes, r, &mut row);
        for (c, &x) in row.iter().enumerate() {
            let w = weight(r, c);
            assert!((x - w).abs() <= bound, "{dtype} ({r}, {c}): {x}, {w}");
        }
    }
}
