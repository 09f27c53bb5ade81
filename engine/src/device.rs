//! Devices: where a model runs.

use std::fmt;

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// This processor.
    #[default]
    Cpu,
    /// NVIDIA's card of this number.
    #[cfg(feature = "cuda")]
    Cuda(usize),
    /// The processor again, one plain operation after the other, as a card would do it: for tests
    /// of lists of operations. No stable interface.
    #[cfg(feature = "interpreter")]
    #[doc(hidden)]
    Interpreter,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            #[cfg(feature = "cuda")]
            Device::Cuda(number) => write!(f, "cuda:{number}"),
            #[cfg(feature = "interpreter")]
            Device::Interpreter => f.write_str("interpreter"),
        }
    }
}
