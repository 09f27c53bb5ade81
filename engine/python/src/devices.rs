//! `brooklet.devices()`: where models can run here; and the words that name a device.
//!
//! Test: `tests/test_model.py`.

use brooklet::{Device as Place, EngineError, Isa, Model, cards};
use pyo3::prelude::*;

use crate::errors::{Failure, Result};

/// A device that models can run on: `Model.open(path, device=device.name)`.
#[pyclass(frozen, get_all, module = "brooklet")]
pub(crate) struct Device {
    /// Its name: "cpu", "cuda:0", ….
    name: String,
    /// The same for people.
    description: String,
    /// Bytes of its memory; None for the processor.
    memory: Option<usize>,
    /// Free bytes of it.
    free: Option<usize>,
}

#[pymethods]
impl Device {
    fn __repr__(&self) -> String {
        format!("<brooklet.Device {}: {}>", self.name, self.description)
    }
}

/// The devices of this machine: the processor, and NVIDIA's cards where their driver is installed.
///
/// >>> import brooklet
/// >>> brooklet.devices()[0].name
/// 'cpu'
#[pyfunction]
pub(crate) fn devices() -> PyResult<Vec<Device>> {
    let isa = Isa::from_env().map_err(|error| Failure::Engine(error.into()))?;
    let description = format!("this processor, with {} kernels", isa.name());
    let cpu = Device { name: "cpu".to_owned(), description, memory: None, free: None };
    let cards = cards().map_err(Failure::from)?.into_iter().map(|card| Device {
        name: Place::Cuda(card.number).to_string(),
        description: card.describe(),
        memory: Some(card.memory),
        free: Some(card.free),
    });
    Ok(std::iter::once(cpu).chain(cards).collect())
}

/// A model on the device of that name; with "auto" on the first card that takes it, else on the
/// processor.
///
/// # Errors
/// There is no such device, or it does not take the model.
pub(crate) fn open(
    name: &str,
    open: impl Fn(Place) -> Result<Model, EngineError>,
) -> Result<Model> {
    let number = || name.strip_prefix("cuda:")?.parse().ok();
    match name {
        "cpu" => Ok(open(Place::Cpu)?),
        "cuda" => Ok(open(Place::Cuda(0))?),
        "auto" => {
            let cards = cards().unwrap_or_default();
            let mut models = cards.iter().filter_map(|card| open(Place::Cuda(card.number)).ok());
            models.next().map_or_else(|| Ok(open(Place::Cpu)?), Ok)
        }
        _ => match number() {
            Some(number) => Ok(open(Place::Cuda(number))?),
            None => Err(Failure::Argument(format!(
                "device {name:?}: expected cpu, auto, cuda, or cuda: and a card's number"
            ))),
        },
    }
}
