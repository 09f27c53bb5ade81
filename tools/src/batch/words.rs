//! What a request says, as tokens: a prompt as it is, or messages through the model's chat
//! template.

use std::path::PathBuf;

use brooklet::chat::{ChatTemplate, Message, RenderOptions, Role, Value};
use brooklet::{EngineError, Grammar, Model, Snapshot, State, Syntax, Text};
use serde::Deserialize;

use crate::failure::Result;

/// The words of a request.
#[derive(Default, Deserialize)]
pub(super) struct Words {
    prompt: Option<String>,
    messages: Option<Vec<Value>>,
    /// For templates that know tools.
    tools: Option<Value>,
    /// A file that the text goes on from.
    state: Option<PathBuf>,
    json_schema: Option<serde_json::Value>,
    regex: Option<String>,
    /// In Lark's syntax.
    grammar: Option<String>,
}

/// How words are read.
pub(super) struct Reader<'a> {
    model: &'a Model,
    /// What ends texts: answers, too, where there is a template.
    text: Text,
    /// Why there is none says the error.
    template: Result<ChatTemplate, String>,
    /// Strings that end answers.
    answers: Vec<String>,
}

/// Where a text begins.
pub(super) struct Begun {
    pub(super) prompt: Vec<u32>,
    pub(super) start: Option<State>,
    pub(super) stops: Vec<String>,
    pub(super) grammar: Option<Grammar>,
}

impl<'a> Reader<'a> {
    /// For texts of `model`.
    pub(super) fn new(model: &'a Model) -> Result<Reader<'a>> {
        let mut text = Text::of(model)?;
        let template = ChatTemplate::of(model).map_err(|error| error.to_string());
        let ends = template.as_ref().ok().map(ChatTemplate::ends);
        let (tokens, answers) =
            ends.map_or_else(Default::default, |ends| (ends.tokens, ends.stops));
        // A token that ends answers is nothing that other texts go on behind.
        for token in tokens {
            if !text.ends.contains(&token) {
                text.ends.push(token);
            }
        }
        Ok(Reader { model, text, template, answers })
    }

    /// The tokenizer, and what ends texts.
    pub(super) fn text(&self) -> &Text {
        &self.text
    }

    /// What is read of a request; or its mistake.
    pub(super) fn begin(&self, words: &Words) -> Result<Begun, String> {
        let said = |error: EngineError| error.to_string();
        let saved = words.state.as_ref().map(|path| Snapshot::load(self.model, path));
        let saved = saved.transpose().map_err(said)?;
        let (text, mut stops) = (&self.text, Vec::new());
        let ids = match (&words.prompt, &words.messages) {
            (Some(prompt), None) if saved.as_ref().is_some_and(|s| s.state.position() > 0) => {
                text.tokenizer.encode(prompt.as_bytes()).map_err(said)?
            }
            (Some(prompt), None) => text.prompt(prompt.as_bytes()).map_err(said)?,
            (None, Some(messages)) => {
                stops.clone_from(&self.answers);
                self.encode(messages, words.tools.as_ref())?
            }
            _ => return Err("expected a prompt or messages, one of them".to_owned()),
        };
        let unread = saved.as_ref().map_or(&[][..], Snapshot::unread);
        let prompt = [unread, &ids].concat();
        let start = saved.map(|saved| saved.state);
        Ok(Begun { prompt, start, stops, grammar: self.grammar(words)? })
    }

    /// The tokens of a conversation, up to where its answer begins.
    fn encode(&self, messages: &[Value], tools: Option<&Value>) -> Result<Vec<u32>, String> {
        let template = self.template.as_ref().map_err(Clone::clone)?;
        let messages = messages.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        let tools: Vec<(&str, Value)> = tools.map(|of| ("tools", of.clone())).into_iter().collect();
        let options = RenderOptions::default().variables(&tools);
        template.encode(&messages, &options).map_err(|error| error.to_string())
    }

    /// The grammar of a request's own.
    fn grammar(&self, words: &Words) -> Result<Option<Grammar>, String> {
        let schema = words.json_schema.as_ref().map(serde_json::Value::to_string);
        let given = [
            (Syntax::JsonSchema, schema.as_ref()),
            (Syntax::Regex, words.regex.as_ref()),
            (Syntax::Lark, words.grammar.as_ref()),
        ];
        let mut given = given.into_iter().filter_map(|(syntax, source)| Some((syntax, source?)));
        let Some((syntax, source)) = given.next() else { return Ok(None) };
        if given.next().is_some() {
            return Err("expected json_schema, regex or grammar, one of them".to_owned());
        }
        self.text.grammar(syntax, source).map(Some).map_err(|error| error.to_string())
    }
}

/// A message as JSON has it; what is not its role or content is for the template.
fn message(value: &Value) -> Result<Message, String> {
    let wrong = || "a message: expected an object with a role and a content".to_owned();
    let Value::Dict(entries) = value else { return Err(wrong()) };
    let (mut role, mut content, mut fields) = (None, String::new(), Vec::new());
    for (key, value) in entries {
        match (key.as_str(), value) {
            ("role", Value::Text(name)) => {
                let unknown = || format!("a message: the role {name:?} is not known");
                role = Some(Role::named(name).ok_or_else(unknown)?);
            }
            ("content", Value::Text(text)) => content.clone_from(text),
            // A message that only calls tools.
            ("content", Value::None) => {}
            ("role" | "content", _) => return Err(wrong()),
            _ => fields.push((key.clone(), value.clone())),
        }
    }
    let mut message = Message::new(role.ok_or_else(wrong)?, content);
    message.fields = fields;
    Ok(message)
}
