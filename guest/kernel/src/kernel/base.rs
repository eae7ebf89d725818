//! The base phase of a guest that boots, and its end: in that guest, and in the clones of its base snapshot (`crate::fs::base`, guest/decisions/0007).

use super::Kernel;
use crate::erofs::Image;
use crate::errno::Errno;
use crate::exec::elf::ExecError;
use crate::exec::{self, Request};
use crate::fs::base::{Conflict, attach};
use crate::fs::mount::MountError;
use crate::fs::overlay::{layer_of, mount_root};
use crate::fs::proc::Nobody;
use crate::fs::snapshots::Wanted;
use crate::fs::{Context, Env, Fs};
use crate::machine::Machine;
use crate::mem::frames::Frames;
use crate::syscall::exec::{FileLoader, subject};
use crate::task::credentials::Credentials;
use crate::task::thread::Thread;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use seuss_abi::call::Op;
use seuss_abi::comm::ImageWindow;
use seuss_abi::snapshot::LEVEL_BASE;
use seuss_abi::spec::ProcessSpec;

/// What is known of a runtime while only its layers are shown.
pub(crate) struct Runtime {
    /// How many layers are the runtime's.
    layers: usize,
    /// All windows of this guest.
    windows: Vec<ImageWindow>,
    /// What the first process was started with, files left out.
    spec: ProcessSpec,
    /// What that led to.
    program: Program,
}

/// What the first process executes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    /// Inode number of the binary.
    ino: u64,
    /// What was found for the first argument: the binary, or a script.
    invoked: Vec<u8>,
    /// The binary.
    path: Vec<u8>,
    /// Arguments, those of scripts included.
    args: Vec<Vec<u8>>,
}

fn open_all(frames: &Frames, windows: &[ImageWindow]) -> Result<Vec<Rc<Image>>, Errno> {
    let open = |window: &ImageWindow| Image::open(frames, *window).map(Rc::new).map_err(|_| Errno::EIO);
    windows.iter().map(open).collect()
}

/// The program that `spec` names, over all layers, without leaving a trace in the guest's own tree.
fn resolve(env: &Rc<Env>, windows: &[ImageWindow], spec: &ProcessSpec) -> Result<Program, ExecError> {
    let root = mount_root(env, open_all(&env.frames, windows)?)?;
    let credentials = Credentials::new(spec.uid, spec.gid, spec.groups.clone());
    let at_root = Context {
        subject: subject(&credentials),
        root: root.clone(),
        cwd: root.clone(),
        umask: 0,
        processes: &Nobody,
    };
    let cwd = at_root.walk(&root, &[b"/", spec.cwd.as_slice()].concat(), true).unwrap_or(root);
    let loader = FileLoader::at(Context { cwd, ..at_root });
    let invoked = super::spawn::find_program(&loader, spec)?;
    let exec::Resolved { path, args, binary, .. } =
        exec::resolve(&loader, invoked.clone(), spec.args.clone())?;
    Ok(Program { ino: binary.node().map_or(0, |node| node.ino()), invoked, path, args })
}

impl Runtime {
    /// Begin the phase for a guest that boots over `windows`; `None` if there is no layer above the program's: what runs then is the application.
    fn begin(env: &Rc<Env>, windows: &[ImageWindow], spec: &ProcessSpec) -> Option<Self> {
        let program = resolve(env, windows, spec).ok()?;
        let layers = layer_of(program.ino)? + 1;
        if layers >= windows.len() {
            return None;
        }
        env.base.set_up();
        let spec = ProcessSpec { files: Vec::new(), ..spec.clone() };
        Some(Self { layers, windows: windows.to_vec(), spec, program })
    }

    /// The runtime's windows.
    fn windows(&self) -> &[ImageWindow] {
        &self.windows[..self.layers]
    }

    /// Show the layers from `from` on that are the runtime's, and compare look-ups with those above from now on.
    fn show(&self, fs: &Fs, from: usize) -> Result<(), Conflict> {
        let images = open_all(&fs.env.frames, &self.windows[from..])?;
        let (shown, hidden) = images.split_at(self.layers - from);
        attach(&fs.root, from as u8, shown, Some(hidden))
    }

    /// The phase ends in the guest that it began in.
    fn end(&self, fs: &Fs) -> Result<(), Conflict> {
        fs.env.base.end();
        let images = open_all(&fs.env.frames, &self.windows[self.layers..])?;
        attach(&fs.root, self.layers as u8, &images, None)
    }

    /// The phase ends in a clone, over `windows`, which begin with the runtime's.
    fn end_over(mut self, fs: &Fs, windows: &[ImageWindow]) -> Result<(), Conflict> {
        if windows.get(..self.layers) != Some(self.windows()) {
            return Err(Conflict::Damaged(Errno::EINVAL));
        }
        self.windows = windows.to_vec();
        self.end(fs)?;
        let same = resolve(&fs.env, windows, &self.spec).is_ok_and(|program| program == self.program);
        if same { Ok(()) } else { Err(Conflict::Program) }
    }

    /// How the first process is started: scripts, which may lie above the runtime, have been read already.
    pub(super) fn request(&self, env: Vec<Vec<u8>>) -> Request {
        let Program { invoked, path, args, .. } = self.program.clone();
        Request { path, invoked: Some(invoked), args, env, personality: 0 }
    }
}

/// Mount the file systems of a guest that boots, its files in them: the runtime's layers alone, if a base snapshot is `wanted` and possible.
///
/// # Errors
/// [`MountError`].
pub(super) fn mount(
    env: &Rc<Env>,
    windows: &[ImageWindow],
    spec: &ProcessSpec,
    wanted: bool,
) -> Result<(Fs, Option<Runtime>), MountError> {
    let runtime = if wanted { Runtime::begin(env, windows, spec) } else { None };
    let fs = Fs::new(env, runtime.as_ref().map_or(windows, Runtime::windows))?;
    if let Some(runtime) = runtime {
        runtime.show(&fs, runtime.layers).map_err(MountError::Base)?;
        let injected = fs.inject(&spec.files);
        if !env.base.take_hit() {
            return injected.map(|()| (fs, Some(runtime)));
        }
        // What is given to this guest needs the layers above.
        runtime.end(&fs).map_err(MountError::Base)?;
    }
    if wanted {
        tell_no_base(&*env.machine);
    }
    fs.inject(&spec.files)?;
    Ok((fs, None))
}

/// Tell the VMM that there will be no base snapshot.
pub(super) fn tell_no_base(machine: &dyn Machine) {
    machine.host_call(Op::NoBase, [0; 6]);
}

impl Kernel {
    /// The call of `thread` looked at what is not the runtime's: it starts again, once that is there.
    pub(super) fn after_hit(&self, thread: &Rc<Thread>, number: u64) {
        thread.with_context(|context| {
            context.registers.rip = context.registers.rip.wrapping_sub(2);
            context.registers.rax = number;
        });
        if let Some(layer) = self.fs.env.base.take_program()
            && self.extend_runtime(layer + 1)
        {
            return;
        }
        let mut wanted = Wanted { level: LEVEL_BASE, key: Vec::new(), images: 0, caution: None };
        wanted.images = self.runtime.borrow().as_ref().map_or(0, |runtime| runtime.layers as u64);
        self.undone.set(Some((thread.tid, number)));
        self.fs.env.snapshots.ask(wanted);
    }

    /// The layers below `layers` are the runtime's, unless that would be all.
    fn extend_runtime(&self, layers: usize) -> bool {
        let mut runtime = self.runtime.borrow_mut();
        let Some(runtime) = runtime.as_mut().filter(|runtime| layers < runtime.windows.len()) else {
            return false;
        };
        let before = core::mem::replace(&mut runtime.layers, layers);
        if let Err(conflict) = runtime.show(&self.fs, before) {
            self.panic(&conflict.to_string());
        }
        true
    }

    /// No base snapshot: what the program learns from now on is not its runtime's alone.
    pub(super) fn give_up_base(&self) {
        if self.runtime.borrow().is_some() {
            self.end_base_phase();
            tell_no_base(&*self.machine);
        }
    }

    /// Everything is there from now on.
    pub(super) fn end_base_phase(&self) {
        let Some(runtime) = self.runtime.take() else { return };
        if let Err(conflict) = runtime.end(&self.fs) {
            self.panic(&conflict.to_string());
        }
    }

    /// This is a clone over `windows`: end the phase if its snapshot is a base one.
    ///
    /// # Errors
    /// [`Conflict`]: it cannot be a clone of this one.
    pub(super) fn end_base_phase_over(&self, windows: &[ImageWindow]) -> Result<(), Conflict> {
        let Some(runtime) = self.runtime.take() else { return Ok(()) };
        // The program has yet to load all that is its own.
        self.frames.settle();
        runtime.end_over(&self.fs, windows)
    }
}
