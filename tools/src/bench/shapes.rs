//! Real models' dimensions, and the tensors that a `.brk` file of each has.
//!
//! Here: the table of sizes, and per family the list of tensors with plausible random values, so
//! that states neither explode nor die. Not here: writing them (`synthetic`). Sources: the
//! published checkpoints of RWKV-7 "World" and of `state-spaces/mamba*`; names as `formats/SPEC.md`
//! has them. Test: `tests/cli/bench.rs` opens one of each family.

use serde_json::{Map, Value, json};

/// A size of a family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// The name that `--synthetic` takes.
    pub(super) name: &'static str,
    /// The architecture, as in the file.
    pub(super) architecture: &'static str,
    n_layer: usize,
    d_model: usize,
    n_vocab: usize,
    /// RWKV-7: ranks of the low-rank branches w, a, v, g.
    ranks: [usize; 4],
}

const fn rwkv7(name: &'static str, n_layer: usize, d_model: usize, ranks: [usize; 4]) -> Shape {
    Shape { name, architecture: "rwkv7", n_layer, d_model, n_vocab: 65536, ranks }
}

const fn mamba(
    name: &'static str,
    architecture: &'static str,
    n_layer: usize,
    d_model: usize,
) -> Shape {
    let n_vocab = if matches!(architecture.as_bytes(), b"mamba1") { 50280 } else { 50288 };
    Shape { name, architecture, n_layer, d_model, n_vocab, ranks: [0; 4] }
}

/// All sizes.
pub(super) const SHAPES: [Shape; 10] = [
    rwkv7("rwkv7-0.1b", 12, 768, [64, 64, 32, 128]),
    rwkv7("rwkv7-0.4b", 24, 1024, [64, 64, 32, 128]),
    rwkv7("rwkv7-1.5b", 24, 2048, [96, 96, 64, 256]),
    rwkv7("rwkv7-2.9b", 32, 2560, [96, 96, 64, 320]),
    mamba("mamba1-130m", "mamba1", 24, 768),
    mamba("mamba1-790m", "mamba1", 48, 1536),
    mamba("mamba1-2.8b", "mamba1", 64, 2560),
    mamba("mamba2-130m", "mamba2", 24, 768),
    mamba("mamba2-1.3b", "mamba2", 48, 2048),
    mamba("mamba2-2.7b", "mamba2", 64, 2560),
];

/// The purpose of a matrix, which bounds its number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Takes the format asked for.
    Projection,
    /// Keeps 8 bits or more.
    Delicate,
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

/// One tensor of a file.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// A matrix with normal random weights.
    Matrix { name: String, rows: usize, cols: usize, std: f32, role: Role },
    /// A plain tensor.
    Plain { name: String, shape: Vec<usize>, values: Values },
}

impl Shape {
    /// The shape of that name.
    pub(super) fn named(name: &str) -> Option<&'static Shape> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// The hyper-parameters, as in the file.
    pub(super) fn config(&self) -> Map<String, Value> {
        let Shape { n_layer, d_model, n_vocab, ranks: [w, a, v, g], .. } = *self;
        let d_inner = 2 * d_model;
        let own = match self.architecture {
            "rwkv7" => json!({
                "d_head": 64, "d_ff": 4 * d_model, "rank_w": w, "rank_a": a, "rank_v": v, "rank_g": g,
                "ln_eps": 1e-5, "ln_x_eps": 64e-5,
            }),
            "mamba1" => json!({
                "d_inner": d_inner, "d_state": 16, "d_conv": 4, "dt_rank": d_model / 16, "norm_eps": 1e-5,
            }),
            _ => json!({
                "d_inner": d_inner, "d_state": 128, "d_conv": 4, "n_head": d_inner / 64, "d_head": 64, "n_group": 1,
                "norm_before_gate": false, "norm_eps": 1e-5,
            }),
        };
        let mut config = Map::new();
        config.insert("n_layer".into(), n_layer.into());
        config.insert("d_model".into(), d_model.into());
        config.insert("n_vocab".into(), n_vocab.into());
        if let Value::Object(own) = own {
            config.extend(own);
        }
        config
    }

    /// Every tensor, in the order in which a forward pass meets them.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let mut list = List(Vec::new());
        match self.architecture {
            "rwkv7" => self.rwkv7(&mut list),
            "mamba1" => self.mamba1(&mut list),
            _ => self.mamba2(&mut list),
        }
        list.0
    }

    fn rwkv7(&self, list: &mut List) {
        let (c, f, n_vocab) = (self.d_model, 4 * self.d_model, self.n_vocab);
        list.matrix("embed", n_vocab, c, 1.0, Role::Delicate);
        for i in 0..self.n_layer {
            let at = format!("layers.{i}");
            list.norm(&format!("{at}.ln1"), c);
            list.norm(&format!("{at}.ln2"), c);
            for x in ["r", "w", "k", "v", "a", "g"] {
                list.plain(&format!("{at}.att.x_{x}"), &[c], Values::Uniform(0.0, 1.0));
            }
            for name in ["receptance", "key", "value", "output"] {
                list.projection(&format!("{at}.att.{name}"), c, c);
            }
            for (letter, rank) in ["w", "a", "v", "g"].into_iter().zip(self.ranks) {
                if letter == "v" && i == 0 {
                    continue;
                }
                list.matrix(&format!("{at}.att.{letter}1"), rank, c, 0.02, Role::Delicate);
                list.matrix(&format!("{at}.att.{letter}2"), c, rank, 0.02, Role::Delicate);
            }
            list.plain(&format!("{at}.att.w0"), &[c], Values::Uniform(-6.0, 1.0));
            list.plain(&format!("{at}.att.a0"), &[c], Values::Uniform(-1.0, 1.0));
            if i > 0 {
                list.plain(&format!("{at}.att.v0"), &[c], Values::Uniform(0.0, 1.0));
            }
            list.plain(&format!("{at}.att.k_k"), &[c], Values::Constant(0.85));
            list.plain(&format!("{at}.att.k_a"), &[c], Values::Constant(1.0));
            list.plain(&format!("{at}.att.r_k"), &[c], Values::Uniform(-0.1, 0.1));
            list.norm(&format!("{at}.att.ln_x"), c);
            list.plain(&format!("{at}.ffn.x_k"), &[c], Values::Uniform(0.0, 1.0));
            list.projection(&format!("{at}.ffn.key"), f, c);
            list.projection(&format!("{at}.ffn.value"), c, f);
        }
        list.norm("ln_out", c);
        list.projection("head", n_vocab, c);
    }

    fn mamba1(&self, list: &mut List) {
        let (c, inner, state, dt_rank) = (self.d_model, 2 * self.d_model, 16, self.d_model / 16);
        list.projection("embed", self.n_vocab, c);
        for i in 0..self.n_layer {
            let at = format!("layers.{i}");
            list.plain(&format!("{at}.norm.weight"), &[c], Values::Constant(1.0));
            list.projection(&format!("{at}.in_proj.x"), inner, c);
            list.projection(&format!("{at}.in_proj.z"), inner, c);
            list.conv(&at, inner);
            list.matrix(&format!("{at}.x_proj"), dt_rank + 2 * state, inner, 0.02, Role::Delicate);
            list.matrix(&format!("{at}.dt_proj"), inner, dt_rank, 0.02, Role::Delicate);
            list.plain(&format!("{at}.dt_proj.bias"), &[inner], Values::InverseSoftplusDt);
            list.plain(&format!("{at}.A"), &[inner.div_ceil(16), state, 16], Values::NegativeIndex);
            list.plain(&format!("{at}.D"), &[inner], Values::Constant(1.0));
            list.projection(&format!("{at}.out_proj"), c, inner);
        }
        list.plain("norm_f.weight", &[c], Values::Constant(1.0));
    }

    fn mamba2(&self, list: &mut List) {
        let (c, inner, state) = (self.d_model, 2 * self.d_model, 128);
        let (n_head, channels) = (inner / 64, inner + 2 * state);
        list.projection("embed", self.n_vocab, c);
        for i in 0..self.n_layer {
            let at = format!("layers.{i}");
            list.plain(&format!("{at}.norm.weight"), &[c], Values::Constant(1.0));
            list.projection(&format!("{at}.in_proj.z"), inner, c);
            list.projection(&format!("{at}.in_proj.xbc"), channels, c);
            list.matrix(&format!("{at}.in_proj.dt"), n_head, c, 0.02, Role::Delicate);
            list.conv(&at, channels);
            list.plain(&format!("{at}.dt_bias"), &[n_head], Values::InverseSoftplusDt);
            list.plain(&format!("{at}.A"), &[n_head], Values::Uniform(-16.0, -1.0));
            list.plain(&format!("{at}.D"), &[n_head], Values::Constant(1.0));
            list.plain(&format!("{at}.gated_norm.weight"), &[inner], Values::Constant(1.0));
            list.projection(&format!("{at}.out_proj"), c, inner);
        }
        list.plain("norm_f.weight", &[c], Values::Constant(1.0));
    }
}

/// Tensors so far.
struct List(Vec<Piece>);

impl List {
    fn matrix(&mut self, name: &str, rows: usize, cols: usize, std: f32, role: Role) {
        self.0.push(Piece::Matrix { name: name.to_owned(), rows, cols, std, role });
    }

    fn projection(&mut self, name: &str, rows: usize, cols: usize) {
        self.matrix(name, rows, cols, 0.02, Role::Projection);
    }

    fn plain(&mut self, name: &str, shape: &[usize], values: Values) {
        self.0.push(Piece::Plain { name: name.to_owned(), shape: shape.to_vec(), values });
    }

    /// A layer norm that does nothing but norm.
    fn norm(&mut self, name: &str, n: usize) {
        self.plain(&format!("{name}.weight"), &[n], Values::Constant(1.0));
        self.plain(&format!("{name}.bias"), &[n], Values::Constant(0.0));
    }

    /// The depthwise convolution of a Mamba layer.
    fn conv(&mut self, at: &str, channels: usize) {
        self.plain(
            &format!("{at}.conv.weight"),
            &[channels.div_ceil(16), 4, 16],
            Values::Uniform(-0.5, 0.5),
        );
        self.plain(&format!("{at}.conv.bias"), &[channels], Values::Uniform(-0.1, 0.1));
    }
}
