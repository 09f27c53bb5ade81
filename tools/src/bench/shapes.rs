//! Real models' dimensions, and plausible random values for their tensors, so that states neither
//! explode nor die.
//!
//! Which tensors there are is the engine's to say (`Model::tensors`). Not here: writing them
//! (`synthetic`). Sources: the published checkpoints of RWKV "Pile" and "World", of
//! `state-spaces/mamba*`, and the `config.json` of Qwen3.5, LFM2, Granite-4-H, Falcon-H1 and
//! Nemotron-H. Test: below; `tests/cli/bench.rs` runs some.

use brooklet::TensorSpec;
use serde_json::{Map, Value, json};

/// A size of a family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// The name that `--synthetic` takes.
    pub(super) name: &'static str,
    /// The architecture, as in the file.
    pub(super) architecture: &'static str,
    config: fn() -> Value,
}

const fn shape(name: &'static str, architecture: &'static str, config: fn() -> Value) -> Shape {
    Shape { name, architecture, config }
}

/// All sizes.
pub(super) const SHAPES: [Shape; 21] = [
    shape("rwkv4-0.4b", "rwkv4", || rwkv4(24, 1024)),
    shape("rwkv5-1.5b", "rwkv5", || rwkv5(24, 2048)),
    shape("rwkv6-1.6b", "rwkv6", || rwkv6(24, 2048)),
    shape("rwkv7-0.1b", "rwkv7", || rwkv7(12, 768, [64, 64, 32, 128])),
    shape("rwkv7-0.4b", "rwkv7", || rwkv7(24, 1024, [64, 64, 32, 128])),
    shape("rwkv7-1.5b", "rwkv7", || rwkv7(24, 2048, [96, 96, 64, 256])),
    shape("rwkv7-2.9b", "rwkv7", || rwkv7(32, 2560, [96, 96, 64, 320])),
    shape("mamba1-130m", "mamba1", || mamba1(24, 768)),
    shape("mamba1-790m", "mamba1", || mamba1(48, 1536)),
    shape("mamba1-2.8b", "mamba1", || mamba1(64, 2560)),
    shape("mamba2-130m", "mamba2", || mamba2(24, 768)),
    shape("mamba2-1.3b", "mamba2", || mamba2(48, 2048)),
    shape("mamba2-2.7b", "mamba2", || mamba2(64, 2560)),
    shape("qwen3.5-0.8b", "qwen3_5", || qwen3_5(1024, 3584)),
    shape("qwen3.5-2b", "qwen3_5", || qwen3_5(2048, 6144)),
    shape("lfm2-350m", "lfm2", || lfm2(1024, 4608, 16)),
    shape("lfm2-1.2b", "lfm2", || lfm2(2048, 8192, 32)),
    shape("granite4-h-350m", "granitemoehybrid", || granite4(768, 2048, &[10, 13, 17, 27], 32)),
    shape("granite4-h-1b", "granitemoehybrid", || granite4(1536, 4096, &[5, 15, 25, 35], 40)),
    shape("falcon-h1-0.5b", "falcon_h1", falcon_h1),
    shape("nemotron-h-4b", "nemotron_h", nemotron_h),
];

fn rwkv4(n_layer: usize, c: usize) -> Value {
    json!({
        "n_layer": n_layer, "d_model": c, "n_vocab": 50277, "d_att": c, "d_ff": 4 * c,
        "ln_eps": 1e-5,
    })
}

fn rwkv5(n_layer: usize, c: usize) -> Value {
    json!({
        "n_layer": n_layer, "d_model": c, "n_vocab": 65536, "d_att": c, "d_ff": c / 2 * 7,
        "d_head": 64, "has_gate": true, "ln_eps": 1e-5, "ln_x_eps": 64e-5,
    })
}

fn rwkv6(n_layer: usize, c: usize) -> Value {
    json!({
        "n_layer": n_layer, "d_model": c, "n_vocab": 65536, "d_att": c, "d_ff": c / 2 * 7,
        "d_head": 64, "rank_mix": 32, "rank_decay": 64, "ln_eps": 1e-5, "ln_x_eps": 64e-5,
    })
}

/// With the ranks of the low-rank branches w, a, v, g.
fn rwkv7(n_layer: usize, c: usize, [w, a, v, g]: [usize; 4]) -> Value {
    json!({
        "n_layer": n_layer, "d_model": c, "n_vocab": 65536, "d_ff": 4 * c, "d_head": 64,
        "rank_w": w, "rank_a": a, "rank_v": v, "rank_g": g, "ln_eps": 1e-5, "ln_x_eps": 64e-5,
    })
}

fn mamba1(n_layer: usize, c: usize) -> Value {
    json!({
        "n_layer": n_layer, "d_model": c, "n_vocab": 50280, "d_inner": 2 * c, "d_state": 16,
        "d_conv": 4, "dt_rank": c / 16, "norm_eps": 1e-5,
    })
}

fn mamba2(n_layer: usize, c: usize) -> Value {
    json!({
        "n_layer": n_layer, "d_model": c, "n_vocab": 50288, "d_inner": 2 * c, "d_state": 128,
        "d_conv": 4, "n_head": c / 32, "d_head": 64, "n_group": 1, "norm_before_gate": false,
        "norm_eps": 1e-5,
    })
}

/// Every fourth of 24 layers is attention; the head is the embedding.
fn qwen3_5(c: usize, d_ff: usize) -> Value {
    json!({
        "n_layer": 24, "layer_types": kinds(24, "delta", |i| i % 4 == 3), "d_model": c,
        "n_vocab": 248320, "n_context": 262144, "d_ff": d_ff, "d_conv": 4, "n_head": 16,
        "n_key_head": 16, "d_key": 128, "d_head": 128, "has_gate": true, "is_tiled": false,
        "n_attn_head": 8, "n_kv_head": 2, "d_attn_head": 256, "has_attn_gate": true,
        "has_qk_norm": true, "n_rot": 64, "rope_base": 1e7, "norm_eps": 1e-6, "out_norm_eps": 1e-6,
    })
}

fn lfm2(c: usize, d_ff: usize, n_attn_head: usize) -> Value {
    json!({
        "n_layer": 16, "layer_types": kinds(16, "conv", |i| [2, 5, 8, 10, 12, 14].contains(&i)),
        "d_model": c, "n_vocab": 65536, "n_context": 128000, "d_ff": d_ff, "d_conv": 3,
        "n_attn_head": n_attn_head, "n_kv_head": 8, "d_attn_head": 64, "has_qk_norm": true,
        "n_rot": 64, "rope_base": 1e6, "norm_eps": 1e-5,
    })
}

/// Without experts and without positions.
fn granite4(c: usize, d_ff: usize, attention: &[usize], n_layer: usize) -> Value {
    json!({
        "n_layer": n_layer, "layer_types": kinds(n_layer, "mamba2", |i| attention.contains(&i)),
        "d_model": c, "n_vocab": 100352, "n_context": 32768, "d_ff": d_ff, "d_inner": 2 * c,
        "n_head": 48, "d_head": c / 24, "d_state": 128, "d_conv": 4, "n_group": 1,
        "n_attn_head": 12, "n_kv_head": 4, "d_attn_head": c / 12, "attn_scale": 12.0 / c as f64,
        "norm_eps": 1e-5,
    })
}

/// Mamba-2 without a norm beside attention, in every layer.
fn falcon_h1() -> Value {
    json!({
        "n_layer": 36, "d_model": 1024, "n_vocab": 32784, "n_context": 16384, "d_ff": 2048,
        "d_inner": 1536, "n_head": 24, "d_head": 64, "d_state": 128, "d_conv": 4, "n_group": 1,
        "norm_before_gate": false, "n_attn_head": 8, "n_kv_head": 2, "d_attn_head": 64,
        "n_rot": 64, "rope_base": 1e11, "norm_eps": 1e-5,
    })
}

fn nemotron_h() -> Value {
    let pattern = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-";
    let kind = |letter| match letter {
        'M' => "mamba2",
        '*' => "attention",
        _ => "mlp",
    };
    json!({
        "n_layer": pattern.len(), "layer_types": pattern.chars().map(kind).collect::<Vec<_>>(),
        "d_model": 3072, "n_vocab": 131072, "n_context": 8192, "d_ff": 12288, "d_inner": 7168,
        "n_head": 112, "d_head": 64, "d_state": 128, "d_conv": 4, "n_group": 8, "n_attn_head": 32,
        "n_kv_head": 8, "d_attn_head": 128, "norm_eps": 1e-5,
    })
}

/// The kinds of the layers of a hybrid.
fn kinds(n: usize, recurrent: &str, is_attention: impl Fn(usize) -> bool) -> Vec<&str> {
    (0..n).map(|layer| if is_attention(layer) { "attention" } else { recurrent }).collect()
}

/// Values of a plain tensor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values {
    /// All the same.
    Constant(f32),
    /// Evenly from `[low, high)`.
    Uniform(f32, f32),
    /// The index in the dimension before the last, counted from 1, negated: Mamba-1's `A` in blocks
    /// of 16 channels.
    NegativeIndex,
    /// `softplus⁻¹(dt)`, dt evenly in its logarithm from 0.001 to 0.1 (how Mamba starts its `dt`
    /// bias).
    InverseSoftplusDt,
}

/// The values of plain tensors: the first row counts whose architecture begins a file's and whose
/// name begins a tensor's, behind its layer. The rest is norms: ones, and zeros for their biases.
const VALUES: &[(&str, &str, Values)] = &[
    ("rwkv", "att.mix_", Values::Uniform(0.0, 1.0)),
    ("rwkv", "att.maa_", Values::Uniform(0.0, 1.0)),
    ("rwkv", "att.x_", Values::Uniform(0.0, 1.0)),
    ("rwkv", "ffn.", Values::Uniform(0.0, 1.0)),
    ("rwkv", "ln2.bias", Values::Constant(1.0)),
    ("rwkv", "att.bonus", Values::Uniform(-0.1, 0.5)),
    ("rwkv4", "att.decay", Values::Uniform(-2.0, -0.01)),
    ("rwkv5", "att.decay", Values::Uniform(0.5, 1.0)),
    ("rwkv6", "att.decay_base", Values::Uniform(-6.0, 1.0)),
    ("rwkv7", "att.w0", Values::Uniform(-6.0, 1.0)),
    ("rwkv7", "att.a0", Values::Uniform(-1.0, 1.0)),
    ("rwkv7", "att.v0", Values::Uniform(0.0, 1.0)),
    ("rwkv7", "att.k_k", Values::Constant(0.85)),
    ("rwkv7", "att.r_k", Values::Uniform(-0.1, 0.1)),
    ("mamba", "conv.weight", Values::Uniform(-0.5, 0.5)),
    ("mamba", "conv.bias", Values::Uniform(-0.1, 0.1)),
    ("mamba", "dt_", Values::InverseSoftplusDt),
    ("mamba1", "A", Values::NegativeIndex),
    ("", "A", Values::Uniform(-16.0, -1.0)),
    ("", "dt_bias", Values::InverseSoftplusDt),
    ("", "conv.weight", Values::Uniform(-0.5, 0.5)),
    ("", "attn.rope", Values::Uniform(0.0, 1.0)),
];

/// Matrices that keep 8 bits or more: low-rank branches, and what Mamba decides its steps with.
const DELICATE: &[&str] = &[
    "att.w",
    "att.a",
    "att.v1",
    "att.v2",
    "att.g1",
    "att.g2",
    "att.maa_",
    "att.decay_",
    "x_proj",
    "dt_proj",
    "in_proj.dt",
];

impl Shape {
    /// The shape of that name.
    pub(super) fn named(name: &str) -> Option<&'static Shape> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// The hyper-parameters, as in the file.
    pub(super) fn config(&self) -> Map<String, Value> {
        match (self.config)() {
            Value::Object(config) => config,
            _ => Map::new(),
        }
    }

    fn is_rwkv(&self) -> bool {
        self.architecture.starts_with("rwkv")
    }

    /// Whether its models have the tensor: of those that a file may lack, Mamba-2's have a gated
    /// norm, but for Falcon-H1's, and some a head; no bias is there.
    pub(super) fn has(&self, tensor: &TensorSpec) -> bool {
        let has_norm = self.architecture != "falcon_h1" && is_norm(&tensor.name);
        !tensor.is_optional || tensor.name == "head" && self.has_head() || has_norm
    }

    /// Whether the head is a matrix of its own. (Granite's converted file has one although it is
    /// the embedding: each has a factor of its own. So has Falcon-H1's.)
    fn has_head(&self) -> bool {
        self.is_rwkv()
            || ["granitemoehybrid", "falcon_h1", "nemotron_h"].contains(&self.architecture)
    }

    /// The values of a plain tensor.
    pub(super) fn values(&self, tensor: &TensorSpec) -> Values {
        let name = in_layer(&tensor.name);
        let row = VALUES.iter().find(|(architecture, start, _)| {
            self.architecture.starts_with(architecture) && name.starts_with(start)
        });
        match row {
            Some((_, _, values)) => *values,
            None if name.ends_with(".bias") => Values::Constant(0.0),
            None => Values::Constant(1.0),
        }
    }

    /// Whether a matrix keeps 8 bits or more.
    pub(super) fn is_delicate(&self, matrix: &TensorSpec) -> bool {
        let name = in_layer(&matrix.name);
        name == "embed" && self.is_rwkv() || DELICATE.iter().any(|start| name.starts_with(start))
    }

    /// The standard deviation of a matrix.
    pub(super) fn std(&self, matrix: &TensorSpec) -> f32 {
        if matrix.name == "embed" && self.is_rwkv() { 1.0 } else { 0.02 }
    }

    /// The mean of a matrix. That of `ffn.key` makes most of what meets the squared ReLU negative,
    /// as training does: of inputs with the mean 1 (`ln2.bias`) 84 % become zero at 8 bits.
    pub(super) fn mean(&self, matrix: &TensorSpec) -> f32 {
        match in_layer(&matrix.name) {
            "ffn.key" => -1.17 * self.std(matrix) / (matrix.shape[1] as f32).sqrt(),
            _ => 0.0,
        }
    }
}

fn is_norm(name: &str) -> bool {
    in_layer(name) == "gated_norm.weight"
}

/// A tensor's name without its layer.
fn in_layer(name: &str) -> &str {
    name.strip_prefix("layers.")
        .and_then(|name| name.split_once('.'))
        .map_or(name, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use brooklet::Model;

    /// The engine knows every size, and it has about as many weights as its name says.
    #[test]
    fn names_tell_the_number_of_weights() {
        for shape in &SHAPES {
            let tensors = Model::tensors(shape.architecture, &shape.config()).expect(shape.name);
            let all = tensors.iter().filter(|tensor| shape.has(tensor));
            let weights: usize = all.map(|tensor| tensor.shape.iter().product::<usize>()).sum();
            let (_, size) = shape.name.rsplit_once('-').expect("a size");
            let (number, unit) = size.split_at(size.len() - 1);
            let unit = if unit == "b" { 1e9 } else { 1e6 };
            let named: f64 = number.parse::<f64>().expect("a number") * unit;
            let ratio = weights as f64 / named;
            assert!((0.75..1.95).contains(&ratio), "{}: {ratio:.2}", shape.name);
        }
    }
}
