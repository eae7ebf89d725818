//! The end: a panic or a fault of the library OS becomes a host call with a message.

use crate::entry;
use crate::machine::Comm;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use seuss_abi::call::Op;
use seuss_abi::layout::{KERNEL_BASE, PRIVATE_GPA};

/// Room for the message; the image lies at a fixed distance from guest-physical memory, so the buffer is contiguous there.
static MESSAGE: Buffer = Buffer(core::cell::UnsafeCell::new([0; 2048]));
/// A panic while one is reported.
static AGAIN: AtomicBool = AtomicBool::new(false);

struct Buffer(core::cell::UnsafeCell<[u8; 2048]>);

// SAFETY: one vCPU; only the report writes it, once.
unsafe impl Sync for Buffer {}

struct Writer {
    used: usize,
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            if self.used < 2048 {
                let at = MESSAGE.0.get().cast::<u8>().wrapping_add(self.used);
                // SAFETY: within the buffer.
                unsafe { at.write(byte) };
                self.used += 1;
            }
        }
        Ok(())
    }
}

fn report(arguments: core::fmt::Arguments<'_>, frame_pointer: u64) -> ! {
    let mut writer = Writer { used: 0 };
    if !AGAIN.swap(true, Ordering::Relaxed) {
        let _ = writer.write_fmt(arguments);
        let _ = writer.write_str("\nreturn addresses:");
        let mut frame = frame_pointer;
        for _ in 0..24 {
            let in_image =
                (KERNEL_BASE..KERNEL_BASE + (64 << 20)).contains(&frame) && frame.is_multiple_of(8);
            if !in_image {
                break;
            }
            // SAFETY: the stacks lie in the image, which is mapped.
            let (next, address) =
                unsafe { ((frame as *const u64).read(), ((frame + 8) as *const u64).read()) };
            let _ = write!(writer, " {address:#x}");
            frame = next;
        }
    }
    let gpa = MESSAGE.0.get() as u64 - KERNEL_BASE + PRIVATE_GPA;
    loop {
        Comm.call(Op::Panic, [gpa, writer.used as u64, 0, 0, 0, 0]);
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let frame_pointer: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame_pointer) };
    report(format_args!("library OS: {info}"), frame_pointer)
}

/// A trap in the library OS: `frame` is vector, error code, rip, cs, rflags, rsp, ss.
pub(crate) extern "C" fn kernel_trap(frame: *const [u64; 7], frame_pointer: u64) -> ! {
    // SAFETY: the entry code passes the trap's frame.
    let [vector, error, rip, _, rflags, rsp, _] = unsafe { frame.read() };
    let address = if vector == 14 { entry::fault_address() } else { 0 };
    report(
        format_args!(
            "library OS: trap {vector} at {rip:#x}, error {error:#x}, address {address:#x}, rsp {rsp:#x}, rflags {rflags:#x}"
        ),
        frame_pointer,
    )
}

/// Unwinding does not happen: panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above; referenced by precompiled code only.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    report(format_args!("library OS: unwinding"), 0)
}
