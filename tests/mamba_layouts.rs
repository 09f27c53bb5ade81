//! One Mamba in several layouts becomes one file, and what is no Mamba is refused by name.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::convert::{ConvertOptions, convert};
use brooklet_tests::fixture;
use serde_json::{Map, Value, json};

/// Converts to int8; the fingerprint of the result, or the error.
fn converted(source: &Path) -> Result<u64, String> {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let target = temp.path().join("model.brk");
    convert(source, &target, &ConvertOptions::new(DType::Int8), &mut |_| ControlFlow::Continue(()))
        .map_err(|e| e.to_string())?;
    Ok(BrkFile::open(&target).expect("what was just written").fingerprint())
}

/// A copy of a fixture's `model.safetensors` with other names (`None`: left out), and of its
/// `config.json` if there is one to be.
fn copy(
    fixture_name: &str,
    rename: impl Fn(&str) -> Option<String>,
    config: impl Fn(Value) -> Option<Value>,
) -> Option<tempfile::TempDir> {
    let folder = fixture(&format!("fixtures/{fixture_name}"))?;
    let bytes = fs::read(folder.join("model.safetensors")).expect("the model");
    let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + len]).expect("JSON");
    let renamed = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let mut renamed: Map<String, Value> =
        renamed.filter_map(|(name, entry)| Some((rename(&name)?, entry))).collect();
    let mut data = Vec::new();
    for entry in renamed.values_mut() {
        let range: [usize; 2] =
            serde_json::from_value(entry["data_offsets"].clone()).expect("offsets");
        let start = data.len();
        data.extend_from_slice(&bytes[8 + len + range[0]..8 + len + range[1]]);
        entry["data_offsets"] = json!([start, data.len()]);
    }
    let header = Value::Object(renamed).to_string().into_bytes();
    let temp = tempfile::tempdir().expect("a temporary folder");
    fs::write(
        temp.path().join("model.safetensors"),
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat(),
    )
    .expect("a file");
    let text = fs::read(folder.join("config.json")).expect("the configuration");
    if let Some(config) = config(serde_json::from_slice(&text).expect("JSON")) {
        fs::write(temp.path().join("config.json"), config.to_string()).expect("a file");
    }
    Some(temp)
}

fn same(name: &str) -> Option<String> {
    Some(name.to_owned())
}

/// Mamba-1 from Hugging Face, state-spaces, with longer and shorter prefixes, and, of a file alone,
/// without any configuration.
#[test]
fn layouts_agree() {
    let Some(folder) = fixture("fixtures/mamba-a") else { return };
    let expected = converted(&folder);
    assert!(expected.is_ok(), "{expected:?}");
    let original = fixture("fixtures/mamba-a-original").expect("it is in the repository");
    assert_eq!(converted(&original), expected);
    assert_eq!(converted(&original.join("pytorch_model.bin")), expected);
    for (rename, with_config) in [
        ((|name| Some(format!("model.{name}"))) as fn(&str) -> Option<String>, true),
        (|name| Some(name.replace("backbone.", "")), true),
        (same, false),
    ] {
        let temp = copy("mamba-a", rename, |config| with_config.then_some(config)).expect("a copy");
        if !with_config {
            let message = converted(temp.path()).expect_err("a folder without its config.json");
            assert!(message.contains("config.json is missing"), "{message}");
        }
        assert_eq!(converted(&temp.path().join("model.safetensors")), expected);
    }
}

/// A head that repeats the embedding is not stored twice; another one is.
#[test]
fn heads() {
    let Some(folder) = fixture("fixtures/falcon_mamba-a") else { return };
    let untied = converted(&folder).expect("a model");
    let without_head = |name: &str| Some(name.to_owned()).filter(|name| !name.contains("lm_head"));
    let temp = copy("falcon_mamba-a", without_head, Some).expect("a copy");
    assert_ne!(converted(temp.path()), Ok(untied));
}

/// `norm_before_gate` is mamba_ssm's option, in its `ssm_cfg`. Codestral's config.json has the key
/// beside the others, where transformers and Mistral's own program do not read it.
#[test]
fn norm_before_gate_is_an_option_of_ssm_cfg() {
    let Some(folder) = fixture("fixtures/mamba2-a") else { return };
    let expected = converted(&folder);
    let with = |key: &'static str, value: Value| {
        let config = move |mut config: Value| {
            config[key] = value.clone();
            Some(config)
        };
        converted(copy("mamba2-a", same, config).expect("a copy").path())
    };
    assert!(expected.is_ok(), "{expected:?}");
    assert_eq!(with("norm_before_gate", json!(true)), expected);
    assert_eq!(with("ssm_cfg", json!({"norm_before_gate": false})), expected);
    assert_ne!(with("ssm_cfg", json!({"norm_before_gate": true})), expected);
    let error = with("ssm_cfg", json!({"norm_before_gate": "yes"})).expect_err("no truth value");
    assert!(error.contains("norm_before_gate must be"), "{error}");
}

#[test]
fn what_is_refused_and_why() {
    type Rename = fn(&str) -> Option<String>;
    type Config = fn(Value) -> Option<Value>;
    let with = |key: &'static str, value: Value| {
        move |mut config: Value| {
            config[key] = value.clone();
            Some(config)
        }
    };
    let lost: Rename = |name| Some(name.to_owned()).filter(|name| !name.ends_with("1.mixer.D"));
    let hybrid: Rename = |name| Some(name.replace("layers.1.mixer.D", "layers.1.attn.q_proj"));
    let no_config: Config = |_| None;
    let cases = [
        ("mamba-a", copy("mamba-a", lost, Some), "layers.1.mixer.D\" is missing"),
        ("mamba-a", copy("mamba-a", hybrid, Some), "layers.1.mixer.D\" is missing"),
        ("mamba-a", copy("mamba-a", same, with("num_hidden_layers", json!(2))), "2 layers"),
        ("mamba-a", copy("mamba-a", same, with("num_hidden_layers", json!(4))), "layers.3"),
        (
            "mamba-a",
            copy("mamba-a", same, with("num_hidden_layers", json!("x"))),
            "number of layers",
        ),
        ("mamba-a", copy("mamba-a", same, with("hidden_act", json!("gelu"))), "silu"),
        ("mamba-a", copy("mamba-a", same, with("layer_norm_epsilon", json!([]))), "epsilon"),
        ("mamba2-a", copy("mamba2-a", same, no_config), "config.json"),
        ("mamba2-a", copy("mamba2-a", same, with("state_size", json!(33))), "conv1d"),
        ("mamba2-a", copy("mamba2-a", same, with("n_groups", json!(1u64 << 40))), "groups"),
        (
            "mamba2-a",
            copy("mamba2-a", same, with("time_step_limit", json!([1]))),
            "time_step_limit",
        ),
        ("mamba2-a", copy("mamba2-a", same, with("time_step_limit", json!([3, 1]))), "ascending"),
    ];
    for (name, copy, words) in cases {
        let Some(temp) = copy else { return };
        let message = converted(temp.path()).expect_err(words);
        assert!(message.contains(words), "{name}: {message:?} lacks {words:?}");
    }
}

/// The ids that end a text are those of `generation_config.json` and of `config.json`.
#[test]
fn ends_of_text() {
    let config = |mut config: Value| {
        config["eos_token_id"] = json!(5);
        Some(config)
    };
    let Some(temp) = copy("mamba-a", same, config) else { return };
    let target = temp.path().join("model.brk");
    let ends = || {
        convert(temp.path(), &target, &ConvertOptions::new(DType::Int8), &mut |_| {
            ControlFlow::Continue(())
        })
        .expect("a model");
        BrkFile::open(&target).expect("a model").meta().tokenizer.eos_ids.clone()
    };
    assert_eq!(ends(), [5]);
    fs::write(temp.path().join("generation_config.json"), r#"{"eos_token_id": [7, 2, 999999]}"#)
        .expect("a file");
    assert_eq!(ends(), [7, 2, 5]);
}
