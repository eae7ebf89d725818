//! Parking for a snapshot, saying what of memory it needs, and waking up as a clone.
//!
//! At a capture every thread's registers, extended state and segment bases are in memory, no translation but the library OS's own is loaded, and nothing
//! that counts is on the stack: so memory alone is the snapshot, and a restore enters where a boot does. The VMM copies while the guest stands still in the
//! host call; then this guest goes on as it is (decisions/0006).
//!
//! **What the VMM is told** is a class for each frame (seuss_abi::snapshot). Frames that only page-table entries of applications name can move into a layer
//! without anybody noticing; frames that the library OS knows by address (its heap, pages of files, page tables) must be at the same address in the clone.

use super::Kernel;
use crate::errno::{Errno, Result};
use crate::fs::snapshots::{ID_BYTES, Wanted};
use crate::mem::area::Backing;
use crate::mem::frames::Gpa;
use crate::mem::paging::{self, ADDRESS, W};
use crate::mem::space::Space;
use crate::task::thread::State;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use seuss_abi::call::Op;
use seuss_abi::comm::{ImageWindow, LayerWindow};
use seuss_abi::snapshot::{APPLICATION, COPIED, FRAMES_MAX, FREE, TABLE, set_class};
use seuss_abi::spec::ProcessSpec;

/// What a clone is told at its first entry.
#[derive(Debug)]
pub struct Restored<'a> {
    /// How often the lineage was restored, this time included.
    pub generation: u64,
    /// Seed of the random number generator.
    pub seed: [u8; 64],
    /// Layers, in order of address.
    pub layers: &'a [LayerWindow],
    /// EROFS windows, base layer first: those of the guest that was captured, or, of a base snapshot, more.
    pub images: &'a [ImageWindow],
    /// Host name, files and standard streams of this clone.
    pub spec: ProcessSpec,
}

impl Kernel {
    /// Take the snapshot that was asked for. To be called where nothing on the stack is needed any more.
    pub(super) fn capture(&self) {
        let Some(wanted) = self.fs.env.snapshots.wanted() else { return };
        if self.is_renewing() {
            // It comes when the calls are over.
            return;
        }
        if let Some(obstacle) = self.obstacle(&wanted) {
            let _ = self.fs.env.snapshots.take();
            self.put_off(obstacle);
            self.fs.env.snapshots.finish_announced(-i64::from(Errno::EBUSY.0));
            return;
        }
        let in_base_phase = self.runtime.borrow().is_some();
        if !in_base_phase && self.prepare_renewals() {
            return;
        }
        let _ = self.fs.env.snapshots.take();
        if in_base_phase && self.fixed_generator().is_some() {
            self.undone.set(None);
            self.give_up_base();
            self.fs.env.snapshots.finish(0);
            return;
        }
        if !in_base_phase {
            self.note_restore_hooks();
        }
        // What a program uses of its text once it is ready is learnt page by page (vmm/DESIGN.md); what one uses that has yet to import everything is not known, and a large page is one
        // fault of a shadow-paging KVM's.
        self.plan_renewals();
        let outcome = self.park_all(in_base_phase).and_then(|()| self.classify());
        let outcome = match outcome {
            Ok(classes) => {
                self.machine.write_capture_area(&classes);
                drop(classes);
                // A clone finds the request done.
                self.fs.env.snapshots.finish_announced(0);
                self.call_capture(&wanted)
            }
            Err(errno) => {
                if in_base_phase {
                    super::base::tell_no_base(&*self.machine);
                }
                -i64::from(errno.0)
            }
        };
        if in_base_phase {
            self.end_base_phase();
        }
        self.undone.set(None);
        if outcome < 0 {
            self.fs.env.snapshots.finish_announced(outcome);
        }
        self.slice_start.set(self.machine.tsc());
    }

    fn call_capture(&self, wanted: &Wanted) -> i64 {
        let key = self.machine.gpa_of(wanted.key.as_ptr());
        self.machine.host_call(Op::Capture, [wanted.level, key, wanted.key.len() as u64, wanted.images, 0, 0])
    }

    /// Bring everything that the CPU holds into memory.
    fn park_all(&self, keep_large_images: bool) -> Result {
        self.account();
        self.note_clocks();
        if let Some(thread) = self.current() {
            self.save_bases(&thread);
            if thread.state.get() == State::Runnable {
                self.run_queue.borrow_mut().push_front(thread.tid);
            }
        }
        self.park_extended();
        *self.current.borrow_mut() = None;
        // The address space of a process that is gone must not be part of the snapshot because it is loaded.
        self.machine.load_page_tables(self.config.template_pml4);
        *self.loaded.borrow_mut() = None;
        self.fs.env.drop_scratch();
        self.fs.env.uplink.drop_kept();
        for space in self.spaces() {
            space.borrow().split_all(keep_large_images).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(())
    }

    /// Every address space, once.
    pub(super) fn spaces(&self) -> Vec<Rc<RefCell<Space>>> {
        let mut spaces: Vec<Rc<RefCell<Space>>> = Vec::new();
        for process in self.processes() {
            let space = process.space();
            if !spaces.iter().any(|known| Rc::ptr_eq(known, &space)) {
                spaces.push(space);
            }
        }
        spaces
    }

    /// The class of every frame, as the capture area holds them.
    fn classify(&self) -> Result<Vec<u8>> {
        let total = self.frames.total() as u64;
        if total > FRAMES_MAX {
            return Err(Errno::EFBIG);
        }
        let mut classes = vec![0u8; (total as usize).div_ceil(4)];
        let mut set = |gpa: Gpa, class: u8| {
            if let Some(pfn) = self.frames.pfn(gpa) {
                set_class(&mut classes, pfn, class);
            }
        };
        let base = self.frames.base();
        for pfn in 0..total {
            if self.frames.references(pfn as usize) > 0 {
                set(base + pfn * 4096, COPIED);
            }
        }
        let stack = self.machine.stack();
        let mut tables = Vec::new();
        paging::visit_kernel_image(
            &self.frames,
            self.config.template_pml4,
            &mut |table| tables.push(table),
            &mut |address, entry| {
                let unused = address >= stack.0 && address < stack.1;
                let class = if unused {
                    FREE
                } else if entry & W == 0 {
                    APPLICATION
                } else {
                    COPIED
                };
                set(entry & ADDRESS, class);
            },
        );
        let spaces = self.spaces();
        // First what may move, then what must not: a page of a file that is mapped, too, is known by its address.
        for may_move in [true, false] {
            for space in &spaces {
                space.borrow().classify_pages(&mut |gpa, moves| {
                    if moves == may_move {
                        // Content in a layer: nothing to save; the frame's own place holds nothing.
                        let home = self.frames.home(gpa).unwrap_or(gpa);
                        let class = match (self.frames.is_private(gpa), moves) {
                            (false, _) => FREE,
                            (true, true) => APPLICATION,
                            (true, false) => COPIED,
                        };
                        set(home, class);
                    }
                });
            }
        }
        for space in &spaces {
            space.borrow().for_each_leaf_table(&mut |table| tables.push(table));
        }
        tables.into_iter().for_each(|table| set(table, TABLE));
        Ok(classes)
    }

    /// This is a clone: take over what differs from clone to clone, before any application code runs.
    pub fn restored(&self, restored: &Restored<'_>) {
        self.frames.set_layers(restored.layers);
        self.random.reseed(&restored.seed);
        self.slice_start.set(self.machine.tsc());
        let counters = self.counters.replace(crate::machine::Counters::default());
        self.switches_before.set(self.switches_before.get() + counters.switches);
        if !restored.spec.hostname.is_empty() {
            *self.hostname.borrow_mut() = restored.spec.hostname.clone();
        }
        let was_base = self.runtime.borrow().is_some();
        if let Err(conflict) = self.end_base_phase_over(restored.images) {
            let message = conflict.to_string().into_bytes();
            let gpa = self.machine.gpa_of(message.as_ptr());
            let errno = (-i64::from(Errno::ESTALE.0)).cast_unsigned();
            self.machine.host_call(Op::Started, [0, errno, gpa, message.len() as u64, 0, 0]);
            self.panic("the VMM let a clone continue that cannot be one");
        }
        if let Err(error) = self.fs.inject(&restored.spec.files) {
            self.log(2, &alloc::format!("a clone's file: {error}"));
        }
        for space in self.spaces() {
            space.borrow_mut().wipe();
        }
        self.follow_clocks();
        if !restored.spec.identity.is_empty() {
            *self.identity.borrow_mut() = restored.spec.identity.clone();
        }
        self.change_environments(&restored.spec.env, &restored.spec.identity);
        self.renew_program_seeds();
        self.fs.env.handles.restored(&restored.spec.stdio);
        if let Err(errno) = self.fs.env.uplink.after_restore() {
            self.log(2, &alloc::format!("a clone's socket cannot be made again: {errno:?}"));
        }
        let mut id = [0; ID_BYTES];
        self.random.fill(&mut id);
        self.fs.env.snapshots.restored(restored.generation, id);
        self.renews_interpreters.set(self.renews_interpreters.get() && !restored.spec.no_hooks);
        if !self.renewed.replace(false) {
            self.renew();
        }
        let pid = self.process_of_token(0).map_or(0, |process| process.pid);
        self.machine.host_call(Op::Started, [0, u64::from(pid), 0, 0, 0, 0]);
        if was_base {
            self.note_restore_hooks();
        }
        self.begin_restore_hooks(restored.generation, id);
    }
}

impl Space {
    /// Tell of each page that is mapped: where its content lies, and whether it may move (nobody but page-table entries knows where it is).
    pub(crate) fn classify_pages(&self, visit: &mut dyn FnMut(Gpa, bool)) {
        let frames = self.frames().clone();
        for area in self.areas() {
            let object = area.shared || matches!(area.backing, Backing::Object { .. });
            self.tables().for_each_small(area.start, area.end, &mut |entry| {
                let gpa = entry & ADDRESS;
                if frames.owns(gpa) {
                    visit(gpa, !(object && frames.reference_count(gpa) > 1));
                }
            });
        }
    }
}
