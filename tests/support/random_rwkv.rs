//! Random weights for small RWKV models of any shape, in BlinkDL's tensors; scaled so that every
//! tensor matters.

use crate::rwkv::{Tensor, Weights};

/// Tokens of a random model.
pub const N_VOCAB: usize = 37;
/// Layers of a random model.
pub const N_LAYER: usize = 3;

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
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
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
        letters
            .chars()
            .for_each(|letter| self.tensor(&format!("{at}{letter}"), &[1, 1, d_model], 0.5, 0.5));
    }

    fn gated_channel_mix(&mut self, at: &str, mix: &str, d_model: usize, d_ff: usize) {
        self.mixes(&format!("{at}.ffn.{mix}_"), "kr", d_model);
        self.matrix(&format!("{at}.ffn.key"), d_ff, d_model);
        self.matrix(&format!("{at}.ffn.receptance"), d_model, d_model);
        self.matrix(&format!("{at}.ffn.value"), d_model, d_ff);
    }
}

/// RWKV-4.
pub fn rwkv4(d_model: usize, d_att: usize, d_ff: usize) -> Weights {
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

/// RWKV-5.`version`, which is 0, 1 or 2.
pub fn rwkv5(version: usize, d_model: usize, [n_head, d_head]: [usize; 2], d_ff: usize) -> Weights {
    let mut random = Random::new(d_model);
    let d_att = n_head * d_head;
    let per_head = if version == 2 { vec![n_head, d_head] } else { vec![n_head] };
    for i in 0..N_LAYER {
        let at = format!("blocks.{i}");
        let gate = if version == 0 { &[][..] } else { &["gate"] };
        random.mixes(
            &format!("{at}.att.time_mix_"),
            if version == 0 { "kvr" } else { "kvrg" },
            d_model,
        );
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

/// RWKV-6; `[mix, decay]` are the ranks.
pub fn rwkv6(
    d_model: usize,
    [n_head, d_head]: [usize; 2],
    d_ff: usize,
    [mix, decay]: [usize; 2],
) -> Weights {
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

/// RWKV-7; `ranks` are those of w, a, v, g.
pub fn rwkv7(
    [n_head, d_head]: [usize; 2],
    d_ff: usize,
    ranks: [usize; 4],
    first_layer_has_v: bool,
) -> Weights {
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
