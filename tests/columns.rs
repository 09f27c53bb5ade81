//! Models whose matrices stand in columns: the same logits, to the bit, as those in tiles, whichever
//! matrices they are, by prompts and by single tokens, on any number of threads.

use std::path::Path;

use brooklet::{EngineOptions, Model, Session};
use brooklet_formats::DType;
use brooklet_formats::atomic::{NO_INPUTS, Target};
use brooklet_formats::brk::{BrkFile, BrkWriter, KIND, Layout};
use brooklet_formats::quant::take_tile;
use brooklet_tests::{MODELS, converted, fixture, some_tokens};

/// The file once more, with every matrix in columns whose format has them; returns how many.
fn in_columns(source: &Path, target: &Path) -> usize {
    let file = BrkFile::open(source).expect("a model");
    let target = Target::new(target, KIND, NO_INPUTS);
    let mut writer = BrkWriter::create(&target, file.meta().clone(), Vec::new()).expect("a file");
    writer.meta_mut().tokenizer = Default::default();
    for info in file.tensors() {
        let tensor = file.require(&info.name).expect("a tensor");
        let Some(tiles) = info.tile_layout() else {
            writer.plain(&info.name, &info.shape, tensor.as_f32().expect("f32")).expect("written");
            continue;
        };
        let layout = tiles.by_columns().unwrap_or(tiles);
        let copy = |tile, out: &mut [u8]| {
            take_tile(&tiles, &tensor.bytes, tile, out);
            Ok(())
        };
        writer.tiles(&info.name, layout, copy).expect("written");
    }
    writer.finish().expect("a file");
    let written = BrkFile::open(target.path()).expect("what was written");
    written.verify(|_, _| std::ops::ControlFlow::Continue(())).expect("a whole file");
    written.tensors().iter().filter(|info| info.layout == Layout::Columns).count()
}

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
