//! Values as text: `str`, `repr` and JSON, as Python writes them.

use unicode_general_category::{GeneralCategory, get_general_category};

use super::meter::{Draft, Result};
use super::run::Run;
use super::value::{Callable, Value};
use super::{Fault, clip};

/// `str(value)`.
pub(super) fn text(run: &Run<'_>, value: &Value, out: &mut Draft<'_>) -> Result {
    match value {
        Value::Str(text) => out.push(text),
        Value::Undefined(_) => Ok(()),
        _ => repr(run, value, out),
    }
}

/// `str(value)` as a value of its own.
pub(super) fn to_text(run: &Run<'_>, value: &Value) -> Result<Value> {
    if let Value::Str(_) = value {
        return Ok(value.clone());
    }
    let mut draft = run.meter.draft();
    text(run, value, &mut draft)?;
    draft.into_value()
}

/// `repr(value)`.
pub(super) fn repr(run: &Run<'_>, value: &Value, out: &mut Draft<'_>) -> Result {
    let _level = run.meter.enter()?;
    match value {
        Value::Undefined(_) => out.push("Undefined"),
        Value::None => out.push("None"),
        Value::Bool(true) => out.push("True"),
        Value::Bool(false) => out.push("False"),
        Value::Int(value) => out.push(&value.to_string()),
        Value::Float(value) => out.push(&float(*value)),
        Value::Str(text) => quoted(text, out),
        Value::List(seq) => listed(run, "[", &seq.items, "]", out),
        Value::Tuple(seq) if seq.items.len() == 1 => listed(run, "(", &seq.items, ",)", out),
        Value::Tuple(seq) => listed(run, "(", &seq.items, ")", out),
        Value::Dict(dict) => {
            out.push("{")?;
            for (i, (key, value)) in dict.entries.iter().enumerate() {
                out.push(if i == 0 { "" } else { ", " })?;
                repr(run, key, out)?;
                out.push(": ")?;
                repr(run, value, out)?;
            }
            out.push("}")
        }
        Value::Range(range) => {
            let (start, stop) = (range.start, range.stop);
            match range.step {
                1 => out.push(&format!("range({start}, {stop})")),
                step => out.push(&format!("range({start}, {stop}, {step})")),
            }
        }
        Value::Namespace(number) => {
            out.push("<Namespace {")?;
            let entry = |i| run.namespaces.borrow()[*number].get(i).cloned();
            for (i, (key, value)) in (0..).map_while(entry).enumerate() {
                out.push(if i == 0 { "" } else { ", " })?;
                quoted(&key, out)?;
                out.push(": ")?;
                repr(run, &value, out)?;
            }
            out.push("}>")
        }
        Value::Loop(of) => {
            let (at, len) = (of.index.get() + 1, of.items().len());
            out.push(&format!("<LoopContext {at}/{len}>"))
        }
        Value::Callable(callable) => match &**callable {
            Callable::Function(function) => out.push(&format!("<function {}>", function.name())),
            Callable::Method(_, name) => out.push(&format!("<method {name}>")),
            Callable::Macro(of, _) => out.push(&format!("<Macro '{}'>", clip(&of.name))),
            Callable::Cycler(..) => out.push("<Cycler>"),
            Callable::Joiner(..) => out.push("<Joiner>"),
        },
    }
}

fn listed(run: &Run<'_>, open: &str, items: &[Value], close: &str, out: &mut Draft<'_>) -> Result {
    out.push(open)?;
    for (i, item) in items.iter().enumerate() {
        out.push(if i == 0 { "" } else { ", " })?;
        repr(run, item, out)?;
    }
    out.push(close)
}

/// A text as Python's source would have it.
fn quoted(text: &str, out: &mut Draft<'_>) -> Result {
    let quote = if text.contains('\'') && !text.contains('"') { "\"" } else { "'" };
    out.push(quote)?;
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        let escaped = match c {
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            '\'' if quote == "'" => "\\'".to_owned(),
            ' '..='~' => continue,
            _ if printable(c) => continue,
            _ => match u32::from(c) {
                code @ 0..=0xff => format!("\\x{code:02x}"),
                code @ 0x100..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            },
        };
        out.push(&text[plain..at])?;
        out.push(&escaped)?;
        plain = at + c.len_utf8();
    }
    out.push(&text[plain..])?;
    out.push(quote)
}

/// Python's `isprintable` of a character.
pub(super) fn printable(c: char) -> bool {
    use GeneralCategory as Category;
    !matches!(
        get_general_category(c),
        Category::Control
            | Category::Format
            | Category::Surrogate
            | Category::PrivateUse
            | Category::Unassigned
            | Category::LineSeparator
            | Category::ParagraphSeparator
            | Category::SpaceSeparator
    )
}

/// The shortest text that gives the number back, as Python lays it out.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        if plain.contains('.') { plain } else { plain + ".0" }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    }
}

/// How JSON is laid out.
pub(super) struct Json<'a> {
    pub(super) ascii: bool,
    /// Text of one level of indentation.
    pub(super) indent: Option<String>,
    /// Between items, between key and value.
    pub(super) separators: (&'a str, &'a str),
    pub(super) sort_keys: bool,
}

impl Json<'_> {
    /// `json.dumps(value)`.
    pub(super) fn write(
        &self,
        run: &Run<'_>,
        value: &Value,
        depth: usize,
        out: &mut Draft<'_>,
    ) -> Result {
        let _level = run.meter.enter()?;
        match value {
            Value::None => out.push("null"),
            Value::Bool(true) => out.push("true"),
            Value::Bool(false) => out.push("false"),
            Value::Int(value) => out.push(&value.to_string()),
            Value::Float(value) => out.push(&json_float(*value)),
            Value::Str(text) => self.string(text, out),
            Value::List(seq) | Value::Tuple(seq) => {
                let write =
                    |item: &Value, out: &mut Draft<'_>| self.write(run, item, depth + 1, out);
                self.all("[", &seq.items, "]", depth, out, write)
            }
            Value::Dict(dict) => {
                let mut entries: Vec<&(Value, Value)> = dict.entries.iter().collect();
                if self.sort_keys {
                    entries = super::filters::sorted(entries, &mut |a, b| {
                        super::value::order(&run.meter, &a.0, &b.0, "<")
                    })?;
                }
                let write = |(key, value): &&(Value, Value), out: &mut Draft<'_>| {
                    match key {
                        Value::Str(key) => self.string(key, out)?,
                        Value::None => out.push("\"null\"")?,
                        Value::Bool(key) => out.push(&format!("\"{key}\""))?,
                        Value::Int(key) => out.push(&format!("\"{key}\""))?,
                        Value::Float(key) => out.push(&format!("\"{}\"", json_float(*key)))?,
                        _ => {
                            return fault!("a JSON key cannot be of type '{}'", key.type_name());
                        }
                    }
                    out.push(self.separators.1)?;
                    self.write(run, value, depth + 1, out)
                };
                self.all("{", &entries, "}", depth, out, write)
            }
            Value::Undefined(what) => Err(Fault::undefined(what)),
            _ => fault!("a value of type '{}' cannot be written as JSON", value.type_name()),
        }
    }

    fn all<T>(
        &self,
        open: &str,
        items: &[T],
        close: &str,
        depth: usize,
        out: &mut Draft<'_>,
        write: impl Fn(&T, &mut Draft<'_>) -> Result,
    ) -> Result {
        out.push(open)?;
        for (i, item) in items.iter().enumerate() {
            out.push(if i == 0 { "" } else { self.separators.0 })?;
            self.line(depth + 1, out)?;
            write(item, out)?;
        }
        if !items.is_empty() {
            self.line(depth, out)?;
        }
        out.push(close)
    }

    /// A new line, where there are any.
    fn line(&self, depth: usize, out: &mut Draft<'_>) -> Result {
        if let Some(indent) = &self.indent {
            out.push("\n")?;
            for _ in 0..depth {
                out.push(indent)?;
            }
        }
        Ok(())
    }

    fn string(&self, text: &str, out: &mut Draft<'_>) -> Result {
        out.push("\"")?;
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let escaped = match c {
                '"' => "\\\"".to_owned(),
                '\\' => "\\\\".to_owned(),
                '\n' => "\\n".to_owned(),
                '\r' => "\\r".to_owned(),
                '\t' => "\\t".to_owned(),
                '\u{8}' => "\\b".to_owned(),
                '\u{c}' => "\\f".to_owned(),
                '\0'..='\u{1f}' => format!("\\u{:04x}", u32::from(c)),
                '\u{7f}'.. if self.ascii => {
                    let units = c.encode_utf16(&mut [0; 2]).to_vec();
                    units.iter().map(|unit| format!("\\u{unit:04x}")).collect()
                }
                _ => continue,
            };
            out.push(&text[plain..at])?;
            out.push(&escaped)?;
            plain = at + c.len_utf8();
        }
        out.push(&text[plain..])?;
        out.push("\"")
    }
}

fn json_float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        float(value)
    }
}
