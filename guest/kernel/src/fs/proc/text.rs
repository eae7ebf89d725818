//! Files whose content is a text made at open(2).

use super::{ProcessInfo, Setter, Setting, Shared};
use crate::errno::{Errno, Result};
use crate::fs::env::{Env, FileSystem};
use crate::fs::file::{File, FileOps, Whence, flags};
use crate::fs::node::{Generated, Kind, Node, S_IFREG};
use crate::fs::walk::Context;
use crate::mem::user::{Sink, Source as Bytes};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use seuss_abi::layout::PAGE_SIZE;

/// What a text is made from.
pub(crate) struct Source<'a> {
    pub(crate) processes: &'a dyn ProcessInfo,
    pub(crate) context: &'a Context<'a>,
    pub(crate) env: &'a Env,
    pub(crate) shared: Option<&'a Shared>,
    /// The process and thread that the file is about, zeros outside their directories.
    pub(crate) pid: u32,
    pub(crate) tid: u32,
}

/// Makes a text.
pub(crate) type Maker = fn(&Source<'_>) -> Result<Vec<u8>>;

/// A node with a text.
pub(crate) struct TextNode {
    pub(crate) make: Maker,
    pub(crate) shared: Option<Rc<Shared>>,
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) setting: Option<Setting>,
}

impl Generated for TextNode {
    fn open(&self, node: &Rc<Node>, flags: u32, context: &Context<'_>) -> Result<Rc<dyn FileOps>> {
        let source = Source {
            processes: context.processes,
            context,
            env: &node.fs().env,
            shared: self.shared.as_deref(),
            pid: self.pid,
            tid: self.tid,
        };
        let writes = flags & flags::O_ACCMODE != flags::O_RDONLY;
        let setter = match self.setting {
            Some(setting) if writes => {
                Some(context.processes.setter(self.pid, self.tid, setting).ok_or(Errno::ESRCH)?)
            }
            None if writes => return Err(Errno::EACCES),
            _ => None,
        };
        let text = if flags & flags::O_ACCMODE == flags::O_WRONLY { Vec::new() } else { (self.make)(&source)? };
        Ok(Rc::new(TextFile { text, setter }))
    }
}

/// A node with a text that never changes.
pub(crate) fn static_text(fs: &Rc<FileSystem>, mode: u32, text: &'static str) -> Rc<Node> {
    Node::system(fs, S_IFREG | mode, Kind::Generated(Box::new(StaticText(text))))
}

struct StaticText(&'static str);

impl Generated for StaticText {
    fn open(&self, _node: &Rc<Node>, flags: u32, _context: &Context<'_>) -> Result<Rc<dyn FileOps>> {
        if flags & flags::O_ACCMODE != flags::O_RDONLY {
            return Err(Errno::EACCES);
        }
        Ok(Rc::new(TextFile { text: self.0.as_bytes().to_vec(), setter: None }))
    }
}

/// An open text.
struct TextFile {
    text: Vec<u8>,
    setter: Option<Setter>,
}

impl FileOps for TextFile {
    fn read(&self, _file: &File, offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.text.get(at..)).unwrap_or_default();
        let count = rest.len().min(sink.remaining());
        if count == 0 { Ok(0) } else { sink.put(&rest[..count]) }
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Bytes) -> Result<usize> {
        let setter = self.setter.as_ref().ok_or(Errno::EBADF)?;
        let mut bytes = vec![0; source.remaining().min(PAGE_SIZE as usize)];
        let count = source.take(&mut bytes)?;
        setter(&bytes[..count])?;
        Ok(count)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        let base = match whence {
            Whence::Start => 0,
            Whence::Current => file.offset(),
            Whence::End | Whence::Data | Whence::Hole => return Err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).ok_or(Errno::EINVAL)
    }
}

/// A text that was made already, to open for reading.
pub(super) fn open_text(_node: &Rc<Node>, flags: u32, text: Vec<u8>) -> Result<Rc<dyn FileOps>> {
    if flags & flags::O_ACCMODE != flags::O_RDONLY {
        return Err(Errno::EACCES);
    }
    Ok(Rc::new(TextFile { text, setter: None }))
}
