//! Structs that can grow without breaking programs that were compiled before: they come with their
//! size.
//!
//! Options begin with a field `size`, which the init function sets; fields beyond the caller's size
//! keep their defaults, and fields that this library does not know must be zero. Structs that are
//! written come with their size as an argument, and only that much is written. Test:
//! `tests/contract/border.rs`.

use std::ffi::c_char;

use super::arguments::{borrow, out};
use super::failure::{Failure, Result};

/// The version of the interface that this header describes; see brooklet_abi_version.
pub const BROOKLET_ABI_VERSION: u32 = 4;

/// The version of brooklet that this header came with: MAJOR.MINOR.PATCH. See brooklet_version for
/// the library's.
pub const BROOKLET_VERSION_MAJOR: u32 = 0;
/// See BROOKLET_VERSION_MAJOR.
pub const BROOKLET_VERSION_MINOR: u32 = 1;
/// See BROOKLET_VERSION_MAJOR.
pub const BROOKLET_VERSION_PATCH: u32 = 0;

/// The version of the interface that the library has. It grows when something is added; a program
/// compiled against version n runs with every library of version n or above until the library's
/// file name changes.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn brooklet_abi_version() -> u32 {
    BROOKLET_ABI_VERSION
}

/// The version of brooklet, such as "0.1.0". Valid for ever.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn brooklet_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// brooklet_convert works.
pub const BROOKLET_FEATURE_CONVERT: u32 = 1;
/// Models with a Hugging Face tokenizer.json can be given text.
pub const BROOKLET_FEATURE_HUGGINGFACE: u32 = 2;
/// More than one thread can be used.
pub const BROOKLET_FEATURE_THREADS: u32 = 4;
/// The RWKV World vocabulary is built in.
pub const BROOKLET_FEATURE_WORLD: u32 = 8;
/// brooklet_sampler_set_grammar works.
pub const BROOKLET_FEATURE_GRAMMAR: u32 = 16;
/// Chat templates can be rendered.
pub const BROOKLET_FEATURE_CHAT: u32 = 32;

/// The features of this build: a sum of BROOKLET_FEATURE_ numbers.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn brooklet_features() -> u32 {
    let bit = |has: bool, bit: u32| if has { bit } else { 0 };
    bit(cfg!(feature = "convert"), BROOKLET_FEATURE_CONVERT)
        | bit(cfg!(feature = "huggingface"), BROOKLET_FEATURE_HUGGINGFACE)
        | bit(cfg!(feature = "threads"), BROOKLET_FEATURE_THREADS)
        | bit(cfg!(feature = "world"), BROOKLET_FEATURE_WORLD)
        | bit(cfg!(feature = "grammar"), BROOKLET_FEATURE_GRAMMAR)
        | bit(cfg!(feature = "chat"), BROOKLET_FEATURE_CHAT)
}

/// A struct that C fills in.
///
/// # Safety
/// `#[repr(C)]`, of numbers and pointers only, so that any bytes are a value; no padding before a
/// later field is read.
pub(crate) unsafe trait Options: Copy {
    /// Its size in version 1 of the interface.
    const FIRST_SIZE: usize;
    /// The values where the caller says nothing.
    fn defaults() -> Self;
    /// The field that comes first.
    fn size_mut(&mut self) -> &mut usize;
    /// The sum of the fields that must be zero.
    fn reserved(&self) -> u64;
}

/// Writes the defaults into the `size` bytes of the caller's struct.
///
/// # Safety
/// `options` is NULL or points to `size` bytes that may be written.
pub(crate) unsafe fn init<T: Options>(options: *mut T, size: usize) -> Result {
    // SAFETY: nothing is written through this place, which only checks the pointer.
    unsafe { out(options, "the options")? };
    if size < T::FIRST_SIZE {
        return Err(too_small(size, T::FIRST_SIZE));
    }
    let mut defaults = T::defaults();
    *defaults.size_mut() = size;
    let known = size.min(size_of::<T>());
    let bytes = options.cast::<u8>();
    // SAFETY: not NULL: checked above.
    // `size` bytes may be written there: promised (Safety).
    // `known` is at most `size`, and at most the size of `defaults`: the least of both.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const defaults).cast::<u8>(), bytes, known);
        bytes.add(known).write_bytes(0, size - known);
    }
    Ok(())
}

/// The caller's options, or the defaults for NULL.
///
/// # Safety
/// `options` is NULL or points to as many bytes as its first field says, which nobody changes
/// until the function returns.
pub(crate) unsafe fn read<T: Options>(options: *const T) -> Result<T> {
    let mut own = T::defaults();
    if options.is_null() {
        return Ok(own);
    }
    // SAFETY: not NULL (above), so its first field can be read: promised (Safety).
    let size = *unsafe { borrow(options.cast::<usize>(), "the options")? };
    if size < T::FIRST_SIZE {
        return Err(too_small(size, T::FIRST_SIZE));
    }
    if size > 1 << 16 {
        return Err(Failure::argument(format!("options of {size} bytes: use the init function")));
    }
    let known = size.min(size_of::<T>());
    let bytes = options.cast::<u8>();
    // SAFETY: `size` bytes can be read, and nobody changes them: promised (Safety).
    // `known` is at most `size`, and at most the size of `own`: the least of both.
    // Any bytes are a value of `own`: promised by `Options`.
    let unknown = unsafe {
        std::ptr::copy_nonoverlapping(bytes, (&raw mut own).cast::<u8>(), known);
        std::slice::from_raw_parts(bytes.add(known), size - known)
    };
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(Failure::argument(
            "the options set fields that this version of the library does not have",
        ));
    }
    if own.reserved() != 0 {
        return Err(Failure::argument("a reserved field of the options is not 0"));
    }
    Ok(own)
}

fn too_small(size: usize, expected: usize) -> Failure {
    Failure::argument(format!(
        "a struct of {size} bytes: expected {expected} at least; use the init function"
    ))
}

/// A struct of numbers that is written for C.
///
/// # Safety
/// `#[repr(C)]` without padding.
pub(crate) unsafe trait Report: Copy {}

/// Where a report goes: the first bytes of it, as many as the caller's struct has.
pub(crate) struct Place<T> {
    to: *mut T,
    size: usize,
}

/// A place for a report.
///
/// # Safety
/// `to` is NULL or points to `size` bytes that may be written as long as the place is kept.
pub(crate) unsafe fn report<T: Report>(to: *mut T, size: usize) -> Result<Place<T>> {
    // SAFETY: nothing is written through this place, which only checks the pointer.
    unsafe { out(to, "the struct to write")? };
    if size > 1 << 16 {
        return Err(Failure::argument(format!("a struct of {size} bytes: pass its sizeof")));
    }
    Ok(Place { to, size })
}

/// A place for a report, or none for NULL.
///
/// # Safety
/// As [`report`].
pub(crate) unsafe fn optional_report<T: Report>(
    to: *mut T,
    size: usize,
) -> Result<Option<Place<T>>> {
    // SAFETY: not NULL, so `size` bytes may be written there: promised (Safety).
    if to.is_null() { Ok(None) } else { unsafe { report(to, size).map(Some) } }
}

impl<T: Report> Place<T> {
    /// Writes the report, and zeros behind what it has.
    pub(crate) fn write(&self, report: T) {
        let known = self.size.min(size_of::<T>());
        let bytes = self.to.cast::<u8>();
        // `known` is the least of `size` and the size of `report`, which has no padding (`Report`).
        // SAFETY: not NULL: checked by `report`. `size` bytes may be written: promised to `report`.
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const report).cast::<u8>(), bytes, known);
            bytes.add(known).write_bytes(0, self.size - known);
        }
    }
}
