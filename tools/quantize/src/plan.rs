//! [`Plan`]: a choice of number formats, and as a recipe.
//!
//! Not here: how it is made (`budget.rs`), how a recipe is read (`brooklet_formats::convert`).
//! Test: `tests/budget.rs`.

use std::fmt::Write as _;
use std::path::Path;

use brooklet_formats::convert::{ConvertOptions, Recipe};
use brooklet_formats::{DType, FormatError};

/// Matrices with one format.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Their part of a layer, or the name of the one outside of layers.
    pub part: String,
    /// Their names in the file.
    pub names: Vec<String>,
    /// The format.
    pub dtype: DType,
    /// Weights in all of them.
    pub weights: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// The KL that they are expected to make.
    pub divergence: f64,
}

/// A choice of formats.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The formats, in the order of the file.
    pub chosen: Vec<Chosen>,
    /// The KL that the file is expected to have from the exact one.
    pub divergence: f64,
    /// Bits of tensor data per weight, as the file's summary will say.
    pub bits_per_weight: f64,
    /// About the bytes of the file, never less.
    pub bytes: u64,
    /// Tokens that matrices were measured on alone, and all together.
    pub tokens: [usize; 2],
}

/// The number of a matrix's layer, and its name there.
pub(crate) fn split(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'))
}

impl Plan {
    /// The plan as a recipe file has it: a pattern for each part of layers in each format.
    pub fn recipe(&self) -> String {
        let mut text = format!(
            "# Number formats of matrices: PATTERN=TYPE, for `--recipe`.\n\
             # {:.3} bits per weight, expected KL {:.3e} nats per token.\n",
            self.bits_per_weight, self.divergence
        );
        let mut lines: Vec<((&str, &str), DType, Vec<&str>)> = Vec::new();
        for chosen in &self.chosen {
            for name in &chosen.names {
                let (layer, part) = split(name).unwrap_or(("", name));
                let key = (if layer.is_empty() { "" } else { "layers" }, part);
                let line = lines.iter_mut().find(|line| line.0 == key && line.1 == chosen.dtype);
                match line {
                    Some(line) => line.2.push(layer),
                    None => lines.push((key, chosen.dtype, vec![layer])),
                }
            }
        }
        for ((prefix, part), dtype, layers) in lines {
            let part = regex_lite::escape(part);
            let _ = match (prefix, &layers[..]) {
                ("", _) => writeln!(text, "^{part}$={dtype}"),
                (_, [layer]) => writeln!(text, r"^layers\.{layer}\.{part}$={dtype}"),
                _ => writeln!(text, r"^layers\.({})\.{part}$={dtype}", layers.join("|")),
            };
        }
        text
    }

    /// The options with the plan in them; overrides are part of it.
    ///
    /// # Errors
    /// None, unless the model has more matrices than a recipe may.
    pub fn apply(&self, options: &ConvertOptions) -> Result<ConvertOptions, FormatError> {
        let recipe = Recipe::parse(Path::new("(the plan)"), self.recipe().as_bytes())?;
        Ok(ConvertOptions { recipe: Some(recipe), overrides: Vec::new(), ..options.clone() })
    }
}
