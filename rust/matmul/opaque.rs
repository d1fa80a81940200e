//! An optimizer barrier.

/// The same pointer, opaque to the optimizer: loads through it cannot be hoisted above this call.
#[inline(always)]
pub fn opaque<T>(pointer: *const T) -> *const T {
    let mut at = pointer.addr();
    // SAFETY: an empty instruction.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) at, options(nomem, nostack, preserves_flags)) };
    pointer.with_addr(at)
}
