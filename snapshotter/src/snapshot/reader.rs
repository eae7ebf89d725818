//! An opened snapshot: its manifest, and its other files at the sizes that the manifest promises.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::error::SnapshotError;
use super::manifest::{BODY_MAX, HEADER_BYTES, Manifest, SectionRef, SnapshotId};
use super::{LINEAGE_PAGES_MAX, PAGE};

/// File names of a snapshot's directory.
pub(super) const MANIFEST: &str = "manifest";
pub(super) const PAGES: &str = "pages";
pub(super) const TABLES: &str = "tables";
const WORKSET: &str = "workset";
/// First bytes of a working set.
const WORKSET_MAGIC: [u8; 8] = *b"SEUSSWS1";
/// Most pages of a working set.
pub const WORKSET_MAX: usize = 11 << 10;
/// Length of the longest file of one: magic, digest, three words a page.
pub const WORKSET_BYTES_MAX: u64 = 8 + 32 + 12 * WORKSET_MAX as u64;

/// Frame `pfn` of the private window has the content of page `page` of the lineage's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// Number of the frame, counted from the start of the private window.
    pub pfn: u32,
    /// Number of the page, counted from the start of the lineage's first layer.
    pub page: u32,
}

/// A page that earlier clones used: frame `pfn`, mapped by entry `index` of the page table in frame `table`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkPage {
    /// Number of the frame.
    pub pfn: u32,
    /// Frame of the page table that maps it.
    pub table: u32,
    /// Index of its entry there.
    pub index: u32,
}

impl WorkPage {
    /// Entry `index` of the page table in frame `table` is used by clones; nothing is copied for it. (No page of a working set is a page table, so a
    /// table's own number is free to say this.)
    #[must_use]
    pub const fn used(table: u32, index: u32) -> Self {
        Self { pfn: table, table, index }
    }

    /// Whether there is nothing to copy.
    #[must_use]
    pub const fn is_only_used(&self) -> bool {
        self.pfn == self.table
    }
}

/// Keeps working sets of snapshots whose directory is somebody else's.
pub trait KeepWorkingSet: std::fmt::Debug + Send + Sync {
    /// Keep `pages` for snapshot `id`. It is a hint: who cannot keep it forgets it.
    fn keep(&self, id: SnapshotId, pages: &[WorkPage]);
}

/// The files of a snapshot that somebody else keeps, open for reading.
#[derive(Debug)]
pub struct SnapshotFiles {
    /// The manifest.
    pub manifest: File,
    /// The layer.
    pub pages: File,
    /// The page-table image.
    pub tables: File,
    /// The working set, if one is known.
    pub working_set: Option<File>,
}

/// Where a snapshot's working set is.
#[derive(Debug)]
enum Home {
    /// In this directory.
    Own,
    /// With whoever lent the files.
    Lent { known: Vec<u8>, keeper: Arc<dyn KeepWorkingSet> },
}

/// An opened snapshot. Its files cannot change; they stay readable if the snapshot is removed meanwhile.
#[derive(Debug)]
pub struct Snapshot {
    id: SnapshotId,
    manifest: Manifest,
    /// Its directory; for files that were lent, a name for messages.
    dir: PathBuf,
    pages: File,
    tables: File,
    home: Home,
}

impl Snapshot {
    /// Open the snapshot in `dir`. Sizes are checked, contents are not (see [`Self::verify`]).
    ///
    /// # Errors
    /// [`SnapshotError`]: missing, damaged, cut off, of another version.
    pub fn open(dir: &Path) -> Result<Self, SnapshotError> {
        let (manifest, id) = read_manifest(dir)?;
        let section = |name: &str, wanted: SectionRef| {
            let path = dir.join(name);
            let file = File::open(&path).map_err(SnapshotError::io("open", &path))?;
            check_length(&path, &file, wanted).map(|()| file)
        };
        let pages = section(PAGES, manifest.pages)?;
        let tables = section(TABLES, manifest.tables)?;
        Ok(Self { id, manifest, dir: dir.to_owned(), pages, tables, home: Home::Own })
    }

    /// Open a snapshot whose files somebody else keeps, and lends; `keeper` gets the working sets that are learnt. Checked as [`Self::open`] does.
    ///
    /// # Errors
    /// [`SnapshotError`]: damaged, cut off, of another version.
    pub fn lent(files: SnapshotFiles, keeper: Arc<dyn KeepWorkingSet>) -> Result<Self, SnapshotError> {
        let SnapshotFiles { manifest, pages, tables, working_set } = files;
        let path = PathBuf::from(MANIFEST);
        let mut bytes = Vec::new();
        let most = (HEADER_BYTES + BODY_MAX + 1) as u64;
        manifest.take(most).read_to_end(&mut bytes).map_err(SnapshotError::io("read", &path))?;
        let (manifest, id) = Manifest::decode(&bytes, &path)?;
        let dir = PathBuf::from(id.to_string());
        check_length(&dir.join(PAGES), &pages, manifest.pages)?;
        check_length(&dir.join(TABLES), &tables, manifest.tables)?;
        let mut known = Vec::new();
        if let Some(file) = working_set
            && file.take(WORKSET_BYTES_MAX).read_to_end(&mut known).is_err()
        {
            known.clear();
        }
        Ok(Self { id, manifest, dir, pages, tables, home: Home::Lent { known, keeper } })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The layer: pages, then the index that tells the frame of each.
    #[must_use]
    pub fn pages(&self) -> &File {
        &self.pages
    }

    /// The page-table image; its first [`Manifest::table_pages`] pages are the tables.
    #[must_use]
    pub fn tables(&self) -> &File {
        &self.tables
    }

    /// Its directory, unless somebody else keeps its files.
    #[must_use]
    pub fn own_dir(&self) -> Option<&Path> {
        match self.home {
            Home::Own => Some(&self.dir),
            Home::Lent { .. } => None,
        }
    }

    fn words(&self, offset: u64, count: usize) -> Result<Vec<u32>, SnapshotError> {
        let mut bytes = vec![0; count * 4];
        let path = || self.dir.join(TABLES);
        self.tables.read_exact_at(&mut bytes, offset).map_err(|error| SnapshotError::Io {
            operation: "read",
            path: path(),
            source: error,
        })?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    /// Frames of the page tables, in the order of the image.
    ///
    /// # Errors
    /// [`SnapshotError`]: unreadable, or a frame outside of memory.
    pub fn table_frames(&self) -> Result<Vec<u32>, SnapshotError> {
        let count = self.manifest.table_pages;
        let frames = self.words(u64::from(count) * PAGE, count as usize)?;
        frames.iter().try_for_each(|&pfn| self.check_frame(pfn))?;
        Ok(frames)
    }

    /// Pages that a restore must copy before the first entry.
    ///
    /// # Errors
    /// [`SnapshotError`]: unreadable, or a frame or page that cannot be.
    pub fn copied(&self) -> Result<Vec<Placed>, SnapshotError> {
        let after_tables = u64::from(self.manifest.table_pages) * (PAGE + 4);
        self.placed(after_tables, self.manifest.copied_pages)
    }

    /// For every frame that some layer of the lineage holds, its youngest page, in order of frames.
    ///
    /// # Errors
    /// [`SnapshotError`]: unreadable, or a frame or page that cannot be.
    pub fn frame_map(&self) -> Result<Vec<Placed>, SnapshotError> {
        let manifest = &self.manifest;
        let before = u64::from(manifest.table_pages) * (PAGE + 4) + u64::from(manifest.copied_pages) * 8;
        self.placed(before, manifest.mapped_frames)
    }

    fn placed(&self, offset: u64, count: u32) -> Result<Vec<Placed>, SnapshotError> {
        let words = self.words(offset, count as usize * 2)?;
        let list: Vec<_> = words.as_chunks::<2>().0.iter().map(|&[pfn, page]| Placed { pfn, page }).collect();
        for placed in &list {
            self.check_frame(placed.pfn)?;
            if u64::from(placed.page) >= self.manifest.lineage_pages().min(LINEAGE_PAGES_MAX) {
                let what = format!("page {} lies beyond the lineage's layers", placed.page);
                return Err(SnapshotError::damaged(self.dir.join(TABLES), what));
            }
        }
        Ok(list)
    }

    fn check_frame(&self, pfn: u32) -> Result<(), SnapshotError> {
        if u64::from(pfn) * PAGE < self.manifest.private_bytes {
            return Ok(());
        }
        Err(SnapshotError::damaged(self.dir.join(TABLES), format!("frame {pfn} lies outside of memory")))
    }

    /// Digest everything and compare: finds any changed bit.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] with the file's name.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        let (pages, tables) = (self.manifest.pages, self.manifest.tables);
        for (name, file, wanted) in [(PAGES, &self.pages, pages), (TABLES, &self.tables, tables)] {
            let path = self.dir.join(name);
            if digest_of(file, wanted.len_bytes).map_err(SnapshotError::io("read", &path))? != wanted.digest {
                return Err(SnapshotError::damaged(path, "its digest does not match"));
            }
        }
        self.table_frames()?;
        self.copied()?;
        self.frame_map()?;
        Ok(())
    }

    /// What earlier clones wrote, as far as the tree has learnt. It is a hint: what cannot be read is nothing.
    #[must_use]
    pub fn working_set(&self) -> Vec<WorkPage> {
        let bytes = match &self.home {
            Home::Own => read_at_most(&self.dir.join(WORKSET), WORKSET_BYTES_MAX).unwrap_or_default(),
            Home::Lent { known, .. } => known.clone(),
        };
        let valid = |page: &WorkPage| {
            self.check_frame(page.pfn).is_ok() && self.check_frame(page.table).is_ok() && page.index < 512
        };
        decode_working_set(&bytes).into_iter().filter(valid).collect()
    }

    /// The file `workset` as it would be written now; `None` where nothing is known.
    #[must_use]
    pub fn working_set_bytes(&self) -> Option<Vec<u8>> {
        let pages = self.working_set();
        (!pages.is_empty()).then(|| encode_working_set(&pages))
    }

    /// Keep a working set for later clones.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; the old one is then still there.
    pub fn set_working_set(&self, pages: &[WorkPage]) -> Result<(), SnapshotError> {
        let pages = &pages[..pages.len().min(WORKSET_MAX)];
        if let Home::Lent { keeper, .. } = &self.home {
            keeper.keep(self.id, pages);
            return Ok(());
        }
        let bytes = encode_working_set(pages);
        let path = self.dir.join(WORKSET);
        let temporary = tempfile::NamedTempFile::new_in(&self.dir)
            .map_err(SnapshotError::io("make a file in", &self.dir))?;
        std::fs::write(temporary.path(), bytes).map_err(SnapshotError::io("write", temporary.path()))?;
        temporary.persist(&path).map_err(|error| SnapshotError::Io {
            operation: "rename",
            path,
            source: error.error,
        })?;
        Ok(())
    }
}

/// A working set as the file `workset` has it.
fn encode_working_set(pages: &[WorkPage]) -> Vec<u8> {
    let entries: Vec<u8> =
        pages.iter().flat_map(|page| [page.pfn, page.table, page.index]).flat_map(u32::to_le_bytes).collect();
    let digest: [u8; 32] = Sha256::digest(&entries).into();
    [&WORKSET_MAGIC[..], &digest, &entries].concat()
}

/// The pages of a file `workset`; none if it is damaged. Frames are not checked.
#[must_use]
pub fn decode_working_set(bytes: &[u8]) -> Vec<WorkPage> {
    let Some(body) = bytes.strip_prefix(&WORKSET_MAGIC) else { return Vec::new() };
    let Some((digest, entries)) = body.split_first_chunk::<32>() else { return Vec::new() };
    let computed: [u8; 32] = Sha256::digest(entries).into();
    if computed != *digest {
        return Vec::new();
    }
    let words: Vec<u32> = entries.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let pages = words.as_chunks::<3>().0.iter().map(|&[pfn, table, index]| WorkPage { pfn, table, index });
    pages.take(WORKSET_MAX).collect()
}

fn check_length(path: &Path, file: &File, wanted: SectionRef) -> Result<(), SnapshotError> {
    let found = file.metadata().map_err(SnapshotError::io("look at", path))?.len();
    if found < wanted.len_bytes {
        return Err(SnapshotError::Truncated { path: path.to_owned(), found, wanted: wanted.len_bytes });
    }
    if found > wanted.len_bytes {
        let surplus = found - wanted.len_bytes;
        return Err(SnapshotError::damaged(path.to_owned(), format!("{surplus} bytes follow its end")));
    }
    Ok(())
}

/// Read the manifest of the snapshot in `dir`.
///
/// # Errors
/// [`SnapshotError`].
pub fn read_manifest(dir: &Path) -> Result<(Manifest, SnapshotId), SnapshotError> {
    let path = dir.join(MANIFEST);
    let most = (HEADER_BYTES + BODY_MAX + 1) as u64;
    let bytes = read_at_most(&path, most).map_err(SnapshotError::io("read", &path))?;
    let (manifest, id) = Manifest::decode(&bytes, &path)?;
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // A draft that is being checked has no name yet.
    if !name.starts_with('.') && name != id.to_string() {
        return Err(SnapshotError::damaged(path, format!("it is the manifest of {id}, not of {name}")));
    }
    Ok((manifest, id))
}

/// The first `most` bytes of a file.
fn read_at_most(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn digest_of(file: &File, len_bytes: u64) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len_bytes {
        let want = (len_bytes - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..want], at)?;
        hasher.update(&buffer[..want]);
        at += want as u64;
    }
    Ok(hasher.finalize().into())
}
