//! Evaluates expressions.

use std::rc::Rc;
use std::sync::Arc;

use super::ast::{Args, Comparison, Expr, Post};
use super::meter::Result;
use super::run::{Frame, Run};
use super::value::{Callable, Loop, Value, equal, lookup, lookup_str, order};
use super::{Fault, clip, filters, functions, methods, operators, predicates, print};

/// Arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Arc<str>, Value)>,
}

impl Given {
    pub(super) fn take_named(&mut self, name: &str) -> Option<Value> {
        let at = self.named.iter().position(|(known, _)| &**known == name)?;
        Some(self.named.remove(at).1)
    }
}

impl Run<'_> {
    /// The value of an expression.
    pub(super) fn eval(&self, expr: &Expr, frame: &Rc<Frame>) -> Result<Value> {
        let _level = self.meter.enter()?;
        self.meter.work(1)?;
        match expr {
            Expr::None => Ok(Value::None),
            Expr::Bool(value) => Ok(Value::Bool(*value)),
            Expr::Int(value) => Ok(Value::Int(*value)),
            Expr::Float(value) => Ok(Value::Float(*value)),
            Expr::Text(text) => self.meter.text(&**text),
            Expr::Name(name) => Ok(match self.get(frame, name)? {
                Some(value) => value,
                None => Value::undefined(format!("'{}' is undefined", clip(name))),
            }),
            Expr::List(items) => {
                let items = self.eval_all(items, frame)?;
                self.meter.list(items)
            }
            Expr::Tuple(items) => {
                let items = self.eval_all(items, frame)?;
                self.meter.tuple(items)
            }
            Expr::Dict(entries) => {
                let pairs = entries
                    .iter()
                    .map(|(key, value)| Ok((self.eval(key, frame)?, self.eval(value, frame)?)));
                self.meter.dict(pairs.collect::<Result<_>>()?)
            }
            Expr::Not(of) => Ok(Value::Bool(!self.eval(of, frame)?.truth())),
            Expr::Negative(of) => operators::negative(&self.eval(of, frame)?),
            Expr::Positive(of) => operators::positive(&self.eval(of, frame)?),
            Expr::Chain(first, rest) => {
                let mut value = self.eval(first, frame)?;
                for (operator, other) in rest {
                    let other = self.eval(other, frame)?;
                    value = operators::apply(self, *operator, &value, &other)?;
                }
                Ok(value)
            }
            Expr::Join(items) => {
                let mut draft = self.meter.draft();
                for item in items {
                    print::text(self, &self.eval(item, frame)?, &mut draft)?;
                }
                draft.into_value()
            }
            Expr::Compare(first, rest) => self.compare(first, rest, frame),
            Expr::And(items) => self.first_that(items, frame, false),
            Expr::Or(items) => self.first_that(items, frame, true),
            Expr::If(parts) => {
                let (value, condition, other) = &**parts;
                if self.eval(condition, frame)?.truth() {
                    return self.eval(value, frame);
                }
                match other {
                    Some(other) => self.eval(other, frame),
                    None => Ok(Value::undefined("an 'if' without 'else' has no value")),
                }
            }
            Expr::Post(operand, posts) => self.posts(operand, posts, frame, None),
        }
    }

    /// A call to which `caller` is given.
    pub(super) fn eval_with_caller(
        &self,
        call: &Expr,
        frame: &Rc<Frame>,
        caller: Value,
    ) -> Result<Value> {
        match call {
            Expr::Post(operand, posts) => self.posts(operand, posts, frame, Some(caller)),
            _ => fault!("{{% call %}} needs a call"),
        }
    }

    fn eval_all(&self, items: &[Expr], frame: &Rc<Frame>) -> Result<Vec<Value>> {
        self.meter.room(items.len(), 0)?;
        items.iter().map(|item| self.eval(item, frame)).collect()
    }

    /// The first value whose truth is `wanted`, or the last.
    fn first_that(&self, items: &[Expr], frame: &Rc<Frame>, wanted: bool) -> Result<Value> {
        let mut last = Value::None;
        for item in items {
            last = self.eval(item, frame)?;
            if last.truth() == wanted {
                break;
            }
        }
        Ok(last)
    }

    fn compare(
        &self,
        first: &Expr,
        rest: &[(Comparison, Expr)],
        frame: &Rc<Frame>,
    ) -> Result<Value> {
        let mut left = self.eval(first, frame)?;
        for (comparison, right) in rest {
            let right = self.eval(right, frame)?;
            let meter = &self.meter;
            let holds = match comparison {
                Comparison::Eq => equal(meter, &left, &right)?,
                Comparison::Ne => !equal(meter, &left, &right)?,
                Comparison::Lt => order(meter, &left, &right, "<")?.is_lt(),
                Comparison::Le => order(meter, &left, &right, "<=")?.is_le(),
                Comparison::Gt => order(meter, &left, &right, ">")?.is_gt(),
                Comparison::Ge => order(meter, &left, &right, ">=")?.is_ge(),
                Comparison::In => operators::contains(self, &right, &left)?,
                Comparison::NotIn => !operators::contains(self, &right, &left)?,
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn posts(
        &self,
        operand: &Expr,
        posts: &[Post],
        frame: &Rc<Frame>,
        mut caller: Option<Value>,
    ) -> Result<Value> {
        let mut value = self.eval(operand, frame)?;
        for (index, post) in posts.iter().enumerate() {
            self.meter.work(1)?;
            value = match post {
                Post::Attribute(name) => self.attribute(&value, name)?,
                Post::Item(key) => {
                    let key = self.eval(key, frame)?;
                    self.item(&value, &key)?
                }
                Post::Slice(parts) => {
                    let part = |part: &Option<Expr>| match part {
                        Some(part) => self.eval(part, frame),
                        None => Ok(Value::None),
                    };
                    let [start, stop, step] = &**parts;
                    operators::slice(self, &value, &part(start)?, &part(stop)?, &part(step)?)?
                }
                Post::Call(args) => {
                    let args = self.args(args, frame)?;
                    let caller = if index + 1 == posts.len() { caller.take() } else { None };
                    self.call(&value, args, caller)?
                }
                Post::Filter(name, args) => {
                    let args = self.args(args, frame)?;
                    filters::apply(self, name, value, args)?
                }
                Post::Test(name, args, negated) => {
                    let args = self.args(args, frame)?;
                    Value::Bool(predicates::holds(self, name, &value, args)? != *negated)
                }
            };
        }
        Ok(value)
    }

    /// Evaluates arguments.
    pub(super) fn args(&self, args: &Args, frame: &Rc<Frame>) -> Result<Given> {
        let mut given =
            Given { positional: self.eval_all(&args.positional, frame)?, named: vec![] };
        if let Some(spread) = &args.spread {
            let spread = self.eval(spread, frame)?;
            given.positional.extend(self.items(&spread)?);
        }
        for (name, value) in &args.named {
            given.named.push((Arc::clone(name), self.eval(value, frame)?));
        }
        if let Some(spread) = &args.spread_named {
            let Value::Dict(dict) = self.eval(spread, frame)? else {
                return fault!("'**' needs a dict");
            };
            for (key, value) in &dict.entries {
                self.meter.work(1)?;
                let Some(key) = key.as_str() else { return fault!("keywords must be strings") };
                given.named.push((key.into(), value.clone()));
            }
        }
        Ok(given)
    }

    /// `value.name`.
    pub(super) fn attribute(&self, value: &Value, name: &str) -> Result<Value> {
        let found = match value {
            Value::Undefined(what) => return Err(Fault::undefined(what)),
            Value::Namespace(number) => {
                let namespaces = self.namespaces.borrow();
                let entries = &namespaces[*number];
                self.meter.work(1 + entries.len() / 4)?;
                entries.iter().find(|(known, _)| &**known == name).map(|(_, value)| value.clone())
            }
            Value::Loop(of) => self.loop_attribute(of, name)?,
            Value::Callable(callable) => match (&**callable, name) {
                (Callable::Macro(of, _), "name") => Some(self.meter.text(&*of.name)?),
                (Callable::Cycler(items, at), "current") => Some(cycled(items, at.get())),
                (Callable::Cycler(..), "next") => Some(self.method(value.clone(), "next")),
                (Callable::Cycler(..), "reset") => Some(self.method(value.clone(), "reset")),
                _ => None,
            },
            _ => match methods::find(value, name) {
                Some(method) => Some(self.method(value.clone(), method)),
                None => match value {
                    Value::Dict(dict) => lookup_str(&self.meter, dict, name)?.cloned(),
                    _ => None,
                },
            },
        };
        Ok(found.unwrap_or_else(|| {
            let of = value.type_name();
            Value::undefined(format!("'{of} object' has no attribute '{}'", clip(name)))
        }))
    }

    fn loop_attribute(&self, of: &Rc<Loop>, name: &str) -> Result<Option<Value>> {
        let (at, len) = (of.index.get(), of.items().len());
        let int = |value: usize| Some(Value::Int(value as i64));
        let beside = |at: Option<usize>, what: &str| {
            let item = at.and_then(|at| of.items().get(at)).cloned();
            Some(item.unwrap_or_else(|| Value::undefined(format!("there is no {what} item"))))
        };
        Ok(match name {
            "index" => int(at + 1),
            "index0" => int(at),
            "revindex" => int(len - at),
            "revindex0" => int(len - at - 1),
            "first" => Some(Value::Bool(at == 0)),
            "last" => Some(Value::Bool(at + 1 == len)),
            "length" => int(len),
            "depth" => int(of.depth + 1),
            "depth0" => int(of.depth),
            "previtem" => beside(at.checked_sub(1), "previous"),
            "nextitem" => beside(at.checked_add(1), "next"),
            "cycle" => Some(self.method(Value::Loop(Rc::clone(of)), "cycle")),
            "changed" => Some(self.method(Value::Loop(Rc::clone(of)), "changed")),
            _ => None,
        })
    }

    fn method(&self, of: Value, name: &'static str) -> Value {
        Value::Callable(Rc::new(Callable::Method(of, name)))
    }

    /// `value[key]`.
    pub(super) fn item(&self, value: &Value, key: &Value) -> Result<Value> {
        let found = match value {
            Value::Undefined(what) => return Err(Fault::undefined(what)),
            Value::Dict(dict) => lookup(&self.meter, dict, key)?.cloned(),
            Value::Str(text) => match key.as_int() {
                Some(index) => {
                    self.meter.bytes(text.len())?;
                    let chars = if index < 0 { text.chars().count() } else { 0 };
                    let at = usize::try_from(index + chars as i64).ok();
                    let found = at.and_then(|at| text.chars().nth(at));
                    found.map(|c| self.meter.text(c.to_string())).transpose()?
                }
                None => None,
            },
            Value::List(seq) | Value::Tuple(seq) => {
                operators::index(key, seq.items.len()).map(|at| seq.items[at].clone())
            }
            Value::Range(range) => operators::index(key, range.len).map(|at| range.at(at)),
            _ => None,
        };
        match (found, key) {
            (Some(found), _) => Ok(found),
            // As Jinja has it: an attribute, where there is no such item.
            (None, Value::Str(name)) => self.attribute(value, name),
            (None, _) => {
                let of = value.type_name();
                let mut shown = self.meter.draft();
                print::repr(self, key, &mut shown)?;
                let key = clip(shown.as_str());
                Ok(Value::undefined(format!("'{of} object' has no element {key}")))
            }
        }
    }

    /// The items that a loop goes through.
    pub(super) fn items(&self, value: &Value) -> Result<Vec<Value>> {
        let meter = &self.meter;
        match value {
            Value::Undefined(_) => Ok(Vec::new()),
            Value::List(seq) | Value::Tuple(seq) => {
                meter.room(seq.items.len(), 0)?;
                meter.work(1 + seq.items.len() / 4)?;
                Ok(seq.items.clone())
            }
            Value::Dict(dict) => {
                meter.room(dict.entries.len(), 0)?;
                meter.work(1 + dict.entries.len() / 4)?;
                Ok(dict.entries.iter().map(|(key, _)| key.clone()).collect())
            }
            Value::Range(range) => {
                meter.room(range.len, 0)?;
                meter.work(1 + range.len / 4)?;
                Ok((0..range.len).map(|index| range.at(index)).collect())
            }
            Value::Str(text) => text.chars().map(|c| meter.text(c.to_string())).collect(),
            Value::Loop(of) => Ok(of.items()[of.index.get() + 1..].to_vec()),
            _ => fault!("'{}' object is not iterable", value.type_name()),
        }
    }

    /// Calls a value.
    pub(super) fn call(&self, callee: &Value, args: Given, caller: Option<Value>) -> Result<Value> {
        let callable = match callee {
            Value::Callable(callable) => callable,
            Value::Loop(of) => {
                let mut args = functions::Bound::new("loop", args);
                let items = args.required("iterable")?;
                args.done()?;
                return self.recurse(of, items);
            }
            Value::Undefined(what) => return Err(Fault::undefined(what)),
            _ => return fault!("'{}' object is not callable", callee.type_name()),
        };
        match &**callable {
            Callable::Function(function) => function.call(self, args),
            Callable::Method(of, name) => methods::call(self, of, name, args),
            Callable::Macro(of, scope) => self.call_macro(of, scope, args, caller),
            Callable::Cycler(..) => fault!("a cycler is not called: it has next()"),
            Callable::Joiner(separator, used) => {
                if used.replace(true) {
                    Ok(separator.clone())
                } else {
                    self.meter.text("")
                }
            }
        }
    }
}

/// The item of a cycler at its place.
pub(super) fn cycled(items: &Value, at: usize) -> Value {
    let items = items.as_items().unwrap_or_default();
    items.get(at % items.len().max(1)).cloned().unwrap_or(Value::None)
}
