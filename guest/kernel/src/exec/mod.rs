//! execve(2): from a path to an address space and the first registers.

pub mod elf;
pub mod layout;
pub mod node;
pub mod stack;
pub mod symbols;
pub mod vdso;

use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::mem::space::Space;
use crate::task::credentials::Credentials;
use crate::task::process::Program;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use elf::{Binary, ExecError, Headers};
use layout::Layout;

/// Most interpreters of interpreters (`#!`), as BINPRM_MAX_RECURSION.
const SCRIPT_DEPTH: usize = 5;
/// Longest first line of a script that is looked at (BINPRM_BUF_SIZE).
const SCRIPT_LINE: usize = 256;

/// personality(2): addresses are not left to chance.
const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;

/// What to execute.
pub struct Request {
    /// Path as the caller gave it.
    pub path: Vec<u8>,
    /// The path that the program learns as its own, if it is another one: that of the script which `path` interprets.
    pub invoked: Option<Vec<u8>>,
    /// Arguments.
    pub args: Vec<Vec<u8>>,
    /// Environment.
    pub env: Vec<Vec<u8>>,
    /// personality(2) of who executes it.
    pub personality: u32,
}

/// A program that is ready to run.
pub struct Image {
    /// Its address space.
    pub space: Space,
    /// First instruction.
    pub entry: u64,
    /// Initial stack pointer.
    pub stack: u64,
    /// For /proc.
    pub program: Program,
    /// Name of the thread: the file name.
    pub comm: Vec<u8>,
}

/// Where programs come from: the file system, as one caller sees it.
pub trait Loader {
    /// Open `path` for execution. Returns the file and its absolute path.
    ///
    /// # Errors
    /// ENOENT, EACCES, ENOTDIR, ELOOP, EISDIR, ...
    fn open(&self, path: &[u8]) -> crate::errno::Result<(Rc<dyn Binary>, Vec<u8>)>;

    /// Whether the program could read the file at `path`.
    fn can_read(&self, path: &[u8]) -> bool {
        let _ = path;
        false
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Build the address space of a program. Nothing of the caller changes, so that a failure leaves it as it was.
///
/// # Errors
/// As execve(2); the message says which file and what is wrong with it.
pub fn prepare(
    kernel: &Kernel,
    loader: &dyn Loader,
    request: Request,
    credentials: &Credentials,
    stack_limit: u64,
) -> Result<Image, ExecError> {
    let Request { path, invoked, args, env, personality } = request;
    let invoked = invoked.unwrap_or_else(|| path.clone());
    stack::check(&args, &env)?;
    let Resolved { path, args, binary, absolute } = resolve(loader, path, args)?;
    let env =
        if kernel.renews_interpreters.get() { node::with_module(loader, &absolute, &args, env) } else { env };
    let has_module = node::has_module(&env);
    let headers = Headers::read(&*binary)
        .map_err(|error| ExecError { message: format!("{}: {}", lossy(&path), error.message), ..error })?;

    let layout = match personality & ADDR_NO_RANDOMIZE {
        0 => Layout::random(&kernel.random, stack::size(stack_limit)),
        _ => Layout::FIXED,
    };
    let mut space = Space::new(&kernel.frames, kernel.config.template_pml4)?;
    space.begin_mmap_at(layout.mmap_top);
    let program = headers.load(&mut space, &*binary, Some(layout.program))?;
    let (entry, interpreter_base) = match &headers.interpreter {
        None => (program.entry, 0),
        Some(interpreter) => {
            let wrap = |error: ExecError| ExecError {
                message: format!("{}: interpreter {}: {}", lossy(&path), lossy(interpreter), error.message),
                ..error
            };
            let (binary, _) = loader.open(interpreter).map_err(|errno| wrap(errno.into()))?;
            let headers = Headers::read(&*binary).map_err(wrap)?;
            let loaded = headers.load(&mut space, &*binary, None).map_err(wrap)?;
            (loaded.entry, loaded.base)
        }
    };
    space.brk_start = program.range.1 + layout.heap_gap;
    space.brk = space.brk_start;

    let vdso = kernel.vdso.map(&mut space, &layout)?;
    let mut random = [0; 16];
    kernel.random.fill(&mut random);
    let identity = kernel.identity.borrow();
    let contents = stack::Contents {
        args: &args,
        env: &env,
        identity: &identity,
        path: &invoked,
        program,
        interpreter_base,
        credentials,
        random,
        hwcap: u64::from(core::arch::x86_64::__cpuid(1).edx),
        signal_stack_min: kernel.config.xsave_bytes + 1024,
        vdso,
    };
    let built = stack::build(&mut space, &contents, &layout, stack_limit, headers.executable_stack)?;
    let comm = invoked.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    Ok(Image {
        space,
        entry,
        stack: built.pointer,
        comm,
        program: Program {
            path: absolute,
            node: binary.node(),
            arguments: built.arguments,
            environment: built.environment,
            identity: built.identity,
            moved_environment: Vec::new(),
            auxv: built.auxv,
            code: (program.range.0, program.code_end),
            stack: built.pointer,
            has_module,
        },
    })
}

/// A program behind its scripts.
pub struct Resolved {
    /// Path of the binary, as the caller or a script named it.
    pub path: Vec<u8>,
    /// Arguments, those of interpreters included.
    pub args: Vec<Vec<u8>>,
    /// The binary.
    pub binary: Rc<dyn Binary>,
    /// Its absolute path.
    pub absolute: Vec<u8>,
}

/// Open `path`; where it is a script, its interpreter, with the arguments that that one gets.
///
/// # Errors
/// As execve(2).
pub fn resolve(
    loader: &dyn Loader,
    mut path: Vec<u8>,
    mut args: Vec<Vec<u8>>,
) -> Result<Resolved, ExecError> {
    let mut depth = 0;
    loop {
        let name = lossy(&path);
        let (binary, absolute) = loader.open(&path).map_err(|errno| ExecError {
            errno,
            message: format!("{name}: cannot be executed: {}", errno.name()),
        })?;
        let mut head = [0; SCRIPT_LINE];
        let len = binary.read_at(0, &mut head)?;
        let Some(line) = head[..len].strip_prefix(b"#!") else {
            return Ok(Resolved { path, args, binary, absolute });
        };
        depth += 1;
        if depth > SCRIPT_DEPTH {
            return Err(ExecError { errno: Errno::ELOOP, message: format!("{name}: too many interpreters") });
        }
        let (interpreter, argument) = script(line).ok_or_else(|| ExecError {
            errno: Errno::ENOEXEC,
            message: format!("{name}: script without an interpreter in its first line"),
        })?;
        let mut longer = vec![interpreter.clone()];
        longer.extend(argument);
        longer.push(path);
        longer.extend(args.into_iter().skip(1));
        args = longer;
        path = interpreter;
    }
}

/// Interpreter and optional argument of a script's first line (without `#!`).
fn script(line: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    let line = line[..end].trim_ascii();
    let split = line.iter().position(|byte| *byte == b' ' || *byte == b'\t');
    let (interpreter, argument) = match split {
        Some(at) => (&line[..at], Some(line[at..].trim_ascii().to_vec())),
        None => (line, None),
    };
    (!interpreter.is_empty()).then(|| (interpreter.to_vec(), argument))
}

#[cfg(test)]
mod tests {
    use super::script;

    #[test]
    fn script_lines() {
        let parse = |line: &str| script(line.as_bytes());
        assert_eq!(parse("/bin/sh\necho"), Some((b"/bin/sh".to_vec(), None)));
        assert_eq!(
            parse(" /usr/bin/env  python3 -u \n"),
            Some((b"/usr/bin/env".to_vec(), Some(b"python3 -u".to_vec())))
        );
        assert_eq!(parse("\n"), None);
    }
}
