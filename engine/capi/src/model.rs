//! Opening a model and asking what it is.
//!
//! Sources of a model: a path, a file descriptor (a part of an archive too), memory of the caller.
//! Not here: its words (`tokenizer`), its states (`state`), the memory it will need (`plan`).
//! Tests: `tests/contract/models.rs`, `tests/programs.rs`.

use std::ffi::{CString, c_char, c_void};
use std::mem::offset_of;
use std::ops::ControlFlow;

use brooklet::{DType, Device, Engine, Isa, Model, ModelOptions};
use brooklet_formats::brk::{self, BrkFile};

use super::arguments::{dtype, optional_string, path, slice};
use super::failure::{Failure, Result, brooklet_result, c_string, call};
use super::handle::{Handle, Opaque, free, make, message, on};
use super::options::{Options, Report, init, read, report};

/// Tells how far something is: `done` of `total` units. Non-zero asks to stop. It must not throw or
/// jump away.
pub type brooklet_progress =
    Option<unsafe extern "C" fn(done: u64, total: u64, user: *mut c_void) -> i32>;

/// Wraps a progress callback: whether to go on. Without one, always.
///
/// # Safety
/// The callback is NULL or may be called with `user` as long as the reporter is kept.
pub(crate) unsafe fn reporter(
    callback: brooklet_progress,
    user: *mut c_void,
) -> impl FnMut(u64, u64) -> bool {
    // SAFETY: it may be called with `user`: promised (Safety).
    move |done, total| callback.is_none_or(|callback| unsafe { callback(done, total, user) == 0 })
}

/// An opened model: weights that many threads and sessions share. Sessions, states and tokenizers
/// made from it keep it in memory: the handles may be freed in any order.
pub struct brooklet_model(Handle<Opened>);

/// A model, and its texts as C has them.
pub(crate) struct Opened {
    pub(crate) model: Model,
    architecture: CString,
    isa: CString,
    metadata: CString,
    chat_template: Option<CString>,
}

impl Opaque for brooklet_model {
    type Value = Opened;
    const NAME: &'static str = "model";

    fn new(handle: Handle<Opened>) -> Self {
        brooklet_model(handle)
    }

    fn handle(&self) -> &Handle<Opened> {
        &self.0
    }
}

impl Opened {
    /// The model in `file`.
    ///
    /// # Safety
    /// The texts of `options` are NULL, or a zero ends them and nobody changes them meanwhile.
    pub(crate) unsafe fn new(file: BrkFile, options: &brooklet_model_options) -> Result<Opened> {
        // SAFETY: its texts are NULL, or a zero ends them: promised (Safety).
        let (isa, state, device) = unsafe { (options.isa()?, options.state()?, options.device()?) };
        let model = Model::from_file(
            file,
            &ModelOptions::new()
                .mmap(options.copy == 0)
                .isa(isa)
                .state(state)
                .window(options.window()?)
                .device(device),
        )?;
        Engine::verify(&model)?;
        let metadata = serde_json::to_string(model.meta()).map_err(|error| {
            Failure::argument(format!("the metadata cannot be written as JSON: {error}"))
        })?;
        Ok(Opened {
            architecture: c_string(&model.meta().architecture),
            isa: c_string(model.isa().name()),
            metadata: c_string(&metadata),
            chat_template: model.meta().chat_template.as_deref().map(c_string),
            model,
        })
    }
}

/// How to open a model. Set by brooklet_model_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_model_options {
    /// Bytes of this struct, as its user was compiled.
    pub size: usize,
    /// Not 0: copy the weights into memory of the library's own, instead of mapping the file or
    /// using the caller's memory in place. Default 0.
    pub copy: u32,
    /// Must be 0.
    pub reserved: u32,
    /// The instruction set: "scalar", "portable", "avx2", "avx-vnni", "avx512", "neon"; NULL asks
    /// the environment variable BROOKLET_ISA, then the processor. Default NULL.
    pub isa: *const c_char,
    /// Number format of states: "f32", or "f16" for half the memory and half the traffic, matrices
    /// rounded after every token; models with attention take "int8", too: keys and values with one
    /// scale for each token and head, matrices as "f16". NULL means "f32". Vectors stay f32, and
    /// with them all of RWKV-4's state. Default NULL.
    pub state: *const c_char,
    /// Not 0: layers that attend to every token attend to the last so many alone, and to the first
    /// four (StreamingLLM; keys keep the positions that they have in the text). An approximation,
    /// with which a state is of constant size and a text of any length. Refused for models without
    /// such layers. Default 0.
    pub window: u64,
    /// Where the model runs: "cpu"; "cuda" or "cuda:N", a card of NVIDIA's, whose driver is looked
    /// for then, and to which the weights are copied. BROOKLET_UNSUPPORTED where there is none, or
    /// where the model or this build of the library has no kernels for it. A card reads some tokens
    /// while the model is opened, as this processor does: BROOKLET_DEVICE if a bit of their logits
    /// differs. NULL means "cpu". Default NULL.
    pub device: *const c_char,
}

// SAFETY: numbers and pointers.
unsafe impl Options for brooklet_model_options {
    const FIRST_SIZE: usize = offset_of!(brooklet_model_options, window);

    fn defaults() -> Self {
        let none = std::ptr::null();
        let size = size_of::<Self>();
        brooklet_model_options {
            size,
            copy: 0,
            reserved: 0,
            isa: none,
            state: none,
            window: 0,
            device: none,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.size
    }

    fn reserved(&self) -> u64 {
        u64::from(self.reserved)
    }
}

/// A card.
#[cfg(feature = "cuda")]
fn card(number: usize) -> Result<Device> {
    Ok(Device::Cuda(number))
}

/// The same, as this library was built.
#[cfg(not(feature = "cuda"))]
fn card(_: usize) -> Result<Device> {
    Err(brooklet::EngineError::NotBuilt { what: "running on NVIDIA's cards", feature: "cuda" }
        .into())
}

impl brooklet_model_options {
    /// # Safety
    /// `isa` is NULL or a text that a zero ends and that nobody changes meanwhile.
    unsafe fn isa(&self) -> Result<Option<Isa>> {
        // SAFETY: NULL, or a text that a zero ends: promised (Safety).
        let name = unsafe { optional_string(self.isa, "isa")? };
        let Some(name) = name else { return Ok(None) };
        Ok(Some(Isa::by_name(name).map_err(brooklet::EngineError::from)?))
    }

    /// # Safety
    /// `state` is NULL or a text that a zero ends and that nobody changes meanwhile.
    unsafe fn state(&self) -> Result<DType> {
        // SAFETY: NULL, or a text that a zero ends: promised (Safety).
        unsafe { dtype(self.state, "state", &[DType::F32, DType::F16, DType::Int8]) }
    }

    /// # Safety
    /// `device` is NULL or a text that a zero ends and that nobody changes meanwhile.
    unsafe fn device(&self) -> Result<Device> {
        // SAFETY: NULL, or a text that a zero ends: promised (Safety).
        let name = unsafe { optional_string(self.device, "device")? };
        let number = match name {
            None | Some("cpu") => return Ok(Device::Cpu),
            Some("cuda") => Some(0),
            Some(name) => name.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
        };
        let Some(number) = number else {
            return Err(Failure::argument("device: expected cpu, cuda, or cuda: and a number"));
        };
        card(number)
    }

    fn window(&self) -> Result<Option<usize>> {
        let window = usize::try_from(self.window);
        let window =
            window.map_err(|_| Failure::argument("window: no memory has so many tokens"))?;
        Ok((window > 0).then_some(window))
    }

    pub(crate) fn file(&self) -> brk::OpenOptions {
        brk::OpenOptions { mmap: self.copy == 0 }
    }
}

/// Fills in the defaults; `size` is sizeof(brooklet_model_options).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_options_init(
    options: *mut brooklet_model_options,
    size: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    call(|| unsafe { init(options, size) })
}

/// Opens the .brk file at `path`. `options` may be NULL. The file is mapped: no weight is read yet,
/// and processes share its pages. It must not be changed or shortened while the model lives
/// (replacing it by a rename is fine).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_open(
    path: *const c_char,
    options: *const brooklet_model_options,
    model: *mut *mut brooklet_model,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make(model, || {
            let options = read(options)?;
            let file = BrkFile::open_with(self::path(path, "path")?, options.file())?;
            Opened::new(file, &options)
        })
    }
}

/// Opens a model in a file that is open already, such as an asset inside an archive: `length` bytes
/// from `offset` on, or all from there where `length` is 0. A part that does not start at a
/// multiple of 64 is copied. The descriptor stays the caller's and may be closed afterwards; its
/// position does not move. Not on Windows.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_open_fd(
    fd: i32,
    offset: u64,
    length: u64,
    options: *const brooklet_model_options,
    model: *mut *mut brooklet_model,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make(model, || {
            let options = read(options)?;
            Opened::new(open_fd(fd, offset, length, options.file())?, &options)
        })
    }
}

/// # Safety
/// `fd` is not closed before the function returns.
#[cfg(unix)]
unsafe fn open_fd(fd: i32, offset: u64, length: u64, options: brk::OpenOptions) -> Result<BrkFile> {
    use std::os::fd::BorrowedFd;
    if fd < 0 {
        return Err(Failure::argument(format!("file descriptor {fd}")));
    }
    let name = std::path::PathBuf::from(format!("(file descriptor {fd})"));
    // SAFETY: not -1: checked above.
    // Not closed meanwhile: promised (Safety). A number that is no open file gets an error.
    let own = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned();
    let file = std::fs::File::from(own.map_err(brooklet_formats::FormatError::io("open", &name))?);
    Ok(BrkFile::open_part(&name, &file, offset, (length > 0).then_some(length), options)?)
}

/// # Safety
/// Always: it only refuses.
#[cfg(not(unix))]
unsafe fn open_fd(_: i32, _: u64, _: u64, _: brk::OpenOptions) -> Result<BrkFile> {
    Err(Failure::new(
        brooklet_result::BROOKLET_UNSUPPORTED,
        "file descriptors are not supported on this system",
    ))
}

/// Opens a model in memory, such as a firmware image. The bytes are used in place: they must start
/// at a multiple of 64, and stay and not change until the model and all that was made from it is
/// freed. With the option `copy` they are copied instead; then they may start anywhere and be freed
/// afterwards.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_open_memory(
    bytes: *const c_void,
    length: usize,
    options: *const brooklet_model_options,
    model: *mut *mut brooklet_model,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    // Without `copy` the bytes stay and do not change as long as the model: the caller's promise
    // (above). With it they are not used after the call.
    unsafe {
        make(model, || {
            let options = read(options)?;
            let bytes: &'static [u8] = slice(bytes.cast(), length, "bytes")?;
            let file = if options.copy != 0 {
                let mut own = Vec::new();
                own.try_reserve_exact(length).map_err(|error| {
                    Failure::new(brooklet_result::BROOKLET_MEMORY, error.to_string())
                })?;
                own.extend_from_slice(bytes);
                BrkFile::from_bytes(own)?
            } else if bytes.as_ptr().addr().is_multiple_of(brk::ALIGN as usize) || bytes.is_empty()
            {
                BrkFile::from_bytes(bytes)?
            } else {
                return Err(Failure::argument(
                    "the bytes do not start at a multiple of 64: align them, \
                     or set the option copy",
                ));
            };
            Opened::new(file, &options)
        })
    }
}

/// Frees a model; NULL is fine. Sessions, states and tokenizers made from it live on.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_free(model: *mut brooklet_model) {
    // SAFETY: the caller's promise (top of the header).
    unsafe { free(model) }
}

/// Copies the message of the last failure with this handle, as snprintf would; returns its length.
/// "" before the first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_message(
    model: *const brooklet_model,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: the caller's promise (top of the header).
    unsafe { message(model, buffer, capacity) }
}

/// The numbers of a model.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_model_info {
    /// Layers.
    pub n_layer: u64,
    /// Width of the residual stream: the length of an embedding.
    pub d_model: u64,
    /// Tokens: the length of a row of logits.
    pub n_vocab: u64,
    /// Bytes of a state at most, but for what grows with every token.
    pub state_bytes: u64,
    /// Pieces of a state, see brooklet_model_slot.
    pub n_slot: u64,
    /// Tensors in the file.
    pub n_tensor: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of the file that are copied into memory of this process; 0 where they are mapped or
    /// the caller's.
    pub copied_bytes: u64,
    /// Tells this model's weights from others'.
    pub fingerprint: u64,
    /// Bytes by which a state grows with every token (attention); 0 where it never grows.
    pub bytes_per_token: u64,
    /// The most tokens of a text whose state grows; 0 where any number goes.
    pub n_context: u64,
    /// The length of texts, in tokens, that the model was trained on; 0 where its file does not say
    /// it. Since version 4 of the interface.
    pub n_trained: u64,
}

// SAFETY: `repr(C)`, twelve u64: no padding, and any bits are a value.
unsafe impl Report for brooklet_model_info {}

/// Writes the numbers of a model; `size` is sizeof(brooklet_model_info).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_get_info(
    model: *const brooklet_model,
    info: *mut brooklet_model_info,
    size: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(model, |Opened { model, .. }| {
            let file = model.file();
            let to = report(info, size)?;
            to.write(brooklet_model_info {
                n_layer: model.n_layer() as u64,
                d_model: model.d_model() as u64,
                n_vocab: model.n_vocab() as u64,
                state_bytes: model.state_layout().bytes() as u64,
                n_slot: model.state_layout().slots().len() as u64,
                n_tensor: file.tensors().len() as u64,
                file_bytes: file.file_len(),
                copied_bytes: copied_bytes(model),
                fingerprint: model.fingerprint(),
                bytes_per_token: model.state_layout().bytes_per_token() as u64,
                n_context: model.state_layout().context().map_or(0, |most| most as u64),
                n_trained: model.trained_length().map_or(0, |most| most as u64),
            });
            Ok(())
        })
    }
}

pub(crate) fn copied_bytes(model: &Model) -> u64 {
    if model.file().is_shared() { 0 } else { model.file().file_len() }
}

/// A text of a model, or NULL for a NULL handle.
///
/// # Safety
/// `model` is NULL, or from its `_new` function and not freed during the call.
unsafe fn text(
    model: *const brooklet_model,
    text: impl FnOnce(&Opened) -> Option<&CString>,
) -> *const c_char {
    let mut pointer = std::ptr::null();
    // A failure leaves NULL; its message is kept as always. The text lives as long as the handle,
    // which is never changed.
    // SAFETY: `model` is NULL or live: promised (Safety).
    let _ = unsafe {
        on(model, |opened| {
            pointer = text(opened).map_or(std::ptr::null(), |text| text.as_ptr());
            Ok(())
        })
    };
    pointer
}

/// The architecture, such as "rwkv7". Valid as long as the model; NULL for a NULL handle.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_architecture(
    model: *const brooklet_model,
) -> *const c_char {
    // SAFETY: the caller's promise (top of the header).
    unsafe { text(model, |opened| Some(&opened.architecture)) }
}

/// The instruction set that its kernels use, such as "avx2". Valid as long as the model; NULL for a
/// NULL handle.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_isa(model: *const brooklet_model) -> *const c_char {
    // SAFETY: the caller's promise (top of the header).
    unsafe { text(model, |opened| Some(&opened.isa)) }
}

/// The file's metadata, as a JSON object: "architecture", "config" (all hyper-parameters),
/// "tokenizer", "chat_template", "provenance". Valid as long as the model; NULL for a NULL handle.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_metadata(model: *const brooklet_model) -> *const c_char {
    // SAFETY: the caller's promise (top of the header).
    unsafe { text(model, |opened| Some(&opened.metadata)) }
}

/// The chat template (Jinja), or NULL where the model has none. Valid as long as the model;
/// brooklet_chat_of_model renders it.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_chat_template(
    model: *const brooklet_model,
) -> *const c_char {
    // SAFETY: the caller's promise (top of the header).
    unsafe { text(model, |opened| opened.chat_template.as_ref()) }
}

/// Reads the whole file and compares every checksum. `progress`, which may be NULL, counts bytes.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_verify(
    model: *const brooklet_model,
    progress: brooklet_progress,
    user: *mut c_void,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(model, |opened| {
            let mut go_on = reporter(progress, user);
            Ok(opened.model.file().verify(|done, total| {
                if go_on(done, total) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?)
        })
    }
}

/// Asks the system to read a mapped file ahead of its use.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_model_prefetch(model: *const brooklet_model) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(model, |opened| {
            opened.model.file().prefetch();
            Ok(())
        })
    }
}
