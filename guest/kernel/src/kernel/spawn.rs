//! Processes that the VMM starts: the first one, and those of `exec` (crictl exec, probes).

use super::{Boot, Kernel};
use crate::errno::Errno;
use crate::exec::elf::ExecError;
use crate::exec::{self, Request};
use crate::fs::mount::Stdio;
use crate::fs::{FdTable, File, FsContext};
use crate::syscall::exec::FileLoader;
use crate::syscall::system::default_limits;
use crate::task::credentials::Credentials;
use crate::task::process::{Parts, Process};
use crate::task::thread::{Context, ExtendedState, Thread};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use seuss_abi::call::Op;
use seuss_abi::spec::ProcessSpec;

/// Default RLIMIT_NOFILE.
const NOFILE_DEFAULT: u64 = 1 << 20;
/// RLIMIT_STACK.
const STACK_DEFAULT: u64 = 8 << 20;
/// Where programs without a slash are searched if PATH is not set (execvp(3)).
const PATH_DEFAULT: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Kernel {
    /// Bring the library OS up: file systems, then the first process. What fails is told to the VMM, which ends the guest.
    #[must_use]
    pub fn boot(boot: Boot<'_>, spec: &ProcessSpec) -> Self {
        let kernel = match Self::mount(boot, spec) {
            Ok(kernel) => kernel,
            Err((machine, message)) => loop {
                let gpa = machine.gpa_of(message.as_ptr());
                machine.host_call(Op::Panic, [gpa, message.len() as u64, 0, 0, 0, 0]);
            },
        };
        if !spec.hostname.is_empty() {
            *kernel.hostname.borrow_mut() = spec.hostname.clone();
        }
        kernel.start(0, spec);
        if spec.read_only_root {
            kernel.fs.set_read_only_root();
        }
        kernel
    }

    /// Start the process that the VMM calls `token`, and tell the VMM how that went.
    pub(super) fn start(&self, token: u32, spec: &ProcessSpec) {
        // Once: who drops a stream closes it.
        let stdio = self.fs.stdio(spec).map_err(ExecError::from);
        let spawn = || self.spawn(Some(token), spec, stdio.clone()?);
        let mut outcome = spawn();
        if self.fs.env.base.take_hit() {
            self.give_up_base();
            if outcome.is_err() {
                // The first process, as only that one is started in the phase: its number is 1.
                self.next_tid.set(1);
                outcome = spawn();
            }
        }
        self.fs.env.base.run();
        let (value, message) = match &outcome {
            Ok(pid) => (i64::from(*pid), String::new()),
            Err(error) => (-i64::from(error.errno.0), error.message.clone()),
        };
        // The message is copied to the heap, which is physically contiguous, unlike constants.
        let message = message.into_bytes();
        let gpa = self.machine.gpa_of(message.as_ptr());
        let args = [u64::from(token), value.cast_unsigned(), gpa, message.len() as u64, 0, 0];
        self.machine.host_call(Op::Started, args);
    }

    /// Start a restore hook; the VMM knows nothing of it.
    pub(super) fn spawn_hook(&self, spec: &ProcessSpec, stdio: [Rc<File>; 3]) -> Result<u32, ExecError> {
        self.spawn(None, spec, (stdio, None))
    }

    fn spawn(&self, token: Option<u32>, spec: &ProcessSpec, stdio: Stdio) -> Result<u32, ExecError> {
        let pid = self.allocate_tid()?;
        let credentials = Credentials::new(spec.uid, spec.gid, spec.groups.clone());
        let fs = FsContext::new(&self.fs.root, spec.umask);
        if !spec.cwd.is_empty() {
            let cwd = self.fs.make_directories(&spec.cwd).map_err(|errno| ExecError {
                errno,
                message: format!(
                    "working directory {}: {}",
                    String::from_utf8_lossy(&spec.cwd),
                    errno.name()
                ),
            })?;
            fs.set_cwd(cwd);
        }
        let nofile = if spec.nofile == 0 { NOFILE_DEFAULT } else { spec.nofile };
        let mut files = FdTable::new();
        let (stdio, terminal) = stdio;
        for file in stdio {
            files.insert(file, false, nofile)?;
        }

        let loader = FileLoader::new(self, &credentials, &fs);
        let env = spec.env.clone();
        let of_runtime = self.runtime.borrow().as_ref().map(|runtime| runtime.request(env.clone()));
        let request = match of_runtime {
            Some(request) => request,
            None => {
                let path = find_program(&loader, spec)?;
                Request { path, invoked: None, args: spec.args.clone(), env, personality: 0 }
            }
        };
        let image = exec::prepare(self, &loader, request, &credentials, STACK_DEFAULT)?;

        let parts = Parts {
            space: Rc::new(RefCell::new(image.space)),
            files: Rc::new(RefCell::new(files)),
            fs: Rc::new(fs),
            actions: Rc::default(),
            credentials,
            limits: default_limits(nofile, STACK_DEFAULT, self.config.threads_max as u64),
        };
        let now_ns = self.machine.boottime_ns();
        let process = Rc::new(Process::new(pid, None, token, parts, &self.woken, now_ns));
        process.is_hook.set(token.is_none());
        *process.program.borrow_mut() = image.program;
        let mut context = Context::default();
        context.registers.rip = image.entry;
        context.registers.rsp = image.stack;
        let extended = ExtendedState::new(self.config.xsave_bytes);
        let thread = Rc::new(Thread::new(pid, process.clone(), context, extended));
        thread.set_comm(&image.comm);
        if let Some(terminal) = terminal {
            terminal.session().set(pid);
            terminal.foreground().set(pid);
        }
        self.add_process(&process);
        self.add_thread(&thread);
        Ok(pid)
    }
}

/// The path of the program: as given if it has a slash, else the first executable file of that name in PATH.
pub(super) fn find_program(loader: &FileLoader<'_>, spec: &ProcessSpec) -> Result<Vec<u8>, ExecError> {
    let name = spec.args.first().map(Vec::as_slice).unwrap_or_default();
    let shown = String::from_utf8_lossy(name);
    if name.is_empty() {
        return Err(ExecError { errno: Errno::ENOENT, message: "the program's name is empty".into() });
    }
    if name.contains(&b'/') {
        return Ok(name.to_vec());
    }
    let path = spec.env.iter().find_map(|entry| entry.strip_prefix(b"PATH=")).unwrap_or(PATH_DEFAULT);
    let mut errno = Errno::ENOENT;
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let candidate = [directory, b"/", name].concat();
        match exec::Loader::open(loader, &candidate) {
            Ok(_) => return Ok(candidate),
            Err(Errno::EACCES) => errno = Errno::EACCES,
            Err(_) => {}
        }
    }
    let message =
        format!("{shown}: not found as an executable file in PATH ({})", String::from_utf8_lossy(path));
    Err(ExecError { errno, message })
}
