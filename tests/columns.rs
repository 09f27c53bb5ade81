//! Models whose matrices stand in columns: the same logits, to the bit, as those in tiles, whichever
//! matrices they are, by prompts and by single tokens, on any number of threads. Conversion stores
//! them on demand, and what they take of memory is known.

use std::ops::ControlFlow;
use std::path::Path;

use brooklet::{Engine, EngineOptions, Model, Session};
use brooklet_formats::DType;
use brooklet_formats::brk::{BrkFile, Layout};
use brooklet_formats::convert::{ConvertOptions, convert};
use brooklet_tests::random_rwkv::{N_LAYER, rwkv4};
use brooklet_tests::write::{in_columns, safetensors};
use brooklet_tests::{MODELS, converted, fixture, some_tokens};

/// Logits behind a prompt, then behind each of some more tokens.
fn logits(path: &Path, threads: usize) -> Vec<Vec<u32>> {
    let model = Model::open(path).expect("a model");
    let tokens = some_tokens(&model, 30, 0);
    let mut options = EngineOptions::default();
    options.threads = threads;
    let mut session = Session::new(&model, &options);
    let bits = |session: &Session| session.logits().iter().map(|v| v.to_bits()).collect();
    session.prefill(&tokens[..20]).expect("read");
    let mut all = vec![bits(&session)];
    for pair in tokens[20..].chunks(2) {
        session.prefill(pair).expect("read");
        all.push(bits(&session));
    }
    session.prefill(&tokens[..1]).expect("read");
    all.push(bits(&session));
    all
}

#[test]
fn columns_give_the_logits_of_tiles() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for name in MODELS.iter().filter(|name| name.starts_with("rwkv") || name.starts_with("mamba")) {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        for dtype in [DType::Int4, DType::Int8] {
            let tiles = converted(&source, temp.path(), dtype);
            let columns = tiles.with_extension("columns.brk");
            assert!(in_columns(&tiles, &columns) > 0, "{name}");
            for threads in [1, 3] {
                assert!(
                    logits(&tiles, threads) == logits(&columns, threads),
                    "{name} {dtype}, {threads} threads"
                );
            }
        }
    }
}

/// Scratch of an engine with so many columns.
fn memory(path: &Path, chunk: usize) -> usize {
    let model = Model::open(path).expect("a model");
    Engine::memory(&model, &EngineOptions::new().threads(1).chunk(chunk))
}

#[test]
fn conversion_stores_columns_on_demand() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = temp.path().join("model.safetensors");
    safetensors(&source, &rwkv4(128, 128, 512));
    for (dtype, n) in [(DType::Int4, N_LAYER), (DType::Int8, N_LAYER), (DType::Int6, 0)] {
        let [tiles, columns] = [false, true].map(|columns| {
            let target = temp.path().join(format!("{columns}.brk"));
            let options = ConvertOptions { columns, ..ConvertOptions::new(dtype) };
            convert(&source, &target, &options, &mut |_| ControlFlow::Continue(()))
                .expect("converted");
            target
        });
        let file = BrkFile::open(&columns).expect("a model");
        let found = file.tensors().iter().filter(|info| info.layout == Layout::Columns);
        assert!(found.clone().all(|info| info.name.ends_with(".ffn.value")), "{dtype}");
        assert_eq!(found.count(), n, "{dtype}");
        assert!(logits(&tiles, 2) == logits(&columns, 2), "{dtype}");
        // Of a thread that puts tiles together: a third of a megabyte at most.
        let room = memory(&columns, 64) - memory(&tiles, 64);
        assert_eq!(room > 0, n > 0, "{dtype}: {room} bytes");
        assert!(room < 300_000, "{dtype}: {room} bytes");
    }
}
