//! Log lines from the guest: limited in rate and length, made printable, handed to `tracing`.

/// Longest line taken over, in bytes.
pub(super) const LINE_MAX: u64 = 4096;
/// Lines that may come at once...
const BURST: u64 = 200;
/// ...and how long one takes to be allowed again.
const REFILL_NS: u64 = 10_000_000;

/// A token bucket.
#[derive(Debug)]
pub(super) struct LogLimit {
    tokens: u64,
    filled_ns: u64,
    suppressed: u64,
}

impl LogLimit {
    pub(super) fn new(now_ns: u64) -> Self {
        Self { tokens: BURST, filled_ns: now_ns, suppressed: 0 }
    }

    /// Whether a line may be logged now; `Some(n)` says that `n` lines before it were not.
    pub(super) fn admit(&mut self, now_ns: u64) -> Option<u64> {
        let fresh = now_ns.saturating_sub(self.filled_ns) / REFILL_NS;
        self.tokens = self.tokens.saturating_add(fresh).min(BURST);
        self.filled_ns += fresh * REFILL_NS;
        if self.tokens == 0 {
            self.suppressed += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Text of a guest's message: invalid UTF-8 replaced, control characters escaped, so that a guest cannot forge lines.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\n');
    text.chars().fold(String::with_capacity(text.len()), |mut line, letter| {
        if letter.is_control() && letter != '\n' && letter != '\t' {
            line.extend(letter.escape_default());
        } else if letter == '\n' {
            line.push_str("\n    ");
        } else {
            line.push(letter);
        }
        line
    })
}

/// Hand a line to `tracing`.
pub(super) fn emit(guest: &str, level: u64, line: &str) {
    match level {
        1 => tracing::error!(target: "seuss_guest", guest, "{line}"),
        2 => tracing::warn!(target: "seuss_guest", guest, "{line}"),
        3 => tracing::info!(target: "seuss_guest", guest, "{line}"),
        4 => tracing::debug!(target: "seuss_guest", guest, "{line}"),
        _ => tracing::trace!(target: "seuss_guest", guest, "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut limit = LogLimit::new(0);
        let admitted = (0..1_000).filter(|_| limit.admit(0).is_some()).count();
        assert_eq!(admitted as u64, BURST);
        assert_eq!(limit.admit(REFILL_NS), Some(1_000 - BURST));
        assert_eq!(limit.admit(REFILL_NS), None);
    }

    #[test]
    fn no_line_is_forged() {
        assert_eq!(printable(b"a\x1b[31m\rb\n"), "a\\u{1b}[31m\\rb");
        assert_eq!(printable(b"a\nb\xff"), "a\n    b\u{fffd}");
    }
}
