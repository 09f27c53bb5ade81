//! Methods of texts, lists, dicts and `loop`, as Python has them.
//!
//! Those that would change a list or a dict are not there, as in Hugging Face's sandbox.

use super::eval::{Given, cycled};
use super::filters::{pairs, text as text_filters};
use super::format;
use super::functions::Bound;
use super::meter::Result;
use super::run::Run;
use super::strings::{end_of_line, is, lines, swapped, title, title_word};
use super::value::{Callable, Dict, Value, equal, lookup};

const STR: &str = "\
    capitalize casefold center count endswith expandtabs find format index isalnum \
    isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable \
    isspace istitle isupper join ljust lower lstrip partition removeprefix \
    removesuffix replace rfind rindex rjust rpartition rsplit rstrip split \
    splitlines startswith strip swapcase title upper zfill";
const LIST: &str = "copy count index";
const TUPLE: &str = "count index";
const DICT: &str = "copy get items keys values";

/// The method of a value that has this name.
pub(super) fn find(value: &Value, name: &str) -> Option<&'static str> {
    let names = match value {
        Value::Str(_) => STR,
        Value::List(_) => LIST,
        Value::Tuple(_) => TUPLE,
        Value::Dict(_) => DICT,
        _ => return None,
    };
    names.split(' ').find(|known| *known == name)
}

/// Calls a method.
pub(super) fn call(run: &Run<'_>, of: &Value, name: &str, args: Given) -> Result<Value> {
    match of {
        Value::Str(text) => {
            // Whatever it does, it reads the text.
            run.meter.bytes(text.len())?;
            if name == "format" {
                return format::braces(run, text, &args);
            }
            str_method(run, text, name, Bound::new(name, args))
        }
        Value::List(_) | Value::Tuple(_) => {
            let mut args = Bound::new(name, args);
            let items = run.items(of)?;
            if name == "copy" {
                args.done()?;
                return Ok(of.clone());
            }
            let wanted = args.required("value")?;
            args.done()?;
            let mut count = 0;
            for (at, item) in items.iter().enumerate() {
                if equal(&run.meter, item, &wanted)? {
                    if name == "index" {
                        return Ok(Value::Int(at as i64));
                    }
                    count += 1;
                }
            }
            if name == "index" {
                fault!("the value is not in the list")
            } else {
                Ok(Value::Int(count))
            }
        }
        Value::Dict(dict) => dict_method(run, of, dict, name, Bound::new(name, args)),
        Value::Loop(of) => {
            run.meter.work(1 + args.positional.len())?;
            if name == "cycle" {
                let at = of.index.get() % args.positional.len().max(1);
                return match args.positional.get(at) {
                    Some(item) => Ok(item.clone()),
                    None => fault!("loop.cycle() needs items"),
                };
            }
            // Kept as text: a loop that held itself here would never be freed.
            let mut draft = run.meter.draft();
            for value in &args.positional {
                super::print::repr(run, value, &mut draft)?;
            }
            let now = draft.into_value()?;
            let changed = of.last.borrow().as_ref().and_then(Value::as_str) != now.as_str();
            *of.last.borrow_mut() = Some(now);
            Ok(Value::Bool(changed))
        }
        Value::Callable(callable) => {
            let Callable::Cycler(items, at) = &**callable else {
                return fault!("a function has no method '{name}'");
            };
            Bound::new(name, args).done()?;
            if name == "reset" {
                at.set(0);
                return Ok(Value::None);
            }
            let item = cycled(items, at.get());
            at.set(at.get() + 1);
            Ok(item)
        }
        _ => fault!("'{}' object has no method '{name}'", of.type_name()),
    }
}

fn dict_method(
    run: &Run<'_>,
    of: &Value,
    dict: &Dict,
    name: &str,
    mut args: Bound<'_>,
) -> Result<Value> {
    let meter = &run.meter;
    match name {
        "get" => {
            let key = args.required("key")?;
            let default = args.optional("default").unwrap_or(Value::None);
            args.done()?;
            Ok(lookup(meter, dict, &key)?.cloned().unwrap_or(default))
        }
        "items" => {
            args.done()?;
            meter.list(pairs(run, name, of)?)
        }
        "keys" => {
            args.done()?;
            meter.list(run.items(of)?)
        }
        "values" => {
            args.done()?;
            meter.room(dict.entries.len(), 0)?;
            meter.list(dict.entries.iter().map(|(_, value)| value.clone()).collect())
        }
        _ => {
            args.done()?;
            Ok(of.clone())
        }
    }
}

fn str_method(run: &Run<'_>, text: &str, name: &str, mut args: Bound<'_>) -> Result<Value> {
    let meter = &run.meter;
    let done = match name {
        "lower" | "casefold" | "upper" | "capitalize" | "title" | "swapcase" => {
            // Cases can make it longer.
            meter.room(0, text.len().saturating_mul(3))?;
            meter.bytes(text.len().saturating_mul(4))?;
            meter.text(match name {
                "lower" | "casefold" => text.to_lowercase(),
                "upper" => text.to_uppercase(),
                "capitalize" => title_word(text),
                "title" => title(text),
                _ => swapped(text),
            })
        }
        "strip" | "lstrip" | "rstrip" => {
            let chars = args.optional("chars").filter(|chars| !matches!(chars, Value::None));
            let chars = chars.as_ref().map(|chars| chars.as_str().unwrap_or_default());
            let blank = |c: char| chars.map_or(c.is_whitespace(), |chars| chars.contains(c));
            meter.text(match name {
                "strip" => text.trim_matches(blank),
                "lstrip" => text.trim_start_matches(blank),
                _ => text.trim_end_matches(blank),
            })
        }
        "removeprefix" => {
            let part = args.text("prefix")?;
            meter.text(text.strip_prefix(str(&part)).unwrap_or(text))
        }
        "removesuffix" => {
            let part = args.text("suffix")?;
            meter.text(text.strip_suffix(str(&part)).unwrap_or(text))
        }
        "startswith" | "endswith" => {
            let part = args.required("prefix")?;
            let within = window(text, &mut args)?.1;
            let matches = |part: &Value| match part.as_str() {
                Some(part) if name == "startswith" => Ok(within.starts_with(part)),
                Some(part) => Ok(within.ends_with(part)),
                None => fault!("{name}: '{}' is no string", part.type_name()),
            };
            let mut found = false;
            match &part {
                Value::Tuple(seq) => {
                    for part in &seq.items {
                        found |= matches(part)?;
                    }
                }
                part => found = matches(part)?,
            }
            Ok(Value::Bool(found))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let part = args.text("sub")?;
            let (skipped, within) = window(text, &mut args)?;
            let at = if name.starts_with('r') {
                within.rfind(str(&part))
            } else {
                within.find(str(&part))
            };
            match at {
                Some(at) => Ok(Value::Int((skipped + within[..at].chars().count()) as i64)),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => fault!("substring not found"),
            }
        }
        "count" => {
            let part = args.text("sub")?;
            let within = window(text, &mut args)?.1;
            Ok(Value::Int(within.matches(str(&part)).count() as i64))
        }
        "replace" => {
            let (old, new) = (args.text("old")?, args.text("new")?);
            let count = args.int("count", -1)?;
            text_filters::replaced(run, text, str(&old), str(&new), count)
        }
        "split" | "rsplit" => split(run, text, name == "rsplit", &mut args),
        "splitlines" => {
            let keep = args.flag("keepends", false);
            let mut rest = text;
            let lines = lines(text).map(|(line, ended)| {
                let whole =
                    if ended { line.len() + end_of_line(&rest[line.len()..]) } else { line.len() };
                let kept = if keep { &rest[..whole] } else { line };
                rest = &rest[whole..];
                meter.text(kept)
            });
            let lines = lines.collect::<Result<_>>()?;
            meter.list(lines)
        }
        "partition" | "rpartition" => {
            let part = args.text("sep")?;
            let part = str(&part);
            if part.is_empty() {
                return fault!("empty separator");
            }
            let found =
                if name == "partition" { text.split_once(part) } else { text.rsplit_once(part) };
            let parts = match (found, name) {
                (Some((before, after)), _) => [before, part, after],
                (None, "partition") => [text, "", ""],
                (None, _) => ["", "", text],
            };
            let parts = parts.map(|part| meter.text(part));
            meter.tuple(parts.into_iter().collect::<Result<_>>()?)
        }
        "join" => {
            let items = args.required("iterable")?;
            let mut draft = meter.draft();
            for (i, item) in run.items(&items)?.iter().enumerate() {
                draft.push(if i == 0 { "" } else { text })?;
                match item.as_str() {
                    Some(item) => draft.push(item)?,
                    None => {
                        return fault!("join: item {i} is no string but '{}'", item.type_name());
                    }
                }
            }
            draft.into_value()
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let width = args.size("width", 0)?;
            let fill = match args.optional("fillchar") {
                Some(fill) => match str(&fill).chars().next() {
                    Some(c) if str(&fill).len() == c.len_utf8() => c,
                    _ => return fault!("{name}: one character fills"),
                },
                None => ' ',
            };
            let missing = width.saturating_sub(text.chars().count());
            if name == "center" {
                args.done()?;
                return text_filters::centered(run, text, width, fill);
            }
            let mut draft = meter.draft();
            match name {
                "ljust" => {
                    draft.push(text)?;
                    draft.fill(fill, missing)?;
                }
                "rjust" => {
                    draft.fill(fill, missing)?;
                    draft.push(text)?;
                }
                _ => {
                    let sign = text.len() - text.trim_start_matches(['+', '-']).len();
                    let (sign, digits) = text.split_at(sign.min(1));
                    draft.push(sign)?;
                    draft.fill('0', missing)?;
                    draft.push(digits)?;
                }
            }
            draft.into_value()
        }
        "expandtabs" => {
            let size = args.size("tabsize", 8)?;
            let mut draft = meter.draft();
            let mut column = 0;
            for c in text.chars() {
                match c {
                    '\t' => {
                        let blanks = if size == 0 { 0 } else { size - column % size };
                        draft.fill(' ', blanks)?;
                        column += blanks;
                    }
                    _ => {
                        draft.fill(c, 1)?;
                        column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                    }
                }
            }
            draft.into_value()
        }
        _ => Ok(Value::Bool(is(text, name))),
    };
    args.done()?;
    done
}

fn str(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The part between the character places `start` and `end`, and how many characters are before it.
fn window<'t>(text: &'t str, args: &mut Bound<'_>) -> Result<(usize, &'t str)> {
    let (start, end) = (args.int("start", 0)?, args.int("end", i64::MAX)?);
    if start == 0 && end == i64::MAX {
        return Ok((0, text));
    }
    let len = text.chars().count();
    let place = |at: i64| {
        let at = if at < 0 { at.saturating_add(len as i64) } else { at };
        usize::try_from(at).unwrap_or(0).min(len)
    };
    let (start, end) = (place(start), place(end));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok((start, text.get(byte(start)..byte(end)).unwrap_or_default()))
}

fn split(run: &Run<'_>, text: &str, from_right: bool, args: &mut Bound<'_>) -> Result<Value> {
    let separator = args.optional("sep").filter(|sep| !matches!(sep, Value::None));
    let most = usize::try_from(args.int("maxsplit", -1)?).unwrap_or(usize::MAX);
    let mut parts: Vec<Value> = Vec::new();
    let mut add = |part: &str| -> Result {
        parts.push(run.meter.text(part)?);
        Ok(())
    };
    let mut rest = text;
    match separator.as_ref().map(|separator| separator.as_str()) {
        None => {
            // At runs of white space, of which none is left at the ends.
            rest = rest.trim();
            let mut splits = 0;
            while splits < most {
                let at = if from_right {
                    rest.rfind(char::is_whitespace)
                } else {
                    rest.find(char::is_whitespace)
                };
                let Some(at) = at else { break };
                splits += 1;
                let (before, after) = rest.split_at(at);
                if from_right {
                    add(after.trim_start())?;
                    rest = before.trim_end();
                } else {
                    add(before)?;
                    rest = after.trim_start();
                }
            }
            // The part not split keeps the white space at its far end, of which `trim` took some.
            if !rest.is_empty() {
                let rest = if splits < most { rest } else { untrimmed(text, rest, from_right) };
                add(rest)?;
            }
        }
        Some(None) => return fault!("split: the separator must be a string"),
        Some(Some("")) => return fault!("empty separator"),
        Some(Some(separator)) => {
            for _ in 0..most {
                let found = if from_right {
                    rest.rsplit_once(separator)
                } else {
                    rest.split_once(separator)
                };
                match found {
                    Some((before, after)) if from_right => {
                        add(after)?;
                        rest = before;
                    }
                    Some((before, after)) => {
                        add(before)?;
                        rest = after;
                    }
                    None => break,
                }
            }
            add(rest)?;
        }
    }
    if from_right {
        parts.reverse();
    }
    run.meter.list(parts)
}

/// The rest of a split with the white space that stood at its outer end.
fn untrimmed<'t>(text: &'t str, rest: &str, from_right: bool) -> &'t str {
    if from_right {
        let end = text.len() - text.trim_start().len() + rest.len();
        &text[..end]
    } else {
        let start = text.trim_end().len() - rest.len();
        &text[start..]
    }
}
