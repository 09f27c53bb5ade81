//! Real models' dimensions, and plausible random values for their tensors, so that states neither
//! explode nor die.
//!
//! Which tensors there are is the engine's to say (`Model::tensors`). Not here: writing them
//! (`synthetic`). Sources: the published checkpoints of RWKV "Pile" and "World" and of
//! `state-spaces/mamba*`. Test: `tests/cli/bench.rs` opens one of each family.

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
pub(super) const SHAPES: [Shape; 13] = [
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
    ("mamba2", "A", Values::Uniform(-16.0, -1.0)),
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

    /// Whether its models have the tensor: of those that a file may lack, RWKV's have a head, and
    /// Mamba-2's a gated norm; no bias is there.
    pub(super) fn has(&self, tensor: &TensorSpec) -> bool {
        !tensor.is_optional || tensor.name == "head" && self.is_rwkv() || is_norm(&tensor.name)
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
