//! `logits`: the file, the ids, and the same bits however the work is cut.

use crate::support::{
    arg, brooklet, command, finish, folder, model, model_in, names_in, with_input,
};

#[test]
fn the_file_is_numpys() {
    let folder = folder();
    let out = folder.path().join("out.npy");
    let done = with_input(
        ["logits", &arg(&model()), "--ids", "-", "--out", &arg(&out), "--chunk", "2"],
        b"1 2\n 3\t255\n0\n",
    );
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.err.contains("(5, 256) f32"), "{done:?}");
    let bytes = std::fs::read(&out).expect("the file");
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(header % 64, 0);
    let text = String::from_utf8_lossy(&bytes[10..header]);
    assert!(
        text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (5, 256), }"),
        "{text}"
    );
    assert_eq!(bytes.len(), header + 5 * 256 * 4);
    let values =
        bytes[header..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    assert!(values.clone().all(f32::is_finite) && values.clone().any(|x| x != 0.0));
    assert_eq!(names_in(folder.path()), ["out.npy"]);
}

#[test]
fn the_same_bits_for_any_chunk_and_threads() {
    let folder = folder();
    let ids = folder.path().join("ids.txt");
    let text: Vec<String> = (0..70_u32).map(|i| (i * 37 % 256).to_string()).collect();
    std::fs::write(&ids, text.join(" ")).expect("written");
    for dtype in ["int8", "int4", "f32"] {
        let bits = |chunk: &str, threads: &str| {
            let out = folder.path().join("out.npy");
            let model = arg(&model_in(dtype));
            let args = [
                "logits",
                &model,
                "--ids",
                &arg(&ids),
                "--out",
                &arg(&out),
                "--chunk",
                chunk,
                "--threads",
                threads,
            ];
            brooklet(args).ok();
            std::fs::read(&out).expect("the file")
        };
        let once = bits("64", "1");
        for (chunk, threads) in [("1", "1"), ("7", "2"), ("64", "2")] {
            assert!(once == bits(chunk, threads), "{dtype}, chunk {chunk}, {threads} threads");
        }
    }
}

#[test]
fn bad_ids_are_named_with_their_place() {
    let folder = folder();
    let out = arg(&folder.path().join("out.npy"));
    let with = |ids: &[u8]| {
        with_input(["logits", &arg(&model()), "--ids", "-", "--out", &out], ids).fails(1)
    };
    let line = with(b"1 2 256 3");
    assert!(
        line.contains("token id 256 at position 2 (from 0) is outside the vocabulary of 256"),
        "{line}"
    );
    let line = with(b"1 -2");
    assert!(line.contains("\"-2\" at position 1 (from 0) is no token id"), "{line}");
    assert!(with(b"18446744073709551616").contains("is no token id"));
    assert!(with(b" \n").contains("no token ids"));
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[test]
fn the_same_bits_on_every_instruction_set() {
    let folder = folder();
    for dtype in ["int8", "int4"] {
        let mut seen: Option<(&str, Vec<u8>)> = None;
        for isa in [
            "scalar",
            "portable",
            "avx2",
            "avx-vnni",
            "avx512",
            "neon",
            "neon-dotprod",
            "neon-i8mm",
        ] {
            let out = arg(&folder.path().join("out.npy"));
            let mut logits =
                command(["logits", &arg(&model_in(dtype)), "--ids", "-", "--out", &out, "-q"]);
            let done = finish(logits.env("BROOKLET_ISA", isa), b"7 0 255 31 31 8");
            if done.code == Some(1) && done.err.contains("not available on this machine") {
                continue;
            }
            done.ok();
            let bits = std::fs::read(&out).expect("the file");
            let (first, expected) = seen.get_or_insert_with(|| (isa, bits.clone()));
            assert!(bits == *expected, "{dtype}: {isa} and {first} differ");
        }
        assert!(seen.is_some());
    }
}
