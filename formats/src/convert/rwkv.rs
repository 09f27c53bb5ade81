//! What the RWKV families share: their layouts' names, and the reader of their tables.
//!
//! A family's file beside this one holds a table: for every canonical tensor its shape, and for
//! every layout of checkpoints a [`cell`](super::cell) that says where its values come from. Sizes
//! are bound by the first tensor that shows them and checked by all others. Not here:
//! hyper-parameters that no shape shows. Test: `tests/parity_rwkv.rs`, `tests/convert_rwkv.rs`.

use std::collections::HashSet;
use std::iter;

use super::cell::Cell;
use super::plan::{Plan, Role, shape_error};
use crate::FormatError;
use crate::checkpoint::{Checkpoint, CheckpointKind, MetaValue, SourceTensor};

/// Epsilon of the layer norms where a checkpoint says nothing (all of RWKV-LM).
pub(super) const LN_EPS: f64 = 1e-5;
/// Epsilon of the norm over heads, whatever the head size (the official package; 8²·1e-5 in
/// training).
pub(super) const LN_X_EPS: f64 = 64e-5;

/// A size in the shapes of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dim {
    Vocab,
    Model,
    /// Width of the time mix between its projections.
    Att,
    Ff,
    /// Ranks of RWKV-7's adapters.
    RankW,
    RankA,
    RankV,
    RankG,
    /// Ranks of RWKV-6's adapters.
    RankMix,
    RankDecay,
}

impl Dim {
    const ALL: [Dim; 10] = [
        Dim::Vocab,
        Dim::Model,
        Dim::Att,
        Dim::Ff,
        Dim::RankW,
        Dim::RankA,
        Dim::RankV,
        Dim::RankG,
        Dim::RankMix,
        Dim::RankDecay,
    ];

    /// The hyper-parameter that holds it.
    const fn name(self) -> &'static str {
        match self {
            Dim::Vocab => "n_vocab",
            Dim::Model => "d_model",
            Dim::Att => "d_att",
            Dim::Ff => "d_ff",
            Dim::RankW => "rank_w",
            Dim::RankA => "rank_a",
            Dim::RankV => "rank_v",
            Dim::RankG => "rank_g",
            Dim::RankMix => "rank_mix",
            Dim::RankDecay => "rank_decay",
        }
    }
}

/// What a canonical tensor is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// f32 values.
    Vector(Dim),
    /// f32 values; a checkpoint may hold one for each head, which stands for all channels of the
    /// head.
    PerHead(Dim),
    /// A projection (rows, columns).
    Matrix(Dim, Dim),
    /// One half of a low-rank adapter (rows, columns).
    Adapter(Dim, Dim),
}

/// A row of a table: the canonical name inside a layer, its shape, and a cell for each layout. A
/// row that ends before a layout's column has the first cell for it: rwkv.cpp, always last, mostly
/// keeps BlinkDL's names.
pub(super) struct Row(
    pub(super) &'static str,
    pub(super) Shape,
    pub(super) &'static [&'static str],
);

impl Row {
    fn cell(&self, layout: &Layout) -> &'static str {
        self.2.get(layout.column).unwrap_or(&self.2[0])
    }
}

/// The names outside of the layers, and what a layout is recognised by.
pub(super) struct Layout {
    /// It has at least one of these tensors.
    pub(super) marks: &'static [&'static str],
    /// Its files are rwkv.cpp's: BlinkDL's names with other values behind them.
    pub(super) rwkv_cpp: bool,
    /// Its column in the tables.
    pub(super) column: usize,
    /// What stands before the number of a layer.
    pub(super) layers: &'static str,
    pub(super) embed: &'static str,
    /// Layer norm of the embedding.
    pub(super) ln0: &'static str,
    pub(super) ln_out: &'static str,
    pub(super) head: &'static str,
}

impl Layout {
    /// BlinkDL's checkpoints.
    pub(super) const fn blinkdl(marks: &'static [&'static str]) -> Layout {
        Layout {
            marks,
            rwkv_cpp: false,
            column: 0,
            layers: "blocks.",
            embed: "emb.weight",
            ln0: "blocks.0.ln0",
            ln_out: "ln_out",
            head: "head.weight",
        }
    }

    /// rwkv.cpp's files; `column` is the last one.
    pub(super) const fn rwkv_cpp(marks: &'static [&'static str], column: usize) -> Layout {
        Layout { rwkv_cpp: true, column, ..Layout::blinkdl(marks) }
    }

    /// llama.cpp's names.
    pub(super) const fn gguf(marks: &'static [&'static str], column: usize) -> Layout {
        Layout {
            marks,
            rwkv_cpp: false,
            column,
            layers: "blk.",
            embed: "token_embd.weight",
            ln0: "token_embd_norm",
            ln_out: "output_norm",
            head: "output.weight",
        }
    }

    /// The one of `layouts` that `checkpoint` has.
    pub(super) fn of<'l>(layouts: &'l [Layout], checkpoint: &Checkpoint) -> Option<&'l Layout> {
        let rwkv_cpp = checkpoint.kind() == CheckpointKind::RwkvCpp;
        let has_mark =
            |layout: &&Layout| layout.marks.iter().any(|mark| checkpoint.get(mark).is_some());
        layouts.iter().filter(|layout| layout.rwkv_cpp == rwkv_cpp).find(has_mark)
    }
}

/// A plan in the making.
pub(super) struct Reading<'a> {
    pub(super) plan: Plan<'a>,
    checkpoint: &'a Checkpoint,
    layout: &'static Layout,
    sizes: [Option<usize>; Dim::ALL.len()],
    /// Channels of a head, for [`Shape::PerHead`].
    pub(super) d_head: Option<usize>,
    /// After how many layers llama.cpp halves the residual stream; 0 for never.
    pub(super) rescale_every: usize,
    /// The embedding has no norm of its own.
    pub(super) no_ln0: bool,
    /// The layer norms have no biases: zeros stand for them.
    pub(super) no_biases: bool,
    used: HashSet<String>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        name: &'static str,
        checkpoint: &'a Checkpoint,
        layout: &'static Layout,
    ) -> Self {
        Reading {
            plan: Plan::new(name, checkpoint),
            checkpoint,
            layout,
            sizes: [None; Dim::ALL.len()],
            d_head: None,
            rescale_every: 0,
            no_ln0: false,
            no_biases: false,
            used: HashSet::new(),
        }
    }

    /// Number of layers: one more than the highest that a name mentions.
    pub(super) fn n_layer(&self) -> usize {
        let number = |tensor: &SourceTensor| {
            let rest = tensor.name.strip_prefix(self.layout.layers)?;
            rest.split('.').next()?.parse::<u32>().ok()
        };
        let highest = self.checkpoint.tensors().iter().filter_map(number).max();
        highest.map_or(0, |n| n as usize + 1)
    }

    /// The size `dim`, once a tensor has shown it.
    pub(super) fn size(&self, dim: Dim) -> Option<usize> {
        self.sizes[dim as usize]
    }

    /// A float of the checkpoint's `config.json`.
    pub(super) fn config_float(&self, name: &str) -> Option<f64> {
        self.checkpoint.config()?.get(name)?.as_f64()
    }

    /// A truth value of the checkpoint's `config.json`.
    pub(super) fn config_flag(&self, name: &str) -> Option<bool> {
        self.checkpoint.config()?.get(name)?.as_bool()
    }

    /// The tensor behind the canonical `name` of `rows` in the first layer.
    pub(super) fn first_layer(
        &self,
        rows: &[Row],
        name: &str,
    ) -> Result<&'a SourceTensor, FormatError> {
        let cell = rows.iter().find(|row| row.0 == name).map_or(name, |row| row.cell(self.layout));
        Ok(Cell::find(self.checkpoint, cell, &format!("{}0.", self.layout.layers), 1.0)?.tensor)
    }

    /// The whole number `key` of a GGUF file.
    pub(super) fn gguf_size(&self, key: &'static str) -> Result<usize, FormatError> {
        let value = self.gguf(key);
        value.and_then(MetaValue::as_u64).and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
            FormatError::Field {
                path: self.checkpoint.path().to_owned(),
                what: key,
                expected: "a whole number".to_owned(),
                found: value.map_or("nothing".to_owned(), |value| format!("{value:?}")),
            }
        })
    }

    /// A key-value of a GGUF file.
    pub(super) fn gguf(&self, key: &str) -> Option<&MetaValue> {
        self.checkpoint.metadata().get(&format!("{}.{key}", self.plan.architecture))
    }

    /// The embedding with its norm folded in, the final norm, the head (the embedding before its
    /// norm, when the configuration says so).
    pub(super) fn trunk(&mut self, ln_eps: f64) -> Result<(), FormatError> {
        let Layout { embed, ln0, ln_out, head, .. } = *self.layout;
        let table = Shape::Matrix(Dim::Vocab, Dim::Model);
        self.cell(embed, "", table, 0)?;
        let [weight, bias] = [format!("{ln0}.weight"), format!("{ln0}.bias")];
        if self.no_ln0 {
            self.plan.matrix("embed", Role::Embedding, embed)?;
        } else {
            let bias = (!self.is_zero(&bias, &bias)).then_some(&*bias);
            self.plan.normed_embedding("embed", embed, &weight, bias, ln_eps)?;
        }
        self.used.extend([weight, bias]);
        for half in ["weight", "bias"] {
            let source = format!("{ln_out}.{half}");
            self.tensor(&format!("ln_out.{half}"), Shape::Vector(Dim::Model), &source, "", 0)?;
        }
        let is_tied = self.checkpoint.get(head).is_none()
            && self.config_flag("tie_word_embeddings") == Some(true);
        self.tensor("head", table, if is_tied { embed } else { head }, "", 0)
    }

    /// The tensors of layer `i` that `rows` ask for.
    pub(super) fn layer(&mut self, i: usize, rows: &[Row]) -> Result<(), FormatError> {
        let prefix = format!("{}{i}.", self.layout.layers);
        for row in rows {
            self.tensor(
                &format!("layers.{i}.{}", row.0),
                row.1,
                row.cell(self.layout),
                &prefix,
                i,
            )?;
        }
        Ok(())
    }

    /// Whether the canonical `name` is a layer norm's bias that the checkpoint leaves out.
    fn is_zero(&self, name: &str, source: &str) -> bool {
        let may_be = name.ends_with(".bias") && !name.ends_with("ln_x.bias");
        self.no_biases && may_be && self.checkpoint.get(source).is_none()
    }

    /// Plans the canonical tensor `name`.
    fn tensor(
        &mut self,
        name: &str,
        shape: Shape,
        cell: &str,
        prefix: &str,
        layer: usize,
    ) -> Result<(), FormatError> {
        if self.is_zero(name, &format!("{prefix}{cell}")) {
            let n = self.size(Dim::Model).unwrap_or(0);
            self.plan.computed(name, &[n], move || Ok(vec![0.0; n]));
            return Ok(());
        }
        let cell = self.cell(cell, prefix, shape, layer)?;
        match shape {
            Shape::Vector(_) => self.plan.computed(name, &[cell.len()], move || cell.read()),
            Shape::PerHead(dim) => {
                let n = self.size(dim).unwrap_or(0);
                let each = n / cell.len();
                let expand = move || {
                    Ok(cell.read()?.into_iter().flat_map(|v| iter::repeat_n(v, each)).collect())
                };
                self.plan.computed(name, &[n], expand);
            }
            Shape::Matrix(rows, cols) | Shape::Adapter(rows, cols) => {
                let role =
                    if matches!(shape, Shape::Matrix(..)) { Role::Big } else { Role::Adapter };
                let (rows, cols) = (self.size(rows).unwrap_or(0), self.size(cols).unwrap_or(0));
                let read = Box::new(move |range, out: &mut Vec<f32>| cell.read_rows(range, out));
                self.plan.push_matrix(name, rows, cols, role, read);
            }
        }
        Ok(())
    }

    /// Finds a cell's tensor; binds the sizes it shows, or checks those that are bound.
    fn cell(
        &mut self,
        cell: &str,
        prefix: &str,
        shape: Shape,
        layer: usize,
    ) -> Result<Cell<'a>, FormatError> {
        let factor =
            layer.checked_div(self.rescale_every).map_or(1.0, |halvings| (halvings as f64).exp2());
        let found = Cell::find(self.checkpoint, cell, prefix, factor)?;
        self.used.insert(found.tensor.name.clone());
        let fits = match shape {
            Shape::Vector(dim) => self.bind(dim, found.len()),
            Shape::PerHead(dim) => {
                let n = found.len();
                self.d_head.is_some_and(|d_head| self.size(dim) == n.checked_mul(d_head))
                    || self.bind(dim, n)
            }
            Shape::Matrix(rows, cols) | Shape::Adapter(rows, cols) => {
                found.matrix_shape().is_some_and(|(r, c)| self.bind(rows, r) && self.bind(cols, c))
            }
        };
        if fits {
            return Ok(found);
        }
        let size = |dim: Dim| match self.size(dim) {
            Some(size) => format!("{} = {size}", dim.name()),
            None => dim.name().to_owned(),
        };
        let expected = match shape {
            Shape::Vector(dim) | Shape::PerHead(dim) => format!("[{}]", size(dim)),
            Shape::Matrix(rows, cols) | Shape::Adapter(rows, cols) => {
                format!("[{}, {}]", size(rows), size(cols))
            }
        };
        let how = if cell == found.tensor.name.trim_start_matches(prefix) {
            String::new()
        } else {
            format!(" as {cell}")
        };
        Err(shape_error(self.checkpoint, found.tensor, expected + &how))
    }

    /// Whether `dim` may be `size`: it is, or it was not known and `size` is not zero.
    fn bind(&mut self, dim: Dim, size: usize) -> bool {
        size > 0 && *self.sizes[dim as usize].get_or_insert(size) == size
    }

    /// The finished plan, once every tensor of a layer has been used or is one of `ignored` (names
    /// in layer 0): a tensor that this family does not know would be missed in the results.
    pub(super) fn finish(mut self, ignored: &[&str]) -> Result<Plan<'a>, FormatError> {
        let first = format!("{}0.", self.layout.layers);
        let is_known = |tensor: &&SourceTensor| {
            !tensor.name.starts_with(self.layout.layers)
                || self.used.contains(&tensor.name)
                || tensor.name.strip_prefix(&first).is_some_and(|name| ignored.contains(&name))
        };
        if let Some(tensor) = self.checkpoint.tensors().iter().find(|tensor| !is_known(tensor)) {
            return Err(FormatError::Tensor {
                path: self.checkpoint.path().to_owned(),
                tensor: tensor.name.clone(),
                what: "the name",
                expected: format!("one that {} has", self.plan.architecture),
                found: format!("an unknown tensor of shape {:?}", tensor.shape),
            });
        }
        self.plan.set("n_layer", self.n_layer());
        for dim in Dim::ALL {
            if let Some(size) = self.size(dim) {
                self.plan.set(dim.name(), size);
            }
        }
        if let Some(d_head) = self.d_head {
            let width = self.size(Dim::Att).or(self.size(Dim::Model)).unwrap_or(0);
            if d_head == 0 || !width.is_multiple_of(d_head) {
                return Err(FormatError::Field {
                    path: self.checkpoint.path().to_owned(),
                    what: "the head size",
                    expected: format!("a divisor of {width}"),
                    found: d_head.to_string(),
                });
            }
            self.plan.set("d_head", d_head);
        }
        Ok(self.plan)
    }
}
