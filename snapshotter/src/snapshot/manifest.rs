//! The manifest: what a snapshot is, and what its other files must be. Pure data; `FORMAT.md` has the bytes.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::codec::{Decoder, Encoder};
use super::error::SnapshotError;

/// The first eight bytes of a manifest.
pub const MAGIC: [u8; 8] = *b"SEUSSNAP";
/// Version of the whole format: manifest, pages, tables.
pub const VERSION: u32 = 1;
/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 64;
/// Longest body in bytes.
pub const BODY_MAX: usize = 1 << 20;

/// Names a snapshot: the first half of its manifest's digest, so that a name vouches for the content. 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(pub [u8; 16]);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SnapshotId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut id = [0; 16];
        if text.len() != 32 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(());
        }
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| ())?;
        }
        Ok(Self(id))
    }
}

/// At which point of a program's life a snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// The runtime has initialised.
    Base,
    /// The program is ready to serve.
    Function,
    /// Half-way through a request.
    Argument,
}

impl Level {
    /// Its number in manifests and in the guest's requests.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Base => 0,
            Self::Function => 1,
            Self::Argument => 2,
        }
    }

    /// The level with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Base),
            1 => Some(Self::Function),
            2 => Some(Self::Argument),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Function => "function",
            Self::Argument => "argument",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The processor as the snapshot's program saw it. Its choices (glibc's IFUNCs, an interpreter's) are frozen in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet {
    /// XCR0.
    pub xcr0: u64,
    /// Bytes of an XSAVE area.
    pub xsave_bytes: u64,
    /// Names of instruction-set extensions, sorted.
    pub features: Vec<String>,
}

/// An EROFS blob of the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// SHA-256 of the blob.
    pub digest: [u8; 32],
    /// Its length.
    pub len_bytes: u64,
}

/// A file beside the manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionRef {
    /// Its length.
    pub len_bytes: u64,
    /// Its SHA-256.
    pub digest: [u8; 32],
}

/// Everything about a snapshot but its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The snapshot that this one adds to.
    pub parent: Option<SnapshotId>,
    /// Layers of the lineage, this one included: 1 for a root.
    pub depth: u32,
    /// At which point it was taken.
    pub level: Level,
    /// What it is a snapshot of, for who looks for one that fits.
    pub key: String,
    /// A name for people; may be empty, need not be unique.
    pub name: String,
    /// When it was taken: CLOCK_REALTIME of the host, nanoseconds.
    pub created_ns: u64,
    /// Version of the contract between guest and VMM.
    pub abi_version: u32,
    /// SHA-256 of the guest image whose library OS the snapshot holds.
    pub kernel: [u8; 32],
    /// Processor.
    pub cpu: CpuSet,
    /// Size of the private window in bytes.
    pub private_bytes: u64,
    /// Reserved part of it in bytes, for figures.
    pub reserved_bytes: u64,
    /// Guest-physical address of the library OS's own PML4: what CR3 holds at entry.
    pub pml4_gpa: u64,
    /// The guest's CLOCK_MONOTONIC when it was taken, nanoseconds.
    pub monotonic_ns: u64,
    /// The guest's CLOCK_BOOTTIME minus its CLOCK_MONOTONIC, nanoseconds.
    pub boottime_offset_ns: i64,
    /// How often what it was taken of had been restored.
    pub generation: u64,
    /// Whether the program has a terminal.
    pub terminal: bool,
    /// Command line, for people.
    pub command: String,
    /// Root file system, base layer first.
    pub images: Vec<ImageRef>,
    /// Listening sockets, as the guest described them.
    pub listeners: Vec<String>,
    /// Pages of the layers below this one, index pages included: where this layer starts, in pages.
    pub first_page: u32,
    /// Pages of this layer, without its index.
    pub layer_pages: u32,
    /// Page tables in the page-table image.
    pub table_pages: u32,
    /// Pages that a restore must copy before the first entry.
    pub copied_pages: u32,
    /// Entries of the map from frames to layer pages.
    pub mapped_frames: u32,
    /// `pages`.
    pub pages: SectionRef,
    /// `tables`.
    pub tables: SectionRef,
}

impl Manifest {
    /// The file's bytes and the id that they give the snapshot.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, SnapshotId) {
        let mut body = Encoder::default();
        let parent = self.parent.map_or([0; 16], |id| id.0);
        body.raw(&parent);
        for number in [self.depth, self.level.number()] {
            body.u32(number);
        }
        body.bytes(self.key.as_bytes());
        body.bytes(self.name.as_bytes());
        body.u64(self.created_ns);
        body.u32(self.abi_version);
        body.raw(&self.kernel);
        body.u64(self.cpu.xcr0);
        body.u64(self.cpu.xsave_bytes);
        body.list(&self.cpu.features, |body, name| body.bytes(name.as_bytes()));
        for number in [self.private_bytes, self.reserved_bytes, self.pml4_gpa, self.monotonic_ns] {
            body.u64(number);
        }
        body.u64(self.boottime_offset_ns.cast_unsigned());
        body.u64(self.generation);
        body.u32(u32::from(self.terminal));
        body.bytes(self.command.as_bytes());
        body.list(&self.images, |body, image| {
            body.raw(&image.digest);
            body.u64(image.len_bytes);
        });
        body.list(&self.listeners, |body, text| body.bytes(text.as_bytes()));
        let counts =
            [self.first_page, self.layer_pages, self.table_pages, self.copied_pages, self.mapped_frames];
        counts.into_iter().for_each(|count| body.u32(count));
        for section in [self.pages, self.tables] {
            body.u64(section.len_bytes);
            body.raw(&section.digest);
        }
        let body = body.0;
        let digest: [u8; 32] = Sha256::digest(&body).into();
        let mut file = Vec::with_capacity(HEADER_BYTES + body.len());
        file.extend_from_slice(&MAGIC);
        for number in [VERSION, HEADER_BYTES as u32, body.len() as u32, 0, 0, 0] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        file.extend_from_slice(&digest);
        file.extend_from_slice(&body);
        (file, id_of(&digest))
    }

    /// Read a manifest's bytes; `path` is for messages.
    ///
    /// # Errors
    /// [`SnapshotError`]: not a manifest, another version, cut off, damaged.
    pub fn decode(file: &[u8], path: &Path) -> Result<(Self, SnapshotId), SnapshotError> {
        let damaged = |what: String| SnapshotError::damaged(path, what);
        let truncated = |wanted: usize| SnapshotError::Truncated {
            path: path.to_owned(),
            found: file.len() as u64,
            wanted: wanted as u64,
        };
        if file.get(..8).is_none_or(|magic| magic != MAGIC) {
            return Err(SnapshotError::NotASnapshot { path: path.to_owned() });
        }
        let word = |at: usize| {
            let bytes: [u8; 4] = file.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        // The version decides what the rest means: it is looked at before anything else.
        let version = word(8).ok_or_else(|| truncated(HEADER_BYTES))?;
        if version != VERSION {
            return Err(SnapshotError::Version { path: path.to_owned(), found: version, known: VERSION });
        }
        let header = file.get(..HEADER_BYTES).ok_or_else(|| truncated(HEADER_BYTES))?;
        let len = word(16).unwrap_or_default() as usize;
        if word(12) != Some(HEADER_BYTES as u32)
            || len > BODY_MAX
            || header[20..32].iter().any(|&byte| byte != 0)
        {
            return Err(damaged("the header's sizes are wrong".into()));
        }
        let body = &file[HEADER_BYTES..];
        if body.len() < len {
            return Err(truncated(HEADER_BYTES + len));
        }
        if body.len() > len {
            return Err(damaged(format!("{} bytes follow its end", body.len() - len)));
        }
        let digest: [u8; 32] = Sha256::digest(body).into();
        if digest != header[32..64] {
            return Err(damaged("its digest does not match".into()));
        }
        let manifest = Self::decode_body(body).map_err(damaged)?;
        Ok((manifest, id_of(&digest)))
    }

    fn decode_body(body: &[u8]) -> Result<Self, String> {
        let mut body = Decoder(body);
        let parent: [u8; 16] = body.array("parent")?;
        let depth = body.u32("depth")?;
        let level = body.u32("level")?;
        let manifest = Self {
            parent: (parent != [0; 16]).then_some(SnapshotId(parent)),
            depth,
            level: Level::from_number(level.into()).ok_or_else(|| format!("level {level} is unknown"))?,
            key: body.text("key")?,
            name: body.text("name")?,
            created_ns: body.u64("created")?,
            abi_version: body.u32("ABI version")?,
            kernel: body.array("kernel digest")?,
            cpu: CpuSet {
                xcr0: body.u64("xcr0")?,
                xsave_bytes: body.u64("xsave size")?,
                features: body.list("CPU features", |body| body.text("CPU feature"))?,
            },
            private_bytes: body.u64("private size")?,
            reserved_bytes: body.u64("reserved size")?,
            pml4_gpa: body.u64("PML4")?,
            monotonic_ns: body.u64("monotonic clock")?,
            boottime_offset_ns: body.u64("boottime offset")?.cast_signed(),
            generation: body.u64("generation")?,
            terminal: match body.u32("terminal")? {
                0 => false,
                1 => true,
                other => return Err(format!("terminal is {other}")),
            },
            command: body.text("command")?,
            images: body.list("images", |body| {
                Ok(ImageRef { digest: body.array("image digest")?, len_bytes: body.u64("image size")? })
            })?,
            listeners: body.list("listeners", |body| body.text("listener"))?,
            first_page: body.u32("first page")?,
            layer_pages: body.u32("layer pages")?,
            table_pages: body.u32("table pages")?,
            copied_pages: body.u32("copied pages")?,
            mapped_frames: body.u32("mapped frames")?,
            pages: SectionRef {
                len_bytes: body.u64("size of pages")?,
                digest: body.array("digest of pages")?,
            },
            tables: SectionRef {
                len_bytes: body.u64("size of tables")?,
                digest: body.array("digest of tables")?,
            },
        };
        body.end()?;
        manifest.check()?;
        Ok(manifest)
    }

    /// What must hold between the fields.
    fn check(&self) -> Result<(), String> {
        if self.depth == 0
            || self.depth > super::DEPTH_MAX
            || (self.depth == 1) != self.parent.is_none()
            || (self.depth == 1 && self.first_page != 0)
        {
            return Err(format!("depth {} does not fit its parent", self.depth));
        }
        if self.pages.len_bytes != self.layer_file_pages() * super::PAGE {
            return Err("the size of pages does not fit their number".into());
        }
        if u64::from(self.first_page) + self.layer_file_pages() > super::LINEAGE_PAGES_MAX {
            return Err("the lineage has more pages than are possible".into());
        }
        if self.tables.len_bytes != self.tables_len_bytes() {
            return Err("the size of tables does not fit their number".into());
        }
        if !self.private_bytes.is_multiple_of(super::PAGE) || !self.pml4_gpa.is_multiple_of(super::PAGE) {
            return Err("memory is not made of whole pages".into());
        }
        Ok(())
    }

    /// Pages of the file `pages`: the layer's pages and their index.
    #[must_use]
    pub fn layer_file_pages(&self) -> u64 {
        u64::from(self.layer_pages) + (u64::from(self.layer_pages) * 4).div_ceil(super::PAGE)
    }

    /// Bytes of the file `tables`.
    #[must_use]
    pub fn tables_len_bytes(&self) -> u64 {
        u64::from(self.table_pages) * (super::PAGE + 4)
            + (u64::from(self.copied_pages) + u64::from(self.mapped_frames)) * 8
    }

    /// Pages of the whole lineage, index pages included: where a child's layer starts.
    #[must_use]
    pub fn lineage_pages(&self) -> u64 {
        u64::from(self.first_page) + self.layer_file_pages()
    }

    /// Whether a snapshot with this manifest can build on one with `parent`: its layer follows the parent's, its memory is as large, and its root file system
    /// begins with the parent's layers.
    #[must_use]
    pub fn builds_on(&self, parent: &Self) -> bool {
        self.depth == parent.depth + 1
            && u64::from(self.first_page) == parent.lineage_pages()
            && self.private_bytes == parent.private_bytes
            && self.images.starts_with(&parent.images)
    }
}

fn id_of(digest: &[u8; 32]) -> SnapshotId {
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    SnapshotId(id)
}

const _: () = {
    // A change of any of these is another format: bump VERSION, keep the old golden file as one that is refused.
    assert!(VERSION == 1);
    assert!(HEADER_BYTES == 8 + 6 * 4 + 32);
    assert!(u64::from_be_bytes(MAGIC) == 0x5345_5553_534e_4150);
};
