//! Mambas for longer texts: steps below the least one are left out, and those are as many as the
//! texts are longer.

use std::ops::ControlFlow;
use std::path::Path;

use brooklet::{EngineOptions, Isa, Session};
use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_quantize::{QuantizeError, Stretch, Stretched, Text, stretch};
use brooklet_tests::write::edited;
use brooklet_tests::{bits, converted, fixture, logits, open, some_tokens, values};

const MAMBAS: [&str; 2] = ["fixtures/mamba-a", "fixtures/mamba2-a"];

/// Asks for texts `times` as long; every channel counts as global.
fn stretched(source: &Path, target: &Path, times: usize) -> Result<Stretched, QuantizeError> {
    let model = open(source, Isa::detect());
    let text = Text::Tokens(some_tokens(&model, 5000, 3));
    let (trained, inputs) = (64, Vec::new());
    let length = trained * times;
    let asked = Stretch { trained, length, threshold: 1e-300, text, force: false, inputs };
    stretch(source, target, &asked, &mut |_| ControlFlow::Continue(()))
}

/// The file once more, with these least steps in every layer.
fn with_least(source: &Path, target: &Path, least: f32) {
    let file = BrkFile::open(source).expect("a model");
    let beside = if file.meta().architecture == "mamba1" { "dt_proj.bias" } else { "dt_bias" };
    let info = file.tensors().iter().find(|info| info.name.ends_with(beside));
    let n = info.expect("the bias of steps").shape[0];
    edited(source, target, &[], &[(beside, "dt_least", vec![least; n])]);
}

#[test]
fn a_step_below_the_least_leaves_the_state_alone() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for name in MAMBAS {
        let source = fixture(name).expect("one of the repository");
        let source = converted(&source, temp.path(), DType::F32);
        let target = temp.path().join("least.brk");
        let ids = some_tokens(&open(&source, Isa::detect()), 40, 3);
        let plain = logits(&open(&source, Isa::detect()), &ids, 8, 1);
        with_least(&source, &target, 0.0);
        assert_eq!(bits(&logits(&open(&target, Isa::detect()), &ids, 8, 1)), bits(&plain));
        std::fs::remove_file(&target).expect("it is there");
        with_least(&source, &target, f32::MAX);
        let model = open(&target, Isa::detect());
        let mut session = Session::new(&model, &EngineOptions::new().threads(1));
        session.prefill(&ids).expect("tokens");
        for (i, slot) in model.state_layout().slots().iter().enumerate() {
            let is_empty = session.state().get(i).iter().all(|x| *x == 0.0);
            assert_eq!(is_empty, slot.is_matrix, "{name}: {}", slot.name);
        }
        assert!(values(session.state()).iter().any(|x| *x != 0.0));
        std::fs::remove_file(&target).expect("it is there");
    }
}

#[test]
fn longer_texts_leave_more_out() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    for name in MAMBAS {
        let source = fixture(name).expect("one of the repository");
        let source = converted(&source, temp.path(), DType::F32);
        let mut before = 0.0;
        for times in [2, 8] {
            let target = temp.path().join(format!("{times}.brk"));
            let found = stretched(&source, &target, times).expect(name);
            assert_eq!(found.global, found.channels, "{name}");
            assert!(found.left_out > before && found.left_out < 1.0, "{name}: {found:?}");
            // Fewer than half of the tokens are half of all steps, the largest come first.
            assert!(found.left_out >= 1.0 - 1.0 / times as f64, "{name}: {found:?}");
            before = found.left_out;
            let file = BrkFile::open(&target).expect("a model");
            let least = file.tensors().iter().filter(|info| info.name.ends_with("dt_least"));
            assert_eq!(least.count(), open(&source, Isa::detect()).n_layer(), "{name}");
            assert!(file.meta().provenance.recipe.contains("stretch 64 to"), "{name}");
            let model = open(&target, Isa::detect());
            let ids = some_tokens(&model, 40, 3);
            // The same bits however tokens come.
            let expected = bits(&logits(&model, &ids, 40, 1));
            assert_eq!(bits(&logits(&model, &ids, 3, 2)), expected, "{name}");
            // A second time replaces the first.
            let again = temp.path().join(format!("{times}-again.brk"));
            stretched(&target, &again, times).expect(name);
            std::fs::remove_file(&target).expect("it is there");
            std::fs::remove_file(&again).expect("it is there");
        }
    }
}

#[test]
fn what_is_no_mamba_is_refused() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let source = fixture("fixtures/rwkv7-bf16/model.pth").expect("one of the repository");
    let source = converted(&source, temp.path(), DType::F32);
    let error = stretched(&source, &temp.path().join("out.brk"), 2).expect_err("RWKV");
    assert!(matches!(error, QuantizeError::NoMamba { .. }), "{error}");
    // Onto itself.
    let mamba = converted(&fixture(MAMBAS[1]).expect("there"), temp.path(), DType::F32);
    let before = std::fs::read(&mamba).expect("a file");
    assert!(stretched(&mamba, &mamba, 2).is_err());
    assert!(std::fs::read(&mamba).expect("a file") == before);
}
