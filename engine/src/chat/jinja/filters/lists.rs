//! Filters of lists, and of whatever else a loop goes through.

use std::cmp::Ordering;

use super::super::ast::Operator;
use super::super::operators;
use super::super::predicates;
use super::super::value::{equal, order};
use super::{Bound, Result, Run, Value, apply, print};

/// The value of an attribute path, `a.b.0`.
fn path(run: &Run<'_>, item: &Value, path: &Value) -> Result<Value> {
    let Some(names) = path.as_str() else { return run.item(item, path) };
    let mut value = item.clone();
    for name in names.split('.') {
        let key = match name.parse::<i64>() {
            Ok(index) => Value::Int(index),
            Err(_) => run.meter.text(name)?,
        };
        value = run.item(&value, &key)?;
    }
    Ok(value)
}

/// The key that items are compared by: an attribute, if one is named, without the case of letters
/// unless it counts.
fn key_of(
    run: &Run<'_>,
    item: &Value,
    attribute: Option<&Value>,
    case_sensitive: bool,
) -> Result<Value> {
    let key = match attribute {
        None | Some(Value::None) => item.clone(),
        Some(attribute) => path(run, item, attribute)?,
    };
    match key.as_str() {
        Some(text) if !case_sensitive => run.meter.text(text.to_lowercase()),
        _ => Ok(key),
    }
}

/// Items with their keys.
fn keyed(
    run: &Run<'_>,
    items: Vec<Value>,
    attribute: Option<&Value>,
    case_sensitive: bool,
) -> Result<Vec<(Value, Value)>> {
    run.meter.room(2 * items.len(), 0)?;
    let keyed =
        items.into_iter().map(|item| Ok((key_of(run, &item, attribute, case_sensitive)?, item)));
    keyed.collect()
}

/// Sorts, equal ones in the order they came, by a comparison that may fail.
pub(in super::super) fn sorted<T>(
    items: Vec<T>,
    compare: &mut impl FnMut(&T, &T) -> Result<Ordering>,
) -> Result<Vec<T>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let mut left = items;
    let right = left.split_off(left.len() / 2);
    let (left, right) = (sorted(left, compare)?, sorted(right, compare)?);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let first = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) if compare(a, b)?.is_gt() => right.next(),
            (Some(_), _) => left.next(),
            (None, _) => right.next(),
        };
        match first {
            Some(item) => merged.push(item),
            None => return Ok(merged),
        }
    }
}

pub(super) fn sort(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let reverse = args.flag("reverse", false);
    let case_sensitive = args.flag("case_sensitive", false);
    let attribute = args.optional("attribute");
    args.done()?;
    // Several attributes, with commas between, count one after the other.
    let names = match attribute.as_ref().and_then(Value::as_str) {
        Some(names) => {
            names.split(',').map(|name| run.meter.text(name)).collect::<Result<Vec<_>>>()?
        }
        None => attribute.into_iter().collect(),
    };
    let mut items = run.items(&value)?;
    for name in names.iter().rev().map(Some).chain(names.is_empty().then_some(None)) {
        let keyed = keyed(run, items, name, case_sensitive)?;
        let sorted = sorted(keyed, &mut |a, b| {
            let found = order(&run.meter, &a.0, &b.0, "<")?;
            Ok(if reverse { found.reverse() } else { found })
        })?;
        items = sorted.into_iter().map(|(_, item)| item).collect();
    }
    run.meter.list(items)
}

pub(super) fn dictsort(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let case_sensitive = args.flag("case_sensitive", false);
    let by = args.optional("by");
    let reverse = args.flag("reverse", false);
    args.done()?;
    let place = match by.as_ref().map(|by| by.as_str()) {
        None | Some(Some("key")) => Value::Int(0),
        Some(Some("value")) => Value::Int(1),
        _ => return fault!("dictsort: by is 'key' or 'value'"),
    };
    let pairs = pairs(run, "dictsort", &value)?;
    let keyed = keyed(run, pairs, Some(&place), case_sensitive)?;
    let sorted = sorted(keyed, &mut |a, b| {
        let found = order(&run.meter, &a.0, &b.0, "<")?;
        Ok(if reverse { found.reverse() } else { found })
    })?;
    run.meter.list(sorted.into_iter().map(|(_, pair)| pair).collect())
}

/// The entries of a dict as tuples.
pub(in super::super) fn pairs(run: &Run<'_>, name: &str, value: &Value) -> Result<Vec<Value>> {
    match value {
        Value::Dict(dict) => (dict.entries.iter())
            .map(|(key, value)| run.meter.tuple(vec![key.clone(), value.clone()]))
            .collect(),
        Value::Undefined(_) => Ok(Vec::new()),
        _ => fault!("{name}: '{}' is no dict", value.type_name()),
    }
}

pub(super) fn items(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    args.done()?;
    run.meter.list(pairs(run, "items", &value)?)
}

pub(super) fn list(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    args.done()?;
    run.meter.list(run.items(&value)?)
}

pub(super) fn reverse(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    args.done()?;
    if let Value::Str(text) = &value {
        run.meter.bytes(text.len())?;
        return run.meter.text(text.chars().rev().collect::<String>());
    }
    let mut items = run.items(&value)?;
    items.reverse();
    run.meter.list(items)
}

pub(super) fn first(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    args.done()?;
    end(run, &value, 0, "the first item of nothing")
}

pub(super) fn last(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    args.done()?;
    end(run, &value, -1, "the last item of nothing")
}

fn end(run: &Run<'_>, value: &Value, at: i64, what: &str) -> Result<Value> {
    let found = match value {
        Value::Dict(_) | Value::Loop(_) => {
            let items = run.items(value)?;
            if at == 0 { items.first().cloned() } else { items.last().cloned() }
        }
        Value::Undefined(_) => None,
        Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) => {
            Some(run.item(value, &Value::Int(at))?).filter(|found| !found.is_undefined())
        }
        _ => return fault!("'{}' object is not iterable", value.type_name()),
    };
    Ok(found.unwrap_or_else(|| Value::undefined(what)))
}

pub(super) fn join(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let between = match args.optional("d") {
        Some(between) => print::to_text(run, &between)?,
        None => run.meter.text("")?,
    };
    let attribute = args.optional("attribute");
    args.done()?;
    let mut draft = run.meter.draft();
    for (i, item) in run.items(&value)?.iter().enumerate() {
        if i > 0 {
            draft.push(between.as_str().unwrap_or_default())?;
        }
        match &attribute {
            Some(attribute) => print::text(run, &path(run, item, attribute)?, &mut draft)?,
            None => print::text(run, item, &mut draft)?,
        }
    }
    draft.into_value()
}

/// The items that filters with tests go through: none where there is nothing, whatever it is.
fn some_items(run: &Run<'_>, value: &Value) -> Result<Vec<Value>> {
    if value.truth() { run.items(value) } else { Ok(Vec::new()) }
}

pub(super) fn map(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let attribute = args.named("attribute");
    let mut mapped = Vec::new();
    if let Some(attribute) = attribute {
        let default = args.named("default");
        args.done()?;
        for item in some_items(run, &value)? {
            let found = path(run, &item, &attribute)?;
            mapped.push(match &default {
                Some(default) if found.is_undefined() => default.clone(),
                _ => found,
            });
        }
    } else {
        let name = args.text("filter")?;
        let rest = args.rest();
        for item in some_items(run, &value)? {
            run.meter.work(rest.positional.len() + rest.named.len())?;
            let given =
                super::Given { positional: rest.positional.clone(), named: rest.named.clone() };
            mapped.push(apply(run, name.as_str().unwrap_or_default(), item, given)?);
        }
    }
    run.meter.list(mapped)
}

/// Items for which a test (or their truth) is `wanted`.
fn choose(
    run: &Run<'_>,
    value: &Value,
    mut args: Bound<'_>,
    by_attribute: bool,
    wanted: bool,
) -> Result<Value> {
    let attribute = if by_attribute { Some(args.required("attribute")?) } else { None };
    let test = args.optional("test");
    let rest = args.rest();
    let mut kept = Vec::new();
    for item in some_items(run, value)? {
        let of = match &attribute {
            Some(attribute) => path(run, &item, attribute)?,
            None => item.clone(),
        };
        let holds = match &test {
            None => of.truth(),
            Some(test) => {
                let Some(name) = test.as_str() else { return fault!("a test's name is a string") };
                run.meter.work(1 + rest.positional.len())?;
                let given =
                    super::Given { positional: rest.positional.clone(), named: rest.named.clone() };
                predicates::holds(run, name, &of, given)?
            }
        };
        if holds == wanted {
            kept.push(item);
        }
    }
    run.meter.list(kept)
}

pub(super) fn select(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    choose(run, &value, args, false, true)
}

pub(super) fn reject(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    choose(run, &value, args, false, false)
}

pub(super) fn selectattr(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    choose(run, &value, args, true, true)
}

pub(super) fn rejectattr(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    choose(run, &value, args, true, false)
}

pub(super) fn unique(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let case_sensitive = args.flag("case_sensitive", false);
    let attribute = args.optional("attribute");
    args.done()?;
    let items = run.items(&value)?;
    let mut kept: Vec<(Value, Value)> = Vec::new();
    'items: for (key, item) in keyed(run, items, attribute.as_ref(), case_sensitive)? {
        for (known, _) in &kept {
            if equal(&run.meter, known, &key)? {
                continue 'items;
            }
        }
        kept.push((key, item));
    }
    run.meter.list(kept.into_iter().map(|(_, item)| item).collect())
}

pub(super) fn groupby(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let attribute = args.required("attribute")?;
    let default = args.optional("default");
    let case_sensitive = args.flag("case_sensitive", false);
    args.done()?;
    let mut keyed = keyed(run, run.items(&value)?, Some(&attribute), case_sensitive)?;
    if let Some(default) = default {
        for (key, _) in keyed.iter_mut().filter(|(key, _)| key.is_undefined()) {
            *key = default.clone();
        }
    }
    let sorted = sorted(keyed, &mut |a, b| order(&run.meter, &a.0, &b.0, "<"))?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in sorted {
        match groups.last_mut() {
            Some((last, group)) if equal(&run.meter, last, &key)? => group.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut list = Vec::new();
    for (_, group) in groups {
        // The name as the first of its items has it.
        let name = path(run, &group[0], &attribute)?;
        list.push(run.meter.tuple(vec![name, run.meter.list(group)?])?);
    }
    run.meter.list(list)
}

pub(super) fn min(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    extreme(run, &value, args, Ordering::Less)
}

pub(super) fn max(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    extreme(run, &value, args, Ordering::Greater)
}

fn extreme(run: &Run<'_>, value: &Value, mut args: Bound<'_>, wanted: Ordering) -> Result<Value> {
    let case_sensitive = args.flag("case_sensitive", false);
    let attribute = args.optional("attribute");
    args.done()?;
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keyed(run, run.items(value)?, attribute.as_ref(), case_sensitive)? {
        let better = match &best {
            Some((known, _)) => order(&run.meter, &key, known, "<")? == wanted,
            None => true,
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| Value::undefined("an extreme of nothing"), |(_, item)| item))
}

pub(super) fn sum(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let attribute = args.optional("attribute").filter(|name| !matches!(name, Value::None));
    let mut total = args.optional("start").unwrap_or(Value::Int(0));
    args.done()?;
    for item in run.items(&value)? {
        let item = match &attribute {
            Some(attribute) => path(run, &item, attribute)?,
            None => item,
        };
        total = operators::apply(run, Operator::Add, &total, &item)?;
    }
    Ok(total)
}

pub(super) fn batch(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let len = args.size("linecount", 1)?;
    let fill = args.optional("fill_with").filter(|fill| !matches!(fill, Value::None));
    args.done()?;
    let items = run.items(&value)?;
    if len == 0 {
        return fault!("batch: a batch has one item at least");
    }
    let mut rows = Vec::new();
    for row in items.chunks(len) {
        run.meter.room(if fill.is_some() { len } else { row.len() }, 0)?;
        let mut row = row.to_vec();
        if let Some(fill) = &fill {
            row.resize(len, fill.clone());
        }
        rows.push(run.meter.list(row)?);
    }
    run.meter.list(rows)
}

pub(super) fn slice(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let slices = args.size("slices", 1)?;
    let fill = args.optional("fill_with").filter(|fill| !matches!(fill, Value::None));
    args.done()?;
    let items = run.items(&value)?;
    if slices == 0 {
        return fault!("slice: there is one slice at least");
    }
    run.meter.room(slices, 0)?;
    let (each, more) = (items.len() / slices, items.len() % slices);
    let mut rows = Vec::new();
    let mut rest = &items[..];
    for i in 0..slices {
        let (row, after) = rest.split_at(each + usize::from(i < more));
        rest = after;
        let mut row = row.to_vec();
        if let (Some(fill), true) = (&fill, i >= more) {
            row.push(fill.clone());
        }
        rows.push(run.meter.list(row)?);
    }
    run.meter.list(rows)
}
