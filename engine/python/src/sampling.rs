//! How the next token is chosen: keywords of Python as the engine's options. The defaults and the
//! order of steps are those of `brooklet run`, so that both write the same texts from one seed.
//!
//! Not here: the options (`brooklet::sampler`); their types for Python (`_types.py`). Test:
//! `tests/test_generate.py`.

use brooklet::sampler::{Sampler, SamplerOptions, Step};
use brooklet::{Grammar, Syntax, Text};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::errors::{Failure, Result};

/// Texts that no repetition goes across, where nothing else is asked for.
const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Options of a sampler, and a grammar.
pub(crate) struct Sampling {
    pub(crate) options: SamplerOptions,
    grammar: Option<Grammar>,
}

impl Sampling {
    /// The keywords of a call.
    pub(crate) fn of(given: Option<&Bound<'_, PyDict>>, text: &Text) -> PyResult<Sampling> {
        let options = SamplerOptions::new().temperature(0.8).top_p(0.9);
        let options = options.steps(Step::TEMPERATURE_LAST);
        let mut sampling = Sampling { options, grammar: None };
        let mut breakers = None;
        for (name, value) in given.into_iter().flatten() {
            let name = name.extract::<String>()?;
            if name == "dry_breakers" {
                breakers = Some(value.extract::<Vec<String>>()?);
            } else {
                sampling.set(&name, &value, text)?;
            }
        }
        if sampling.options.dry_multiplier != 0.0 {
            sampling.options.dry_breakers = breakers_of(breakers, text)?;
        }
        Ok(sampling)
    }

    fn set(&mut self, name: &str, value: &Bound<'_, PyAny>, text: &Text) -> PyResult<()> {
        let options = &mut self.options;
        match name {
            "temperature" => options.temperature = value.extract()?,
            "top_k" => options.top_k = value.extract()?,
            "top_p" => options.top_p = value.extract()?,
            "min_p" => options.min_p = value.extract()?,
            "typical_p" => options.typical_p = value.extract()?,
            "top_n_sigma" => options.top_n_sigma = value.extract()?,
            "xtc_probability" => options.xtc_probability = value.extract()?,
            "xtc_threshold" => options.xtc_threshold = value.extract()?,
            "dynatemp_range" => options.dynatemp_range = value.extract()?,
            "dynatemp_exponent" => options.dynatemp_exponent = value.extract()?,
            "mirostat_tau" => options.mirostat_tau = value.extract()?,
            "mirostat_eta" => options.mirostat_eta = value.extract()?,
            "repetition_penalty" => options.repetition_penalty = value.extract()?,
            "presence_penalty" => options.presence_penalty = value.extract()?,
            "frequency_penalty" => options.frequency_penalty = value.extract()?,
            "penalty_decay" => options.penalty_decay = value.extract()?,
            "penalty_window" => options.penalty_window = value.extract()?,
            "dry_multiplier" => options.dry_multiplier = value.extract()?,
            "dry_base" => options.dry_base = value.extract()?,
            "dry_allowed_length" => options.dry_allowed_length = value.extract()?,
            "dry_window" => options.dry_window = value.extract()?,
            "seed" => options.seed = value.extract()?,
            "steps" => {
                let names = value.extract::<Vec<String>>()?.join(";");
                options.steps = Step::list(&names).map_err(Failure::from)?;
            }
            "bias" => {
                for (token, bias) in value.cast::<PyDict>()? {
                    let bias = bias.extract::<f32>()?;
                    match token.cast::<PyString>() {
                        Ok(word) => {
                            let word = word.extract::<String>()?;
                            let biases = text.bias(&word, bias).map_err(Failure::from)?;
                            options.logit_bias.extend(biases);
                        }
                        Err(_) => options.logit_bias.push((token.extract()?, bias)),
                    }
                }
            }
            "json_schema" => {
                let source = match value.cast::<PyString>() {
                    Ok(source) => source.extract()?,
                    Err(_) => json(value)?,
                };
                self.constrain(Syntax::JsonSchema, &source, text)?;
            }
            "regex" => self.constrain(Syntax::Regex, &value.extract::<String>()?, text)?,
            "grammar" => self.constrain(Syntax::Lark, &value.extract::<String>()?, text)?,
            _ => {
                return Err(PyTypeError::new_err(format!(
                    "unexpected keyword argument {name:?}: brooklet.Sampling lists those of \
                     sampling"
                )));
            }
        }
        Ok(())
    }

    fn constrain(&mut self, syntax: Syntax, source: &str, text: &Text) -> Result<()> {
        if self.grammar.is_some() {
            let words = "json_schema, regex and grammar exclude each other";
            return Err(Failure::Argument(words.to_owned()));
        }
        self.grammar = Some(text.grammar(syntax, source)?);
        Ok(())
    }

    /// A sampler; with another seed, if one is given.
    ///
    /// # Errors
    /// An option outside its range.
    pub(crate) fn sampler(&self, seed: Option<u64>, n_vocab: usize) -> Result<Sampler> {
        let options = self.options.clone();
        let seed = seed.or(options.seed);
        let mut sampler = Sampler::new(options.seed(seed), n_vocab)?;
        sampler.constrain(self.grammar.clone());
        Ok(sampler)
    }
}

/// The tokens that no repetition goes across.
fn breakers_of(asked: Option<Vec<String>>, text: &Text) -> Result<Vec<u32>> {
    let mut tokens = Vec::new();
    match asked {
        // A vocabulary may lack some of them.
        None => BREAKERS.iter().for_each(|breaker| {
            tokens.extend(text.breakers(breaker).unwrap_or_default());
        }),
        Some(asked) => {
            for breaker in asked {
                tokens.extend(text.breakers(&breaker)?);
            }
        }
    }
    Ok(tokens)
}

/// A value of Python's as JSON.
pub(crate) fn json(value: &Bound<'_, PyAny>) -> PyResult<String> {
    PyModule::import(value.py(), "json")?.call_method1("dumps", (value,))?.extract()
}
