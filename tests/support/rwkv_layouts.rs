//! BlinkDL's tensors as other projects name and store them: rwkv.cpp's converter, llama.cpp's,
//! flash-linear-attention, web-rwkv's, Hugging Face's `RwkvForCausalLM` and its successors. Written
//! from those projects' converters and classes, not from ours.

use crate::random_rwkv::N_LAYER;
use crate::rwkv::{Tensor, Weights};

/// The last two dimensions swapped.
fn turned(tensor: &Tensor) -> Tensor {
    let n = tensor.shape.len();
    let (rows, cols) = (tensor.shape[n - 2], tensor.shape[n - 1]);
    let mut shape = tensor.shape.clone();
    shape.swap(n - 2, n - 1);
    let block = |block: &[f32]| {
        (0..rows * cols).map(|i| block[i % rows * cols + i / rows]).collect::<Vec<f32>>()
    };
    Tensor { shape, values: tensor.values.chunks_exact(rows * cols).flat_map(block).collect() }
}

fn squeezed(tensor: &Tensor) -> Tensor {
    Tensor {
        shape: tensor.shape.iter().copied().filter(|n| *n > 1).collect(),
        values: tensor.values.clone(),
    }
}

fn mapped(tensor: &Tensor, f: impl Fn(f32) -> f32) -> Tensor {
    Tensor { shape: tensor.shape.clone(), values: tensor.values.iter().map(|v| f(*v)).collect() }
}

/// Takes `names` out of `weights` and stacks them.
fn stacked(weights: &mut Weights, names: impl Iterator<Item = String>, shape: &[usize]) -> Tensor {
    let values = names.flat_map(|name| weights.remove(&name).expect("a vector").values).collect();
    Tensor { shape: shape.to_vec(), values }
}

const ADAPTERS: [&str; 11] = [
    "w1",
    "w2",
    "a1",
    "a2",
    "g1",
    "g2",
    "v1",
    "v2",
    "time_maa_w1",
    "time_decay_w1",
    "time_decay_w2",
];

fn is_adapter(name: &str) -> bool {
    ADAPTERS.iter().any(|adapter| name.ends_with(&format!("att.{adapter}")))
}

/// As rwkv.cpp's converter stores it.
pub fn as_rwkv_cpp(weights: &Weights) -> Weights {
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
        if has("ln_x.weight")
            && ["time_decay", "time_first", "time_faaaa"].iter().any(|n| name.ends_with(n))
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

/// As llama.cpp's converter names and stores RWKV-6 and 7. `rescale_every` layers divide their
/// output by two once more.
pub fn as_gguf(weights: &Weights, rescale_every: usize) -> Weights {
    let d_model = weights["ln_out.weight"].shape[0];
    let is_7 = weights.contains_key("blocks.0.att.r_k");
    let mut out = Weights::new();
    for (name, tensor) in weights {
        let new = match name.strip_prefix("blocks.") {
            None => {
                let pairs =
                    [("emb.", "token_embd."), ("head.", "output."), ("ln_out.", "output_norm.")];
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
        let suffix =
            if new.ends_with(".weight") || new.ends_with(".bias") { "" } else { ".weight" };
        let mut tensor = tensor.clone();
        if is_adapter(name) || name.ends_with("time_maa_w2") {
            tensor = turned(&tensor);
        } else if name.ends_with("r_k") || name.ends_with("att.time_decay") {
            tensor.shape = vec![tensor.values.len()];
        }
        if name.ends_with("att.output.weight") || name.ends_with("ffn.value.weight") {
            let layer: usize =
                name.split('.').nth(1).and_then(|n| n.parse().ok()).expect("a layer");
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

/// As flash-linear-attention names and stores RWKV-7; `fused` as its first versions did with the
/// mixing vectors.
pub fn as_fla(weights: &Weights, fused: bool) -> Weights {
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

/// As the converter of web-rwkv and Ai00 stores RWKV-5 to 7: some names shortened, adapters
/// transposed.
pub fn as_web_rwkv(weights: &Weights) -> Weights {
    let stored = |(name, tensor): (&String, &Tensor)| {
        let turn = is_adapter(name) || name.ends_with("time_maa_w2");
        let tensor = if turn { turned(tensor) } else { tensor.clone() };
        let name = name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix");
        (name, tensor)
    };
    weights.iter().map(stored).collect()
}

/// As Hugging Face's `RwkvForCausalLM` names RWKV-4, and classes that folders bring along the later
/// ones; `body` is what the class calls the model without its head.
pub fn as_rwkv_for_causal_lm(weights: &Weights, body: &str) -> Weights {
    let rename = |name: &String| {
        let mut new = if name == "head.weight" { name.clone() } else { format!("{body}{name}") };
        for (a, b) in [
            ("emb.", "embeddings."),
            ("ln0", "pre_ln"),
            (".att.", ".attention."),
            (".ffn.", ".feed_forward."),
        ] {
            new = new.replacen(a, b, 1);
        }
        for (a, b) in [("k", "key"), ("v", "value"), ("r", "receptance"), ("g", "gate")] {
            new = new.replace(&format!("time_mix_{a}"), &format!("time_mix_{b}"));
        }
        new
    };
    weights.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}
