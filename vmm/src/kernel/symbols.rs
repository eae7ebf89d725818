//! Names for addresses inside the kernel image, for reports only.

use object::{Object, ObjectSymbol, SymbolKind};
use seuss_abi::layout::{KERNEL_BASE, KERNEL_END};

use super::KernelImage;
use crate::memory::Gva;

/// The symbol table of a kernel image, sorted by address. Empty for a stripped image.
#[derive(Clone, Debug, Default)]
pub(crate) struct Symbols {
    entries: Vec<(u64, u64, String)>,
}

impl Symbols {
    /// Read the symbols of `image`.
    pub(crate) fn read(image: &KernelImage) -> Self {
        let Ok(file) = object::read::elf::ElfFile64::<object::LittleEndian>::parse(image.bytes()) else {
            return Self::default();
        };
        let code = [SymbolKind::Text, SymbolKind::Label, SymbolKind::Unknown];
        let named = file.symbols().filter(|symbol| code.contains(&symbol.kind()));
        let mut entries: Vec<_> = named
            .filter(|symbol| (KERNEL_BASE..KERNEL_END).contains(&symbol.address()))
            .filter_map(|symbol| {
                let name = symbol.name().ok().filter(|name| !name.is_empty())?;
                Some((symbol.address(), symbol.size(), format!("{:#}", rustc_demangle::demangle(name))))
            })
            .collect();
        entries.sort();
        Self { entries }
    }

    /// A table with these (address, size, name).
    #[cfg(test)]
    pub(crate) fn of(entries: &[(u64, u64, &str)]) -> Self {
        Self {
            entries: entries.iter().map(|&(address, size, name)| (address, size, name.to_owned())).collect(),
        }
    }

    /// `name+0xoffset` of the symbol that covers `gva`, or of the last one before it if that has no size.
    pub(crate) fn name(&self, gva: Gva) -> Option<String> {
        if !(KERNEL_BASE..KERNEL_END).contains(&gva.0) {
            return None;
        }
        let after = self.entries.partition_point(|(address, _, _)| *address <= gva.0);
        let (address, size, name) = self.entries.get(after.checked_sub(1)?)?;
        let offset = gva.0 - address;
        (*size == 0 || offset < *size).then(|| format!("{name}+{offset:#x}"))
    }
}
