//! Mixtures of experts: that experts which nobody chose are not read, and that a checkpoint with a
//! tensor for each expert and one with a tensor for all become the same file.

use std::ops::ControlFlow;
use std::path::Path;

use brooklet::{DType, Isa};
use brooklet_formats::FormatError;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_formats::convert::{ConvertOptions, Summary, convert};
use brooklet_tests::rwkv::{Tensor, Weights};
use brooklet_tests::write::safetensors;
use brooklet_tests::{bits, converted, fixture, logits, open};

const FIXTURE: &str = "fixtures/qwen3_5_moe-a";
const N_EXPERT: usize = 5;
const N_USED: usize = 2;

/// The file at `path` with NaN for every scale of an expert.
fn poisoned(path: &Path, layer: usize, expert: usize) -> Vec<u8> {
    let file = BrkFile::open(path).expect("a model");
    let mut bytes = std::fs::read(path).expect("a model");
    for part in ["gate", "up", "down"] {
        let name = format!("layers.{layer}.experts.{part}");
        let info = file.require(&name).expect("experts").info;
        assert_eq!(info.shape[0] % (16 * N_EXPERT), 0, "experts begin on tiles");
        let len = info.len as usize / N_EXPERT;
        bytes[info.offset as usize + expert * len..][..len].fill(0x7e);
    }
    bytes
}

/// Of each layer as many experts are read as a token has, and the others' bytes are not: not even
/// to be multiplied by nothing.
#[test]
fn only_chosen_experts_are_read() {
    let source = fixture(FIXTURE).expect("it lies here");
    let temp = tempfile::tempdir().expect("a temporary folder");
    let path = converted(&source, temp.path(), DType::Int8);
    let sound = open(&path, Isa::detect());
    for token in [3, 77, 200] {
        let expected = logits(&sound, &[token], 1, 2);
        for layer in 0..sound.n_layer() {
            let is_read = |expert: &usize| {
                let other = temp.path().join(format!("{token}-{layer}-{expert}.brk"));
                std::fs::write(&other, poisoned(&path, layer, *expert)).expect("a file");
                let found = logits(&open(&other, Isa::detect()), &[token], 1, 2);
                if found.iter().all(|v| v.is_finite()) {
                    assert_eq!(bits(&found), bits(&expected), "{layer} {expert}");
                    return false;
                }
                true
            };
            let read: Vec<usize> = (0..N_EXPERT).filter(is_read).collect();
            println!("token {token}, layer {layer}: {read:?}");
            assert_eq!(read.len(), N_USED, "token {token}, layer {layer}");
        }
    }
}

/// The fixture's tensors, changed, beside its configuration.
fn changed(change: impl FnOnce(&mut Weights)) -> tempfile::TempDir {
    let source = fixture(FIXTURE).expect("it lies here");
    let checkpoint = Checkpoint::open(&source).expect("a checkpoint");
    let mut weights: Weights = Weights::new();
    for tensor in checkpoint.tensors() {
        let values = checkpoint.read(&tensor.name).expect("its values");
        weights.insert(tensor.name.clone(), Tensor { shape: tensor.shape.clone(), values });
    }
    change(&mut weights);
    let temp = tempfile::tempdir().expect("a temporary folder");
    std::fs::copy(source.join("config.json"), temp.path().join("config.json")).expect("a copy");
    safetensors(&temp.path().join("model.safetensors"), &weights);
    temp
}

fn conversion(source: &Path) -> Result<Summary, FormatError> {
    let options = ConvertOptions::new(DType::Int8);
    let target = source.join("model.brk");
    convert(source, &target, &options, &mut |_| ControlFlow::Continue(()))
}

/// Stacks the experts' tensors, their gates above their projections up.
fn pack(weights: &mut Weights, n_layer: usize) {
    for layer in 0..n_layer {
        let at = format!("model.layers.{layer}.mlp.experts");
        let mut packed = |name: &str, parts: &[&str]| {
            let (mut cols, mut values) = (0, Vec::new());
            for (expert, part) in (0..N_EXPERT).flat_map(|e| parts.iter().map(move |p| (e, p))) {
                let part = weights.remove(&format!("{at}.{expert}.{part}.weight"));
                let part = part.expect("an expert's tensor");
                cols = part.shape[1];
                values.extend(part.values);
            }
            let shape = vec![N_EXPERT, values.len() / cols / N_EXPERT, cols];
            weights.insert(format!("{at}.{name}"), Tensor { shape, values });
        };
        packed("gate_up_proj", &["gate_proj", "up_proj"]);
        packed("down_proj", &["down_proj"]);
    }
}

#[test]
fn packed_experts_are_the_same_model() {
    let (single, packed) = (changed(|_| {}), changed(|weights| pack(weights, 3)));
    let fingerprint = |folder: &Path| {
        conversion(folder).expect("a conversion");
        BrkFile::open(&folder.join("model.brk")).expect("a model").fingerprint()
    };
    assert_eq!(fingerprint(single.path()), fingerprint(packed.path()));
}

#[test]
fn experts_that_do_not_fit_are_named() {
    const ONE: &str = "model.layers.1.mlp.experts.3.up_proj.weight";
    let refused = |change: &dyn Fn(&mut Weights), expected: &str| {
        let error = conversion(changed(change).path()).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&|weights| drop(weights.remove(ONE)), ONE);
    let wider = Tensor { shape: vec![40, 64], values: vec![0.5; 40 * 64] };
    refused(&|weights| drop(weights.insert(ONE.to_owned(), wider.clone())), ONE);
    let sixth = ONE.replace(".3.", ".5.");
    refused(&|weights| drop(weights.insert(sixth.clone(), wider.clone())), &sixth);
    let router = "model.layers.1.mlp.gate.weight";
    let short = Tensor { shape: vec![4, 64], values: vec![0.5; 4 * 64] };
    refused(&|weights| drop(weights.insert(router.to_owned(), short.clone())), router);
}
