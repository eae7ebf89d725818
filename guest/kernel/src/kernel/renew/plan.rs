//! What is called in a process: found by the symbols of what it has mapped, when a snapshot is taken, so that clones look up nothing.

use super::{Kernel, SEED};
use crate::exec::symbols::{Object, Source};
use crate::mem::area::{Area, Backing, Protection};
use crate::mem::frames::Frames;
use crate::mem::pager::{MappedPage, Pager};
use crate::mem::space::Space;
use crate::task::detour::{Interpreter, Plan};
use crate::task::process::Process;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use seuss_abi::layout::PAGE_SIZE;

/// Most executable areas of a process that are looked at.
const AREAS_MAX: usize = 4096;

/// OpenSSL's function that seeds its primary generator anew; those of threads notice (RAND_poll(3)).
const OPENSSL: &[u8] = b"RAND_poll";
/// What tells OpenSSL 3 and 1.1.1 from others who export [`OPENSSL`]: in LibreSSL and BoringSSL it does nothing.
const OPENSSL_MARKS: [&[u8]; 2] = [b"RAND_get0_primary", b"RAND_DRBG_get0_master"];
/// libgcrypt: add bytes to the pool that everything is drawn from (random.c). Arguments: bytes, length, quality in percent.
const GCRYPT: &[u8] = b"gcry_random_add_bytes";
/// GnuTLS: the calling thread's generators are seeded anew (gnutls_rnd_refresh(3)).
const GNUTLS: &[u8] = b"gnutls_rnd_refresh";
/// CPython, in the order of [`Interpreter`].
const PYTHON: [&[u8]; 11] = [
    b"Py_IsInitialized",
    b"PyGILState_Ensure",
    b"PyDict_New",
    b"PyImport_GetModuleDict",
    b"PyEval_GetBuiltins",
    b"PyDict_SetItemString",
    b"Py_CompileString",
    b"PyEval_EvalCode",
    b"Py_DecRef",
    b"PyErr_Clear",
    b"PyGILState_Release",
];

/// What an object exports, by its own counting of addresses.
#[derive(Clone, Debug, Default)]
struct Exports {
    /// The address of the text that the area shows first.
    text: u64,
    openssl: Option<u64>,
    gcrypt: Option<u64>,
    gnutls: Option<u64>,
    python: Option<Interpreter>,
}

/// What an area shows: device and inode number of the object, and the page that it begins with.
type Shown = ((u64, u64), u64);

/// Objects that were looked at.
#[derive(Default)]
pub(super) struct Known(BTreeMap<Shown, Option<Rc<Exports>>>);

/// A mapped file.
pub(super) struct Mapped<'a> {
    pub(super) frames: &'a Frames,
    pub(super) pager: &'a dyn Pager,
}

impl Source for Mapped<'_> {
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Option<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset.checked_add(done as u64)?;
            let within = at % PAGE_SIZE;
            let count = ((PAGE_SIZE - within) as usize).min(bytes.len() - done);
            let piece = &mut bytes[done..done + count];
            match self.pager.page(at / PAGE_SIZE, false).ok()? {
                MappedPage::Image(gpa) => self.frames.read(gpa + within, piece),
                MappedPage::Frame(frame) => self.frames.read(frame.gpa() + within, piece),
                MappedPage::BeyondEnd => return None,
            }
            done += count;
        }
        Some(())
    }
}

impl Exports {
    /// What the object behind `source` exports, if its text lies at `offset` in the file.
    fn read(source: &dyn Source, offset: u64) -> Option<Self> {
        let object = Object::read(source)?;
        let text = object.address_of_text(offset)?;
        let is_openssl = OPENSSL_MARKS.iter().any(|mark| object.function(mark).is_some());
        let python = PYTHON.map(|name| object.function(name));
        let python = python.iter().all(Option::is_some).then(|| python.map(Option::unwrap_or_default));
        Some(Self {
            text,
            openssl: object.function(OPENSSL).filter(|_| is_openssl),
            gcrypt: object.function(GCRYPT),
            gnutls: object.function(GNUTLS),
            python,
        })
    }
}

/// Whether the object exports OpenSSL's function, but is none that we know to do something in it.
pub(super) fn is_unknown_openssl(source: &dyn Source) -> bool {
    Object::read(source).is_some_and(|object| {
        object.function(OPENSSL).is_some() && OPENSSL_MARKS.iter().all(|mark| object.function(mark).is_none())
    })
}

fn is_text(area: &&Area) -> bool {
    area.protection.contains(Protection::EXECUTE) && !area.shared
}

impl Plan {
    /// Add what an object exports whose text is mapped in `area`. Only what lies in text is called.
    fn add(&mut self, space: &Space, area: &Area, exports: &Exports) {
        let moved = area.start.wrapping_sub(exports.text);
        let place = |address: u64| {
            let at = address.wrapping_add(moved);
            space.area_at(at).filter(is_text).map(|_| at)
        };
        if let Some(at) = exports.openssl.and_then(place) {
            self.native.push([at, 0, 0, 0]);
        }
        if let Some(at) = exports.gcrypt.and_then(place) {
            self.native.push([at, SEED, 32, 100]);
        }
        if let Some(at) = exports.gnutls.and_then(place) {
            self.native.push([at, 0, 0, 0]);
        }
        if let Some(functions) = exports.python.filter(|_| self.python.is_none()) {
            let placed = functions.map(place);
            self.python = placed.iter().all(Option::is_some).then(|| placed.map(Option::unwrap_or_default));
        }
    }
}

impl Kernel {
    /// A snapshot is taken: find what its clones call.
    pub(in crate::kernel) fn plan_renewals(&self) {
        let mut known = Known::default();
        for process in self.processes() {
            let plan = if process.is_zombie() { Plan::default() } else { self.plan(&process, &mut known) };
            *process.renewal.plan.borrow_mut() = plan;
        }
    }

    /// What `process` calls if it becomes a clone's.
    pub(super) fn plan(&self, process: &Process, known: &mut Known) -> Plan {
        let space = process.space();
        let space = space.borrow();
        let mut plan = Plan::default();
        let mut seen = BTreeMap::new();
        for area in space.areas().filter(is_text).take(AREAS_MAX) {
            let Backing::Object { pager, first_page } = &area.backing else { continue };
            let key = (pager.identity(), *first_page);
            if seen.insert(key.0, ()).is_some() {
                continue;
            }
            let exports = known.0.entry(key).or_insert_with(|| {
                let source = Mapped { frames: &self.frames, pager: &**pager };
                Exports::read(&source, first_page.checked_mul(PAGE_SIZE)?).map(Rc::new)
            });
            match exports {
                Some(exports) => plan.add(&space, area, exports),
                // The object's text may be in another area.
                None => drop(seen.remove(&key.0)),
            }
        }
        plan
    }
}
