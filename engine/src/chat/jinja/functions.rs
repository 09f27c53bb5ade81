//! Functions that templates find, and how arguments meet parameters.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::eval::Given;
use super::meter::Result;
use super::run::{Entries, Run};
use super::value::{Callable, Range, Value};
use super::{Fault, clip, print};

/// Numbers in a range at most, as Jinja2's sandbox has it.
const MAX_RANGE: i128 = 100_000;

/// A function of the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Cycler,
    Dict,
    Joiner,
    Namespace,
    RaiseException,
    Range,
    StrftimeNow,
}

impl Function {
    /// All of them.
    pub(super) const ALL: [Function; 7] = [
        Function::Cycler,
        Function::Dict,
        Function::Joiner,
        Function::Namespace,
        Function::RaiseException,
        Function::Range,
        Function::StrftimeNow,
    ];

    /// As templates call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Function::Cycler => "cycler",
            Function::Dict => "dict",
            Function::Joiner => "joiner",
            Function::Namespace => "namespace",
            Function::RaiseException => "raise_exception",
            Function::Range => "range",
            Function::StrftimeNow => "strftime_now",
        }
    }

    /// Calls it.
    pub(super) fn call(self, run: &Run<'_>, mut args: Given) -> Result<Value> {
        match self {
            Function::Cycler => {
                if args.positional.is_empty() || !args.named.is_empty() {
                    return fault!("cycler() needs items");
                }
                let items = run.meter.tuple(args.positional)?;
                Ok(Value::Callable(Rc::new(Callable::Cycler(items, Cell::new(0)))))
            }
            Function::Joiner => {
                let mut args = Bound::new("joiner", args);
                let separator = match args.optional("sep") {
                    Some(separator) => separator,
                    None => run.meter.text(", ")?,
                };
                args.done()?;
                // A container would count one level deeper than this one says.
                run.meter.list(vec![separator.clone()])?;
                Ok(Value::Callable(Rc::new(Callable::Joiner(separator, Cell::new(false)))))
            }
            Function::Dict => run.meter.dict(entries(run, "dict", &mut args)?),
            Function::Namespace => {
                let entries = entries(run, "namespace", &mut args)?;
                let mut named = Entries::with_capacity(entries.len());
                for (name, value) in entries {
                    run.meter.work(1 + named.len() / 4)?;
                    let Some(name) = name.as_str() else {
                        return fault!("a namespace's names are strings");
                    };
                    match named.iter_mut().find(|(known, _)| &**known == name) {
                        Some((_, old)) => *old = value,
                        None => named.push((name.into(), value)),
                    }
                }
                run.namespace(named)
            }
            Function::RaiseException => {
                let mut args = Bound::new("raise_exception", args);
                let what = print::to_text(run, &args.required("message")?)?;
                args.done()?;
                Err(Fault::Error(what.as_str().unwrap_or_default().into()))
            }
            Function::Range => range(args).map(|range| Value::Range(Rc::new(range))),
            Function::StrftimeNow => {
                let mut args = Bound::new("strftime_now", args);
                let layout = args.text("format")?;
                args.done()?;
                match (run.host.now)(layout.as_str().unwrap_or_default()) {
                    Ok(text) => run.meter.text(text),
                    Err(what) => fault!("strftime_now: {what}"),
                }
            }
        }
    }
}

/// The entries that `dict(…)` and `namespace(…)` are given.
fn entries(run: &Run<'_>, name: &str, args: &mut Given) -> Result<Vec<(Value, Value)>> {
    let mut entries = Vec::new();
    let mut positional = std::mem::take(&mut args.positional).into_iter();
    match positional.next() {
        Some(Value::Dict(dict)) => {
            run.meter.work(1 + dict.entries.len() / 4)?;
            entries.extend(dict.entries.iter().cloned());
        }
        Some(pairs) => {
            for pair in run.items(&pairs)? {
                let [key, value] = run.items(&pair)?.try_into().map_err(|_| {
                    Fault::Error(format!("{name}() needs pairs of key and value").into())
                })?;
                entries.push((key, value));
            }
        }
        None => {}
    }
    if positional.next().is_some() {
        return fault!("{name}() has one argument by position at most");
    }
    for (name, value) in std::mem::take(&mut args.named) {
        entries.push((run.meter.text(&*name)?, value));
    }
    Ok(entries)
}

fn range(args: Given) -> Result<Range> {
    let [start, stop, step] = match &*args.positional {
        [stop] => [&Value::Int(0), stop, &Value::Int(1)],
        [start, stop] => [start, stop, &Value::Int(1)],
        [start, stop, step] => [start, stop, step],
        _ => return fault!("range() has one to three arguments"),
    }
    .map(Value::as_int);
    let (Some(start), Some(stop), Some(step)) = (start, stop, step) else {
        return fault!("range() needs integers");
    };
    if step == 0 {
        return fault!("range() step must not be zero");
    }
    let (from, to, by) = (i128::from(start), i128::from(stop), i128::from(step));
    let span = if by > 0 { to - from } else { from - to };
    let len = if span <= 0 { 0 } else { (span + by.abs() - 1) / by.abs() };
    match usize::try_from(len) {
        Ok(len) if (len as i128) <= MAX_RANGE => Ok(Range { start, stop, step, len }),
        _ => fault!("range() is too big: {MAX_RANGE} numbers at most"),
    }
}

/// Arguments that meet parameters, one after the other.
pub(super) struct Bound<'n> {
    name: &'n str,
    positional: std::vec::IntoIter<Value>,
    named: Vec<(Arc<str>, Value)>,
}

impl<'n> Bound<'n> {
    /// The arguments of the function `name`.
    pub(super) fn new(name: &'n str, given: Given) -> Bound<'n> {
        Bound { name, positional: given.positional.into_iter(), named: given.named }
    }

    /// The next parameter.
    pub(super) fn optional(&mut self, parameter: &str) -> Option<Value> {
        self.positional.next().or_else(|| self.named(parameter))
    }

    /// A parameter that is only given by name.
    pub(super) fn named(&mut self, parameter: &str) -> Option<Value> {
        let at = self.named.iter().position(|(name, _)| &**name == parameter)?;
        Some(self.named.remove(at).1)
    }

    /// The next parameter, which has no default.
    pub(super) fn required(&mut self, parameter: &str) -> Result<Value> {
        match self.optional(parameter) {
            Some(value) => Ok(value),
            None => fault!("{}: argument '{parameter}' is missing", self.name),
        }
    }

    /// The next parameter, a text.
    pub(super) fn text(&mut self, parameter: &str) -> Result<Value> {
        match self.required(parameter)? {
            value @ Value::Str(_) => Ok(value),
            value => fault!(
                "{}: argument '{parameter}' must be a string, not '{}'",
                self.name,
                value.type_name()
            ),
        }
    }

    /// The next parameter, a number; absent and none are the default.
    pub(super) fn int(&mut self, parameter: &str, default: i64) -> Result<i64> {
        match self.optional(parameter) {
            None | Some(Value::None) => Ok(default),
            Some(value) => match value.as_int() {
                Some(value) => Ok(value),
                None => fault!(
                    "{}: argument '{parameter}' must be an integer, not '{}'",
                    self.name,
                    value.type_name()
                ),
            },
        }
    }

    /// The next parameter, a size; less than none is none.
    pub(super) fn size(&mut self, parameter: &str, default: i64) -> Result<usize> {
        Ok(usize::try_from(self.int(parameter, default)?.max(0)).unwrap_or(usize::MAX))
    }

    /// The next parameter's truth.
    pub(super) fn flag(&mut self, parameter: &str, default: bool) -> bool {
        self.optional(parameter).map_or(default, |value| value.truth())
    }

    /// All that is left, for another function.
    pub(super) fn rest(self) -> Given {
        Given { positional: self.positional.collect(), named: self.named }
    }

    /// An error if something is left.
    pub(super) fn done(mut self) -> Result {
        if self.positional.next().is_some() {
            return fault!("{}: too many arguments", self.name);
        }
        match self.named.first() {
            Some((name, _)) => fault!("{}: unknown argument '{}'", self.name, clip(name)),
            None => Ok(()),
        }
    }
}
