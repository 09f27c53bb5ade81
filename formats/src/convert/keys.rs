//! Values of keys, of `config.json` and of GGUF, as JSON. Not here: which keys there are
//! (`families`).

use serde_json::Value;

use crate::checkpoint::MetaValue;

/// The value of a key, or of one in an object or a list of the configuration.
pub(super) fn at<'v>(config: &'v Value, key: &str) -> Option<&'v Value> {
    key.split('.').try_fold(config, |config, key| match config {
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        config => config.get(key),
    })
}

/// A JSON number, also Python's infinities (`Checkpoint::config` says how they are written).
pub(super) fn number(value: &Value) -> Option<f64> {
    match value.get("__float__").and_then(Value::as_str) {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

/// Two ascending numbers.
pub(super) fn limits(value: &Value) -> Option<(f64, f64)> {
    match value.as_array()?.as_slice() {
        [low, high] => Some((number(low)?, number(high)?)).filter(|(low, high)| low <= high),
        _ => None,
    }
}

/// A key-value of GGUF as JSON; arrays of numbers with fractions and of texts, which no
/// hyper-parameter is, as their text.
pub(super) fn json(value: &MetaValue) -> Value {
    match value {
        MetaValue::Bool(flag) => (*flag).into(),
        MetaValue::Unsigned(n) => (*n).into(),
        MetaValue::Signed(n) => (*n).into(),
        MetaValue::Float(n) => (*n).into(),
        MetaValue::Text(text) => text.as_str().into(),
        MetaValue::Bools(list) => list.clone().into(),
        list if list.to_integers().is_some() => list.to_integers().into(),
        list => format!("{list:?}").into(),
    }
}
