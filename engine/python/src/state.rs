//! `brooklet.State`: where a sequence stands, as a value.
//!
//! Test: `tests/test_state.py`.

use std::path::PathBuf;
use std::sync::Arc;

use brooklet::{DType, Snapshot};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use crate::array::FloatArray;
use crate::convert;
use crate::errors::Failure;
use crate::model::{Model, Opened};

/// A named piece of a state.
#[pyclass(frozen, get_all, module = "brooklet")]
pub(crate) struct Slot {
    /// Its layer, from 0.
    layer: usize,
    /// Its name: "att.shift", "att.wkv", "conv", "ssm", ….
    name: &'static str,
    /// Its shape.
    shape: Vec<usize>,
}

#[pymethods]
impl Slot {
    fn __repr__(&self) -> String {
        format!("<brooklet.Slot layer {} {} {:?}>", self.layer, self.name, self.shape)
    }
}

/// What a model remembers of a text, and the logits behind it: a value, which does not change.
/// Pickles; as bytes and in files it is a state file (.brks), which the command line reads, too.
///
/// >>> import brooklet, pickle
/// >>> model = brooklet.Model.open()
/// >>> session = brooklet.Session(model)
/// >>> logits = session.prefill("Once upon a time")
/// >>> again = brooklet.Session(model)
/// >>> again.resume(pickle.loads(pickle.dumps(session.state)))
/// >>> bool((again.logits == logits).all())
/// True
#[pyclass(frozen, module = "brooklet")]
pub(crate) struct State {
    pub(crate) opened: Arc<Opened>,
    pub(crate) snapshot: Snapshot,
}

impl State {
    /// The bytes of a state file.
    fn bytes(&self, dtype: DType) -> Result<Vec<u8>, Failure> {
        Ok(self.snapshot.to_bytes(dtype)?)
    }
}

#[pymethods]
impl State {
    /// The state before the first token.
    #[new]
    fn new(model: &Model) -> State {
        let snapshot = Snapshot::new(model.0.model.new_state());
        State { opened: Arc::clone(&model.0), snapshot }
    }

    /// The state in the bytes of a state file of the same model.
    #[staticmethod]
    #[pyo3(signature = (model: "Model", data: "bytes") -> "State")]
    fn from_bytes(py: Python<'_>, model: &Model, data: &[u8]) -> PyResult<State> {
        let opened = Arc::clone(&model.0);
        let parse = || Snapshot::from_bytes(&opened.model, data);
        let snapshot = py.detach(parse).map_err(Failure::from)?;
        Ok(State { opened, snapshot })
    }

    /// The bytes of a state file: values as f32, which is exact, f16 or int8.
    #[pyo3(signature = (dtype: "str" = "f32") -> "bytes")]
    fn to_bytes<'py>(&self, py: Python<'py>, dtype: &str) -> PyResult<Bound<'py, PyBytes>> {
        let dtype = convert::dtype(dtype)?;
        let bytes = py.detach(|| self.bytes(dtype))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The state in a file.
    #[staticmethod]
    #[pyo3(signature = (model: "Model", path: "StrPath") -> "State")]
    fn load(py: Python<'_>, model: &Model, path: PathBuf) -> PyResult<State> {
        let opened = Arc::clone(&model.0);
        let load = || Snapshot::load(&opened.model, path);
        let snapshot = py.detach(load).map_err(Failure::from)?;
        Ok(State { opened, snapshot })
    }

    /// Writes a state file, which appears whole or not at all. Another state file is replaced,
    /// anything else is not.
    #[pyo3(signature = (path: "StrPath", dtype: "str" = "f32") -> "None")]
    fn save(&self, py: Python<'_>, path: PathBuf, dtype: &str) -> PyResult<()> {
        let dtype = convert::dtype(dtype)?;
        Ok(py.detach(|| self.snapshot.save(path, dtype)).map_err(Failure::from)?)
    }

    /// The model.
    #[getter]
    fn model(&self) -> Model {
        Model(Arc::clone(&self.opened))
    }

    /// Tokens that it has read.
    #[getter]
    fn position(&self) -> u64 {
        self.snapshot.state.position()
    }

    /// Its pieces of constant size: recurrences, convolutions, shifts. `array(i)` has the values of
    /// number i.
    #[getter]
    fn slots(&self) -> Vec<Slot> {
        let slots = self.snapshot.state.layout().slots().iter();
        slots
            .map(|slot| Slot { layer: slot.layer, name: slot.name, shape: slot.shape.clone() })
            .collect()
    }

    /// A copy of the values of slot number `slot`, as f32, in its shape.
    #[pyo3(signature = (slot: "int") -> "FloatArray")]
    fn array<'py>(&self, py: Python<'py>, slot: usize) -> PyResult<FloatArray<'py>> {
        let state = &self.snapshot.state;
        let slots = state.layout().slots();
        let Some(known) = slots.get(slot) else {
            let words = format!("slot {slot}: this state has {}", slots.len());
            return Err(Failure::Argument(words).into());
        };
        FloatArray::of(py, state.get(slot).into_owned(), known.shape.clone())
    }

    /// The logits behind the last token, if they are known.
    #[getter]
    fn logits<'py>(&self, py: Python<'py>) -> PyResult<Option<FloatArray<'py>>> {
        let logits = &self.snapshot.logits;
        let shape = vec![logits.len()];
        let known = (!logits.is_empty()).then(|| FloatArray::of(py, logits.clone(), shape));
        known.transpose()
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Pickled<'py>)> {
        let bytes = py.detach(|| self.bytes(DType::F32))?;
        let from_bytes = PyType::new::<State>(py).getattr("from_bytes")?;
        Ok((from_bytes, (self.model(), PyBytes::new(py, &bytes))))
    }

    fn __eq__(&self, other: &State) -> bool {
        self.snapshot.state == other.snapshot.state
    }

    fn __repr__(&self) -> String {
        let layout = self.snapshot.state.layout();
        format!("<brooklet.State {}, {} tokens>", layout.architecture(), self.position())
    }
}

/// What a pickle of a state has.
type Pickled<'py> = (Model, Bound<'py, PyBytes>);
