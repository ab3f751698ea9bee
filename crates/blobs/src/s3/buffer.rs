//! The bytes of uploads that are in memory, and the count of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// The size of a part. Stores put together 10,000 of them at most, so that a blob can have 78 GiB.
pub const PART_BYTES: usize = 8 * 1024 * 1024;
/// What one upload holds in memory at most: a part that is being gathered, and one that is being sent.
pub const UPLOAD_MEMORY_BYTES: usize = 2 * PART_BYTES;

const FIRST_RESERVE: usize = 64 * 1024;

/// How many bytes the uploads of a store hold at present.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// At most one part, counted for as long as it lives.
#[derive(Debug)]
pub(super) struct Part {
    bytes: Vec<u8>,
    held: Held,
}

impl Part {
    pub(super) fn empty(gauge: &Gauge) -> Self {
        Self { bytes: Vec::new(), held: Held { gauge: gauge.clone(), bytes: 0 } }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() == PART_BYTES
    }

    /// Takes as much of the front of `piece` as there is room for.
    pub(super) fn fill_from(&mut self, piece: &mut Bytes) {
        let taken = piece.split_to(piece.len().min(PART_BYTES - self.bytes.len()));
        let needed = self.bytes.len() + taken.len();
        if needed > self.bytes.capacity() {
            // Small blobs are many: a part grows by doubling, and not beyond its size.
            let room = needed.max(2 * self.bytes.capacity()).clamp(FIRST_RESERVE, PART_BYTES);
            self.bytes.reserve_exact(room - self.bytes.len());
            self.held.set(self.bytes.capacity());
        }
        self.bytes.extend_from_slice(&taken);
    }

    /// The bytes to send, and what counts them while they are being sent.
    pub(super) fn into_bytes(self) -> (Bytes, Held) {
        (Bytes::from(self.bytes), self.held)
    }
}

/// A share of the count.
#[derive(Debug)]
pub(super) struct Held {
    gauge: Gauge,
    bytes: usize,
}

impl Held {
    fn set(&mut self, bytes: usize) {
        self.gauge.0.fetch_add(bytes, Ordering::Relaxed);
        self.gauge.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_takes_what_fits_and_is_counted_until_it_is_gone() {
        let gauge = Gauge::default();
        let mut part = Part::empty(&gauge);
        let mut piece = Bytes::from(vec![7; 100]);
        part.fill_from(&mut piece);
        assert!(piece.is_empty() && gauge.bytes() == FIRST_RESERVE);
        let mut piece = Bytes::from(vec![8; PART_BYTES]);
        part.fill_from(&mut piece);
        assert_eq!((piece.len(), part.is_full(), gauge.bytes()), (100, true, PART_BYTES));
        let (bytes, held) = part.into_bytes();
        assert_eq!((bytes.len(), bytes[99], bytes[100]), (PART_BYTES, 7, 8));
        drop(held);
        assert_eq!(gauge.bytes(), 0);
    }
}
