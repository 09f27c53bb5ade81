//! Changes that a `tokenizer.json` makes to a text before it is cut: Unicode's normal forms, lower
//! case, replacing.
//!
//! Read here: NFC, NFD, NFKC, NFKD, Lowercase, Replace, Prepend, Precompiled, Strip, ByteLevel and
//! Sequence;
//! others are refused by name. `tokenizers` normalizes as Unicode 9 does; characters that later
//! versions gave a decomposition or an order are left as they are here too (`LATER`). Source:
//! `tokenizers`, `normalizers/`. Test: `oracle.rs`.

use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

use super::pattern::Pattern;
use super::pieces::BYTE_NAMES;
use super::precompiled::Precompiled;

/// How much longer than its text a normalized or cut text may be: a bound on memory.
const GROWTH: usize = 64;

/// One step of normalization.
#[derive(Debug)]
pub(super) enum Normalizer {
    Form(Form),
    Lowercase,
    Replace {
        pattern: Pattern,
        content: String,
    },
    Prepend(String),
    Precompiled(Precompiled),
    Strip {
        left: bool,
        right: bool,
    },
    /// Each byte's name in GPT-2's alphabet.
    ByteNames,
}

/// Unicode's normal forms.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    C,
    D,
    Kc,
    Kd,
}

/// The steps of a normalizer, one after the other. `null`: none.
pub(super) fn read(json: &Value) -> Result<Vec<Normalizer>, String> {
    let mut steps = Vec::new();
    if !json.is_null() {
        read_into(json, &mut steps)?;
    }
    Ok(steps)
}

fn read_into(json: &Value, steps: &mut Vec<Normalizer>) -> Result<(), String> {
    let text = |name: &str| {
        json[name]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| format!("normalizer without {name}: {json}"))
    };
    let flag = |name: &str| {
        json[name].as_bool().ok_or_else(|| format!("normalizer without {name}: {json}"))
    };
    steps.push(match json["type"].as_str() {
        Some("Sequence") => {
            let list = json["normalizers"].as_array().ok_or("a sequence without normalizers")?;
            return list.iter().try_for_each(|json| read_into(json, steps));
        }
        Some("NFC") => Normalizer::Form(Form::C),
        Some("NFD") => Normalizer::Form(Form::D),
        Some("NFKC") => Normalizer::Form(Form::Kc),
        Some("NFKD") => Normalizer::Form(Form::Kd),
        Some("Lowercase") => Normalizer::Lowercase,
        Some("Replace") => Normalizer::Replace {
            pattern: Pattern::from_json(&json["pattern"])?,
            content: text("content")?,
        },
        Some("Precompiled") => {
            Normalizer::Precompiled(Precompiled::read(&text("precompiled_charsmap")?)?)
        }
        Some("Prepend") => Normalizer::Prepend(text("prepend")?),
        Some("Strip") => {
            Normalizer::Strip { left: flag("strip_left")?, right: flag("strip_right")? }
        }
        Some("ByteLevel") => Normalizer::ByteNames,
        Some(other) => return Err(format!("the normalizer {other} is not supported")),
        None => return Err(format!("expected a normalizer, found {json}")),
    });
    Ok(())
}

/// A text behind the normalizer.
pub(super) struct Normal {
    pub(super) text: String,
    /// Whether it begins where the text did: nothing was taken away in front.
    pub(super) from_start: bool,
}

/// Normalizes a text.
pub(super) fn apply(steps: &[Normalizer], text: &str) -> Result<Normal, String> {
    let mut normal = Normal { text: text.to_owned(), from_start: true };
    for step in steps {
        step.apply(&mut normal)?;
        check_growth(normal.text.len(), text.len())?;
    }
    Ok(normal)
}

/// Refuses a text that became absurdly long.
pub(super) fn check_growth(len: usize, before: usize) -> Result<(), String> {
    match before.saturating_add(GROWTH).saturating_mul(GROWTH) {
        most if len <= most => Ok(()),
        _ => Err(format!("tokenizer.json makes {before} bytes of text {len}")),
    }
}

impl Normalizer {
    fn apply(&self, normal: &mut Normal) -> Result<(), String> {
        let text = &normal.text;
        let new = match self {
            Normalizer::Form(form) => form.apply(text),
            Normalizer::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Normalizer::Replace { pattern, content } => {
                let (new, taken) = replace(pattern, content, text)?;
                normal.from_start &= !taken;
                new
            }
            Normalizer::Prepend(front) if !text.is_empty() => [front, text.as_str()].concat(),
            Normalizer::Prepend(_) => return Ok(()),
            Normalizer::Precompiled(table) => table.apply(text),
            Normalizer::Strip { left, right } => {
                let right = if *right { text.trim_end() } else { text };
                let both = if *left { right.trim_start() } else { right };
                normal.from_start &= both.len() == right.len();
                both.to_owned()
            }
            Normalizer::ByteNames => {
                text.bytes().map(|byte| BYTE_NAMES[usize::from(byte)]).collect()
            }
        };
        normal.text = new;
        Ok(())
    }
}

/// The text with `content` in place of each match, and whether its beginning was taken away without
/// a replacement.
fn replace(pattern: &Pattern, content: &str, text: &str) -> Result<(String, bool), String> {
    let mut len = 0usize;
    let mut taken = false;
    let mut parts = Vec::new();
    pattern.each_part(text, |part, matches| {
        taken |= matches && part.start == 0 && content.is_empty();
        len = len.saturating_add(if matches { content.len() } else { part.len() });
        parts.push((part, matches));
    })?;
    check_growth(len, text.len())?;
    let new = parts
        .into_iter()
        .map(|(part, matches)| if matches { content } else { &text[part] })
        .collect();
    Ok((new, taken))
}

impl Form {
    fn apply(self, text: &str) -> String {
        // Nothing below these is changed, and nearly every text is.
        let first_changed = match self {
            Form::C => '\u{300}',
            Form::D | Form::Kc | Form::Kd => '\u{a0}',
        };
        if text.chars().all(|c| c < first_changed) {
            return text.to_owned();
        }
        let mut new = String::with_capacity(text.len());
        for part in text.split_inclusive(is_later) {
            let last = part.chars().next_back().filter(|c| is_later(*c));
            let part = &part[..part.len() - last.map_or(0, char::len_utf8)];
            match self {
                Form::C => new.extend(part.nfc()),
                Form::D => new.extend(part.nfd()),
                Form::Kc => new.extend(part.nfkc()),
                Form::Kd => new.extend(part.nfkd()),
            }
            new.extend(last);
        }
        new
    }
}

/// Characters that Unicode 10 and later gave a decomposition, a combining class or a composition:
/// where each run of them begins and where it ends, in turn.
const LATER: [u32; 172] = [
    0x558, 0x559, 0x58b, 0x58d, 0x5c8, 0x5ca, 0x7fd, 0x7fe, 0x897, 0x8a0, 0x8ca, 0x8d4, 0x9fe,
    0x9ff, 0xc3c, 0xc3d, 0xd3b, 0xd3d, 0xeba, 0xebb, 0x1715, 0x1716, 0x1abf, 0x1af1, 0x1df6,
    0x1dfb, 0x209d, 0x20a0, 0x32ff, 0x3300, 0xa7f1, 0xa7f5, 0xa82c, 0xa82d, 0xab69, 0xab6a,
    0x105c9, 0x105ca, 0x105d2, 0x105d3, 0x105da, 0x105db, 0x105e4, 0x105e5, 0x10781, 0x10786,
    0x10787, 0x107b1, 0x107b2, 0x107c0, 0x10d24, 0x10d28, 0x10d69, 0x10d6e, 0x10eab, 0x10ead,
    0x10ecb, 0x10ed0, 0x10ef0, 0x10efc, 0x10efd, 0x10f00, 0x10f46, 0x10f51, 0x10f82, 0x10f86,
    0x11070, 0x11071, 0x1133b, 0x1133c, 0x11382, 0x11386, 0x1138b, 0x1138c, 0x1138e, 0x1138f,
    0x11390, 0x11392, 0x113c2, 0x113c3, 0x113c5, 0x113c6, 0x113c7, 0x113c9, 0x113ce, 0x113d1,
    0x1145e, 0x1145f, 0x11839, 0x1183b, 0x11935, 0x11936, 0x11938, 0x11939, 0x1193d, 0x1193f,
    0x11943, 0x11944, 0x119e0, 0x119e1, 0x11a34, 0x11a35, 0x11a47, 0x11a48, 0x11a99, 0x11a9a,
    0x11d42, 0x11d43, 0x11d44, 0x11d46, 0x11d97, 0x11d98, 0x11f41, 0x11f43, 0x1611e, 0x1611f,
    0x16121, 0x1612a, 0x1612f, 0x16130, 0x16d63, 0x16d64, 0x16d67, 0x16d6b, 0x16ff0, 0x16ff2,
    0x1b123, 0x1b127, 0x1ccd6, 0x1ccfa, 0x1d127, 0x1d129, 0x1d250, 0x1d253, 0x1d25b, 0x1d25d,
    0x1d25f, 0x1d260, 0x1d280, 0x1d282, 0x1d6a6, 0x1d6a7, 0x1df95, 0x1df96, 0x1dfcd, 0x1e000,
    0x1e030, 0x1e06e, 0x1e08f, 0x1e090, 0x1e130, 0x1e137, 0x1e2ae, 0x1e2af, 0x1e2ec, 0x1e2f0,
    0x1e4ec, 0x1e4f0, 0x1e5ee, 0x1e5f0, 0x1e6e3, 0x1e6e4, 0x1e6e6, 0x1e6e7, 0x1e6ee, 0x1e6f0,
    0x1e6f5, 0x1e6f6, 0x1f16c, 0x1f16d, 0x1fbf0, 0x1fbfa,
];

fn is_later(c: char) -> bool {
    is_between(&LATER, c)
}

/// Whether a character is in one of the runs, given by where they begin and end.
pub(super) fn is_between(edges: &[u32], c: char) -> bool {
    edges.partition_point(|&edge| edge <= u32::from(c)) % 2 == 1
}
