//! Little-endian integers and length-prefixed bytes, one after the other: the body of a manifest.

/// Appends values.
#[derive(Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.raw(bytes);
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut put: impl FnMut(&mut Self, &T)) {
        self.u32(items.len() as u32);
        for item in items {
            put(self, item);
        }
    }
}

/// Takes values; every failure says what was to be read.
pub(super) struct Decoder<'b>(pub(super) &'b [u8]);

type Result<T> = std::result::Result<T, String>;

impl<'b> Decoder<'b> {
    pub(super) fn raw(&mut self, len: usize, what: &str) -> Result<&'b [u8]> {
        let (head, tail) =
            self.0.split_at_checked(len).ok_or_else(|| format!("the body ends within {what}"))?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let bytes = self.raw(N, what)?;
        bytes.try_into().map_err(|_| format!("the body ends within {what}"))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(super) fn bytes(&mut self, what: &str) -> Result<&'b [u8]> {
        let len = self.u32(what)?;
        self.raw(len as usize, what)
    }

    pub(super) fn text(&mut self, what: &str) -> Result<String> {
        let bytes = self.bytes(what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| format!("{what} is not UTF-8"))
    }

    pub(super) fn list<T>(
        &mut self,
        what: &str,
        mut take: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.u32(what)? as usize;
        // Every item has at least a byte: a wrong count cannot ask for more memory than the body has.
        if count > self.0.len() {
            return Err(format!("{what} has {count} items, the body has not"));
        }
        (0..count).map(|_| take(self)).collect()
    }

    pub(super) fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("{} bytes are left over", self.0.len())) }
    }
}
