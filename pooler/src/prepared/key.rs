//! Under what a server has a statement.

use std::ops::Deref;

/// A statement as a server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) statement: u64,
    pub(crate) meaning: u64,
}

impl Key {
    /// Its name on every server.
    pub(crate) fn name(self) -> ServerName {
        let mut name = ServerName { bytes: [0; ServerName::LONGEST], len: 0 };
        name.push(b"pgferry_");
        name.push_hex(self.statement);
        if self.meaning != 0 {
            name.push(b"_");
            name.push_hex(self.meaning);
        }
        name
    }
}

/// `pgferry_` and two numbers in hexadecimal digits. Made for every `Bind`, and so without an allocation.
pub(crate) struct ServerName {
    bytes: [u8; ServerName::LONGEST],
    len: usize,
}

impl ServerName {
    const LONGEST: usize = "pgferry_".len() + 16 + 1 + 16;

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn push_hex(&mut self, number: u64) {
        let digits = (number.checked_ilog2().unwrap_or(0) / 4 + 1) as usize;
        for (at, byte) in self.bytes[self.len..][..digits].iter_mut().rev().enumerate() {
            *byte = b"0123456789abcdef"[(number >> (4 * at)) as usize & 0xf];
        }
        self.len += digits;
    }
}

impl Deref for ServerName {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_long_as_their_numbers() {
        for (statement, meaning) in [(0, 0), (1, 0), (0xf, 0x10), (0x1234_5678, 0), (u64::MAX, u64::MAX)] {
            let expected = match meaning {
                0 => format!("pgferry_{statement:x}"),
                _ => format!("pgferry_{statement:x}_{meaning:x}"),
            };
            assert_eq!(&*Key { statement, meaning }.name(), expected.as_bytes());
        }
    }
}
