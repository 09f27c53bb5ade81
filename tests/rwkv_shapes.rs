//! RWKV models of odd shapes, in every layout a checkpoint may have, against a plain f64 reference.
//!
//! Heads of 7 or 23 channels, a time mix wider or narrower than the residual stream, ranks of 3:
//! shapes that no published fixture has. And for each layout: without any one of its tensors, or
//! with one of another shape, the conversion is an error that names the tensor.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use brooklet::Isa;
use brooklet_formats::DType;
use brooklet_formats::brk::BrkFile;
use brooklet_formats::convert::{ConvertOptions, convert};
use brooklet_tests::random_rwkv::{N_VOCAB, rwkv4, rwkv5, rwkv6, rwkv7};
use brooklet_tests::rwkv::{Epsilons, Tensor, Weights, reference};
use brooklet_tests::rwkv_layouts::{
    as_fla, as_gguf, as_rwkv_cpp, as_rwkv_for_causal_lm, as_web_rwkv,
};
use brooklet_tests::write::{self, GgufValue};
use brooklet_tests::{converted, max_difference, open, run};

const OFFICIAL: Epsilons = Epsilons { ln: 1e-5, ln_out: 1e-5, ln_x: 64e-5 };

/// Writes tensors into a folder and returns the path to open.
type Write = Box<dyn Fn(&Path, &Weights) -> PathBuf>;

/// How a checkpoint is written, and what the model then computes.
struct Layout {
    name: &'static str,
    /// From BlinkDL's tensors.
    weights: Weights,
    write: Write,
    eps: Epsilons,
}

fn safetensors(name: &'static str, weights: Weights) -> Layout {
    let write = |folder: &Path, weights: &Weights| {
        let path = folder.join("model.safetensors");
        write::safetensors(&path, weights);
        path
    };
    Layout { name, weights, write: Box::new(write), eps: OFFICIAL }
}

fn with_config(
    name: &'static str,
    weights: Weights,
    config: serde_json::Value,
    eps: Epsilons,
) -> Layout {
    let write = move |folder: &Path, weights: &Weights| {
        write::safetensors(&folder.join("model.safetensors"), weights);
        std::fs::write(folder.join("config.json"), config.to_string()).expect("a file");
        folder.to_owned()
    };
    Layout { name, weights, write: Box::new(write), eps }
}

fn rwkv_cpp(name: &'static str, weights: &Weights, ln_x: f64) -> Layout {
    let write = |folder: &Path, weights: &Weights| {
        let path = folder.join("model.bin");
        write::rwkv_cpp(&path, weights);
        path
    };
    Layout {
        name,
        weights: as_rwkv_cpp(weights),
        write: Box::new(write),
        eps: Epsilons { ln_x, ..OFFICIAL },
    }
}

fn gguf(
    name: &'static str,
    weights: Weights,
    metadata: Vec<(&'static str, GgufValue)>,
    eps: Epsilons,
) -> Layout {
    let write = move |folder: &Path, weights: &Weights| {
        let path = folder.join("model.gguf");
        write::gguf(&path, &metadata, weights);
        path
    };
    Layout { name, weights, write: Box::new(write), eps }
}

/// A folder of Hugging Face with a class of its own; its norm over heads has the epsilon that
/// `config` says.
fn hugging_face(
    name: &'static str,
    weights: &Weights,
    body: &str,
    mut config: serde_json::Value,
    ln_x: f64,
) -> Layout {
    config["layer_norm_epsilon"] = 3e-3.into();
    let eps = Epsilons { ln: 3e-3, ln_out: 1e-5, ln_x };
    with_config(name, as_rwkv_for_causal_lm(weights, body), config, eps)
}

/// Every layout of small models of odd shapes, with the model in BlinkDL's tensors.
fn layouts() -> Vec<(Weights, Layout)> {
    let mut all = Vec::new();
    for (c, d_att, f) in [(20, 36, 50), (33, 17, 7)] {
        let w = rwkv4(c, d_att, f);
        all.push((w.clone(), safetensors("rwkv4", w.clone())));
        all.push((w.clone(), rwkv_cpp("rwkv4 rwkv.cpp", &w, 0.0)));
        let eps = Epsilons { ln: 3e-3, ..OFFICIAL };
        let config = serde_json::json!({"model_type": "rwkv", "layer_norm_epsilon": 3e-3});
        all.push((
            w.clone(),
            with_config("rwkv4 Hugging Face", as_rwkv_for_causal_lm(&w, "rwkv."), config, eps),
        ));
    }
    for version in 0..3 {
        for (c, heads, f) in [(24, [3, 10], 50), (40, [2, 48], 21)] {
            let w = rwkv5(version, c, heads, f);
            all.push((
                w.clone(),
                safetensors(["rwkv5.0", "rwkv5.1", "rwkv5.2"][version], w.clone()),
            ));
            all.push((w.clone(), rwkv_cpp(["5.0", "5.1", "5.2 rwkv.cpp"][version], &w, 1e-5)));
            if version == 2 {
                all.push((w.clone(), safetensors("rwkv5.2 web-rwkv", as_web_rwkv(&w))));
                let config = serde_json::json!({"model_type": "rwkv5", "head_size_divisor": 4});
                let layout = hugging_face("rwkv5 Hugging Face", &w, "rwkv.", config, 16e-5);
                all.push((w.clone(), layout));
            }
        }
    }
    for (c, heads, f, ranks) in [(40, [2, 23], 33, [5, 7]), (48, [4, 8], 70, [3, 40])] {
        let w = rwkv6(c, heads, f, ranks);
        all.push((w.clone(), safetensors("rwkv6", w.clone())));
        all.push((w.clone(), rwkv_cpp("rwkv6 rwkv.cpp", &w, 64e-5)));
        all.push((w.clone(), safetensors("rwkv6 web-rwkv", as_web_rwkv(&w))));
        let config = serde_json::json!({"model_type": "rwkv6", "rescale_every": 2});
        all.push((w.clone(), hugging_face("rwkv6 Hugging Face", &w, "rwkv.", config, 64e-5)));
        let mut tied = w.clone();
        tied.insert("head.weight".to_owned(), tied["emb.weight"].clone());
        let mut stored = tied.clone();
        stored.remove("head.weight");
        let config = serde_json::json!({"model_type": "rwkv6", "tie_word_embeddings": true});
        all.push((
            tied,
            hugging_face("rwkv6 Hugging Face, tied", &stored, "model.", config, 64e-5),
        ));
        for rescale_every in [0, 1, 2] {
            let metadata = vec![
                ("general.architecture", GgufValue::Text("rwkv6")),
                ("rwkv6.attention.layer_norm_epsilon", GgufValue::F32(2e-5)),
                ("rwkv6.wkv.head_size", GgufValue::U32(heads[1] as u32)),
                ("rwkv6.rescale_every_n_layers", GgufValue::U32(rescale_every as u32)),
            ];
            let eps = Epsilons { ln: f64::from(2e-5f32), ln_out: f64::from(2e-5f32), ..OFFICIAL };
            all.push((w.clone(), gguf("rwkv6 GGUF", as_gguf(&w, rescale_every), metadata, eps)));
        }
    }
    for (heads, f, ranks) in [([3, 7], 45, [3, 5, 2, 9]), ([2, 48], 100, [16, 33, 8, 40])] {
        let w = rwkv7(heads, f, ranks, false);
        let with_v = rwkv7(heads, f, ranks, true);
        all.push((w.clone(), safetensors("rwkv7", w.clone())));
        all.push((with_v.clone(), safetensors("rwkv7 with v in layer 0", with_v.clone())));
        all.push((w.clone(), rwkv_cpp("rwkv7 rwkv.cpp", &w, 64e-5)));
        all.push((with_v.clone(), safetensors("rwkv7 web-rwkv", as_web_rwkv(&with_v))));
        for (body, group_norm_epsilon) in [("rwkv.", 2e-3), ("model.", 64e-5)] {
            let config = serde_json::json!({
                "model_type": "rwkv7", "group_norm_epsilon": group_norm_epsilon
            });
            let name = "rwkv7 Hugging Face, BlinkDL's";
            let layout = hugging_face(name, &with_v, body, config, group_norm_epsilon);
            all.push((with_v.clone(), layout));
        }
        let metadata = vec![
            ("general.architecture", GgufValue::Text("rwkv7")),
            ("rwkv7.attention.layer_norm_epsilon", GgufValue::F32(2e-5)),
            ("rwkv7.wkv.head_size", GgufValue::U32(heads[1] as u32)),
        ];
        let eps = Epsilons { ln: f64::from(2e-5f32), ln_out: f64::from(2e-5f32), ..OFFICIAL };
        all.push((with_v.clone(), gguf("rwkv7 GGUF", as_gguf(&with_v, 0), metadata, eps)));
        let eps = Epsilons { ln: 1e-3, ln_out: 1e-3, ln_x: heads[1] as f64 * 1e-3 };
        for fused in [false, true] {
            let config =
                serde_json::json!({"model_type": "rwkv7", "norm_eps": 1e-3, "norm_bias": true});
            all.push((
                w.clone(),
                with_config("rwkv7 Hugging Face", as_fla(&w, fused), config, eps),
            ));
        }
        // Without biases, and with the head tied to the embedding.
        let mut plain = w.clone();
        let biases = [".ln0.bias", ".ln1.bias", ".ln2.bias", "ln_out.bias"];
        plain
            .iter_mut()
            .filter(|(name, _)| biases.iter().any(|bias| name.ends_with(bias)))
            .for_each(|(_, tensor)| tensor.values.fill(0.0));
        plain.insert("head.weight".to_owned(), plain["emb.weight"].clone());
        let mut stored = plain.clone();
        stored.retain(|name, _| {
            name != "head.weight" && !biases.iter().any(|bias| name.ends_with(bias))
        });
        let config = serde_json::json!({
            "model_type": "rwkv7", "norm_eps": 1e-3, "norm_bias": false, "tie_word_embeddings": true
        });
        all.push((
            plain,
            with_config("rwkv7 Hugging Face, tied", as_fla(&stored, false), config, eps),
        ));
    }
    all
}

#[test]
fn logits_of_every_layout() {
    let tokens: Vec<u32> = (0..40).map(|i| (i * i + 3 * i) % N_VOCAB as u32).collect();
    for (weights, layout) in layouts() {
        let expected = reference(&weights, &tokens, layout.eps);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file =
            converted(&(layout.write)(folder.path(), &layout.weights), folder.path(), DType::F32);
        for (isa, chunk, threads) in
            [(Isa::scalar(), 1, 1), (Isa::detect(), 9, 2), (Isa::detect(), 40, 3)]
        {
            let (found, _) = run(&open(&file, isa), &tokens, chunk, threads);
            let difference = max_difference(&found, &expected);
            let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!(difference < 2e-5 * largest, "{}: {difference} of {largest}", layout.name);
        }
    }
}

/// The conversion's error, or `None` when it succeeds.
fn error_of(layout: &Layout, weights: &Weights) -> Option<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = (layout.write)(folder.path(), weights);
    let target = folder.path().join("model.brk");
    let result = convert(&source, &target, &ConvertOptions::new(DType::F32), &mut |_| {
        ControlFlow::Continue(())
    });
    assert_eq!(result.is_ok(), target.exists());
    result.err().map(|e| e.to_string())
}

/// Layouts for the tests of errors: one of each name.
fn one_of_each() -> Vec<Layout> {
    let mut all: Vec<Layout> = layouts().into_iter().map(|(_, layout)| layout).collect();
    let mut seen = Vec::new();
    all.retain(|layout| {
        !seen.contains(&layout.name) && {
            seen.push(layout.name);
            true
        }
    });
    all
}

/// The value residual of the first layer, which is not used.
fn is_unused(name: &str) -> bool {
    let after = |start: &str| {
        name.strip_prefix(start).is_some_and(|rest| rest.starts_with(['0', '1', '2']))
    };
    after("blocks.0.att.v")
        || after("blk.0.time_mix_v")
        || after("rwkv.blocks.0.attention.v")
        || after("model.blocks.0.attention.v")
}

#[test]
fn a_missing_tensor_is_named() {
    for layout in one_of_each() {
        for name in layout.weights.keys().filter(|name| !is_unused(name)) {
            let mut weights = layout.weights.clone();
            weights.remove(name);
            let error = error_of(&layout, &weights);
            let error = error.unwrap_or_else(|| panic!("{}: no error without {name}", layout.name));
            // Where one of two names will do, the error asks for the other.
            let name = name.replace("time_first", "time_faaaa").replace("attn.x_x", "attn.x_r");
            let is_first = layout.name.starts_with("rwkv4") || layout.name == "rwkv6 web-rwkv";
            let name = if is_first { name.replace("time_faaaa", "time_first") } else { name };
            // A word before all names is taken for a wrapper's.
            let is_wrapped = layout.name == "rwkv6 Hugging Face, tied";
            let name = if is_wrapped { name.replacen("model.", "", 1) } else { name };
            let expected = format!("tensor \"{name}\" is missing");
            assert!(error.contains(&expected), "{}: without {name}: {error}", layout.name);
        }
    }
}

#[test]
fn a_tensor_of_another_shape_is_an_error() {
    for layout in one_of_each() {
        for (name, tensor) in layout.weights.iter().filter(|(name, _)| !is_unused(name)) {
            for dimension in 0..tensor.shape.len() {
                // A tied embedding alone says how many tokens there are.
                if layout.name.ends_with("tied")
                    && name == "model.embeddings.weight"
                    && dimension == 0
                {
                    continue;
                }
                let mut shape = tensor.shape.clone();
                shape[dimension] += 1;
                let values = vec![0.5; shape.iter().product()];
                let mut weights = layout.weights.clone();
                weights.insert(name.clone(), Tensor { shape, values });
                let error = error_of(&layout, &weights);
                let error =
                    error.unwrap_or_else(|| panic!("{}: no error: shape of {name}", layout.name));
                assert!(error.contains("must be"), "{}: {name}: {error}", layout.name);
            }
        }
    }
}

/// A tensor that no architecture has would be missed in the results, wherever it stands.
#[test]
fn an_unknown_tensor_is_refused() {
    for name in ["blocks.1.att.time_state", "head_q.weight"] {
        let (mut weights, layout) = layouts().swap_remove(0);
        weights.insert(name.to_owned(), Tensor { shape: vec![1], values: vec![0.0] });
        let error = error_of(&layout, &weights).expect("an error");
        assert!(error.contains(name) && error.contains("rwkv4"), "{error}");
    }
}

/// A state that was trained and saved with the model does not keep it from being converted.
#[test]
fn a_tuned_state_beside_the_weights() {
    for layout in one_of_each().iter().filter(|layout| layout.name == "rwkv7") {
        let mut weights = layout.weights.clone();
        let shape = vec![3, 7, 7];
        let values = vec![0.5; 3 * 7 * 7];
        let state = Tensor { shape, values };
        weights.insert("blocks.1.att.time_state".to_owned(), state.clone());
        assert_eq!(error_of(layout, &weights), None);
        weights.insert("blocks.9.att.time_state".to_owned(), state);
        assert!(error_of(layout, &weights).is_some(), "a state of a layer that is not there");
    }
}

/// Wrappers put a prefix before all names (`torch.compile`: `_orig_mod.`).
#[test]
fn a_prefix_before_all_names() {
    for layout in one_of_each() {
        let fingerprint = |weights: &Weights| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let source = (layout.write)(folder.path(), weights);
            let file = converted(&source, folder.path(), DType::F32);
            BrkFile::open(&file).expect("a model").fingerprint()
        };
        let prefixed = |(name, tensor): (&String, &Tensor)| {
            let tensor = Tensor { shape: tensor.shape.clone(), values: tensor.values.clone() };
            (format!("_orig_mod.{name}"), tensor)
        };
        let plain = fingerprint(&layout.weights);
        let weights: Weights = layout.weights.iter().map(prefixed).collect();
        assert_eq!(fingerprint(&weights), plain, "{}", layout.name);
    }
}
