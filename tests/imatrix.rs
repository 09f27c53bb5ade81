//! llama.cpp's imatrix files: the columns that they call important are rounded better, the names
//! are those of GGUF files, and a file of another model is an error.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::checkpoint::Imatrix;
use brooklet_formats::convert::ConvertOptions;
use brooklet_formats::quant::decode_row;
use brooklet_quantize::{Options, QuantizeError, Summary, requantize};
use brooklet_tests::{converted, fixture};

/// A file of the old kind.
fn write_dat(path: &Path, entries: &[(String, Vec<f32>)]) {
    let mut bytes = (entries.len() as u32).to_le_bytes().to_vec();
    for (name, values) in entries {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(7u32.to_le_bytes());
        bytes.extend((values.len() as u32).to_le_bytes());
        values.iter().for_each(|value| bytes.extend((7.0 * value).to_le_bytes()));
    }
    fs::write(path, bytes).expect("a file");
}

fn run(source: &Path, target: &Path, imatrix: Option<&Path>) -> Result<Summary, QuantizeError> {
    let options = Options {
        // Errors are measured against the weights as they were.
        formats: ConvertOptions { equalize: false, ..ConvertOptions::new(DType::Int4) },
        calibration: None,
        imatrix: imatrix.map(Imatrix::open).transpose()?,
        threads: 1,
        inputs: Vec::new(),
        recipe: "test".to_owned(),
    };
    requantize(source, target, &options, &mut |_| ControlFlow::Continue(()))
}

/// The values of a matrix.
fn rows(file: &BrkFile, name: &str) -> Vec<Vec<f32>> {
    let tensor = file.require(name).expect("a tensor");
    let layout = tensor.info.tile_layout().expect("a matrix");
    let row = |row| {
        let mut decoded = vec![0.0; layout.cols];
        decode_row(&layout, &tensor.bytes, row, &mut decoded);
        decoded
    };
    (0..layout.rows).map(row).collect()
}

#[test]
fn important_columns_are_rounded_better() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for (name, ours, theirs, n_expert) in [
        ("rwkv7-bf16/model.pth", "layers.1.ffn.key", "blk.1.channel_mix_key.weight", 1),
        ("mamba2-a", "layers.0.in_proj.xbc", "blk.0.ssm_in.weight", 1),
        ("lfm2-a", "layers.0.conv.in_b", "blk.0.shortconv.in_proj.weight", 1),
        ("lfm2_moe-a", "layers.1.experts.gate", "blk.1.ffn_gate_exps.weight", 5),
    ] {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let exact = converted(&source, temp.path(), DType::F32);
        let exact_file = BrkFile::open(&exact).expect("a file");
        let layout = exact_file.require(ours).expect(ours).info.tile_layout().expect("a matrix");
        let important = |column: usize| column % 32 == 3;
        let weights: Vec<f32> =
            (0..layout.cols).map(|c| if important(c) { 1.0 } else { 1e-6 }).collect();
        let weights = weights.repeat(n_expert);
        let (dat, plain, fitted) =
            (temp.path().join("dat"), temp.path().join("a.brk"), temp.path().join("b.brk"));
        write_dat(&dat, &[(theirs.to_owned(), weights), ("blk.9.other".to_owned(), vec![1.0])]);
        assert_eq!(run(&exact, &plain, None).expect("rounded").weighted, 0);
        // What one matrix of theirs is made of can be several of ours.
        assert!(run(&exact, &fitted, Some(&dat)).expect("rounded").weighted > 0);
        let files = [&plain, &fitted].map(|path| BrkFile::open(path).expect("a file"));
        let values = rows(&exact_file, ours);
        let errors = files.each_ref().map(|file| {
            let mut sums = [0.0; 2];
            for (row, rounded) in values.iter().zip(rows(file, ours)) {
                for (c, (exact, rounded)) in row.iter().zip(rounded).enumerate() {
                    sums[usize::from(important(c))] += f64::from(exact - rounded).powi(2);
                }
            }
            sums
        });
        let [[_, plain_important], [_, fitted_important]] = errors;
        assert!(fitted_important < 0.6 * plain_important, "{name}: {errors:?}");
        let head = files.each_ref().map(|file| rows(file, "embed"));
        assert_eq!(head[0], head[1], "{name}: the file says nothing of it");
    }
}

#[test]
fn a_file_of_another_model_is_an_error() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("one of the repository");
    let exact = converted(&source, temp.path(), DType::F32);
    let (dat, target) = (temp.path().join("dat"), temp.path().join("a.brk"));
    let failed = |entries: &[(&str, usize)]| {
        let entries: Vec<_> =
            entries.iter().map(|(n, k)| ((*n).to_owned(), vec![1.0; *k])).collect();
        write_dat(&dat, &entries);
        let error = run(&exact, &target, Some(&dat)).expect_err("another model");
        assert!(!target.exists());
        error.to_string()
    };
    let error = failed(&[("blk.0.ffn_up.weight", 64)]);
    assert!(error.contains("RWKV-7") && error.contains("blk.0.ffn_up.weight"), "{error}");
    let error = failed(&[("blk.0.channel_mix_key.weight", 7)]);
    assert!(error.contains("columns") && error.contains("channel_mix_key"), "{error}");
    // As of experts, which it has not.
    let cols =
        BrkFile::open(&exact).expect("a file").require("layers.0.ffn.key").expect("a matrix");
    let cols = cols.info.tile_layout().expect("a matrix").cols;
    let error = failed(&[("blk.0.channel_mix_key.weight", 7 * cols)]);
    assert!(error.contains("columns"), "{error}");
}
