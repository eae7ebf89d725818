//! The memory functions that compiled Rust calls and this target's compiler_builtins does not export (C11 7.24, bcmp of POSIX). String instructions are
//! fast for any length on CPUs with ERMS and FSRM.

use core::arch::asm;

/// # Safety
/// As C's memcpy.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise; DF is clear in the library OS.
    unsafe { asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _) }
    to
}

/// # Safety
/// As C's memmove.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: the caller's promise; a forward copy does not overwrite what it has yet to read.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the caller's promise; backwards from the last byte, DF set only for the copy.
    unsafe {
        asm!(
            "std", "rep movsb", "cld",
            inout("rcx") len => _,
            inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _,
        );
    }
    to
}

/// # Safety
/// As C's memset.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8) }
    to
}

/// # Safety
/// As C's memcmp.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    let mut at = 0;
    // Words first: names and paths are compared often.
    while at + 8 <= len {
        // SAFETY: `at + 8 <= len`.
        let a = unsafe { left.add(at).cast::<u64>().read_unaligned() };
        // SAFETY: likewise.
        let b = unsafe { right.add(at).cast::<u64>().read_unaligned() };
        if a != b {
            break;
        }
        at += 8;
    }
    while at < len {
        // SAFETY: `at < len`.
        let a = unsafe { left.add(at).read() };
        // SAFETY: likewise.
        let b = unsafe { right.add(at).read() };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        at += 1;
    }
    0
}

/// # Safety
/// As BSD's bcmp.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(left, right, len) }
}

/// # Safety
/// As C's strlen.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(string: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller promises a terminating zero, so every byte up to it is readable.
    while unsafe { string.add(len).read() } != 0 {
        len += 1;
    }
    len
}
