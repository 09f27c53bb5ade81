//! C's pointers, lengths and strings, checked as far as a pointer can be, and turned into Rust's.
//!
//! A pointer that is neither NULL nor valid cannot be told from a good one: the caller's duties
//! stand at the top of the header, and each Safety section here says which of them it needs. Not
//! here: options (`options`) and handles (`handle`).
//! Test: `tests/contract/border.rs`.

use std::ffi::{CStr, c_char};
use std::path::Path;

use brooklet::DType;

use super::failure::brooklet_result::{BROOKLET_BUFFER, BROOKLET_NULL};
use super::failure::{Failure, Result};

fn null(name: &str) -> Failure {
    Failure::new(BROOKLET_NULL, format!("{name} is NULL"))
}

fn check<T>(pointer: *const T, name: &str) -> Result {
    if pointer.is_null() {
        return Err(null(name));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!(
            "{name} is not aligned to {} bytes",
            align_of::<T>()
        )));
    }
    Ok(())
}

/// The value that `pointer` points to.
///
/// # Safety
/// `pointer` is NULL or points to a valid `T` that nobody changes during 'a.
pub(crate) unsafe fn borrow<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    check(pointer, name)?;
    // SAFETY: not NULL and aligned: checked above.
    // A valid value that nobody changes during 'a: promised (Safety).
    Ok(unsafe { &*pointer })
}

/// `len` elements from `pointer` on; `pointer` may be NULL where `len` is 0.
///
/// # Safety
/// `pointer` is NULL or points to `len` valid elements that nobody changes during 'a.
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, len: usize, name: &str) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check(pointer, name)?;
    check_len::<T>(len, name)?;
    // SAFETY: not NULL and aligned: checked above.
    // At most isize::MAX bytes: `check_len`.
    // `len` valid elements that nobody changes during 'a: promised (Safety).
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// Refuses lengths that no memory has.
fn check_len<T>(len: usize, name: &str) -> Result {
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Failure::argument(format!("{name}: {len} elements exceed the address space"))),
    }
}

/// A string that ends with a zero.
///
/// # Safety
/// `pointer` is NULL or points to bytes that end with a zero and that nobody changes during 'a.
pub(crate) unsafe fn c_str<'a>(pointer: *const c_char, name: &str) -> Result<&'a CStr> {
    check(pointer, name)?;
    // SAFETY: not NULL: checked above.
    // A zero ends it, and nobody changes it during 'a: promised (Safety).
    Ok(unsafe { CStr::from_ptr(pointer) })
}

/// A string that ends with a zero and is UTF-8.
///
/// # Safety
/// As [`c_str`].
pub(crate) unsafe fn string<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: NULL, or a text that a zero ends: promised (Safety).
    let text = unsafe { c_str(pointer, name)? };
    text.to_str().map_err(|error| Failure::argument(format!("{name} is not UTF-8: {error}")))
}

/// A string, or nothing for NULL.
///
/// # Safety
/// As [`c_str`].
pub(crate) unsafe fn optional_string<'a>(
    pointer: *const c_char,
    name: &str,
) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL (above), so a text that a zero ends: promised (Safety).
    unsafe { string(pointer, name).map(Some) }
}

/// The number format that a string names, one of `formats`; the first of them for NULL.
///
/// # Safety
/// As [`c_str`].
pub(crate) unsafe fn dtype(pointer: *const c_char, name: &str, formats: &[DType]) -> Result<DType> {
    // SAFETY: NULL, or a text that a zero ends: promised (Safety).
    let found = unsafe { optional_string(pointer, name)?.unwrap_or(formats[0].name()) };
    formats.iter().copied().find(|dtype| dtype.name() == found).ok_or_else(|| {
        let known: Vec<&str> = formats.iter().map(|dtype| dtype.name()).collect();
        Failure::argument(format!("{name} {found:?}: expected one of {}", known.join(", ")))
    })
}

/// A path: any bytes on Unix, UTF-8 elsewhere.
///
/// # Safety
/// As [`c_str`].
pub(crate) unsafe fn path<'a>(pointer: *const c_char, name: &str) -> Result<&'a Path> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        // SAFETY: NULL, or bytes that a zero ends: promised (Safety).
        let bytes = unsafe { c_str(pointer, name)? }.to_bytes();
        Ok(Path::new(std::ffi::OsStr::from_bytes(bytes)))
    }
    #[cfg(not(unix))]
    {
        // SAFETY: NULL, or a text that a zero ends: promised (Safety).
        unsafe { string(pointer, name).map(Path::new) }
    }
}

/// A path, or nothing for NULL.
///
/// # Safety
/// As [`c_str`].
pub(crate) unsafe fn optional_path<'a>(
    pointer: *const c_char,
    name: &str,
) -> Result<Option<&'a Path>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL (above), so a text that a zero ends: promised (Safety).
    unsafe { path(pointer, name).map(Some) }
}

/// `n` strings.
///
/// # Safety
/// `pointer` is NULL or points to `n` pointers, each as in [`c_str`].
pub(crate) unsafe fn strings(
    pointer: *const *const c_char,
    n: usize,
    name: &str,
) -> Result<Vec<String>> {
    // SAFETY: NULL, or `n` pointers that nobody changes: promised (Safety).
    let pointers = unsafe { slice(pointer, n, name)? };
    // SAFETY: each is NULL, or a text that a zero ends: promised (Safety).
    pointers.iter().map(|&pointer| unsafe { string(pointer, name).map(str::to_owned) }).collect()
}

/// Where a value goes.
pub(crate) struct Out<T>(*mut T);

/// A place for a value.
///
/// # Safety
/// `pointer` is NULL or points to where a `T` may be written as long as the place is kept; nobody
/// else looks there, and nothing that is read meanwhile lies there.
pub(crate) unsafe fn out<T>(pointer: *mut T, name: &str) -> Result<Out<T>> {
    check(pointer, name)?;
    Ok(Out(pointer))
}

impl<T> Out<T> {
    /// Writes the value.
    pub(crate) fn write(&self, value: T) {
        // SAFETY: not NULL and aligned: checked by `out`.
        // A `T` may be written there: promised to `out`.
        // The old value needs no drop: it is C's.
        unsafe { self.0.write(value) }
    }
}

/// Writes `values` into a buffer of the caller and their number through `n`; too small a buffer
/// gets the number only.
///
/// # Safety
/// `buffer` is NULL or has room for `capacity` elements, which are not among `values` and which
/// nobody else looks at; `n` is as in [`out`].
pub(crate) unsafe fn fill<T: Copy>(
    values: &[T],
    buffer: *mut T,
    capacity: usize,
    n: *mut usize,
    name: &str,
) -> Result {
    // SAFETY: NULL, or a length may be written there: promised (Safety).
    let n = unsafe { out(n, "the pointer for the length")? };
    if capacity < values.len() {
        n.write(values.len());
        let message = format!("{name} holds {capacity} elements, {} are needed", values.len());
        return Err(Failure::new(BROOKLET_BUFFER, message));
    }
    if !values.is_empty() {
        check(buffer, name)?;
        // SAFETY: not NULL and aligned: checked above.
        // Room for `capacity` elements, none of `values`: promised (Safety).
        // `values` are no more than that: compared above.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), buffer, values.len()) };
    }
    n.write(values.len());
    Ok(())
}
