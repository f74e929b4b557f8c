//! Fields of a message between two processes: each a tag (1 byte), a length (4) and so many bytes. A reader passes over
//! tags that it does not know, so that versions may differ by what was added.

/// Puts fields together.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn put(&mut self, tag: u8, bytes: impl AsRef<[u8]>) -> &mut Writer {
        let bytes = bytes.as_ref();
        self.0.push(tag);
        self.0.extend_from_slice(&(bytes.len() as u32).to_be_bytes()); // a message is far shorter than 4 GiB
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn number(&mut self, tag: u8, number: u64) -> &mut Writer {
        self.put(tag, number.to_be_bytes())
    }

    /// Nothing for false.
    pub(super) fn flag(&mut self, tag: u8, flag: bool) -> &mut Writer {
        if flag { self.put(tag, []) } else { self }
    }

    /// A field for each pair.
    pub(super) fn pairs<A: AsRef<[u8]>, B: AsRef<[u8]>>(
        &mut self,
        tag: u8,
        pairs: impl IntoIterator<Item = (A, B)>,
    ) -> &mut Writer {
        for (first, second) in pairs {
            let mut pair = Writer::default();
            pair.put(0, first).put(1, second);
            self.put(tag, pair.0);
        }
        self
    }

    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// Takes fields apart. What is left when it ends was cut off.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        self.0 = rest;
        Some((*tag, bytes))
    }
}

impl Fields<'_> {
    /// Gives each field to `take`; `None` if that refuses one or the last was cut off.
    pub(super) fn each(mut self, mut take: impl FnMut(u8, &[u8]) -> Option<()>) -> Option<()> {
        for (tag, bytes) in &mut self {
            take(tag, bytes)?;
        }
        self.0.is_empty().then_some(())
    }
}

pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

pub(super) fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

pub(super) fn pair(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields(bytes);
    Some((fields.next()?.1, fields.next()?.1))
}

pub(super) fn texts(bytes: &[u8]) -> Option<(String, String)> {
    let (first, second) = pair(bytes)?;
    Some((text(first)?, text(second)?))
}
