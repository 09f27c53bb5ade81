//! Predicates, which stand behind `is`; Jinja calls them tests.

use super::ast::Operator;
use super::eval::Given;
use super::functions::Bound;
use super::meter::Result;
use super::run::Run;
use super::value::{Value, equal, identical, order};
use super::{clip, filters, operators};

/// Names of all tests.
const NAMES: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Whether there is a test of this name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// `value is name(args)`.
pub(super) fn holds(run: &Run<'_>, name: &str, value: &Value, args: Given) -> Result<bool> {
    let meter = &run.meter;
    let mut args = Bound::new(name, args);
    let holds = match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "iterable" => matches!(
            value,
            Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
                | Value::Loop(_)
                | Value::Undefined(_)
        ),
        "sequence" => matches!(
            value,
            Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
                | Value::Undefined(_)
        ),
        "callable" => matches!(value, Value::Callable(_) | Value::Loop(_)),
        "escaped" => false,
        "odd" | "even" => match value.as_float() {
            Some(_) => remainder(run, value, 2)? == if name == "odd" { 1.0 } else { 0.0 },
            None => return fault!("'{name}' needs a number, not '{}'", value.type_name()),
        },
        "divisibleby" => {
            let by = args.int("num", 1)?;
            match value.as_float() {
                Some(_) => remainder(run, value, by)? == 0.0,
                None => return fault!("'{name}' needs a number, not '{}'", value.type_name()),
            }
        }
        "lower" | "upper" => {
            let text = super::print::to_text(run, value)?;
            let text = text.as_str().unwrap_or_default();
            meter.bytes(text.len())?;
            let wrong = |c: char| if name == "lower" { c.is_uppercase() } else { c.is_lowercase() };
            text.chars().any(|c| c.is_lowercase() || c.is_uppercase()) && !text.chars().any(wrong)
        }
        "filter" => value.as_str().is_some_and(filters::exists),
        "test" => value.as_str().is_some_and(exists),
        "sameas" => identical(value, &args.required("other")?),
        "in" => operators::contains(run, &args.required("seq")?, value)?,
        "eq" | "==" | "equalto" => equal(meter, value, &args.required("other")?)?,
        "ne" | "!=" => !equal(meter, value, &args.required("other")?)?,
        "lt" | "<" | "lessthan" => order(meter, value, &args.required("other")?, "<")?.is_lt(),
        "le" | "<=" => order(meter, value, &args.required("other")?, "<=")?.is_le(),
        "gt" | ">" | "greaterthan" => order(meter, value, &args.required("other")?, ">")?.is_gt(),
        "ge" | ">=" => order(meter, value, &args.required("other")?, ">=")?.is_ge(),
        _ => return fault!("there is no test '{}'", clip(name)),
    };
    args.done()?;
    Ok(holds)
}

/// `value % by`.
fn remainder(run: &Run<'_>, value: &Value, by: i64) -> Result<f64> {
    if by == -1 {
        // The least integer has no quotient by it.
        return remainder(run, value, 1);
    }
    let rest = operators::apply(run, Operator::Mod, value, &Value::Int(by))?;
    Ok(rest.as_float().unwrap_or_default())
}
