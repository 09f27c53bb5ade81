//! Result codes, messages, and the border that no panic crosses.
//!
//! [`call`] runs every function's body: it catches panics, turns errors into codes and keeps the
//! message for `brooklet_last_message`. Not here: the message of a handle (`handle`). Test:
//! `tests/contract/border.rs`.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use brooklet::EngineError;
use brooklet_formats::FormatError;

/// The result of a function. Everything but BROOKLET_OK is a failure, and then there is a message.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum brooklet_result {
    /// Done; values were written through the out pointers.
    BROOKLET_OK = 0,
    /// A pointer is NULL that must not be.
    BROOKLET_NULL = 1,
    /// An argument or an option is outside its range, a string is not UTF-8, a pointer is not
    /// aligned.
    BROOKLET_ARGUMENT = 2,
    /// The buffer is too small; the length that is needed was written.
    BROOKLET_BUFFER = 3,
    /// Another thread, or the callback that is running, is inside a call with this handle.
    BROOKLET_BUSY = 4,
    /// A callback asked to stop.
    BROOKLET_CANCELLED = 5,
    /// The operating system refused: no such file, no permission, disk full.
    BROOKLET_IO = 6,
    /// The file is damaged, of another kind, or holds what this version cannot run.
    BROOKLET_FILE = 7,
    /// A state that another model made, or the same one opened for another format of states.
    BROOKLET_FOREIGN = 8,
    /// Text that cannot be made into tokens, tokens that cannot be made into text, or no tokenizer
    /// at all.
    BROOKLET_TOKENIZER = 9,
    /// This build or this machine cannot do it.
    BROOKLET_UNSUPPORTED = 10,
    /// Not enough memory.
    BROOKLET_MEMORY = 11,
    /// A bug in brooklet. The handle can only be freed.
    BROOKLET_INTERNAL = 12,
    /// A file was not written: it would replace one that the call reads, or one of another kind.
    /// Since version 2 of the interface.
    BROOKLET_EXISTS = 13,
    /// A card, or its driver, failed. What it had of a state is lost: every call that needs such a
    /// state gives this, until it is reset. Since version 2 of the interface.
    BROOKLET_DEVICE = 14,
}
use brooklet_result::*;

/// Why a call fails: the code and one sentence.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: brooklet_result,
    pub(crate) message: String,
}

pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(code: brooklet_result, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }

    /// An argument outside its range.
    pub(crate) fn argument(message: impl Into<String>) -> Failure {
        Failure::new(BROOKLET_ARGUMENT, message)
    }

    fn panic(panic: &(dyn Any + Send)) -> Failure {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic");
        Failure::new(BROOKLET_INTERNAL, format!("internal error, please report it: {text}"))
    }
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Failure {
        let code = match &error {
            FormatError::Io { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory => {
                BROOKLET_MEMORY
            }
            FormatError::Io { .. } => BROOKLET_IO,
            FormatError::Cancelled { .. } => BROOKLET_CANCELLED,
            FormatError::Group { .. } => BROOKLET_ARGUMENT,
            FormatError::OntoInput { .. } | FormatError::InTheWay { .. } => BROOKLET_EXISTS,
            _ => BROOKLET_FILE,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        let code = match error {
            EngineError::File(error) => return error.into(),
            EngineError::Architecture { .. }
            | EngineError::Config { .. }
            | EngineError::MissingTensor { .. }
            | EngineError::Shape { .. }
            | EngineError::StateSize { .. }
            | EngineError::SamplerState { .. }
            | EngineError::NotTuned { .. }
            | EngineError::ChatTemplate { .. }
            | EngineError::ChatTemplateName { .. }
            | EngineError::TunedArchitecture { .. } => BROOKLET_FILE,
            EngineError::Isa { .. }
            | EngineError::NotBuilt { .. }
            | EngineError::NotListed { .. } => BROOKLET_UNSUPPORTED,
            #[cfg(feature = "cuda")]
            EngineError::NoDriver | EngineError::NoCard { .. } => BROOKLET_UNSUPPORTED,
            #[cfg(feature = "cuda")]
            EngineError::Card { .. } => BROOKLET_DEVICE,
            #[cfg(feature = "cuda")]
            EngineError::CardMemory { .. } => BROOKLET_MEMORY,
            EngineError::DeviceDiffers { .. } | EngineError::LostState { .. } => BROOKLET_DEVICE,
            EngineError::ForeignState { .. }
            | EngineError::ForeignStateFile { .. }
            | EngineError::StateFormat { .. } => BROOKLET_FOREIGN,
            EngineError::Interrupted => BROOKLET_CANCELLED,
            EngineError::TokenizerKind { .. }
            | EngineError::NoTokenizer
            | EngineError::EmptyPrompt
            | EngineError::WorldVocabulary { .. }
            | EngineError::TokenizerJson { .. }
            | EngineError::Encode { .. }
            | EngineError::NoTokenForByte { .. }
            | EngineError::NotUtf8 { .. } => BROOKLET_TOKENIZER,
            _ => BROOKLET_ARGUMENT,
        };
        Failure::new(code, error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs the body of a function of the interface.
pub(crate) fn call(body: impl FnOnce() -> Result) -> brooklet_result {
    let result =
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Failure::panic(&*panic)));
    match result {
        Ok(()) => BROOKLET_OK,
        Err(failure) => {
            let message = c_string(&failure.message);
            LAST.with(|last| *last.borrow_mut() = message);
            failure.code
        }
    }
}

/// A text as C has it: with a zero at the end, and no other.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

/// The message of the last failure on this thread, whatever handle it was about; "" before the
/// first. Valid until the next failure on this thread.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn brooklet_last_message() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// The name of a result code, such as "BROOKLET_IO"; "unknown result" for other numbers. Valid for
/// ever.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn brooklet_result_name(result: i32) -> *const c_char {
    const NAMES: [&std::ffi::CStr; 15] = [
        c"BROOKLET_OK",
        c"BROOKLET_NULL",
        c"BROOKLET_ARGUMENT",
        c"BROOKLET_BUFFER",
        c"BROOKLET_BUSY",
        c"BROOKLET_CANCELLED",
        c"BROOKLET_IO",
        c"BROOKLET_FILE",
        c"BROOKLET_FOREIGN",
        c"BROOKLET_TOKENIZER",
        c"BROOKLET_UNSUPPORTED",
        c"BROOKLET_MEMORY",
        c"BROOKLET_INTERNAL",
        c"BROOKLET_EXISTS",
        c"BROOKLET_DEVICE",
    ];
    usize::try_from(result).ok().and_then(|i| NAMES.get(i)).unwrap_or(&c"unknown result").as_ptr()
}
