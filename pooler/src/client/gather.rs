//! What goes on to the other side of one read.

use std::cell::RefMut;
use std::ops::Range;

use crate::worker::Worker;

/// Bytes for the other side: nearly always a run of those that were read. Where something lies between them that does
/// not go on, or something else comes in, they are gathered in the worker's scratch buffer.
pub(super) struct Gather<'w> {
    scratch: RefMut<'w, Vec<u8>>,
    run: Range<usize>,
}

impl<'w> Gather<'w> {
    pub(super) fn new(worker: &'w Worker) -> Gather<'w> {
        let mut scratch = worker.scratch.borrow_mut();
        scratch.clear();
        Gather { scratch, run: 0..0 }
    }

    /// These of the bytes read go on.
    #[inline]
    pub(super) fn keep(&mut self, input: &[u8], bytes: Range<usize>) {
        if self.run.is_empty() {
            self.run = bytes;
        } else if self.run.end == bytes.start {
            self.run.end = bytes.end;
        } else {
            self.flush(input);
            self.run = bytes;
        }
    }

    /// Other bytes come in here.
    pub(super) fn insert(&mut self, input: &[u8], bytes: &[u8]) {
        self.flush(input);
        self.scratch.extend_from_slice(bytes);
    }

    /// Bytes that were gathered, beside those that lie where they were read.
    #[inline]
    pub(super) fn gathered(&self) -> usize {
        self.scratch.len()
    }

    fn flush(&mut self, input: &[u8]) {
        self.scratch.extend_from_slice(&input[std::mem::take(&mut self.run)]);
    }

    /// All of it.
    #[inline]
    pub(super) fn bytes<'a>(&'a mut self, input: &'a [u8]) -> &'a [u8] {
        if self.scratch.is_empty() {
            return &input[self.run.clone()];
        }
        self.flush(input);
        &self.scratch
    }
}
