//! A model with other matrices than its file's: to see what they do to its logits.
//!
//! Not here: one layer alone (`layerwise`). Test: `tests/layerwise.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Architecture, Config, Inner, Model};
use crate::Result;
use crate::device::Device;
use crate::tensor::{Altered, Loader, Weights};

impl Model {
    /// The same model with the matrices of `instead` in the place of the file's, on the processor.
    ///
    /// # Errors
    /// A replacement has another shape than the matrix.
    pub fn with(&self, instead: &HashMap<String, Weights>) -> Result<Model> {
        let Inner { file, isa, state_layout, .. } = &*self.0;
        let config = Config::new(file.path(), &self.meta().config)?;
        let architecture = Architecture::named(&self.meta().architecture, file.path())?;
        let loader = Loader::Altered(&Altered { file, instead, observer: None });
        let of_state = (state_layout.dtype(), state_layout.window());
        let (stack, trunk, _) = architecture.load(&loader, &config, of_state)?;
        Ok(Model(Arc::new(Inner {
            moving: None,
            file: file.clone(),
            config,
            isa: *isa,
            stack,
            trunk,
            state_layout: Arc::clone(state_layout),
            device: Device::Cpu,
            #[cfg(feature = "cuda")]
            loaded: std::sync::OnceLock::new(),
        })))
    }
}
