//! `POST /v1/chat/completions`: the next turn of a conversation.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use brooklet::{Snapshot, Syntax};
use serde_json::{Value, json};

use super::body;
use super::completions::finish;
use super::tally::Tally;
use crate::answer::{Answer, Part};
use crate::api::{self, Chat, Common, Tool};
use crate::auth::Owner;
use crate::error::{ApiError, Result};
use crate::jobs::{Update, What};
use crate::metrics::now;
use crate::prepare::{Talk, read_before};
use crate::shared::{Asked, Server};
use crate::stream::{self, Reply};
use crate::tokens::TokenInfo;

/// The most of the likeliest tokens.
const MOST_LOGPROBS: usize = 20;

/// Answers.
pub(crate) async fn chat(State(server): State<Arc<Server>>, request: Request) -> Result<Response> {
    let (came, owner) = (Instant::now(), body::owner(&request));
    let body = body::read_json(&server, request).await?;
    let mut common: Common = api::read(&body)?;
    let asked: Chat = api::read(&body)?;
    if server.options.logs_prompts {
        (server.log)(&format!("messages: {}", body["messages"]));
    }
    drop(body);
    let (streams, usage, n) = (common.streams(), common.includes_usage(), common.n.unwrap_or(1));
    let logprobs = logprobs(&asked)?;
    let required = asked.required();
    let required =
        required.map_err(|why| ApiError::field("tool_choice", format!("tool_choice: {why}")))?;
    let forced = required.map(|tools| (Syntax::Lark, calls(&tools)));
    let permit = server.admit(n.clamp(1, server.options.max_texts))?;
    let may_call = asked.may_call();
    let prepared = server.prepare(move |server| {
        let is_forced = forced.is_some();
        let plan = server.plan(owner, &mut common, forced)?;
        let kept = server.kept(owner, common.state_id.as_deref())?;
        let mut prompted = server.talk(&asked, kept.as_deref())?;
        prompted.thinks &= !is_forced;
        Ok((plan.texts(&prompted, 0), prompted))
    });
    let (texts, prompted) = prepared.await?;
    let answer = || Answer::new(prompted.thinks, may_call);
    let text = || Text { answer: answer(), ..Text::default() };
    let reply = Chats {
        id: server.new_id("chatcmpl-"),
        created: now(),
        owner,
        texts: (0..n).map(|_| text()).collect(),
        tally: Tally::new(came, n, n, read_before(prompted.start.as_ref())),
        logprobs: logprobs.is_some(),
        usage,
        prompt: prompted.tokens.len(),
        talk: prompted.talk,
        state: None,
        server: server.clone(),
    };
    let asked = Asked { groups: vec![texts], logprobs, came };
    let updates = server.submit(asked, permit)?;
    if streams { stream::events(updates, reply).await } else { stream::whole(updates, reply).await }
}

/// How many of the likeliest tokens are told of each one; none where nothing is.
fn logprobs(asked: &Chat) -> Result<Option<usize>> {
    let top = asked.top_logprobs.unwrap_or(0);
    if top > MOST_LOGPROBS {
        let message = format!("top_logprobs: expected 0 to {MOST_LOGPROBS}, found {top}");
        return Err(ApiError::field("top_logprobs", message));
    }
    if top > 0 && asked.logprobs != Some(true) {
        let message = "top_logprobs: expected logprobs to be true";
        return Err(ApiError::field("top_logprobs", message));
    }
    Ok(asked.logprobs.filter(|wanted| *wanted).map(|_| top))
}

/// A grammar of a call of one of these.
fn calls(tools: &[&Tool]) -> String {
    let call = |tool: &&Tool| {
        let parameters = tool.function.fields.get("parameters");
        let parameters = parameters.filter(|schema| schema.is_object());
        json!({
            "type": "object",
            "properties": {
                "name": { "const": tool.function.name },
                "arguments": parameters.cloned().unwrap_or_else(|| json!({ "type": "object" })),
            },
            "required": ["name", "arguments"],
            "additionalProperties": false,
        })
    };
    let schema = json!({
        "x-guidance": {
            "whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?",
        },
        "anyOf": tools.iter().map(call).collect::<Vec<Value>>(),
    });
    format!("start: \"<tool_call>\\n\" call \"\\n</tool_call>\"\ncall: %json {schema}\n")
}

/// A turn in the making.
#[derive(Default)]
struct Text {
    answer: Answer,
    words: String,
    reasoning: String,
    calls: Vec<Value>,
    tokens: Vec<TokenInfo>,
    is_begun: bool,
    finish: Option<&'static str>,
}

struct Chats {
    id: String,
    created: u64,
    owner: Owner,
    texts: Vec<Text>,
    tally: Tally,
    logprobs: bool,
    usage: bool,
    /// Tokens of the prompt that the state had not read.
    prompt: usize,
    talk: Option<Talk>,
    /// The state that was kept.
    state: Option<String>,
    server: Arc<Server>,
}

impl Text {
    /// Takes parts, and gives the changes that a stream tells.
    fn add(&mut self, parts: Vec<Part>, server: &Server) -> Vec<Value> {
        let mut deltas = Vec::new();
        for part in parts {
            deltas.push(match part {
                Part::Words(text) => {
                    self.words += &text;
                    json!({ "content": text })
                }
                Part::Reasoning(text) => {
                    self.reasoning += &text;
                    json!({ "reasoning_content": text })
                }
                Part::Call { name, arguments } => {
                    let call = json!({
                        "id": server.new_id("call_"),
                        "type": "function",
                        "function": { "name": name, "arguments": arguments },
                    });
                    self.calls.push(call.clone());
                    let mut call = call;
                    call["index"] = json!(self.calls.len() - 1);
                    json!({ "tool_calls": [call] })
                }
            });
        }
        deltas
    }

    /// The turn as a message.
    fn message(&self) -> Value {
        let is_silent = self.words.is_empty() && !self.calls.is_empty();
        let mut message = json!({
            "role": "assistant",
            "content": if is_silent { Value::Null } else { json!(self.words) },
        });
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = json!(self.reasoning);
        }
        if !self.calls.is_empty() {
            message["tool_calls"] = json!(self.calls);
        }
        message
    }
}

impl Chats {
    fn frame(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.server.options.name,
            "system_fingerprint": self.server.fingerprint,
            "choices": choices,
        })
    }

    fn chunk(&self, index: usize, delta: Value, tokens: &[TokenInfo]) -> Value {
        let logprobs = self.told(tokens);
        let finish = self.texts[index].finish;
        let choice = json!({
            "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish,
        });
        self.frame("chat.completion.chunk", json!([choice]))
    }

    /// Log-probabilities, where they are wanted.
    fn told(&self, tokens: &[TokenInfo]) -> Value {
        match self.logprobs {
            true if !tokens.is_empty() => {
                json!({ "content": tokens.iter().map(TokenInfo::chat).collect::<Vec<Value>>() })
            }
            _ => Value::Null,
        }
    }

    /// Keeps the state behind the only text, with the conversation.
    fn keep(&mut self, index: usize, snapshot: Snapshot) -> Result<()> {
        let mut message = self.texts[index].message();
        if message["content"].is_null() {
            message["content"] = json!("");
        }
        let written = snapshot.tail.get(self.prompt..).unwrap_or_default();
        let written = self.server.text.tokenizer.decode(written).ok();
        let written = written.and_then(|bytes| String::from_utf8(bytes).ok());
        let talk = self.talk.take().map(|talk| talk.answered(message, written.as_deref()));
        let id = self.server.new_id("st-");
        self.server.keep(self.owner, &id, snapshot, talk.as_ref())?;
        self.state = Some(id);
        Ok(())
    }
}

impl Reply for Chats {
    fn take(&mut self, update: Update) -> Result<Vec<Value>> {
        self.tally.take(&update);
        let index = update.index;
        let server = self.server.clone();
        let Some(text) = self.texts.get_mut(index).filter(|text| text.finish.is_none()) else {
            return Ok(Vec::new());
        };
        let (mut deltas, mut tokens) = (Vec::new(), Vec::new());
        if !std::mem::replace(&mut text.is_begun, true) {
            deltas.push(json!({ "role": "assistant", "content": "" }));
        }
        match update.what {
            What::Piece { text: piece, token } => {
                let parts = text.answer.push(&piece);
                deltas.extend(text.add(parts, &server));
                tokens.extend(token);
                text.tokens.extend(tokens.iter().cloned());
                if deltas.is_empty() && !tokens.is_empty() {
                    deltas.push(json!({ "content": "" }));
                }
            }
            What::Stands(snapshot) => {
                let parts = text.answer.finish();
                deltas.extend(text.add(parts, &server));
                self.keep(index, *snapshot)?;
            }
            What::Ended(end) => {
                let end = end?;
                let parts = text.answer.finish();
                deltas.extend(text.add(parts, &server));
                let reason = if text.answer.has_called { "tool_calls" } else { finish(end.reason) };
                let mut chunks: Vec<Value> =
                    deltas.into_iter().map(|delta| self.chunk(index, delta, &[])).collect();
                self.texts[index].finish = Some(reason);
                chunks.push(self.chunk(index, json!({}), &[]));
                return Ok(chunks);
            }
            What::Read(_) | What::Embedded(_) => {}
        }
        let last = deltas.len().saturating_sub(1);
        let chunks = deltas.into_iter().enumerate().map(|(i, delta)| {
            // The token belongs to the last of its changes.
            self.chunk(index, delta, if i == last { &tokens } else { &[] })
        });
        Ok(chunks.collect())
    }

    fn is_over(&self) -> bool {
        self.tally.is_over()
    }

    fn last(&mut self) -> Vec<Value> {
        (self.server.log)(&self.tally.line("chat"));
        if !self.usage && self.state.is_none() {
            return Vec::new();
        }
        let last = self.frame("chat.completion.chunk", json!([]));
        vec![self.tally.told(last, self.state.as_ref())]
    }

    fn whole(&mut self) -> Value {
        (self.server.log)(&self.tally.line("chat"));
        let choices = self.texts.iter().enumerate().map(|(index, text)| {
            json!({
                "index": index,
                "message": text.message(),
                "logprobs": self.told(&text.tokens),
                "finish_reason": text.finish,
            })
        });
        let whole = self.frame("chat.completion", choices.collect());
        self.tally.told(whole, self.state.as_ref())
    }
}
