//! From what a request says to what the engine takes: tokens, a sampler, limits.
//!
//! | module | |
//! |---|---|
//! | `sampling` | options of sampling, grammars |
//! | `talk` | messages to tokens, behind a kept state or from the beginning |
//!
//! All of it may take its time (a prompt of megabytes, a template, a grammar), and runs on threads
//! of its own ([`crate::shared::Server::prepare`]).

mod sampling;
mod talk;

use std::collections::VecDeque;

use brooklet::generate::Limits;
use brooklet::sampler::Sampler;
use brooklet::schedule::Request;
use brooklet::{EngineError, State};

pub(crate) use self::talk::{Prompted, Talk};

use crate::api::{Common, Prompt};
use crate::auth::Owner;
use crate::error::{ApiError, Result};
use crate::shared::Server;
use crate::states::Kept;

/// How a text goes on: what the request says, and what it says nothing of.
pub(crate) struct Plan {
    pub(crate) owner: Owner,
    pub(crate) n: usize,
    limits: Limits<'static>,
    stops: Vec<String>,
    sampler: Sampler,
    has_seed: bool,
    keeps_state: bool,
}

impl Server {
    /// Checks what a request says of its texts. `grammar` is one that its tools ask for.
    pub(crate) fn plan(
        &self,
        owner: Owner,
        common: &mut Common,
        grammar: Option<(brooklet::Syntax, String)>,
    ) -> Result<Plan> {
        let n = common.n.unwrap_or(1);
        if n == 0 || n > self.options.max_texts {
            let most = self.options.max_texts;
            return Err(ApiError::field("n", format!("n: expected 1 to {most}, found {n}")));
        }
        if common.keeps_state() && n > 1 {
            let message = "keep_state: expected one text, found n = ".to_owned();
            return Err(ApiError::field("keep_state", message + &n.to_string()));
        }
        let given = common.max_completion_tokens.or(common.max_tokens);
        let tokens = given.unwrap_or(self.options.tokens.min(self.options.max_tokens));
        if tokens > self.options.max_tokens {
            let most = self.options.max_tokens;
            let message = format!("max_tokens: this server writes {most} at most, found {tokens}");
            return Err(ApiError::field("max_tokens", message));
        }
        let stops = common.stop.take().map_or(Vec::new(), crate::api::OneOrMany::into_vec);
        let (most, longest) = (16, 1024);
        if stops.len() > most || stops.iter().any(|stop| stop.is_empty() || stop.len() > longest) {
            let message = format!("stop: expected {most} strings at most, of 1 to {longest} bytes");
            return Err(ApiError::field("stop", message));
        }
        let options = self.sampler_options(common)?;
        let has_seed = options.seed.is_some();
        let sampler = Sampler::new(options, self.model.n_vocab());
        let mut sampler = sampler.map_err(|error| sampling::refused(&error))?;
        sampler.constrain(self.grammar(common, grammar)?);
        Ok(Plan {
            owner,
            n,
            limits: Limits::new(tokens).ignore_end(common.ignore_eos == Some(true)),
            stops,
            sampler,
            has_seed,
            keeps_state: common.keeps_state(),
        })
    }

    /// The tokens of a prompt, behind a kept state or from the beginning.
    pub(crate) fn prompt(&self, prompt: Prompt, kept: Option<&Kept>) -> Result<Prompted> {
        let mut tokens = kept.map_or(Vec::new(), |kept| kept.snapshot.unread().to_vec());
        let most = self.options.max_prompt;
        let refused = |error: EngineError| ApiError::engine("prompt", &error);
        match prompt {
            Prompt::Tokens(given) => tokens.extend(given),
            Prompt::Text(text) if kept.is_none() => {
                let given = self.text.prompt_within(text.as_bytes(), most).map_err(refused)?;
                tokens = given.ok_or_else(|| self.too_long())?;
            }
            Prompt::Text(text) => {
                let tokenizer = &self.text.tokenizer;
                let given = tokenizer.encode_within(text.as_bytes(), &[], most, &mut tokens);
                if !given.map_err(refused)? {
                    return Err(self.too_long());
                }
            }
        }
        if tokens.is_empty() {
            return Err(ApiError::field("prompt", "prompt: expected at least one token"));
        }
        let prompted = Prompted {
            tokens,
            start: kept.map(|kept| kept.snapshot.state.clone()),
            ..Prompted::default()
        };
        self.check_length(&prompted)?;
        Ok(prompted)
    }

    /// Refuses a prompt that is too long.
    fn check_length(&self, prompted: &Prompted) -> Result<()> {
        if prompted.tokens.len() > self.options.max_prompt { Err(self.too_long()) } else { Ok(()) }
    }

    /// No more of such a text is looked at than shows that it is too long.
    fn too_long(&self) -> ApiError {
        let most = self.options.max_prompt;
        let message = format!("the prompt is too long: this server reads {most} tokens at most");
        ApiError::field("prompt", message).code("context_length_exceeded")
    }
}

impl Plan {
    /// The texts behind a prompt, the first of them number `first` of the request.
    pub(crate) fn texts(&self, prompted: &Prompted, first: usize) -> VecDeque<Request> {
        let one = |i: usize| {
            let mut sampler = self.sampler.clone();
            // Texts with one seed shall differ, and be the same the next time.
            let seed = match self.has_seed {
                true => sampler.seed().wrapping_add((first + i) as u64),
                false => sampler.seed() ^ ((first + i) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            };
            sampler.reseed(seed);
            Request {
                borders: prompted.borders.clone(),
                start: prompted.start.clone(),
                stops: [&self.stops[..], &prompted.stops].concat(),
                cache: self.owner.0,
                keeps_answer: true,
                tells_end: self.keeps_state,
                ..Request::new(prompted.tokens.clone(), sampler, self.limits)
            }
        };
        (0..self.n).map(one).collect()
    }
}

/// Tokens that a state has read before a text's prompt.
pub(crate) fn read_before(start: Option<&State>) -> usize {
    start.map_or(0, |state| usize::try_from(state.position()).unwrap_or(usize::MAX))
}
