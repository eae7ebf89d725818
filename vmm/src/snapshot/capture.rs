//! From a guest that stands still to a snapshot.
//!
//! The guest has said of every frame what it is (`seuss_abi::snapshot`). Frames whose content is new go into the layer: not zeros, not what the parent has for
//! the same frame. The page tables are copied with their entries turned towards the layers. The guest's own memory is only read: it goes on
//! as it is, and what its next capture finds unchanged is found by comparing content (vmm/decisions/0005).

use std::sync::Arc;

use seuss_abi::ABI_VERSION;
use seuss_abi::comm::CAPTURE_OFFSET;
use seuss_abi::layout::{COMM_GPA, LAYER_GPA, PAGE_SIZE};
use seuss_abi::snapshot::{APPLICATION, COPIED, FRAMES_MAX, TABLE, WAS_WRITABLE, class};
use seuss_snapshotter::snapshot::{Facts, Placed, Snapshot, SnapshotError};

use super::allowance::{Grant, Overdrawn};
use super::clerk::ClerkDraft;
use super::{Asked, Lineage, OriginError, SnapshotSink, cpu, frame_gpa, layer_gpa};
use crate::kernel::page_table::bits;
use crate::memory::{Gpa, Memory, Window};

type Page = [u8; PAGE_SIZE as usize];

/// What a capture needs to know beside memory.
pub(crate) struct Circumstances<'a> {
    pub(crate) asked: Asked,
    pub(crate) sink: &'a SnapshotSink,
    /// What it may take.
    pub(crate) grant: Grant,
    /// What the guest itself was restored from, or captured as last.
    pub(crate) parent: Option<&'a Arc<Lineage>>,
    pub(crate) pml4: Gpa,
    pub(crate) reserved_bytes: u64,
    pub(crate) kernel_digest: [u8; 32],
    pub(crate) created_ns: u64,
    pub(crate) monotonic_ns: u64,
    pub(crate) boottime_offset_ns: i64,
    pub(crate) generation: u64,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("a guest of {frames} frames is too large for a snapshot, at most {FRAMES_MAX} are possible")]
    TooLarge { frames: u64 },
    #[error(transparent)]
    Lineage(#[from] OriginError),
    #[error("no store")]
    NoStore,
    #[error(transparent)]
    Overdrawn(#[from] Overdrawn),
    #[error("cannot tell the processor: {0}")]
    Cpu(String),
    #[error("the thread that writes snapshots is of no use: {0}")]
    Clerk(String),
}

/// Where no page is known.
const NOWHERE: u32 = u32::MAX;

/// Take the snapshot.
///
/// # Errors
/// [`CaptureError`]; the store is as it was, the guest can go on.
pub(crate) fn capture(memory: &Memory, around: Circumstances<'_>) -> Result<Snapshot, CaptureError> {
    let private = memory.private();
    let frames = private.len_bytes() / PAGE_SIZE;
    if frames > FRAMES_MAX {
        return Err(CaptureError::TooLarge { frames });
    }
    let mut classes = vec![0; (frames as usize).div_ceil(4)];
    memory.comm().read(Gpa(COMM_GPA + CAPTURE_OFFSET), &mut classes);

    let parent = around.parent.map(|parent| parent.leaf());
    // Where there is a parent, most of it may be known: that shows below, and what is too much is seen as it comes.
    if parent.is_none() {
        around.grant.check(at_least(private, &classes, frames as u32))?;
    }
    let mut kept_bytes = 0;
    // Where the youngest page of each frame is; as far as the parent knows, at first.
    let mut place = vec![NOWHERE; frames as usize];
    if let Some(parent) = parent {
        for Placed { pfn, page } in parent.frame_map()? {
            if let Some(entry) = place.get_mut(pfn as usize) {
                *entry = page;
            }
        }
    }
    let layers = around.parent.map(|parent| &**parent.layers());
    let mut writing = ClerkDraft::begin(&around.sink.store, around.parent)?;
    // Where entries of applications shall point.
    let mut moved = vec![NOWHERE; frames as usize];
    let mut copied = Vec::new();
    let mut tables = Vec::new();
    let mut content: Page = [0; PAGE_SIZE as usize];
    for pfn in 0..frames as u32 {
        match class(&classes, pfn.into()) {
            TABLE => tables.push(pfn),
            kind @ (APPLICATION | COPIED) => {
                private.read(Gpa(frame_gpa(pfn)), &mut content);
                if is_zero(&content) {
                    continue;
                }
                let known = place[pfn as usize];
                if known == NOWHERE || !layers.is_some_and(|layers| holds(layers, known, &content)) {
                    kept_bytes += PAGE_SIZE;
                    around.grant.check(kept_bytes)?;
                    place[pfn as usize] = writing.draft()?.add_page(pfn, &content)?.page;
                }
                let page = place[pfn as usize];
                if kind == COPIED {
                    copied.push(Placed { pfn, page });
                } else {
                    moved[pfn as usize] = page;
                }
            }
            _ => {}
        }
    }
    around.grant.check(kept_bytes + tables.len() as u64 * PAGE_SIZE)?;
    for &pfn in &tables {
        let mut table: [u64; 512] = private.load(Gpa(frame_gpa(pfn))).unwrap_or([0; 512]);
        turn(&mut table, &moved);
        let bytes = table.map(u64::to_le_bytes);
        writing
            .draft()?
            .add_table(pfn, bytes.as_flattened().try_into().unwrap_or(&[0; PAGE_SIZE as usize]))?;
    }
    let map = (0..)
        .zip(&place)
        .filter(|(_, page)| **page != NOWHERE)
        .map(|(pfn, &page)| Placed { pfn, page })
        .collect();
    writing.commit(facts(&around, private.len_bytes())?, copied, map)
}

/// Bytes that a snapshot of a guest without a parent has: frames that are in use and not all zeros, and page tables. Nothing is copied for it but a page at a time.
fn at_least(private: &Window, classes: &[u8], frames: u32) -> u64 {
    let mut content: Page = [0; PAGE_SIZE as usize];
    let is_kept = |&pfn: &u32| match class(classes, pfn.into()) {
        TABLE => true,
        APPLICATION | COPIED => {
            private.read(Gpa(frame_gpa(pfn)), &mut content);
            !is_zero(&content)
        }
        _ => false,
    };
    (0..frames).filter(is_kept).count() as u64 * PAGE_SIZE
}

fn facts(around: &Circumstances<'_>, private_bytes: u64) -> Result<Facts, CaptureError> {
    let sink = around.sink;
    let Asked { level, named, images } = &around.asked;
    Ok(Facts {
        level: *level,
        name: match (named.is_empty(), images) {
            (false, _) => named.clone(),
            (true, None) => sink.name.clone(),
            // By itself, below the one that was asked for.
            (true, Some(_)) if sink.name.is_empty() => "base".to_owned(),
            (true, Some(_)) => format!("{}-base", sink.name),
        },
        key: sink.keys.of(&around.asked),
        abi_version: ABI_VERSION,
        kernel: around.kernel_digest,
        cpu: cpu::host().map_err(|error| CaptureError::Cpu(error.to_string()))?,
        private_bytes,
        reserved_bytes: around.reserved_bytes,
        pml4_gpa: around.pml4.0,
        created_ns: around.created_ns,
        monotonic_ns: around.monotonic_ns,
        boottime_offset_ns: around.boottime_offset_ns,
        generation: around.generation,
        terminal: sink.terminal,
        command: sink.command.clone(),
        images: images.and_then(|count| sink.images.get(..count)).unwrap_or(&sink.images).to_vec(),
        listeners: Vec::new(),
    })
}

/// Whether page `page` of the lineage has this content.
fn holds(layers: &Window, page: u32, content: &Page) -> bool {
    let mut known: Page = [0; PAGE_SIZE as usize];
    layers.read(Gpa(layer_gpa(page)), &mut known).is_some() && known == *content
}

fn is_zero(page: &Page) -> bool {
    page.as_chunks::<8>().0.iter().all(|word| *word == [0; 8])
}

/// Turn the entries of a table of leaves towards the layers: what has moved is mapped there, read-only, and comes home with the first write. An entry that
/// is not present keeps whatever it holds.
fn turn(table: &mut [u64; 512], moved: &[u32]) {
    for entry in table {
        let address = *entry & bits::ADDRESS;
        if *entry & bits::PRESENT == 0 || address >= LAYER_GPA {
            continue;
        }
        let Some(pfn) = address.checked_sub(frame_gpa(0)).map(|offset| offset / PAGE_SIZE) else { continue };
        match moved.get(pfn as usize) {
            Some(&page) if page != NOWHERE => {
                let was_writable = if *entry & bits::WRITE == 0 { 0 } else { WAS_WRITABLE };
                let kept = *entry & !(bits::ADDRESS | bits::WRITE | bits::DIRTY);
                // Accessed: a shadow-paging KVM fills in accessed entries around one that faults.
                *entry = kept | bits::ACCESSED | layer_gpa(page) | was_writable;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_turn_towards_the_layer_and_lose_their_right_to_write() {
        let mut table = [0; 512];
        let flags = bits::PRESENT | bits::WRITE | bits::USER | bits::DIRTY | bits::NO_EXECUTE;
        table[0] = frame_gpa(3) | flags;
        table[1] = frame_gpa(4) | flags;
        table[2] = frame_gpa(3) & !1;
        table[3] = layer_gpa(9) | bits::PRESENT;
        table[4] = 0x1000 | bits::PRESENT;
        table[5] = frame_gpa(3) | bits::PRESENT;
        let before = table;
        let mut moved = vec![NOWHERE; 8];
        moved[3] = 77;
        turn(&mut table, &moved);
        let kept = bits::PRESENT | bits::USER | bits::NO_EXECUTE;
        let kept = kept | bits::ACCESSED;
        assert_eq!(table[0], layer_gpa(77) | kept | WAS_WRITABLE);
        assert_eq!(table[1..5], before[1..5]);
        assert_eq!(table[5], layer_gpa(77) | bits::PRESENT | bits::ACCESSED);
    }
}
