//! How tokens are chosen: what a request says, over what the server was started with.

use brooklet::sampler::SamplerOptions;
use brooklet::{EngineError, Grammar, Syntax};
use serde_json::json;

use crate::api::{Common, ResponseFormat};
use crate::error::{ApiError, Result};
use crate::shared::Server;

/// Grammars that are kept, so that the next request with the same one need not wait.
const KEPT_GRAMMARS: usize = 16;

/// What the engine says to an option.
pub(super) fn refused(error: &EngineError) -> ApiError {
    match error {
        EngineError::SamplerOption { name, .. } => ApiError::field(*name, error.to_string()),
        error => ApiError::field("", error.to_string()),
    }
}

impl Server {
    /// The options of a request.
    pub(super) fn sampler_options(&self, asked: &Common) -> Result<SamplerOptions> {
        let mut options = self.options.sampler.clone();
        let numbers = [
            (&mut options.temperature, asked.temperature),
            (&mut options.top_p, asked.top_p),
            (&mut options.min_p, asked.min_p),
            (&mut options.typical_p, asked.typical_p),
            (&mut options.top_n_sigma, asked.top_n_sigma),
            (&mut options.xtc_probability, asked.xtc_probability),
            (&mut options.xtc_threshold, asked.xtc_threshold),
            (&mut options.presence_penalty, asked.presence_penalty),
            (&mut options.frequency_penalty, asked.frequency_penalty),
            (&mut options.repetition_penalty, asked.repetition_penalty),
            (&mut options.dry_multiplier, asked.dry_multiplier),
            (&mut options.mirostat_tau, asked.mirostat_tau),
        ];
        for (option, asked) in numbers {
            *option = asked.unwrap_or(*option);
        }
        options.top_k = asked.top_k.unwrap_or(options.top_k);
        if let Some(seed) = asked.seed {
            options.seed = u64::try_from(seed).ok();
        }
        for (id, bias) in asked.logit_bias.iter().flatten() {
            let id = id.parse::<u32>().map_err(|_| {
                ApiError::field("logit_bias", format!("logit_bias: {id:?} is no token id"))
            })?;
            // -100 is a ban, as OpenAI has it.
            let bias = if *bias <= -100.0 { f32::NEG_INFINITY } else { *bias };
            options.logit_bias.push((id, bias));
        }
        options.check(self.model.n_vocab()).map_err(|error| refused(&error))?;
        Ok(options)
    }

    /// The grammar of a request, if it has one.
    pub(super) fn grammar(
        &self,
        asked: &Common,
        of_tools: Option<(Syntax, String)>,
    ) -> Result<Option<Grammar>> {
        let schema = |schema: &serde_json::Value| (Syntax::JsonSchema, schema.to_string());
        let of_format = match &asked.response_format {
            None | Some(ResponseFormat::Text) => None,
            Some(ResponseFormat::JsonObject { schema: None }) => {
                Some(schema(&json!({ "type": "object" })))
            }
            Some(ResponseFormat::JsonObject { schema: Some(given) }) => Some(schema(given)),
            Some(ResponseFormat::JsonSchema { json_schema }) => Some(schema(&json_schema.schema)),
        };
        let given = [
            ("tool_choice", of_tools),
            ("response_format", of_format),
            ("json_schema", asked.json_schema.as_ref().map(schema)),
            ("regex", asked.regex.clone().map(|regex| (Syntax::Regex, regex))),
            ("grammar", asked.grammar.clone().map(|grammar| (Syntax::Lark, grammar))),
        ];
        let mut given = given.into_iter().filter_map(|(name, source)| Some((name, source?)));
        let Some((name, (syntax, source))) = given.next() else { return Ok(None) };
        if let Some((other, _)) = given.next() {
            let message = format!("{name} and {other}: a text follows one of them");
            return Err(ApiError::field(other, message));
        }
        self.kept_grammar(syntax, source)
            .map(Some)
            .map_err(|error| ApiError::field(name, format!("{name}: {error}")))
    }

    fn kept_grammar(&self, syntax: Syntax, source: String) -> brooklet::Result<Grammar> {
        let lock = || self.grammars.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let kept = lock();
        if let Some((.., grammar)) = kept.iter().find(|kept| (kept.0, &kept.1) == (syntax, &source))
        {
            return Ok(grammar.clone());
        }
        // Others go on meanwhile.
        drop(kept);
        let grammar = self.text.grammar(syntax, &source)?;
        let mut kept = lock();
        kept.push_front((syntax, source, grammar.clone()));
        kept.truncate(KEPT_GRAMMARS);
        Ok(grammar)
    }
}
