//! Model files that are well-formed and absurd: hyper-parameters that do not fit, tensors missing,
//! exchanged or of other sizes, weights that are not finite. Opening is an error or gives a model
//! that runs without a panic, and takes no memory that the file's own size does not justify.
//!
//! Not here: bytes that are no file at all (`formats/tests/hostile_brk.rs`).

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::{DType, EngineError, EngineOptions, Model, Session};
use brooklet_formats::atomic::{NO_INPUTS, Target};
use brooklet_formats::brk::{BrkFile, BrkWriter, KIND, Layout as Tiling, OpenOptions, Tensor};
use brooklet_formats::quant::take_tile;
use brooklet_tests::{MODELS, converted, fixture};
use serde_json::{Value, json};

/// The system's allocator, remembering the largest request.
struct Largest;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Largest = Largest;

// SAFETY: every call goes to `System` unchanged.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// No buffer of these models is larger, unless a hyper-parameter was believed.
const LIMIT: usize = 64 << 20;

/// Each architecture's model, converted to each of these formats.
fn each(dtypes: &[DType], test: impl Fn(&BrkFile, &Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        for &dtype in dtypes {
            let file = BrkFile::open(&converted(&source, folder.path(), dtype)).expect("a model");
            test(&file, folder.path());
        }
    }
}

/// Writes `file` again with another configuration, and with tensors that `change` may replace or
/// leave out.
fn rewritten(
    file: &BrkFile,
    folder: &Path,
    config: impl FnOnce(&mut serde_json::Map<String, Value>),
    change: impl Fn(Tensor) -> Option<Tensor>,
) -> PathBuf {
    let path = folder.join("rewritten.brk");
    let mut meta = file.meta().clone();
    config(&mut meta.config);
    let mut writer =
        BrkWriter::create(&Target::new(&path, KIND, NO_INPUTS), meta, Vec::new()).expect("a file");
    for info in file.tensors() {
        let Some(tensor) = change(file.require(&info.name).expect("its own tensor")) else {
            continue;
        };
        if let Some(values) = tensor.as_f32() {
            writer.plain(&info.name, &tensor.info.shape, values).expect("written");
            continue;
        }
        let layout = tensor.info.tile_layout().expect("a matrix");
        let copy = |tile, out: &mut [u8]| {
            take_tile(&layout, &tensor.bytes, tile, out);
            Ok(())
        };
        writer.tiles(&info.name, layout, copy).expect("written");
    }
    writer.finish().expect("a file");
    path
}

/// Opens a model and, if it opens, reads and samples some tokens. Returns the error's text.
fn run(path: &Path, what: &str) -> Option<String> {
    LARGEST.store(0, Relaxed);
    let error = match Model::open(path) {
        Ok(model) => {
            // Whether it has a list for devices or not: making one is harmless.
            drop(model.operations(132));
            let options = EngineOptions::new().threads(1).chunk(4).logits(1);
            let mut session = Session::new(&model, &options);
            let tokens: Vec<u32> = (0..6).map(|i| i % model.n_vocab() as u32).collect();
            match session.prefill(&tokens) {
                Err(EngineError::Context { limit, .. }) if limit < tokens.len() => return None,
                result => drop(result.expect("tokens of the vocabulary")),
            }
            for options in [SamplerOptions::greedy(), SamplerOptions::new().top_p(0.9)] {
                let mut sampler = Sampler::new(options, model.n_vocab()).expect("options");
                let token = sampler.sample(session.logits());
                session.step(token).expect("a token of the vocabulary");
            }
            None
        }
        Err(error) => Some(error.to_string()),
    };
    let largest = LARGEST.load(Relaxed);
    assert!(largest < LIMIT, "{what}: {largest} bytes at once");
    error
}

#[test]
fn hyper_parameters_of_every_kind() {
    let absurd = [
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(15),
        json!(16),
        json!(17),
        json!(64),
        json!(1000),
        json!(1 << 20),
        json!(1 << 24),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!("8"),
        json!(null),
        json!([8]),
        json!(true),
    ];
    // What a number format changes of this is in the other tests.
    each(&[DType::Int8], |file, folder| {
        for (name, own) in &file.meta().config {
            for value in &absurd {
                let what = format!("{} {name} = {value}", file.meta().architecture);
                let path =
                    rewritten(file, folder, |c| drop(c.insert(name.clone(), value.clone())), Some);
                let error = run(&path, &what);
                // Another number may fit, and an architecture need not read all of them; a size
                // that is no number never fits.
                let size = ["n_layer", "d_model", "n_vocab", "d_inner"].contains(&name.as_str());
                let no_number = size && (value.is_string() || value.is_array());
                assert!(error.is_some() || !no_number, "{what}");
                if let Some(error) = error {
                    assert!(error.contains("rewritten.brk"), "{what}: {error}");
                }
            }
            // Without one of these it is another model, and its tensors do not fit.
            let is_optional = [
                "n_step",
                "n_level",
                "rank_decay",
                "rank_gate",
                "n_rot",
                "d_shared",
                "d_latent",
                "d_q_latent",
                "n_pair",
                "d_conv",
                "n_key_head",
                "d_key",
                "n_scan_head",
                "rank_adapter",
                "n_profile",
                "score_floor",
                "n_expert_always",
                "d_router",
                "n_index_head",
            ]
            .contains(&name.as_str());
            if own.is_u64() && !is_optional {
                let path = rewritten(file, folder, |c| drop(c.remove(name)), Some);
                let what = format!("{} without {name}", file.meta().architecture);
                let error = run(&path, &what).unwrap_or_default();
                assert!(error.is_empty() || error.contains(name.as_str()), "{what}: {error}");
            }
        }
    });
}

#[test]
fn tensors_missing_and_exchanged() {
    each(&[DType::Int8, DType::F32], |file, folder| {
        let tensors = file.tensors();
        for info in tensors.iter().filter(|info| !info.name.contains("layers.1")) {
            let what = format!("{} without {}", file.meta().architecture, info.name);
            let path = rewritten(
                file,
                folder,
                |_| {},
                |tensor| Some(tensor).filter(|t| t.info.name != info.name),
            );
            if let Some(error) = run(&path, &what) {
                assert!(error.contains(&info.name), "{what}: {error}");
            }
            // Another tensor's bytes under its name.
            for other in ["embed", "layers.0.ln1.weight", "layers.0.norm.weight"] {
                let Some(other) = file.tensor(other) else { continue };
                let what = format!(
                    "{} with {} of {}",
                    file.meta().architecture,
                    other.info.name,
                    info.name
                );
                let path = rewritten(
                    file,
                    folder,
                    |_| {},
                    |tensor| {
                        Some(if tensor.info.name == info.name { other.clone() } else { tensor })
                    },
                );
                run(&path, &what);
            }
        }
    });
}

#[test]
fn weights_that_are_not_finite() {
    each(&[DType::Int8, DType::F32], |file, folder| {
        let path = rewritten(file, folder, |_| {}, Some);
        let good = std::fs::read(&path).expect("bytes");
        assert_eq!(
            BrkFile::open(&path)
                .expect("a model")
                .verify(|_, _| std::ops::ControlFlow::Continue(()))
                .ok(),
            Some(())
        );
        // Read, not mapped: Windows changes no file that is mapped.
        let copy = BrkFile::open_with(&path, OpenOptions { mmap: false }).expect("a model");
        for pattern in [0x7fff_ffff_u32, 0xff80_0000, 0x7f80_0000, 0x7c00_7c00] {
            // Every plain tensor, or every tile, scales and all; the fingerprint and the table know
            // nothing of it.
            for tiles in [false, true] {
                let mut bytes = good.clone();
                for info in
                    copy.tensors().iter().filter(|info| (info.layout == Tiling::Tiles) == tiles)
                {
                    let start = info.offset as usize;
                    for word in bytes[start..start + info.len as usize].as_chunks_mut::<4>().0 {
                        *word = pattern.to_le_bytes();
                    }
                }
                std::fs::write(&path, bytes).expect("written");
                let what = format!("{} of {pattern:08x}, tiles {tiles}", file.meta().architecture);
                assert_eq!(run(&path, &what), None, "{what}: opening reads no weights");
            }
        }
    });
}

#[test]
fn verify_finds_what_is_not_finite() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("odd.brk");
    for odd in [f32::NAN, f32::INFINITY] {
        let mut writer =
            BrkWriter::create(&Target::new(&path, KIND, NO_INPUTS), Default::default(), Vec::new())
                .expect("a file");
        writer.plain("fine", &[3], &[1.0, 2.0, 3.0]).expect("written");
        writer.plain("odd", &[2, 2], &[1.0, 2.0, odd, 4.0]).expect("written");
        writer.finish().expect("a file");
        let file = BrkFile::open(&path).expect("a file");
        let error = file
            .verify(|_, _| std::ops::ControlFlow::Continue(()))
            .expect_err("not finite")
            .to_string();
        assert!(
            error.contains("\"odd\": a weight must be finite, found")
                && error.contains("row 1, column 0"),
            "{error}"
        );
    }
    // A scale that is not a number, in a tile.
    let mut writer =
        BrkWriter::create(&Target::new(&path, KIND, NO_INPUTS), Default::default(), Vec::new())
            .expect("a file");
    let layout =
        brooklet_formats::quant::TileLayout::new(DType::Int8, 16, 64, 32).expect("a matrix");
    let fill = |_, out: &mut [u8]| {
        out.fill(0x7e);
        Ok(())
    };
    writer.tiles("matrix", layout, fill).expect("written");
    writer.finish().expect("a file");
    let file = BrkFile::open(&path).expect("a file");
    let error = file
        .verify(|_, _| std::ops::ControlFlow::Continue(()))
        .expect_err("not finite")
        .to_string();
    assert!(
        error.contains("\"matrix\": a weight must be finite, found NaN at row 0, column 0"),
        "{error}"
    );
}
