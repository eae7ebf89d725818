//! How a process ended: [`WaitStatus`].

use std::fmt;

/// A wait status as wait(2) encodes it: exited with a code, or killed by a signal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaitStatus(u32);

impl WaitStatus {
    /// Ended with exit code `code`.
    #[must_use]
    pub fn exited(code: u8) -> Self {
        Self(u32::from(code) << 8)
    }

    /// Killed by signal `signo` (its low seven bits).
    #[must_use]
    pub fn signalled(signo: u8) -> Self {
        Self(u32::from(signo & 0x7f))
    }

    /// The status that wait(2) would encode as `raw`; `None` if a process that has ended cannot have it.
    #[must_use]
    pub fn from_raw(raw: u64) -> Option<Self> {
        let low = raw & 0x7f;
        let valid = if low == 0 { raw & !0xff00 == 0 } else { low != 0x7f && raw & !0xff == 0 };
        valid.then_some(Self(raw as u32))
    }

    /// The wait(2) encoding.
    #[must_use]
    pub fn raw(self) -> u32 {
        self.0
    }

    /// The exit code, if the process exited.
    #[must_use]
    pub fn code(self) -> Option<u8> {
        (self.0 & 0x7f == 0).then_some((self.0 >> 8) as u8)
    }

    /// The signal, if one killed the process.
    #[must_use]
    pub fn signal(self) -> Option<u8> {
        let signo = (self.0 & 0x7f) as u8;
        (signo != 0).then_some(signo)
    }

    /// The exit code as shells and containerd report it: the code, or 128 plus the signal.
    #[must_use]
    pub fn shell_code(self) -> u32 {
        match (self.code(), self.signal()) {
            (Some(code), _) => u32::from(code),
            (None, signo) => 128 + u32::from(signo.unwrap_or(0)),
        }
    }
}

impl fmt::Display for WaitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code(), self.signal()) {
            (Some(code), _) => write!(f, "exited with code {code}"),
            (None, signo) => write!(f, "killed by signal {}", signo.unwrap_or(0)),
        }
    }
}

impl fmt::Debug for WaitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WaitStatus({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_signals_survive_the_encoding() {
        for value in 0..=255 {
            assert_eq!(WaitStatus::exited(value).code(), Some(value));
            assert_eq!(WaitStatus::exited(value).shell_code(), u32::from(value));
            assert_eq!(
                WaitStatus::from_raw(WaitStatus::exited(value).raw().into()),
                Some(WaitStatus::exited(value))
            );
        }
        for signo in 1..=64 {
            assert_eq!(WaitStatus::signalled(signo).signal(), Some(signo));
            assert_eq!(WaitStatus::signalled(signo).code(), None);
            assert_eq!(WaitStatus::signalled(signo).shell_code(), 128 + u32::from(signo));
        }
        assert_eq!(WaitStatus::from_raw(0x8b).and_then(WaitStatus::signal), Some(11), "core dump bit");
    }

    #[test]
    fn what_no_ended_process_has_is_refused() {
        for raw in [0x7f, 0x137f, 0xffff, 0x1_0000, 0x109, u64::MAX] {
            assert_eq!(WaitStatus::from_raw(raw), None, "{raw:#x}");
        }
    }
}
