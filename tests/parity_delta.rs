//! DeltaNet and its relatives against flash-linear-attention: logits of every position, and the
//! matrix state after the last. Each fixture's README states its tolerance.

use std::path::Path;

use brooklet::{Isa, Model};
use brooklet_formats::DType;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_tests::rwkv::{Tensor, Weights};
use brooklet_tests::write::safetensors;
use brooklet_tests::{check_logits, converted, fixture, logits, max_difference, open, run};

/// Compares the logits of the fixture `folder`, and its matrix states.
fn check(folder: &str, tolerance: f32) {
    check_logits(folder, ".", "logits_f64.npy", tolerance, |model, tokens, _| {
        check_state(folder, model, tokens);
    });
}

/// Theirs is (n_head, n_key, n_value), as ours is.
fn check_state(folder: &str, model: &Model, tokens: &[u32]) {
    let expected = fixture(&format!("fixtures/{folder}/state.safetensors")).expect("it lies there");
    let expected = Checkpoint::open(&expected).expect("state.safetensors");
    let (_, state) = run(model, tokens, 24, 2);
    let slots = state.layout().slots().iter().enumerate();
    let mut seen = 0;
    for (i, slot) in slots.filter(|(_, slot)| slot.name == "delta") {
        let name = format!("layer.{}.recurrent_state", slot.layer);
        let difference = max_difference(&state.get(i), &expected.read(&name).expect("the tensor"));
        println!("  {name} {difference:.2e}");
        assert!(difference < 1e-4, "{folder} {name}: {difference}");
        seen += 1;
    }
    assert_eq!(seen, model.n_layer());
}

#[test]
fn gated_deltanet() {
    check("gated_deltanet-c", 1e-4);
    check("gated_deltanet-a", 1.4e-4);
}

#[test]
fn deltanet() {
    check("delta_net-a", 1.4e-4);
    check("delta_net-c", 1.4e-4);
}

#[test]
fn kda() {
    check("kda-a", 1e-4);
}

#[test]
fn gated_deltaproduct() {
    check("gated_deltaproduct-a", 2.9e-4);
}

#[test]
fn comba() {
    check("comba-a", 1.8e-4);
}

/// Theirs of a head are two matrices, (n_head, n_key, n_key) and (n_head, n_key, n_value), which
/// stand one below the other in ours.
#[test]
fn mesa_net() {
    check_logits("mesa_net-a", ".", "logits_f64.npy", 4.3e-4, |model, tokens, _| {
        let expected = fixture("fixtures/mesa_net-a/state.safetensors").expect("it lies there");
        let expected = Checkpoint::open(&expected).expect("state.safetensors");
        let (_, state) = run(model, tokens, 24, 2);
        let slots = state.layout().slots().iter().enumerate();
        for (i, slot) in slots.filter(|(_, slot)| slot.name == "mesa") {
            let read = |i: usize| {
                let name = format!("layer.{}.recurrent_state.{i}", slot.layer);
                expected.read(&name).expect("the tensor")
            };
            let (of_keys, of_values) = (read(0), read(1));
            let each = of_keys.len() / slot.shape[0];
            let heads = of_keys.chunks(each).zip(of_values.chunks(each));
            let all: Vec<f32> = heads.flat_map(|(a, b)| [a, b].concat()).collect();
            assert!(max_difference(&state.get(i), &all) < 1e-4, "layer {}", slot.layer);
        }
    });
}

/// A token that begins a text, beside the bits.
const BEGIN: u32 = 2;

/// A DeltaNet of one layer and one head with a state of one number, in a new folder. The first
/// token sets it to 1, a bit of 1 multiplies it by 1 − β, and the logits of the bits are its sign.
fn parity_model(folder: &Path, negative_eigenvalues: bool) {
    let config = serde_json::json!({"model_type": "delta_net", "num_heads": 1, "norm_eps": 1e-6,
        "num_hidden_layers": 1, "hidden_size": 4, "allow_neg_eigval": negative_eigenvalues});
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a file");
    let mut weights = Weights::new();
    let mut add = |name: &str, shape: &[usize], values: &[f32]| {
        let zeros = vec![0.0; shape.iter().product()];
        let values = if values.is_empty() { zeros } else { values.to_vec() };
        weights.insert(name.to_owned(), Tensor { shape: shape.to_vec(), values });
    };
    // Channels: always 1; whether the bit is 1; whether this is the beginning; what is read.
    let tokens = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0];
    add("model.embeddings.weight", &[3, 4], &tokens);
    add("model.norm.weight", &[4], &[1.0; 4]);
    let signs = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0];
    add("lm_head.weight", &[3, 4], &signs);
    let mut layer = |name: &str, shape: &[usize], values: &[f32]| {
        add(&format!("model.layers.0.{name}.weight"), shape, values);
    };
    layer("attn_norm", &[4], &[1.0; 4]);
    layer("mlp_norm", &[4], &[1.0; 4]);
    layer("attn.q_proj", &[1, 4], &[100.0, 0.0, 0.0, 0.0]);
    layer("attn.k_proj", &[1, 4], &[100.0, 0.0, 0.0, 0.0]);
    layer("attn.v_proj", &[1, 4], &[0.0, 0.0, 10.0, 0.0]);
    // β is 0, all of it, and a half of it at the beginning.
    layer("attn.b_proj", &[1, 4], &[-50.0, 200.0, 50.0, 0.0]);
    for name in ["q", "k", "v"] {
        layer(&format!("attn.{name}_conv1d"), &[1, 1, 2], &[0.0, 1.0]);
    }
    layer("attn.o_norm", &[1], &[1.0]);
    layer("attn.o_proj", &[4, 1], &[0.0, 0.0, 0.0, 1.0]);
    layer("mlp.gate_proj", &[1, 4], &[]);
    layer("mlp.up_proj", &[1, 4], &[]);
    layer("mlp.down_proj", &[4, 1], &[]);
    safetensors(&folder.join("model.safetensors"), &weights);
}

/// The parity of a thousand bits, which eigenvalues between 0 and 1 cannot keep (Grazzi et al.
/// 2024, arXiv 2411.12537).
#[test]
fn negative_eigenvalues_keep_parity() {
    let (mut bits, mut seed) = (vec![BEGIN], 1u32);
    for _ in 0..1000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bits.push(seed >> 31);
    }
    for negative in [true, false] {
        let temp = tempfile::tempdir().expect("a temporary folder");
        parity_model(temp.path(), negative);
        let file = converted(temp.path(), temp.path(), DType::F32);
        for isa in [Isa::scalar(), Isa::detect()] {
            let (mut parity, mut right) = (0, 0);
            let found = logits(&open(&file, isa), &bits, 16, 2);
            for (bit, logits) in bits.iter().zip(found.chunks_exact(3)) {
                parity ^= bit & 1;
                right += usize::from((logits[0] > logits[1]) == (parity == 0));
            }
            println!("negative eigenvalues {negative}: {right} of {}", bits.len());
            assert_eq!(right == bits.len(), negative, "{right} on {}", isa.name());
        }
    }
}
