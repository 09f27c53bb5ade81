//! Calibrated quantization of whole files: every architecture, the order of layers, the same bytes
//! for any number of threads and however often it was stopped.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use brooklet::Isa;
use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::convert::ConvertOptions;
use brooklet_quantize::{
    BUILT_IN, Calibration, Method, Options, QuantizeError, Summary, Text, requantize,
};
use brooklet_tests::{MODELS, converted, fixture, logits, open, shared, tokens};
use regex_lite::Regex;

fn options(text: Text, threads: usize) -> Options {
    let formats = ConvertOptions::new(DType::Int4);
    let calibration = Some(Calibration { method: Method::Gptq, text });
    let (inputs, recipe) = (Vec::new(), "test".to_owned());
    Options { formats, calibration, imatrix: None, threads, inputs, recipe }
}

fn run(source: &Path, target: &Path, options: &Options) -> Result<Summary, QuantizeError> {
    requantize(source, target, options, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn every_architecture_is_calibrated() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let (mut better, mut all) = (0, 0);
    for name in MODELS {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let exact = converted(&source, temp.path(), DType::F32);
        let n_vocab = open(&exact, Isa::detect()).n_vocab();
        let target = temp.path().join("calibrated.brk");
        let ids = tokens(n_vocab);
        let summary = run(&exact, &target, &options(Text::Tokens(ids.clone()), 2));
        let summary = summary.unwrap_or_else(|error| panic!("{name}: {error}"));
        let file = BrkFile::open(&target).expect("a whole file");
        file.verify(|_, _| ControlFlow::Continue(())).expect("a sound file");
        let calibrated: HashSet<&str> = summary.outcomes.iter().map(|o| &*o.name).collect();
        for info in file.tensors().iter().filter(|info| info.dtype == DType::Int4) {
            assert!(calibrated.contains(&*info.name), "{name}: {} is left out", info.name);
        }
        assert!(!calibrated.is_empty(), "{name}");
        for outcome in &summary.outcomes {
            assert!(outcome.errors[1] <= outcome.errors[0], "{name}: {outcome:?}");
            assert_eq!(outcome.counts.iter().sum::<usize>(), outcome.n, "{name}: {outcome:?}");
            all += outcome.n;
            better += outcome.counts[0];
        }
        // The formats are those that the converter gives.
        let plain = BrkFile::open(&converted(&source, temp.path(), DType::Int4)).expect("a file");
        let formats = |file: &BrkFile| -> Vec<(String, DType, usize)> {
            file.tensors().iter().map(|t| (t.name.clone(), t.dtype, t.group)).collect()
        };
        assert_eq!(formats(&file), formats(&plain), "{name}");
        assert_eq!(file.meta().architecture, plain.meta().architecture);
        assert!(file.meta().provenance.recipe.contains("; test"));
        let found = logits(&open(&target, Isa::detect()), &ids[..40], 16, 2);
        assert!(found.iter().all(|x| x.is_finite()), "{name}");
    }
    println!("{better} of {all} matrices are better calibrated");
    assert!(better * 10 > all * 8, "{better} of {all}");
}

#[test]
fn layers_see_what_quantized_ones_give_them() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("in the repository");
    let exact = converted(&source, temp.path(), DType::F32);
    let ids = tokens(open(&exact, Isa::detect()).n_vocab());
    let bytes = |kept: Option<&str>, name: &str| {
        let target = temp.path().join("target.brk");
        let mut options = options(Text::Tokens(ids.clone()), 2);
        let pattern = kept.map(|kept| (Regex::new(kept).expect("a pattern"), DType::F32));
        options.formats.overrides.extend(pattern);
        run(&exact, &target, &options).expect("a calibration");
        let file = BrkFile::open_with(&target, brooklet_formats::brk::OpenOptions { mmap: false });
        file.expect("a file").require(name).expect("a matrix").bytes.to_vec()
    };
    let (first, second) = ("layers.0.ffn.value", "layers.1.ffn.value");
    assert_ne!(bytes(None, second), bytes(Some(r"layers\.0\."), second));
    assert_eq!(bytes(None, first), bytes(Some(r"layers\.1\."), first));
}

#[test]
fn stopped_and_started_again_it_gives_the_same_bytes() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("in the repository");
    let exact = converted(&source, temp.path(), DType::F32);
    let ids = tokens(open(&exact, Isa::detect()).n_vocab());
    let whole = temp.path().join("whole.brk");
    run(&exact, &whole, &options(Text::Tokens(ids.clone()), 1)).expect("a calibration");
    let whole = std::fs::read(whole).expect("a file");
    let target = temp.path().join("target.brk");
    let side = temp.path().join("target.brk.unfinished");
    let (mut found, mut cut) = (Vec::new(), false);
    let options = options(Text::Tokens(ids.clone()), 3);
    // Each time it goes a little further.
    for steps in (0..).map(|i| 3 + 7 * i) {
        let mut left = steps;
        let done = requantize(&exact, &target, &options, &mut |_| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match done {
            Ok(summary) => {
                found.push(summary.resumed);
                break;
            }
            Err(error) => {
                assert!(error.to_string().contains("stopped"), "{error}");
                assert!(!target.exists() && !temp.path().join("target.brk.equal").exists());
                if side.exists() && !std::mem::replace(&mut cut, true) {
                    // As a kill would leave it.
                    let bytes = std::fs::read(&side).expect("the file beside it");
                    std::fs::write(&side, &bytes[..bytes.len() - bytes.len() / 9]).expect("room");
                }
            }
        }
    }
    assert!(cut && found[0] > 0, "nothing was taken over");
    assert_eq!(std::fs::read(&target).expect("a file"), whole);
    assert!(!side.exists());
    // Another text begins anew.
    let mut left = 30;
    let stop = &mut |_: brooklet_quantize::Progress<'_>| {
        left -= 1;
        if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    requantize(&exact, &target, &options, stop).expect_err("it was stopped");
    let other = self::options(Text::Tokens(ids[1..].to_vec()), 2);
    assert_eq!(run(&exact, &target, &other).expect("a calibration").resumed, 0);
}

#[test]
fn what_cannot_be_calibrated_is_said() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("in the repository");
    let exact = converted(&source, temp.path(), DType::F32);
    let target = temp.path().join("target.brk");
    let refused = |source: &Path, target: &Path, text: Text| {
        let error = run(source, target, &options(text, 1)).expect_err("it cannot be").to_string();
        assert!(target == source || !target.exists());
        error
    };
    let text = |ids: Vec<u32>| Text::Tokens(ids);
    let error = refused(&exact, &target, text((0..10).collect()));
    assert!(error.contains("10 tokens"), "{error}");
    let error = refused(&exact, &target, text(vec![0; 9000]));
    assert!(error.contains("says nothing"), "{error}");
    let rounded = converted(&source, temp.path(), DType::Int8);
    let error = refused(&rounded, &target, text(tokens(100)));
    assert!(error.contains("int8") && error.contains("rounded"), "{error}");
    let error = refused(&exact, &exact, text(tokens(100)));
    assert!(error.contains("must not be overwritten"), "{error}");
    let error = refused(&exact, &target, text((0..9000).collect()));
    assert!(error.contains("vocabulary"), "{error}");
    let error = refused(&exact, &target, Text::BuiltIn);
    assert!(error.contains("tokenizer") || error.contains("vocabulary"), "{error}");
}

/// Runs of so many words are no chance.
const WORDS: usize = 8;

#[test]
fn calibration_and_evaluation_have_no_text_in_common() {
    let words = |text: &str| -> Vec<String> {
        let only = |c: char| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { ' ' };
        let plain: String = text.chars().map(only).collect();
        plain.split_whitespace().map(str::to_owned).collect()
    };
    let built_in = words(BUILT_IN);
    let runs: HashSet<&[String]> = built_in.windows(WORDS).collect();
    assert!(runs.len() > 10_000);
    for name in ["heldout.txt", "wikitext2-test.txt"] {
        let path = shared().map(|shared| shared.join("data").join(name));
        let Some(text) = path.and_then(|path| std::fs::read_to_string(path).ok()) else {
            eprintln!("SKIPPED: {name} is not in ../shared");
            continue;
        };
        let other = words(&text);
        let common = other.windows(WORDS).find(|run| runs.contains(run));
        assert_eq!(common, None, "{name}");
    }
}
