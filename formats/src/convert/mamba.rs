//! What Mamba-1 and Mamba-2 checkpoints share: the names of their layouts as data, the trunk,
//! blocked vectors.
//!
//! Three layouts: Hugging Face's (`backbone.embeddings`), the original one of state-spaces
//! (`backbone.embedding`), and llama.cpp's GGUF. The first two name everything else alike, below a
//! prefix that may be missing or longer (Codestral: `model.backbone.`). Every tensor of the
//! checkpoint must find its place: one that does not belongs to another model. Sources:
//! transformers `modeling_mamba{,2}.py`, mamba_ssm `mixer_seq_simple.py`, llama.cpp
//! `convert_hf_to_gguf.py`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;

use serde_json::Value;

use super::plan::{Plan, Role, find, shape_error};
use crate::FormatError;
use crate::checkpoint::{Checkpoint, MetaValue, SourceTensor};

/// Channels of a block (SPEC.md, "Blocked tensors").
const BLOCK: usize = 16;
/// Rows compared at a time when looking whether the head is the embedding.
const ROWS: usize = 256;
/// The largest hyper-parameter taken for real.
const MAX_SIZE: f64 = 16_777_216.0;
/// `norm_epsilon` of mamba_ssm, whose config.json does not carry it.
const NORM_EPS: f64 = 1e-5;

/// The names of one layout: those of a layer stand behind its prefix.
struct Names {
    /// A tensor of layer 0 that tells the layout; what stands before it is the checkpoint's prefix.
    telltale: &'static str,
    embed: &'static [&'static str],
    head: &'static [&'static str],
    norm_f: &'static str,
    /// Before the number of a layer.
    layer: &'static str,
    /// Our names, and the layout's.
    parts: &'static [(&'static str, &'static str)],
    /// A is stored as log(−A).
    log_a: bool,
}

const LAYOUTS: [Names; 2] = [
    Names {
        telltale: "layers.0.mixer.A_log",
        embed: &["embeddings.weight", "embedding.weight"],
        head: &["lm_head.weight"],
        norm_f: "norm_f.weight",
        layer: "layers.",
        parts: &[
            ("norm.weight", "norm.weight"),
            ("in_proj", "mixer.in_proj.weight"),
            ("in_proj.bias", "mixer.in_proj.bias"),
            ("conv.weight", "mixer.conv1d.weight"),
            ("conv.bias", "mixer.conv1d.bias"),
            ("x_proj", "mixer.x_proj.weight"),
            ("dt_proj", "mixer.dt_proj.weight"),
            ("dt_proj.bias", "mixer.dt_proj.bias"),
            ("dt_bias", "mixer.dt_bias"),
            ("A", "mixer.A_log"),
            ("D", "mixer.D"),
            ("gated_norm.weight", "mixer.norm.weight"),
            ("out_proj", "mixer.out_proj.weight"),
            ("out_proj.bias", "mixer.out_proj.bias"),
        ],
        log_a: true,
    },
    Names {
        telltale: "blk.0.ssm_a",
        embed: &["token_embd.weight"],
        head: &["output.weight"],
        norm_f: "output_norm.weight",
        layer: "blk.",
        parts: &[
            ("norm.weight", "attn_norm.weight"),
            ("in_proj", "ssm_in.weight"),
            ("conv.weight", "ssm_conv1d.weight"),
            ("conv.bias", "ssm_conv1d.bias"),
            ("x_proj", "ssm_x.weight"),
            ("dt_proj", "ssm_dt.weight"),
            ("dt_proj.bias", "ssm_dt.bias"),
            ("dt_bias", "ssm_dt.bias"),
            ("A", "ssm_a"),
            ("D", "ssm_d"),
            ("gated_norm.weight", "ssm_norm.weight"),
            ("out_proj", "ssm_out.weight"),
        ],
        log_a: false,
    },
];

/// A Mamba checkpoint, its tensors found by our names.
pub(super) struct Source<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    names: &'static Names,
    prefix: &'a str,
    placed: RefCell<HashSet<String>>,
}

impl<'a> Source<'a> {
    /// The checkpoint in its layout, if it has one of these.
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Option<Self> {
        LAYOUTS.iter().find_map(|names| {
            let prefix =
                checkpoint.tensors().iter().find_map(|t| t.name.strip_suffix(names.telltale))?;
            Some(Source { checkpoint, names, prefix, placed: RefCell::default() })
        })
    }

    /// What the layout calls the tensor `name` of layer `i`.
    fn name(&self, i: usize, name: &str) -> Option<String> {
        let (_, theirs) = self.names.parts.iter().find(|(ours, _)| *ours == name)?;
        Some(format!("{}{}{i}.{theirs}", self.prefix, self.names.layer))
    }

    /// Whether layer `i` has the tensor `name`.
    pub(super) fn has(&self, i: usize, name: &str) -> bool {
        self.name(i, name).is_some_and(|name| self.checkpoint.get(&name).is_some())
    }

    /// The tensor `name` of layer `i`, which now has its place.
    pub(super) fn part(&self, i: usize, name: &str) -> Result<&'a SourceTensor, FormatError> {
        let name = self.name(i, name).unwrap_or_else(|| name.to_owned());
        self.place(&name)
    }

    fn place(&self, name: &str) -> Result<&'a SourceTensor, FormatError> {
        let tensor = find(self.checkpoint, name)?;
        self.placed.borrow_mut().insert(name.to_owned());
        Ok(tensor)
    }

    /// Rows and columns of the tensor `name` of layer `i`; neither is zero.
    pub(super) fn shape(&self, i: usize, name: &str) -> Result<(usize, usize), FormatError> {
        self.non_empty(self.part(i, name)?)
    }

    fn non_empty(&self, tensor: &SourceTensor) -> Result<(usize, usize), FormatError> {
        match tensor.numel() {
            0 => Err(shape_error(self.checkpoint, tensor, "one without zeros".to_owned())),
            _ => Ok(tensor.matrix_shape()),
        }
    }

    /// The first of `names` (below the prefix, or below what stands before `backbone.`) that the
    /// checkpoint has.
    fn top(&self, names: &[&str]) -> Option<String> {
        let outer = self.prefix.strip_suffix("backbone.").unwrap_or(self.prefix);
        let names = names
            .iter()
            .flat_map(|name| [format!("{}{name}", self.prefix), format!("{outer}{name}")]);
        names.into_iter().find(|name| self.checkpoint.get(name).is_some())
    }

    /// The hyper-parameter of config.json (or of its `ssm_cfg`) under one of `names`.
    pub(super) fn config(&self, names: &[&str]) -> Option<&'a Value> {
        let config = self.checkpoint.config()?;
        let at =
            |map: &'a Value| names.iter().find_map(|name| map.get(name)).filter(|v| !v.is_null());
        at(config).or_else(|| config.get("ssm_cfg").and_then(at))
    }

    /// GGUF's key-value `name` of this architecture.
    pub(super) fn meta(&self, name: &str) -> Option<&'a MetaValue> {
        let metadata = self.checkpoint.metadata();
        let architecture = metadata.get("general.architecture")?.as_str()?;
        metadata.get(&format!("{architecture}.{name}"))
    }

    /// A number of config.json or GGUF; `None` when neither has it.
    pub(super) fn number(
        &self,
        what: &'static str,
        json: &[&str],
        gguf: &str,
    ) -> Result<Option<f64>, FormatError> {
        let error = |found: String| self.field(what, "a number", found);
        match (self.config(json), self.meta(gguf)) {
            (Some(value), _) => number(value).map(Some).ok_or_else(|| error(value.to_string())),
            (None, Some(value)) => {
                value.as_f64().map(Some).ok_or_else(|| error(format!("{value:?}")))
            }
            (None, None) => Ok(None),
        }
    }

    /// A whole number of config.json or GGUF; `None` when neither has it.
    pub(super) fn size(
        &self,
        what: &'static str,
        json: &[&str],
        gguf: &str,
    ) -> Result<Option<usize>, FormatError> {
        match self.number(what, json, gguf)? {
            None => Ok(None),
            Some(n) if (1.0..=MAX_SIZE).contains(&n) && n.fract() == 0.0 => Ok(Some(n as usize)),
            Some(n) => Err(self.field(what, "a whole number from 1 to 16777216", n.to_string())),
        }
    }

    /// A truth value of config.json.
    pub(super) fn flag(&self, name: &'static str, default: bool) -> Result<bool, FormatError> {
        match self.config(&[name]) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.field(name, "true or false", other.to_string())),
        }
    }

    /// "This hyper-parameter must be …".
    pub(super) fn field(&self, what: &'static str, expected: &str, found: String) -> FormatError {
        let (path, expected) = (self.checkpoint.path().to_owned(), expected.to_owned());
        FormatError::Field { path, what, expected, found }
    }

    /// Number of layers: what the configuration says, else how many there are.
    pub(super) fn n_layer(&self) -> Result<usize, FormatError> {
        let counted = (0..).take_while(|&i| self.has(i, "norm.weight")).count();
        let said =
            self.size("the number of layers", &["num_hidden_layers", "n_layer"], "block_count")?;
        Ok(said.unwrap_or(counted))
    }

    /// The epsilon of the norms.
    pub(super) fn norm_eps(&self) -> Result<f64, FormatError> {
        let names = ["layer_norm_epsilon", "rms_norm_eps", "norm_epsilon"];
        let eps = self.number("the norm's epsilon", &names, "attention.layer_norm_rms_epsilon")?;
        Ok(eps.unwrap_or(NORM_EPS))
    }

    /// Refuses activations other than the one the architecture is written for.
    pub(super) fn check_activation(&self) -> Result<(), FormatError> {
        match self.config(&["hidden_act"]).and_then(Value::as_str) {
            None | Some("silu" | "swish") => Ok(()),
            Some(other) => Err(self.field("hidden_act", "silu", other.to_owned())),
        }
    }

    /// A plan with the embedding, the final norm and the head, which is left out when it equals the
    /// embedding.
    pub(super) fn plan(&self, architecture: &'static str) -> Result<Plan<'a>, FormatError> {
        let mut plan = Plan::new(architecture, self.checkpoint);
        self.check_activation()?;
        let embed = self.top(self.names.embed).unwrap_or_else(|| self.names.embed[0].to_owned());
        let (n_vocab, d_model) = self.non_empty(self.place(&embed)?)?;
        let head = self.top(self.names.head);
        let tied = match &head {
            None => true,
            Some(head) => self.same_values(self.place(head)?, self.place(&embed)?)?,
        };
        plan.set("n_layer", self.n_layer()?);
        plan.set("d_model", d_model);
        plan.set("n_vocab", n_vocab);
        plan.set("norm_eps", self.norm_eps()?);
        plan.matrix("embed", if tied { Role::Big } else { Role::Embedding }, &embed)?;
        let norm_f = self.top(&[self.names.norm_f]).unwrap_or_else(|| self.names.norm_f.to_owned());
        plan.vector("norm_f.weight", &self.place(&norm_f)?.name, d_model)?;
        if let Some(head) = head.filter(|_| !tied) {
            let tensor = self.place(&head)?;
            if tensor.matrix_shape() != (n_vocab, d_model) {
                return Err(shape_error(
                    self.checkpoint,
                    tensor,
                    format!("[{n_vocab}, {d_model}]"),
                ));
            }
            plan.matrix("head", Role::Big, &head)?;
        }
        Ok(plan)
    }

    fn same_values(&self, a: &SourceTensor, b: &SourceTensor) -> Result<bool, FormatError> {
        if a.shape != b.shape {
            return Ok(false);
        }
        let n = a.matrix_shape().0;
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for start in (0..n).step_by(ROWS) {
            let rows = start..n.min(start + ROWS);
            self.checkpoint.read_rows(&a.name, rows.clone(), &mut x)?;
            self.checkpoint.read_rows(&b.name, rows, &mut y)?;
            if x.iter().zip(&y).any(|(x, y)| x.to_bits() != y.to_bits()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Checks that the tensor `name` of layer `i` is a matrix of that shape and returns its name.
    pub(super) fn matrix(
        &self,
        i: usize,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<&'a str, FormatError> {
        let tensor = self.part(i, name)?;
        match tensor.matrix_shape() == (rows, cols) {
            true => Ok(&tensor.name),
            false => Err(shape_error(self.checkpoint, tensor, format!("[{rows}, {cols}]"))),
        }
    }

    /// The vector `name` of layer `i`, of `n` values.
    pub(super) fn vector(
        &self,
        plan: &mut Plan<'a>,
        i: usize,
        name: &str,
        n: usize,
    ) -> Result<(), FormatError> {
        plan.vector(&format!("layers.{i}.{name}"), &self.part(i, name)?.name, n)
    }

    /// A of layer `i` as a function of what the checkpoint holds.
    pub(super) fn a(&self) -> fn(f32) -> f32 {
        if self.names.log_a { |log| -f64::from(log).exp() as f32 } else { |a| a }
    }

    /// The tensor `name` of layer `i`, (n, k), as blocks of 16 channels: (⌈n/16⌉, k, 16), zeros
    /// behind the last one.
    pub(super) fn blocked(
        &self,
        plan: &mut Plan<'a>,
        i: usize,
        name: &str,
        (n, k): (usize, usize),
        f: fn(f32) -> f32,
    ) -> Result<(), FormatError> {
        let (checkpoint, tensor) = (self.checkpoint, self.part(i, name)?);
        if tensor.matrix_shape() != (n, k) {
            return Err(shape_error(checkpoint, tensor, format!("[{n}, {k}]")));
        }
        let blocks = n.div_ceil(BLOCK);
        plan.computed(&format!("layers.{i}.{name}"), &[blocks, k, BLOCK], move || {
            let values = checkpoint.read(&tensor.name)?;
            let mut out = vec![0.0; blocks * k * BLOCK];
            for (channel, values) in values.chunks_exact(k).enumerate() {
                for (j, &value) in values.iter().enumerate() {
                    out[(channel / BLOCK * k + j) * BLOCK + channel % BLOCK] = f(value);
                }
            }
            Ok(out)
        });
        Ok(())
    }

    /// Values `range` of the vector `name` of layer `i`, `len` in all, as `to`; zeros follow up to
    /// a multiple of 16.
    pub(super) fn padded(
        &self,
        plan: &mut Plan<'a>,
        i: usize,
        to: &str,
        name: &str,
        range: Range<usize>,
        len: usize,
    ) -> Result<(), FormatError> {
        let (checkpoint, tensor) = (self.checkpoint, self.part(i, name)?);
        if tensor.numel() != len {
            return Err(shape_error(checkpoint, tensor, format!("[{len}]")));
        }
        let padded = range.len().next_multiple_of(BLOCK);
        plan.computed(&format!("layers.{i}.{to}"), &[padded], move || {
            let mut out = checkpoint.read(&tensor.name)?[range.clone()].to_vec();
            out.resize(padded, 0.0);
            Ok(out)
        });
        Ok(())
    }

    /// The convolution of layer `i` over `n` channels: taps in blocks, and its bias (zeros where
    /// there is none).
    pub(super) fn conv(
        &self,
        plan: &mut Plan<'a>,
        i: usize,
        n: usize,
        d_conv: usize,
    ) -> Result<(), FormatError> {
        self.blocked(plan, i, "conv.weight", (n, d_conv), |w| w)?;
        if self.has(i, "conv.bias") {
            return self.padded(plan, i, "conv.bias", "conv.bias", 0..n, n);
        }
        let padded = n.next_multiple_of(BLOCK);
        plan.computed(&format!("layers.{i}.conv.bias"), &[padded], move || Ok(vec![0.0; padded]));
        Ok(())
    }

    /// The plan, if it has a place for every tensor of the checkpoint.
    pub(super) fn finish(&self, plan: Plan<'a>) -> Result<Plan<'a>, FormatError> {
        let placed = self.placed.borrow();
        match self.checkpoint.tensors().iter().find(|tensor| !placed.contains(&tensor.name)) {
            None => Ok(plan),
            Some(tensor) => Err(FormatError::Tensor {
                path: self.checkpoint.path().to_owned(),
                tensor: tensor.name.clone(),
                what: "the name",
                expected: format!(
                    "that of a tensor of {} with {} layers",
                    plan.architecture,
                    self.n_layer()?
                ),
                found: format!("one without a place there, of shape {:?}", tensor.shape),
            }),
        }
    }
}

/// A JSON number, also Python's infinities (`Checkpoint::config` says how they are written).
fn number(value: &Value) -> Option<f64> {
    match value.get("__float__").and_then(Value::as_str) {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

/// The two numbers of a list such as `time_step_limit`.
pub(super) fn pair(value: &Value) -> Option<(f64, f64)> {
    match value.as_array()?.as_slice() {
        [low, high] => Some((number(low)?, number(high)?)),
        _ => None,
    }
}
