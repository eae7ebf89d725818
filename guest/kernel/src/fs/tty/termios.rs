//! Terminal attributes (termios(3)) as the kernel's ABI has them.

/// Bytes of the kernel's `struct termios` (asm-generic/termbits.h).
pub const TERMIOS_BYTES: usize = 36;

// c_iflag
pub(super) const ISTRIP: u32 = 0o40;
pub(super) const INLCR: u32 = 0o100;
pub(super) const IGNCR: u32 = 0o200;
pub(super) const ICRNL: u32 = 0o400;
// c_oflag
pub(super) const OPOST: u32 = 1;
pub(super) const ONLCR: u32 = 4;
// c_lflag
pub(super) const ISIG: u32 = 1;
pub(super) const ICANON: u32 = 2;
pub(super) const ECHO: u32 = 0o10;
pub(super) const ECHOE: u32 = 0o20;
pub(super) const ECHOK: u32 = 0o40;
pub(super) const ECHONL: u32 = 0o100;
pub(super) const NOFLSH: u32 = 0o200;
pub(super) const ECHOCTL: u32 = 0o1000;
pub(super) const ECHOKE: u32 = 0o4000;
pub(super) const IEXTEN: u32 = 0o100_000;
// c_cc
pub(super) const VINTR: usize = 0;
pub(super) const VQUIT: usize = 1;
pub(super) const VERASE: usize = 2;
pub(super) const VKILL: usize = 3;
pub(super) const VEOF: usize = 4;
pub(super) const VMIN: usize = 6;
pub(super) const VSUSP: usize = 10;
pub(super) const VEOL: usize = 11;
pub(super) const VWERASE: usize = 14;
pub(super) const VLNEXT: usize = 15;
pub(super) const VEOL2: usize = 16;

/// Terminal attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termios {
    pub(super) input: u32,
    pub(super) output: u32,
    control: u32,
    local: u32,
    line: u8,
    pub(super) characters: [u8; 19],
}

impl Default for Termios {
    /// What a new pseudo terminal has (tty_std_termios).
    fn default() -> Self {
        Self {
            input: ICRNL | 0o2000,
            output: OPOST | ONLCR,
            control: 0o17 | 0o60 | 0o200,
            local: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
            line: 0,
            characters: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
        }
    }
}

impl Termios {
    /// `struct termios` of asm-generic/termbits.h.
    #[must_use]
    pub fn encode(&self) -> [u8; TERMIOS_BYTES] {
        let mut bytes = [0; TERMIOS_BYTES];
        for (at, word) in [self.input, self.output, self.control, self.local].into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes[16] = self.line;
        bytes[17..36].copy_from_slice(&self.characters);
        bytes
    }

    /// The inverse of [`Self::encode`].
    #[must_use]
    pub fn decode(bytes: &[u8; TERMIOS_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut characters = [0; 19];
        characters.copy_from_slice(&bytes[17..36]);
        Self {
            input: word(0),
            output: word(4),
            control: word(8),
            local: word(12),
            line: bytes[16],
            characters,
        }
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.local & flag != 0
    }

    pub(super) fn is(&self, byte: u8, which: usize) -> bool {
        byte != 0 && self.characters[which] == byte
    }
}
