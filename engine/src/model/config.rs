//! Hyper-parameters of a model file, checked: present, whole, and small enough to be real.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{EngineError, Result};

/// The largest size accepted for any dimension; real models stay far below.
const MAX_SIZE: u64 = 1 << 24;

/// The hyper-parameters of a file.
pub(crate) struct Config {
    file: PathBuf,
    values: Map<String, Value>,
    pub(crate) n_layer: usize,
    pub(crate) d_model: usize,
    pub(crate) n_vocab: usize,
}

impl Config {
    /// Reads and checks the sizes that every architecture has.
    pub(crate) fn new(file: &Path, values: &Map<String, Value>) -> Result<Config> {
        let (file, values) = (file.to_owned(), values.clone());
        let mut config = Config { file, values, n_layer: 0, d_model: 0, n_vocab: 0 };
        config.n_layer = config.size("n_layer")?;
        config.d_model = config.size("d_model")?;
        config.n_vocab = config.size("n_vocab")?;
        Ok(config)
    }

    #[cold]
    #[inline(never)]
    fn error(&self, name: &str, expected: &'static str) -> EngineError {
        EngineError::Config {
            file: self.file.clone(),
            name: name.to_owned(),
            expected,
            found: self.values.get(name).map_or("nothing".to_owned(), ToString::to_string),
        }
    }

    /// The positive whole number `name`.
    #[inline(never)]
    pub(crate) fn size(&self, name: &str) -> Result<usize> {
        match self.values.get(name).and_then(Value::as_u64) {
            Some(n @ 1..=MAX_SIZE) => Ok(n as usize),
            _ => Err(self.error(name, "a whole number from 1 to 16777216")),
        }
    }

    /// The positive whole number `name`, if the file has one.
    pub(crate) fn optional_size(&self, name: &str) -> Result<Option<usize>> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.size(name).map(Some),
        }
    }

    /// The word for layer `layer` in the list `name`.
    pub(crate) fn word(&self, name: &str, layer: usize) -> Result<&str> {
        let words = self.values.get(name).and_then(Value::as_array);
        let word = words.and_then(|words| words.get(layer)?.as_str());
        word.ok_or_else(|| self.error(name, "a list of words, one for each layer"))
    }

    /// The word for layer `layer` in the list `name`, if the file has such a list.
    pub(crate) fn optional_word(&self, name: &str, layer: usize) -> Result<Option<&str>> {
        match self.values.get(name) {
            None => Ok(None),
            Some(_) => self.word(name, layer).map(Some),
        }
    }

    /// The whole numbers for layer `layer` in the list of lists `name`.
    pub(crate) fn whole_numbers(&self, name: &str, layer: usize) -> Result<Vec<i64>> {
        let lists = self.values.get(name).and_then(Value::as_array);
        let list = lists.and_then(|lists| lists.get(layer)?.as_array());
        let numbers = list.and_then(|list| list.iter().map(Value::as_i64).collect());
        numbers.ok_or_else(|| self.error(name, "a list of whole numbers for such a layer"))
    }

    /// "`name` is not that."
    pub(crate) fn misfit(&self, name: &str, expected: &'static str) -> EngineError {
        self.error(name, expected)
    }

    /// "The list `name` has a word that says nothing here."
    pub(crate) fn unknown_word(&self, name: &str) -> EngineError {
        self.error(name, "words for kinds of layers that this architecture has")
    }

    /// The whole number `name` from 1 to `max`.
    pub(crate) fn size_up_to(&self, name: &str, max: usize) -> Result<usize> {
        match self.size(name)? {
            n if n <= max => Ok(n),
            _ => Err(self.error(name, "a smaller number")),
        }
    }

    /// The finite number `name`.
    #[inline(never)]
    pub(crate) fn float(&self, name: &str) -> Result<f32> {
        match self.values.get(name).and_then(Value::as_f64) {
            Some(x) if (x as f32).is_finite() => Ok(x as f32),
            _ => Err(self.error(name, "a finite number")),
        }
    }

    /// The finite number `name`, if the file has one.
    pub(crate) fn optional_float(&self, name: &str) -> Result<Option<f32>> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.float(name).map(Some),
        }
    }

    /// The truth value `name`; false when absent.
    pub(crate) fn flag(&self, name: &str) -> Result<bool> {
        match self.values.get(name) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(_) => Err(self.error(name, "true or false")),
        }
    }

    /// `whole / part`, when `part` divides `whole`; `name` is what to blame otherwise.
    #[inline(never)]
    pub(crate) fn divide(&self, whole: usize, part: usize, name: &str) -> Result<usize> {
        if part > 0 && whole.is_multiple_of(part) {
            Ok(whole / part)
        } else {
            Err(self.error(name, "a divisor of the width it splits"))
        }
    }
}
