//! Values as templates see them: Python's, as far as templates use them.
//!
//! Lists, tuples and dicts never change once they are made (Hugging Face's sandbox forbids it too),
//! so nothing can hold itself but a namespace, and that is a number into [`super::run::Run`]'s own
//! table. Not here: operators (`operators`), text of values (`print`).

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::ast;
use super::functions::Function;
use super::meter::{Held, Meter, Result};
use super::run::Frame;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A name or attribute that is not there; the text says so.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<Held<Box<str>>>),
    List(Rc<Held<Seq>>),
    Tuple(Rc<Held<Seq>>),
    Dict(Rc<Held<Dict>>),
    Range(Rc<Range>),
    /// Its number.
    Namespace(usize),
    Loop(Rc<Loop>),
    Callable(Rc<Callable>),
}

/// Items of a list or tuple.
#[derive(Debug)]
pub(super) struct Seq {
    pub(super) items: Vec<Value>,
    pub(super) depth: usize,
}

/// Entries in the order they came.
#[derive(Debug)]
pub(super) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    pub(super) depth: usize,
}

/// `range(start, stop, step)`, of at most a hundred thousand numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) stop: i64,
    pub(super) step: i64,
    pub(super) len: usize,
}

/// The variable `loop`.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) items: Value,
    pub(super) index: Cell<usize>,
    pub(super) depth: usize,
    /// The text of what `loop.changed` was given last.
    pub(super) last: RefCell<Option<Value>>,
    /// The loop itself, if it says `recursive`, and where it stands.
    pub(super) recursive: Option<(Arc<ast::For>, Weak<Frame>)>,
}

/// Whatever can be called.
#[derive(Debug)]
pub(super) enum Callable {
    Function(Function),
    /// A method of a value.
    Method(Value, &'static str),
    Macro(Arc<ast::Macro>, Weak<Frame>),
    /// Items and the next one's number.
    Cycler(Value, Cell<usize>),
    /// A separator and whether it was asked for before.
    Joiner(Value, Cell<bool>),
}

impl Range {
    pub(super) fn at(&self, index: usize) -> Value {
        Value::Int(self.start + self.step * index as i64)
    }
}

impl Loop {
    /// The items that it goes through.
    pub(super) fn items(&self) -> &[Value] {
        match &self.items {
            Value::List(seq) => &seq.items,
            _ => &[],
        }
    }
}

impl Value {
    /// An empty text that costs nothing to speak of, for errors that nobody sees.
    pub(super) fn undefined(what: impl Into<Rc<str>>) -> Value {
        Value::Undefined(what.into())
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    /// The text of a text value.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a list or tuple.
    pub(super) fn as_items(&self) -> Option<&[Value]> {
        match self {
            Value::List(seq) | Value::Tuple(seq) => Some(&seq.items),
            _ => None,
        }
    }

    /// A whole number; true and false are 1 and 0.
    pub(super) fn as_int(&self) -> Option<i64> {
        match *self {
            Value::Int(value) => Some(value),
            Value::Bool(value) => Some(value.into()),
            _ => None,
        }
    }

    /// Any number.
    pub(super) fn as_float(&self) -> Option<f64> {
        match *self {
            Value::Float(value) => Some(value),
            _ => self.as_int().map(|value| value as f64),
        }
    }

    /// Python's truth of a value.
    pub(super) fn truth(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(text) => !text.is_empty(),
            Value::List(seq) | Value::Tuple(seq) => !seq.items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            Value::Range(range) => range.len != 0,
            Value::Namespace(_) | Value::Loop(_) | Value::Callable(_) => true,
        }
    }

    /// Python's name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Range(_) => "range",
            Value::Namespace(_) => "Namespace",
            Value::Loop(_) => "LoopContext",
            Value::Callable(_) => "function",
        }
    }

    /// Containers within it.
    pub(super) fn depth(&self) -> usize {
        match self {
            Value::List(seq) | Value::Tuple(seq) => seq.depth,
            Value::Dict(dict) => dict.depth,
            Value::Loop(of) => 1 + of.items.depth(),
            Value::Callable(callable) => match &**callable {
                Callable::Method(of, _) | Callable::Cycler(of, _) | Callable::Joiner(of, _) => {
                    1 + of.depth()
                }
                Callable::Function(_) | Callable::Macro(..) => 1,
            },
            _ => 0,
        }
    }

    /// Whether it may be a key: nothing with a list or dict inside.
    pub(super) fn hashable(&self) -> bool {
        match self {
            Value::List(_) | Value::Dict(_) => false,
            Value::Tuple(seq) => seq.items.iter().all(Value::hashable),
            _ => true,
        }
    }

    /// Whether two keys are one. Keys that are tuples are compared by their simple items.
    pub(super) fn same_key(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Str(a), Value::Str(b)) => ***a == ***b,
            (Value::None, Value::None) => true,
            (Value::Namespace(a), Value::Namespace(b)) => a == b,
            (Value::Tuple(a), Value::Tuple(b)) => {
                a.items.len() == b.items.len()
                    && a.items.iter().zip(&b.items).all(|(a, b)| a.same_key(b))
            }
            (a, b) => match (a.as_int(), b.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => matches!((a.as_float(), b.as_float()), (Some(a), Some(b)) if a == b),
            },
        }
    }
}

/// The value of a key.
pub(super) fn lookup<'d>(
    meter: &Meter<'_>,
    dict: &'d Dict,
    key: &Value,
) -> Result<Option<&'d Value>> {
    meter.work(1 + dict.entries.len() / 4)?;
    Ok(dict.entries.iter().find(|(known, _)| known.same_key(key)).map(|(_, value)| value))
}

/// The value of a key that is text.
pub(super) fn lookup_str<'d>(
    meter: &Meter<'_>,
    dict: &'d Dict,
    key: &str,
) -> Result<Option<&'d Value>> {
    meter.work(1 + dict.entries.len() / 4)?;
    let found = dict.entries.iter().find(|(known, _)| known.as_str() == Some(key));
    Ok(found.map(|(_, value)| value))
}

/// `a == b`.
pub(super) fn equal(meter: &Meter<'_>, a: &Value, b: &Value) -> Result<bool> {
    meter.work(1)?;
    Ok(match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Str(a), Value::Str(b)) => {
            if a.len() == b.len() {
                meter.bytes(a.len())?;
            }
            ***a == ***b
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                if !equal(meter, a, b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (key, value) in &a.entries {
                match lookup(meter, b, key)? {
                    Some(other) if equal(meter, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(a), Value::Range(b)) => a == b,
        (Value::Namespace(a), Value::Namespace(b)) => a == b,
        (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
        (Value::Callable(a), Value::Callable(b)) => Rc::ptr_eq(a, b),
        (a, b) => match (a.as_int(), b.as_int()) {
            (Some(a), Some(b)) => a == b,
            _ => matches!((a.as_float(), b.as_float()), (Some(a), Some(b)) if a == b),
        },
    })
}

/// The order of two values; numbers, texts, and lists of these have one. A NaN has the last place,
/// so that sorting is sound.
pub(super) fn order(meter: &Meter<'_>, a: &Value, b: &Value, sign: &str) -> Result<Ordering> {
    meter.work(1)?;
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => {
            meter.bytes(a.len().min(b.len()))?;
            Ok(a.chars().cmp(b.chars()))
        }
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => {
            for (x, y) in x.items.iter().zip(&y.items) {
                if !equal(meter, x, y)? {
                    return order(meter, x, y, sign);
                }
            }
            Ok(x.items.len().cmp(&y.items.len()))
        }
        _ => match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
            (Some(a), Some(b), ..) => Ok(a.cmp(&b)),
            (.., Some(a), Some(b)) => {
                Ok(a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())))
            }
            _ => {
                let (a, b) = (a.type_name(), b.type_name());
                fault!("'{sign}' not supported between instances of '{a}' and '{b}'")
            }
        },
    }
}

/// `a is b`, as far as it can be told.
pub(super) fn identical(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => ***a == ***b,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (Value::None, Value::None) | (Value::Undefined(_), Value::Undefined(_)) => true,
        (Value::Namespace(a), Value::Namespace(b)) => a == b,
        (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
        (Value::Callable(a), Value::Callable(b)) => Rc::ptr_eq(a, b),
        _ => false,
    }
}
