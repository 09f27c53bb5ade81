//! How the next token is chosen: the options of `run` and `chat`.
//!
//! Not here: what the options do (`brooklet::sampler`, `brooklet::Grammar`). Test:
//! `tests/cli/sampling.rs`.

use std::io::Read;
use std::path::{Path, PathBuf};

use brooklet::sampler::{Sampler, SamplerOptions, Step};
use brooklet::{Grammar, Syntax, Text};
use brooklet_formats::atomic::open_regular;

use crate::failure::{Failure, Result};

/// The longest file of a grammar, in bytes.
const LONGEST_GRAMMAR: u64 = 1 << 20;

/// Texts that no repetition goes across, where nothing else is asked for: llama.cpp's.
const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// How the next token is chosen. The defaults suit a small story model.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplerArgs {
    /// Temperature: below 1 safer, above 1 bolder, 0 always the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub(crate) temp: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Keep the likeliest tokens whose shares sum to P
    #[arg(long, value_name = "P", default_value_t = 0.9, allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Keep tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) min_p: f32,
    /// Keep the tokens nearest to the expected surprise whose shares sum to P; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) typical: f32,
    /// Keep logits within N standard deviations of the largest; 0 keeps all
    #[arg(
        long,
        alias = "top-nsigma",
        value_name = "N",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub(crate) top_n_sigma: f32,
    /// The chance to drop all tokens above --xtc-threshold but the least likely of them; 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) xtc_probability: f32,
    /// The share from which --xtc-probability drops a token; above 0.5 none is
    #[arg(long, value_name = "P", default_value_t = 0.1, allow_negative_numbers = true)]
    pub(crate) xtc_threshold: f32,
    /// Let the temperature go up and down by R with the entropy; 0 is off
    #[arg(long, value_name = "R", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) dynatemp_range: f32,
    /// The power of the entropy (as a part of the most that it can be) that --dynatemp-range uses
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) dynatemp_exp: f32,
    /// Steer to a surprise of TAU bits a token (mirostat 2; 5 is usual), in place of all cuts; 0 is
    /// off
    #[arg(long, value_name = "TAU", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) mirostat_tau: f32,
    /// How fast mirostat learns
    #[arg(long, value_name = "ETA", default_value_t = 0.1, allow_negative_numbers = true)]
    pub(crate) mirostat_eta: f32,
    /// The steps in their order, with semicolons between them; one that is not named is off
    /// [default: penalties; dry; bias; top-n-sigma; top-k; typical; top-p; min-p; xtc; temperature]
    #[arg(long, value_name = "STEPS", value_parser = steps, long_help = steps_help())]
    pub(crate) samplers: Option<Steps>,
    /// Apply the temperature before the cuts, as Hugging Face's transformers do, not after them, as
    /// llama.cpp and RWKV's own package
    #[arg(long, conflicts_with = "samplers")]
    pub(crate) temp_first: bool,
    /// Seed of the random numbers [default: a new one, which is shown]
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Divide (or multiply, where negative) the logits of tokens that came by this
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: f32,
    /// Take this from the logits of tokens that came
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) presence_penalty: f32,
    /// Take this from the logits of tokens for each time they came
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: f32,
    /// Let each coming count less by this factor with every token since
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) penalty_decay: f32,
    /// Tokens that the penalties look back on; 0 is all that were generated
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) penalty_window: usize,
    /// Lower tokens that would lengthen a repetition (DRY), by this times --dry-base for each token
    /// above --dry-allowed-length; 0 is off, 0.8 is usual
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) dry_multiplier: f32,
    /// See --dry-multiplier
    #[arg(long, value_name = "X", default_value_t = 1.75, allow_negative_numbers = true)]
    pub(crate) dry_base: f32,
    /// Repeated tokens from which on --dry-multiplier counts
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) dry_allowed_length: usize,
    /// Generated tokens that DRY looks back on
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) dry_penalty_last_n: usize,
    /// A text that no repetition of DRY goes across. May be given several times; `none` for none
    /// [default: line feed, colon, quotation mark, asterisk]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) dry_sequence_breaker: Vec<String>,
    /// Add to the logit of a token; -inf forbids it. May be given several times
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Add to the logits of the tokens whose text is TEXT, with or without a space before it. May
    /// be given several times
    #[arg(long, value_name = "TEXT=BIAS", value_parser = bias, allow_hyphen_values = true)]
    pub(crate) bias: Vec<(String, f32)>,
    /// Never choose a token whose text is TEXT, with or without a space before it. May be given
    /// several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) ban: Vec<String>,
    /// Write JSON that this JSON schema allows: a file, or the schema itself (which begins with a
    /// brace)
    #[arg(long, value_name = "FILE|TEXT", group = "a grammar")]
    pub(crate) json_schema: Option<PathBuf>,
    /// Write text that this regular expression matches as a whole
    #[arg(long, value_name = "RE", group = "a grammar", allow_hyphen_values = true)]
    pub(crate) regex: Option<String>,
    /// Write text that this Lark grammar allows, from its rule `start`
    #[arg(long, value_name = "FILE", group = "a grammar")]
    pub(crate) grammar: Option<PathBuf>,
}

/// Steps in their order.
#[derive(Clone, Debug)]
pub(crate) struct Steps(Vec<Step>);

impl SamplerArgs {
    /// A sampler of a text in these words, whose model has so many tokens.
    pub(crate) fn sampler(&self, text: &Text, n_vocab: usize) -> Result<Sampler> {
        let mut sampler = Sampler::new(self.options(text)?, n_vocab)?;
        sampler.constrain(self.grammar(text)?);
        Ok(sampler)
    }

    /// The files that are read.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = PathBuf> {
        let schema = self.json_schema.as_deref().filter(|schema| !is_schema(schema));
        schema.into_iter().chain(self.grammar.as_deref()).map(Path::to_owned)
    }

    /// The grammar that texts follow, if one was given.
    pub(crate) fn grammar(&self, text: &Text) -> Result<Option<Grammar>> {
        let (syntax, source, option) = match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(schema), ..) => {
                let inline = schema.to_str().filter(|_| is_schema(schema));
                let source = inline.map_or_else(|| read(schema), |text| Ok(text.to_owned()))?;
                (Syntax::JsonSchema, source, "--json-schema")
            }
            (_, Some(regex), _) => (Syntax::Regex, regex.clone(), "--regex"),
            (.., Some(grammar)) => (Syntax::Lark, read(grammar)?, "--grammar"),
            _ => return Ok(None),
        };
        let grammar = text.grammar(syntax, &source);
        Ok(Some(grammar.map_err(|error| Failure::usage(error, format!("mend {option}")))?))
    }

    /// As the engine takes them, for a text's words.
    pub(crate) fn options(&self, text: &Text) -> Result<SamplerOptions> {
        let order = match (&self.samplers, self.temp_first) {
            (Some(Steps(steps)), _) => steps,
            (None, true) => Step::TEMPERATURE_FIRST,
            (None, false) => Step::TEMPERATURE_LAST,
        };
        let mut options = SamplerOptions::new()
            .temperature(self.temp)
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .typical_p(self.typical)
            .top_n_sigma(self.top_n_sigma)
            .xtc_probability(self.xtc_probability)
            .xtc_threshold(self.xtc_threshold)
            .dynatemp_range(self.dynatemp_range)
            .dynatemp_exponent(self.dynatemp_exp)
            .mirostat_tau(self.mirostat_tau)
            .mirostat_eta(self.mirostat_eta)
            .repetition_penalty(self.repetition_penalty)
            .presence_penalty(self.presence_penalty)
            .frequency_penalty(self.frequency_penalty)
            .penalty_decay(self.penalty_decay)
            .penalty_window(self.penalty_window)
            .dry_multiplier(self.dry_multiplier)
            .dry_base(self.dry_base)
            .dry_allowed_length(self.dry_allowed_length)
            .dry_window(self.dry_penalty_last_n)
            .dry_breakers(self.breakers(text)?)
            .logit_bias(self.logit_bias.iter().copied())
            .steps(order)
            .seed(self.seed);
        let bans = self.ban.iter().map(|text| (text, f32::NEG_INFINITY));
        for (word, bias) in self.bias.iter().map(|(text, bias)| (text, *bias)).chain(bans) {
            let biases = text.bias(word, bias).map_err(|error| {
                let mend = "biases and bans are for single tokens (`brooklet tokenize` shows \
                            them); --stop ends a text before a phrase";
                Failure::usage(error, mend)
            })?;
            options = options.logit_bias(biases);
        }
        Ok(options)
    }

    fn breakers(&self, text: &Text) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        if self.dry_multiplier == 0.0 {
            return Ok(tokens);
        }
        match &self.dry_sequence_breaker[..] {
            [] => BREAKERS.iter().for_each(|breaker| {
                // A vocabulary may lack some of them.
                tokens.extend(text.breakers(breaker).unwrap_or_default());
            }),
            [none] if none == "none" => {}
            given => {
                for breaker in given {
                    let mend = "a breaker is a text inside a token, such as a word or a mark";
                    let found = text.breakers(breaker);
                    tokens.extend(found.map_err(|error| Failure::usage(error, mend))?);
                }
            }
        }
        Ok(tokens)
    }
}

/// Whether an argument is a schema, and no file.
fn is_schema(argument: &Path) -> bool {
    argument.to_str().is_some_and(|text| text.trim_start().starts_with('{'))
}

/// The text of a small file.
fn read(path: &Path) -> Result<String> {
    let (file, _) = open_regular(path)?;
    let mut text = Vec::new();
    let read = file.take(LONGEST_GRAMMAR + 1).read_to_end(&mut text);
    read.map_err(Failure::io("read", path.display()))?;
    if text.len() as u64 > LONGEST_GRAMMAR {
        let what = format!("{}: longer than {LONGEST_GRAMMAR} bytes", path.display());
        return Err(Failure::usage(what, "give a smaller grammar"));
    }
    String::from_utf8(text).map_err(|_| {
        Failure::usage(format!("{}: not UTF-8", path.display()), "save the grammar as UTF-8")
    })
}

/// `a;b;c`.
fn steps(names: &str) -> Result<Steps, String> {
    Step::list(names).map(Steps).map_err(|error| error.to_string())
}

/// The option's help with all steps.
fn steps_help() -> String {
    let rows = Step::all().map(|step| format!("  {:<12} {}", step.name(), step.summary()));
    let order: Vec<&str> = Step::TEMPERATURE_LAST.iter().map(|step| step.name()).collect();
    format!(
        "The steps in their order, with semicolons between them; one that is not named is off \
         [default: {}]\n\n{}",
        order.join("; "),
        rows.collect::<Vec<_>>().join("\n")
    )
}

/// `ID=BIAS`.
fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let pair =
        text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    pair.ok_or_else(|| "expected ID=BIAS, such as 261=-inf".to_owned())
}

/// `TEXT=BIAS`.
fn bias(text: &str) -> Result<(String, f32), String> {
    let pair = text.rsplit_once('=').filter(|(word, _)| !word.is_empty());
    let pair = pair.and_then(|(word, bias)| Some((word.to_owned(), bias.parse().ok()?)));
    pair.ok_or_else(|| "expected TEXT=BIAS, such as captain=+2".to_owned())
}
