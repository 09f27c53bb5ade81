//! [`Values`]: what a cell of a tensor means in one checkpoint: views of its tensors, and what
//! happens to their values.
//!
//! | in a cell | meaning |
//! |---|---|
//! | `a; b` | the rows of `b` below those of `a` |
//! | `experts.*.a` | the rows of all experts' tensors, in their order |
//! | `a + b`, `a * b`, `1 + a`, … | value by value, in f64; rounded to f32 once, at the end |
//! | `exp(a)`, `sigmoid(a)`, `softplus(a)`, `-a` | each value mapped |
//! | `a * b`, … of a `b` of one value | that value for every one of `a` |
//! | `layer_norm(a, w, b, {eps})` | each row of `a` layer-normed, with weights and biases |
//! | `rms_norm(a, w, {eps})` | each row of `a` RMS-normed, with weights |
//! | `shifted(a, b, s)` | each row of `a` plus `b`, then times `s` |
//! | `rope({base}, {n})` | the n / 2 frequencies base^(−2i/n) of rotary positions |
//! | `rope({base}, {n}, {m})` | the same, 0 from the m-th on: those pairs stand still |
//! | `lower_bound(a)` | HGRN's: Σ of the layer's first rows of softmax over `a`'s rows, but row 0 |
//! | `diagonal(a, {from}, {to})` | these rows of `a`'s matrices, as blocks of a diagonal |
//! | `a.#.b` | of the layer whose transformer this one shares; `#` counts all that have one |
//! | `{formula}` | a number from hyper-parameters; `layer` is the layer's |
//! | `index()` | the number of each value, from 0 on |
//! | `0` alone | that value everywhere |
//!
//! Nothing is read before values are asked for, but the vectors of norms and values that stand
//! alone. Test: `tests`.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::hyper::Hyper;
use super::place::Place;
use super::syntax::{Choice, EXPERT, Expr, Operator, Suffix};
use super::view::View;
use crate::FormatError;
use crate::checkpoint::SourceTensor;

/// Where a cell stands.
pub(super) struct Context<'c, 'a> {
    pub(super) place: Place<'a>,
    pub(super) hyper: &'c Hyper<'a>,
    /// The layer, for rows of layers.
    pub(super) layer: Option<usize>,
    /// The expert whose tensors are named.
    pub(super) expert: Cell<usize>,
    /// The tensors that the cell takes.
    pub(super) taken: RefCell<Vec<&'a SourceTensor>>,
}

/// The values of a cell.
pub(super) struct Values<'a>(Vec<Formula<'a>>);

enum Formula<'a> {
    View(View<'a>),
    Number(f64),
    /// The number of each value.
    Index,
    /// base^(−2i/n), the first so many
    Rope {
        base: f64,
        n: usize,
        turning: usize,
    },
    Norm {
        rows: View<'a>,
        weight: Vec<f32>,
        /// Of a layer norm; an RMS norm has none.
        bias: Option<Vec<f32>>,
        eps: f64,
    },
    /// (row + shift) · scale
    Shifted {
        rows: View<'a>,
        shift: Vec<f32>,
        scale: Vec<f32>,
    },
    /// Rows `from..to` of each of the matrices, along the diagonal.
    Diagonal {
        matrices: View<'a>,
        from: usize,
        to: usize,
        of: usize,
    },
    /// Values made of a whole tensor.
    Made(&'a SourceTensor, Vec<f64>),
    Map(fn(f64) -> f64, Box<Formula<'a>>),
    Two(Operator, Box<Formula<'a>>, Box<Formula<'a>>),
}

impl<'a> Context<'_, 'a> {
    /// The meaning of `choice` here.
    pub(super) fn values(&self, choice: &Choice<'_>) -> Result<Values<'a>, FormatError> {
        let mut parts = Vec::new();
        for expr in &choice.stack {
            match expr.is_of_experts() {
                true => self.of_experts(expr, &mut parts)?,
                false => parts.push(self.formula(expr)?),
            }
        }
        if let Some((first, rest)) = parts.split_first() {
            let cols = |part: &Formula<'_>| part.matrix_shape().map(|(_, cols)| cols);
            if let Some(part) = rest.iter().find(|part| cols(part) != cols(first)) {
                let expected = "one with the columns of those above it";
                return Err(self.misfit(part, expected, choice.text));
            }
        }
        Ok(Values(parts))
    }

    /// Appends what the formula means for each expert, all of one shape.
    fn of_experts(&self, expr: &Expr<'_>, parts: &mut Vec<Formula<'a>>) -> Result<(), FormatError> {
        let n_expert = self.hyper.size_of("n_expert")?;
        let n_expert = n_expert.ok_or_else(|| self.hyper.typo("experts without a number"))?;
        let first = parts.len();
        for expert in 0..n_expert {
            self.expert.set(expert);
            parts.push(self.formula(expr)?);
            if parts[expert + first].matrix_shape() != parts[first].matrix_shape() {
                return Err(self.misfit(&parts[expert + first], "that of the first expert's", ""));
            }
        }
        Ok(())
    }

    fn formula(&self, expr: &Expr<'_>) -> Result<Formula<'a>, FormatError> {
        Ok(match expr {
            Expr::Number(n) => Formula::Number(*n),
            Expr::Braces(inner) => Formula::Number(self.number(inner)?),
            Expr::Name(name, suffixes) => Formula::View(self.view(name, suffixes)?),
            Expr::Negative(inner) => Formula::Map(|x| -x, Box::new(self.formula(inner)?)),
            Expr::Call("exp", of) if of.len() == 1 => {
                Formula::Map(f64::exp, Box::new(self.formula(&of[0])?))
            }
            Expr::Call("sigmoid", of) if of.len() == 1 => {
                Formula::Map(|x| 1.0 / (1.0 + (-x).exp()), Box::new(self.formula(&of[0])?))
            }
            Expr::Call("softplus", of) if of.len() == 1 => {
                let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
                Formula::Map(softplus, Box::new(self.formula(&of[0])?))
            }
            Expr::Call("index", of) if of.is_empty() => Formula::Index,
            Expr::Call("lower_bound", of) if of.len() == 1 => self.lower_bound(&of[0])?,
            Expr::Call("layer_norm", of) if of.len() == 4 => {
                let (rows, [weight, bias]) = self.rows_and_vectors(&of[0], [&of[1], &of[2]])?;
                let eps = self.eps(&of[3])?;
                Formula::Norm { rows, weight, bias: Some(bias), eps }
            }
            Expr::Call("rms_norm", of) if of.len() == 3 => {
                let (rows, [weight]) = self.rows_and_vectors(&of[0], [&of[1]])?;
                Formula::Norm { rows, weight, bias: None, eps: self.eps(&of[2])? }
            }
            Expr::Call("shifted", of) if of.len() == 3 => {
                let (rows, [shift, scale]) = self.rows_and_vectors(&of[0], [&of[1], &of[2]])?;
                Formula::Shifted { rows, shift, scale }
            }
            Expr::Call("rope", of) if (2..=3).contains(&of.len()) => {
                let number = |expr| match self.formula(expr)? {
                    Formula::Number(n) => Ok(n),
                    _ => Err(self.hyper.typo("rope")),
                };
                let turning = of.get(2).map(number).transpose()?;
                let turning = turning.map_or(usize::MAX, |n| n.max(0.0) as usize);
                let (base, n) = (number(&of[0])?, number(&of[1])?.max(0.0) as usize);
                Formula::Rope { base, n, turning }
            }
            Expr::Call("diagonal", of) if of.len() == 3 => {
                let Formula::View(matrices) = self.formula(&of[0])? else {
                    return Err(self.hyper.typo("diagonal"));
                };
                let size = |expr: &Expr<'_>| match expr {
                    Expr::Braces(inner) => Ok(self.number(inner)?.max(0.0) as usize),
                    _ => Err(self.hyper.typo("diagonal")),
                };
                let (from, to) = (size(&of[1])?, size(&of[2])?);
                match matrices.dims()[..] {
                    [_, of, _] if from < to && to <= of => {
                        Formula::Diagonal { matrices, from, to, of }
                    }
                    _ => {
                        let expected = format!("matrices of at least {to} rows");
                        return Err(self.place.shape_error(matrices.tensor, expected));
                    }
                }
            }
            Expr::Call(name, _) => return Err(self.hyper.typo(name)),
            Expr::Two(operator, a, b) => {
                let (a, mut b) = (self.formula(a)?, self.formula(b)?);
                if b.len() == Some(1) && a.len().is_some_and(|len| len > 1) {
                    b = Formula::Number(b.exact(0..1)?[0]);
                }
                if let Some((a, expected)) = a.len().zip(b.len())
                    && a != expected
                {
                    return Err(self.misfit(&b, &format!("one of {a} values"), "a part of a sum"));
                }
                Formula::Two(*operator, Box::new(a), Box::new(b))
            }
        })
    }

    fn number(&self, expr: &Expr<'_>) -> Result<f64, FormatError> {
        let number = self.hyper.number(expr, self.layer.unwrap_or(0))?;
        number.ok_or_else(|| self.hyper.typo("a formula of unknown hyper-parameters"))
    }

    fn view(&self, name: &str, suffixes: &[Suffix<'_>]) -> Result<View<'a>, FormatError> {
        let name = match self.layer.filter(|_| name.contains('#')) {
            None => self.place.name(self.layer, name),
            Some(layer) => {
                let (owner, number) = self.hyper.shares(layer);
                self.place.name(Some(owner), &name.replace('#', &number.to_string()))
            }
        };
        let name = name.replacen(EXPERT, &format!(".{}.", self.expert.get()), 1);
        let tensor = self.place.tensor(&name)?;
        self.taken.borrow_mut().push(tensor);
        let mut view = View::whole(self.place.checkpoint, tensor);
        for suffix in suffixes {
            let size = |expr: &Expr<'_>| {
                let size = self.hyper.size(expr)?;
                size.ok_or_else(|| self.hyper.typo("the length of a part"))
            };
            let (mut lengths, mut each, mut what) = (Vec::new(), 1, String::new());
            match suffix {
                Suffix::Transpose => what += "a matrix to transpose",
                Suffix::Flat | Suffix::Split => what += "matrices of experts",
                Suffix::Fraction { of, .. } => what += &format!("one of {of} equal parts"),
                Suffix::Part { lengths: exprs, each: times, .. } => {
                    for expr in exprs {
                        lengths.push(size(expr)?);
                    }
                    if let Some(times) = times {
                        each = size(times)?;
                    }
                    what += &format!("one of {each} times {lengths:?} rows");
                }
            }
            if !view.apply(suffix, &lengths, each) {
                return Err(self.place.shape_error(tensor, what));
            }
        }
        Ok(view.squeezed())
    }

    /// The least decays of this layer, of a tensor outside of the layers.
    fn lower_bound(&self, of: &Expr<'_>) -> Result<Formula<'a>, FormatError> {
        let Expr::Name(name, _) = of else { return Err(self.hyper.typo("lower_bound")) };
        let tensor = self.place.tensor(&self.place.name(None, name))?;
        let layer = self.layer.unwrap_or(0);
        let cols = match tensor.shape[..] {
            [rows, cols] if rows > layer && cols > 0 => cols,
            _ => return Err(self.place.shape_error(tensor, "a row for each layer".to_owned())),
        };
        self.taken.borrow_mut().push(tensor);
        let view = View::whole(self.place.checkpoint, tensor);
        let mut values = Vec::new();
        view.read(0..view.len(), &mut values)?;
        let column = |j: usize| {
            let column = values.iter().skip(j).step_by(cols).map(|v| f64::from(*v));
            let max = column.clone().fold(f64::MIN, f64::max);
            let sum: f64 = column.clone().map(|v| (v - max).exp()).sum();
            column.skip(1).take(layer).map(|v| (v - max).exp()).sum::<f64>() / sum
        };
        Ok(Formula::Made(tensor, (0..cols).map(column).collect()))
    }

    /// The first formula, of rows, and the others, of a value for each column.
    fn rows_and_vectors<const N: usize>(
        &self,
        rows: &Expr<'_>,
        vectors: [&Expr<'_>; N],
    ) -> Result<(View<'a>, [Vec<f32>; N]), FormatError> {
        let Formula::View(rows) = self.formula(rows)? else {
            return Err(self.hyper.typo("a formula in the place of rows"));
        };
        let cols = rows.matrix_shape().map_or(0, |(_, cols)| cols);
        let mut values = [const { Vec::new() }; N];
        for (values, vector) in values.iter_mut().zip(vectors) {
            let vector = self.formula(vector)?;
            if vector.len().is_some_and(|len| len != cols) {
                return Err(self.misfit(&vector, &format!("[{cols}]"), ""));
            }
            vector.read(0..cols, values)?;
        }
        Ok((rows, values))
    }

    /// The epsilon of a norm.
    fn eps(&self, expr: &Expr<'_>) -> Result<f64, FormatError> {
        match self.formula(expr)? {
            Formula::Number(eps) => Ok(eps),
            _ => Err(self.hyper.typo("a norm")),
        }
    }

    /// "The tensor of this formula must have another shape."
    fn misfit(&self, formula: &Formula<'a>, expected: &str, what: &str) -> FormatError {
        match formula.tensor() {
            Some(tensor) => {
                let what = if what.is_empty() { String::new() } else { format!(" as {what}") };
                self.place.shape_error(tensor, expected.to_owned() + &what)
            }
            None => self.hyper.typo(what),
        }
    }
}

impl<'a> Values<'a> {
    /// Number of values; `None` if one stands for all.
    pub(super) fn len(&self) -> Option<usize> {
        self.0.iter().map(Formula::len).sum()
    }

    /// Rows and columns, if it is a matrix.
    pub(super) fn matrix_shape(&self) -> Option<(usize, usize)> {
        let (_, cols) = self.0.first()?.matrix_shape()?;
        let rows: Option<usize> = self.0.iter().map(|part| Some(part.matrix_shape()?.0)).sum();
        Some((rows?, cols))
    }

    /// The first tensor in it.
    pub(super) fn tensor(&self) -> Option<&'a SourceTensor> {
        self.0.iter().find_map(Formula::tensor)
    }

    /// Appends the values `range`, the last dimension fastest; of layer-normed ones, whole rows.
    pub(super) fn read(&self, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), FormatError> {
        let mut start = 0;
        for part in &self.0 {
            let end = part.len().map_or(range.end, |len| start + len);
            let own = range.start.max(start)..range.end.min(end);
            if own.start < own.end {
                part.read(own.start - start..own.end - start, out)?;
            }
            start = end;
        }
        Ok(())
    }
}

impl<'a> Formula<'a> {
    fn len(&self) -> Option<usize> {
        match self {
            Formula::View(view)
            | Formula::Norm { rows: view, .. }
            | Formula::Shifted { rows: view, .. } => Some(view.len()),
            Formula::Number(_) | Formula::Index => None,
            Formula::Made(_, values) => Some(values.len()),
            Formula::Rope { n, .. } => Some(n / 2),
            Formula::Diagonal { .. } => self.matrix_shape().map(|(rows, cols)| rows * cols),
            Formula::Map(_, inner) => inner.len(),
            Formula::Two(_, a, b) => a.len().or(b.len()),
        }
    }

    fn matrix_shape(&self) -> Option<(usize, usize)> {
        match self {
            Formula::View(view)
            | Formula::Norm { rows: view, .. }
            | Formula::Shifted { rows: view, .. } => view.matrix_shape(),
            Formula::Number(_) | Formula::Index | Formula::Rope { .. } | Formula::Made(..) => None,
            Formula::Diagonal { matrices, from, to, .. } => {
                let dims = matrices.dims();
                Some((dims[0] * (to - from), dims[0] * dims[2]))
            }
            Formula::Map(_, inner) => inner.matrix_shape(),
            Formula::Two(_, a, b) => a.matrix_shape().or(b.matrix_shape()),
        }
    }

    fn tensor(&self) -> Option<&'a SourceTensor> {
        match self {
            Formula::View(view)
            | Formula::Norm { rows: view, .. }
            | Formula::Shifted { rows: view, .. } => Some(view.tensor),
            Formula::Made(tensor, _) => Some(tensor),
            Formula::Diagonal { matrices, .. } => Some(matrices.tensor),
            Formula::Number(_) | Formula::Index | Formula::Rope { .. } => None,
            Formula::Map(_, inner) => inner.tensor(),
            Formula::Two(_, a, b) => a.tensor().or(b.tensor()),
        }
    }

    fn read(&self, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), FormatError> {
        match self {
            Formula::View(view) => view.read(range, out),
            Formula::Norm { rows, weight, bias, eps } => {
                let start = out.len();
                rows.read(range, out)?;
                for row in out[start..].chunks_exact_mut(weight.len()) {
                    norm(row, weight, bias.as_deref(), *eps);
                }
                Ok(())
            }
            Formula::Shifted { rows, shift, scale } => {
                let start = out.len();
                rows.read(range, out)?;
                for row in out[start..].chunks_exact_mut(shift.len()) {
                    for (x, (shift, scale)) in row.iter_mut().zip(shift.iter().zip(scale)) {
                        *x = (*x + shift) * scale;
                    }
                }
                Ok(())
            }
            _ => {
                out.extend(self.exact(range)?.into_iter().map(|value| value as f32));
                Ok(())
            }
        }
    }

    /// The values before they are rounded.
    fn exact(&self, range: Range<usize>) -> Result<Vec<f64>, FormatError> {
        match self {
            Formula::View(_) | Formula::Norm { .. } | Formula::Shifted { .. } => {
                let mut values = Vec::new();
                self.read(range, &mut values)?;
                Ok(values.into_iter().map(f64::from).collect())
            }
            Formula::Made(_, values) => Ok(values[range].to_vec()),
            Formula::Diagonal { matrices, from, to, of } => {
                let mut values = Vec::new();
                matrices.read(0..matrices.len(), &mut values)?;
                let (cols, rows) = (matrices.dims()[2], to - from);
                let all_cols = matrices.dims()[0] * cols;
                let value = |at: usize| {
                    let (row, col) = (at / all_cols, at % all_cols);
                    let (matrix, row) = (row / rows, from + row % rows);
                    let value = values[(matrix * of + row) * cols + col % cols];
                    if col / cols == matrix { f64::from(value) } else { 0.0 }
                };
                Ok(range.map(value).collect())
            }
            Formula::Number(n) => Ok(vec![*n; range.len()]),
            Formula::Index => Ok(range.map(|i| i as f64).collect()),
            Formula::Rope { base, n, turning } => {
                let frequency = |i: usize| base.powf(-2.0 * i as f64 / *n as f64);
                Ok(range.map(|i| if i < *turning { frequency(i) } else { 0.0 }).collect())
            }
            Formula::Map(map, inner) => {
                let mut values = inner.exact(range)?;
                values.iter_mut().for_each(|value| *value = map(*value));
                Ok(values)
            }
            Formula::Two(operator, a, b) => {
                let (mut values, others) = (a.exact(range.clone())?, b.exact(range)?);
                values.iter_mut().zip(others).for_each(|(a, b)| *a = operator.apply(*a, b));
                Ok(values)
            }
        }
    }
}

/// Of a layer norm, if there are biases, else of an RMS norm.
fn norm(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f64) {
    let n = row.len() as f64;
    let mean = match bias {
        Some(_) => row.iter().map(|v| f64::from(*v)).sum::<f64>() / n,
        None => 0.0,
    };
    let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    let inverse = 1.0 / (variance + eps).sqrt();
    for (i, (v, w)) in row.iter_mut().zip(weight).enumerate() {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
        *v = ((f64::from(*v) - mean) * inverse * f64::from(*w) + bias) as f32;
    }
}
