//! Values that NumPy shows without a copy, by its array interface (version 3): an object says where
//! they stand, and the array keeps that object alive.
//!
//! No header of NumPy is needed, and none of its crates; the interface is the same in all versions.
//! Not here: who may write there (`desk`). Test: `tests/test_logits.py`.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::desk::{Desk, Kept, Shown};
use crate::errors::Result;
use crate::held::Held;

/// Numbers that NumPy shows: the `base` of the arrays that brooklet gives.
#[pyclass(frozen, module = "brooklet")]
pub(crate) struct Values {
    address: usize,
    shape: Vec<usize>,
    _owner: Owner,
}

/// Keeps the memory.
enum Owner {
    /// Read-only until it is freed.
    Values { _values: Vec<f32> },
    /// A session's logits: the engine has them, or else they are kept.
    Logits { _desk: Arc<Held<Desk>>, _kept: Arc<Kept> },
}

#[pymethods]
impl Values {
    /// Where the values stand, as NumPy's array interface says it.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", "<f4")?;
        interface.set_item("shape", pyo3::types::PyTuple::new(py, &self.shape)?)?;
        // The address, and that it is read-only.
        interface.set_item("data", (self.address, true))?;
        Ok(interface)
    }
}

/// A NumPy array of f32.
pub(crate) struct FloatArray<'py>(Bound<'py, PyAny>);

impl<'py> FloatArray<'py> {
    /// `values` in rows of `width`.
    pub(crate) fn rows(py: Python<'py>, values: Vec<f32>, width: usize) -> PyResult<Self> {
        let shape = vec![values.len() / width.max(1), width];
        FloatArray::of(py, values, shape)
    }

    /// `values` in this shape.
    pub(crate) fn of(py: Python<'py>, values: Vec<f32>, shape: Vec<usize>) -> PyResult<Self> {
        let address = values.as_ptr() as usize;
        FloatArray::show(py, Values { address, shape, _owner: Owner::Values { _values: values } })
    }

    /// The logits of a session, which `work` may compute first.
    pub(crate) fn logits(
        py: Python<'py>,
        desk: &Arc<Held<Desk>>,
        work: impl FnOnce(&mut Desk) -> Result<()> + Send,
    ) -> PyResult<Self> {
        let shown = desk.with(py, |desk| {
            work(desk)?;
            desk.show()
        })?;
        match shown {
            Shown::Copied(values) => {
                let shape = vec![values.len()];
                FloatArray::of(py, values, shape)
            }
            Shown::Here { address, len, kept } => {
                let _owner = Owner::Logits { _desk: Arc::clone(desk), _kept: kept };
                FloatArray::show(py, Values { address, shape: vec![len], _owner })
            }
        }
    }

    fn show(py: Python<'py>, values: Values) -> PyResult<Self> {
        static AS_ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let as_array = AS_ARRAY.get_or_try_init(py, || {
            Ok::<_, PyErr>(PyModule::import(py, "numpy")?.getattr("asarray")?.unbind())
        })?;
        Ok(FloatArray(as_array.bind(py).call1((Bound::new(py, values)?,))?))
    }
}

impl<'py> IntoPyObject<'py> for FloatArray<'py> {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    const OUTPUT_TYPE: pyo3::inspect::PyStaticExpr =
        pyo3::type_hint_identifier!("brooklet._types", "FloatArray");

    fn into_pyobject(self, _: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.0)
    }
}
