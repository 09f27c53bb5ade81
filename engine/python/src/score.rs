//! Log-probabilities of endings and of texts, and embeddings.
//!
//! A model has one session for all who score: they take turns, and what beginnings have in common
//! is read once. Not here: the arithmetic (`brooklet::score`). Test: `tests/test_score.py`.

use brooklet::prefix::PrefixCache;
use brooklet::sampler::LogSoftmax;
use brooklet::{
    DEFAULT_CHUNK, EngineError, EngineOptions, Pooling, Run, Session, Text, Want, score,
};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::array::FloatArray;
use crate::desk::Desk;
use crate::errors::{Failure, Result};
use crate::held::Held;
use crate::interrupt::{self, Watch};
use crate::model::Opened;
use crate::prompt::Prompt;

/// Memory for what texts begin with alike.
const CACHE: usize = 256 << 20;

/// A session that scores, and what it knows of earlier beginnings.
pub(crate) struct Scorer {
    session: Session,
    cache: PrefixCache,
}

impl Scorer {
    /// The model's, made if need be.
    fn of<'a>(scorer: &'a mut Option<Scorer>, opened: &Opened) -> &'a mut Scorer {
        scorer.get_or_insert_with(|| {
            let options = EngineOptions::new().threads(opened.origin.threads);
            let session = Session::new(&opened.model, &options.logits(DEFAULT_CHUNK));
            Scorer { session, cache: PrefixCache::new(&opened.model, CACHE) }
        })
    }
}

/// How likely an ending is.
#[pyclass(frozen, get_all, module = "brooklet")]
pub(crate) struct Score {
    /// The log-probability of all its tokens, in nats.
    logprob: f64,
    /// Its tokens.
    tokens: usize,
    /// Whether each of them was the likeliest: the model would write it at temperature 0.
    is_greedy: bool,
}

#[pymethods]
impl Score {
    fn __repr__(&self) -> String {
        format!("<brooklet.Score {:.4} of {} tokens>", self.logprob, self.tokens)
    }
}

/// Scores endings behind what a session has read.
fn scored(session: &mut Session, endings: &[Vec<u32>]) -> Result<Vec<Score>> {
    let endings: Vec<&[u32]> = endings.iter().map(Vec::as_slice).collect();
    let mut watch = Watch::new();
    let scores = score::endings(session, &endings, |_| watch.goes_on())?;
    watch.end()?;
    let scores = scores.unwrap_or_default().into_iter();
    Ok(scores
        .map(|score| Score {
            logprob: score.log_prob,
            tokens: score.tokens,
            is_greedy: score.is_greedy,
        })
        .collect())
}

/// `Model.score`.
pub(crate) fn score(
    py: Python<'_>,
    opened: &Opened,
    prefix: &Prompt,
    endings: &[Prompt],
) -> PyResult<Vec<Score>> {
    opened.scorer.with(py, |scorer| {
        let ids = prefix.begin(&opened.text)?;
        let ending = |ending: &Prompt| match (prefix, ending) {
            (Prompt::Text(prefix), Prompt::Text(ending)) => {
                Ok(opened.text.ending(prefix, &ids, ending)?)
            }
            _ => ending.go_on(&opened.text),
        };
        let endings = endings.iter().map(ending).collect::<Result<Vec<_>>>()?;
        let Scorer { session, cache } = Scorer::of(scorer, opened);
        let mut watch = Watch::new();
        cache.prefill(session, &ids, &[], |_| watch.goes_on())?;
        watch.end()?;
        scored(session, &endings)
    })
}

/// `Session.score`.
pub(crate) fn behind(
    py: Python<'_>,
    desk: &Held<Desk>,
    text: &Text,
    endings: &[Prompt],
) -> PyResult<Vec<Score>> {
    desk.with(py, |desk| {
        let endings = endings.iter().map(|ending| ending.go_on(text));
        let endings = endings.collect::<Result<Vec<_>>>()?;
        desk.beside(|session| scored(session, &endings))
    })
}

/// `Model.logprobs`: of each token of a text but the first.
pub(crate) fn logprobs<'py>(
    py: Python<'py>,
    opened: &Opened,
    ids: &[u32],
) -> PyResult<FloatArray<'py>> {
    let values = opened.scorer.with(py, |scorer| {
        if ids.is_empty() {
            return Err(EngineError::NoTokens.into());
        }
        let engine = Scorer::of(scorer, opened).session.engine();
        let (mut state, mut values) = (opened.model.new_state(), Vec::with_capacity(ids.len()));
        let most = engine.max_logits();
        for (n, tokens) in ids.chunks(most).enumerate() {
            engine.forward(&mut [Run { state: &mut state, tokens, want: Want::All }])?;
            for (column, next) in ids.iter().skip(n * most + 1).take(tokens.len()).enumerate() {
                let logits = engine.logits(column);
                values.push(LogSoftmax::of(logits).log_prob(logits, *next));
            }
            interrupt::check()?;
        }
        Ok(values)
    })?;
    let shape = vec![values.len()];
    FloatArray::of(py, values, shape)
}

/// `Model.embed`.
pub(crate) fn embed<'py>(
    py: Python<'py>,
    opened: &Opened,
    texts: &Bound<'py, PyAny>,
    pooling: &str,
    normalize: bool,
) -> PyResult<FloatArray<'py>> {
    let pooling = match pooling {
        "last" => Pooling::Last,
        "mean" => Pooling::Mean,
        _ => {
            let words = format!("pooling {pooling:?}: expected \"last\" or \"mean\"");
            return Err(Failure::Argument(words).into());
        }
    };
    let is_one = texts.is_instance_of::<PyString>();
    let texts = match is_one {
        true => vec![Prompt::of(texts)?],
        false => texts.try_iter()?.map(|text| Prompt::of(&text?)).collect::<PyResult<Vec<_>>>()?,
    };
    let d_model = opened.model.d_model();
    let values = opened.scorer.with(py, |scorer| {
        let ids = texts.iter().map(|text| text.begin(&opened.text)).collect::<Result<Vec<_>>>()?;
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let engine = Scorer::of(scorer, opened).session.engine();
        let mut watch = Watch::new();
        let vectors = score::embeddings(engine, &ids, pooling, |_| watch.goes_on())?;
        watch.end()?;
        let mut vectors = vectors.unwrap_or_default();
        if normalize {
            vectors.iter_mut().for_each(|vector| unit(vector));
        }
        Ok(vectors.concat())
    })?;
    match is_one {
        true => FloatArray::of(py, values, vec![d_model]),
        false => FloatArray::rows(py, values, d_model),
    }
}

/// Divides a vector by its length, unless that is 0.
fn unit(vector: &mut [f32]) {
    let square: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if square > 0.0 {
        let length = square.sqrt();
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}
