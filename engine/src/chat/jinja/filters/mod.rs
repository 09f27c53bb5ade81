//! Filters: their table, and those of any value.
//!
//! Those of texts are in `text`, those of lists in `lists`.

mod lists;
pub(super) mod text;

use super::eval::Given;
use super::functions::Bound;
use super::meter::Result;
use super::print::{self, Json};
use super::run::Run;
use super::value::Value;
use super::{clip, format};

pub(super) use lists::{pairs, sorted};

/// Bytes of an indentation of JSON at most.
const MAX_INDENT: usize = 100;

/// The function of a filter.
type Filter = fn(&Run<'_>, Value, Bound<'_>) -> Result<Value>;

/// All filters.
const FILTERS: [(&str, Filter); 47] = [
    ("abs", abs),
    ("attr", attr),
    ("batch", lists::batch),
    ("capitalize", text::capitalize),
    ("center", text::center),
    ("count", length),
    ("d", default),
    ("default", default),
    ("dictsort", lists::dictsort),
    ("e", text::escape),
    ("escape", text::escape),
    ("first", lists::first),
    ("float", float),
    ("forceescape", text::escape),
    ("format", formatted),
    ("groupby", lists::groupby),
    ("indent", text::indent),
    ("int", int),
    ("items", lists::items),
    ("join", lists::join),
    ("last", lists::last),
    ("length", length),
    ("list", lists::list),
    ("lower", text::lower),
    ("map", lists::map),
    ("max", lists::max),
    ("min", lists::min),
    ("pprint", text::pprint),
    ("reject", lists::reject),
    ("rejectattr", lists::rejectattr),
    ("replace", text::replace),
    ("reverse", lists::reverse),
    ("round", round),
    ("safe", text::string),
    ("select", lists::select),
    ("selectattr", lists::selectattr),
    ("slice", lists::slice),
    ("sort", lists::sort),
    ("string", text::string),
    ("sum", lists::sum),
    ("title", text::title),
    ("tojson", tojson),
    ("trim", text::trim),
    ("truncate", text::truncate),
    ("unique", lists::unique),
    ("upper", text::upper),
    ("wordcount", text::wordcount),
];

/// Whether there is a filter of this name.
pub(super) fn exists(name: &str) -> bool {
    FILTERS.iter().any(|(known, _)| *known == name)
}

/// `value|name(args)`.
pub(super) fn apply(run: &Run<'_>, name: &str, value: Value, args: Given) -> Result<Value> {
    // `map` applies filters, of which it may be one.
    let _level = run.meter.enter()?;
    run.meter.work(1)?;
    let Some((name, filter)) = FILTERS.iter().find(|(known, _)| *known == name) else {
        return fault!("there is no filter '{}'", clip(name));
    };
    filter(run, value, Bound::new(name, args))
}

fn abs(_: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    args.done()?;
    match (&value, value.as_int()) {
        (Value::Float(number), _) => Ok(Value::Float(number.abs())),
        (_, Some(number)) => Ok(Value::Int(number.saturating_abs())),
        _ => fault!("abs: '{}' is no number", value.type_name()),
    }
}

fn attr(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let name = args.text("name")?;
    args.done()?;
    run.attribute(&value, name.as_str().unwrap_or_default())
}

fn length(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    args.done()?;
    let len = match &value {
        Value::Undefined(_) => 0,
        Value::Str(text) => {
            run.meter.bytes(text.len())?;
            text.chars().count()
        }
        Value::List(seq) | Value::Tuple(seq) => seq.items.len(),
        Value::Dict(dict) => dict.entries.len(),
        Value::Range(range) => range.len,
        Value::Loop(of) => of.items().len(),
        _ => return fault!("object of type '{}' has no length", value.type_name()),
    };
    Ok(Value::Int(len as i64))
}

fn default(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let other = args.optional("default_value");
    let boolean = args.flag("boolean", false);
    args.done()?;
    if value.is_undefined() || (boolean && !value.truth()) {
        return other.map_or_else(|| run.meter.text(""), Ok);
    }
    Ok(value)
}

fn formatted(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    let pattern = print::to_text(run, &value)?;
    let Given { positional, named } = args.rest();
    let values = if named.is_empty() {
        run.meter.tuple(positional)?
    } else if positional.is_empty() {
        let named = named.iter().map(|(name, value)| Ok((run.meter.text(&**name)?, value.clone())));
        run.meter.dict(named.collect::<Result<_>>()?)?
    } else {
        return fault!("format: arguments stand by position or by name, not both");
    };
    format::percent(run, pattern.as_str().unwrap_or_default(), &values)
}

fn int(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let default = args.optional("default").unwrap_or(Value::Int(0));
    let base = args.int("base", 10)?;
    args.done()?;
    let number = match &value {
        Value::Float(number) if number.is_finite() => Some(number.trunc() as i64),
        Value::Str(text) => {
            run.meter.bytes(text.len())?;
            let plain = text.trim().replace('_', "");
            let prefixes: &[&str] = match base {
                16 => &["0x", "0X"],
                8 => &["0o", "0O"],
                2 => &["0b", "0B"],
                _ => &[],
            };
            let digits = prefixes.iter().find_map(|start| plain.strip_prefix(start));
            let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
            let whole =
                base.and_then(|base| i64::from_str_radix(digits.unwrap_or(&plain), base).ok());
            let real = || plain.parse::<f64>().ok().filter(|number| number.is_finite());
            whole.or_else(|| real().map(|number| number.trunc() as i64))
        }
        _ => value.as_int(),
    };
    Ok(number.map_or(default, Value::Int))
}

fn float(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let default = args.optional("default").unwrap_or(Value::Float(0.0));
    args.done()?;
    let number = match &value {
        Value::Str(text) => {
            run.meter.bytes(text.len())?;
            text.trim().replace('_', "").parse().ok()
        }
        _ => value.as_float(),
    };
    Ok(number.map_or(default, Value::Float))
}

fn round(_: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let precision = args.int("precision", 0)?.clamp(-300, 300) as i32;
    let method = args.optional("method");
    args.done()?;
    let Some(number) = value.as_float() else {
        return fault!("round: '{}' is no number", value.type_name());
    };
    let common_method = method.as_ref().is_none_or(|method| method.as_str() == Some("common"));
    if let (Some(whole), true, true) = (value.as_int(), common_method, precision >= 0) {
        return Ok(Value::Int(whole));
    }
    Ok(Value::Float(match method.as_ref().and_then(Value::as_str) {
        _ if common_method => match value.as_int() {
            Some(_) => return Ok(Value::Int(common(number, precision) as i64)),
            None => common(number, precision),
        },
        Some("ceil") => at_digit(number, precision, f64::ceil),
        Some("floor") => at_digit(number, precision, f64::floor),
        _ => return fault!("round: the method is 'common', 'ceil' or 'floor'"),
    }))
}

/// Python's `round`: by the decimal digits of the number itself, half to even.
fn common(number: f64, precision: i32) -> f64 {
    match usize::try_from(precision) {
        Ok(digits) => format!("{number:.digits$}").parse().unwrap_or(number),
        Err(_) => at_digit(number, precision, f64::round_ties_even),
    }
}

/// Rounds at a decimal digit: behind the point, or before it where `precision` is negative.
///
/// The power is the nearest number to it; the C library's differs from system to system.
fn at_digit(number: f64, precision: i32, round: fn(f64) -> f64) -> f64 {
    let scale: f64 = format!("1e{}", precision.unsigned_abs()).parse().unwrap_or(f64::INFINITY);
    if precision < 0 { round(number / scale) * scale } else { round(number * scale) / scale }
}

/// As Hugging Face writes it: keys in their order, no escapes but JSON's own.
fn tojson(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let ascii = args.flag("ensure_ascii", false);
    let indent = match args.optional("indent") {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.to_string()),
        Some(value) => match value.as_int() {
            Some(n) => Some(" ".repeat(usize::try_from(n.clamp(0, 1 << 20)).unwrap_or(0))),
            None => return fault!("tojson: indent is a number or a string"),
        },
    };
    if indent.as_ref().is_some_and(|indent| indent.len() > MAX_INDENT) {
        return fault!("tojson: the indentation is too wide");
    }
    let separators = args.optional("separators");
    let sort_keys = args.flag("sort_keys", false);
    args.done()?;
    let items = separators.as_ref().and_then(Value::as_items).unwrap_or_default();
    let given = match items {
        [item, key] => item.as_str().zip(key.as_str()),
        _ => None,
    };
    let default = (if indent.is_some() { "," } else { ", " }, ": ");
    let json = Json { ascii, indent, separators: given.unwrap_or(default), sort_keys };
    let mut draft = run.meter.draft();
    json.write(run, &value, 0, &mut draft)?;
    draft.into_value()
}
