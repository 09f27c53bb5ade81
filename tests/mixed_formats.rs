//! A number format for each matrix: whoever reads the same input as another matrix need not have
//! its format. Every architecture runs with formats that take turns from tensor to tensor.

use std::ops::ControlFlow;

use brooklet::{EngineOptions, Model, Session};
use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::convert::{ConvertOptions, convert};
use brooklet_tests::{MODELS, converted, fixture, some_tokens};
use regex_lite::Regex;

/// Of all forms of activations that kernels read.
const FORMATS: [DType; 5] = [DType::Int8, DType::F16, DType::Bf16, DType::Fp8E4m3, DType::Lmul];

#[test]
fn neighbours_have_formats_of_their_own() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for (number, name) in MODELS.iter().enumerate() {
        let Some(source) = fixture(&format!("fixtures/{name}")) else { continue };
        let plain = BrkFile::open(&converted(&source, temp.path(), DType::F16)).expect("a file");
        let matrices = plain.tensors().iter().filter(|tensor| tensor.is_matrix());
        let names: Vec<&str> = matrices.map(|tensor| tensor.name.as_str()).collect();
        for first in 0..FORMATS.len() {
            let mut options = ConvertOptions::new(DType::F16);
            options.overrides = (names.iter().zip(first..))
                .map(|(name, i)| {
                    let pattern = format!("^{}$", name.replace('.', r"\."));
                    (Regex::new(&pattern).expect("a pattern"), FORMATS[i % FORMATS.len()])
                })
                .collect();
            let target = temp.path().join(format!("mixed-{number}-{first}.brk"));
            convert(&source, &target, &options, &mut |_| ControlFlow::Continue(()))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let model = Model::open(&target).unwrap_or_else(|error| panic!("{name}: {error}"));
            let tokens = some_tokens(&model, 5, 0);
            let mut session = Session::new(&model, &EngineOptions::default());
            session.prefill(&tokens).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(session.logits().iter().all(|logit| logit.is_finite()), "{name}");
        }
    }
}
