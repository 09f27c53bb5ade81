//! Texts and tokens that Python gives: a string, bytes, or a sequence of ids.
//!
//! Test: `tests/test_tokenizer.py`.

use brooklet::Text;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::errors::Result;

/// A text, or its tokens.
#[derive(Clone)]
pub(crate) enum Prompt {
    Text(Vec<u8>),
    Ids(Vec<u32>),
}

impl Prompt {
    pub(crate) fn of(value: &Bound<'_, PyAny>) -> PyResult<Prompt> {
        if let Ok(text) = value.cast::<PyString>() {
            // Unlike `to_str`, there in every version of the stable interface.
            return Ok(Prompt::Text(text.to_cow()?.into_owned().into_bytes()));
        }
        if let Ok(bytes) = value.cast::<PyBytes>() {
            return Ok(Prompt::Text(bytes.as_bytes().to_vec()));
        }
        Ok(Prompt::Ids(ids(value)?))
    }

    /// The ids of a text that begins here.
    pub(crate) fn begin(&self, text: &Text) -> Result<Vec<u32>> {
        match self {
            Prompt::Text(bytes) => Ok(text.prompt(bytes)?),
            Prompt::Ids(ids) => Ok(ids.clone()),
        }
    }

    /// The ids of a text that goes on.
    pub(crate) fn go_on(&self, text: &Text) -> Result<Vec<u32>> {
        match self {
            Prompt::Text(bytes) => Ok(text.tokenizer.encode(bytes)?),
            Prompt::Ids(ids) => Ok(ids.clone()),
        }
    }
}

/// Ids in any sequence of integers, an array of NumPy's among them.
pub(crate) fn ids(value: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() {
        return Err(PyTypeError::new_err("expected a sequence of token ids, found a text"));
    }
    if let Ok(list) = value.getattr("tolist") {
        return list.call0()?.extract();
    }
    value.extract()
}
