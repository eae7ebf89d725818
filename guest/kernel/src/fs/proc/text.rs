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
use core::cell::{Cell, RefCell};
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
#[derive(Clone)]
pub(crate) struct TextNode {
    pub(crate) make: Maker,
    pub(crate) shared: Option<Rc<Shared>>,
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) setting: Option<Setting>,
}

impl TextNode {
    fn text(&self, node: &Node, context: &Context<'_>) -> Result<Vec<u8>> {
        (self.make)(&Source {
            processes: context.processes,
            context,
            env: &node.fs().env,
            shared: self.shared.as_deref(),
            pid: self.pid,
            tid: self.tid,
        })
    }
}

impl Generated for TextNode {
    fn open(&self, node: &Rc<Node>, flags: u32, context: &Context<'_>) -> Result<Rc<dyn FileOps>> {
        let mode = flags & flags::O_ACCMODE;
        let setter = match self.setting {
            Some(setting) if mode != flags::O_RDONLY => {
                Some(context.processes.setter(self.pid, self.tid, setting).ok_or(Errno::ESRCH)?)
            }
            None if mode != flags::O_RDONLY => return Err(Errno::EACCES),
            _ => None,
        };
        let text = if mode == flags::O_WRONLY { Vec::new() } else { self.text(node, context)? };
        Ok(Rc::new(TextFile::new(text, setter, Some(self.clone()))))
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
        Ok(Rc::new(TextFile::new(self.0.as_bytes().to_vec(), None, None)))
    }
}

/// An open text.
struct TextFile {
    text: RefCell<Vec<u8>>,
    /// The text was made at open(2) and not read from its start yet.
    fresh: Cell<bool>,
    setter: Option<Setter>,
    /// What makes the text again when it is read from its start again.
    origin: Option<TextNode>,
}

impl TextFile {
    fn new(text: Vec<u8>, setter: Option<Setter>, origin: Option<TextNode>) -> Self {
        Self { text: RefCell::new(text), fresh: Cell::new(true), setter, origin }
    }
}

impl FileOps for TextFile {
    fn needs_refresh(&self, offset: u64) -> bool {
        offset == 0 && !self.fresh.replace(false) && self.origin.is_some()
    }

    fn refresh(&self, file: &File, context: &Context<'_>) -> Result {
        if let Some(origin) = &self.origin {
            let text = origin.text(file.node(), context)?;
            self.text.replace(text);
        }
        Ok(())
    }

    fn read(&self, _file: &File, offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        let chunk = {
            let text = self.text.borrow();
            let rest = usize::try_from(offset).ok().and_then(|at| text.get(at..)).unwrap_or_default();
            rest[..rest.len().min(sink.remaining())].to_vec()
        };
        if chunk.is_empty() { Ok(0) } else { sink.put(&chunk) }
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
pub(crate) fn open_text(_node: &Rc<Node>, flags: u32, text: Vec<u8>) -> Result<Rc<dyn FileOps>> {
    if flags & flags::O_ACCMODE != flags::O_RDONLY {
        return Err(Errno::EACCES);
    }
    Ok(Rc::new(TextFile::new(text, None, None)))
}
