//! Old files keep loading: a version 1 file that was written once is read as ever, and written
//! again byte for byte the same.
//!
//! After a deliberate change of the encoders,
//! `BROOKLET_BLESS=1 cargo test -p brooklet-formats --test golden_brk` writes the file anew.

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

fn write(path: &std::path::Path) {
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
    for dtype in DType::ALL {
        let group = dtype.default_group().min(32);
        writer
            .matrix(dtype.name(), ROWS, COLS, dtype, group, |rows, out| {
                out.extend(rows.flat_map(|r| (0..COLS).map(move |c| weight(r, c))));
                Ok(())
            })
            .unwrap();
    }
    writer.plain("vector", &[2, 2], &[1.0, -0.5, 0.25, 3.0]).unwrap();
    writer.finish().unwrap();
}

#[test]
fn version_1_stays_what_it_is() {
    let golden =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/brk/version-1.brk");
    if std::env::var_os("BROOKLET_BLESS").is_some() {
        write(&golden);
    }
    let file = BrkFile::open(&golden).unwrap();
    file.verify(|_, _| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(file.fingerprint(), 4_844_337_641_289_399_784);
    assert_eq!(file.meta().chat_template.as_deref(), Some("{{ text }} — µ"));
    assert_eq!(&*file.tokenizer_blob().unwrap(), b"vocabulary");
    let mut row = vec![0.0; COLS];
    for (dtype, bound) in DType::ALL.into_iter().zip([0.0, 5e-4, 4e-3, 4e-3, 0.1, 6e-2, 0.11, 6e-2])
    {
        let tensor = file.require(dtype.name()).unwrap();
        for r in 0..ROWS {
            decode_row(&tensor.info.tile_layout().unwrap(), &tensor.bytes, r, &mut row);
            for (c, &x) in row.iter().enumerate() {
                assert!(
                    (x - weight(r, c)).abs() <= bound,
                    "{dtype} ({r}, {c}): {x}, {}",
                    weight(r, c)
                );
            }
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let again = folder.path().join("again.brk");
    write(&again);
    assert!(
        std::fs::read(&again).unwrap() == std::fs::read(&golden).unwrap(),
        "the same input, other bytes"
    );
}
