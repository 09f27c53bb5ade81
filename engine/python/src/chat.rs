//! Conversations: messages of Python's as a model's tokens, and where an answer ends.
//!
//! Not here: templates (`brooklet::chat`). Test: `tests/test_chat.py`.

use std::cell::RefCell;

use brooklet::chat::{ChatTemplate, Ends, Message, RenderOptions, Role, Value};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{Failure, Result};
use crate::interrupt::Watch;
use crate::model::Opened;
use crate::sampling::json;

/// A conversation as tokens.
pub(crate) struct Talk {
    pub(crate) ids: Vec<u32>,
    pub(crate) ends: Ends,
}

impl Talk {
    /// A conversation that the assistant is to go on with.
    pub(crate) fn new(
        opened: &Opened,
        messages: &Bound<'_, PyAny>,
        template: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Talk> {
        Talk::with(opened, messages, template, true)
    }

    /// A conversation, of which the last turn is open or not.
    pub(crate) fn with(
        opened: &Opened,
        messages: &Bound<'_, PyAny>,
        template: Option<&Bound<'_, PyDict>>,
        add_generation_prompt: bool,
    ) -> PyResult<Talk> {
        // Whatever JSON can say, a template can see.
        let turns = messages.try_iter()?.map(|turn| json(&turn?)).collect::<PyResult<Vec<_>>>()?;
        let turns = turns.iter().map(|turn| message(turn)).collect::<Result<Vec<_>>>()?;
        let variables = match template {
            None => Vec::new(),
            Some(template) => entries(&json(template.as_any())?, "template")?,
        };
        let variables: Vec<(&str, Value)> =
            variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let py = messages.py();
        Ok(py.detach(|| {
            let template = ChatTemplate::of(&opened.model)?;
            let watch = RefCell::new(Watch::new());
            let stop = || !watch.borrow_mut().goes_on();
            let options = RenderOptions::default()
                .add_generation_prompt(add_generation_prompt)
                .variables(&variables)
                .stop(&stop);
            let ids = template.encode(&turns, &options);
            watch.into_inner().end()?;
            Ok::<_, Failure>(Talk { ids: ids?, ends: template.ends() })
        })?)
    }
}

/// The entries of a JSON object.
fn entries(json: &str, what: &str) -> Result<Vec<(String, Value)>> {
    match serde_json::from_str(json) {
        Ok(Value::Dict(entries)) => Ok(entries),
        _ => Err(Failure::Argument(format!("{what}: expected a dictionary, found {json}"))),
    }
}

/// A turn in JSON.
fn message(json: &str) -> Result<Message> {
    let wrong = |expected: &str| {
        let found: String = json.chars().take(200).collect();
        Failure::Argument(format!("a message: expected {expected}, found {found}"))
    };
    let (mut role, mut content, mut fields) = (None, String::new(), Vec::new());
    for (name, value) in entries(json, "a message")? {
        match (name.as_str(), value) {
            ("role", Value::Text(text)) => role = Role::named(&text),
            ("content", Value::Text(text)) => content = text,
            // Of a turn that only calls tools.
            ("content", Value::None) => {}
            ("content", _) => return Err(wrong("a text as \"content\"")),
            (_, value) => fields.push((name, value)),
        }
    }
    let roles = "\"role\" to be one of system, user, assistant, tool";
    let mut message = Message::new(role.ok_or_else(|| wrong(roles))?, content);
    message.fields = fields;
    Ok(message)
}
