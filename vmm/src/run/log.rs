//! Log lines from the guest: limited in length, made printable, handed to `tracing`. How many there may be is [`crate::text`]'s business.

use crate::text::cut;

/// Longest line taken over, in bytes; also after escaping.
pub(super) const LINE_MAX: u64 = 4096;

/// Text of a guest's message: invalid UTF-8 replaced, control characters escaped, so that a guest cannot forge lines. At most `most` bytes: an escaped byte is up to ten.
pub(super) fn printable(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut line = String::with_capacity(text.len().min(most));
    for letter in text.trim_end_matches('\n').chars() {
        if line.len() > most {
            break;
        }
        if letter.is_control() && letter != '\n' && letter != '\t' {
            line.extend(letter.escape_default());
        } else if letter == '\n' {
            line.push_str("\n    ");
        } else {
            line.push(letter);
        }
    }
    cut(line, most)
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
    fn escaping_does_not_make_it_long() {
        let line = printable(&[0; 4096], 1000);
        assert!(line.len() <= 1000 && line.ends_with("..."), "{line}");
    }

    #[test]
    fn no_line_is_forged() {
        assert_eq!(printable(b"a\x1b[31m\rb\n", 99), "a\\u{1b}[31m\\rb");
        assert_eq!(printable(b"a\nb\xff", 99), "a\n    b\u{fffd}");
    }
}
