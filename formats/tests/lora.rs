//! LoRA files of every kind, merged while converting, against weights merged beforehand: the
//! factors are whole numbers, so that nothing is rounded.

#![cfg(feature = "convert")]

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use brooklet_formats::DType;
use brooklet_formats::convert::{ConvertOptions, Lora, convert};
use support::{Tensors, converted, folder, mamba, put, write};

const CONFIG: &str = r#"{"model_type": "mamba"}"#;
const RANK: usize = 2;
/// Matrices of the model that the LoRA changes: rows and columns.
const CHANGED: [(&str, usize, usize); 2] =
    [("backbone.layers.0.mixer.in_proj", 16, 4), ("backbone.layers.0.mixer.out_proj", 4, 8)];

fn a(i: usize) -> f32 {
    (i % 3) as f32 - 1.0
}

fn b(i: usize) -> f32 {
    (i % 5) as f32 - 2.0
}

/// The factors under the names that `names` gives to a matrix's `A` and `B`.
fn factors(names: impl Fn(&str) -> [String; 2], turned: bool) -> Tensors {
    let mut all = Tensors::new();
    for (name, rows, cols) in CHANGED {
        let [name_a, name_b] = names(name);
        if turned {
            put(&mut all, &name_a, &[cols, RANK], |i| a(i % RANK * cols + i / RANK));
        } else {
            put(&mut all, &name_a, &[RANK, cols], a);
        }
        put(&mut all, &name_b, &[rows, RANK], b);
    }
    all
}

/// The model with `scale · B A` added.
fn merged(scale: f32) -> Tensors {
    let mut all = mamba();
    for (name, _, cols) in CHANGED {
        let (_, values) = all.get_mut(&format!("{name}.weight")).expect("a matrix");
        for (i, value) in values.iter_mut().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let product = (0..RANK).map(|k| b(row * RANK + k) * a(k * cols + col)).sum::<f32>();
            *value += scale * product;
        }
    }
    all
}

fn fingerprint(tensors: &Tensors) -> String {
    converted(folder(tensors, CONFIG).path(), |_| ()).expect("a model").1
}

fn with_loras(base: &Path, loras: &[(&Path, f32)]) -> Result<(String, String), String> {
    let loras = loras.iter().map(|(path, scale)| Lora { path: path.to_path_buf(), scale: *scale });
    let loras = loras.collect();
    converted(base, |options| options.loras = loras).map(|(_, print, recipe)| (print, recipe))
}

fn rwkv_peft(name: &str) -> [String; 2] {
    [format!("{name}.lora_A"), format!("{name}.lora_B")]
}

#[test]
fn files_of_every_kind() {
    let base = folder(&mamba(), CONFIG);
    let other = tempfile::tempdir().expect("a folder");
    let file = other.path().join("lora.safetensors");
    assert_ne!(fingerprint(&merged(2.0)), fingerprint(&mamba()));
    for before in ["", "module.", "_orig_mod.", "base_model.model.", "model._forward_module."] {
        write(&file, &factors(|name| rwkv_peft(&format!("{before}{name}")), false));
        for scale in [2.0, -0.5] {
            let (found, recipe) = with_loras(base.path(), &[(&file, scale)]).expect("a model");
            assert_eq!(found, fingerprint(&merged(scale)), "{before}{scale}");
            let expected = format!("--lora 'lora.safetensors:{scale}' (xxh3-64:");
            assert!(recipe.contains(&expected), "{recipe}");
        }
    }
    let twice = with_loras(base.path(), &[(&file, 0.5), (&file, 1.0)]).expect("a model").0;
    assert_eq!(twice, fingerprint(&merged(1.5)));
    assert_eq!(with_loras(base.path(), &[(&file, 0.0)]).expect("a model").0, fingerprint(&mamba()));

    // web-rwkv's.
    write(&file, &factors(|name| [format!("{name}.lora.0"), format!("{name}.lora.1")], true));
    let found = with_loras(base.path(), &[(&file, 3.0)]).expect("a model").0;
    assert_eq!(found, fingerprint(&merged(3.0)));
}

/// A folder of PEFT says alpha; `use_rslora` and patterns change its factor.
#[test]
fn folders_of_peft() {
    let base = folder(&mamba(), CONFIG);
    let adapter = tempfile::tempdir().expect("a folder");
    let names =
        |name: &str| ["A", "B"].map(|half| format!("base_model.model.{name}.lora_{half}.weight"));
    write(&adapter.path().join("adapter_model.safetensors"), &factors(names, false));
    let with = |config: &str| {
        fs::write(adapter.path().join("adapter_config.json"), config).expect("a file");
        with_loras(base.path(), &[(adapter.path(), 0.5)]).map(|found| found.0)
    };
    let good = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 8, "use_dora": false"#;
    assert_eq!(with(&format!("{good}}}")), Ok(fingerprint(&merged(2.0))));
    let pattern = r#""alpha_pattern": {"in_proj": 4, "mixer.out_proj": 4}"#;
    assert_eq!(with(&format!("\u{feff}{good}, {pattern}}}")), Ok(fingerprint(&merged(1.0))));
    let root = with(&format!("{good}, \"use_rslora\": true}}")).expect("a model");
    assert_ne!(root, fingerprint(&merged(2.0)));
    for (config, words) in [
        (r#"{"peft_type": "IA3"}"#, "peft_type must be LORA"),
        (r#"{"use_dora": true}"#, "use_dora must be absent"),
        (r#"{"lora_alpha": "x"}"#, "lora_alpha must be a number"),
        ("{", "adapter_config.json"),
    ] {
        let message = with(config).expect_err(words);
        assert!(message.contains(words) && message.contains("adapter_config.json"), "{message}");
    }
}

/// Tensors that were trained whole stand in the place of the model's; an embedding's change is
/// transposed.
#[test]
fn whole_tensors_and_embeddings() {
    let base = folder(&mamba(), CONFIG);
    let other = tempfile::tempdir().expect("a folder");
    let file = other.path().join("lora.safetensors");
    let mut lora = factors(rwkv_peft, false);
    put(&mut lora, "backbone.layers.0.norm.weight", &[1, 4], |i| i as f32 + 8.0);
    put(&mut lora, "base_model.model.backbone.embeddings.lora_embedding_A", &[RANK, 6], a);
    put(&mut lora, "base_model.model.backbone.embeddings.lora_embedding_B", &[4, RANK], b);
    write(&file, &lora);
    let mut expected = merged(0.5);
    let norm = &mut expected.get_mut("backbone.layers.0.norm.weight").expect("a norm").1;
    norm.iter_mut().enumerate().for_each(|(i, v)| *v += 0.5 * (i as f32 + 8.0 - *v));
    let embedding = &mut expected.get_mut("backbone.embeddings.weight").expect("an embedding").1;
    for (i, value) in embedding.iter_mut().enumerate() {
        let (row, col) = (i / 4, i % 4);
        *value += 0.5 * (0..RANK).map(|k| b(col * RANK + k) * a(k * 6 + row)).sum::<f32>();
    }
    let found = with_loras(base.path(), &[(&file, 0.5)]).expect("a model").0;
    assert_eq!(found, fingerprint(&expected));
}

#[test]
fn what_does_not_fit_is_refused() {
    let base = folder(&mamba(), CONFIG);
    let other = tempfile::tempdir().expect("a folder");
    let file = other.path().join("lora.safetensors");
    let refused = |change: &dyn Fn(&mut Tensors)| {
        let mut lora = factors(rwkv_peft, false);
        change(&mut lora);
        write(&file, &lora);
        with_loras(base.path(), &[(&file, 1.0)]).expect_err("refused")
    };
    let name = "backbone.layers.0.mixer.in_proj.lora_A";
    for (message, words) in [
        (refused(&|l| drop(l.remove(name))), "in_proj.lora_A\" is missing"),
        (refused(&|l| put(l, name, &[3, 4], a)), "in_proj.lora_A\": the shape"),
        (refused(&|l| put(l, name, &[2, 5], a)), "in_proj.weight [16, 4], found [2, 5]"),
        (refused(&|l| put(l, "x.key.lora_A", &[2, 4], a)), "\"x.key.lora_A\": the name"),
        (refused(&|l| put(l, "x", &[2], a)), "\"x\": the name must be that of a tensor of"),
        (refused(&|l| put(l, "backbone.norm_f.weight", &[5], a)), "norm_f.weight [4], found [5]"),
        (refused(&|l| *l = mamba()), "without any LoRA"),
    ] {
        assert!(message.contains(words) && message.contains("lora.safetensors"), "{message}");
    }
    write(&file, &factors(rwkv_peft, false));
    let message = converted(&file, |_| ()).expect_err("an adapter alone");
    assert!(message.contains("is a LoRA adapter") && message.contains("--lora"), "{message}");
    let mut options = ConvertOptions::new(DType::F32);
    options.loras = vec![Lora { path: file.clone(), scale: 1.0 }];
    options.force = true;
    let done = convert(base.path(), &file, &options, &mut |_| ControlFlow::Continue(()));
    let message = done.expect_err("onto an input").to_string();
    assert!(message.contains("must not be overwritten"), "{message}");
}
