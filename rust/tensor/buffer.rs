//! Zeroed memory aligned to cache lines, allocated without aborting.

use crate::error::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};

/// Marks element types for which every bit pattern, all zeros too, is a value.
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

/// A fixed-size array aligned to 64 bytes (2 MiB where it is large, and then in huge pages where the
/// system grants them).
pub struct Buffer<T: Plain> {
    pointer: *mut T,
    length: usize,
    layout: Layout,
}

// SAFETY: the buffer owns its memory and `T` is `Send` and `Sync`.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Buffer<T> {}

const HUGE: usize = 2 << 20;

impl<T: Plain> Buffer<T> {
    /// `length` zeros; an error, not an abort, where the memory cannot be had.
    pub fn zeroed(length: usize) -> Result<Self> {
        let refuse =
            || Error::Memory(format!("cannot allocate {length} elements of {} bytes", size_of::<T>()));
        let bytes = length.checked_mul(size_of::<T>()).ok_or_else(refuse)?.max(1);
        let align = if bytes >= 2 * HUGE { HUGE } else { 64 };
        let layout = Layout::from_size_align(bytes, align).map_err(|_| refuse())?;
        // SAFETY: the layout's size is at least one byte.
        let pointer = unsafe { alloc_zeroed(layout) };
        if pointer.is_null() {
            return Err(refuse());
        }
        #[cfg(target_os = "linux")]
        if align == HUGE {
            // SAFETY: the range was just allocated; the advice changes no content.
            unsafe { libc::madvise(pointer.cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Ok(Buffer { pointer: pointer.cast(), length, layout })
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
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.pointer.cast(), self.layout) }
    }
}
