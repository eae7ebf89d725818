//! What is known about a guest that ended badly: [`Report`].
//!
//! Owns the record of recent host calls and log lines ([`Recorder`]) and the picture of the vCPU at the end. It reads
//! guest memory through a walk of its own ([`walk`]) that believes nothing.

pub(crate) mod record;
pub(crate) mod walk;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use kvm_bindings::{kvm_regs, kvm_sregs};
use seuss_abi::layout::{KERNEL_BASE, KERNEL_END, USER_CS, USER_DS};

use crate::kernel::symbols::Symbols;
use crate::memory::{Gva, Memory};
use crate::text::cut;
use crate::vcpu::{ExitReason, Hex, Vcpu};
pub use record::CallRecord;
pub(crate) use record::Recorder;

/// Bytes of code shown before and from rip.
const CODE_BEFORE: usize = 32;
const CODE_FROM: usize = 32;
const STACK_WORDS: usize = 40;
const FRAMES_MAX: usize = 32;
/// Log lines that are shown, and bytes of each.
const LOG_SHOWN: usize = 24;
const LINE_SHOWN: usize = 200;
/// Words above rsp in which an interrupt frame is looked for.
const FRAME_SEARCH: u64 = 24;

/// The state of a guest at its end. `Display` gives all of it, several lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The guest's name.
    pub name: String,
    /// Since the first entry.
    pub uptime: Duration,
    /// The last exit.
    pub exit: ExitReason,
    /// Registers, unless KVM would not tell.
    pub registers: Option<Registers>,
    /// Where rip, rsp and cr2 lead: for people.
    pub addresses: Vec<String>,
    /// Where the guest was at CPL 3 when it entered the CPL 0 stub that rip lies in: rip and rsp, found in the
    /// interrupt frame.
    pub interrupted: Option<(u64, u64)>,
    /// Bytes around rip: address of the first, bytes, index of rip.
    pub code: (u64, Vec<u8>, usize),
    /// Words from rsp on: address, value, name if it is an address in the kernel image.
    pub stack: Vec<(u64, u64, Option<String>)>,
    /// Return addresses along the frame pointers, innermost first.
    pub backtrace: Vec<String>,
    /// Last host calls, oldest first.
    pub calls: Vec<CallRecord>,
    /// Last log lines, oldest first.
    pub log: Vec<String>,
}

/// Registers of the vCPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Registers {
    general: kvm_regs,
    special: kvm_sregs,
    event_in_flight: bool,
}

impl Registers {
    /// Instruction pointer.
    #[must_use]
    pub fn rip(&self) -> u64 {
        self.general.rip
    }

    /// Stack pointer.
    #[must_use]
    pub fn rsp(&self) -> u64 {
        self.general.rsp
    }

    /// Address of the last page fault, as far as the vCPU knows it.
    #[must_use]
    pub fn cr2(&self) -> u64 {
        self.special.cr2
    }

    /// Page-table root.
    #[must_use]
    pub fn cr3(&self) -> u64 {
        self.special.cr3
    }

    /// Privilege level.
    #[must_use]
    pub fn cpl(&self) -> u8 {
        self.special.ss.dpl
    }

    fn read(vcpu: &Vcpu) -> Option<Self> {
        let (general, special) = (vcpu.registers().ok()?, vcpu.special_registers().ok()?);
        Some(Self { general, special, event_in_flight: vcpu.event_in_flight().unwrap_or(false) })
    }
}

/// What is needed to draw a report.
pub(crate) struct Scene<'a> {
    pub(crate) vcpu: &'a Vcpu,
    pub(crate) memory: &'a Memory,
    pub(crate) symbols: &'a Symbols,
    pub(crate) recorder: &'a Recorder,
}

impl Report {
    /// Draw the guest as it stands.
    pub(crate) fn draw(exit: ExitReason, scene: &Scene<'_>) -> Self {
        let registers = Registers::read(scene.vcpu);
        let recorder = scene.recorder;
        let mut report = Self {
            name: recorder.name().to_owned(),
            uptime: recorder.uptime(),
            exit,
            registers: None,
            addresses: Vec::new(),
            interrupted: None,
            code: (0, Vec::new(), 0),
            stack: Vec::new(),
            backtrace: Vec::new(),
            calls: recorder.calls(),
            log: recorder.log(),
        };
        if let Some(registers) = registers {
            report.look(&registers, scene);
            report.registers = Some(registers);
        }
        report
    }

    fn look(&mut self, registers: &Registers, scene: &Scene<'_>) {
        let (general, cr3) = (&registers.general, registers.special.cr3);
        for (name, gva) in [("rip", general.rip), ("rsp", general.rsp), ("cr2", registers.special.cr2)] {
            let place = match walk::translate(scene.memory, cr3, Gva(gva)) {
                Ok(found) => found.to_string(),
                Err(error) => error.to_string(),
            };
            self.addresses.push(format!("{name} {} is {place}", named(scene.symbols, gva)));
        }
        let start = general.rip.saturating_sub(CODE_BEFORE as u64);
        let mut code = vec![0; CODE_BEFORE + CODE_FROM];
        let len = walk::read(scene.memory, cr3, Gva(start), &mut code);
        self.code = if len > CODE_BEFORE {
            code.truncate(len);
            (start, code, (general.rip - start) as usize)
        } else {
            // Nothing before rip (a page's start): from rip alone.
            let len = walk::read(scene.memory, cr3, Gva(general.rip), &mut code[..CODE_FROM]);
            code.truncate(len);
            (general.rip, code, 0)
        };
        let word = |gva: u64| {
            let mut bytes = [0; 8];
            (walk::read(scene.memory, cr3, Gva(gva), &mut bytes) == 8).then(|| u64::from_le_bytes(bytes))
        };
        if registers.special.ss.dpl == 0 {
            self.interrupted = interrupt_frame(general.rsp, word);
        }
        let rsp = self.interrupted.map_or(general.rsp, |(_, rsp)| rsp);
        for index in 0..STACK_WORDS as u64 {
            let gva = rsp.wrapping_add(index * 8);
            let Some(value) = word(gva) else { break };
            self.stack.push((gva, value, scene.symbols.name(Gva(value))));
        }
        self.backtrace.push(named(scene.symbols, general.rip));
        if let Some((rip, _)) = self.interrupted {
            self.backtrace.push(named(scene.symbols, rip));
        }
        let mut frame = general.rbp;
        while self.backtrace.len() < FRAMES_MAX {
            let (Some(next), Some(back)) = (word(frame), word(frame.wrapping_add(8))) else { break };
            if !(KERNEL_BASE..KERNEL_END).contains(&back) {
                break;
            }
            self.backtrace.push(named(scene.symbols, back));
            if next <= frame {
                break;
            }
            frame = next;
        }
    }
}

/// The frame that an interrupt from CPL 3 pushed (SDM vol. 3, figure 6-9), somewhere above the stub's own pushes: its
/// rip and rsp.
fn interrupt_frame(rsp: u64, word: impl Fn(u64) -> Option<u64>) -> Option<(u64, u64)> {
    (0..FRAME_SEARCH).map(|index| rsp.wrapping_add(index * 8)).find_map(|at| {
        let [rip, cs, _flags, old_rsp, ss] = [0, 8, 16, 24, 32].map(|offset| word(at.wrapping_add(offset)));
        (cs == Some(USER_CS.into()) && ss == Some(USER_DS.into())).then_some((rip?, old_rsp?))
    })
}

fn named(symbols: &Symbols, gva: u64) -> String {
    match symbols.name(Gva(gva)) {
        Some(name) => format!("{gva:#x} <{name}>"),
        None => format!("{gva:#x}"),
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (general, special) = (&self.general, &self.special);
        let rows = [
            [("rax", general.rax), ("rbx", general.rbx), ("rcx", general.rcx), ("rdx", general.rdx)],
            [("rsi", general.rsi), ("rdi", general.rdi), ("rbp", general.rbp), ("rsp", general.rsp)],
            [("r8 ", general.r8), ("r9 ", general.r9), ("r10", general.r10), ("r11", general.r11)],
            [("r12", general.r12), ("r13", general.r13), ("r14", general.r14), ("r15", general.r15)],
            [
                ("rip", general.rip),
                ("flg", general.rflags),
                ("fsb", special.fs.base),
                ("gsb", special.gs.base),
            ],
            [("cr0", special.cr0), ("cr2", special.cr2), ("cr3", special.cr3), ("cr4", special.cr4)],
        ];
        for row in rows {
            write!(f, " ")?;
            for (name, value) in row {
                write!(f, " {name}={value:016x}")?;
            }
            writeln!(f)?;
        }
        write!(
            f,
            "  cs={:04x} ss={:04x} cpl={} tr={:04x} efer={:x}{}",
            special.cs.selector,
            special.ss.selector,
            special.ss.dpl,
            special.tr.selector,
            special.efer,
            if self.event_in_flight { ", an exception is being delivered" } else { "" }
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "guest {} after {:.6} s, last exit: {}",
            self.name,
            self.uptime.as_secs_f64(),
            self.exit
        )?;
        match &self.registers {
            Some(registers) => writeln!(f, "registers:\n{registers}")?,
            None => writeln!(f, "registers: unknown")?,
        }
        for line in &self.addresses {
            writeln!(f, "  {line}")?;
        }
        let (start, code, at) = &self.code;
        let (before, from) = code.split_at((*at).min(code.len()));
        writeln!(f, "code at {start:#x} (rip after the bar): {} | {}", Hex(before), Hex(from))?;
        if let Some((rip, rsp)) = self.interrupted {
            writeln!(
                f,
                "CPL 0 stub entered from CPL 3 at rip {rip:#x}, rsp {rsp:#x} (the stack below is that one)"
            )?;
        }
        if !self.backtrace.is_empty() {
            writeln!(f, "backtrace (frame pointers):")?;
            for (index, line) in self.backtrace.iter().enumerate() {
                writeln!(f, "  #{index} {line}")?;
            }
        }
        writeln!(f, "stack:")?;
        for words in self.stack.chunks(4) {
            let address = words.first().map_or(0, |word| word.0);
            write!(f, "  {address:#x}:")?;
            for (_, value, _) in words {
                write!(f, " {value:016x}")?;
            }
            writeln!(f)?;
        }
        for (address, value, name) in &self.stack {
            if let Some(name) = name {
                writeln!(f, "  {address:#x}: {value:#x} <{name}>")?;
            }
        }
        writeln!(f, "last host calls:")?;
        for call in &self.calls {
            writeln!(f, "  {call}")?;
        }
        writeln!(f, "last log lines:")?;
        let shown = self.log.len().saturating_sub(LOG_SHOWN);
        for line in &self.log[shown..] {
            writeln!(f, "  {}", cut(line.clone(), LINE_SHOWN))?;
        }
        Ok(())
    }
}
