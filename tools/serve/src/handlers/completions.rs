//! `POST /v1/completions`: texts behind prompts.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use brooklet::generate::Reason;
use serde_json::{Value, json};

use super::body;
use super::tally::Tally;
use crate::api::{self, Common, Completion, Prompt};
use crate::auth::Owner;
use crate::error::{ApiError, Result};
use crate::jobs::{Update, What};
use crate::metrics::now;
use crate::prepare::read_before;
use crate::shared::{Asked, Server};
use crate::stream::{self, Reply};
use crate::tokens::{self, TokenInfo};

/// The most of the likeliest tokens.
const MOST_LOGPROBS: usize = 20;

/// Answers.
pub(crate) async fn completions(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Response> {
    let (came, owner) = (Instant::now(), body::owner(&request));
    let body = body::read_json(&server, request).await?;
    let mut common: Common = api::read(&body)?;
    let asked: Completion = api::read(&body)?;
    drop(body);
    let (streams, usage) = (common.streams(), common.includes_usage());
    check(&asked, &common)?;
    let (logprobs, echo) = (asked.logprobs, asked.echo == Some(true));
    let prompts = asked.prompt.each();
    let n = common.n.unwrap_or(1);
    let texts = prompts.len().saturating_mul(n);
    if texts == 0 || texts > server.options.max_texts {
        let most = server.options.max_texts;
        let message = format!("prompt: {texts} texts: expected 1 to {most}");
        return Err(ApiError::field("prompt", message));
    }
    let permit = server.admit(texts)?;
    if server.options.logs_prompts {
        prompts.iter().for_each(|prompt| (server.log)(&format!("prompt: {prompt:?}")));
    }
    let prepared = server.prepare(move |server| {
        let plan = server.plan(owner, &mut common, None)?;
        let kept = server.kept(owner, common.state_id.as_deref())?;
        let (mut groups, mut echoes, mut before) = (Vec::new(), Vec::new(), 0);
        for prompt in prompts {
            if echo {
                echoes.push(server.written(&prompt));
            }
            let prompted = server.prompt(prompt, kept.as_deref())?;
            before = read_before(prompted.start.as_ref());
            groups.push(plan.texts(&prompted, groups.len() * plan.n));
        }
        Ok((groups, echoes, before))
    });
    let (groups, echoes, before) = prepared.await?;
    let tally = Tally::new(came, n, texts, before);
    let text =
        |i: usize| Text { text: echoes.get(i / n).cloned().unwrap_or_default(), ..Text::default() };
    let reply = Completions {
        id: server.new_id("cmpl-"),
        created: now(),
        owner,
        texts: (0..texts).map(text).collect(),
        is_begun: !echo,
        logprobs: logprobs.is_some(),
        usage,
        tally,
        state: None,
        server: server.clone(),
    };
    let updates = server.submit(Asked { groups, logprobs, came }, permit)?;
    if streams { stream::events(updates, reply).await } else { stream::whole(updates, reply).await }
}

fn check(asked: &Completion, common: &Common) -> Result<()> {
    if let Some(found) = asked.logprobs.filter(|found| *found > MOST_LOGPROBS) {
        let message = format!("logprobs: expected 0 to {MOST_LOGPROBS}, found {found}");
        return Err(ApiError::field("logprobs", message));
    }
    if asked.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::field("suffix", "suffix: this server writes no insertions"));
    }
    if asked.best_of.is_some_and(|best| best != common.n.unwrap_or(1)) {
        return Err(ApiError::field("best_of", "best_of: this server writes n texts, all given"));
    }
    Ok(())
}

impl Server {
    /// What a prompt says, for `echo`.
    fn written(&self, prompt: &Prompt) -> String {
        match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Tokens(tokens) => self.text.tokenizer.decode_lossy(tokens).unwrap_or_default(),
        }
    }
}

/// A text in the making.
#[derive(Default)]
struct Text {
    text: String,
    tokens: Vec<TokenInfo>,
    /// Characters before the next token.
    offset: usize,
    finish: Option<&'static str>,
}

struct Completions {
    id: String,
    created: u64,
    owner: Owner,
    texts: Vec<Text>,
    /// Whether echoes have been sent.
    is_begun: bool,
    logprobs: bool,
    usage: bool,
    tally: Tally,
    /// The state that was kept.
    state: Option<String>,
    server: Arc<Server>,
}

/// Why a text ended.
pub(super) fn finish(reason: Reason) -> &'static str {
    if reason == Reason::Length { "length" } else { "stop" }
}

impl Completions {
    fn frame(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.server.options.name,
            "system_fingerprint": self.server.fingerprint,
            "choices": choices,
        })
    }

    fn choice(&mut self, index: usize, text: &str, token: Option<&TokenInfo>) -> Value {
        let one = &mut self.texts[index];
        let logprobs = match token.filter(|_| self.logprobs) {
            Some(token) => tokens::completion(std::slice::from_ref(token), &mut one.offset),
            None => Value::Null,
        };
        json!({
            "index": index, "text": text, "logprobs": logprobs, "finish_reason": one.finish,
        })
    }
}

impl Reply for Completions {
    fn take(&mut self, update: Update) -> Result<Vec<Value>> {
        self.tally.take(&update);
        let index = update.index;
        if self.texts.get(index).is_none_or(|text| text.finish.is_some()) {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        if !self.is_begun {
            self.is_begun = true;
            for i in 0..self.texts.len() {
                let echo = self.texts[i].text.clone();
                let choice = self.choice(i, &echo, None);
                out.push(self.frame(json!([choice])));
            }
        }
        match update.what {
            What::Piece { text, token } => {
                let choice = self.choice(index, &text, token.as_ref());
                self.texts[index].text += &text;
                self.texts[index].tokens.extend(token);
                out.push(self.frame(json!([choice])));
            }
            What::Stands(snapshot) => {
                let id = self.server.new_id("st-");
                self.server.keep(self.owner, &id, *snapshot, None)?;
                self.state = Some(id);
            }
            What::Ended(end) => {
                self.texts[index].finish = Some(finish(end?.reason));
                let choice = self.choice(index, "", None);
                out.push(self.frame(json!([choice])));
            }
            What::Read(_) | What::Embedded(_) => {}
        }
        Ok(out)
    }

    fn is_over(&self) -> bool {
        self.tally.is_over()
    }

    fn last(&mut self) -> Vec<Value> {
        (self.server.log)(&self.tally.line("completion"));
        if !self.usage && self.state.is_none() {
            return Vec::new();
        }
        vec![self.tally.told(self.frame(json!([])), self.state.as_ref())]
    }

    fn whole(&mut self) -> Value {
        (self.server.log)(&self.tally.line("completion"));
        let logprobs = |text: &Text| match self.logprobs {
            true => tokens::completion(&text.tokens, &mut 0),
            false => Value::Null,
        };
        let choices = self.texts.iter().enumerate().map(|(index, text)| {
            json!({
                "index": index,
                "text": text.text,
                "logprobs": logprobs(text),
                "finish_reason": text.finish,
            })
        });
        self.tally.told(self.frame(choices.collect()), self.state.as_ref())
    }
}
