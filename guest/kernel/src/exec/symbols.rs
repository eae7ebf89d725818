//! Functions that an ELF object exports: look-up in its dynamic symbol table, by DT_GNU_HASH or DT_HASH (System V ABI, "Hash Table"; the GNU table as ld.so reads it).
//!
//! The object is read through [`Source`], as its file says: at run time a library's own tables may have been written over. Every byte is the application's, so every number is checked before
//! it is used, and no look-up takes more than [`STEPS_MAX`] steps, whatever the tables say.

use alloc::vec;
use alloc::vec::Vec;

/// Where an object's bytes come from.
pub trait Source {
    /// Fill `bytes` from a file offset; `None` if they are not all there.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Option<()>;
}

impl Source for &[u8] {
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Option<()> {
        let start = usize::try_from(offset).ok()?;
        bytes.copy_from_slice(self.get(start..start.checked_add(bytes.len())?)?);
        Some(())
    }
}

/// Most program headers and dynamic entries that are looked at.
const ENTRIES_MAX: u64 = 256;
/// Most symbols that one look-up compares.
const STEPS_MAX: u32 = 4096;
/// Longest name that is looked up, in bytes.
const NAME_MAX: usize = 64;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
/// PF_X.
const EXECUTABLE: u32 = 1;

const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_GNU_HASH: u64 = 0x6fff_fef5;

/// Bytes of an Elf64_Sym.
const SYMBOL_BYTES: u64 = 24;
/// STT_FUNC.
const FUNCTION: u8 = 2;

#[derive(Clone, Copy, Debug)]
struct Load {
    flags: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
}

/// The parts of an object that look-ups need.
pub struct Object<'a> {
    source: &'a dyn Source,
    loads: Vec<Load>,
    symbols: u64,
    strings: u64,
    strings_bytes: u64,
    gnu_hash: Option<u64>,
    hash: Option<u64>,
}

fn u32_at(source: &dyn Source, offset: u64) -> Option<u32> {
    let mut bytes = [0; 4];
    source.read(offset, &mut bytes)?;
    Some(u32::from_le_bytes(bytes))
}

fn u64_at(source: &dyn Source, offset: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    source.read(offset, &mut bytes)?;
    Some(u64::from_le_bytes(bytes))
}

/// The hash of DT_GNU_HASH.
fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381, |hash, byte| u32::wrapping_add(hash.wrapping_mul(33), u32::from(*byte)))
}

/// The hash of DT_HASH.
fn sysv_hash(name: &[u8]) -> u32 {
    name.iter().fold(0u32, |hash, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(*byte));
        let high = hash & 0xf000_0000;
        (hash ^ high >> 24) & !high
    })
}

impl<'a> Object<'a> {
    /// Read the headers; `None` if this is no ELF object for x86-64 with a dynamic symbol table.
    #[must_use]
    pub fn read(source: &'a dyn Source) -> Option<Self> {
        let mut head = [0; 64];
        source.read(0, &mut head)?;
        let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        // ELFCLASS64, ELFDATA2LSB; ET_EXEC or ET_DYN; EM_X86_64.
        let is_ours = head[..6] == *b"\x7fELF\x02\x01" && matches!(half(16), 2 | 3) && half(18) == 62;
        if !is_ours || half(54) != 56 {
            return None;
        }
        let table = u64_at(source, 32)?;
        let (mut loads, mut dynamic) = (Vec::new(), None);
        for index in 0..u64::from(half(56)).min(ENTRIES_MAX) {
            let mut bytes = [0; 56];
            source.read(table.checked_add(index * 56)?, &mut bytes)?;
            let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
            let (kind, flags) = (word(0) as u32, (word(0) >> 32) as u32);
            let load = Load { flags, offset: word(8), address: word(16), file_bytes: word(32) };
            match kind {
                PT_LOAD => loads.push(load),
                PT_DYNAMIC => dynamic = Some(load),
                _ => {}
            }
        }
        let mut object =
            Self { source, loads, symbols: 0, strings: 0, strings_bytes: 0, gnu_hash: None, hash: None };
        object.read_dynamic(dynamic?)?;
        Some(object)
    }

    /// Where the names of an object's static symbol table lie in its file: offset and length.
    #[must_use]
    pub fn static_names(source: &dyn Source) -> Option<(u64, u64)> {
        const SYMTAB: u32 = 2;
        let mut head = [0; 64];
        source.read(0, &mut head)?;
        let half = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let (table, size, count) = (u64_at(source, 40)?, half(58), half(60));
        if head[..6] != *b"\x7fELF\x02\x01" || size != 64 {
            return None;
        }
        let section = |index: u64| table.checked_add(index * 64);
        for index in 0..count.min(4 * ENTRIES_MAX) {
            let at = section(index)?;
            if u32_at(source, at.checked_add(4)?)? == SYMTAB {
                let names = section(u64::from(u32_at(source, at.checked_add(40)?)?))?;
                return Some((
                    u64_at(source, names.checked_add(24)?)?,
                    u64_at(source, names.checked_add(32)?)?,
                ));
            }
        }
        None
    }

    fn read_dynamic(&mut self, dynamic: Load) -> Option<()> {
        for index in 0..(dynamic.file_bytes / 16).min(ENTRIES_MAX) {
            let at = dynamic.offset.checked_add(index * 16)?;
            let (tag, value) = (u64_at(self.source, at)?, u64_at(self.source, at.checked_add(8)?)?);
            match tag {
                0 => break,
                DT_STRSZ => self.strings_bytes = value,
                DT_SYMTAB => self.symbols = self.offset_of(value)?,
                DT_STRTAB => self.strings = self.offset_of(value)?,
                DT_GNU_HASH => self.gnu_hash = self.offset_of(value),
                DT_HASH => self.hash = self.offset_of(value),
                _ => {}
            }
        }
        (self.symbols != 0 && self.strings != 0).then_some(())
    }

    /// Where in the file the byte lies that is loaded at `address`.
    fn offset_of(&self, address: u64) -> Option<u64> {
        let inside = |load: &&Load| address.checked_sub(load.address).is_some_and(|at| at < load.file_bytes);
        let load = self.loads.iter().find(inside)?;
        load.offset.checked_add(address - load.address)
    }

    /// The address, by the object's own counting, of what lies at `offset` in the file and is executable: with where it is mapped, it tells how far the object was moved.
    #[must_use]
    pub fn address_of_text(&self, offset: u64) -> Option<u64> {
        // A segment is mapped from the page on that it begins in.
        let start = |load: &Load| load.offset & !0xfff;
        let inside = |load: &&Load| {
            load.flags & EXECUTABLE != 0
                && offset >= start(load)
                && load.offset.checked_add(load.file_bytes).is_some_and(|end| offset < end)
        };
        let load = self.loads.iter().find(inside)?;
        load.address.checked_sub(load.offset - start(load))?.checked_add(offset - start(load))
    }

    /// The address, by the object's own counting, of the function that it exports by this name, whatever its version.
    #[must_use]
    pub fn function(&self, name: &[u8]) -> Option<u64> {
        if name.len() > NAME_MAX {
            return None;
        }
        match (self.gnu_hash, self.hash) {
            (Some(table), _) => self.in_gnu_hash(table, name),
            (None, Some(table)) => self.in_hash(table, name),
            (None, None) => None,
        }
    }

    fn in_gnu_hash(&self, table: u64, name: &[u8]) -> Option<u64> {
        let word = |at: u64| u32_at(self.source, table.checked_add(at)?);
        let (buckets, first, bloom_words, shift) = (word(0)?, word(4)?, word(8)?, word(12)?);
        if buckets == 0 || bloom_words == 0 {
            return None;
        }
        let hash = gnu_hash(name);
        let filter = u64_at(self.source, table.checked_add(16 + u64::from(hash / 64 % bloom_words) * 8)?)?;
        let bits = 1 << (hash % 64) | 1u64 << (hash.checked_shr(shift).unwrap_or(0) % 64);
        if filter & bits != bits {
            return None;
        }
        let bucket_table = 16 + u64::from(bloom_words) * 8;
        let chains = bucket_table + u64::from(buckets) * 4;
        let mut index = word(bucket_table + u64::from(hash % buckets) * 4)?;
        for _ in 0..STEPS_MAX {
            let link = word(chains + u64::from(index.checked_sub(first)?) * 4)?;
            if (link ^ hash) >> 1 == 0
                && let Some(address) = self.function_at(index, name)
            {
                return Some(address);
            }
            if link & 1 != 0 {
                return None;
            }
            index = index.checked_add(1)?;
        }
        None
    }

    fn in_hash(&self, table: u64, name: &[u8]) -> Option<u64> {
        let word = |index: u64| u32_at(self.source, table.checked_add(index * 4)?);
        let buckets = word(0)?;
        if buckets == 0 {
            return None;
        }
        let mut index = word(2 + u64::from(sysv_hash(name) % buckets))?;
        for _ in 0..STEPS_MAX {
            if index == 0 {
                return None;
            }
            if let Some(address) = self.function_at(index, name) {
                return Some(address);
            }
            index = word(2 + u64::from(buckets) + u64::from(index))?;
        }
        None
    }

    /// Where symbol `index` lies, if it is a function that is defined here and has this name.
    fn function_at(&self, index: u32, name: &[u8]) -> Option<u64> {
        let mut symbol = [0; SYMBOL_BYTES as usize];
        self.source.read(self.symbols.checked_add(u64::from(index) * SYMBOL_BYTES)?, &mut symbol)?;
        let name_at = u64::from(u32::from_le_bytes([symbol[0], symbol[1], symbol[2], symbol[3]]));
        let is_defined = symbol[6..8] != [0, 0];
        if symbol[4] & 15 != FUNCTION || !is_defined || name_at + name.len() as u64 >= self.strings_bytes {
            return None;
        }
        let mut found = vec![0; name.len() + 1];
        self.source.read(self.strings.checked_add(name_at)?, &mut found)?;
        let is_it = found.strip_suffix(&[0]) == Some(name);
        is_it.then(|| symbol[8..16].try_into().map_or(0, u64::from_le_bytes))
    }
}

#[cfg(test)]
mod tests;
