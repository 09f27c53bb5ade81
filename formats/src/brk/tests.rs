//! The weight file: round trips, refusals, hostile bytes.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::atomic::{NO_INPUTS, Target};
use crate::quant::{self, TileLayout};
use crate::threads::Threads;
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
    let mut writer =
        BrkWriter::create(&Target::new(path, KIND, NO_INPUTS), meta(), b"a tokenizer".to_vec())
            .unwrap();
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
        file.verify(|_, _| {
            calls += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(calls, 1 + written.n_tensors);
        assert!(file.tensor("none").is_none());
        assert!(matches!(file.require("none"), Err(FormatError::MissingTensor { .. })));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn a_part_of_a_file_opens() {
    let bytes = small();
    let owned = BrkFile::from_bytes(bytes.clone()).unwrap();
    // At a multiple of 64 in an archive, at any other place, and with other bytes behind.
    for (offset, behind) in [(0, 0), (64, 0), (128, 9), (7, 3)] {
        let mut archive = vec![0xaa; offset];
        archive.extend(&bytes);
        archive.extend(vec![0xbb; behind]);
        let mut temporary = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut temporary, &archive).unwrap();
        for mmap in [true, false] {
            let (name, options) = (Path::new("(archive)"), OpenOptions { mmap });
            let open = |offset: usize, len: Option<usize>| {
                BrkFile::open_part(
                    name,
                    temporary.as_file(),
                    offset as u64,
                    len.map(|n| n as u64),
                    options,
                )
            };
            let file = open(offset, Some(bytes.len())).unwrap();
            file.verify(|_, _| ControlFlow::Continue(())).unwrap();
            assert_eq!(file.fingerprint(), owned.fingerprint());
            assert_eq!(file.is_shared(), mmap && offset % 64 == 0, "{offset}");
            assert_eq!(open(offset, None).is_ok(), behind == 0);
            let error = open(offset, Some(bytes.len() + behind + 1)).unwrap_err();
            assert!(matches!(error, FormatError::Truncated { .. }), "{error}");
            assert!(open(archive.len() + 1, None).is_err());
            assert!(open(usize::MAX, Some(usize::MAX)).is_err());
        }
    }
}

#[test]
fn a_check_can_be_cancelled() {
    let file = BrkFile::from_bytes(small()).unwrap();
    let error = file.verify(|_, _| ControlFlow::Break(())).unwrap_err();
    assert_eq!(error.to_string(), "(memory): check cancelled");
}

/// The bytes of the small file.
fn small() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.brk");
    write_small(&path);
    fs::read(&path).unwrap()
}

/// The message of what opening `bytes` fails with.
fn refusal(bytes: Vec<u8>) -> String {
    BrkFile::from_bytes(bytes).unwrap_err().to_string()
}

#[test]
fn the_same_bytes_open_from_memory() {
    let bytes = small();
    let owned = BrkFile::from_bytes(bytes.clone()).unwrap();
    for shift in [0, 1] {
        let place = Vec::leak(vec![0u8; bytes.len() + 128]);
        let start = place.as_ptr().addr().wrapping_neg() % 64 + shift;
        let place = &mut place[start..start + bytes.len()];
        place.copy_from_slice(&bytes);
        let range = place.as_ptr_range();
        let file = BrkFile::from_bytes(&*place).unwrap();
        file.verify(|_, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(file.fingerprint(), owned.fingerprint());
        for info in file.tensors() {
            let start = file.require(&info.name).unwrap().bytes.as_ptr();
            assert!(start.addr().is_multiple_of(64));
            assert_eq!(range.contains(&start), shift == 0, "aligned bytes are used in place");
        }
    }
}

#[test]
fn files_of_other_kinds_are_named() {
    assert!(refusal(Vec::new()).contains("an empty file"));
    assert!(refusal(b"GGUF\x03\0\0\0".to_vec()).contains("brooklet convert"));
    assert!(refusal(b"\x10\0\0\0\0\0\0\0{\"a\":{}}".to_vec()).contains("brooklet convert"));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec();
    assert!(refusal(pointer).contains("git lfs pull"));
    assert_eq!(
        refusal(b"hello, world".to_vec()),
        "(memory): not a .brk file: it starts with \"hello, w\", \
         expected \"\\x89BRK\\r\\n\\x1a\\n\""
    );
}

#[test]
fn damage_is_located() {
    let bytes = small();
    let truncated = refusal(bytes[..1000].to_vec());
    assert_eq!(
        truncated,
        format!(
            "(memory): truncated: the file at byte 0 needs {} bytes, 1000 are there",
            bytes.len()
        )
    );
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(refusal(longer).contains("the length of the file must be"));
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(
        refusal(newer),
        "(memory): version 2 is unknown to this version of brooklet, which knows 1"
    );
    let mut flagged = bytes.clone();
    flagged[13] = 1;
    assert!(refusal(flagged).contains("flags 256 is unknown"));

    let file = BrkFile::from_bytes(bytes.clone()).unwrap();
    let int4 = file.require("int4").unwrap().info;
    let mut weight = bytes.clone();
    weight[int4.offset as usize + 70] ^= 1;
    let file = BrkFile::from_bytes(weight).unwrap();
    let error = file.verify(|_, _| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.starts_with("(memory): tensor \"int4\" is damaged: checksum "), "{error}");

    let mut tokenizer = bytes;
    *tokenizer.last_mut().unwrap() ^= 1;
    let file = BrkFile::from_bytes(tokenizer).unwrap();
    assert!(file.tokenizer_blob().unwrap_err().to_string().contains("the tokenizer is damaged"));
}

#[test]
fn the_fingerprint_is_of_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.brk");
    let fingerprint = |meta: Meta, tokenizer: &[u8], weight: f32| {
        let mut writer =
            BrkWriter::create(&Target::new(&path, KIND, NO_INPUTS), meta, tokenizer.to_vec())
                .unwrap();
        writer.plain("w", &[1], &[weight]).unwrap();
        writer.finish().unwrap();
        BrkFile::open(&path).unwrap().fingerprint()
    };
    let base = fingerprint(meta(), b"", 1.0);
    let other_template = Meta { chat_template: None, ..meta() };
    assert_eq!(fingerprint(other_template, b"vocabulary", 1.0), base);
    assert_ne!(fingerprint(meta(), b"", 2.0), base);
    assert_ne!(fingerprint(Meta { architecture: "rwkv6".to_owned(), ..meta() }, b"", 1.0), base);
    let mut other_config = meta();
    other_config.config.insert("ln_eps".to_owned(), 1e-6.into());
    assert_ne!(fingerprint(other_config, b"", 1.0), base);
}

#[test]
fn a_writer_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.brk");
    let target = Target::new(&path, KIND, NO_INPUTS).force(true);
    let create = || BrkWriter::create(&target, meta(), Vec::new()).unwrap();
    let ones = |rows: std::ops::Range<usize>, out: &mut Vec<f32>| {
        out.resize(rows.len() * 50, 1.0);
        Ok(())
    };
    fs::write(&path, "what was here before").unwrap();

    let mut writer = create();
    let error = writer
        .matrix("m", 40, 50, DType::Int4, 32, |rows, out| {
            let at = out.len();
            ones(rows.clone(), out)?;
            out[at + (33 - rows.start) * 50 + 7] = f32::NAN;
            Ok(())
        })
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("w.brk: tensor \"m\": the weight at row 33, column 7 is NaN"),
        "{error}"
    );
    let error = writer.plain("v", &[1], &[0.0]).unwrap_err().to_string();
    assert!(error.ends_with("tensor \"m\" was not written to its end"), "{error}");
    assert!(matches!(writer.finish(), Err(FormatError::Unfinished { .. })));

    let mut writer = create();
    let one = |_, out: &mut Vec<f32>| {
        out.push(1.0);
        Ok(())
    };
    let short = writer.matrix("m", 40, 50, DType::F32, 0, one);
    assert!(
        short.unwrap_err().to_string().contains("must be 40 rows of 50 weights, found 1 weights")
    );
    drop(writer);

    let mut writer = create();
    writer.matrix("m", 40, 50, DType::Int8, 64, ones).unwrap();
    assert!(writer.plain("m", &[1], &[0.0]).unwrap_err().to_string().contains("must be unique"));
    for (name, shape) in
        [("", vec![1]), ("a\nb", vec![1]), ("v", vec![]), ("v", vec![0]), ("v", vec![1; 5])]
    {
        assert!(writer.plain(name, &shape, &[0.0]).is_err(), "{name:?} {shape:?}");
    }
    assert!(writer.plain("v", &[usize::MAX, 2], &[0.0]).is_err());
    assert!(writer.matrix("n", 2, 50, DType::Int8, 33, ones).is_err());
    assert!(writer.matrix("n", 0, 50, DType::Int8, 32, ones).is_err());
    drop(writer);

    assert_eq!(fs::read(&path).unwrap(), b"what was here before");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    create().finish().unwrap();
    assert_eq!(BrkFile::open(&path).unwrap().tensors().len(), 0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn places_that_cannot_be_written_or_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("none/w.brk");
    let error = BrkWriter::create(&Target::new(&nowhere, KIND, NO_INPUTS), meta(), Vec::new())
        .unwrap_err()
        .to_string();
    assert!(error.starts_with(&format!("cannot create {}", nowhere.display())), "{error}");
    let error = BrkWriter::create(&Target::new(folder.path(), KIND, NO_INPUTS), meta(), Vec::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("not a regular file"), "{error}");
    assert!(BrkWriter::create(&Target::new("..", KIND, NO_INPUTS), meta(), Vec::new()).is_err());
    assert!(BrkFile::open(folder.path()).unwrap_err().to_string().contains("not a regular file"));
    assert!(BrkFile::open(&nowhere).unwrap_err().to_string().starts_with("cannot open "));
}

#[test]
fn a_source_is_asked_for_blocks_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blocks.brk");
    let (rows, cols) = (300, 1 << 13);
    let value = |row: usize, col: usize| (row % 80 * 3 + col % 5) as f32;
    let mut files = Vec::new();
    for (threads, expected) in
        [(1, &[0..128, 128..256, 256..300][..]), (3, &[0..256, 256..300][..])]
    {
        let mut writer =
            BrkWriter::create(&Target::new(&path, KIND, NO_INPUTS), meta(), Vec::new()).unwrap();
        writer.set_threads(Threads::new(threads));
        let mut asked = Vec::new();
        writer
            .matrix("m", rows, cols, DType::Bf16, 0, |range, out| {
                assert!(out.is_empty());
                out.extend(range.clone().flat_map(|r| (0..cols).map(move |c| value(r, c))));
                asked.push(range);
                Ok(())
            })
            .unwrap();
        writer.finish().unwrap();
        // Without the cargo feature there is one.
        if Threads::new(threads).count() == threads {
            assert_eq!(asked, expected);
        }
        files.push(fs::read(&path).unwrap());
    }
    assert!(files[0] == files[1]);
    let file = BrkFile::open(&path).unwrap();
    let tensor = file.require("m").unwrap();
    let mut row = vec![0.0; cols];
    for r in 0..rows {
        quant::decode_row(&tensor.info.tile_layout().unwrap(), &tensor.bytes, r, &mut row);
        assert!(row.iter().enumerate().all(|(c, &x)| x == value(r, c)), "row {r}");
    }
}

/// Where addresses have 32 bits, one of 5 GB is refused for its size; elsewhere for its zeros.
#[test]
fn a_file_of_more_bytes_than_addresses_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.brk");
    let len = 5_000_000_000;
    if let Err(error) = fs::File::create(&path).and_then(|file| file.set_len(len)) {
        return println!("SKIPPED: a file of 5 GB with a hole: {error}");
    }
    let error = BrkFile::open(&path).unwrap_err();
    if usize::BITS < 64 {
        assert!(matches!(error, FormatError::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains("5000000000 bytes are more than a 32-bit"), "{error}");
    } else {
        assert!(matches!(error, FormatError::NotBrk { .. }), "{error}");
    }
    // A part of it that fits is read.
    let file = fs::File::open(&path).unwrap();
    let part = BrkFile::open_part(&path, &file, len - 4096, None, OpenOptions::default());
    assert!(matches!(part.unwrap_err(), FormatError::NotBrk { .. }));
}

#[cfg(unix)]
#[test]
fn a_finished_file_has_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    fs::write(folder.path().join("any"), "").unwrap();
    write_small(&folder.path().join("small.brk"));
    assert_eq!(mode(&folder.path().join("small.brk")), mode(&folder.path().join("any")));
}
