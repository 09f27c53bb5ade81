//! Tokens to statements.
//!
//! Statements are Jinja2's, with `break` and `continue` (its loop controls) and Hugging Face's
//! `generation`. What would load other templates is refused. Not here: expressions
//! (`expressions`). Test: `cases` and `attacks`.

use std::sync::Arc;

use super::Error;
use super::ast::{Body, Expr, For, Macro, Node, Parameters, Post, Stmt, Target};
use super::lexer::{Kind, Token};

/// Brackets and bodies within one another, at most.
const NESTING: usize = 100;

/// The statements of a template.
pub(super) fn parse(tokens: Vec<Token>) -> Result<Body, Error> {
    let mut parser = Parser { tokens, at: 0, depth: 0, loops: 0 };
    let (body, _) = parser.body(&[])?;
    Ok(body)
}

/// Goes through the tokens.
pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Loops around what is being read.
    loops: usize,
}

impl Parser {
    pub(super) fn peek(&self) -> &Kind {
        &self.tokens[self.at].kind
    }

    /// The token behind the next one.
    pub(super) fn peek_second(&self) -> &Kind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    pub(super) fn next(&mut self) -> Kind {
        let kind = std::mem::replace(&mut self.tokens[self.at].kind, Kind::End);
        // The last one, the end, stays.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        kind
    }

    pub(super) fn error<T>(&self, what: impl Into<String>) -> Result<T, Error> {
        Err(Error::at(self.line(), what))
    }

    /// An error about the next token.
    pub(super) fn unexpected<T>(&self, wanted: &str) -> Result<T, Error> {
        let found = match self.peek() {
            Kind::Text(_) => "text".to_owned(),
            Kind::BlockBegin => "'{%'".to_owned(),
            Kind::BlockEnd => "'%}'".to_owned(),
            Kind::PrintBegin => "'{{'".to_owned(),
            Kind::PrintEnd => "'}}'".to_owned(),
            Kind::Name(name) => format!("'{name}'"),
            Kind::String(_) => "a string".to_owned(),
            Kind::Int(_) | Kind::Float(_) => "a number".to_owned(),
            Kind::Sign(sign) => format!("'{sign}'"),
            Kind::End => "the end".to_owned(),
        };
        self.error(format!("expected {wanted}, found {found}"))
    }

    pub(super) fn accept(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Kind::Sign(found) if *found == sign);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn expect(&mut self, sign: &str) -> Result<(), Error> {
        if self.accept(sign) { Ok(()) } else { self.unexpected(&format!("'{sign}'")) }
    }

    /// Whether the next token is this word.
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Kind::Name(name) if &**name == word)
    }

    pub(super) fn accept_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn name(&mut self) -> Result<Arc<str>, Error> {
        if let Kind::Name(name) = self.peek() {
            let name = Arc::clone(name);
            self.next();
            return Ok(name);
        }
        self.unexpected("a name")
    }

    /// Reads one level deeper.
    pub(super) fn deeper<T>(
        &mut self,
        read: impl FnOnce(&mut Parser) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.depth == NESTING {
            return self.error(format!("it nests deeper than {NESTING} levels"));
        }
        self.depth += 1;
        let done = read(self);
        self.depth -= 1;
        done
    }

    fn block_end(&mut self) -> Result<(), Error> {
        if matches!(self.peek(), Kind::BlockEnd) {
            self.next();
            return Ok(());
        }
        self.unexpected("'%}'")
    }

    /// Statements up to a tag that begins with one of `ends`, whose word is taken and returned;
    /// without ends, up to the end of the template.
    fn body(&mut self, ends: &[&'static str]) -> Result<(Body, &'static str), Error> {
        let opened = self.line();
        self.deeper(|parser| {
            let mut body = Body::new();
            loop {
                let line = parser.line();
                let kind = match parser.next() {
                    Kind::Text(text) => Stmt::Text(text.into()),
                    Kind::PrintBegin => {
                        let value = parser.tuple_or_one(true)?;
                        if !matches!(parser.peek(), Kind::PrintEnd) {
                            return parser.unexpected("'}}'");
                        }
                        parser.next();
                        Stmt::Print(value)
                    }
                    Kind::BlockBegin => {
                        let end = ends.iter().find(|end| parser.is_word(end));
                        if let Some(end) = end {
                            parser.next();
                            return Ok((body, *end));
                        }
                        parser.statement()?
                    }
                    _ if ends.is_empty() => return Ok((body, "")),
                    _ => {
                        let missing = ends.last().unwrap_or(&"");
                        let what = format!("{{% {missing} %}} is missing at the end");
                        return Err(Error::at(opened, what));
                    }
                };
                body.push(Node { line, kind });
            }
        })
    }

    /// A body up to its end tag, of which nothing else is left.
    fn whole_body(&mut self, end: &'static str) -> Result<Body, Error> {
        let (body, _) = self.body(&[end])?;
        self.block_end()?;
        Ok(body)
    }

    fn statement(&mut self) -> Result<Stmt, Error> {
        let Kind::Name(word) = self.peek().clone() else { return self.unexpected("a statement") };
        let line = self.line();
        self.next();
        match &*word {
            "if" => self.if_statement(),
            "for" => self.for_statement(),
            "set" => self.set_statement(),
            "macro" => {
                let name = self.name()?;
                let parameters = self.parameters()?;
                self.block_end()?;
                let made = self.macro_of(name, parameters, "endmacro", line)?;
                Ok(Stmt::Macro(made))
            }
            "call" => {
                let with = matches!(self.peek(), Kind::Sign("("));
                let parameters = if with { self.parameters()? } else { Vec::new() };
                let call = self.expression()?;
                let is_call = matches!(&call, Expr::Post(_, posts)
                    if matches!(posts.last(), Some(Post::Call(_))));
                if !is_call {
                    return self.error("{% call %} needs a call");
                }
                self.block_end()?;
                let caller = self.macro_of("caller".into(), parameters, "endcall", line)?;
                Ok(Stmt::Call(call, caller))
            }
            "filter" => {
                let mut filters = vec![self.filter()?];
                self.filters(&mut filters)?;
                self.block_end()?;
                Ok(Stmt::Filter(filters, self.whole_body("endfilter")?))
            }
            "with" => {
                let mut sets = Vec::new();
                while !matches!(self.peek(), Kind::BlockEnd) {
                    let target = self.target(false)?;
                    self.expect("=")?;
                    sets.push((target, self.expression()?));
                    if !self.accept(",") {
                        break;
                    }
                }
                self.block_end()?;
                Ok(Stmt::With(sets, self.whole_body("endwith")?))
            }
            "generation" => {
                self.block_end()?;
                Ok(Stmt::Inner(self.whole_body("endgeneration")?, false))
            }
            "block" => {
                self.name()?;
                let _ = self.accept_word("scoped") || self.accept_word("required");
                self.block_end()?;
                let (body, _) = self.body(&["endblock"])?;
                if !matches!(self.peek(), Kind::BlockEnd) {
                    self.name()?;
                }
                self.block_end()?;
                Ok(Stmt::Inner(body, true))
            }
            "break" | "continue" => {
                self.block_end()?;
                if self.loops == 0 {
                    return self.error(format!("{{% {word} %}} stands outside of a loop"));
                }
                Ok(if &*word == "break" { Stmt::Break } else { Stmt::Continue })
            }
            "include" | "import" | "from" | "extends" => {
                self.error(format!("{{% {word} %}}: a chat template cannot load other templates"))
            }
            _ => Err(Error::at(line, format!("unknown tag '{}'", super::clip(&word)))),
        }
    }

    fn if_statement(&mut self) -> Result<Stmt, Error> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple_or_one(false)?;
            self.block_end()?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            match end {
                "elif" => {}
                "else" => {
                    self.block_end()?;
                    return Ok(Stmt::If(branches, self.whole_body("endif")?));
                }
                _ => {
                    self.block_end()?;
                    return Ok(Stmt::If(branches, Body::new()));
                }
            }
        }
    }

    fn for_statement(&mut self) -> Result<Stmt, Error> {
        let target = self.target(false)?;
        if !self.accept_word("in") {
            return self.unexpected("'in'");
        }
        let items = self.tuple_or_one(false)?;
        let condition = if self.accept_word("if") { Some(self.expression()?) } else { None };
        let recursive = self.accept_word("recursive");
        self.block_end()?;
        self.loops += 1;
        let read = self.body(&["else", "endfor"]);
        self.loops -= 1;
        let (body, end) = read?;
        self.block_end()?;
        let otherwise = if end == "else" { self.whole_body("endfor")? } else { Body::new() };
        Ok(Stmt::For(Arc::new(For { target, items, condition, body, otherwise, recursive })))
    }

    fn set_statement(&mut self) -> Result<Stmt, Error> {
        let target = self.target(true)?;
        if self.accept("=") {
            let value = self.tuple_or_one(true)?;
            self.block_end()?;
            return Ok(Stmt::Set(target, value));
        }
        let mut filters = Vec::new();
        self.filters(&mut filters)?;
        self.block_end()?;
        Ok(Stmt::SetBlock(target, filters, self.whole_body("endset")?))
    }

    /// Filters behind one another.
    fn filters(&mut self, filters: &mut Vec<Post>) -> Result<(), Error> {
        while self.accept("|") {
            filters.push(self.filter()?);
        }
        Ok(())
    }

    /// Names that take a value; a namespace's attribute is one if `attributes`.
    fn target(&mut self, attributes: bool) -> Result<Target, Error> {
        let mut targets = Vec::new();
        let mut tuple = false;
        loop {
            targets.push(if self.accept("(") {
                let inner = self.deeper(|parser| parser.target(attributes))?;
                self.expect(")")?;
                inner
            } else {
                let name = self.assignable()?;
                if attributes && self.accept(".") {
                    Target::Attribute(name, self.name()?)
                } else {
                    Target::Name(name)
                }
            });
            if !self.accept(",") {
                break;
            }
            tuple = true;
            if !matches!(self.peek(), Kind::Name(name) if &**name != "in")
                && !matches!(self.peek(), Kind::Sign("("))
            {
                break;
            }
        }
        match targets.pop() {
            Some(only) if !tuple => Ok(only),
            last => Ok(Target::Tuple(targets.into_iter().chain(last).collect())),
        }
    }

    fn assignable(&mut self) -> Result<Arc<str>, Error> {
        let fixed = ["true", "false", "none", "True", "False", "None"];
        if let Kind::Name(name) = self.peek()
            && fixed.contains(&&**name)
        {
            return self.error(format!("cannot assign to '{name}'"));
        }
        self.name()
    }

    /// `(a, b=1)`.
    fn parameters(&mut self) -> Result<Parameters, Error> {
        self.expect("(")?;
        let mut parameters: Parameters = Vec::new();
        while !self.accept(")") {
            if !parameters.is_empty() {
                self.expect(",")?;
                if self.accept(")") {
                    break;
                }
            }
            let name = self.assignable()?;
            let default = if self.accept("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, before)| before.is_some()) {
                return self.error(format!("parameter '{name}' needs a default"));
            }
            parameters.push((name, default));
        }
        Ok(parameters)
    }

    fn macro_of(
        &mut self,
        name: Arc<str>,
        parameters: Parameters,
        end: &'static str,
        line: u32,
    ) -> Result<Arc<Macro>, Error> {
        let loops = std::mem::take(&mut self.loops);
        let (body, _) = self.body(&[end])?;
        self.loops = loops;
        if !matches!(self.peek(), Kind::BlockEnd) {
            self.name()?;
        }
        self.block_end()?;
        Ok(Arc::new(Macro { name, parameters, body, line }))
    }
}
