//! A slice that several threads write in disjoint parts.

use std::marker::PhantomData;

/// A mutable slice whose disjoint parts several threads write.
pub struct Disjoint<'a, T> {
    pointer: *mut T,
    length: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: callers of `slice` promise that its parts do not overlap.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub fn new(data: &'a mut [T]) -> Self {
        Disjoint { pointer: data.as_mut_ptr(), length: data.len(), borrowed: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The address of an element, or of a place behind the last one.
    pub fn address(&self, at: usize) -> *const T {
        self.pointer.wrapping_add(at)
    }

    /// `length` elements from `start` on; panics where they lie outside.
    ///
    /// # Safety
    /// Parts that are alive at the same time do not overlap.
    #[allow(clippy::mut_from_ref, reason = "the parts are disjoint, which the caller promises")]
    pub unsafe fn slice(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start <= self.length && length <= self.length - start, "part inside the slice");
        // SAFETY: inside the slice (checked), not aliased (promised), borrowed as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), length) }
    }
}
