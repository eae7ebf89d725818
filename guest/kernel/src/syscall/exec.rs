//! execve(2) and where its files come from.

use super::call::Call;
use super::table::{Entry, full, partial};
use crate::errno::{Errno, Result, Stop, SysResult};
use crate::exec::elf::Binary;
use crate::exec::stack::{STRING_MAX, STRINGS_MAX};
use crate::exec::{self, Loader, Request};
use crate::fs::access::Access;
use crate::fs::{Context as Place, File, FsContext, Node, Subject};
use crate::kernel::Kernel;
use crate::mem::pager::Pager;
use crate::task::credentials::Credentials;
use crate::task::process::LIMIT_STACK;
use crate::task::thread::{Context, ExtendedState};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

/// The family.
pub const TABLE: &[Entry] = &[
    partial(59, "execve", execve, "set-user-ID bits and file capabilities are ignored"),
    full(322, "execveat", execveat),
];

const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_EMPTY_PATH: u64 = 0x1000;

/// An open executable.
struct FileBinary {
    file: Rc<File>,
    pager: Rc<dyn Pager>,
}

impl Binary for FileBinary {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        self.file.read_kernel(offset, bytes)
    }

    fn pager(&self) -> Rc<dyn Pager> {
        self.pager.clone()
    }

    fn node(&self) -> Option<Rc<Node>> {
        Some(self.file.node().clone())
    }
}

/// Whose rights count when `credentials` open files.
#[must_use]
pub fn subject(credentials: &Credentials) -> Subject<'_> {
    Subject { uid: credentials.fsuid, gid: credentials.fsgid, groups: &credentials.groups }
}

/// Opens executables as one process would.
pub struct FileLoader<'a> {
    place: Place<'a>,
    start: Rc<Node>,
    /// The file itself, for execveat(2) with an empty path.
    given: Option<Rc<File>>,
}

impl<'a> FileLoader<'a> {
    /// A loader with the rights of `credentials`, in the tree of `fs`.
    #[must_use]
    pub fn new(kernel: &'a Kernel, credentials: &'a Credentials, fs: &FsContext) -> Self {
        Self::at(Place {
            subject: subject(credentials),
            root: fs.root(),
            cwd: fs.cwd(),
            umask: fs.umask(),
            processes: kernel,
        })
    }

    /// A loader that sees what `place` says.
    #[must_use]
    pub fn at(place: Place<'a>) -> Self {
        Self { start: place.cwd.clone(), place, given: None }
    }
}

impl Loader for FileLoader<'_> {
    fn can_read(&self, path: &[u8]) -> bool {
        let node = self.place.walk(&self.start, path, true);
        node.is_ok_and(|node| self.place.subject.check(&node, Access::READ).is_ok())
    }

    fn open(&self, path: &[u8]) -> Result<(Rc<dyn Binary>, Vec<u8>)> {
        let node = match &self.given {
            Some(file) if path.is_empty() => file.node().clone(),
            _ => self.place.walk(&self.start, path, true)?,
        };
        if node.data().is_err() {
            return Err(Errno::EACCES);
        }
        self.place.subject.check(&node, Access::EXECUTE)?;
        if node.writers() > 0 {
            return Err(Errno::ETXTBSY);
        }
        let absolute = node.path(&self.place.root).unwrap_or_else(|_| path.to_vec());
        let file = File::new(node.clone(), node, 0);
        let pager = file.ops().pager(&file)?;
        Ok((Rc::new(FileBinary { file, pager }), absolute))
    }
}

fn strings(call: &Call<'_>, array: u64) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut total = 0;
    if array == 0 {
        return Ok(found);
    }
    loop {
        let pointer = call.read_u64(array.wrapping_add(found.len() as u64 * 8))?;
        if pointer == 0 {
            return Ok(found);
        }
        let string = call.read_string(pointer, STRING_MAX, Errno::E2BIG)?;
        total += string.len() + 9;
        if total > STRINGS_MAX {
            return Err(Errno::E2BIG);
        }
        found.push(string);
    }
}

fn execve(call: &mut Call<'_>) -> SysResult {
    let [path, args, env, ..] = call.args;
    run(call, AT_FDCWD, path, args, env, 0)
}

fn execveat(call: &mut Call<'_>) -> SysResult {
    let [directory, path, args, env, flags, _] = call.args;
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL.into());
    }
    run(call, directory as u32 as i32, path, args, env, flags)
}

fn run(call: &mut Call<'_>, directory: i32, path: u64, args: u64, env: u64, flags: u64) -> SysResult {
    let kernel = call.kernel;
    let path = call.read_path(path)?;
    kernel.check_user_at_exec(&call.process)?;
    let mut args = strings(call, args)?;
    let env = strings(call, env)?;
    if args.is_empty() {
        args.push(Vec::new());
    }
    let credentials = call.process.credentials.borrow().clone();
    let fs = call.process.fs();
    let mut loader = FileLoader::new(kernel, &credentials, &fs);
    if directory != AT_FDCWD && !path.starts_with(b"/") {
        let file = call.process.files().borrow().get_any(directory)?;
        loader.start = file.node().clone();
        loader.given = (flags & AT_EMPTY_PATH != 0).then_some(file);
    }
    if path.is_empty() && loader.given.is_none() {
        return Err(Errno::ENOENT.into());
    }
    if flags & AT_SYMLINK_NOFOLLOW != 0 && loader.place.walk(&loader.start, &path, false)?.is_symlink() {
        return Err(Errno::ELOOP.into());
    }
    let request = Request { path, invoked: None, args, env, personality: call.process.personality.get() };
    let image = exec::prepare(kernel, &loader, request, &credentials, call.process.limit(LIMIT_STACK))
        .map_err(|error| {
            if error.errno == Errno::ENOEXEC {
                kernel.log(4, &format!("execve: {}", error.message));
            }
            error.errno
        })?;

    let process = call.process.clone();
    let files = process.files();
    let is_shared = Rc::strong_count(&files) > 2;
    let files = if is_shared { Rc::new(RefCell::new(files.borrow().fork()?)) } else { files };

    // Nothing can fail from here on.
    kernel.forget_detour(&call.thread);
    let thread = kernel.become_leader(&call.thread);
    kernel.end_other_threads(&thread);
    process.note_rss();
    process.renewal.exec();
    process.set_space(Rc::new(RefCell::new(image.space)));
    *process.program.borrow_mut() = image.program;
    process.has_execed.set(true);
    process.dumpable.set(true);
    let shared = process.actions.borrow().borrow().clone();
    let mut actions = shared;
    actions.reset_handlers();
    *process.actions.borrow_mut() = Rc::new(RefCell::new(actions));
    files.borrow_mut().exec();
    process.set_files(files);
    process.posix_timers.borrow_mut().clear();
    thread.set_comm(&image.comm);
    thread.alt_stack.set(Default::default());
    thread.clear_child_tid.set(0);
    thread.robust_list.set(0);
    thread.with_context(|context| {
        *context = Context::default();
        context.registers.rip = image.entry;
        context.registers.rsp = image.stack;
    });
    *thread.extended.borrow_mut() = ExtendedState::new(kernel.config.xsave_bytes);
    kernel.forget_extended(&thread);
    kernel.machine.set_segment_bases(0, 0);
    kernel.release_vfork_parent(&process);
    Err(Stop::NoResult)
}
