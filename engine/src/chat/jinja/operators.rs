//! Operators, as Python has them, on 64-bit integers.

use super::ast::Operator;
use super::meter::Result;
use super::run::Run;
use super::value::{Value, equal, lookup};
use super::{Fault, format};

/// `a operator b`.
pub(super) fn apply(run: &Run<'_>, operator: Operator, a: &Value, b: &Value) -> Result<Value> {
    if let Value::Undefined(what) = a {
        return Err(Fault::undefined(what));
    }
    if let (Operator::Mod, Value::Str(pattern)) = (operator, a) {
        return format::percent(run, pattern, b);
    }
    if let Value::Undefined(what) = b {
        return Err(Fault::undefined(what));
    }
    if let Some(done) = sequences(run, operator, a, b)? {
        return Ok(done);
    }
    if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
        return integers(operator, x, y);
    }
    if let (Some(x), Some(y)) = (a.as_float(), b.as_float()) {
        return floats(operator, x, y);
    }
    let (a, b) = (a.type_name(), b.type_name());
    fault!("unsupported operand types for {}: '{a}' and '{b}'", operator.sign())
}

/// `+` and `*` of texts and lists.
fn sequences(run: &Run<'_>, operator: Operator, a: &Value, b: &Value) -> Result<Option<Value>> {
    let meter = &run.meter;
    if operator == Operator::Add {
        return Ok(Some(match (a, b) {
            (Value::Str(a), Value::Str(b)) => {
                let mut draft = meter.draft();
                draft.push(a)?;
                draft.push(b)?;
                draft.into_value()?
            }
            (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) => {
                meter.room(x.items.len() + y.items.len(), 0)?;
                let items = x.items.iter().chain(&y.items).cloned().collect();
                match a {
                    Value::List(_) => meter.list(items)?,
                    _ => meter.tuple(items)?,
                }
            }
            _ => return Ok(None),
        }));
    }
    let (of, n) = match (operator, a.as_int(), b.as_int()) {
        (Operator::Mul, None, Some(n)) => (a, n),
        (Operator::Mul, Some(n), None) => (b, n),
        _ => return Ok(None),
    };
    let n = usize::try_from(n).unwrap_or(0);
    match of {
        Value::Str(text) => {
            let bytes = text.len().saturating_mul(n);
            meter.room(0, bytes)?;
            meter.bytes(bytes)?;
            meter.text(text.repeat(n)).map(Some)
        }
        Value::List(seq) | Value::Tuple(seq) => {
            let len = seq.items.len().saturating_mul(n);
            meter.room(len, 0)?;
            meter.work(len / 4)?;
            let mut items = Vec::with_capacity(len);
            if len > 0 {
                (0..n).for_each(|_| items.extend_from_slice(&seq.items));
            }
            match of {
                Value::List(_) => meter.list(items).map(Some),
                _ => meter.tuple(items).map(Some),
            }
        }
        _ => Ok(None),
    }
}

fn integers(operator: Operator, a: i64, b: i64) -> Result<Value> {
    if b == 0 && matches!(operator, Operator::Div | Operator::FloorDiv | Operator::Mod) {
        return fault!("division by zero");
    }
    let result = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Sub => a.checked_sub(b),
        Operator::Mul => a.checked_mul(b),
        Operator::Div => return Ok(Value::Float(a as f64 / b as f64)),
        Operator::FloorDiv => {
            a.checked_div(b).map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
        }
        Operator::Mod => a
            .checked_rem(b)
            .or((b == -1).then_some(0))
            .map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        Operator::Pow if b < 0 => return floats(operator, a as f64, b as f64),
        Operator::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    match result {
        Some(result) => Ok(Value::Int(result)),
        None => fault!("{a} {} {b} has more than 64 bits", operator.sign()),
    }
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<Value> {
    if b == 0.0 && matches!(operator, Operator::Div | Operator::FloorDiv | Operator::Mod) {
        return fault!("division by zero");
    }
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Sub => a - b,
        Operator::Mul => a * b,
        Operator::Div => a / b,
        Operator::FloorDiv => ((a - modulo(a, b)) / b).round(),
        Operator::Mod => modulo(a, b),
        Operator::Pow if a == 0.0 && b < 0.0 => return fault!("0 has no negative power"),
        Operator::Pow => a.powf(b),
    }))
}

/// The rest of a division, with the sign of `b`.
fn modulo(a: f64, b: f64) -> f64 {
    let rest = a % b;
    match rest != 0.0 && (rest < 0.0) != (b < 0.0) {
        true => rest + b,
        false if rest == 0.0 => 0f64.copysign(b),
        false => rest,
    }
}

/// `-a`.
pub(super) fn negative(a: &Value) -> Result<Value> {
    match (a, a.as_int()) {
        (Value::Float(value), _) => Ok(Value::Float(-value)),
        (_, Some(value)) => match value.checked_neg() {
            Some(value) => Ok(Value::Int(value)),
            None => fault!("-({value}) has more than 64 bits"),
        },
        (Value::Undefined(what), _) => Err(Fault::undefined(what)),
        _ => fault!("bad operand type for -: '{}'", a.type_name()),
    }
}

/// `+a`.
pub(super) fn positive(a: &Value) -> Result<Value> {
    match (a, a.as_int()) {
        (Value::Float(_), _) => Ok(a.clone()),
        (_, Some(value)) => Ok(Value::Int(value)),
        (Value::Undefined(what), _) => Err(Fault::undefined(what)),
        _ => fault!("bad operand type for +: '{}'", a.type_name()),
    }
}

/// `item in container`.
pub(super) fn contains(run: &Run<'_>, container: &Value, item: &Value) -> Result<bool> {
    let meter = &run.meter;
    match container {
        Value::Str(text) => match item {
            Value::Str(part) => {
                meter.bytes(text.len())?;
                Ok(text.contains(&**part as &str))
            }
            Value::Undefined(what) => Err(Fault::undefined(what)),
            _ => fault!("'in <string>' requires a string, not '{}'", item.type_name()),
        },
        Value::Dict(dict) => Ok(lookup(meter, dict, item)?.is_some()),
        Value::List(seq) | Value::Tuple(seq) => {
            for known in &seq.items {
                if equal(meter, known, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => {
            for known in run.items(container)? {
                if equal(meter, &known, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// The place of `key` in a sequence, which counts from the end if it is negative.
pub(super) fn index(key: &Value, len: usize) -> Option<usize> {
    let key = key.as_int()?;
    let at = if key < 0 { key.checked_add(i64::try_from(len).ok()?)? } else { key };
    usize::try_from(at).ok().filter(|at| *at < len)
}

/// `value[start:stop:step]`.
pub(super) fn slice(
    run: &Run<'_>,
    value: &Value,
    start: &Value,
    stop: &Value,
    step: &Value,
) -> Result<Value> {
    let bound = |value: &Value| match value {
        Value::None => Ok(None),
        _ => match value.as_int() {
            Some(value) => Ok(Some(value)),
            None => fault!("slice indices must be integers, not '{}'", value.type_name()),
        },
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return fault!("slice step cannot be zero");
    }
    let meter = &run.meter;
    match value {
        Value::Undefined(what) => Err(Fault::undefined(what)),
        Value::Str(text) => {
            meter.bytes(text.len().saturating_mul(2))?;
            if step == 1 && start.is_none_or(|at| at >= 0) && stop.is_none() {
                let from = usize::try_from(start.unwrap_or(0)).unwrap_or(usize::MAX);
                let from = text.char_indices().nth(from).map_or(text.len(), |(at, _)| at);
                return meter.text(&text[from..]);
            }
            meter.room(0, text.len().saturating_mul(size_of::<char>()))?;
            let chars: Vec<char> = text.chars().collect();
            let places = places(chars.len(), start, stop, step);
            meter.text(places.into_iter().map(|at| chars[at]).collect::<String>())
        }
        Value::Tuple(seq) => {
            let places = places(seq.items.len(), start, stop, step);
            meter.room(places.len(), 0)?;
            meter.tuple(places.into_iter().map(|at| seq.items[at].clone()).collect())
        }
        Value::List(_) | Value::Range(_) => {
            let items = run.items(value)?;
            let places = places(items.len(), start, stop, step);
            meter.room(places.len(), 0)?;
            meter.list(places.into_iter().map(|at| items[at].clone()).collect())
        }
        // As Jinja has it: no such item.
        _ => Ok(Value::undefined(format!("'{}' object cannot be sliced", value.type_name()))),
    }
}

/// The places that a slice takes, in its order.
fn places(len: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> Vec<usize> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    // Python's own rules: what lies outside is moved to the nearest end.
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let place = |at: Option<i64>, default: i64| match at {
        None => default,
        Some(at) if at < 0 => at.saturating_add(len).max(low),
        Some(at) => at.min(high),
    };
    let (first, end) = if step > 0 {
        (place(start, low), place(stop, high))
    } else {
        (place(start, high), place(stop, low))
    };
    let mut places = Vec::new();
    let mut at = first;
    while (step > 0 && at < end) || (step < 0 && at > end) {
        places.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    places
}
