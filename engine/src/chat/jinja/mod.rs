//! A small Jinja: the language of chat templates, with a bound on everything that a template does.
//!
//! Chat templates come with models, from whoever made them, and are programs. The engine that was
//! used here before (`minijinja`) can count steps but not what one step takes: its operators
//! double a text or a list without asking, and one filter can write gigabytes; and where Python's
//! meaning differs from its own (`%` on text, how lists, `True` and `None` are written), operators
//! cannot be replaced. A guarded child process could bound the memory, but not for a library, a
//! server or WebAssembly, all of which render templates too. So the language is here, as Hugging
//! Face's transformers runs it (Jinja2 with `trim_blocks`, `lstrip_blocks`, an immutable sandbox,
//! loop controls, `generation`, `tojson` without escapes): each value, step and level is paid for
//! before it is made ([`Limits`]), and no thread, clock or child is needed.
//!
//! In order: `lexer` and `literals`, `parser` and `expressions` make an `ast`; `run` carries out
//! statements, `eval` expressions; `value`, `operators`, `print`, `format` are Python's values;
//! `filters`, `predicates`, `methods`, `functions` what templates call; `meter` keeps the bounds.
//! Not here: loading other templates, which is refused, and which template a model has
//! (`chat`). Source: Jinja 3.1's documentation and what it does. Test: `cases` (what Jinja2
//! writes) and `attacks`.

/// Ends with an error for the template's author.
macro_rules! fault {
    ($($what:tt)*) => { Err($crate::chat::jinja::Fault::Error(format!($($what)*).into())) };
}

mod ast;
mod eval;
mod expressions;
mod filters;
mod format;
mod functions;
mod input;
mod lexer;
mod literals;
mod meter;
mod methods;
mod operators;
mod parser;
mod predicates;
mod print;
mod run;
mod strings;
mod value;

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod cases;

pub use input::Input;

/// Longest source that is read. Real templates have some 30 KB at most.
const MAX_SOURCE: usize = 256 << 10;

/// Longest error text, in characters: templates choose some of them.
const MAX_ERROR: usize = 500;

/// A template.
#[derive(Debug)]
pub(crate) struct Jinja {
    body: ast::Body,
}

/// The limits of rendering.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Units of work; one takes some nanoseconds.
    pub(crate) work: u64,
    /// Bytes of values alive.
    pub(crate) memory: usize,
    /// Bytes written.
    pub(crate) output: usize,
    /// The evaluator's calls within one another; each takes less than a kilobyte of stack.
    pub(crate) depth: usize,
}

impl Limits {
    /// Limits for variables of so many bytes: what a template writes and does is in proportion to
    /// the conversation, and it has some text of its own.
    pub(crate) fn of(bytes: usize) -> Limits {
        Limits {
            work: 10_000_000 + 64 * bytes as u64,
            memory: (32 << 20) + 64 * bytes,
            output: (256 << 10) + 16 * bytes,
            depth: 400,
        }
    }
}

/// The answers that a template asks of the program around it.
pub(crate) struct Host<'a> {
    /// The time, as `strftime` writes it.
    pub(crate) now: &'a dyn Fn(&str) -> Result<String, String>,
    /// Whether to stop.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

/// Why there is no text.
#[derive(Debug)]
pub(crate) enum Error {
    /// Something is wrong in the template.
    Template { line: u32, what: String },
    /// The program around it said so.
    Stopped,
}

impl Error {
    fn at(line: u32, what: impl Into<String>) -> Error {
        let what = what.into();
        let end = what.char_indices().nth(MAX_ERROR).map(|(end, _)| end);
        let what = match end {
            Some(end) => what[..end].to_owned() + "…",
            None => what,
        };
        Error::Template { line, what }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Template { line, what } => write!(f, "line {line}: {what}"),
            Error::Stopped => write!(f, "interrupted"),
        }
    }
}

/// An error on its way to a statement, which knows its line.
#[derive(Debug)]
enum Fault {
    Error(Box<str>),
    At(u32, Box<str>),
    Stopped,
}

impl Fault {
    fn on_line(self, line: u32) -> Fault {
        match self {
            Fault::Error(what) => Fault::At(line, what),
            other => other,
        }
    }
}

impl Jinja {
    /// Reads a template.
    pub(crate) fn parse(source: &str) -> Result<Jinja, Error> {
        Ok(Jinja { body: parser::parse(lexer::tokens(source)?)? })
    }

    /// Renders it with `variables`.
    pub(crate) fn render(
        &self,
        variables: &[(&str, Input)],
        limits: Limits,
        host: &Host<'_>,
    ) -> Result<String, Error> {
        run::render(&self.body, variables, limits, host).map_err(|fault| match fault {
            Fault::Error(what) => Error::at(1, what),
            Fault::At(line, what) => Error::at(line, what),
            Fault::Stopped => Error::Stopped,
        })
    }
}

/// A name from the template, short enough for an error.
fn clip(name: &str) -> String {
    let mut short: String = name.chars().take(40).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}
