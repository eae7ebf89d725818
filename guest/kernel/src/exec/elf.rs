//! ELF executables (elf(5), System V ABI AMD64): reading the headers and mapping the segments. Every byte is the application's.

use crate::errno::{Errno, Result};
use crate::fs::Node;
use crate::mem::area::{Area, Placement, Protection};
use crate::mem::large_file;
use crate::mem::pager::Pager;
use crate::mem::space::Space;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use seuss_abi::layout::PAGE_SIZE;

/// Most program headers (as Linux: the table fits one page).
const HEADERS_MAX: usize = PAGE_SIZE as usize / 56;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;

/// A file that can be executed.
pub trait Binary {
    /// Read at a file offset; fewer bytes only at the end.
    ///
    /// # Errors
    /// EIO.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize>;
    /// Its pages, to map.
    fn pager(&self) -> Rc<dyn Pager>;
    /// Its node, for /proc/PID/exe.
    fn node(&self) -> Option<Rc<Node>> {
        None
    }
}

/// Why a program cannot be executed: the errno that execve returns and words for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecError {
    /// What execve returns.
    pub errno: Errno,
    /// What is wrong.
    pub message: String,
}

impl From<Errno> for ExecError {
    fn from(errno: Errno) -> Self {
        Self { errno, message: errno.name().to_string() }
    }
}

fn refuse(message: String) -> ExecError {
    ExecError { errno: Errno::ENOEXEC, message }
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

/// The headers of an executable.
#[derive(Clone, Debug)]
pub struct Headers {
    kind: u16,
    entry: u64,
    table_offset: u64,
    segments: Vec<Segment>,
    /// Path of the program interpreter.
    pub interpreter: Option<Vec<u8>>,
    /// Whether the stack must be executable (PT_GNU_STACK, or none at all).
    pub executable_stack: bool,
}

/// An executable in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Entry point.
    pub entry: u64,
    /// Distance from file to memory addresses.
    pub base: u64,
    /// Address of the program headers (AT_PHDR).
    pub headers: u64,
    /// How many there are.
    pub header_count: u64,
    /// First address of the first, end of the last segment.
    pub range: (u64, u64),
    /// End of the executable segments.
    pub code_end: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|raw| raw.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|raw| raw.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|raw| raw.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Headers {
    /// Read and check the headers.
    ///
    /// # Errors
    /// ENOEXEC with what is wrong.
    pub fn read(binary: &dyn Binary) -> core::result::Result<Self, ExecError> {
        let mut head = [0; 64];
        if binary.read_at(0, &mut head)? < head.len() || head[..4] != *b"\x7fELF" {
            return Err(refuse("not an ELF file".into()));
        }
        if head[4] != 2 || head[5] != 1 {
            return Err(refuse("not a 64-bit little-endian ELF file".into()));
        }
        let machine = u16_at(&head, 18);
        if machine != EM_X86_64 {
            return Err(refuse(format!("ELF file for machine {machine}, not for x86-64 ({EM_X86_64})")));
        }
        let kind = u16_at(&head, 16);
        if kind != ET_EXEC && kind != ET_DYN {
            return Err(refuse(format!("ELF file of type {kind}, not an executable")));
        }
        let (size, count) = (u16_at(&head, 54), usize::from(u16_at(&head, 56)));
        if size != 56 || count == 0 || count > HEADERS_MAX {
            return Err(refuse(format!("ELF file with {count} program headers of {size} bytes")));
        }
        let table_offset = u64_at(&head, 32);
        let mut table = vec![0; count * 56];
        if binary.read_at(table_offset, &mut table)? < table.len() {
            return Err(refuse("ELF file is truncated: its program headers lie beyond its end".into()));
        }
        let segments: Vec<Segment> = table
            .chunks_exact(56)
            .map(|raw| Segment {
                kind: u32_at(raw, 0),
                flags: u32_at(raw, 4),
                offset: u64_at(raw, 8),
                address: u64_at(raw, 16),
                file_size: u64_at(raw, 32),
                memory_size: u64_at(raw, 40),
            })
            .collect();
        let file_len = binary.pager().len_bytes();
        for segment in segments.iter().filter(|segment| segment.kind == PT_LOAD) {
            let in_file = segment.offset.checked_add(segment.file_size).is_some_and(|end| end <= file_len);
            if !in_file {
                return Err(refuse(format!(
                    "ELF file is truncated: a segment at offset {:#x} of {} bytes lies beyond its end ({file_len} bytes)",
                    segment.offset, segment.file_size
                )));
            }
            let congruent = segment.offset % PAGE_SIZE == segment.address % PAGE_SIZE;
            let bounded = segment.address.checked_add(segment.memory_size).is_some_and(|end| end < 1 << 47);
            if !congruent || !bounded || segment.file_size > segment.memory_size {
                return Err(refuse(format!("ELF file with a malformed segment at {:#x}", segment.address)));
            }
        }
        let stack = segments.iter().find(|segment| segment.kind == PT_GNU_STACK);
        let interpreter = segments.iter().find(|segment| segment.kind == PT_INTERP);
        let interpreter = interpreter.map(|segment| Self::interpreter(binary, segment)).transpose()?;
        Ok(Self {
            kind,
            entry: u64_at(&head, 24),
            table_offset,
            interpreter,
            executable_stack: stack.is_some_and(|segment| segment.flags & 1 != 0),
            segments,
        })
    }

    fn interpreter(binary: &dyn Binary, segment: &Segment) -> core::result::Result<Vec<u8>, ExecError> {
        let malformed = || refuse("ELF file with a malformed interpreter path".into());
        if !(2..=4096).contains(&segment.file_size) {
            return Err(malformed());
        }
        let mut path = vec![0; segment.file_size as usize];
        if binary.read_at(segment.offset, &mut path)? < path.len() || path.pop() != Some(0) {
            return Err(malformed());
        }
        Ok(path)
    }

    fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.memory_size > 0)
    }

    /// Map the segments. A position-independent executable goes to `program`, or a little further up where large pages want that; without `program`, where mmap would put it.
    ///
    /// # Errors
    /// ENOEXEC without segments; ENOMEM; EINVAL where a fixed address cannot be had.
    pub fn load(
        &self,
        space: &mut Space,
        binary: &dyn Binary,
        program: Option<u64>,
    ) -> core::result::Result<Loaded, ExecError> {
        let low = self.loads().map(|segment| segment.address).min();
        let low = low.ok_or_else(|| refuse("ELF file without loadable segments".into()))? & !(PAGE_SIZE - 1);
        let high = self.loads().map(|segment| segment.address + segment.memory_size).max().unwrap_or(low);
        let high = high.next_multiple_of(PAGE_SIZE);
        let pager = binary.pager();
        let first_page = self.loads().find(|segment| segment.address & !(PAGE_SIZE - 1) == low);
        let first_page = first_page.map_or(0, |segment| segment.offset / PAGE_SIZE);
        let base = match (self.kind, program) {
            (ET_EXEC, _) => 0,
            (_, None) => space.place(Placement::Hint(0), high - low)?.wrapping_sub(low),
            (_, Some(program)) => {
                large_file::congruent(program, high - low, &*pager, first_page).wrapping_sub(low)
            }
        };
        let mut code_end = 0;
        for segment in self.loads() {
            let end = Self::map_segment(space, segment, base, &pager)?;
            if segment.flags & 1 != 0 {
                code_end = end;
            }
        }
        let listed =
            self.segments.iter().find(|segment| segment.kind == PT_PHDR).map(|segment| segment.address);
        let covered = self.loads().find(|segment| {
            segment.offset <= self.table_offset && self.table_offset < segment.offset + segment.file_size
        });
        let implied = covered.map(|segment| segment.address + (self.table_offset - segment.offset));
        Ok(Loaded {
            entry: self.entry.wrapping_add(base),
            base,
            headers: listed.or(implied).unwrap_or(0).wrapping_add(base),
            header_count: self.segments.len() as u64,
            range: (low.wrapping_add(base), high.wrapping_add(base)),
            code_end,
        })
    }

    fn map_segment(space: &mut Space, segment: &Segment, base: u64, pager: &Rc<dyn Pager>) -> Result<u64> {
        let mut protection = Protection::empty();
        for (bit, right) in [(4, Protection::READ), (2, Protection::WRITE), (1, Protection::EXECUTE)] {
            if segment.flags & bit != 0 {
                protection |= right;
            }
        }
        let address = segment.address.wrapping_add(base);
        let start = address & !(PAGE_SIZE - 1);
        let file_end = address + segment.file_size;
        let memory_end = (address + segment.memory_size).next_multiple_of(PAGE_SIZE);
        let file_pages_end =
            if segment.file_size == 0 { start } else { file_end.next_multiple_of(PAGE_SIZE) };
        space.place(Placement::Fixed(start), memory_end - start)?;
        if file_pages_end > start {
            let first_page = segment.offset / PAGE_SIZE;
            space.insert(Area::object(
                start,
                file_pages_end - start,
                protection,
                pager.clone(),
                first_page,
            ))?;
        }
        if memory_end > file_pages_end {
            space.insert(Area::anonymous(file_pages_end, memory_end - file_pages_end, protection))?;
        }
        // The file's bytes behind the segment's end are not the program's: .bss starts there.
        if segment.memory_size > segment.file_size
            && file_pages_end > file_end
            && protection.contains(Protection::WRITE)
        {
            let zeros = vec![0; (file_pages_end - file_end) as usize];
            space.write(file_end, &zeros)?;
        }
        Ok(memory_end)
    }
}
