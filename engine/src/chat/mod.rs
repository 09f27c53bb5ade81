//! Chat templates: how a conversation becomes a model's tokens, and where an answer ends.
//!
//! Templates are Jinja as Hugging Face's tokenizers carry them; `jinja` runs them and keeps them
//! within bounds. Some files have only the name of a format (`named`); without either, the plain
//! format is used, the one that RWKV "World" models were trained on. Special tokens that a message
//! spells out stay text (`spelled`). Not here: reading the tokens, and keeping a conversation.
//! Test: `tests` beside this file, `jinja/cases`, `jinja/attacks`.

mod clock;
mod jinja;
mod message;
mod named;
mod spelled;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use self::jinja::Input as Value;
use self::jinja::{Host, Jinja, Limits};
pub use self::message::{Message, Role};
use self::named::Format;
pub use self::spelled::Rendered;
use self::spelled::{Marker, Specials};
use crate::model::Model;
use crate::text::Text;
use crate::{EngineError, Result};

/// Makes a model's tokens of conversations.
///
/// ```
/// use brooklet::Model;
/// use brooklet::chat::{ChatTemplate, Message, RenderOptions, Role};
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let template = ChatTemplate::of(&model)?;
/// let talk = [Message::new(Role::User, "Hello!")];
/// let ids = template.encode(&talk, &RenderOptions::default())?;
/// # assert!(!ids.is_empty());
/// # Ok::<(), brooklet::EngineError>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    kind: Kind,
    text: Text,
    specials: Specials,
    /// The file, for errors.
    place: PathBuf,
}

#[derive(Debug)]
enum Kind {
    /// `User: …`, `Assistant: …`, with empty lines between.
    Plain,
    /// The file has the name of one.
    Named(&'static Format),
    /// A template in Jinja.
    Jinja(Jinja),
}

/// How a conversation is rendered.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RenderOptions<'a> {
    /// End where the assistant begins to speak. Default true.
    pub add_generation_prompt: bool,
    /// Variables for a template in Jinja, beside those that it always has, or in their place:
    /// `tools`, `documents`, `enable_thinking`, ….
    pub variables: &'a [(&'a str, Value)],
    /// Asked now and then while a template runs; true ends it with [`EngineError::Interrupted`].
    pub stop: Option<&'a dyn Fn() -> bool>,
}

impl Default for RenderOptions<'_> {
    fn default() -> Self {
        RenderOptions { add_generation_prompt: true, variables: &[], stop: None }
    }
}

impl<'a> RenderOptions<'a> {
    /// Whether to end where the assistant begins to speak.
    #[must_use]
    pub fn add_generation_prompt(self, add: bool) -> Self {
        RenderOptions { add_generation_prompt: add, ..self }
    }

    /// More variables for a template in Jinja.
    #[must_use]
    pub fn variables(self, variables: &'a [(&'a str, Value)]) -> Self {
        RenderOptions { variables, ..self }
    }

    /// When to end early.
    #[must_use]
    pub fn stop(self, stop: &'a dyn Fn() -> bool) -> Self {
        RenderOptions { stop: Some(stop), ..self }
    }
}

/// Where an answer ends.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Ends {
    /// Tokens that end it: those of every text, and the one that the template puts behind answers.
    pub tokens: Vec<u32>,
    /// Texts that an answer does not go beyond.
    pub stops: Vec<String>,
}

impl ChatTemplate {
    /// The template that a model carries; the plain format where it carries none.
    ///
    /// # Errors
    /// The template or the tokenizer cannot be read, or the file has the name of an unknown format.
    pub fn of(model: &Model) -> Result<ChatTemplate> {
        let text = Text::of(model)?;
        let place = model.file().path().to_owned();
        let kind = match &model.meta().chat_template {
            Some(source) => Kind::of(source, &place)?,
            None => Kind::Plain,
        };
        Ok(ChatTemplate::with(kind, text, place))
    }

    /// A template in Jinja, or the name of a format (`chatml`, `rwkv-world`, …), for a model's
    /// words.
    ///
    /// # Errors
    /// The source is no Jinja that can be read, or the name is unknown.
    pub fn new(source: &str, text: Text) -> Result<ChatTemplate> {
        let place = PathBuf::from("(memory)");
        Ok(ChatTemplate::with(Kind::of(source, &place)?, text, place))
    }

    /// The plain format, for a model's words.
    pub fn plain(text: Text) -> ChatTemplate {
        ChatTemplate::with(Kind::Plain, text, PathBuf::from("(memory)"))
    }

    fn with(kind: Kind, text: Text, place: PathBuf) -> ChatTemplate {
        let specials = Specials::new(text.tokenizer.special_tokens());
        ChatTemplate { kind, text, specials, place }
    }

    /// The model's words.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// The conversation as one text.
    ///
    /// # Errors
    /// The template refuses it, exceeds its bounds, or was asked to stop.
    pub fn render(&self, messages: &[Message], options: &RenderOptions<'_>) -> Result<String> {
        Ok(self.rendered(messages, options)?.into_text())
    }

    /// The conversation as tokens. Special tokens that the template writes are special, those that
    /// a message spells out are text. A begin token comes from the template; formats without a
    /// template get the one that the model wants, once.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], or the vocabulary cannot express the text.
    pub fn encode(&self, messages: &[Message], options: &RenderOptions<'_>) -> Result<Vec<u32>> {
        let rendered = self.rendered(messages, options)?;
        let mut ids = Vec::new();
        self.encode_rendered(&rendered, 0, &mut ids)?;
        Ok(ids)
    }

    /// The conversation as one text that knows which special tokens in it are only spelled out.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn rendered(&self, messages: &[Message], options: &RenderOptions<'_>) -> Result<Rendered> {
        let marker = Marker::absent_from(messages.iter().map(|message| message.content.as_str()));
        let marked = |message: &Message| Message {
            content: self.specials.mark(&message.content, marker),
            ..message.clone()
        };
        let messages: Vec<Message> = messages.iter().map(marked).collect();
        let text = match &self.kind {
            Kind::Plain => plain(&messages, options.add_generation_prompt),
            Kind::Named(format) => format.render(&messages, options.add_generation_prompt),
            Kind::Jinja(jinja) => self.run(jinja, &messages, options)?,
        };
        Ok(Rendered::new(&text, marker))
    }

    /// Appends the tokens of a rendered conversation from byte `from` on, which begins a character.
    ///
    /// # Errors
    /// The vocabulary cannot express the text.
    pub fn encode_rendered(
        &self,
        rendered: &Rendered,
        from: usize,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        self.encode_rendered_within(rendered, from, usize::MAX, ids).map(|_| ())
    }

    /// [`ChatTemplate::encode_rendered`] of a conversation that may be longer than anybody wants:
    /// false where `ids` would have more than `most` ids in all ([`Tokenizer::encode_within`]).
    ///
    /// [`Tokenizer::encode_within`]: crate::tokenizer::Tokenizer::encode_within
    ///
    /// # Errors
    /// The vocabulary cannot express the text.
    pub fn encode_rendered_within(
        &self,
        rendered: &Rendered,
        from: usize,
        most: usize,
        ids: &mut Vec<u32>,
    ) -> Result<bool> {
        let start = ids.len();
        let (text, spelled) = rendered.from(from);
        if !self.text.tokenizer.encode_within(text.as_bytes(), &spelled, most, ids)? {
            return Ok(false);
        }
        let is_template = matches!(self.kind, Kind::Jinja(_));
        if let Some(begin) = self.text.begin.filter(|_| from == 0 && !is_template)
            && ids.get(start) != Some(&begin)
        {
            ids.insert(start, begin);
        }
        Ok(ids.len() <= most)
    }

    fn run(
        &self,
        jinja: &Jinja,
        messages: &[Message],
        options: &RenderOptions<'_>,
    ) -> Result<String> {
        let messages = messages.iter().map(|Message { role, content, fields }| {
            let mut entries = vec![
                ("role".to_owned(), Value::text(role.name())),
                ("content".to_owned(), Value::text(content.as_str())),
            ];
            entries.extend(fields.iter().cloned());
            Value::Dict(entries)
        });
        let text = &self.text;
        // The variables that transformers gives, so that `is defined` and `is none` tell the same.
        let mut variables = vec![
            ("messages", Value::List(messages.collect())),
            ("tools", Value::None),
            ("documents", Value::None),
            ("add_generation_prompt", Value::Bool(options.add_generation_prompt)),
            ("bos_token", Value::text(self.written(text.begin))),
            ("eos_token", Value::text(self.written(text.ends.first().copied()))),
        ];
        for (name, value) in options.variables {
            match variables.iter_mut().find(|(known, _)| known == name) {
                Some((_, old)) => old.clone_from(value),
                None => variables.push((name, value.clone())),
            }
        }
        let size = variables.iter().map(|(_, value)| value.size()).sum();
        let host = Host { now: &clock::now, stop: options.stop.unwrap_or(&|| false) };
        jinja.render(&variables, Limits::of(size), &host).map_err(|error| match error {
            jinja::Error::Stopped => EngineError::Interrupted,
            error => refused(self.place.clone(), &error),
        })
    }

    /// The text of a token; none for none.
    fn written(&self, token: Option<u32>) -> String {
        token.and_then(|id| self.text.tokenizer.decode_lossy(&[id]).ok()).unwrap_or_default()
    }

    /// Where the assistant's text ends.
    ///
    /// Many models have no token for it, or do not use the one they have: they go on with the next
    /// turn of the person, as they have read it a thousand times. Its beginning is the end.
    pub fn ends(&self) -> Ends {
        let mut ends = Ends { tokens: self.text.ends.clone(), stops: Vec::new() };
        let between = self.between_turns();
        let text = between.trim();
        let specials = self.text.tokenizer.special_tokens().iter();
        let special = specials.filter(|(_, name)| text.starts_with(name.as_str()));
        if let Some((id, _)) = special.max_by_key(|(_, name)| name.len()) {
            if !ends.tokens.contains(id) {
                ends.tokens.push(*id);
            }
        } else if text.contains(char::is_alphabetic) {
            ends.stops.push(between.trim_end().to_owned());
            if between.starts_with('\n') {
                ends.stops.push(format!("\n{text}"));
            }
        }
        if let Kind::Plain = self.kind {
            ends.stops.push("\n\nSystem:".to_owned());
        }
        ends
    }

    /// The text between an answer and the next question; empty where it cannot be told.
    fn between_turns(&self) -> String {
        // Words that no template has.
        let [first, answer, second] = ["qo7Xfirst", "qo7Xanswer", "qo7Xsecond"];
        let said = [(Role::User, first), (Role::Assistant, answer), (Role::User, second)];
        let said = said.map(|(role, content)| Message::new(role, content));
        // One that refuses these turns says so when it gets real ones.
        let text = self.render(&said, &RenderOptions::default()).unwrap_or_default();
        let behind = text.split(answer).nth(1).and_then(|rest| rest.split_once(second));
        behind.map(|(between, _)| between.to_owned()).unwrap_or_default()
    }
}

impl Kind {
    fn of(source: &str, place: &std::path::Path) -> Result<Kind> {
        // No template is without braces: it could not say what was said.
        let name = source.trim();
        if !name.contains('{') {
            return match (name, named::named(name)) {
                ("" | "rwkv-world", _) => Ok(Kind::Plain),
                (_, Some(format)) => Ok(Kind::Named(format)),
                (_, None) => Err(EngineError::ChatTemplateName {
                    file: place.to_owned(),
                    found: name.chars().take(100).collect(),
                }),
            };
        }
        match Jinja::parse(source) {
            Ok(jinja) => Ok(Kind::Jinja(jinja)),
            Err(error) => Err(refused(place.to_owned(), &error)),
        }
    }
}

fn refused(file: PathBuf, error: &jinja::Error) -> EngineError {
    EngineError::ChatTemplate { file, why: error.to_string() }
}

fn plain(messages: &[Message], add_generation_prompt: bool) -> String {
    let mut text = String::new();
    for (i, Message { role, content, .. }) in messages.iter().enumerate() {
        let gap = if i == 0 { "" } else { "\n\n" };
        text += &match role {
            Role::System => format!("{gap}System: {content}"),
            Role::User | Role::Tool => format!("{gap}User: {content}"),
            // As the model wrote it, blank first.
            Role::Assistant => format!("{gap}Assistant:{content}"),
        };
    }
    if add_generation_prompt { text + "\n\nAssistant:" } else { text }
}
