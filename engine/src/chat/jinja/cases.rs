//! Holds the interpreter against Jinja2: `tests/templates/cases.json`, which `cases.py` beside it
//! writes with the real one.

use std::collections::HashMap;

use serde::Deserialize;

use super::{Error, Host, Input, Jinja, Limits};

#[derive(Deserialize)]
struct Table {
    templates: HashMap<String, String>,
    talks: HashMap<String, Input>,
    chats: Vec<Chat>,
    given: Input,
    snippets: Vec<(String, Option<String>)>,
}

#[derive(Deserialize)]
struct Chat {
    template: String,
    variables: String,
    /// Nothing is an error.
    text: Option<String>,
}

/// The text of a template; none is an error.
fn render(template: &str, variables: &Input) -> Result<String, Error> {
    let Input::Dict(entries) = variables else { panic!("{variables:?}") };
    let given: Vec<_> = entries.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let now = |layout: &str| Ok(format!("<{layout}>"));
    let host = Host { now: &now, stop: &|| false };
    Jinja::parse(template)?.render(&given, Limits::of(variables.size()), &host)
}

#[test]
fn templates_render_as_jinja2_renders_them() {
    let table = include_str!("../../../tests/templates/cases.json");
    let table: Table = serde_json::from_str(table).unwrap();
    let chats = table.chats.iter().map(|Chat { template, variables, text }| {
        (table.templates[template].as_str(), &table.talks[variables], text)
    });
    let snippets =
        table.snippets.iter().map(|(source, text)| (source.as_str(), &table.given, text));
    let (mut wrong, mut n) = (Vec::new(), 0);
    for (source, variables, text) in chats.chain(snippets) {
        let rendered = render(source, variables);
        n += 1;
        if rendered.as_ref().ok() != text.as_ref() {
            wrong.push(format!("{source}\n  {rendered:?}\n  {text:?}"));
        }
    }
    assert!(n > 100);
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
