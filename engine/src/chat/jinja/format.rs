//! `'%s' % x`, `'{}'.format(x)` and what stands behind the colon.

use std::iter::Peekable;
use std::str::Chars;

use super::eval::Given;
use super::meter::{Draft, Result};
use super::print;
use super::run::Run;
use super::value::{Value, lookup_str};

/// Digits behind the point, at most.
const MAX_PRECISION: usize = 1000;

/// How a value is laid out.
#[derive(Clone, Debug, Default)]
struct Spec {
    fill: Option<char>,
    /// `<`, `>`, `^`, `=`.
    align: Option<char>,
    /// `+`, ` `.
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    /// `,` or `_`.
    grouping: Option<char>,
    precision: Option<usize>,
}

/// `pattern % value`.
pub(super) fn percent(run: &Run<'_>, pattern: &str, value: &Value) -> Result<Value> {
    let items = match value {
        Value::Tuple(seq) => seq.items.clone(),
        _ => vec![value.clone()],
    };
    // Python counts these as mappings, of which not all is used.
    let named = matches!(value, Value::Dict(_) | Value::List(_) | Value::Range(_));
    let mut items = items.into_iter();
    let mut next = || match items.next() {
        Some(item) => Ok(item),
        None => fault!("not enough arguments for a format string"),
    };
    let mut out = run.meter.draft();
    let mut chars = pattern.chars().peekable();
    let mut by_name = false;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c.encode_utf8(&mut [0; 4]))?;
            continue;
        }
        let mut key = None;
        if chars.next_if_eq(&'(').is_some() {
            let mut name = String::new();
            loop {
                match chars.next() {
                    Some(')') => break,
                    Some(c) => name.push(c),
                    None => return fault!("incomplete format key"),
                }
            }
            key = Some(name);
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                '#' => spec.alternate = true,
                _ => spec.zero = true,
            }
        }
        let mut star = |spec: &mut Spec| -> Result<Option<usize>> {
            if chars.next_if_eq(&'*').is_none() {
                return Ok(number(&mut chars));
            }
            let Some(width) = next()?.as_int() else { return fault!("'*' wants an integer") };
            if width < 0 {
                spec.align = Some('<');
            }
            Ok(usize::try_from(width.unsigned_abs()).ok())
        };
        spec.width = star(&mut spec)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(if chars.peek() == Some(&'*') {
                chars.next();
                let Some(digits) = next()?.as_int() else { return fault!("'*' wants an integer") };
                usize::try_from(digits).unwrap_or(0)
            } else {
                number(&mut chars).unwrap_or(0)
            });
        }
        while chars.next_if(|c| "hlL".contains(*c)).is_some() {}
        let Some(kind) = chars.next() else { return fault!("incomplete format") };
        if kind == '%' {
            out.push("%")?;
            continue;
        }
        let item = match (&key, value) {
            (Some(key), Value::Dict(dict)) => {
                by_name = true;
                match lookup_str(&run.meter, dict, key)? {
                    Some(item) => item.clone(),
                    None => return fault!("a format string names the key '{}'", super::clip(key)),
                }
            }
            (Some(_), _) => return fault!("a format string with keys needs a dict"),
            (None, _) => next()?,
        };
        percent_item(run, &item, kind, spec, &mut out)?;
    }
    if items.next().is_some() && !by_name && !named {
        return fault!("not all arguments were used by a format string");
    }
    out.into_value()
}

fn percent_item(
    run: &Run<'_>,
    item: &Value,
    kind: char,
    mut spec: Spec,
    out: &mut Draft<'_>,
) -> Result {
    spec.align = spec.align.or(Some('>'));
    if spec.align == Some('<') {
        spec.zero = false;
    }
    match kind {
        's' | 'r' | 'a' => {
            let mut draft = run.meter.draft();
            if kind == 's' {
                print::text(run, item, &mut draft)?;
            } else {
                print::repr(run, item, &mut draft)?;
            }
            padded(&cut(draft.as_str(), spec.precision), "", &Spec { zero: false, ..spec }, out)
        }
        'c' => match item {
            Value::Str(text) if text.chars().count() == 1 => padded(text, "", &spec, out),
            _ => match item.as_int().and_then(|code| u32::try_from(code).ok()) {
                Some(code) if char::from_u32(code).is_some() => {
                    let c = char::from_u32(code).unwrap_or_default();
                    padded(&c.to_string(), "", &Spec { zero: false, ..spec }, out)
                }
                _ => fault!("%c requires an integer or a character"),
            },
        },
        'd' | 'i' | 'u' => match item {
            Value::Float(value) => integer(value.trunc() as i64, 'd', &spec, out),
            _ => match item.as_int() {
                Some(value) => integer(value, 'd', &spec, out),
                None => fault!("%{kind} requires a number, not '{}'", item.type_name()),
            },
        },
        'x' | 'X' | 'o' => match item.as_int() {
            Some(value) => integer(value, kind, &spec, out),
            None => fault!("%{kind} requires an integer, not '{}'", item.type_name()),
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match item.as_float() {
            Some(value) => real(value, kind, &spec, out),
            None => fault!("%{kind} requires a number, not '{}'", item.type_name()),
        },
        _ => fault!("unsupported format character {kind:?}"),
    }
}

/// `pattern.format(…)`.
pub(super) fn braces(run: &Run<'_>, pattern: &str, args: &Given) -> Result<Value> {
    let mut out = run.meter.draft();
    let mut rest = pattern;
    let (mut counter, mut by_number) = (0, false);
    while let Some(at) = rest.find(['{', '}']) {
        out.push(&rest[..at])?;
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push(brace)?;
            rest = after;
            continue;
        }
        let Some(end) = rest.find('}').filter(|_| brace == "{") else {
            return fault!("a format string has a single '{brace}'");
        };
        let field = &rest[..end];
        rest = &rest[end + 1..];
        if field.contains('{') {
            return fault!("fields within the fields of a format string are not known here");
        }
        let (field, layout) = field.split_once(':').unwrap_or((field, ""));
        let (field, conversion) = field.split_once('!').unwrap_or((field, ""));
        let value = if field.is_empty() {
            counter += 1;
            args.positional.get(counter - 1)
        } else if let Ok(index) = field.parse::<usize>() {
            args.positional.get(index)
        } else {
            args.named.iter().find(|(name, _)| &**name == field).map(|(_, value)| value)
        };
        by_number |= field.starts_with(|c: char| c.is_ascii_digit());
        if by_number && counter > 0 {
            return fault!("a format string numbers some of its fields, but not all");
        }
        let Some(value) = value else {
            return fault!("a format string asks for '{}'", super::clip(field));
        };
        match conversion {
            "" => spec_item(run, value, layout, &mut out)?,
            "s" => spec_item(run, &print::to_text(run, value)?, layout, &mut out)?,
            "r" => {
                let mut draft = run.meter.draft();
                print::repr(run, value, &mut draft)?;
                spec_item(run, &draft.into_value()?, layout, &mut out)?;
            }
            _ => return fault!("unknown conversion '{}'", super::clip(conversion)),
        }
    }
    out.push(rest)?;
    out.into_value()
}

/// `format(value, layout)`.
fn spec_item(run: &Run<'_>, value: &Value, layout: &str, out: &mut Draft<'_>) -> Result {
    let mut chars = layout.chars().peekable();
    let mut spec = Spec::default();
    let mut ahead = layout.chars();
    let (first, second) = (ahead.next(), ahead.next());
    let is_align = |c: Option<char>| c.is_some_and(|c| "<>^=".contains(c));
    if is_align(second) {
        (spec.fill, spec.align) = (first, second);
        chars.next();
        chars.next();
    } else if is_align(first) {
        spec.align = first;
        chars.next();
    }
    spec.sign = chars.next_if(|c| "+- ".contains(*c)).filter(|c| *c != '-');
    spec.alternate = chars.next_if_eq(&'#').is_some();
    spec.zero = chars.next_if_eq(&'0').is_some();
    spec.width = number(&mut chars).unwrap_or(0);
    spec.grouping = chars.next_if(|c| ",_".contains(*c));
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = Some(number(&mut chars).unwrap_or(0));
    }
    let kind = chars.next();
    if chars.next().is_some() {
        return fault!("invalid format specifier '{}'", super::clip(layout));
    }
    let wrong =
        || fault!("unknown format code in '{}' for '{}'", super::clip(layout), value.type_name());
    match (value, kind) {
        (Value::Int(_) | Value::Bool(_), Some(kind)) | (Value::Float(_), Some(kind))
            if "eEfFgG%".contains(kind) =>
        {
            let number = value.as_float().unwrap_or_default();
            real(number, kind, &spec, out)
        }
        (Value::Int(number), kind) if "dxXobn".contains(kind.unwrap_or('d')) => {
            integer(*number, kind.unwrap_or('d'), &spec, out)
        }
        (Value::Float(number), None) if spec.precision.is_none() => {
            let (sign, digits) = signed(&print::float(*number), &spec);
            padded(&digits, &sign, &numeric(&spec), out)
        }
        (Value::Float(number), None) => real(*number, 'g', &spec, out),
        (Value::Str(_) | Value::Bool(_) | Value::None | Value::Undefined(_), None | Some('s')) => {
            let text = print::to_text(run, value)?;
            let text = text.as_str().unwrap_or_default();
            padded(&cut(text, spec.precision), "", &spec, out)
        }
        (_, None) if layout.is_empty() => print::text(run, value, out),
        _ => wrong(),
    }
}

fn number(chars: &mut Peekable<Chars<'_>>) -> Option<usize> {
    let mut number: Option<usize> = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit as usize));
    }
    number
}

/// The first characters.
fn cut(text: &str, len: Option<usize>) -> String {
    len.map_or_else(|| text.to_owned(), |len| text.chars().take(len).collect())
}

/// Numbers stand at the right, texts at the left.
fn numeric(spec: &Spec) -> Spec {
    Spec { align: spec.align.or(Some(if spec.zero { '=' } else { '>' })), ..spec.clone() }
}

/// The sign that is written, and the digits.
fn signed(number: &str, spec: &Spec) -> (String, String) {
    match number.strip_prefix('-') {
        Some(digits) => ("-".to_owned(), digits.to_owned()),
        None => (spec.sign.map(String::from).unwrap_or_default(), number.to_owned()),
    }
}

fn integer(value: i64, kind: char, spec: &Spec, out: &mut Draft<'_>) -> Result {
    let size = value.unsigned_abs();
    let (digits, prefix) = match kind {
        'x' => (format!("{size:x}"), "0x"),
        'X' => (format!("{size:X}"), "0X"),
        'o' => (format!("{size:o}"), "0o"),
        'b' => (format!("{size:b}"), "0b"),
        _ => (size.to_string(), ""),
    };
    let digits = match spec.precision {
        Some(precision) if precision > MAX_PRECISION => return fault!("precision is too large"),
        Some(precision) => format!("{digits:0>precision$}"),
        None => digits,
    };
    let number = if value < 0 { "-".to_owned() + &digits } else { digits };
    let (mut sign, digits) = signed(&number, spec);
    if spec.alternate {
        sign += prefix;
    }
    padded(&grouped(&digits, spec.grouping), &sign, &numeric(spec), out)
}

fn real(value: f64, kind: char, spec: &Spec, out: &mut Draft<'_>) -> Result {
    let precision = spec.precision.unwrap_or(6);
    if precision > MAX_PRECISION {
        return fault!("precision is too large");
    }
    let text = if !value.is_finite() {
        print::float(value)
    } else {
        match kind.to_ascii_lowercase() {
            'f' => format!("{value:.precision$}"),
            '%' => format!("{:.precision$}%", value * 100.0),
            'e' => exponent(value, precision),
            _ => general(value, precision.max(1), spec.alternate),
        }
    };
    let text = if kind.is_ascii_uppercase() { text.to_uppercase() } else { text };
    let (sign, digits) = signed(&text, spec);
    padded(&grouped(&digits, spec.grouping), &sign, &numeric(spec), out)
}

/// C's `%e`, whose exponent has two digits at least.
fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// C's `%g`.
fn general(value: f64, precision: usize, zeros: bool) -> String {
    let scientific = exponent(value, precision - 1);
    let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let at: i32 = power.parse().unwrap_or(0);
    let short = |digits: &str| match digits.contains('.') && !zeros {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    match usize::try_from(precision as i64 - 1 - i64::from(at)) {
        Ok(decimals) if at >= -4 => short(&format!("{value:.decimals$}")),
        _ => format!("{}e{power}", short(digits)),
    }
}

/// Digits in groups of three, before the point.
fn grouped(digits: &str, separator: Option<char>) -> String {
    let Some(separator) = separator else { return digits.to_owned() };
    let whole = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let mut text = String::new();
    for (at, digit) in digits[..whole].chars().enumerate() {
        if at > 0 && (whole - at) % 3 == 0 {
            text.push(separator);
        }
        text.push(digit);
    }
    text + &digits[whole..]
}

/// The text with its sign, as wide as it shall be.
fn padded(text: &str, sign: &str, spec: &Spec, out: &mut Draft<'_>) -> Result {
    let len = text.chars().count() + sign.chars().count();
    let missing = spec.width.saturating_sub(len);
    let zeros = spec.zero && spec.fill.is_none();
    let fill = spec.fill.unwrap_or(if zeros { '0' } else { ' ' });
    let inside = spec.align == Some('=') || (zeros && spec.align == Some('>'));
    let (before, between, after) = match spec.align.unwrap_or('<') {
        _ if inside => (0, missing, 0),
        '>' => (missing, 0, 0),
        '^' => (missing / 2, 0, missing - missing / 2),
        _ => (0, 0, missing),
    };
    out.fill(fill, before)?;
    out.push(sign)?;
    out.fill(fill, between)?;
    out.push(text)?;
    out.fill(fill, after)
}
