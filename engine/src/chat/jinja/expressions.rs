//! Tokens to expressions, ranked as Jinja2 ranks them.

use std::sync::Arc;

use super::Error;
use super::ast::{Args, Comparison, Expr, Operator, Post};
use super::lexer::Kind;
use super::parser::Parser;

/// The operators of one rank.
type Rank = &'static [(&'static str, Operator)];

const SUMS: Rank = &[("+", Operator::Add), ("-", Operator::Sub)];
const PRODUCTS: Rank =
    &[("*", Operator::Mul), ("/", Operator::Div), ("//", Operator::FloorDiv), ("%", Operator::Mod)];
const POWERS: Rank = &[("**", Operator::Pow)];
const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Eq),
    ("!=", Comparison::Ne),
    ("<", Comparison::Lt),
    ("<=", Comparison::Le),
    (">", Comparison::Gt),
    (">=", Comparison::Ge),
];

impl Parser {
    /// One expression: `a if b else c` and everything below it.
    pub(super) fn expression(&mut self) -> Result<Expr, Error> {
        self.deeper(|parser| {
            let value = parser.or()?;
            if !parser.accept_word("if") {
                return Ok(value);
            }
            let condition = parser.or()?;
            let other = if parser.accept_word("else") { Some(parser.expression()?) } else { None };
            Ok(Expr::If(Box::new((value, condition, other))))
        })
    }

    /// An expression, or several with commas between; without conditions where `if` has another
    /// meaning.
    pub(super) fn tuple_or_one(&mut self, conditions: bool) -> Result<Expr, Error> {
        let one = |parser: &mut Parser| {
            if conditions { parser.expression() } else { parser.deeper(Parser::or) }
        };
        let first = one(self)?;
        if !matches!(self.peek(), Kind::Sign(",")) {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.accept(",") {
            if matches!(self.peek(), Kind::PrintEnd | Kind::BlockEnd | Kind::Sign(")")) {
                break;
            }
            items.push(one(self)?);
        }
        Ok(Expr::Tuple(items))
    }

    fn or(&mut self) -> Result<Expr, Error> {
        self.list_of("or", Parser::and, Expr::Or)
    }

    fn and(&mut self) -> Result<Expr, Error> {
        self.list_of("and", Parser::not, Expr::And)
    }

    fn list_of(
        &mut self,
        word: &str,
        read: fn(&mut Parser) -> Result<Expr, Error>,
        make: fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, Error> {
        let first = read(self)?;
        if !self.is_word(word) {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.accept_word(word) {
            items.push(read(self)?);
        }
        Ok(make(items))
    }

    fn not(&mut self) -> Result<Expr, Error> {
        if self.accept_word("not") {
            return Ok(Expr::Not(Box::new(self.deeper(Parser::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr, Error> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let sign = match self.peek() {
                Kind::Sign(sign) => COMPARISONS.iter().find(|(known, _)| known == sign),
                _ => None,
            };
            let not_in = self.is_word("not")
                && matches!(self.peek_second(), Kind::Name(name) if &**name == "in");
            let comparison = if let Some((_, comparison)) = sign {
                *comparison
            } else if self.is_word("in") {
                Comparison::In
            } else if not_in {
                self.next();
                Comparison::NotIn
            } else if rest.is_empty() {
                return Ok(first);
            } else {
                return Ok(Expr::Compare(Box::new(first), rest));
            };
            self.next();
            rest.push((comparison, self.sum()?));
        }
    }

    fn sum(&mut self) -> Result<Expr, Error> {
        self.chain(SUMS, Parser::join)
    }

    /// `a ~ b`.
    fn join(&mut self) -> Result<Expr, Error> {
        let first = self.product()?;
        if !matches!(self.peek(), Kind::Sign("~")) {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.accept("~") {
            items.push(self.product()?);
        }
        Ok(Expr::Join(items))
    }

    fn product(&mut self) -> Result<Expr, Error> {
        self.chain(PRODUCTS, Parser::power)
    }

    fn power(&mut self) -> Result<Expr, Error> {
        self.chain(POWERS, |parser| parser.unary(true))
    }

    fn chain(
        &mut self,
        rank: Rank,
        read: fn(&mut Parser) -> Result<Expr, Error>,
    ) -> Result<Expr, Error> {
        let first = read(self)?;
        let mut rest = Vec::new();
        while let Kind::Sign(sign) = self.peek() {
            let Some((_, operator)) = rank.iter().find(|(known, _)| known == sign) else { break };
            self.next();
            rest.push((*operator, read(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Chain(Box::new(first), rest) })
    }

    fn unary(&mut self, filters: bool) -> Result<Expr, Error> {
        let mut posts = Vec::new();
        let operand = if self.accept("-") {
            Expr::Negative(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else if self.accept("+") {
            Expr::Positive(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else {
            let operand = self.primary()?;
            self.subscripts(&mut posts)?;
            operand
        };
        if filters {
            self.filters_and_tests(&mut posts)?;
        }
        Ok(if posts.is_empty() { operand } else { Expr::Post(Box::new(operand), posts) })
    }

    fn primary(&mut self) -> Result<Expr, Error> {
        if !matches!(
            self.peek(),
            Kind::Name(_)
                | Kind::Int(_)
                | Kind::Float(_)
                | Kind::String(_)
                | Kind::Sign("(" | "[" | "{")
        ) {
            return self.unexpected("a value");
        }
        match self.next() {
            Kind::Name(name) => Ok(match &*name {
                "true" | "True" => Expr::Bool(true),
                "false" | "False" => Expr::Bool(false),
                "none" | "None" => Expr::None,
                _ => Expr::Name(name),
            }),
            Kind::Int(value) => Ok(Expr::Int(value)),
            Kind::Float(value) => Ok(Expr::Float(value)),
            Kind::String(mut text) => {
                while let Kind::String(more) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                Ok(Expr::Text(text.into()))
            }
            Kind::Sign("(") => {
                if self.accept(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let value = self.tuple_or_one(true)?;
                self.expect(")")?;
                Ok(value)
            }
            Kind::Sign("[") => Ok(Expr::List(self.items("]", Parser::expression)?)),
            _ => Ok(Expr::Dict(self.items("}", |parser| {
                let key = parser.expression()?;
                parser.expect(":")?;
                Ok((key, parser.expression()?))
            })?)),
        }
    }

    /// Items with commas between, up to `end`.
    fn items<T>(
        &mut self,
        end: &str,
        read: fn(&mut Parser) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        while !self.accept(end) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.accept(end) {
                    break;
                }
            }
            items.push(read(self)?);
        }
        Ok(items)
    }

    /// Attributes, items and calls.
    fn subscripts(&mut self, posts: &mut Vec<Post>) -> Result<(), Error> {
        loop {
            if self.accept(".") {
                posts.push(match self.peek() {
                    Kind::Int(index) => {
                        let item = Post::Item(Expr::Int(*index));
                        self.next();
                        item
                    }
                    _ => Post::Attribute(self.name()?),
                });
            } else if self.accept("[") {
                posts.push(self.subscript()?);
                self.expect("]")?;
            } else if self.accept("(") {
                posts.push(Post::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    /// The inside of square brackets.
    fn subscript(&mut self) -> Result<Post, Error> {
        let mut parts = [const { None }; 3];
        let mut at = 0;
        loop {
            if self.accept(":") {
                at += 1;
                if at == 3 {
                    return self.unexpected("']'");
                }
            } else if matches!(self.peek(), Kind::Sign("]")) {
                break;
            } else if parts[at].is_some() {
                return self.unexpected("']'");
            } else {
                parts[at] = Some(self.expression()?);
            }
        }
        match parts {
            [Some(index), None, None] if at == 0 => Ok(Post::Item(index)),
            [None, None, None] if at == 0 => self.unexpected("a value"),
            parts => Ok(Post::Slice(Box::new(parts))),
        }
    }

    fn filters_and_tests(&mut self, posts: &mut Vec<Post>) -> Result<(), Error> {
        loop {
            if self.accept("|") {
                posts.push(self.filter()?);
            } else if self.accept_word("is") {
                let negated = self.accept_word("not");
                let name = self.dotted_name()?;
                let args = self.test_arguments()?;
                posts.push(Post::Test(name, args, negated));
            } else if self.accept("(") {
                posts.push(Post::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    /// A filter's name and arguments.
    pub(super) fn filter(&mut self) -> Result<Post, Error> {
        let name = self.dotted_name()?;
        let args = if self.accept("(") { self.arguments()? } else { Args::default() };
        Ok(Post::Filter(name, args))
    }

    fn dotted_name(&mut self) -> Result<Arc<str>, Error> {
        let name = self.name()?;
        if !matches!(self.peek(), Kind::Sign(".")) {
            return Ok(name);
        }
        let mut name = name.to_string();
        while self.accept(".") {
            name = name + "." + &self.name()?;
        }
        Ok(name.into())
    }

    /// `is divisibleby 3`, `is divisibleby(3)`.
    fn test_arguments(&mut self) -> Result<Args, Error> {
        if self.accept("(") {
            return self.arguments();
        }
        let another = match self.peek() {
            Kind::Name(name) => {
                !["else", "or", "and", "if", "is", "in", "not", "recursive"].contains(&&**name)
            }
            Kind::String(_) | Kind::Int(_) | Kind::Float(_) | Kind::Sign("[" | "{") => true,
            _ => false,
        };
        let mut args = Args::default();
        if another {
            let operand = self.primary()?;
            let mut posts = Vec::new();
            self.subscripts(&mut posts)?;
            let plain = posts.is_empty();
            args.positional.push(if plain {
                operand
            } else {
                Expr::Post(Box::new(operand), posts)
            });
        }
        Ok(args)
    }

    /// Arguments up to the closing bracket.
    fn arguments(&mut self) -> Result<Args, Error> {
        let mut args = Args::default();
        let mut first = true;
        while !self.accept(")") {
            if !first {
                self.expect(",")?;
                if self.accept(")") {
                    break;
                }
            }
            first = false;
            if self.accept("**") {
                if args.spread_named.replace(self.expression()?).is_some() {
                    return self.error("a call has '**' twice");
                }
            } else if self.accept("*") {
                if args.spread.replace(self.expression()?).is_some() {
                    return self.error("a call has '*' twice");
                }
            } else if let (Kind::Name(name), Kind::Sign("=")) = (self.peek(), self.peek_second()) {
                let name = Arc::clone(name);
                self.next();
                self.next();
                args.named.push((name, self.expression()?));
            } else if args.named.is_empty() && args.spread.is_none() {
                args.positional.push(self.expression()?);
            } else {
                return self.error("arguments by position stand before those by name");
            }
        }
        Ok(args)
    }
}
