//! Models with mixtures of experts against transformers: logits of every position. Each fixture's
//! README states its tolerance.

use std::path::{Path, PathBuf};

use brooklet::{DType, Isa};
use brooklet_tests::{
    bits, check_logits, converted, fixture, logits, open, read_json, some_tokens,
};
use serde_json::{Map, Value, json};

/// Compares the logits of the fixture `folder`.
fn check(folder: &str, tolerance: f32) {
    check_logits(folder, ".", "logits_f64.npy", tolerance, |_, _, _| {});
}

/// Compares the logits of a GGUF file, whose weights are de-quantized for the reference, too.
fn check_gguf(folder: &str, format: &str, tolerance: f32) {
    let expected =
        if format == "F32" { "logits-F32.npy".into() } else { format!("logits_f64-{format}.npy") };
    let model = format!("model-{format}.gguf");
    check_logits(folder, &model, &expected, tolerance, |_, _, _| {});
}

/// The folder `to` with the weights of `source` and its configuration, changed.
fn respelled(source: &Path, to: &Path, change: impl Fn(&mut Map<String, Value>)) -> PathBuf {
    let mut config = read_json(&source.join("config.json"));
    change(config.as_object_mut().expect("an object"));
    std::fs::create_dir(to).expect("a folder");
    std::fs::copy(source.join("model.safetensors"), to.join("model.safetensors")).expect("copied");
    std::fs::write(to.join("config.json"), config.to_string()).expect("written");
    to.to_owned()
}

#[test]
fn lfm2_moe() {
    check("lfm2_moe-a", 1e-4);
    check_gguf("gguf-lfm2moe-a", "F32", 1e-4);
    check_gguf("gguf-lfm2moe-a", "Q8_0", 1e-4);
}

#[test]
fn qwen3_next() {
    check("qwen3_next-a", 2.1e-4);
    check_gguf("gguf-qwen3next-a", "Q8_0", 2.1e-4);
}

#[test]
fn latent_attention() {
    check("kimi_linear-b", 2e-4);
    check("bailing_hybrid-a", 3e-4);
}

#[test]
fn zaya() {
    check("zaya-a", 1e-4);
}

/// Layers are alike where no list says how they differ; a window that holds the whole text shows
/// all of it.
#[test]
fn zaya_with_windows() {
    let Some(source) = fixture("fixtures/zaya-a") else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    let of = |name: &str, change: &dyn Fn(&mut Map<String, Value>)| {
        let copy = respelled(&source, &temp.path().join(name), change);
        let model = open(&converted(&copy, temp.path(), DType::F32), Isa::detect());
        logits(&model, &some_tokens(&model, 30, 1), 16, 2)
    };
    let plain = of("plain", &|_| {});
    let without = of("without", &|keys| {
        keys.remove("layer_types");
        keys.remove("rope_parameters");
    });
    let window = |n: usize| {
        of(&format!("window-{n}"), &move |keys| {
            keys.insert("layer_types".to_owned(), json!(["hybrid", "hybrid_sliding", "hybrid"]));
            keys.insert("sliding_window".to_owned(), json!(n));
            keys["rope_parameters"]["hybrid_sliding"]["rope_theta"] = json!(5e6);
        })
    };
    assert_eq!(bits(&without), bits(&plain));
    assert_eq!(bits(&window(30)), bits(&plain));
    assert_ne!(bits(&window(29)), bits(&plain));
}

#[test]
fn lara_mini() {
    check("lara_mini-a", 2.5e-4);
}

#[test]
fn inkling() {
    check("inkling-a", 1e-4);
}

/// Keys as released files spell them say the same; rows behind the vocabulary give no logits.
#[test]
fn inkling_as_released() {
    let Some(source) = fixture("fixtures/inkling-a") else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    let copy = respelled(&source, &temp.path().join("copy"), |keys| {
        for (key, released) in [
            ("sliding_window_size", "sliding_window"),
            ("conv_kernel_size", "sconv_kernel_size"),
            ("max_position_embeddings", "model_max_length"),
            ("logits_mup_width_multiplier", "embedding_multiplier"),
            ("n_routed_experts", "num_local_experts"),
        ] {
            let value = keys.remove(key).expect("a key");
            keys.insert(released.to_owned(), value);
        }
        keys.remove("layer_types");
        keys.remove("mlp_layer_types");
        keys.insert("local_layer_ids".to_owned(), json!([0, 2]));
        keys.insert("unpadded_vocab_size".to_owned(), json!(200));
    });
    let [plain, released] = [&source, &copy]
        .map(|folder| open(&converted(folder, temp.path(), DType::F32), Isa::detect()));
    let tokens = some_tokens(&released, 30, 1);
    let expected = logits(&plain, &tokens, 16, 2);
    let expected: Vec<f32> =
        expected.chunks(plain.n_vocab()).flat_map(|row| &row[..200]).copied().collect();
    assert_eq!(bits(&logits(&released, &tokens, 16, 2)), bits(&expected));
}

#[test]
fn granitemoehybrid() {
    check("granitemoehybrid-a", 1e-4);
    check_gguf("gguf-granitehybrid-a", "F32", 1e-4);
    check_gguf("gguf-granitehybrid-a", "Q8_0", 1e-4);
    check_gguf("gguf-granitehybrid-moe-a", "Q8_0", 1e-4);
}

#[test]
fn nemotron_h() {
    check("nemotron_h-c", 1.1e-4);
    check("nemotron_h-bf16", 1e-4);
    check_gguf("gguf-nemotron_h-a", "F32", 1e-4);
    check_gguf("gguf-nemotron_h-a", "Q8_0", 1e-4);
    check_gguf("gguf-nemotron_h-q6k", "Q6_K", 1.2e-4);
    check_gguf("gguf-nemotron_h_moe-c", "F32", 1.1e-4);
    check_gguf("gguf-nemotron_h_moe-c", "Q8_0", 1.1e-4);
}

#[test]
fn minimax() {
    check("minimax-a", 1e-4);
}

#[test]
fn jamba() {
    check("jamba-a", 5.7e-4);
    check_gguf("gguf-jamba-a", "Q8_0", 1.9e-4);
}

#[test]
fn qwen3_5_moe() {
    check("qwen3_5_moe-a", 1.8e-4);
    check_gguf("gguf-qwen35moe-a", "F32", 1.8e-4);
    check_gguf("gguf-qwen35moe-a", "Q8_0", 2.6e-4);
}
