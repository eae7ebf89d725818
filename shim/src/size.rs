//! Byte sizes as people write them: `512M`, `1.5Gi`, `268435456`.

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a size; write bytes, or a number with K, M, G or Ki, Mi, Gi (powers of 1024), for example 512M"
)]
pub struct ParseSizeError {
    text: String,
}

/// The number of bytes that `text` says. `K`, `M`, `G`, `T` and `Ki`, `Mi`, `Gi`, `Ti` (a trailing `B` is allowed) are powers of 1024, as
/// Docker's `--memory` has them.
///
/// # Errors
/// [`ParseSizeError`]; zero and sizes beyond 64 bits are none.
pub fn parse_bytes(text: &str) -> Result<u64, ParseSizeError> {
    let wrong = || ParseSizeError { text: text.to_owned() };
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (number, shift) = match lower.chars().last().ok_or_else(wrong)? {
        'k' => (&lower[..lower.len() - 1], 10),
        'm' => (&lower[..lower.len() - 1], 20),
        'g' => (&lower[..lower.len() - 1], 30),
        't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let bytes = if let Ok(whole) = number.parse::<u64>() {
        whole.checked_mul(1 << shift).ok_or_else(wrong)?
    } else {
        let fraction: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = fraction * (1_u64 << shift) as f64;
        if !bytes.is_finite() || !(1.0..9.0e18).contains(&bytes) {
            return Err(wrong());
        }
        bytes as u64
    };
    if bytes == 0 { Err(wrong()) } else { Ok(bytes) }
}

/// `bytes` for people: `512 MiB`, `1.5 GiB`, `300 bytes`.
#[must_use]
pub fn display_bytes(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let size = 1_u64 << shift;
        if bytes >= size {
            return if bytes.is_multiple_of(size) {
                format!("{} {unit}", bytes / size)
            } else {
                format!("{:.1} {unit}", bytes as f64 / size as f64)
            };
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("512M", 512 << 20),
            ("512Mi", 512 << 20),
            ("512MiB", 512 << 20),
            ("512mb", 512 << 20),
            ("1.5g", 3 << 29),
            (" 2T ", 2 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "M", "0", "0M", "-1", "1X", "1e400", "99999999999T", "nan", "512 M B"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(display_bytes(512 << 20), "512 MiB");
        assert_eq!(display_bytes(3 << 29), "1.5 GiB");
        assert_eq!(display_bytes(300), "300 bytes");
    }
}
