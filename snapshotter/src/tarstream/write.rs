//! Headers of archives that this crate writes: ustar, regular files, the same bytes for the same content.

/// Bytes of a block.
const BLOCK: usize = 512;

/// What ends an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The header of a regular file with mode 0644, owned by root, of 1970. `name` has at most 100 bytes.
pub(crate) fn header(name: &str, size_bytes: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, bytes: &[u8]| block[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size_bytes < 1 << 33 {
        put(124, format!("{size_bytes:011o}\0").as_bytes());
    } else {
        // GNU's base-256 form, for what eleven octal digits cannot say.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size_bytes.to_be_bytes());
    }
    put(136, b"00000000000\0");
    // The sum counts its own field as blanks.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Zeros up to the next block.
pub(crate) fn padding(size_bytes: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let rest = (size_bytes % BLOCK as u64) as usize;
    if rest == 0 { &[] } else { &ZEROS[rest..] }
}
