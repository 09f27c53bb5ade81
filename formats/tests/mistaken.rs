//! Checkpoints that are no model as it was trained, and folders that lack what they need: named for
//! what they are, with the mend.

#![cfg(feature = "convert")]

mod support;

use std::fs;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use support::{Tensors, converted, folder, mamba, put, write};

const CONFIG: &str = r#"{"model_type": "mamba"}"#;

/// The error of a folder with these tensors and this configuration.
fn refused(tensors: &Tensors, config: &str) -> String {
    converted(folder(tensors, config).path(), |_| ()).expect_err("refused")
}

/// `mamba()` and a tensor of this name.
fn with(name: &str) -> Tensors {
    let mut all = mamba();
    put(&mut all, name, &[2, 2], |_| 1.0);
    all
}

fn only(names: &[&str]) -> Tensors {
    let mut all = Tensors::new();
    names.iter().for_each(|name| put(&mut all, name, &[2, 2], |_| 1.0));
    all
}

#[test]
fn quantized_by_others() {
    let matrix = "backbone.layers.0.mixer.in_proj";
    for (end, words) in [
        ("qweight", "GPTQ or AWQ"),
        ("qzeros", "GPTQ or AWQ"),
        ("weight.absmax", "bitsandbytes"),
        ("weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("SCB", "bitsandbytes"),
        ("weight_packed", "compressed-tensors"),
        ("bitmask", "compressed-tensors"),
        ("scales", "MLX or AWQ"),
    ] {
        let message = refused(&with(&format!("{matrix}.{end}")), CONFIG);
        assert!(message.contains(words) && message.contains("quantized by"), "{message}");
        assert!(message.contains("take the checkpoint that it was made from"), "{message}");
    }
    let awq = r#"{"model_type": "mamba", "quantization_config": {"quant_method": "awq"}}"#;
    let mlx = r#"{"model_type": "mamba", "quantization": {"bits": 4}}"#;
    assert!(refused(&with(&format!("{matrix}.qweight")), awq).contains("quantized by awq"));
    assert!(refused(&with(&format!("{matrix}.scales")), mlx).contains("quantized by MLX"));
    // A leftover of the configuration alone does no harm.
    assert!(converted(folder(&mamba(), mlx).path(), |_| ()).is_ok());
    // Packed numbers without anything beside them.
    let folder = folder(&mamba(), CONFIG);
    let bytes = [0; 16];
    let view = TensorView::new(Dtype::U32, vec![2, 2], &bytes).expect("a tensor");
    let path = folder.path().join("model.safetensors");
    serialize_to_file([("a.weight", view)], None, &path).expect("a file");
    let message = converted(folder.path(), |_| ()).expect_err("refused");
    assert!(message.contains("a.weight is U32"), "{message}");
}

#[test]
fn adapters_states_and_other_programs() {
    for (tensors, words, mend) in [
        (only(&["blocks.0.att.key.lora_A", "blocks.0.att.x_r"]), "a LoRA adapter", "--lora"),
        (only(&["base_model.model.x.lora_B.default.weight"]), "a LoRA adapter", "--lora"),
        (only(&["blocks.0.att.key.lora.0"]), "a LoRA adapter", "--lora"),
        (only(&["blocks.0.att.key.bone"]), "an adapter that is no LoRA", "merge it"),
        (with("backbone.layers.0.mixer.in_proj.lora_A"), "beside its weights", "merge them"),
        (only(&["blocks.0.att.time_state"]), "a tuned state", "brooklet state import"),
        (only(&["module.blocks.0.att.time_state"]), "a tuned state", "brooklet state import"),
        (only(&["embedding.word_embeddings.weight"]), "Megatron-LM", "Hugging Face folder"),
        (only(&["module.decoder.layers.0.mixer.A_log"]), "Megatron-LM", "Hugging Face folder"),
    ] {
        let message = refused(&tensors, "{}");
        assert!(message.contains(words) && message.contains(mend), "{message}");
    }
}

/// Another architecture may have all the names of one that is known.
#[test]
fn architectures_by_name() {
    for name in ["arwkv7", "rwkv6qwen2", "plamo2", "Mamba"] {
        let message = refused(&mamba(), &format!("{{\"model_type\": \"{name}\"}}"));
        assert!(message.contains("model_type") && message.contains(name), "{message}");
        assert!(message.contains("--assume"), "{message}");
        let folder = folder(&mamba(), &format!("{{\"model_type\": \"{name}\"}}"));
        let assumed = converted(folder.path(), |options| options.assume = Some("mamba1".into()));
        assert_eq!(assumed.expect("a model").0.architecture, "mamba1");
    }
    let folder = folder(&mamba(), CONFIG);
    for (name, words) in [("rwkv7", "expected one of RWKV-7"), ("gpt2", "found gpt2")] {
        let found = converted(folder.path(), |options| options.assume = Some(name.into()));
        let message = found.expect_err("refused");
        assert!(message.contains(words) || message.contains("no known architecture"), "{message}");
    }
}

/// Without its `config.json`, Falcon-Mamba cannot be told from Mamba.
#[test]
fn a_folder_without_its_configuration() {
    let folder = folder(&mamba(), CONFIG);
    let plain = converted(folder.path(), |_| ()).expect("a model").1;
    let config = folder.path().join("config.json");
    let elsewhere = folder.path().join("elsewhere.json");
    fs::rename(&config, &elsewhere).expect("renamed");
    let message = converted(folder.path(), |_| ()).expect_err("refused");
    assert!(
        message.contains("config.json is missing or empty") && message.contains("--config"),
        "{message}"
    );
    let with = |config: Option<&str>, assume: Option<&str>| {
        let config = config.map(|name| folder.path().join(name));
        converted(folder.path(), |options| {
            options.config = config;
            options.assume = assume.map(str::to_owned);
        })
    };
    let (_, print, recipe) = with(Some("elsewhere.json"), None).expect("a model");
    assert_eq!(print, plain);
    assert!(recipe.contains("--config 'elsewhere.json'"), "{recipe}");
    let (_, print, recipe) = with(None, Some("mamba1")).expect("a model");
    assert_eq!(print, plain);
    assert!(recipe.contains("--assume mamba1"), "{recipe}");
    let falcon = with(None, Some("falcon_mamba")).expect("a model").1;
    let told = with(Some("elsewhere.json"), Some("falcon_mamba")).expect("a model").1;
    assert_eq!(falcon, told);
    assert_ne!(falcon, plain);
    assert!(with(Some("absent.json"), None).expect_err("refused").contains("absent.json"));
    // A file alone is taken as it is, with a note.
    let (summary, print, _) =
        converted(&folder.path().join("model.safetensors"), |_| ()).expect("a model");
    assert_eq!(print, plain);
    assert!(summary.notes[0].contains("config.json is not there"), "{:?}", summary.notes);
    // A file that is there and cannot be read is not absent.
    for text in ["", "{", "[1", "\u{feff}", "null", "[]", "{}"] {
        fs::write(&config, text).expect("a file");
        let message = converted(folder.path(), |_| ()).expect_err("refused");
        assert!(message.contains("config.json"), "{message}");
    }
    fs::write(&config, format!("\u{feff}{}\r\n", CONFIG.replace(' ', "\r\n "))).expect("a file");
    assert_eq!(converted(folder.path(), |_| ()).expect("a model").1, plain);
}

/// Mistral's names of a folder: `consolidated.safetensors` and `params.json`.
#[test]
fn folders_of_mistral() {
    let plain = converted(folder(&mamba(), CONFIG).path(), |_| ()).expect("a model").1;
    let folder = tempfile::tempdir().expect("a folder");
    let wrapped: Tensors =
        mamba().into_iter().map(|(name, tensor)| (format!("model.{name}"), tensor)).collect();
    write(&folder.path().join("consolidated.safetensors"), &wrapped);
    let params = r#"{"dim": 4, "n_layers": 1, "vocab_size": 6, "model_type": "mamba"}"#;
    fs::write(folder.path().join("params.json"), format!("\u{feff}{params}")).expect("a file");
    for source in ["", "params.json", "consolidated.safetensors"] {
        let found = converted(&folder.path().join(source), |_| ()).expect("a model").1;
        assert_eq!(found, plain);
    }
    let params = params.replace("\"n_layers\": 1", "\"n_layers\": 2");
    fs::write(folder.path().join("params.json"), params).expect("a file");
    let message = converted(folder.path(), |_| ()).expect_err("refused");
    assert!(message.contains("layers.1"), "{message}");
}
