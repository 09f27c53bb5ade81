//! How a model is opened.

use brooklet_formats::DType;

use crate::device::Device;
use crate::kernels::Isa;

/// Options for opening a model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelOptions {
    /// Map the file (the default) or copy it into memory.
    pub mmap: bool,
    /// The instruction set; `None` asks the environment and the processor.
    pub isa: Option<Isa>,
    /// The format of matrix states, and of keys and values of attention. f32 (the default); f16:
    /// half the memory and half the traffic, matrices rounded after every token; int8, for models
    /// with attention: keys and values with one scale for each token and head, matrices in f16.
    /// Vectors stay f32, and with them all of RWKV-4's.
    pub state: DType,
    /// The most tokens of a text that a model with attention takes, if fewer than its file says. A
    /// state grows as tokens come, so that this bounds its memory.
    pub context: Option<usize>,
    /// Where layers attend to every token, they attend to the last so many instead, and to the
    /// first four (Xiao et al. 2023, arXiv 2309.17453; keys keep the positions that they have in
    /// the text). A state is of constant size then and a text of any length, at an error: what
    /// lies between is forgotten.
    pub window: Option<usize>,
    /// Where it runs. [`Engine::verify`](crate::Engine::verify) says whether that computes the
    /// same.
    pub device: Device,
    /// A large mapped file that lies in small pages moves into huge pages of this process's memory
    /// while the processor runs it, if as much again is left: read faster, and no longer shared
    /// with other processes. Linux; off.
    pub huge_pages: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            mmap: true,
            isa: None,
            state: DType::F32,
            context: None,
            window: None,
            device: Device::Cpu,
            huge_pages: false,
        }
    }
}

impl ModelOptions {
    /// The defaults; options are set one after the other: `ModelOptions::new().state(DType::F16)`.
    pub fn new() -> Self {
        Self::default()
    }

    setters! { mmap: bool, state: DType, device: Device, huge_pages: bool }
    optional_setters! { isa: Isa, context: usize, window: usize }
}
