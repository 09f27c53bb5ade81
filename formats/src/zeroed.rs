//! [`Zeroed`]: memory for many values, all zero at first; in huge pages, and taken as it is
//! touched, where it is much.
//!
//! Huge pages make what is read through faster, and the first touch of it much faster. Not here:
//! files that are mapped (`brk/bytes.rs`). Tests: below.

use std::alloc::{Layout, handle_alloc_error};
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, cast_slice, cast_slice_mut};

/// Bytes from which memory is a map of its own: what a system call costs is little beside touching
/// so many pages.
const MAPPED: usize = 512 << 10;

/// A cache line.
#[derive(Clone, Copy, Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

enum Memory {
    Heap(Vec<Line>),
    Map(memmap2::MmapMut),
}

/// A number of values that never changes. The first one starts at a multiple of 64 bytes.
pub struct Zeroed<T> {
    memory: Memory,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Zeroed<T> {
    /// `len` values, all zero. Ends the process as [`Vec`] does if there is no memory.
    pub fn new(len: usize) -> Self {
        Self::try_new(len).unwrap_or_else(|_| handle_alloc_error(Layout::new::<T>()))
    }

    /// `len` values, all zero.
    ///
    /// # Errors
    /// The system has no memory for them.
    pub fn try_new(len: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= 64) };
        let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // WebAssembly has one memory, which grows.
        let memory = if bytes < MAPPED || cfg!(target_family = "wasm") {
            let mut lines = Vec::new();
            lines.try_reserve_exact(bytes.div_ceil(64))?;
            lines.resize(bytes.div_ceil(64), Line([0; 64]));
            Memory::Heap(lines)
        } else {
            let map = memmap2::MmapMut::map_anon(bytes)?;
            // Only advice: a refusal changes nothing but speed.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            Memory::Map(map)
        };
        Ok(Self { memory, len, of: PhantomData })
    }
}

impl<T: Pod> Deref for Zeroed<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        let bytes = match &self.memory {
            Memory::Heap(lines) => cast_slice(lines),
            Memory::Map(map) => &map[..],
        };
        cast_slice(&bytes[..self.len * size_of::<T>()])
    }
}

impl<T: Pod> DerefMut for Zeroed<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = match &mut self.memory {
            Memory::Heap(lines) => cast_slice_mut(lines),
            Memory::Map(map) => &mut map[..],
        };
        cast_slice_mut(&mut bytes[..self.len * size_of::<T>()])
    }
}

impl<T: Pod> Clone for Zeroed<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T> std::fmt::Debug for Zeroed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Zeroed({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_zero_and_aligned_on_the_heap_and_in_a_map() {
        for len in [0, 1, 17, MAPPED / 4 - 1, MAPPED / 4, MAPPED] {
            let mut values = Zeroed::<f32>::new(len);
            assert_eq!(values.len(), len);
            assert!(values.as_ptr().addr().is_multiple_of(64));
            assert!(values.iter().all(|value| value.to_bits() == 0));
            values.fill(1.5);
            let copy = values.clone();
            values.fill(2.5);
            assert!(copy.iter().all(|value| *value == 1.5));
        }
    }

    #[test]
    fn what_no_memory_holds_is_an_error() {
        for len in [usize::MAX, usize::MAX / 8] {
            assert!(Zeroed::<u64>::try_new(len).is_err());
        }
    }
}
