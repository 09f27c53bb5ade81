//! RWKV models of odd shapes, in every layout a checkpoint may have, against a plain f64 reference.
//!
//! Heads of 7 or 23 channels, a time mix wider or narrower than the residual stream, ranks of 3: shapes that no published
//! fixture has. And for each layout: without any one of its tensors, or with one of another shape, the conversion is an
//! error that names the tensor.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use brooklet::Isa;
use brooklet_formats::DType;
use brooklet_formats::convert::{ConvertOptions, convert};
use brooklet_tests::rwkv::{Epsilons, Tensor, Weights, reference};
use brooklet_tests::write::{self, GgufValue};
use brooklet_tests::{converted, max_difference, open, run};

const N_VOCAB: usize = 37;
const N_LAYER: usize = 3;
const OFFICIAL: Epsilons = Epsilons { ln: 1e-5, ln_out: 1e-5, ln_x: 64e-5 };

/// A model with random weights.
struct Random {
    weights: Weights,
    state: u64,
}

impl Random {
    fn new(d_model: usize) -> Random {
        let mut random = Random { weights: Weights::new(), state: 0x1234_5678 };
        random.tensor("emb.weight", &[N_VOCAB, d_model], 0.0, 1.0);
        random.tensor("head.weight", &[N_VOCAB, d_model], 0.0, 2.0 / (d_model as f32).sqrt());
        random.norm("blocks.0.ln0", d_model);
        random.norm("ln_out", d_model);
        for i in 0..N_LAYER {
            random.norm(&format!("blocks.{i}.ln1"), d_model);
            random.norm(&format!("blocks.{i}.ln2"), d_model);
        }
        random
    }

    /// Values in `center` ± `spread`.
    fn tensor(&mut self, name: &str, shape: &[usize], center: f32, spread: f32) {
        let mut next = || {
            self.state =
                self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let values = (0..shape.iter().product()).map(|_: usize| center + spread * next()).collect();
        self.weights.insert(name.to_owned(), Tensor { shape: shape.to_vec(), values });
    }

    fn norm(&mut self, name: &str, n: usize) {
        self.tensor(&format!("{name}.weight"), &[n], 1.0, 0.3);
        self.tensor(&format!("{name}.bias"), &[n], 0.0, 0.3);
    }

    /// A projection, `[out, in]`, that keeps the scale of its input.
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) {
        self.tensor(&format!("{name}.weight"), &[rows, cols], 0.0, 1.7 / (cols as f32).sqrt());
    }

    /// One half of an adapter, `[in, out]`.
    fn adapter(&mut self, name: &str, shape: &[usize]) {
        self.tensor(name, shape, 0.0, 1.7 / (shape[shape.len() - 2] as f32).sqrt());
    }

    /// Vectors of mixing proportions.
    fn mixes(&mut self, at: &str, letters: &str, d_model: usize) {
        letters.chars().for_each(|letter| self.tensor(&format!("{at}{letter}"), &[1, 1, d_model], 0.5, 0.5));
    }

    fn gated_channel_mix(&mut self, at: &str, mix: &str, d_model: usize, d_ff: usize) {
        self.mixes(&format!("{at}.ffn.{mix}_"), "kr", d_model);
        self.matrix(&format!("{at}.ffn.key"), d_ff, d_model);
        self.matrix(&format!("{at}.ffn.receptance"), d_model, d_model);
        self.matrix(&format!("{at}.ffn.value"), d_model, d_ff);
    }
}

fn rwkv4(d_model: usize, d_att: usize, d_ff: usize) -> Weights {
    let mut random = Random::new(d_model);
    for i in 0..N_LAYER {
        let at = format!("blocks.{i}");
        random.mixes(&format!("{at}.att.time_mix_"), "kvr", d_model);
        random.tensor(&format!("{at}.att.time_decay"), &[d_att], -1.0, 3.0);
        random.tensor(&format!("{at}.att.time_first"), &[d_att], 0.0, 2.0);
        for name in ["key", "value", "receptance"] {
            random.matrix(&format!("{at}.att.{name}"), d_att, d_model);
        }
        random.matrix(&format!("{at}.att.output"), d_model, d_att);
        random.gated_channel_mix(&at, "time_mix", d_model, d_ff);
    }
    random.weights
}

/// `version` is 0, 1 or 2.
fn rwkv5(version: usize, d_model: usize, [n_head, d_head]: [usize; 2], d_ff: usize) -> Weights {
    let mut random = Random::new(d_model);
    let d_att = n_head * d_head;
    let per_head = if version == 2 { vec![n_head, d_head] } else { vec![n_head] };
    for i in 0..N_LAYER {
        let at = format!("blocks.{i}");
        let gate = if version == 0 { &[][..] } else { &["gate"] };
        random.mixes(&format!("{at}.att.time_mix_"), if version == 0 { "kvr" } else { "kvrg" }, d_model);
        random.tensor(&format!("{at}.att.time_decay"), &per_head, -1.0, 3.0);
        let bonus = if version == 0 { "time_first" } else { "time_faaaa" };
        random.tensor(&format!("{at}.att.{bonus}"), &per_head, 0.0, 1.0);
        for name in ["key", "value", "receptance"].iter().chain(gate) {
            random.matrix(&format!("{at}.att.{name}"), d_att, d_model);
        }
        random.matrix(&format!("{at}.att.output"), d_model, d_att);
        random.norm(&format!("{at}.att.ln_x"), d_att);
        random.gated_channel_mix(&at, "time_mix", d_model, d_ff);
    }
    random.weights
}

fn rwkv6(d_model: usize, [n_head, d_head]: [usize; 2], d_ff: usize, [mix, decay]: [usize; 2]) -> Weights {
    let mut random = Random::new(d_model);
    let d_att = n_head * d_head;
    for i in 0..N_LAYER {
        let at = format!("blocks.{i}");
        random.mixes(&format!("{at}.att.time_maa_"), "xwkvrg", d_model);
        random.adapter(&format!("{at}.att.time_maa_w1"), &[d_model, 5 * mix]);
        random.adapter(&format!("{at}.att.time_maa_w2"), &[5, mix, d_model]);
        random.tensor(&format!("{at}.att.time_decay"), &[1, 1, d_att], -2.0, 3.0);
        random.adapter(&format!("{at}.att.time_decay_w1"), &[d_model, decay]);
        random.adapter(&format!("{at}.att.time_decay_w2"), &[decay, d_att]);
        random.tensor(&format!("{at}.att.time_faaaa"), &[n_head, d_head], 0.0, 1.0);
        for name in ["key", "value", "receptance", "gate"] {
            random.matrix(&format!("{at}.att.{name}"), d_att, d_model);
        }
        random.matrix(&format!("{at}.att.output"), d_model, d_att);
        random.norm(&format!("{at}.att.ln_x"), d_att);
        random.gated_channel_mix(&at, "time_maa", d_model, d_ff);
    }
    random.weights
}

fn rwkv7([n_head, d_head]: [usize; 2], d_ff: usize, ranks: [usize; 4], first_layer_has_v: bool) -> Weights {
    let d_model = n_head * d_head;
    let mut random = Random::new(d_model);
    for i in 0..N_LAYER {
        let at = format!("blocks.{i}");
        random.mixes(&format!("{at}.att.x_"), "rwkvag", d_model);
        for (letter, rank) in ["w", "a", "v", "g"].into_iter().zip(ranks) {
            if letter == "v" && i == 0 && !first_layer_has_v {
                continue;
            }
            if letter != "g" {
                random.tensor(&format!("{at}.att.{letter}0"), &[1, 1, d_model], 0.0, 2.0);
            }
            random.adapter(&format!("{at}.att.{letter}1"), &[d_model, rank]);
            random.adapter(&format!("{at}.att.{letter}2"), &[rank, d_model]);
        }
        random.tensor(&format!("{at}.att.k_k"), &[1, 1, d_model], 0.8, 0.3);
        random.tensor(&format!("{at}.att.k_a"), &[1, 1, d_model], 1.0, 0.5);
        random.tensor(&format!("{at}.att.r_k"), &[n_head, d_head], 0.0, 0.5);
        for name in ["key", "value", "receptance", "output"] {
            random.matrix(&format!("{at}.att.{name}"), d_model, d_model);
        }
        random.norm(&format!("{at}.att.ln_x"), d_model);
        random.mixes(&format!("{at}.ffn.x_"), "k", d_model);
        random.matrix(&format!("{at}.ffn.key"), d_ff, d_model);
        random.matrix(&format!("{at}.ffn.value"), d_model, d_ff);
    }
    random.weights
}

/// The last two dimensions swapped.
fn turned(tensor: &Tensor) -> Tensor {
    let n = tensor.shape.len();
    let (rows, cols) = (tensor.shape[n - 2], tensor.shape[n - 1]);
    let mut shape = tensor.shape.clone();
    shape.swap(n - 2, n - 1);
    let block =
        |block: &[f32]| (0..rows * cols).map(|i| block[i % rows * cols + i / rows]).collect::<Vec<f32>>();
    Tensor { shape, values: tensor.values.chunks_exact(rows * cols).flat_map(block).collect() }
}

fn squeezed(tensor: &Tensor) -> Tensor {
    Tensor { shape: tensor.shape.iter().copied().filter(|n| *n > 1).collect(), values: tensor.values.clone() }
}

fn mapped(tensor: &Tensor, f: impl Fn(f32) -> f32) -> Tensor {
    Tensor { shape: tensor.shape.clone(), values: tensor.values.iter().map(|v| f(*v)).collect() }
}

/// Takes `names` out of `weights` and stacks them.
fn stacked(weights: &mut Weights, names: impl Iterator<Item = String>, shape: &[usize]) -> Tensor {
    let values = names.flat_map(|name| weights.remove(&name).expect("a vector").values).collect();
    Tensor { shape: shape.to_vec(), values }
}

const ADAPTERS: [&str; 11] =
    ["w1", "w2", "a1", "a2", "g1", "g2", "v1", "v2", "time_maa_w1", "time_decay_w1", "time_decay_w2"];

fn is_adapter(name: &str) -> bool {
    ADAPTERS.iter().any(|adapter| name.ends_with(&format!("att.{adapter}")))
}

/// As rwkv.cpp's converter stores it.
fn as_rwkv_cpp(weights: &Weights) -> Weights {
    let has = |name: &str| weights.contains_key(&format!("blocks.0.att.{name}"));
    let mut out = Weights::new();
    for (name, tensor) in weights {
        let mut tensor = if name.contains(".time_") { squeezed(tensor) } else { tensor.clone() };
        if is_adapter(name) || name.ends_with("time_maa_w2") {
            tensor = turned(&tensor);
        } else if has("time_maa_x") {
            // RWKV-6 keeps its decay as it is.
        } else if name.ends_with("time_decay") {
            tensor = match has("ln_x.weight") {
                true => mapped(&tensor, |w| (-w.exp()).exp()),
                false => mapped(&tensor, |w| -w.exp()),
            };
        } else if name.ends_with("time_first") && has("ln_x.weight") {
            tensor = mapped(&tensor, f32::exp);
        }
        // (n_head, d_head, 1) for a value per channel, (n_head, 1, 1) for one per head.
        if has("ln_x.weight") && ["time_decay", "time_first", "time_faaaa"].iter().any(|n| name.ends_with(n))
        {
            tensor.shape.resize(3, 1);
        }
        out.insert(name.clone(), tensor);
    }
    if has("r_k") {
        for i in 0..N_LAYER {
            let d_model = weights["ln_out.weight"].shape[0];
            let names = "rwkvag".chars().map(|letter| format!("blocks.{i}.att.x_{letter}"));
            let fused = stacked(&mut out, names, &[6, 1, d_model]);
            out.insert(format!("blocks.{i}.att.x_rwkvag"), fused);
        }
    }
    out
}

/// As llama.cpp's converter names and stores RWKV-6 and 7. `rescale_every` layers divide their output by two once more.
fn as_gguf(weights: &Weights, rescale_every: usize) -> Weights {
    let d_model = weights["ln_out.weight"].shape[0];
    let is_7 = weights.contains_key("blocks.0.att.r_k");
    let mut out = Weights::new();
    for (name, tensor) in weights {
        let new = match name.strip_prefix("blocks.") {
            None => {
                let pairs = [("emb.", "token_embd."), ("head.", "output."), ("ln_out.", "output_norm.")];
                pairs.iter().fold(name.clone(), |name, (a, b)| name.replace(a, b))
            }
            Some(rest) => {
                let (layer, rest) = rest.split_once('.').expect("a layer");
                let pairs = [
                    ("ln1.", "attn_norm."),
                    ("ln2.", "attn_norm_2."),
                    ("att.ln_x.", "time_mix_ln."),
                    ("att.time_maa_w", "time_mix_w"),
                    ("att.time_maa_", "time_mix_lerp_"),
                    ("att.time_decay", "time_mix_decay"),
                    ("att.time_faaaa", "time_mix_first"),
                    ("ffn.time_maa_", "channel_mix_lerp_"),
                    ("ffn.x_", "channel_mix_lerp_"),
                    ("att.x_", "time_mix_lerp_"),
                    ("att.", "time_mix_"),
                    ("ffn.", "channel_mix_"),
                ];
                // The mixing vector for w has the name of an adapter's beginning.
                let rest = if rest == "att.time_maa_w" {
                    "time_mix_lerp_w".to_owned()
                } else {
                    pairs.iter().fold(rest.to_owned(), |name, (a, b)| name.replacen(a, b, 1))
                };
                if rest.starts_with("ln0") {
                    rest.replace("ln0", "token_embd_norm")
                } else {
                    format!("blk.{layer}.{rest}")
                }
            }
        };
        let suffix = if new.ends_with(".weight") || new.ends_with(".bias") { "" } else { ".weight" };
        let mut tensor = tensor.clone();
        if is_adapter(name) || name.ends_with("time_maa_w2") {
            tensor = turned(&tensor);
        } else if name.ends_with("r_k") || name.ends_with("att.time_decay") {
            tensor.shape = vec![tensor.values.len()];
        }
        if name.ends_with("att.output.weight") || name.ends_with("ffn.value.weight") {
            let layer: usize = name.split('.').nth(1).and_then(|n| n.parse().ok()).expect("a layer");
            let halvings = layer.checked_div(rescale_every).unwrap_or(0);
            tensor = mapped(&tensor, |w| w / (1 << halvings) as f32);
        }
        out.insert(new + suffix, tensor);
    }
    for i in 0..N_LAYER {
        let letters = if is_7 { "rwkvag" } else { "wkvrg" };
        let names = letters.chars().map(|letter| format!("blk.{i}.time_mix_lerp_{letter}.weight"));
        let fused = stacked(&mut out, names, &[letters.len(), 1, 1, d_model]);
        out.insert(format!("blk.{i}.time_mix_lerp_fused.weight"), fused);
    }
    out
}

/// As flash-linear-attention names and stores RWKV-7; `fused` as its first versions did with the mixing vectors.
fn as_fla(weights: &Weights, fused: bool) -> Weights {
    let d_model = weights["ln_out.weight"].shape[0];
    let mut out = Weights::new();
    for (name, tensor) in weights {
        let mut new = name.replace("blocks.", "model.layers.");
        for (a, b) in [
            ("emb.", "model.embeddings."),
            ("head.", "lm_head."),
            ("ln_out.", "model.norm."),
            (".ln0.", ".pre_norm."),
            (".ln1.", ".attn_norm."),
            (".ln2.", ".ffn_norm."),
            (".att.ln_x.", ".attn.g_norm."),
            (".att.receptance.", ".attn.r_proj."),
            (".att.key.", ".attn.k_proj."),
            (".att.value.", ".attn.v_proj."),
            (".att.output.", ".attn.o_proj."),
            (".att.", ".attn."),
        ] {
            new = new.replacen(a, b, 1);
        }
        for letter in ["w", "a", "v", "g"] {
            for (end, lora) in [("0", "2.bias"), ("1", "0.weight"), ("2", "2.weight")] {
                if let Some(at) = new.strip_suffix(&format!("attn.{letter}{end}")) {
                    new = format!("{at}attn.{letter}_lora.lora.{lora}");
                }
            }
        }
        let tensor = if is_adapter(name) { turned(tensor) } else { tensor.clone() };
        out.insert(new, tensor);
    }
    for i in 0..if fused { N_LAYER } else { 0 } {
        let names = "rwkvag".chars().map(|letter| format!("model.layers.{i}.attn.x_{letter}"));
        let fused = stacked(&mut out, names, &[6, d_model]);
        out.insert(format!("model.layers.{i}.attn.x_x"), fused);
    }
    out
}

/// As Hugging Face's `RwkvForCausalLM` names RWKV-4.
fn as_rwkv_for_causal_lm(weights: &Weights) -> Weights {
    let rename = |name: &String| {
        let mut new = if name == "head.weight" { name.clone() } else { format!("rwkv.{name}") };
        for (a, b) in [
            ("emb.", "embeddings."),
            ("ln0", "pre_ln"),
            (".att.", ".attention."),
            (".ffn.", ".feed_forward."),
        ] {
            new = new.replacen(a, b, 1);
        }
        for (a, b) in [("mix_k", "mix_key"), ("mix_v", "mix_value"), ("mix_r", "mix_receptance")] {
            new = new.replace(a, b);
        }
        new
    };
    weights.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}

/// How a checkpoint is written, and what the model then computes.
struct Layout {
    name: &'static str,
    /// From BlinkDL's tensors.
    weights: Weights,
    write: Box<dyn Fn(&Path, &Weights) -> PathBuf>,
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

fn with_config(name: &'static str, weights: Weights, config: serde_json::Value, eps: Epsilons) -> Layout {
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
    Layout { name, weights: as_rwkv_cpp(weights), write: Box::new(write), eps: Epsilons { ln_x, ..OFFICIAL } }
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

/// Every layout of small models of odd shapes, with the model in BlinkDL's tensors.
fn layouts() -> Vec<(Weights, Layout)> {
    let mut all = Vec::new();
    for (c, d_att, f) in [(20, 36, 50), (33, 17, 7)] {
        let w = rwkv4(c, d_att, f);
        all.push((w.clone(), safetensors("rwkv4", w.clone())));
        all.push((w.clone(), rwkv_cpp("rwkv4 rwkv.cpp", &w, 0.0)));
        let eps = Epsilons { ln: 3e-3, ..OFFICIAL };
        let config = serde_json::json!({"model_type": "rwkv", "layer_norm_epsilon": 3e-3});
        all.push((w.clone(), with_config("rwkv4 Hugging Face", as_rwkv_for_causal_lm(&w), config, eps)));
    }
    for version in 0..3 {
        for (c, heads, f) in [(24, [3, 10], 50), (40, [2, 48], 21)] {
            let w = rwkv5(version, c, heads, f);
            all.push((w.clone(), safetensors(["rwkv5.0", "rwkv5.1", "rwkv5.2"][version], w.clone())));
            all.push((w.clone(), rwkv_cpp(["5.0", "5.1", "5.2 rwkv.cpp"][version], &w, 1e-5)));
        }
    }
    for (c, heads, f, ranks) in [(40, [2, 23], 33, [5, 7]), (48, [4, 8], 70, [3, 40])] {
        let w = rwkv6(c, heads, f, ranks);
        all.push((w.clone(), safetensors("rwkv6", w.clone())));
        all.push((w.clone(), rwkv_cpp("rwkv6 rwkv.cpp", &w, 64e-5)));
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
        let metadata = vec![
            ("general.architecture", GgufValue::Text("rwkv7")),
            ("rwkv7.attention.layer_norm_epsilon", GgufValue::F32(2e-5)),
            ("rwkv7.wkv.head_size", GgufValue::U32(heads[1] as u32)),
        ];
        let eps = Epsilons { ln: f64::from(2e-5f32), ln_out: f64::from(2e-5f32), ..OFFICIAL };
        all.push((with_v.clone(), gguf("rwkv7 GGUF", as_gguf(&with_v, 0), metadata, eps)));
        let eps = Epsilons { ln: 1e-3, ln_out: 1e-3, ln_x: heads[1] as f64 * 1e-3 };
        for fused in [false, true] {
            let config = serde_json::json!({"model_type": "rwkv7", "norm_eps": 1e-3, "norm_bias": true});
            all.push((w.clone(), with_config("rwkv7 Hugging Face", as_fla(&w, fused), config, eps)));
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
        stored.retain(|name, _| name != "head.weight" && !biases.iter().any(|bias| name.ends_with(bias)));
        let config = serde_json::json!({
            "model_type": "rwkv7", "norm_eps": 1e-3, "norm_bias": false, "tie_word_embeddings": true
        });
        all.push((plain, with_config("rwkv7 Hugging Face, tied", as_fla(&stored, false), config, eps)));
    }
    all
}

#[test]
fn logits_of_every_layout() {
    let tokens: Vec<u32> = (0..40).map(|i| (i * i + 3 * i) % N_VOCAB as u32).collect();
    for (weights, layout) in layouts() {
        let expected = reference(&weights, &tokens, layout.eps);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = converted(&(layout.write)(folder.path(), &layout.weights), folder.path(), DType::F32);
        for (isa, chunk, threads) in [(Isa::Scalar, 1, 1), (Isa::best(), 9, 2), (Isa::best(), 40, 3)] {
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
    let result =
        convert(&source, &target, &ConvertOptions::new(DType::F32), &mut |_| ControlFlow::Continue(()));
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
    let after = |start: &str| name.strip_prefix(start).is_some_and(|rest| rest.starts_with(['0', '1', '2']));
    after("blocks.0.att.v") || after("blk.0.time_mix_v")
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
            let name = if layout.name.starts_with("rwkv4") {
                name.replace("time_faaaa", "time_first")
            } else {
                name
            };
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
                if layout.name.ends_with("tied") && name == "model.embeddings.weight" && dimension == 0 {
                    continue;
                }
                let mut shape = tensor.shape.clone();
                shape[dimension] += 1;
                let values = vec![0.5; shape.iter().product()];
                let mut weights = layout.weights.clone();
                weights.insert(name.clone(), Tensor { shape, values });
                let error = error_of(&layout, &weights);
                let error = error.unwrap_or_else(|| panic!("{}: no error: shape of {name}", layout.name));
                assert!(error.contains("must be"), "{}: {name}: {error}", layout.name);
            }
        }
    }
}

#[test]
fn an_unknown_tensor_of_a_layer_is_refused() {
    let (mut weights, layout) = layouts().swap_remove(0);
    weights.insert("blocks.1.att.time_state".to_owned(), Tensor { shape: vec![1], values: vec![0.0] });
    let error = error_of(&layout, &weights).expect("an error");
    assert!(error.contains("time_state") && error.contains("rwkv4"), "{error}");
}
