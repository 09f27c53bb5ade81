//! Number formats by a budget: budgets are kept, what is expected comes true, a recipe gives the
//! same bytes again, every architecture.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use brooklet::Isa;
use brooklet_formats::atomic::{NO_INPUTS, Target};
use brooklet_formats::brk::{self, BrkFile, BrkWriter};
use brooklet_formats::convert::{ConvertOptions, Recipe};
use brooklet_formats::quant::decode_row;
use brooklet_formats::{DType, FormatError};
use brooklet_quantize::score::LogProbs;
use brooklet_quantize::{
    Budget, Calibration, Method, Options, Plan, PlanOptions, QuantizeError, Summary, Text, plan,
    requantize,
};
use brooklet_tests::{converted, fixture, logits, open, tokens};
use regex_lite::Regex;

/// RWKV, scans, delta rules, experts, layers that share weights, two streams.
const KINDS: [&str; 6] =
    ["rwkv7-bf16/model.pth", "mamba3-a", "gated_deltanet-c", "qwen3_5_moe-a", "zamba2-b", "zaya-a"];

/// The trained model of the repository with its weights as f32.
fn exact(folder: &Path) -> PathBuf {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    let demo = BrkFile::open(&demo).expect("the demo model");
    let path = folder.join("exact.brk");
    let target = Target::new(&path, brk::KIND, NO_INPUTS);
    let tokenizer = demo.tokenizer_blob().expect("a tokenizer").to_vec();
    let mut writer = BrkWriter::create(&target, demo.meta().clone(), tokenizer).expect("room");
    for info in demo.tensors() {
        let tensor = demo.require(&info.name).expect("a tensor");
        let written = match info.tile_layout() {
            None => writer.plain(&info.name, &info.shape, tensor.as_f32().expect("plain")),
            Some(layout) => {
                let decode = |rows: std::ops::Range<usize>, out: &mut Vec<f32>| {
                    for row in rows {
                        let at = out.len();
                        out.resize(at + layout.cols, 0.0);
                        decode_row(&layout, &tensor.bytes, row, &mut out[at..]);
                    }
                    Ok(())
                };
                writer.matrix(&info.name, layout.rows, layout.cols, DType::F32, 0, decode)
            }
        };
        written.expect("room");
    }
    writer.finish().expect("room");
    path
}

fn options(budget: Budget) -> PlanOptions {
    PlanOptions { budget, formats: ConvertOptions::new(DType::Int4), calibration: None, threads: 2 }
}

/// For a model without a tokenizer.
fn of_tokens(source: &Path, budget: Budget) -> PlanOptions {
    let text = Text::Tokens(tokens(open(source, Isa::detect()).n_vocab()));
    let calibration = Some(Calibration { method: Method::Scales, text });
    // One thread: these models are too small for two.
    PlanOptions { calibration, threads: 1, ..options(budget) }
}

fn planned(source: &Path, options: &PlanOptions) -> Result<Plan, QuantizeError> {
    plan(source, options, &mut |_| ControlFlow::Continue(()))
}

/// Writes `source` with these formats.
fn written(
    source: &Path,
    target: &Path,
    formats: ConvertOptions,
) -> Result<Summary, QuantizeError> {
    let recipe = formats.formats();
    let inputs = Vec::new();
    let options = Options { formats, calibration: None, imatrix: None, threads: 2, inputs, recipe };
    requantize(source, target, &options, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn budgets_are_kept_and_recipes_repeat_them() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = exact(temp.path());
    let target = temp.path().join("target.brk");
    let most = 5.8;
    let mut base = options(Budget::Bits(most));
    base.formats.overrides.push((Regex::new("^head$").expect("a pattern"), DType::Int8));
    let made = planned(&source, &base).expect("it is possible");
    let bits = made.bits_per_weight;
    assert!(bits <= most && bits > most - 0.1, "{bits}");
    let head = made.chosen.iter().find(|chosen| chosen.part == "head").expect("a head");
    assert_eq!(head.dtype, DType::Int8, "as the override says");
    let kinds = |dtype: DType| made.chosen.iter().filter(|chosen| chosen.dtype == dtype).count();
    assert!(kinds(DType::Int4) > 0 && kinds(DType::Int5) + kinds(DType::Int6) > 0);
    let formats = made.apply(&base.formats).expect("a recipe");
    let summary = written(&source, &target, formats).expect("room");
    assert!((summary.bits_per_weight - made.bits_per_weight).abs() < 1e-9);
    assert!(summary.target_bytes <= made.bytes, "{} {}", summary.target_bytes, made.bytes);
    let bytes = std::fs::read(&target).expect("a file");
    // The recipe alone gives the same bytes.
    let recipe = Recipe::parse(Path::new("x"), made.recipe().as_bytes()).expect("a recipe");
    let again = ConvertOptions { recipe: Some(recipe), ..ConvertOptions::new(DType::Int4) };
    let copy = temp.path().join("copy.brk");
    written(&source, &copy, again).expect("room");
    assert!(std::fs::read(&copy).expect("a file") == bytes, "other bytes");
    let provenance = BrkFile::open(&copy).expect("a file").meta().provenance.recipe.clone();
    assert!(provenance.contains("--override '^head$=int8'"), "{provenance}");

    // The expectation comes true on a text that nothing was fitted to.
    if let Some(text) = fixture("data/heldout.txt") {
        let found = divergence(&source, &target, &text, 2048);
        println!("expected {:.3e}, found {found:.3e}", made.divergence);
        assert!((made.divergence / found - 1.0).abs() < 0.25, "{} {found}", made.divergence);
    }
}

/// Mean KL over the first `n` tokens of a text.
fn divergence(exact: &Path, other: &Path, text: &Path, n: usize) -> f64 {
    let exact = open(exact, Isa::detect());
    let text = std::fs::read(text).expect("a text");
    let ids = exact.tokenizer().expect("a tokenizer").encode(&text[..8 * n]).expect("tokens");
    let (ids, n_vocab) = (&ids[..n], exact.n_vocab());
    let [ours, theirs] = [&exact, &open(other, Isa::detect())].map(|m| logits(m, ids, 64, 2));
    let rows = ours.chunks_exact(n_vocab).zip(theirs.chunks_exact(n_vocab));
    let nats = rows.map(|(a, b)| LogProbs::new(a).divergence_from(&LogProbs::new(b)));
    nats.sum::<f64>() / n as f64
}

#[test]
fn what_cannot_be_is_told_with_what_can() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("in the repository");
    let source = converted(&source, temp.path(), DType::F32);
    let refused = |budget| match planned(&source, &of_tokens(&source, budget)) {
        Err(QuantizeError::Budget { least, .. }) => least,
        other => panic!("{other:?}"),
    };
    let least = refused(Budget::Bits(3.0));
    let bits: f64 = least.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    let wish = |budget| planned(&source, &of_tokens(&source, budget)).expect("as it was told");
    let smallest = wish(Budget::Bits(bits));
    assert!(smallest.bits_per_weight <= bits && smallest.bits_per_weight > bits - 0.01, "{least}");
    let least = refused(Budget::Bytes(1_000));
    let bytes: u64 = least.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    assert_eq!(wish(Budget::Bytes(bytes)).bits_per_weight, smallest.bits_per_weight);
    refused(Budget::Divergence(1e-12));

    // Half-way between the smallest file and that with all weights as f32.
    let most = (bytes + std::fs::metadata(&source).expect("a file").len()) / 2;
    let made = wish(Budget::Bytes(most));
    assert!(made.bits_per_weight > bits);
    // The fewest bits for a KL between.
    let nats = 0.3 * smallest.divergence;
    let few = wish(Budget::Divergence(nats));
    assert!(few.divergence <= nats && few.divergence > 0.5 * nats, "{few:?}");
    assert!(few.bits_per_weight > smallest.bits_per_weight, "{few:?}");

    let target = temp.path().join("target.brk");
    let formats = made.apply(&ConvertOptions::new(DType::Int4)).expect("a recipe");
    let summary = written(&source, &target, formats).expect("room");
    assert!(summary.target_bytes <= made.bytes && made.bytes <= most, "{made:?}");
}

#[test]
fn what_is_refused() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = exact(temp.path());
    let target = temp.path().join("target.brk");
    for (text, expected) in [
        ("^head$=int6\n^layers\\.9\\.=int4", "line 2: the model has no matrix"),
        ("head=int6\nhead|embed=int4", "line 2: line 1 is for the matrix head too"),
    ] {
        let recipe = Recipe::parse(Path::new("r"), text.as_bytes()).expect("lines");
        let formats = ConvertOptions { recipe: Some(recipe), ..ConvertOptions::new(DType::Int4) };
        let error = written(&source, &target, formats).expect_err("another model's").to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!target.exists());
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk");
    let rounded = planned(&demo, &options(Budget::Bits(5.0)));
    assert!(matches!(rounded, Err(QuantizeError::Rounded { .. })), "{rounded:?}");
    let mut left = 20;
    let stopped = plan(&source, &options(Budget::Bits(5.0)), &mut |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let cancelled = QuantizeError::Format(FormatError::Cancelled {
        path: source.clone(),
        what: "planning stopped, nothing was written",
    });
    assert_eq!(stopped.expect_err("stopped").to_string(), cancelled.to_string());
}

// That layers of every architecture give the logits that plans are made of: `layerwise.rs`.
#[test]
fn all_kinds_of_models_have_a_plan() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for name in KINDS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let exact = converted(&source, temp.path(), DType::F32);
        // So much that every format is possible: these matrices are mostly padding.
        let wish = of_tokens(&exact, Budget::Bits(30.0));
        let made = planned(&exact, &wish).unwrap_or_else(|error| panic!("{name}: {error}"));
        let file = BrkFile::open(&exact).expect("a file");
        let matrices = file.tensors().iter().filter(|info| info.tile_layout().is_some()).count();
        let names = made.chosen.iter().map(|chosen| chosen.names.len()).sum::<usize>();
        assert_eq!(names, matrices, "{name}: each matrix once");
        made.apply(&ConvertOptions::new(DType::Int4)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
