//! The meaning of a tensor's cell in one checkpoint ([`Values`]): views of its tensors, and what
//! happens to their values.
//!
//! | in a cell | meaning |
//! |---|---|
//! | `a; b` | the rows of `b` below those of `a` |
//! | `experts.*.a` | the rows of all experts' tensors, in their order |
//! | `a_*.b` | those of the parts `a_0.b`, `a_1.b`, … |
//! | `a + b`, `a * b`, `1 + a`, … | value by value, in f64; rounded to f32 once, at the end |
//! | `exp(a)`, `sigmoid(a)`, `softplus(a)`, `-a` | each value mapped |
//! | `a * b`, … of a `b` of one value | that value for every one of `a` |
//! | `layer_norm(a, w, b, {eps})` | each row of `a` layer-normed, with weights and biases |
//! | `rms_norm(a, w, {eps})` | each row of `a` RMS-normed, with weights |
//! | `shifted(a, b, s)` | each row of `a` plus `b`, then times `s` |
//! | `rope({base}, {n})` | the n / 2 frequencies base^(−2i/n) of rotary positions |
//! | `rope({base}, {n}, {m})` | the same, 0 from the m-th on: those pairs stand still |
//! | `lower_bound(a)` | HGRN's: Σ of the layer's first rows of softmax over `a`'s rows, but row 0 |
//! | `dilated(a, {n})` | the columns of `a`, n apart, with zeros between them |
//! | `diagonal(a, {from}, {to})` | these rows of `a`'s matrices, as blocks of a diagonal |
//! | `a.#.b` | of the layer whose transformer this one shares; `#` counts all that have one |
//! | `{formula}` | a number from hyper-parameters; `layer` is the layer's |
//! | `index()` | the number of each value, from 0 on |
//! | `0` alone | that value everywhere |
//!
//! Nothing is read before values are asked for, but the vectors of norms and values that stand
//! alone. Test: `tests`.

use std::cell::{Cell, RefCell};

use super::hyper::Hyper;
use super::place::Place;
use super::syntax::{Choice, EXPERT, Expr, PART, Suffix};
use super::values::{Formula, Values};
use super::view::View;
use crate::FormatError;
use crate::checkpoint::SourceTensor;

/// Where a cell stands.
pub(super) struct Context<'c, 'a> {
    pub(super) place: Place<'a>,
    pub(super) hyper: &'c Hyper<'a>,
    /// The layer, for rows of layers.
    pub(super) layer: Option<usize>,
    /// The expert, or the part, whose tensors are named.
    pub(super) expert: Cell<usize>,
    /// The tensors that the cell takes.
    pub(super) taken: RefCell<Vec<&'a SourceTensor>>,
}

impl<'a> Context<'_, 'a> {
    /// The meaning of `choice` here.
    pub(super) fn values(&self, choice: &Choice<'_>) -> Result<Values<'a>, FormatError> {
        let mut parts = Vec::new();
        for expr in &choice.stack {
            match expr {
                expr if expr.is_of_experts() => self.of_experts(expr, &mut parts)?,
                expr if expr.is_of_parts() => self.of_parts(expr, &mut parts)?,
                expr => parts.push(self.formula(expr)?),
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

    /// Appends what the formula means for each part, the first of which is there.
    fn of_parts(&self, expr: &Expr<'_>, parts: &mut Vec<Formula<'a>>) -> Result<(), FormatError> {
        for part in 0.. {
            self.expert.set(part);
            match self.formula(expr) {
                Err(FormatError::MissingTensor { .. }) if part > 0 => break,
                found => parts.push(found?),
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
            Expr::Call("dilated", of) if of.len() == 2 => {
                let (Formula::View(columns), Formula::Number(apart)) =
                    (self.formula(&of[0])?, self.formula(&of[1])?)
                else {
                    return Err(self.hyper.typo("dilated"));
                };
                Formula::Dilated(columns, apart.max(1.0) as usize)
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
        let number = self.expert.get();
        let name = name.replacen(EXPERT, &format!(".{number}."), 1);
        let name = name.replacen(PART, &format!("_{number}."), 1);
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
