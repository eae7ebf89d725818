//! The host call that takes a snapshot. The guest stands still meanwhile, and goes on whatever comes of it.

use std::sync::Arc;
use std::time::Instant;

use seuss_abi::snapshot::Obstacle;
use seuss_snapshotter::snapshot::{Level, SnapshotId};

use super::{End, GuestEvent, Learning, Runner};
use crate::clock::Sample;
use crate::memory::Gpa;
use crate::snapshot::allowance::Grant;
use crate::snapshot::capture::{CaptureError, Circumstances, capture};
use crate::snapshot::{Asked, Keys, Lineage};

/// Longest key in bytes.
const KEY_MAX: u64 = 1024;

impl Runner {
    /// Serve `Op::Capture`.
    pub(super) fn capture(&mut self, level: u64, key: Gpa, key_bytes: u64, images: u64) -> Result<i64, End> {
        let mut level = Level::from_number(level)
            .ok_or_else(|| End::Protocol(format!("Capture of level {level}, which does not exist")))?;
        let base_is_due = std::mem::take(&mut self.snapshots.base_is_due);
        // Whoever has asked from outside hears what came of it, however often that is.
        let is_owed = self.snapshots.owed > 0;
        self.snapshots.owed = self.snapshots.owed.saturating_sub(1);
        let Some(sink) = &self.snapshots.sink else {
            if is_owed || !std::mem::replace(&mut self.told_no_store, true) {
                let reason = "this guest was started without a store for snapshots";
                self.emit(GuestEvent::Captured(Err(reason.into())));
            }
            return Ok(-i64::from(libc::EOPNOTSUPP));
        };
        let allowance = Arc::clone(&sink.allowance);
        // What others may start from is taken before the program has run code or seen data of its own, or not at all.
        let images = usize::try_from(images).ok().filter(|count| (1..sink.images.len()).contains(count));
        let is_base = level == Level::Base && images.is_some();
        if is_base && !base_is_due {
            return Ok(-i64::from(libc::EPERM));
        }
        if level == Level::Base && !is_base && matches!(sink.keys, Keys::Derived { .. }) {
            level = Level::Function;
        }
        let images = images.filter(|_| is_base);
        let named = if key_bytes == 0 { String::new() } else { self.message(key, key_bytes, KEY_MAX) };
        let started = Instant::now();
        let taken = allowance.begin().map_err(CaptureError::Overdrawn);
        let taken = taken.and_then(|grant| self.take(Asked { level, named, images }, grant));
        let elapsed_us = started.elapsed().as_micros() as u64;
        Ok(match taken {
            Ok(id) => {
                tracing::info!(guest = self.shared.name, %id, %level, elapsed_us, "snapshot taken");
                self.emit(GuestEvent::Captured(Ok(id)));
                0
            }
            // As often as the guest likes: told once a minute.
            Err(CaptureError::Overdrawn(overdrawn)) => {
                if is_owed || allowance.tells_refusal() {
                    tracing::warn!(guest = self.shared.name, %level, reason = %overdrawn, "no snapshot");
                    self.emit(GuestEvent::Captured(Err(overdrawn.to_string())));
                }
                -i64::from(libc::EDQUOT)
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(guest = self.shared.name, %level, elapsed_us, reason, "no snapshot");
                self.emit(GuestEvent::Captured(Err(reason)));
                -i64::from(libc::EIO)
            }
        })
    }

    /// Serve `Op::PutOff`. Somebody is told only if somebody has asked.
    pub(super) fn put_off(&mut self, obstacle: u64) -> Result<i64, End> {
        let obstacle = Obstacle::from_raw(obstacle)
            .ok_or_else(|| End::Protocol(format!("PutOff for obstacle {obstacle}, which does not exist")))?;
        if let Some(owed) = self.snapshots.owed.checked_sub(1) {
            self.snapshots.owed = owed;
            self.snapshots.answer_due = true;
            tracing::debug!(guest = self.shared.name, %obstacle, "snapshot put off");
            self.emit(GuestEvent::PutOff(obstacle));
        }
        Ok(0)
    }

    /// While the guest is a young clone: note which pages it has written so far. It stands still.
    pub(super) fn learn(&mut self) {
        let Some(Learning { origin, looks_left, scout }) = &mut self.snapshots.learning else { return };
        let Some(left) = looks_left.checked_sub(1) else {
            origin.wait_for_writes();
            self.snapshots.learning = None;
            return;
        };
        *looks_left = left;
        let root = || self.machine.vcpu.special_registers().ok().map(|registers| Gpa(registers.cr3));
        origin.learn(&self.machine.memory, scout.then(root).flatten());
    }

    fn take(&mut self, asked: Asked, grant: Grant) -> Result<SnapshotId, CaptureError> {
        let snapshots = &self.snapshots;
        let sink = snapshots.sink.as_ref().ok_or(CaptureError::NoStore)?;
        let host = Sample::take();
        let around = Circumstances {
            asked,
            sink,
            grant,
            parent: snapshots.parent.as_ref(),
            pml4: snapshots.pml4,
            reserved_bytes: self.reserved_bytes,
            kernel_digest: snapshots
                .parent
                .as_ref()
                .map_or_else(|| self.kernel.digest(), |parent| parent.leaf().manifest().kernel),
            // All clocks at one instant: what a clone's clocks show follows from their differences.
            created_ns: host.monotonic_ns.saturating_add_signed(host.realtime_offset_ns),
            monotonic_ns: self.clock.page().monotonic_ns(host.tsc),
            boottime_offset_ns: snapshots.shift.apply(host).boottime_offset_ns,
            generation: snapshots.generation,
        };
        let taken = capture(&self.machine.memory, around)?;
        let id = taken.id();
        let manifest = taken.manifest();
        sink.allowance.taken(id, manifest.pages.len_bytes + manifest.tables.len_bytes);
        // What is captured next adds to this one.
        let lineage = match &self.snapshots.parent {
            Some(parent) => parent.extended(taken),
            None => Lineage::of(vec![taken]),
        };
        self.snapshots.parent = Some(lineage?);
        // What is written from now on belongs to the new snapshot's clones.
        self.snapshots.learning = None;
        Ok(id)
    }
}
