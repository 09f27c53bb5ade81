//! The importance of the columns of a model's matrices, out of llama.cpp's imatrix file.
//!
//! The tables of architectures say which of our matrices are made of which of a GGUF file. A matrix
//! whose columns stand there in another order has none. Not here: the file (`checkpoint::imatrix`),
//! what is made of it (`tools/quantize`). Test: below.

use std::collections::HashMap;

use super::families::ARCHITECTURES;
use super::syntax::{Cell, EXPERT, Expr, Suffix};
use super::table::{Architecture, Layout, Row, Shape};
use crate::FormatError;
use crate::brk::BrkFile;
use crate::checkpoint::Imatrix;
use crate::quant::TILE_ROWS;

/// By the names of the matrices of `file`, the importance of their columns: as many numbers as
/// columns, or so many for each of the experts in it.
///
/// # Errors
/// No entry is one of `file`'s matrices, or one has another number of columns or experts.
pub fn importance(
    file: &BrkFile,
    imatrix: &Imatrix,
) -> Result<HashMap<String, Vec<f32>>, FormatError> {
    let field = |what, expected, found| {
        Err(FormatError::Field { path: imatrix.path().to_owned(), what, expected, found })
    };
    let name = &*file.meta().architecture;
    let architecture = ARCHITECTURES.iter().find(|architecture| architecture.name == name);
    let mut matrices = HashMap::new();
    for info in file.tensors() {
        let (Some(architecture), Some(layout)) = (architecture, info.tile_layout()) else {
            continue;
        };
        let (rows, layer) = rows_of(architecture, &info.name);
        let names = gguf_names(architecture, &rows, layer);
        let entries = imatrix.entries();
        let entry = names.iter().find_map(|name| entries.get_key_value(name));
        let Some((name, values)) = entry else { continue };
        // Each expert's rows fill whole tiles.
        let is_of_experts = rows.iter().any(|row| matches!(row.1, Shape::Experts(..)));
        let n = values.len() / layout.cols;
        let fits = n == 1 || is_of_experts && n > 0 && layout.rows.is_multiple_of(n * TILE_ROWS);
        if !fits || n * layout.cols != values.len() {
            let expected = match is_of_experts {
                true => format!("{} for each expert of {:?}", layout.cols, info.name),
                false => format!("{}, as {:?} has", layout.cols, info.name),
            };
            let found = format!("{} in the entry {name:?}", values.len());
            return field("the number of columns", expected, found);
        }
        matrices.insert(info.name.clone(), values.clone());
    }
    if matrices.is_empty() {
        let title = architecture.map_or(name, |architecture| architecture.title);
        let some: Vec<&str> = imatrix.entries().keys().take(3).map(String::as_str).collect();
        let expected = format!("those of a GGUF file of {title}, which this model is");
        return field("the names of entries", expected, some.join(", "));
    }
    Ok(matrices)
}

/// The lines of the tables that are of the matrix `name`, and its layer.
fn rows_of<'n>(
    architecture: &'static Architecture,
    name: &'n str,
) -> (Vec<&'static Row>, Option<&'n str>) {
    let in_layer = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
    let (layer, name) = in_layer.map_or((None, name), |(i, name)| (Some(i), name));
    let rows: Vec<&Row> = match layer {
        Some(_) => architecture.layers.iter().flat_map(|(_, rows)| *rows).collect(),
        None => architecture.trunk.iter().collect(),
    };
    (rows.into_iter().filter(|row| row.0 == name).collect(), layer)
}

/// The names in GGUF of the matrices that a matrix of these lines is made of, with its columns as
/// columns.
fn gguf_names(architecture: &Architecture, rows: &[&Row], layer: Option<&str>) -> Vec<String> {
    let mut names = Vec::new();
    for layout in architecture.layouts.iter().filter(|layout| layout.layers == GGUF_LAYERS) {
        for row in rows {
            let Ok(cell) = Cell::parse(row.cell(layout.column)) else { continue };
            let exprs = cell.choices.iter().flat_map(|choice| &choice.stack);
            exprs.for_each(|expr| add_names(expr, layout, layer, &mut names));
        }
    }
    names
}

/// The prefix of layers that all of llama.cpp's files have.
const GGUF_LAYERS: &str = "blk.";

fn add_names(expr: &Expr<'_>, layout: &Layout, layer: Option<&str>, names: &mut Vec<String>) {
    match expr {
        Expr::Name(name, suffixes) if !suffixes.contains(&Suffix::Transpose) => {
            let name = name.replace(EXPERT, ".");
            let whole = layer.map_or(name.clone(), |i| format!("{GGUF_LAYERS}{i}.{name}"));
            names.push(layout.spell(&whole));
        }
        Expr::Name(..) | Expr::Number(_) | Expr::Braces(_) => {}
        Expr::Negative(inner) => add_names(inner, layout, layer, names),
        Expr::Call(_, list) => list.iter().for_each(|expr| add_names(expr, layout, layer, names)),
        Expr::Two(_, a, b) => {
            add_names(a, layout, layer, names);
            add_names(b, layout, layer, names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_tables() {
        let names = |architecture: &str, name: &str| {
            let found = ARCHITECTURES.iter().find(|each| each.name == architecture);
            let found = *found.expect("an architecture");
            let (rows, layer) = rows_of(found, name);
            gguf_names(found, &rows, layer)
        };
        assert_eq!(names("rwkv7", "layers.11.att.key"), ["blk.11.time_mix_key.weight"]);
        assert_eq!(names("rwkv7", "head"), ["output.weight"]);
        assert_eq!(names("mamba2", "layers.0.in_proj.xbc"), ["blk.0.ssm_in.weight"]);
        assert_eq!(names("mamba1", "embed"), ["token_embd.weight"]);
        assert!(
            names("lfm2_moe", "layers.3.experts.down")
                .contains(&"blk.3.ffn_down_exps.weight".into())
        );
        assert!(names("rwkv4", "layers.0.att.key").is_empty());
        assert!(names("rwkv7", "layers.0.att.nothing").is_empty());
    }
}
