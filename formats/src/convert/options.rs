//! [`ConvertOptions`]: the user's wishes, which choose the number format of a matrix by its role.

use std::path::PathBuf;

use regex_lite::Regex;

use super::lora::Lora;
use super::recipe::Recipe;
use super::table::Role;
use crate::quant::{COLUMN_ROWS, TileLayout};
use crate::{DType, FormatError};

/// Options of a conversion.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// The number format of the big matrices; low-rank adapters and an untied embedding go no lower
    /// than int8.
    pub dtype: DType,
    /// Columns per scale; `None` is the format's own choice.
    pub group: Option<usize>,
    /// Number formats of single matrices, by a pattern on their names; the last one that matches
    /// wins.
    pub overrides: Vec<(Regex, DType)>,
    /// Number formats of single matrices out of a file; overrides win over it.
    pub recipe: Option<Recipe>,
    /// A tokenizer (`tokenizer.json` or a World vocabulary) instead of the checkpoint's.
    pub tokenizer: Option<PathBuf>,
    /// Low-rank changes that are added to the weights, in this order.
    pub loras: Vec<Lora>,
    /// A file in the place of the checkpoint's `config.json`.
    pub config: Option<PathBuf>,
    /// The architecture, one of [`assumable`](super::assumable), whatever the checkpoint says.
    pub assume: Option<String>,
    /// Whether a head that is tied to the embedding becomes a tensor of its own, so that the
    /// embedding keeps 8 bits.
    pub untie: bool,
    /// Whether channels that are far larger than others are equalized, where their matrices are
    /// rounded to a few bits.
    pub equalize: bool,
    /// Whether matrices whose inputs are mostly zeros stand in columns, where their format can: for
    /// models that read one or two texts at a time.
    pub columns: bool,
    /// Write all matrices as f32, equalized for the number formats asked for: for what is to be
    /// calibrated.
    pub exact: bool,
    /// Threads, this one among them; 0: one for each processor. The bytes are the same.
    pub threads: usize,
    /// Replace what stands at the target though it is no `.brk` file. What the conversion reads is
    /// never replaced.
    pub force: bool,
}

impl ConvertOptions {
    /// Everything in `dtype`, with the checkpoint's tokenizer.
    pub fn new(dtype: DType) -> Self {
        Self {
            dtype,
            group: None,
            overrides: Vec::new(),
            recipe: None,
            tokenizer: None,
            loras: Vec::new(),
            config: None,
            assume: None,
            untie: false,
            equalize: true,
            columns: false,
            exact: false,
            threads: 0,
            force: false,
        }
    }

    /// Columns per scale of a matrix: what was asked for, if the format can have it, else the
    /// format's own choice, or less where that would pad a narrow matrix (columns are padded to two
    /// groups).
    pub fn group_of(&self, dtype: DType, cols: usize) -> usize {
        let default = dtype.default_group();
        match self.group {
            _ if !dtype.has_scales() => 0,
            Some(group) if dtype.groups().contains(&group) => group,
            _ => [default, 64]
                .into_iter()
                .find(|g| *g <= default && cols.is_multiple_of(2 * g))
                .unwrap_or(32),
        }
    }

    /// The layout of the matrix `name` in a number format: in columns, if its inputs are squared
    /// ReLUs, most of which are zero, and rows need no padding there.
    ///
    /// # Errors
    /// As [`TileLayout::new`].
    pub fn layout_of(
        &self,
        name: &str,
        (rows, cols): (usize, usize),
        dtype: DType,
    ) -> Result<TileLayout, FormatError> {
        let tiles = TileLayout::new(dtype, rows, cols, self.group_of(dtype, cols))?;
        let columns =
            self.columns && name.ends_with(".ffn.value") && rows.is_multiple_of(COLUMN_ROWS);
        Ok(tiles.by_columns().filter(|_| columns).unwrap_or(tiles))
    }

    /// The number format that an override gives the matrix `name`.
    pub fn override_of(&self, name: &str) -> Option<DType> {
        let mut latest = self.overrides.iter().rev();
        latest.find(|(pattern, _)| pattern.is_match(name)).map(|(_, dtype)| *dtype)
    }

    /// The number format of the matrix `name`.
    pub(super) fn dtype_of(&self, name: &str, role: Role) -> DType {
        let listed = || self.recipe.as_ref()?.dtype_of(name);
        let floor = |dtype: DType| if dtype.element_bits() < 8 { DType::Int8 } else { dtype };
        match (self.override_of(name).or_else(listed), role) {
            (Some(dtype), _) => dtype,
            (None, Role::Big) => self.dtype,
            (None, Role::Adapter | Role::Embedding) => floor(self.dtype),
        }
    }
}
