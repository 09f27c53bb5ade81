//! Models with mixtures of experts against transformers: logits of every position. Each fixture's
//! README states its tolerance.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use brooklet::{DType, Isa};
use brooklet_formats::convert::{ConvertOptions, convert};
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
fn qwen4_exp() {
    check("qwen4_exp-a", 1e-4);
}

/// Keys of other releases say the same; what is not supported is refused by its name.
#[test]
fn qwen4_exp_in_other_words() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let Some(source) = fixture("fixtures/qwen4_exp-a") else { return };
    let number = Cell::new(0);
    let changed = |change: &dyn Fn(&mut Map<String, Value>)| {
        number.set(number.get() + 1);
        respelled(&source, &temp.path().join(number.get().to_string()), change)
    };
    let open = |change: fn(&mut Map<String, Value>)| {
        open(&converted(&changed(&change), temp.path(), DType::F32), Isa::detect())
    };
    let plain = open(|_| ());
    let tokens = some_tokens(&plain, 60, 1);
    let expected = logits(&plain, &tokens, 16, 2);
    let same: [fn(&mut Map<String, Value>); 3] = [
        |keys| {
            keys.insert(
                "layer_types".to_owned(),
                json!(["linear_attention", "linear_attention", "deepseek_sparse_attention"]),
            );
            keys.insert("output_gate_type".to_owned(), json!("silu"));
        },
        |keys| {
            keys.remove("layer_types");
            keys.insert("full_attention_interval".to_owned(), json!(3));
            keys.insert("eos_token_id".to_owned(), json!([2, 7]));
        },
        // All in the object of the text model.
        |keys| {
            let text = std::mem::take(keys);
            keys.insert("model_type".to_owned(), json!("qwen4_exp"));
            keys.insert("text_config".to_owned(), Value::Object(text));
        },
    ];
    for (i, change) in same.into_iter().enumerate() {
        let other = open(change);
        assert_eq!(bits(&logits(&other, &tokens, 16, 2)), bits(&expected), "{i}");
    }
    let others: [fn(&mut Map<String, Value>); 4] = [
        |keys| drop(keys.insert("output_gate_type".into(), "sigmoid".into())),
        // Another token ends a text: n-grams reach beyond those that did.
        |keys| drop(keys.insert("eos_token_id".into(), 172.into())),
        |keys| drop(keys.insert("indexer_budget".into(), 4.into())),
        |keys| drop(keys.insert("norm_topk_prob".into(), false.into())),
    ];
    for change in others {
        let other = open(change);
        assert_ne!(bits(&logits(&other, &tokens, 16, 2)), bits(&expected));
    }
    let refused: [(&str, Value, &str); 6] = [
        ("indexer_kv_heads", 2.into(), "n_index_key"),
        ("indexer_budget", 7.into(), "index_block"),
        ("output_gate_type", "tanh".into(), "output_gate_type"),
        ("layer_types", json!(["linear_attention", "linear_attention", "other"]), "layer_types"),
        ("eos_token_id", Value::Null, "the token that ends a text"),
        ("indexer_n_heads", Value::Null, "indexer"),
    ];
    for (key, value, name) in refused {
        let folder = changed(&|keys| drop(keys.insert(key.to_owned(), value.clone())));
        let options = ConvertOptions::new(DType::F32);
        let error = convert(&folder, &temp.path().join("no.brk"), &options, &mut |_| {
            ControlFlow::Continue(())
        });
        let error = error.expect_err(key).to_string();
        assert!(error.contains(name), "{key}: {error}");
    }
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
