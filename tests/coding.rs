//! Packed texts: the same bytes on every instruction set, unpacked by any other; as small as the
//! model's own score says; whatever is damaged or another model's is an error.

use std::path::{Path, PathBuf};

use brooklet::coding::{ArchiveInfo, compress, decompress};
use brooklet::{EngineError, EngineOptions, Isa, Model, ModelOptions};
use brooklet_formats::DType;
use brooklet_tests::{converted, fixture, logits, open, open_for};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn demo(isa: Isa) -> Model {
    open(&root().join("models/rwkv7-nano-int8.brk"), isa)
}

fn options(threads: usize, chunk: usize) -> EngineOptions {
    EngineOptions::new().threads(threads).chunk(chunk).logits(1)
}

fn packed(model: &Model, threads: usize, text: &[u8], clear_every: u64) -> Vec<u8> {
    let packed = compress(model, &options(threads, 24), text, clear_every, &mut |_, _| true);
    packed.expect("a text").expect("nobody stops it")
}

fn unpacked(model: &Model, archive: &[u8]) -> Result<Vec<u8>, EngineError> {
    let unpacked = decompress(model, &options(1, 1), archive, &mut |_, _| true)?;
    Ok(unpacked.expect("nobody stops it"))
}

/// So many bytes of English, with what no vocabulary has a word for.
fn page(n: usize) -> Vec<u8> {
    let readme = std::fs::read(root().join("README.md")).expect("a page");
    [&readme[..n], &[0xff, 0x00, 0xc3, 0x28], "—漢字 \u{1f600}\r\n".as_bytes()].concat()
}

#[test]
fn every_instruction_set_packs_the_same_and_unpacks_any() {
    let page = page(250);
    let [first, .., last] = &Isa::available().collect::<Vec<_>>()[..] else { return };
    let expected = packed(&demo(*first), 1, &page, 0);
    for isa in Isa::available() {
        for threads in [1, 2] {
            assert!(packed(&demo(isa), threads, &page, 0) == expected, "{isa:?}, {threads}");
        }
    }
    for isa in [first, last] {
        assert!(unpacked(&demo(*isa), &expected).expect("sound") == page, "{isa:?}");
    }
}

#[test]
fn a_text_takes_what_the_model_says() {
    let model = demo(Isa::detect());
    let page = page(1500);
    let archive = packed(&model, 2, &page, 0);
    let (info, code) = ArchiveInfo::read(&archive).expect("sound");
    assert_eq!((info.length, info.clear_every), (page.len() as u64, 0));
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let ids = tokenizer.encode(&page).expect("any bytes");
    let read = [&[info.start], &ids[..ids.len() - 1]].concat();
    let rows = logits(&model, &read, 64, 2);
    let bits = |(row, id): (&[f32], &u32)| {
        let max = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = row.iter().map(|logit| (f64::from(*logit) - max).exp()).sum();
        let bits = (sum.ln() + max - f64::from(row[*id as usize])) / std::f64::consts::LN_2;
        // No token has less than 2⁻³¹ of the whole.
        bits.min(31.0)
    };
    let expected: f64 = rows.chunks_exact(model.n_vocab()).zip(&ids).map(bits).sum();
    let found = 8.0 * code.len() as f64;
    assert!(found < expected * 1.001 + 16.0, "{found} bits, {expected} expected");
    assert!(found > expected * 0.999 - 16.0, "{found} bits, {expected} expected");
}

#[test]
fn short_texts_fresh_states_and_other_states() {
    let model = demo(Isa::detect());
    let page = &page(400)[..400];
    for n in [0, 1, 2, 30] {
        assert!(unpacked(&model, &packed(&model, 1, &page[..n], 0)).expect("sound") == page[..n]);
    }
    for clear_every in [1, 7, 24, 50, 1 << 40] {
        let archive = packed(&model, 1, page, clear_every);
        assert!(unpacked(&model, &archive).expect("sound") == page, "{clear_every}");
    }
    let path = root().join("models/rwkv7-nano-int8.brk");
    let half = open_for(&path, Isa::detect(), DType::F16);
    let archive = packed(&half, 1, page, 0);
    assert!(unpacked(&half, &archive).expect("sound") == page);
    let error = unpacked(&model, &archive).expect_err("other states");
    assert!(matches!(error, EngineError::ArchiveStates { .. }), "{error}");
    let stopped = compress(&model, &options(1, 24), page, 0, &mut |done, _| done < 24);
    assert!(stopped.expect("no error").is_none());
    let stopped = decompress(&half, &options(1, 1), &archive, &mut |done, _| done < 16);
    assert!(stopped.expect("no error").is_none());
}

#[test]
fn attention_ends_with_its_context_and_goes_on_afresh() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/lfm2-a").expect("one of the repository");
    let file = converted(&source, temp.path(), DType::F32);
    let open = |window| {
        let opening = ModelOptions::new().window(window).context(Some(70));
        Model::open_with(&file, &opening).expect("a model")
    };
    let model = open(None);
    if !model.tokenizer().is_ok_and(|tokenizer| tokenizer.has_text()) {
        let error =
            compress(&model, &options(1, 8), b"ab", 0, &mut |_, _| true).expect_err("no text");
        assert!(matches!(error, EngineError::NoTokenizer), "{error}");
        return;
    }
    let page = &page(400)[..300];
    let error = compress(&model, &options(1, 24), page, 0, &mut |_, _| true).expect_err("too long");
    assert!(matches!(error, EngineError::Context { .. }), "{error}");
    let archive = packed(&model, 1, page, 70);
    assert!(unpacked(&model, &archive).expect("sound") == page);
    let narrow = open(Some(30));
    let error = unpacked(&narrow, &archive).expect_err("another window");
    assert!(matches!(error, EngineError::ArchiveWindow { .. }), "{error}");
}

#[test]
fn what_is_damaged_or_foreign_is_an_error() {
    let model = demo(Isa::detect());
    let page = &page(400)[..150];
    let archive = packed(&model, 1, page, 0);
    assert!(matches!(unpacked(&model, page), Err(EngineError::NoArchive)));
    assert!(matches!(unpacked(&model, b""), Err(EngineError::NoArchive)));
    for end in (8..archive.len()).step_by(11) {
        // What is left away at the end may have been zeros.
        let found = unpacked(&model, &archive[..end]);
        assert!(found.is_err(), "{end} of {}", archive.len());
    }
    for at in (0..archive.len()).step_by(9) {
        let mut other = archive.clone();
        other[at] ^= 1 << (at % 8);
        assert!(unpacked(&model, &other).is_err(), "byte {at}");
    }
    let mut later = archive.clone();
    later[8] = 2;
    assert!(matches!(unpacked(&model, &later), Err(EngineError::ArchiveVersion { found: 2, .. })));
    let temp = tempfile::tempdir().expect("a temporary folder");
    let other = fixture("fixtures/rwkv7-bf16/model.pth").expect("one of the repository");
    let other = open(&converted(&other, temp.path(), DType::F32), Isa::detect());
    assert!(matches!(unpacked(&other, &archive), Err(EngineError::ForeignArchive { .. })));
}
