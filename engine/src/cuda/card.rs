//! A card, its driver, and what a state keeps there.

use std::fmt;
use std::sync::Arc;

use bytemuck::{cast_slice, cast_slice_mut};
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DriverError};
use cudarc::nvrtc::Ptx;

use super::memory::Size;
use super::program::STAGE_BYTES;
use crate::kernels::lanes::Lanes;
use crate::state::Remote;
use crate::{EngineError, Result};

/// The kernels, compiled ahead. `BROOKLET_CUDA_PTX` names a file with others, so that they can be
/// changed without building the engine again.
const PTX: &str = include_str!("run.ptx");
/// The same for cards of capability 9 and newer ones, with copies that go on by themselves.
const PTX_90: &str = include_str!("run.sm_90.ptx");

/// Bytes of a block's own memory (`rows.cuh`): sums of products, and two stages; on cards with more
/// of it a ring of tiles and tokens, or the tokens of a head, and what is read behind the ring.
const ROOM: u32 = 240 * 16 * 8 + 2 * STAGE_BYTES as u32;
const SHARED: u32 = 122 << 10;
/// What a block has of its own on cards that take the newer kernels; those of 12.0 have 99 KB.
const LARGE: i32 = 200 << 10;
// A block of the oldest cards has 64 KB, of which the kernel takes up to 2 for what all threads
// know.
const _: () = assert!(ROOM + (2 << 10) <= 64 << 10);

/// A card that can run models.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CardInfo {
    /// Its number, as [`crate::Device::Cuda`] has it.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Bytes of its memory.
    pub memory: usize,
    /// Bytes of it that are free.
    pub free: usize,
    /// Its multiprocessors.
    pub multiprocessors: usize,
    /// Its compute capability.
    pub capability: (u32, u32),
}

impl CardInfo {
    /// The card in a line for people: its name, multiprocessors and compute capability.
    pub fn describe(&self) -> String {
        let CardInfo { name, multiprocessors, capability: (major, minor), .. } = self;
        format!("{name}, {multiprocessors} multiprocessors, compute capability {major}.{minor}")
    }
}

/// An opened card.
pub(crate) struct Card {
    /// What it computes depends on nothing else: its kind, its driver, its kernels.
    identity: u64,
    pub(super) number: usize,
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    pub(super) kernel: CudaFunction,
    /// Bytes that a block of it has of its own.
    pub(super) room: u32,
    /// The kernel of one token, the bytes that a block of it has of its own, and whether it brings
    /// weights near.
    pub(super) token: CudaFunction,
    pub(super) token_bytes: usize,
    pub(super) copies: bool,
    /// Blocks that run at the same time.
    pub(super) blocks: usize,
    /// Blocks can wait for each other.
    pub(super) is_cooperative: bool,
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Card({})", self.number)
    }
}

/// "The driver refused that", with the mend where one is known.
pub(super) fn failed(what: &'static str) -> impl Fn(DriverError) -> EngineError {
    move |error| {
        let mend = match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => "there is no card that it may use",
            CUresult::CUDA_ERROR_INVALID_DEVICE => "there is no such card: see `brooklet devices`",
            CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
            | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
                "the driver is too old: install version 550 or a newer one"
            }
            CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => "another program has the card to itself",
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => "its memory is full: free some, or --device cpu",
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_INVALID_PTX => {
                "the card is too old: the kernels need compute capability 7.5"
            }
            _ => "--device cpu does without the card",
        };
        EngineError::Card { what, reason: format!("{:?}", error.0), mend }
    }
}

/// Whether a driver is there. The driver's library is opened once and stays.
fn has_driver() -> bool {
    // SAFETY: opens the driver's library by its name, whose initialisers are the driver's own; no
    // function of it is called.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// Cards that can run models; none where there is no driver.
///
/// # Errors
/// There is a driver, and it does not work.
pub fn cards() -> Result<Vec<CardInfo>> {
    if !has_driver() {
        return Ok(Vec::new());
    }
    (0..count()?).map(info).collect()
}

/// How many cards the driver sees.
fn count() -> Result<usize> {
    match CudaContext::device_count() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        count => count.map(|count| count as usize).map_err(failed("counting cards")),
    }
}

fn info(number: usize) -> Result<CardInfo> {
    let failed = failed("looking at a card");
    let context = CudaContext::new(number).map_err(&failed)?;
    let (free, memory) = context.mem_get_info().map_err(&failed)?;
    let (major, minor) = context.compute_capability().map_err(&failed)?;
    let multiprocessors = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    Ok(CardInfo {
        number,
        name: context.name().map_err(&failed)?,
        memory,
        free,
        multiprocessors: multiprocessors.map_err(&failed)? as usize,
        capability: (major as u32, minor as u32),
    })
}

/// The context of card `number`.
///
/// # Errors
/// There is no driver, or no such card.
pub(super) fn context(number: usize) -> Result<Arc<CudaContext>> {
    if !has_driver() {
        return Err(EngineError::NoDriver);
    }
    let cards = count()?;
    if number >= cards {
        return Err(EngineError::NoCard { number, cards });
    }
    CudaContext::new(number).map_err(failed("opening the card"))
}

/// A number for a card's kind, its driver and its kernels.
fn identity(context: &CudaContext, kernels: &[u8]) -> Result<u64, DriverError> {
    let mut driver = 0;
    // SAFETY: the driver has been found; it writes an integer to where this one is.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&raw mut driver) }.result()?;
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(context.name()?.as_bytes());
    hash.update(&driver.to_le_bytes());
    hash.update(kernels);
    Ok(hash.digest())
}

impl Card {
    /// Opens card `number`.
    ///
    /// # Errors
    /// There is no driver, no such card, or the driver does not take the kernels.
    pub(crate) fn open(number: usize) -> Result<Card> {
        let context = context(number)?;
        // SAFETY: all work of a card goes to one stream, so that nothing needs events between
        // streams; memory is freed on that stream, too.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("opening the card"))?;
        let attribute = |of| context.attribute(of).map_err(failed("looking at the card"));
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let own = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let is_newer = major >= 9 && own >= LARGE;
        let kernels = match std::env::var_os("BROOKLET_CUDA_PTX") {
            Some(file) => std::fs::read(&file).map_err(|error| EngineError::Card {
                what: "reading the kernels that BROOKLET_CUDA_PTX names",
                reason: error.to_string(),
                mend: "unset it",
            })?,
            None => if is_newer { PTX_90 } else { PTX }.into(),
        };
        // Kernels that were compiled for this card alone are an ELF file (its first bytes).
        let text =
            if kernels.starts_with(b"\x7fELF") { None } else { str::from_utf8(&kernels).ok() };
        let copies = text.map_or(is_newer, |text| text.contains(".target sm_90"));
        let identity = identity(&context, &kernels).map_err(failed("looking at the card"))?;
        let module = context
            .load_module(text.map_or_else(|| Ptx::from_binary(kernels.clone()), Ptx::from_src));
        let module = module.map_err(failed("compiling kernels for the card"))?;
        let function =
            |name| module.load_function(name).map_err(failed("compiling kernels for the card"));
        let (kernel, token) = (function("run")?, function("token")?);
        let room = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let room_bytes = ROOM + if copies { SHARED } else { 0 };
        kernel
            .set_attribute(room, room_bytes as i32)
            .map_err(failed("asking for a block's memory"))?;
        // Some of it the kernel has for itself.
        let fixed = token
            .get_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
            .map_err(failed("asking for a block's memory"))? as usize;
        let token_bytes = (own as usize).saturating_sub(fixed) / 128 * 128;
        token
            .set_attribute(room, token_bytes as i32)
            .map_err(failed("asking for a block's memory"))?;
        let blocks = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let is_cooperative = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? != 0;
        Ok(Card {
            identity,
            number,
            context,
            stream,
            kernel,
            room: room_bytes,
            token,
            token_bytes,
            copies,
            blocks,
            is_cooperative,
        })
    }

    /// A number for its kind, its driver and its kernels.
    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// Its number.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Free bytes of its memory.
    pub(crate) fn free(&self) -> Result<usize> {
        self.context.mem_get_info().map(|(free, _)| free).map_err(failed("looking at its memory"))
    }

    /// So many bytes of its memory, all zero.
    pub(super) fn zeroed(&self, bytes: usize) -> Result<CudaSlice<u8>> {
        let free = self.free()?;
        let full = EngineError::CardMemory { needed: bytes, free };
        if bytes > free {
            return Err(full);
        }
        match self.stream.alloc_zeros(bytes.max(1)) {
            // Free in pieces, or taken by another program meanwhile.
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(full),
            memory => memory.map_err(failed("taking memory")),
        }
    }

    /// A copy of `bytes` in its memory.
    pub(super) fn copied(&self, bytes: &[u8]) -> Result<CudaSlice<u8>> {
        let mut memory = self.zeroed(bytes.len())?;
        if !bytes.is_empty() {
            let copied = self.stream.memcpy_htod(bytes, &mut memory);
            copied.map_err(failed("copying the list of operations"))?;
        }
        Ok(memory)
    }

    /// Properties of it that plans need.
    pub(crate) fn size(&self) -> Size {
        Size { blocks: self.blocks, token_bytes: self.token_bytes, copies: self.copies }
    }

    /// Where memory begins.
    pub(super) fn address(&self, memory: &CudaSlice<u8>) -> u64 {
        memory.device_ptr(&self.stream).0
    }
}

/// A state's cache lines on a card.
pub(crate) struct CardLines {
    card: Arc<Card>,
    memory: CudaSlice<u8>,
}

impl fmt::Debug for CardLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CardLines({:?}, {} bytes)", self.card, self.memory.len())
    }
}

impl CardLines {
    /// So many lines on a card.
    ///
    /// # Errors
    /// It has no memory for them.
    pub(crate) fn new(card: &Arc<Card>, lines: usize) -> Result<CardLines> {
        let memory = card.zeroed(lines * size_of::<Lanes>())?;
        Ok(CardLines { card: Arc::clone(card), memory })
    }
}

impl Remote for CardLines {
    fn place(&self) -> (usize, u64) {
        (self.card.number, self.card.address(&self.memory))
    }

    fn clear(&mut self) -> Result<()> {
        self.card.stream.memset_zeros(&mut self.memory).map_err(failed("clearing a state"))
    }

    fn upload(&mut self, lines: &[Lanes]) -> Result<()> {
        let bytes: &[u8] = cast_slice(lines);
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = &self.card.stream;
        stream.memcpy_htod(bytes, &mut self.memory).map_err(failed("copying a state"))
    }

    fn download(&self, lines: &mut [Lanes]) -> Result<()> {
        let bytes: &mut [u8] = cast_slice_mut(lines);
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = &self.card.stream;
        stream.memcpy_dtoh(&self.memory, bytes).map_err(failed("copying a state"))?;
        stream.synchronize().map_err(failed("copying a state"))
    }
}
