//! What leaving the guest costs on this machine: prints, judges nothing. `cargo bench -p seuss-vmm`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{config, kvm, start};
use seuss_vmm::{GuestConfig, Stdio};

guest!(exits: call!("1", "0"));
guest!(closes: concat!("mov rbx, 10000\n 2:\n", call!("6", "50"), "dec rbx\n jnz 2b\n", call!("1", "0")));
guest!(idles: concat!("mov rbx, 10000\n 2:\n", call!("3", "0"), "dec rbx\n jnz 2b\n", call!("1", "0")));
guest!(naps: concat!(
    "mov rbx, 1000\n 2:\n rdtsc\n shl rdx, 32\n or rax, rdx\n",
    "sub rax, [r15 + 0x1010]\n mul qword ptr [r15 + 0x1008]\n mov ecx, [r15 + 0x1004]\n shrd rax, rdx, cl\n",
    "add rax, [r15 + 0x1018]\n add rax, 200000\n mov r13, rax\n",
    call!("3", "r13"), "dec rbx\n jnz 2b\n", call!("1", "0")
));
guest!(writes: concat!(
    "mov rbx, 10000\n 2:\n", segment!("0x100300000", "64"), call!("5", "1", "0x100200000", "1"), "dec rbx\n jnz 2b\n", call!("1", "0")));
guest!(computes: concat!("movabs rbx, 6000000000\n 2: dec rbx\n jnz 2b\n", call!("1", "0")));
guest!(touches: concat!(
    "mov rbx, 8192\n lea rdi, [r14 + 0x800000]\n 2: mov [rdi], rbx\n add rdi, 4096\n dec rbx\n jnz 2b\n", call!("1", "0")));

/// Time of `code` from its first entry to its end.
fn time(config: GuestConfig, code: Vec<u8>) -> (Duration, seuss_vmm::GuestStats) {
    let started = start(config, code).expect("starts");
    let before = Instant::now();
    started.end().expect("ends well");
    (before.elapsed(), started.guest.stats())
}

fn per(what: &str, count: u32, elapsed: Duration) {
    println!("{what:<44} {:>10.2} us", elapsed.as_secs_f64() * 1e6 / f64::from(count));
}

fn main() {
    if !kvm() {
        return;
    }
    let (mut total, mut all) = (Duration::ZERO, Vec::new());
    for _ in 0..50 {
        let before = Instant::now();
        let started = start(config(), exits()).expect("starts");
        started.end().expect("ends well");
        let timings = started.guest.timings();
        drop(started);
        total += before.elapsed();
        all.push(timings);
    }
    per("start, first host call, exit, tear-down", 50, total);
    let phase = |name: &str, get: fn(&seuss_vmm::StartTimings) -> Duration| {
        let mut times: Vec<_> = all.iter().map(get).collect();
        times.sort_unstable();
        per(&format!("  {name} (median)"), 1, times[times.len() / 2]);
    };
    phase("start", |timings| timings.total);
    phase("vm_create", |timings| timings.vm_create);
    phase("vcpu_create", |timings| timings.vcpu_create);
    phase("memory_map", |timings| timings.memory_map);
    phase("load", |timings| timings.load);
    phase("memory_slots", |timings| timings.memory_slots);
    phase("registers", |timings| timings.registers);
    phase("thread", |timings| timings.thread);
    phase("first KVM_RUN to first exit", |timings| timings.first_exit);

    per("host call (close of a bad handle)", 10_000, time(config(), closes()).0);
    per("idle with a deadline in the past", 10_000, time(config(), idles()).0);
    per("idle for 200 us", 1_000, time(config(), naps()).0);
    let null = std::fs::File::create("/dev/null").expect("null");
    let stdio = Stdio { stdout: Some(null.into()), ..Stdio::default() };
    per("write of 64 bytes to /dev/null", 10_000, time(GuestConfig { stdio, ..config() }, writes()).0);
    let memory_bytes = 64 << 20;
    per("first touch of a fresh page", 8192, time(GuestConfig { memory_bytes, ..config() }, touches()).0);
    let (elapsed, stats) = time(config(), computes());
    println!("6e9 loop iterations: {elapsed:?}, {} kicks", stats.exits.kicks);
    let before = Instant::now();
    // SAFETY: counts a register down.
    unsafe { std::arch::asm!("2: dec {0}", "jnz 2b", inout(reg) 6_000_000_000_u64 => _) };
    println!("the same on the host: {:?}", before.elapsed());
}
