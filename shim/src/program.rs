//! Checks a program before a guest is started for it.
//!
//! Owns the search through `PATH`, the look at the executable's format and at its interpreter, and the words and exit codes for what can
//! be wrong with them. `seussctl run` and the shim both use it, so that "not found" reads the same in a shell and in `kubectl describe`.
//! The guest's loader decides again, by Linux's rules: a check that passes here promises nothing. It must not refuse what Linux
//! would run.

use object::LittleEndian as LE;
use object::elf;

use seuss_abi::spec::ProcessSpec;

use crate::rootview::{Node, RootView, ViewError};

/// `PATH` when the environment has none, as containerd's and Docker's default.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Interpreters of interpreters that are followed, as in Linux (`BINPRM` recursion limit).
const NESTING_MAX: usize = 4;

/// Most bytes read of a program's start: headers, or a `#!` line (Linux looks at 256).
const HEAD_BYTES: usize = 4096;

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Nothing to run.
    #[error("no program given, and the image names none (no Entrypoint and no Cmd); name one")]
    None,
    /// Not there.
    #[error("{program}: no such program in the root file system")]
    NotFound {
        /// As asked for.
        program: String,
    },
    /// Not in `PATH`.
    #[error("{program}: not found in the root file system's PATH ({path})")]
    NotInPath {
        /// As asked for.
        program: String,
        /// `PATH`.
        path: String,
    },
    /// A directory or another kind of file.
    #[error("{program} is a {kind}, not a program")]
    NotAFile {
        /// Its path.
        program: String,
        /// What it is.
        kind: &'static str,
    },
    /// No `x` bit.
    #[error("{program} is not executable (mode {mode:04o}); set its x bits when the image is built")]
    NotExecutable {
        /// Its path.
        program: String,
        /// Permission bits.
        mode: u16,
    },
    /// Neither ELF nor script.
    #[error("{program} is neither an ELF executable nor a script with a #! line (exec format error)")]
    Format {
        /// Its path.
        program: String,
    },
    /// An ELF file of another machine.
    #[error("{program} is an ELF file for {found}; SEUSS runs x86-64 programs: use an image for linux/amd64")]
    Machine {
        /// Its path.
        program: String,
        /// Architecture or class.
        found: String,
    },
    /// A library, object or core file.
    #[error("{program} is an ELF file of type {kind}, not an executable")]
    ElfType {
        /// Its path.
        program: String,
        /// Its type.
        kind: String,
    },
    /// The file ends too early.
    #[error(
        "{program} is a truncated ELF file: {what} ends at byte {end}, the file has {size_bytes} bytes; build the image again"
    )]
    Truncated {
        /// Its path.
        program: String,
        /// Which part.
        what: &'static str,
        /// Where that part ends.
        end: u64,
        /// The file's size.
        size_bytes: u64,
    },
    /// The interpreter (ld.so, or that of a script) is missing.
    #[error(
        "{program} needs the interpreter {interpreter}, which is not in the root file system; add it, or link the program statically"
    )]
    NoInterpreter {
        /// Its path.
        program: String,
        /// As the program names it.
        interpreter: String,
    },
    /// Interpreters of interpreters.
    #[error("{program}: interpreters are nested too deeply")]
    Nesting {
        /// Its path.
        program: String,
    },
    /// The root file system cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl ProgramError {
    /// The exit code that shells, env(1) and Docker use for it: 127 not found, 126 found but not runnable, 125 our own failure.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } | Self::NotInPath { .. } | Self::NoInterpreter { .. } => 127,
            Self::None | Self::View(_) => 125,
            _ => 126,
        }
    }
}

/// The exit code for a program that execve(2) refuses with `errno`, by the same rule.
#[must_use]
pub fn exit_code_of(errno: i32) -> u8 {
    match errno {
        libc::ENOENT | libc::ENOTDIR => 127,
        libc::EACCES
        | libc::EPERM
        | libc::ENOEXEC
        | libc::EISDIR
        | libc::ELIBBAD
        | libc::EINVAL
        | libc::ELOOP => 126,
        _ => 125,
    }
}

/// Checks that the first argument of `process` names something that Linux would execute, looked up as execvp(3) does with `PATH` of its
/// environment and its working directory. Files that are put into the guest as it starts hide those of `view` and pass unseen.
///
/// # Errors
/// [`ProgramError`].
pub fn check(view: &RootView, process: &ProcessSpec) -> Result<(), ProgramError> {
    let program = process.args.first().ok_or(ProgramError::None)?;
    match find(view, program, process)? {
        Found::Node(node) => check_node(view, process, &node, 0),
        Found::Injected => Ok(()),
    }
}

/// A file that a path names.
enum Found {
    Node(Node),
    /// One that is put into the guest as it starts.
    Injected,
}

fn lookup(view: &RootView, process: &ProcessSpec, path: &[u8]) -> Result<Option<Found>, ViewError> {
    if process.files.iter().any(|file| file.path == path) {
        return Ok(Some(Found::Injected));
    }
    Ok(view.lookup(path)?.map(Found::Node))
}

fn find(view: &RootView, program: &[u8], process: &ProcessSpec) -> Result<Found, ProgramError> {
    if program.contains(&b'/') {
        let path = join(&process.cwd, program);
        return lookup(view, process, &path)?
            .ok_or_else(|| ProgramError::NotFound { program: text(program) });
    }
    let path = process.env.iter().rev().find_map(|entry| entry.strip_prefix(b"PATH="));
    let path = path.unwrap_or(DEFAULT_PATH.as_bytes());
    let not_found = || ProgramError::NotInPath { program: text(program), path: text(path) };
    if program.is_empty() {
        return Err(not_found());
    }
    let mut blocked = None;
    for dir in path.split(|byte| *byte == b':') {
        let candidate = join(&process.cwd, &join(if dir.is_empty() { b"." } else { dir }, program));
        let node = match lookup(view, process, &candidate)? {
            None => continue,
            Some(Found::Injected) => return Ok(Found::Injected),
            Some(Found::Node(node)) => node,
        };
        // As execvp(3): what cannot be executed is passed over, and reported if nothing better follows.
        match check_mode(&node) {
            Ok(()) => return Ok(Found::Node(node)),
            Err(error @ ProgramError::NotExecutable { .. }) => blocked = blocked.or(Some(error)),
            Err(_) => {}
        }
    }
    Err(blocked.unwrap_or_else(not_found))
}

fn check_mode(node: &Node) -> Result<(), ProgramError> {
    let program = || text(&node.path);
    if !node.inode.is_file() {
        let kind = if node.inode.is_dir() { "directory" } else { "special file" };
        return Err(ProgramError::NotAFile { program: program(), kind });
    }
    let mode = node.inode.mode & 0o7777;
    if mode & 0o111 == 0 {
        return Err(ProgramError::NotExecutable { program: program(), mode });
    }
    Ok(())
}

fn check_node(view: &RootView, process: &ProcessSpec, node: &Node, depth: usize) -> Result<(), ProgramError> {
    check_mode(node)?;
    let program = text(&node.path);
    if depth > NESTING_MAX {
        return Err(ProgramError::Nesting { program });
    }
    let head = view.read_at(node, 0, HEAD_BYTES)?;
    let interpreter = if let Some(line) = head.strip_prefix(b"#!") {
        Some(script_interpreter(line).ok_or(ProgramError::Format { program: program.clone() })?)
    } else {
        elf_interpreter(view, node, &head, &program)?
    };
    let Some(interpreter) = interpreter else { return Ok(()) };
    let missing =
        || ProgramError::NoInterpreter { program: program.clone(), interpreter: text(&interpreter) };
    match lookup(view, process, &join(&process.cwd, &interpreter))?.ok_or_else(missing)? {
        Found::Node(node) => check_node(view, process, &node, depth + 1),
        Found::Injected => Ok(()),
    }
}

/// The interpreter that a script names after `#!` (execve(2), "Interpreter scripts").
fn script_interpreter(line: &[u8]) -> Option<Vec<u8>> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let name = line.trim_ascii().split(|byte| *byte == b' ' || *byte == b'\t').next()?;
    (!name.is_empty()).then(|| name.to_vec())
}

/// Checks an ELF file's headers; returns the interpreter of its PT_INTERP segment, if it has one.
fn elf_interpreter(
    view: &RootView,
    node: &Node,
    head: &[u8],
    program: &str,
) -> Result<Option<Vec<u8>>, ProgramError> {
    let size_bytes = node.inode.size_bytes;
    let program = || program.to_owned();
    let truncated = |what, end| ProgramError::Truncated { program: program(), what, end, size_bytes };
    if !head.starts_with(&elf::ELFMAG) {
        return Err(ProgramError::Format { program: program() });
    }
    let ident = head.get(4..6).ok_or_else(|| truncated("the ELF header", 64))?;
    if ident[0] != elf::ELFCLASS64.0 {
        let found =
            if ident[0] == elf::ELFCLASS32.0 { "a 32-bit machine" } else { "an unknown class of machine" };
        return Err(ProgramError::Machine { program: program(), found: found.to_owned() });
    }
    let (header, _) = object::pod::from_bytes::<elf::FileHeader64<LE>>(head)
        .map_err(|()| truncated("the ELF header", 64))?;
    let machine = header.e_machine.get(LE);
    if machine != elf::EM_X86_64 || ident[1] != elf::ELFDATA2LSB.0 {
        return Err(ProgramError::Machine { program: program(), found: machine_name(machine) });
    }
    let kind = header.e_type.get(LE);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        let kind = match kind {
            elf::ET_REL => "REL (object file)".to_owned(),
            elf::ET_CORE => "CORE (core dump)".to_owned(),
            other => format!("{}", other.0),
        };
        return Err(ProgramError::ElfType { program: program(), kind });
    }
    let count = usize::from(header.e_phnum.get(LE));
    let table_bytes = count * size_of::<elf::ProgramHeader64<LE>>();
    let table_offset = header.e_phoff.get(LE);
    let table_end = table_offset.saturating_add(table_bytes as u64);
    if table_end > size_bytes {
        return Err(truncated("the program header table", table_end));
    }
    let table = view.read_at(node, table_offset, table_bytes)?;
    let (segments, _) = object::pod::slice_from_bytes::<elf::ProgramHeader64<LE>>(&table, count)
        .map_err(|()| truncated("the program header table", table_end))?;
    let mut interpreter = None;
    for segment in segments {
        let (offset, file_bytes) = (segment.p_offset.get(LE), segment.p_filesz.get(LE));
        let end = offset.saturating_add(file_bytes);
        match segment.p_type.get(LE) {
            elf::PT_LOAD if end > size_bytes => return Err(truncated("a loadable segment", end)),
            elf::PT_INTERP if end > size_bytes || file_bytes > 4096 => {
                return Err(truncated("the interpreter's name", end));
            }
            elf::PT_INTERP => {
                let mut name = view.read_at(node, offset, file_bytes as usize)?;
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                interpreter = Some(name);
            }
            _ => {}
        }
    }
    Ok(interpreter)
}

fn machine_name(machine: elf::Machine) -> String {
    match machine {
        elf::EM_386 => "i386".to_owned(),
        elf::EM_ARM => "32-bit ARM".to_owned(),
        elf::EM_AARCH64 => "arm64".to_owned(),
        elf::EM_PPC64 => "ppc64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        elf::EM_RISCV => "riscv64".to_owned(),
        elf::EM_X86_64 => "big-endian x86-64".to_owned(),
        other => format!("machine number {}", other.0),
    }
}

/// `path` seen from directory `base`.
fn join(base: &[u8], path: &[u8]) -> Vec<u8> {
    if path.first() == Some(&b'/') {
        return path.to_vec();
    }
    [base, b"/", path].concat()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
