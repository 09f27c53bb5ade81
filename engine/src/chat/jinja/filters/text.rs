//! Filters of texts.

use super::super::strings::{lines, title_word};
use super::{Bound, Result, Run, Value, print};

/// The text that a filter works on, and what its arguments have left.
fn whole(run: &Run<'_>, value: &Value, args: Bound<'_>) -> Result<Value> {
    args.done()?;
    print::to_text(run, value)
}

/// Replaces a text by what `change` makes of it.
fn changed(
    run: &Run<'_>,
    value: &Value,
    args: Bound<'_>,
    change: impl FnOnce(&str) -> String,
) -> Result<Value> {
    let text = whole(run, value, args)?;
    let text = text.as_str().unwrap_or_default();
    // Cases can make it longer.
    run.meter.room(0, text.len().saturating_mul(3))?;
    run.meter.bytes(text.len().saturating_mul(4))?;
    run.meter.text(change(text))
}

pub(super) fn string(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    whole(run, &value, args)
}

pub(super) fn lower(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    changed(run, &value, args, str::to_lowercase)
}

pub(super) fn upper(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    changed(run, &value, args, str::to_uppercase)
}

pub(super) fn capitalize(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    changed(run, &value, args, title_word)
}

/// Words behind blanks, hyphens and brackets begin with capitals.
pub(super) fn title(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    let between = |c: char| c.is_whitespace() || "-({[<".contains(c);
    changed(run, &value, args, |text| text.split_inclusive(between).map(title_word).collect())
}

pub(super) fn trim(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let chars = args.optional("chars");
    let text = whole(run, &value, args)?;
    let text = text.as_str().unwrap_or_default();
    run.meter.bytes(text.len())?;
    run.meter.text(match chars.as_ref().and_then(Value::as_str) {
        Some(chars) => text.trim_matches(|c| chars.contains(c)),
        None => text.trim(),
    })
}

pub(super) fn pprint(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    args.done()?;
    let mut draft = run.meter.draft();
    print::repr(run, &value, &mut draft)?;
    draft.into_value()
}

pub(super) fn escape(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    let text = whole(run, &value, args)?;
    let mut draft = run.meter.draft();
    for piece in text.as_str().unwrap_or_default().split_inclusive(['&', '<', '>', '"', '\'']) {
        let special = piece.chars().next_back().and_then(|last| match last {
            '&' => Some("&amp;"),
            '<' => Some("&lt;"),
            '>' => Some("&gt;"),
            '"' => Some("&#34;"),
            '\'' => Some("&#39;"),
            _ => None,
        });
        match special {
            Some(special) => {
                draft.push(&piece[..piece.len() - 1])?;
                draft.push(special)?;
            }
            None => draft.push(piece)?,
        }
    }
    draft.into_value()
}

pub(super) fn replace(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let old = print::to_text(run, &args.required("old")?)?;
    let new = print::to_text(run, &args.required("new")?)?;
    let count = args.int("count", -1)?;
    let text = whole(run, &value, args)?;
    let str = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    replaced(run, &str(&text), &str(&old), &str(&new), count)
}

/// `text.replace(old, new, count)`; a negative count is all.
pub(in super::super) fn replaced(
    run: &Run<'_>,
    text: &str,
    old: &str,
    new: &str,
    count: i64,
) -> Result<Value> {
    let mut draft = run.meter.draft();
    let mut from = 0;
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    run.meter.bytes(text.len())?;
    for (at, _) in text.match_indices(old).take(most) {
        draft.push(&text[from..at])?;
        draft.push(new)?;
        from = at + old.len();
    }
    draft.push(&text[from..])?;
    draft.into_value()
}

pub(super) fn center(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let width = args.size("width", 80)?;
    let text = whole(run, &value, args)?;
    let text = text.as_str().unwrap_or_default();
    centered(run, text, width, ' ')
}

/// `text.center(width, fill)`: the odd one at the left if the width is odd, as CPython has it.
pub(in super::super) fn centered(
    run: &Run<'_>,
    text: &str,
    width: usize,
    fill: char,
) -> Result<Value> {
    let missing = width.saturating_sub(text.chars().count());
    let before = missing / 2 + (missing & width & 1);
    let mut draft = run.meter.draft();
    draft.fill(fill, before)?;
    draft.push(text)?;
    draft.fill(fill, missing - before)?;
    draft.into_value()
}

pub(super) fn indent(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let width = args.optional("width").unwrap_or(Value::Int(4));
    let (first, blank) = (args.flag("first", false), args.flag("blank", false));
    let text = whole(run, &value, args)?;
    let mut indent = run.meter.draft();
    match (width.as_str(), width.as_int()) {
        (Some(text), _) => indent.push(text)?,
        (_, Some(width)) => indent.fill(' ', usize::try_from(width).unwrap_or(0))?,
        _ => return fault!("indent: width is a number or a string"),
    }
    let mut draft = run.meter.draft();
    let text = text.as_str().unwrap_or_default();
    // A line feed at the end opens one more line, which is empty.
    let more = if text.is_empty() || lines(text).last().is_some_and(|(_, ended)| ended) {
        Some("")
    } else {
        None
    };
    for (i, line) in lines(text).map(|(line, _)| line).chain(more).enumerate() {
        if i > 0 {
            draft.push("\n")?;
        }
        if (i == 0 && first) || (i > 0 && (blank || !line.is_empty())) {
            draft.push(indent.as_str())?;
        }
        draft.push(line)?;
    }
    draft.into_value()
}

pub(super) fn truncate(run: &Run<'_>, value: Value, mut args: Bound<'_>) -> Result<Value> {
    let length = args.size("length", 255)?;
    let killwords = args.flag("killwords", false);
    let end = match args.optional("end") {
        Some(end) => print::to_text(run, &end)?,
        None => run.meter.text("...")?,
    };
    let leeway = args.size("leeway", 5)?;
    let text = whole(run, &value, args)?;
    let text = text.as_str().unwrap_or_default();
    run.meter.bytes(text.len())?;
    let end = end.as_str().unwrap_or_default();
    if text.chars().count() <= length.saturating_add(leeway) {
        return run.meter.text(text);
    }
    let Some(keep) = length.checked_sub(end.chars().count()) else {
        return fault!("truncate: the length is less than that of the end");
    };
    let at = text.char_indices().nth(keep).map_or(text.len(), |(at, _)| at);
    let mut kept = &text[..at];
    if !killwords {
        kept = kept.rfind(' ').map_or(kept, |blank| &kept[..blank]);
    }
    let mut draft = run.meter.draft();
    draft.push(kept)?;
    draft.push(end)?;
    draft.into_value()
}

pub(super) fn wordcount(run: &Run<'_>, value: Value, args: Bound<'_>) -> Result<Value> {
    let text = whole(run, &value, args)?;
    let text = text.as_str().unwrap_or_default();
    run.meter.bytes(text.len())?;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).count();
    Ok(Value::Int(words as i64))
}
