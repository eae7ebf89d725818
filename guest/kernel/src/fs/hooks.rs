//! The programs of the image that a clone runs before its own program goes on ([`crate::kernel::hooks`]): which there are, and where their output goes.

use super::access::Access;
use super::file::{File, FileOps, flags};
use super::host::HostStream;
use super::mount::Fs;
use super::node::{Kind, Node, S_IFIFO};
use super::notify::Notifier;
use super::proc::Nobody;
use crate::errno::Result;
use crate::fs::data::Data;
use crate::mem::user::Source;
use crate::wait::Readiness;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

/// Their directory.
const DIRECTORY: &[u8] = b"/etc/seuss/restore.d";
/// Most of them.
const HOOKS_MAX: usize = 32;

/// Where the output of hooks goes: to the container's standard error, as long as there is some left of what they may write; then nowhere.
struct Output {
    stream: Rc<HostStream>,
    left: Rc<Cell<usize>>,
}

impl FileOps for Output {
    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize> {
        let mut bytes = [0; 4096];
        let want = source.remaining().min(bytes.len());
        let got = source.take(&mut bytes[..want])?;
        let passed = got.min(self.left.get());
        if passed == 0 {
            return Ok(got);
        }
        let written = self.stream.write(&mut &bytes[..passed])?;
        self.left.set(self.left.get() - written.min(passed));
        Ok(written)
    }

    fn poll(&self, _file: &File) -> Readiness {
        if self.left.get() == 0 { Readiness::WRITABLE } else { self.stream.poll() & !Readiness::READABLE }
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(self.stream.notifier())
    }
}

impl Fs {
    /// Paths of the hooks, in order of their names: what is a regular file there, or a link to one, may be executed by somebody, and has no name that begins with a dot.
    #[must_use]
    pub fn restore_hooks(&self) -> Vec<Vec<u8>> {
        let context = self.own_context();
        let Ok(directory) = context.walk(&self.root, DIRECTORY, true) else { return Vec::new() };
        let Ok(mut entries) = directory.list(&Nobody) else { return Vec::new() };
        entries.retain(|entry| !entry.name.starts_with(b"."));
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        let executable = |path: &Vec<u8>| {
            let node = context.walk(&self.root, path, true);
            node.is_ok_and(|node| {
                node.data().is_ok() && context.subject.check(&node, Access::EXECUTE).is_ok()
            })
        };
        let paths = entries.iter().map(|entry| [DIRECTORY, b"/", &entry.name].concat());
        paths.filter(executable).take(HOOKS_MAX).collect()
    }

    /// Standard streams of a hook: nothing to read, and `left` bytes to write to the container's standard error, if that is still open.
    ///
    /// # Errors
    /// ENOENT without a /dev/null.
    pub fn hook_stdio(&self, left: &Rc<Cell<usize>>) -> Result<[Rc<File>; 3]> {
        let null = self.own_context().open(&self.root, b"/dev/null", flags::O_RDWR, 0)?;
        let Some(stream) = self.first_stderr() else { return Ok([null.clone(), null.clone(), null]) };
        let node =
            Node::anonymous(&self.pipes, S_IFIFO | 0o600, (0, 0), b"pipe:", Kind::Regular(Data::empty()));
        let output = File::new(node, Rc::new(Output { stream, left: left.clone() }), flags::O_WRONLY);
        Ok([null, output.clone(), output])
    }
}
