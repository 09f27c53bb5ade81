//! The types that a family's page is made of: one [`Architecture`], whose tables say how its
//! checkpoints are told from others, which hyper-parameters they have, and which tensors.
//!
//! Every table has one column per layout (the naming of one project); a line that ends before a
//! layout's column has its first cell there, an empty cell means that the layout has nothing of the
//! kind. Cells are text: `syntax` says how it is read, `hyper` and `formula` what it means. Not
//! here: any architecture (`families`).

use super::equalize::Pair;

/// An architecture: everything that conversion knows of it.
pub(super) struct Architecture {
    /// Its name in the file.
    pub(super) name: &'static str,
    /// Its name for people.
    pub(super) title: &'static str,
    /// The `model_type` of its `config.json`, the architecture of its GGUF; none: its tensors tell.
    pub(super) model_types: &'static [&'static str],
    pub(super) layouts: &'static [Layout],
    pub(super) hyper: &'static [Param],
    /// Equations among hyper-parameters, `a = b`: tested as soon as all of them are known.
    pub(super) checks: &'static [&'static str],
    /// Tensors outside of the layers.
    pub(super) trunk: &'static [Row],
    /// Tensors of each layer, by the layers that have them.
    pub(super) layers: &'static [(Layers, &'static [Row])],
    /// Channels between tensors, by the parts that have them.
    pub(super) pairs: &'static [&'static [Pair]],
    /// Tensors that a checkpoint may hold and that say nothing, in any layout; `*` stands for the
    /// number of any layer, a dot at the end for all names that begin so.
    pub(super) ignored: &'static [&'static str],
}

/// How one project names the tensors of an architecture.
pub(super) struct Layout {
    /// A checkpoint with one of these tensors (with two, where they are joined by `&`) has this
    /// layout. The text before the name, which wrappers add (`model.`, `_orig_mod.`), stands before
    /// all names.
    pub(super) marks: &'static [&'static str],
    /// The files are rwkv.cpp's: names of BlinkDL's with other values behind them.
    pub(super) rwkv_cpp: bool,
    /// The prefix of the number of a layer; with a `*`, which stands for the rest of the name, the
    /// number ends the name.
    pub(super) layers: &'static str,
    /// The layout's cell in each line of the tables.
    pub(super) column: usize,
    /// How the names of the tables are written here.
    pub(super) spelling: &'static Spelling,
    /// A vector of the model's width, and matrices of the first layer of which one must have as
    /// many columns, and another number of rows: where names do not tell layouts apart.
    pub(super) turned: Option<(&'static str, &'static [&'static str])>,
    /// Whether `config.json` says what neither names nor shapes tell.
    pub(super) asks_config: bool,
    /// A part of names behind the layer's number that some layers have.
    pub(super) nested: &'static str,
}

/// Names that differ from those of the tables by rule.
pub(super) struct Spelling {
    /// The text before all names but the head's.
    pub(super) body: &'static str,
    /// Parts of names and what stands in their place, applied in this order.
    pub(super) parts: &'static [(&'static str, &'static str)],
}

/// As the tables have them.
const AS_IT_STANDS: Spelling = Spelling { body: "", parts: &[] };

impl Layout {
    /// A layout with the names of the tables.
    pub(super) const fn new(
        marks: &'static [&'static str],
        layers: &'static str,
        column: usize,
    ) -> Self {
        let (rwkv_cpp, turned, asks_config) = (false, None, false);
        let (spelling, nested) = (&AS_IT_STANDS, "");
        Layout { marks, rwkv_cpp, layers, column, spelling, turned, asks_config, nested }
    }

    /// The layout in whose layers names may also stand below this one.
    pub(super) const fn nested(mut self, below: &'static str) -> Self {
        self.nested = below;
        self
    }

    /// The layout of a folder whose `config.json` says what neither names nor shapes tell.
    pub(super) const fn with_config(mut self) -> Self {
        self.asks_config = true;
        self
    }

    /// The layout with names that are spelled otherwise.
    pub(super) const fn spelled(mut self, spelling: &'static Spelling) -> Self {
        self.spelling = spelling;
        self
    }

    /// A whole name of the tables, as the layout spells it.
    pub(super) fn spell(&self, name: &str) -> String {
        let Spelling { body, parts } = self.spelling;
        let is_head = name.starts_with("head.") || name.starts_with("lm_head.");
        let body = if is_head { "" } else { body };
        let spelled = |name: String, (from, to): &(&str, &str)| name.replacen(from, to, 1);
        parts.iter().fold(format!("{body}{name}"), spelled)
    }
}

/// A hyper-parameter: its name, what people call it, its type, and a cell for each layout. A size
/// without any cell is bound by the first tensor that shows it.
#[derive(Clone, Copy)]
pub(super) struct Param(
    pub(super) &'static str,
    pub(super) &'static str,
    pub(super) Kind,
    pub(super) &'static [&'static str],
);

/// The parameters of `a`, then those of `b`: those that relatives share, and an architecture's own.
/// `N` is the number of all.
pub(super) const fn joined<const N: usize>(a: &[Param], b: &[Param]) -> [Param; N] {
    let mut all = [a[0]; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < a.len() { a[i] } else { b[i - a.len()] };
        i += 1;
    }
    all
}

/// The type of a hyper-parameter, and whether the file to be has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number from 1 on.
    Size,
    /// A whole number from 0 on that only the tables need; the file does not have it.
    Inner,
    /// A finite number.
    Number,
    /// A finite number that only the tables need, where they fold it into tensors; the file does
    /// not have it.
    Factor,
    /// A truth value.
    Flag,
    /// Two ascending numbers, which the file has as `NAME_min` and `NAME_max` where they limit
    /// anything.
    Limits,
    /// A word for each layer, or one text with a letter for each: theirs, and ours that the file
    /// has instead.
    Words(&'static [(&'static str, &'static str)]),
    /// A list of whole numbers for each layer that has one, else null.
    Integers,
    /// One of these words or truth values, or the checkpoint is refused; the file does not have it.
    OneOf(&'static [&'static str]),
}

/// A tensor of the file to be: its name (inside a layer, of that layer), its shape, and a cell for
/// each layout.
pub(super) struct Row(
    pub(super) &'static str,
    pub(super) Shape,
    pub(super) &'static [&'static str],
);

/// A matrix's purpose, which bounds its number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A projection, the head, or an embedding that is also the head: the format asked for.
    Big,
    /// A low-rank adapter: at least 8 bits.
    Adapter,
    /// An embedding that is only looked up: at least 8 bits.
    Embedding,
}

/// The shape and the form of a tensor, in terms of hyper-parameters: names, or formulas of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// f32 values.
    Vector(&'static str),
    /// f32 values; a checkpoint may hold one for each head of so many channels, which stands for
    /// all of them.
    PerHead(&'static str, &'static str),
    /// f32 values over channels, with zeros up to a multiple of 16.
    Channels(&'static str),
    /// f32 values `[channel, j]` in blocks of 16 channels (SPEC.md, "Blocked tensors").
    Blocked(&'static str, &'static str),
    /// A projection (rows, columns).
    Matrix(&'static str, &'static str),
    /// Projections (rows, columns) of so many experts, or heads, below each other, each with rows
    /// of zeros up to a multiple of 16 (number, rows, columns).
    Experts(&'static str, &'static str, &'static str),
    /// One half of a low-rank adapter, or a matrix as small (rows, columns).
    Adapter(&'static str, &'static str),
    /// The embedding (rows, columns), which is a projection where no `head` stands beside it.
    Embedding(&'static str, &'static str),
    /// A table of which rows are looked up, in each layer as many as it has (columns).
    Table(&'static str),
    /// The head (rows, columns), left out where its values are those of the embedding.
    Head(&'static str, &'static str),
}

/// The layers that have some tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layers {
    All,
    First,
    /// All but the first.
    AfterFirst,
    /// All, if the hyper-parameter is true.
    If(&'static str),
    /// Those whose word is this, in the hyper-parameter of that name.
    Word(&'static str, &'static str),
}

/// A line's cell for the layout of that column.
fn cell(cells: &'static [&'static str], column: usize) -> &'static str {
    cells.get(column).or(cells.first()).copied().unwrap_or_default()
}

impl Param {
    pub(super) fn cell(&self, column: usize) -> &'static str {
        cell(self.3, column)
    }
}

impl Row {
    pub(super) fn cell(&self, column: usize) -> &'static str {
        cell(self.2, column)
    }
}

impl Shape {
    /// The formulas of its dimensions.
    pub(super) fn dims(self) -> Vec<&'static str> {
        match self {
            Self::Vector(n) | Self::PerHead(n, _) | Self::Channels(n) | Self::Table(n) => vec![n],
            Self::Blocked(rows, cols)
            | Self::Matrix(rows, cols)
            | Self::Experts(_, rows, cols)
            | Self::Adapter(rows, cols)
            | Self::Embedding(rows, cols)
            | Self::Head(rows, cols) => vec![rows, cols],
        }
    }
}
