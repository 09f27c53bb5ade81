//! The language of the tables' cells: how their text is read.
//!
//! ```text
//! cell    choice { "|" choice } ["?"]     the first choice whose tensors or keys are there;
//!                                         "?": the line may be left out
//! choice  sum { ";" sum } ["if" KEY ["=" WORD]]
//!                                         rows stacked; only if the key is true, or that word
//! sum     product { ("+" | "-") product }
//! product power { ("*" | "//" | "%") power }     whole parts and remainders of quotients
//! power   atom ["^" atom]
//! atom    NUMBER | NAME {suffix} | "-" power | "(" sum ")" | "{" sum "}" | FUNCTION "(" sum, … ")"
//! suffix  "^T"                            the last two dimensions swapped
//!         "[2/6]"                         the third of six equal parts of the first dimension
//!         "[1 of a, b, c]"                the second of three parts of these lengths
//!         "[1 of a, b, c each n]"         that of each of n such rows of parts: interleaved heads
//!         "[flat]"                        the matrices of all experts below each other
//!         "[split]"                       those of n rows of parts as n matrices
//! ```
//!
//! A name is a tensor in a cell of a tensor and a hyper-parameter or key in one of a
//! hyper-parameter; braces hold a formula of hyper-parameters inside a cell of a tensor. A name
//! with `.*.` stands for one tensor of each expert, stacked in their order, one with `_*.` for the
//! parts from 0 on, as many as there are. Suffixes apply from
//! left to right. Not here: any meaning (`hyper`, `formula`). Test: below, and `families` for every
//! cell of every table.

/// An operator between two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    /// The whole part of a quotient.
    Divide,
    Remainder,
    Power,
}

impl Operator {
    pub(super) fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            // A period of no layers never comes round.
            Self::Divide if b == 0.0 => 0.0,
            Self::Divide => (a / b).floor(),
            Self::Remainder => a % b,
            Self::Power => a.powf(b),
        }
    }
}

/// A formula.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr<'t> {
    Number(f64),
    Name(&'t str, Vec<Suffix<'t>>),
    /// A formula of hyper-parameters, where names are those of tensors.
    Braces(Box<Expr<'t>>),
    Call(&'t str, Vec<Expr<'t>>),
    Negative(Box<Expr<'t>>),
    Two(Operator, Box<Expr<'t>>, Box<Expr<'t>>),
}

/// The part that is taken of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Suffix<'t> {
    Transpose,
    Fraction { index: usize, of: usize },
    Part { index: usize, lengths: Vec<Expr<'t>>, each: Option<Expr<'t>> },
    Flat,
    Split,
}

impl Expr<'_> {
    /// Whether it names tensors of experts.
    pub(super) fn is_of_experts(&self) -> bool {
        match self {
            Expr::Name(name, _) => name.contains(EXPERT),
            Expr::Number(_) | Expr::Braces(_) => false,
            Expr::Negative(inner) => inner.is_of_experts(),
            Expr::Call(_, list) => list.iter().any(Expr::is_of_experts),
            Expr::Two(_, a, b) => a.is_of_experts() || b.is_of_experts(),
        }
    }

    /// Whether it names the parts of one tensor.
    pub(super) fn is_of_parts(&self) -> bool {
        matches!(self, Expr::Name(name, _) if name.contains(PART))
    }
}

/// The place of an expert's number in a name.
pub(super) const EXPERT: &str = ".*.";
/// The place of a part's number in a name.
pub(super) const PART: &str = "_*.";

/// One way to fill a line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice<'t> {
    pub(super) text: &'t str,
    /// Formulas whose rows stand on top of each other.
    pub(super) stack: Vec<Expr<'t>>,
    /// The key and the word that it must hold.
    pub(super) guard: Option<(&'t str, &'t str)>,
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell<'t> {
    pub(super) choices: Vec<Choice<'t>>,
    pub(super) optional: bool,
}

impl<'t> Cell<'t> {
    /// Reads a cell; an error is the rest of the text that is not understood.
    pub(super) fn parse(text: &'t str) -> Result<Self, &'t str> {
        let (text, optional) = match text.trim_end().strip_suffix('?') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let choices = text.split('|').map(Choice::parse).collect::<Result<_, _>>()?;
        Ok(Cell { choices, optional })
    }
}

impl<'t> Choice<'t> {
    fn parse(text: &'t str) -> Result<Self, &'t str> {
        let text = text.trim();
        let (formulas, guard) = match text.split_once(" if ") {
            Some((formulas, guard)) => {
                let (key, word) = guard.split_once('=').unwrap_or((guard, "true"));
                (formulas, Some((key.trim(), word.trim())))
            }
            None => (text, None),
        };
        let stack = formulas.split(';').map(formula).collect::<Result<_, _>>()?;
        Ok(Choice { text, stack, guard })
    }
}

/// Reads one formula to its end.
pub(super) fn formula(text: &str) -> Result<Expr<'_>, &str> {
    let mut reader = Reader { rest: text };
    let sum = reader.sum()?;
    match reader.rest.trim() {
        "" => Ok(sum),
        rest => Err(rest),
    }
}

/// The operators of sums and of products.
const SUM: [(&str, Operator); 2] = [("+", Operator::Add), ("-", Operator::Subtract)];
const PRODUCT: [(&str, Operator); 3] =
    [("*", Operator::Multiply), ("//", Operator::Divide), ("%", Operator::Remainder)];

/// The text that is still to be read.
struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn eat(&mut self, text: &str) -> bool {
        match self.rest.trim_start().strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), &'t str> {
        if self.eat(text) { Ok(()) } else { Err(self.rest) }
    }

    /// The longest text of such characters.
    fn word(&mut self, fits: impl Fn(char) -> bool) -> Result<&'t str, &'t str> {
        let text = self.rest.trim_start();
        let (word, rest) = text.split_at(text.find(|c| !fits(c)).unwrap_or(text.len()));
        self.rest = rest;
        if word.is_empty() { Err(text) } else { Ok(word) }
    }

    fn name(&mut self) -> Result<&'t str, &'t str> {
        let text = self.rest.trim_start();
        let end = text.char_indices().find(|&(i, c)| {
            let is_expert =
                c == '*' && text[..i].ends_with(['.', '_']) && text[i + 1..].starts_with('.');
            !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '#') || is_expert)
        });
        let (name, rest) = text.split_at(end.map_or(text.len(), |(i, _)| i));
        self.rest = rest;
        if name.is_empty() { Err(text) } else { Ok(name) }
    }

    fn count(&mut self) -> Result<usize, &'t str> {
        let digits = self.word(|c| c.is_ascii_digit())?;
        digits.parse().map_err(|_| digits)
    }

    fn chain(
        &mut self,
        operators: &[(&str, Operator)],
        operand: fn(&mut Self) -> Result<Expr<'t>, &'t str>,
    ) -> Result<Expr<'t>, &'t str> {
        let mut left = operand(self)?;
        while let Some((_, operator)) = operators.iter().find(|(sign, _)| self.eat(sign)) {
            left = Expr::Two(*operator, Box::new(left), Box::new(operand(self)?));
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Expr<'t>, &'t str> {
        self.chain(&SUM, Self::product)
    }

    fn product(&mut self) -> Result<Expr<'t>, &'t str> {
        self.chain(&PRODUCT, Self::power)
    }

    fn power(&mut self) -> Result<Expr<'t>, &'t str> {
        let base = self.atom()?;
        if !self.eat("^") {
            return Ok(base);
        }
        Ok(Expr::Two(Operator::Power, Box::new(base), Box::new(self.atom()?)))
    }

    /// Formulas between commas, up to `end`.
    fn list(&mut self, end: &str) -> Result<Vec<Expr<'t>>, &'t str> {
        let mut list = Vec::new();
        while !self.eat(end) {
            if !list.is_empty() {
                self.expect(",")?;
            }
            list.push(self.sum()?);
        }
        Ok(list)
    }

    fn atom(&mut self) -> Result<Expr<'t>, &'t str> {
        if self.eat("-") {
            return Ok(Expr::Negative(Box::new(self.power()?)));
        }
        if self.eat("(") {
            let inner = self.sum()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.eat("{") {
            let inner = self.sum()?;
            self.expect("}")?;
            return Ok(Expr::Braces(Box::new(inner)));
        }
        let text = self.rest.trim_start();
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            // Digits, and the sign of an exponent behind its letter.
            let end = text.char_indices().find(|&(i, c)| {
                let exponent = c == '-' && text[..i].ends_with('e');
                !(c.is_ascii_digit() || matches!(c, '.' | 'e') || exponent)
            });
            let (digits, rest) = text.split_at(end.map_or(text.len(), |(i, _)| i));
            self.rest = rest;
            return digits.parse().map(Expr::Number).map_err(|_| text);
        }
        let name = self.name()?;
        if self.rest.starts_with('(') && self.eat("(") {
            return Ok(Expr::Call(name, self.list(")")?));
        }
        let mut suffixes = Vec::new();
        loop {
            if self.rest.starts_with("^T") && self.eat("^T") {
                suffixes.push(Suffix::Transpose);
            } else if self.rest.starts_with('[') && self.eat("[") {
                suffixes.push(self.part()?);
            } else {
                return Ok(Expr::Name(name, suffixes));
            }
        }
    }

    /// The text behind a bracket, and the closing one.
    fn part(&mut self) -> Result<Suffix<'t>, &'t str> {
        let text = self.rest;
        if self.eat("flat]") {
            return Ok(Suffix::Flat);
        }
        if self.eat("split]") {
            return Ok(Suffix::Split);
        }
        let index = self.count()?;
        if self.eat("/") {
            let of = self.count()?;
            self.expect("]")?;
            return if index < of { Ok(Suffix::Fraction { index, of }) } else { Err(text) };
        }
        self.expect("of ")?;
        let mut lengths = vec![self.sum()?];
        while self.eat(",") {
            lengths.push(self.sum()?);
        }
        let each = if self.eat("each ") { Some(self.sum()?) } else { None };
        self.expect("]")?;
        if index < lengths.len() { Ok(Suffix::Part { index, lengths, each }) } else { Err(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(expr: &Expr<'_>) -> f64 {
        match expr {
            Expr::Number(n) => *n,
            Expr::Negative(inner) => -evaluated(inner),
            Expr::Two(operator, a, b) => operator.apply(evaluated(a), evaluated(b)),
            _ => panic!("{expr:?}"),
        }
    }

    #[test]
    fn arithmetic() {
        for (text, expected) in [
            ("1 + 2 * 3 - 4", 3.0),
            ("2*(3 - 5) // 3", -2.0),
            ("7 % 4 + 7 // 0", 3.0),
            ("2^(7 // 3)", 4.0),
            ("-2^2", -4.0),
            ("64e-5", 64e-5),
            ("1.5e-3*-2", -0.003),
        ] {
            assert_eq!(evaluated(&formula(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn cells() {
        let name = |name| Expr::Name(name, Vec::new());
        let cell = Cell::parse("a.0.b; c if config.x=no | exp(-d)?").unwrap();
        assert!(cell.optional);
        assert_eq!(cell.choices[0].stack, [name("a.0.b"), name("c")]);
        assert_eq!(cell.choices[0].guard, Some(("config.x", "no")));
        let negative = Expr::Negative(Box::new(name("d")));
        assert_eq!(cell.choices[1].stack, [Expr::Call("exp", vec![negative])]);
        assert_eq!(cell.choices[1].text, "exp(-d)");
        assert_eq!(Choice::parse("a if k").unwrap().guard, Some(("k", "true")));
        let whole = Suffix::Part {
            index: 1,
            lengths: vec![name("x"), formula("2*y").unwrap()],
            each: Some(name("z")),
        };
        let fraction = Suffix::Fraction { index: 0, of: 3 };
        assert_eq!(
            formula("a^T[1 of x, 2*y each z][0/3]").unwrap(),
            Expr::Name("a", vec![Suffix::Transpose, whole, fraction])
        );
        let two = formula("a.*.b*c[flat]").unwrap();
        let Expr::Two(Operator::Multiply, a, c) = &two else { panic!("{two:?}") };
        assert_eq!((&**a, &**c), (&name("a.*.b"), &Expr::Name("c", vec![Suffix::Flat])));
        assert!(two.is_of_experts() && !c.is_of_experts());
        let parts = formula("a.b_*.c").unwrap();
        assert_eq!(parts, name("a.b_*.c"));
        assert!(parts.is_of_parts() && !parts.is_of_experts() && !two.is_of_parts());
    }

    #[test]
    fn what_is_not_understood() {
        for text in
            ["", "a b", "a[2/2]", "a[1 of b]", "a[1]", "(a", "f(a", "{a", "a +", "a | ", "a^", "1e"]
        {
            assert!(Cell::parse(text).is_err(), "{text}");
        }
    }
}
