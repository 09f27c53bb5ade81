//! LSTM and GRU language models against torch's own cells: logits of every position. The script
//! beside the fixtures makes them.

use std::path::Path;

use brooklet::{DType, Isa};
use brooklet_formats::convert::{ConvertOptions, convert};
use brooklet_tests::rwkv::{Tensor, Weights};
use brooklet_tests::{bits, check_logits, converted, fixture, logits, open, some_tokens, write};

/// An embedding narrower than the cells.
#[test]
fn lstm() {
    check_logits("lstm-a", ".", "logits_f64.npy", 1e-5, |_, _, _| {});
}

/// An embedding wider than the cells.
#[test]
fn gru() {
    check_logits("gru-a", ".", "logits_f64.npy", 1e-5, |_, _, _| {});
}

/// The names of torch's example, one matrix for embedding and head, no biases.
#[test]
fn gru_as_the_example_names_it() {
    check_logits("gru-b", ".", "logits_f64.npy", 1e-5, |_, _, _| {});
}

/// Converts the file alone as an LSTM, or says why not.
fn as_lstm(file: &Path, target: &Path) -> Result<(), String> {
    let options =
        ConvertOptions { assume: Some("lstm".to_owned()), ..ConvertOptions::new(DType::F32) };
    convert(file, target, &options, &mut |_| std::ops::ControlFlow::Continue(()))
        .map(drop)
        .map_err(|error| error.to_string())
}

/// The example saves no configuration.
#[test]
fn sizes_are_those_of_the_tensors() {
    let folder = fixture("fixtures/lstm-a").expect("it is in the repository");
    let temp = tempfile::tempdir().expect("a temporary folder");
    let (file, target) = (temp.path().join("model.safetensors"), temp.path().join("model.brk"));
    std::fs::copy(folder.join("model.safetensors"), &file).expect("copied");
    as_lstm(&file, &target).expect("an LSTM");
    let with = open(&converted(&folder, temp.path(), DType::F32), Isa::detect());
    let without = open(&target, Isa::detect());
    let tokens = some_tokens(&with, 20, 1);
    assert_eq!(bits(&logits(&with, &tokens, 8, 1)), bits(&logits(&without, &tokens, 8, 1)));
}

/// Networks that read backwards, or that project what cells give, are refused by a tensor's name.
#[test]
fn other_networks_are_refused() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let (file, target) = (temp.path().join("model.safetensors"), temp.path().join("model.brk"));
    let tensor = |shape: &[usize]| Tensor {
        shape: shape.to_vec(),
        values: vec![0.5; shape.iter().product()],
    };
    let plain: Weights = [
        ("embedding.weight", tensor(&[5, 2])),
        ("rnn.weight_ih_l0", tensor(&[12, 2])),
        ("rnn.weight_hh_l0", tensor(&[12, 3])),
        ("head.weight", tensor(&[5, 3])),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .into();
    write::safetensors(&file, &plain);
    as_lstm(&file, &target).expect("an LSTM");
    for (name, shape) in [("weight_ih_l0_reverse", [12, 2]), ("weight_hr_l0", [2, 3])] {
        let mut other = plain.clone();
        other.insert(format!("rnn.{name}"), tensor(&shape));
        write::safetensors(&file, &other);
        let error = as_lstm(&file, &target).expect_err("no LSTM of ours");
        assert!(error.contains(name), "{error}");
    }
    // A GRU has three gates.
    let mut other = plain.clone();
    other.insert("rnn.weight_hh_l0".to_owned(), tensor(&[9, 3]));
    write::safetensors(&file, &other);
    let error = as_lstm(&file, &target).expect_err("no LSTM");
    assert!(error.contains("rnn.weight_hh_l0"), "{error}");
}
