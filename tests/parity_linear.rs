//! Linear attention and its relatives against flash-linear-attention: logits of every
//! position. Each fixture's README states its tolerance.

use std::path::Path;

use brooklet::Isa;
use brooklet_formats::DType;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_tests::rwkv::{Tensor, Weights};
use brooklet_tests::write::safetensors;
use brooklet_tests::{check_logits, converted, fixture, logits, max_difference, open, read_json};

/// Compares the logits of the fixture `folder`.
fn check(folder: &str, tolerance: f32) {
    check_logits(folder, ".", "logits_f64.npy", tolerance, |_, _, _| {});
}

#[test]
fn gla() {
    check("gla-a", 1.1e-4);
}

#[test]
fn xlstm() {
    check("xlstm-a", 1.2e-4);
}

#[test]
fn retnet() {
    check("retnet-a", 1.4e-4);
}

#[test]
fn lightnet() {
    check("lightnet-a", 1e-4);
}

#[test]
fn gsa() {
    check("gsa-a", 1e-4);
}

#[test]
fn hgrn() {
    check("hgrn-a", 1e-4);
}

#[test]
fn rwkv6() {
    check("rwkv6_fla-a", 1e-4);
}

#[test]
fn mom() {
    check("mom-a", 1.5e-4);
}

#[test]
fn hgrn2() {
    check("hgrn2-a", 1e-4);
}

#[test]
fn rodimus() {
    check("rodimus-a", 1e-4);
}

/// Logits of a folder with `weights` and the configuration `config`.
fn logits_of(weights: &Weights, config: &serde_json::Value) -> Vec<f32> {
    let temp = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(temp.path().join("config.json"), config.to_string()).expect("a file");
    safetensors(&temp.path().join("model.safetensors"), weights);
    let file = converted(temp.path(), temp.path(), DType::F32);
    let tokens: Vec<u32> = (0..40).map(|i| i * 53 % 272).collect();
    logits(&open(&file, Isa::detect()), &tokens, 16, 2)
}

/// All tensors of the fixture `folder`, and its configuration.
fn read(folder: &Path) -> (Weights, serde_json::Value) {
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    let tensors = checkpoint.tensors().iter().map(|tensor| {
        let values = checkpoint.read(&tensor.name).expect("values");
        (tensor.name.clone(), Tensor { shape: tensor.shape.clone(), values })
    });
    (tensors.collect(), read_json(&folder.join("config.json")))
}

/// Blocks that are a mixer alone are those of Rodimus+ whose networks say nothing. A window that
/// reaches beyond the text is none.
#[test]
fn rodimus_blocks_and_windows() {
    let Some(folder) = fixture("fixtures/rodimus-a") else { return };
    let (mut weights, mut config) = read(&folder);
    config["ska_attn"]["window_size"] = 1000.into();
    let wide = logits_of(&weights, &config);
    config["ska_attn"]["window_size"] = serde_json::Value::Null;
    assert_eq!(wide, logits_of(&weights, &config));
    config["ska_attn"]["window_size"] = 3.into();
    assert_ne!(wide, logits_of(&weights, &config));

    let is_down = |name: &str| name.ends_with("mlp.down_proj.weight");
    let silent = weights.iter_mut().filter(|(name, _)| is_down(name));
    silent.for_each(|(_, tensor)| tensor.values.fill(0.0));
    let plus = logits_of(&weights, &config);
    weights.retain(|name, _| !name.contains("ska_attn") && !name.contains("mlp"));
    config["block_type"] = "rodimus".into();
    config["ska_attn"] = serde_json::Value::Null;
    assert!(max_difference(&plus, &logits_of(&weights, &config)) < 1e-5);
}
