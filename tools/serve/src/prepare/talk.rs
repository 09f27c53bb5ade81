//! Messages to tokens.
//!
//! A conversation that goes on from a kept state has the messages of that state before its own. Its
//! tokens are only those that the state has not read, unless the template writes earlier turns
//! otherwise now (it may leave out their reasoning): it is read from the beginning then. Source of
//! the rule, and of the form in which a state's file has its conversation: `brooklet chat`.

use brooklet::State;
use brooklet::chat::{self, RenderOptions, Rendered, Role, Value as Variable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::{Chat, Content, Message, Tool};
use crate::error::{ApiError, Result};
use crate::shared::Server;
use crate::states::Kept;

/// A prompt as the engine takes it.
#[derive(Default)]
pub(crate) struct Prompted {
    pub(crate) tokens: Vec<u32>,
    /// The state that it is read behind.
    pub(crate) start: Option<State>,
    /// Lengths of beginnings that others share.
    pub(crate) borders: Vec<usize>,
    /// Strings that end an answer.
    pub(crate) stops: Vec<String>,
    /// The conversation; none of a prompt without one.
    pub(crate) talk: Option<Talk>,
    /// Whether the answer begins within reasoning.
    pub(crate) thinks: bool,
}

/// A conversation that a state has read, as it stands in the note of a state's file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Talk {
    pub(crate) messages: Vec<Value>,
    /// The text that the state has read, pending tokens included.
    pub(crate) read: Option<String>,
    /// Where special tokens are only spelled out in it.
    #[serde(default)]
    pub(crate) spelled: Vec<usize>,
}

impl Talk {
    /// The conversation of a kept state, if it has one.
    fn of(kept: &Kept) -> Result<Option<Talk>> {
        if kept.snapshot.note.is_empty() {
            return Ok(None);
        }
        let talk = serde_json::from_str(&kept.snapshot.note);
        talk.map(Some).map_err(|error| {
            ApiError::field("state_id", format!("the state's conversation: {error}"))
        })
    }

    /// The same with an answer, of which the text is `written`.
    pub(crate) fn answered(mut self, answer: Value, written: Option<&str>) -> Talk {
        self.messages.push(answer);
        self.read = self.read.zip(written).map(|(read, written)| read + written);
        self
    }
}

impl Server {
    /// The tokens of a conversation.
    pub(crate) fn talk(&self, chat: &Chat, kept: Option<&Kept>) -> Result<Prompted> {
        let template = self.template.as_ref().map_err(|why| ApiError::field("messages", why))?;
        let talk = kept.map(Talk::of).transpose()?.flatten();
        let mut messages = talk.as_ref().map_or(Vec::new(), |talk| talk.messages.clone());
        for (i, message) in chat.messages.iter().enumerate() {
            messages.push(plain(i, message)?);
        }
        if chat.messages.is_empty() {
            return Err(ApiError::field("messages", "messages: expected at least one"));
        }
        let variables = variables(chat)?;
        let variables: Vec<(&str, Variable)> =
            variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let end = std::time::Instant::now() + self.options.timeout;
        let is_late = || std::time::Instant::now() > end;
        let options = RenderOptions::default().variables(&variables).stop(&is_late);
        let turns = turns(&messages)?;
        let refused = |error: brooklet::EngineError| ApiError::engine("messages", &error);
        let whole = template.rendered(&turns, &options).map_err(refused)?;
        let mut prompted = Prompted { stops: self.chat_stops.clone(), ..Prompted::default() };
        let most = self.options.max_prompt;
        let encode = |from: usize, tokens: &mut Vec<u32>| {
            let fits = template.encode_rendered_within(&whole, from, most, tokens);
            if fits.map_err(refused)? { Ok(()) } else { Err(self.too_long()) }
        };
        if let Some(kept) = kept {
            let read = talk
                .map_or(Some((String::new(), Vec::new())), |talk| Some((talk.read?, talk.spelled)));
            let goes_on = |(read, spelled): &(String, Vec<usize>)| {
                whole.goes_on_from(read.as_bytes(), spelled)
            };
            if let Some((read, _)) = read.filter(goes_on) {
                prompted.tokens.extend(kept.snapshot.unread());
                encode(read.len(), &mut prompted.tokens)?;
                prompted.start = Some(kept.snapshot.state.clone());
            }
        }
        if prompted.tokens.is_empty() {
            prompted.start = None;
            encode(0, &mut prompted.tokens)?;
            prompted.borders = self.border(&turns, &options, &whole, &prompted.tokens);
        }
        if prompted.tokens.is_empty() {
            return Err(ApiError::field("messages", "messages: they make an empty text"));
        }
        let spelled = whole.spelled_before(usize::MAX).to_vec();
        let text = whole.into_text();
        prompted.thinks = self.thinks(&text);
        prompted.talk = Some(Talk { messages, read: Some(text), spelled });
        self.check_length(&prompted)?;
        Ok(prompted)
    }

    /// Whether the text opens reasoning that the answer goes on with. Where the closing tag is left
    /// out of texts, nobody would see it close.
    fn thinks(&self, text: &str) -> bool {
        let specials = self.text.tokenizer.special_tokens();
        text.trim_end().ends_with("<think>")
            && !specials.iter().any(|(_, name)| name.as_str() == "</think>")
    }

    /// Where instructions end that other conversations have, too.
    fn border(
        &self,
        turns: &[chat::Message],
        options: &RenderOptions<'_>,
        whole: &Rendered,
        tokens: &[u32],
    ) -> Vec<usize> {
        let (Ok(template), [first, _, ..]) = (&self.template, turns) else { return Vec::new() };
        if first.role != Role::System {
            return Vec::new();
        }
        let alone = options.add_generation_prompt(false);
        // Templates may refuse instructions alone, or write them inside the first question.
        let Ok(start) = template.rendered(std::slice::from_ref(first), &alone) else {
            return Vec::new();
        };
        let spelled = start.spelled_before(usize::MAX).to_vec();
        if !whole.goes_on_from(start.text().as_bytes(), &spelled) {
            return Vec::new();
        }
        let mut ids = Vec::new();
        let is_encoded = template.encode_rendered(&start, 0, &mut ids).is_ok();
        // Tokens may reach over the border.
        let same = ids.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        if is_encoded && same > 0 && same < tokens.len() { vec![same] } else { Vec::new() }
    }
}

/// A message with its content as one text.
fn plain(i: usize, message: &Message) -> Result<Value> {
    let role = match message.role.as_str() {
        "developer" => "system",
        "function" => "tool",
        role if Role::named(role).is_some() => role,
        role => {
            let message = format!(
                "messages[{i}].role: expected system, developer, user, assistant or tool, \
                 found {role:?}"
            );
            return Err(ApiError::field(format!("messages[{i}].role"), message));
        }
    };
    let content = match &message.content {
        None => String::new(),
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Parts(parts)) => {
            let mut whole = String::new();
            for part in parts {
                match (part.kind.as_str(), &part.text) {
                    ("text" | "input_text" | "output_text", Some(text)) => whole += text,
                    (kind, _) => {
                        let message = format!(
                            "messages[{i}].content: a part of type {kind:?}: this model reads text"
                        );
                        return Err(ApiError::field(format!("messages[{i}].content"), message));
                    }
                }
            }
            whole
        }
    };
    let mut plain = message.fields.clone();
    plain.insert("role".to_owned(), json!(role));
    plain.insert("content".to_owned(), json!(content));
    Ok(Value::Object(plain))
}

/// Messages as templates get them.
fn turns(messages: &[Value]) -> Result<Vec<chat::Message>> {
    let turn = |message: &Value| {
        let role = message["role"].as_str().and_then(Role::named).ok_or_else(|| {
            ApiError::field("state_id", "the state's conversation has a message without a role")
        })?;
        let mut turn = chat::Message::new(role, message["content"].as_str().unwrap_or_default());
        let fields = message.as_object().into_iter().flatten();
        for (name, value) in fields.filter(|(name, _)| *name != "role" && *name != "content") {
            let value = if name == "tool_calls" { with_objects(value) } else { value.clone() };
            turn.fields.push((name.clone(), variable(&value)?));
        }
        Ok(turn)
    };
    messages.iter().map(turn).collect()
}

/// Calls whose arguments are objects: clients send them as texts, templates want to look inside.
fn with_objects(calls: &Value) -> Value {
    let mut calls = calls.clone();
    for call in calls.as_array_mut().into_iter().flatten() {
        let Some(arguments) = call.get_mut("function").and_then(|of| of.get_mut("arguments"))
        else {
            continue;
        };
        let parsed = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        if let Some(parsed) = parsed.filter(Value::is_object) {
            *arguments = parsed;
        }
    }
    calls
}

/// The variables of the template that a request sets.
fn variables(chat: &Chat) -> Result<Vec<(String, Variable)>> {
    let mut variables = Vec::new();
    let given: Option<&Map<String, Value>> = chat.chat_template_kwargs.as_ref();
    for (name, value) in given.into_iter().flatten() {
        variables.push((name.clone(), variable(value)?));
    }
    let tools: &[Tool] = chat.tools.as_deref().unwrap_or_default();
    if !tools.is_empty() && !chat.calls_nothing() {
        let tools = serde_json::to_value(tools);
        let tools = tools.map_err(|error| ApiError::field("tools", error.to_string()))?;
        variables.push(("tools".to_owned(), variable(&tools)?));
    }
    Ok(variables)
}

fn variable(value: &Value) -> Result<Variable> {
    Variable::deserialize(value).map_err(|error| ApiError::field("messages", error.to_string()))
}
