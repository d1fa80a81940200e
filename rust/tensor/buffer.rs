//! Zeroed memory aligned to cache lines, allocated without aborting.

use crate::error::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};

/// The first `n` values of a reused buffer, which grows if it is too short and keeps its contents.
///
/// # Panics
/// Where the memory cannot be allocated.
pub fn sized<T: Plain>(buffer: &mut Buffer<T>, n: usize) -> &mut [T] {
    let old = buffer.len();
    if old < n {
        // By half at least, so that a buffer that grows in small steps is not copied at each of them.
        let larger = Buffer::zeroed(n.max(old + old / 2)).unwrap_or_else(|error| panic!("{error}"));
        let old = std::mem::replace(buffer, larger);
        buffer[..old.len()].copy_from_slice(&old);
    }
    &mut buffer[..n]
}

/// Element types for which every bit pattern is a value, all zeros included.
///
/// # Safety
/// The type has no padding and no invalid bit patterns.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: plain integers and floats.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for i16 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// An array aligned to 64 bytes, so that no load of a whole cache line touches two. A large one is aligned to
/// 2 MiB and lies in huge pages where the system grants them.
pub struct Buffer<T: Plain> {
    pointer: *mut T,
    length: usize,
    /// The allocation; a large buffer begins at a huge page boundary inside.
    whole: *mut u8,
    layout: Layout,
}

// SAFETY: the buffer owns its memory and `T` is `Send` and `Sync`.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Buffer<T> {}

const HUGE: usize = 2 << 20;

impl<T: Plain> Buffer<T> {
    /// `length` zeros. Fails where the memory cannot be allocated, instead of aborting.
    pub fn zeroed(length: usize) -> Result<Self> {
        let refuse =
            || Error::Memory(format!("cannot allocate {length} elements of {} bytes", size_of::<T>()));
        let bytes = length.checked_mul(size_of::<T>()).ok_or_else(refuse)?.max(1);
        // With a small alignment the system zeroes each page at its first access. With a larger one the
        // allocator would write all zeros first, on one thread and without a check for Ctrl-C, so the
        // boundary is found here.
        let large = bytes >= 2 * HUGE;
        let (size, align) =
            if large { (bytes.checked_add(HUGE).ok_or_else(refuse)?, 16) } else { (bytes, 64) };
        let layout = Layout::from_size_align(size, align).map_err(|_| refuse())?;
        // SAFETY: the layout's size is at least one byte.
        let whole = unsafe { alloc_zeroed(layout) };
        if whole.is_null() {
            return Err(refuse());
        }
        let skip = if large { whole.addr().next_multiple_of(HUGE) - whole.addr() } else { 0 };
        // SAFETY: fewer than `HUGE` bytes are skipped, and `HUGE` bytes more were allocated.
        let pointer = unsafe { whole.add(skip) };
        #[cfg(target_os = "linux")]
        if large {
            // SAFETY: the range was just allocated; the advice changes no content.
            unsafe { libc::madvise(pointer.cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Ok(Buffer { pointer: pointer.cast(), length, whole, layout })
    }
}

/// An empty buffer, which takes no memory.
impl<T: Plain> Default for Buffer<T> {
    fn default() -> Self {
        let pointer = std::ptr::without_provenance_mut(64);
        Buffer { pointer, length: 0, whole: std::ptr::null_mut(), layout: Layout::new::<()>() }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `length` elements were allocated, zeroed, and every bit pattern is a value.
        unsafe { std::slice::from_raw_parts(self.pointer, self.length) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.length) }
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if !self.whole.is_null() {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.whole, self.layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero() {
        for length in [0, 1, 100, HUGE, 2 * HUGE, 2 * HUGE + 1, 5 * HUGE + 3] {
            let mut buffer = Buffer::<u8>::zeroed(length).expect("there is memory");
            assert_eq!(buffer.len(), length);
            assert!(buffer.iter().all(|&v| v == 0));
            let align = if length >= 2 * HUGE { HUGE } else { 64 };
            assert_eq!(buffer.as_ptr().addr() % align, 0, "{length}");
            buffer.fill(1);
        }
        assert!(Buffer::<f32>::zeroed(usize::MAX / 2).is_err());
    }

    #[test]
    fn a_growing_buffer_keeps_its_contents_and_its_alignment() {
        let mut buffer = Buffer::<f32>::default();
        assert!(buffer.is_empty() && buffer.as_ptr().addr() % 64 == 0);
        for n in [1, 7, 3, 100, 2000] {
            let filled = n.min(buffer.len());
            let part = sized(&mut buffer, n);
            assert_eq!((part.len(), part.as_ptr().addr() % 64), (n, 0));
            assert!(part[..filled].iter().all(|&v| v == 1.0));
            part.fill(1.0);
        }
        assert!(buffer.len() >= 2000);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn zeros_take_no_memory_until_their_first_access() {
        let resident = || -> usize {
            let text = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
            4096 * text.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).expect("the second number")
        };
        let before = resident();
        let buffer = Buffer::<u8>::zeroed(1 << 30).expect("there is memory");
        assert!(resident().saturating_sub(before) < 1 << 29);
        assert_eq!(buffer[buffer.len() - 1], 0);
    }
}
