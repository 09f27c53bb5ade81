//! A parsed template.
//!
//! Operators of one rank are a list, not a tree, so that long sums nest no deeper than short ones.

use std::sync::Arc;

/// Statements in order.
pub(super) type Body = Vec<Node>;

/// A statement and the line it begins on.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) kind: Stmt,
}

#[derive(Debug)]
pub(super) enum Stmt {
    /// Text between tags.
    Text(Box<str>),
    /// `{{ … }}`.
    Print(Expr),
    /// Conditions with their bodies, and what else.
    If(Vec<(Expr, Body)>, Body),
    For(Arc<For>),
    Set(Target, Expr),
    /// `{% set x | filter %}…{% endset %}`.
    SetBlock(Target, Vec<Post>, Body),
    Macro(Arc<Macro>),
    /// `{% call(x) f() %}…{% endcall %}`.
    Call(Expr, Arc<Macro>),
    /// `{% filter f %}…{% endfilter %}`.
    Filter(Vec<Post>, Body),
    With(Vec<(Target, Expr)>, Body),
    /// `{% generation %}`, `{% block %}`: the body, in a scope of its own if so.
    Inner(Body, bool),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) items: Expr,
    pub(super) condition: Option<Expr>,
    pub(super) body: Body,
    pub(super) otherwise: Body,
    pub(super) recursive: bool,
}

/// Names and defaults.
pub(super) type Parameters = Vec<(Arc<str>, Option<Expr>)>;

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: Arc<str>,
    pub(super) parameters: Parameters,
    pub(super) body: Body,
    pub(super) line: u32,
}

/// Where a value goes.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    /// A namespace's attribute.
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) enum Expr {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Arc<str>),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    /// `a + b - c`: operators of one rank, from the left.
    Chain(Box<Expr>, Vec<(Operator, Expr)>),
    /// `a ~ b ~ c`.
    Join(Vec<Expr>),
    /// `a < b <= c`.
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    /// Value, condition, other value.
    If(Box<(Expr, Expr, Option<Expr>)>),
    /// An operand and what stands behind it.
    Post(Box<Expr>, Vec<Post>),
}

/// A suffix of an operand.
#[derive(Debug)]
pub(super) enum Post {
    Attribute(Arc<str>),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Args),
    Filter(Arc<str>, Args),
    /// `is`, or `is not` if so.
    Test(Arc<str>, Args, bool),
}

/// Arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Args {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(Arc<str>, Expr)>,
    /// `*args`.
    pub(super) spread: Option<Expr>,
    /// `**kwargs`.
    pub(super) spread_named: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

impl Operator {
    /// As it is written.
    pub(super) fn sign(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Sub => "-",
            Operator::Mul => "*",
            Operator::Div => "/",
            Operator::FloorDiv => "//",
            Operator::Mod => "%",
            Operator::Pow => "**",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}
