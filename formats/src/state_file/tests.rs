//! The state file: round trips and error bounds, refusals, hostile bytes.

use super::*;

const HERE: &str = "here.brks";

/// Deterministic values of the size that states have.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + 13) % 1999) as f32 / 100.0 - 9.99).collect()
}

fn contents<'a>(matrix: &'a [f32], vector: &'a [f32]) -> Contents<'a> {
    Contents {
        architecture: "rwkv7",
        fingerprint: 0x0123_4567_89ab_cdef,
        position: 1 << 40,
        slots: vec![
            SlotValues { layer: 0, name: "att.shift", shape: vec![5], values: vector.into() },
            SlotValues { layer: 0, name: "att.wkv", shape: vec![3, 5, 7], values: matrix.into() },
        ],
        tail: &[3, 1, 4],
        unread: 1,
        logits: &[],
        sampler: b"sampler",
        note: "a note",
    }
}

fn small(dtype: DType) -> Vec<u8> {
    encode(&contents(&values(105), &values(5)), dtype).unwrap()
}

fn refused(bytes: &[u8]) -> String {
    StateFile::parse(Path::new(HERE), bytes).unwrap_err().to_string()
}

/// The same bytes with a checksum that is right.
fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() >= PREAMBLE_LEN {
        let sum = checksum(&bytes);
        LE::write_u64(&mut bytes[COVERED..], sum);
    }
    bytes
}

/// The file with `from` replaced in its metadata, and lengths and checksum set right.
fn with_metadata(from: &str, to: &str) -> Vec<u8> {
    let file = small(DType::F32);
    let end = PREAMBLE_LEN + LE::read_u32(&file[40..]) as usize;
    let text = String::from_utf8(file[PREAMBLE_LEN..end].to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    let text = text.replace(from, to);
    let mut forged = [&file[..PREAMBLE_LEN], text.as_bytes()].concat();
    forged.resize(forged.len().next_multiple_of(64), 0);
    forged.extend(&file[end.next_multiple_of(64)..]);
    let len = forged.len() as u64;
    LE::write_u64(&mut forged[16..], len);
    LE::write_u32(&mut forged[40..], text.len() as u32);
    signed(forged)
}

#[test]
fn what_is_written_is_read() {
    let (matrix, vector) = (values(105), values(5));
    for dtype in FORMATS {
        let bytes = encode(&contents(&matrix, &vector), dtype).unwrap();
        let file = StateFile::parse(Path::new(HERE), &bytes).unwrap();
        assert_eq!((file.architecture(), file.fingerprint()), ("rwkv7", 0x0123_4567_89ab_cdef));
        assert_eq!((file.position(), file.tail(), file.unread()), (1 << 40, &[3, 1, 4][..], 1));
        assert_eq!(
            (file.sampler(), file.note(), file.logits()),
            (&b"sampler"[..], "a note", vec![])
        );
        assert_eq!(file.slots()[1].shape, [3, 5, 7]);
        let formats: Vec<DType> = file.slots().iter().map(|slot| slot.dtype).collect();
        let of_vectors = if dtype == DType::Int8 { DType::F16 } else { dtype };
        assert_eq!(formats, [of_vectors, dtype]);
        for (i, expected) in [&vector, &matrix].into_iter().enumerate() {
            let mut found = vec![f32::NAN; expected.len()];
            file.read_slot(i, &mut found);
            for (x, y) in expected.iter().zip(&found) {
                let bound = match formats[i] {
                    DType::F32 => 0.0,
                    DType::F16 => x.abs() / 2048.0,
                    // Half a scale of the largest value, 9.99.
                    _ => 9.99 / 127.0 * 0.5 * 1.001,
                };
                assert!((x - y).abs() <= bound, "{dtype}: {x} {y}");
            }
        }
    }
    let sizes = FORMATS.map(|dtype| small(dtype).len());
    assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
}

#[test]
fn logits_come_back() {
    let mut with_logits = contents(&[], &[]);
    (with_logits.slots, with_logits.unread, with_logits.logits) =
        (Vec::new(), 0, &[1.5, f32::NEG_INFINITY]);
    let bytes = encode(&with_logits, DType::F32).unwrap();
    let file = StateFile::parse(Path::new(HERE), &bytes).unwrap();
    assert_eq!(file.logits(), [1.5, f32::NEG_INFINITY]);
    with_logits.unread = 1;
    let both = encode(&with_logits, DType::F32).unwrap();
    assert!(refused(&both).contains("2 logits and 1 unread tokens"), "{}", refused(&both));
}

#[test]
fn whole_numbers_that_f16_would_round_keep_f32() {
    let format = |vector: &[f32], dtype| {
        let bytes = encode(&contents(&values(105), vector), dtype).unwrap();
        StateFile::parse(Path::new(HERE), &bytes).unwrap().slots()[0].dtype
    };
    for dtype in [DType::F16, DType::Int8] {
        assert_eq!(format(&[3.0, 0.0, 248_319.0, 2049.0, 7.0], dtype), DType::F32);
        assert_eq!(format(&[3.0, 0.0, 2048.0, -4096.0, 7.0], dtype), DType::F16);
        assert_eq!(format(&[3.5, 0.0, 2049.0, 7.0, 7.0], dtype), DType::F16);
    }
}

#[test]
fn values_that_a_format_lacks_keep_f32() {
    for (odd, f16, int8) in [
        (1e5, DType::F32, DType::Int8),
        (1e7, DType::F32, DType::F32),
        (f32::NAN, DType::F32, DType::F32),
        (f32::NEG_INFINITY, DType::F32, DType::F32),
        (1e-30, DType::F16, DType::Int8),
    ] {
        let mut matrix = values(105);
        matrix[50] = odd;
        for (dtype, expected) in [(DType::F16, f16), (DType::Int8, int8)] {
            let bytes = encode(&contents(&matrix, &values(5)), dtype).unwrap();
            let file = StateFile::parse(Path::new(HERE), &bytes).unwrap();
            assert_eq!(file.slots()[1].dtype, expected, "{odd} in {dtype}");
            if expected == DType::F32 {
                let mut found = vec![0.0; 105];
                file.read_slot(1, &mut found);
                assert_eq!(found[50].to_bits(), odd.to_bits());
            }
        }
    }
    let line = encode(&contents(&values(105), &values(5)), DType::Int4).unwrap_err().to_string();
    assert!(line.contains("f32, f16 or int8, found int4"), "{line}");
}

#[test]
fn other_files_are_named() {
    for (bytes, part) in [
        (&b""[..], "an empty file"),
        (b"PK\x03\x04...", "a PyTorch file, not a .brks state"),
        (b"\x89BRK\r\n\x1a\n", "a model, not a state"),
        (b"Once upon a time", "no .brks state file"),
    ] {
        assert!(
            refused(bytes).contains(part) && refused(bytes).contains(HERE),
            "{}",
            refused(bytes)
        );
    }
    for (at, value, part) in [
        (8, 2, "state version 2 is unknown"),
        (12, 1, "flags 1 is unknown"),
        (40, u32::MAX, "the length of the metadata must be 4194304 at most"),
        (44, (1 << 24) + 1, "the number of logits must be 16777216 at most"),
        (48, u32::MAX, "the length of the sampler's state must be 268435456 at most"),
        (52, 1, "reserved field 1 is unknown"),
        (56, 0, "the state is damaged"),
    ] {
        let mut bytes = small(DType::F32);
        LE::write_u32(&mut bytes[at..], value);
        assert!(refused(&bytes).contains(part), "{part}: {}", refused(&bytes));
    }
}

#[test]
fn forged_metadata_is_refused() {
    // Where addresses have 32 bits, the metadata's reader says it.
    let huge = if usize::BITS < 64 { "the state's metadata" } else { "what memory can address" };
    for (from, to, part) in [
        ("[5]", "[99]", "the length of the file must be"),
        ("[5]", "[0]", "1 to 4 dimensions of 1 or more"),
        ("[5]", "[1,1,1,1,5]", "1 to 4 dimensions of 1 or more"),
        ("[5]", "[4294967296,4294967296]", huge),
        ("[5]", "[9223372036854775807]", huge),
        ("[3,5,7]", "[100000000]", "the length of the file must be"),
        ("[5]", "[-1]", "the state's metadata"),
        ("att.wkv", "att.shift", "must be there once, found layer 0 \"att.shift\" twice"),
        ("att.wkv", "", "the name of a slot"),
        ("att.wkv", "a\\u0007", "the name of a slot"),
        ("\"f32\"", "\"int4\"", "slot format \"int4\": expected f32, f16 or int8"),
        ("\"unread\":1", "\"unread\":4", "the number of unread tokens must be 3 at most"),
        ("\"architecture\"", "\"other\"", "missing field `architecture`"),
    ] {
        let line = refused(&with_metadata(from, to));
        assert!(line.contains(part), "{to}: {line}");
    }
    let more = with_metadata("\"unread\":1", "\"unread\":1,\"later\":{\"version\":2}");
    assert!(StateFile::parse(Path::new(HERE), &more).is_ok());
}

#[test]
fn every_cut_and_flip_is_an_error() {
    for dtype in FORMATS {
        let bytes = small(dtype);
        for cut in 0..bytes.len() {
            refused(&bytes[..cut]);
            // Also where length and checksum say that nothing is missing.
            let mut short = bytes[..cut].to_vec();
            if cut >= PREAMBLE_LEN {
                LE::write_u64(&mut short[16..], cut as u64);
                refused(&signed(short));
            }
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x41;
            refused(&flipped);
            // Signed anew it may be a state; then reading it must be in bounds.
            let flipped = signed(flipped);
            if let Ok(file) = StateFile::parse(Path::new(HERE), &flipped) {
                for (i, slot) in file.slots().iter().enumerate() {
                    file.read_slot(i, &mut vec![0.0; slot.shape.iter().product()]);
                }
                assert!(file.logits().len() * 4 + file.sampler().len() <= flipped.len());
            }
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(refused(&longer).contains("the length of the file"));
    }
}

#[test]
fn hidden_bytes_are_refused() {
    let bytes = small(DType::F32);
    let metadata_end = PREAMBLE_LEN + LE::read_u32(&bytes[40..]) as usize;
    assert_ne!(metadata_end % 64, 0, "there is padding to test");
    let mut hidden = bytes;
    hidden[metadata_end] = 7;
    assert!(refused(&signed(hidden)).contains("the padding of a state must be zero, found 7"));
}
