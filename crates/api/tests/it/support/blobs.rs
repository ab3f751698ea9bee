//! A blob store in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use verbatim_core::ports::blobs::BlobMeta;
use verbatim_core::ports::{BlobKey, BlobStore, BlobWriter};
use verbatim_core::{ErrorKind, PortError};

/// Blobs in memory; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Blobs(Arc<Shelf>);

impl std::ops::Deref for Blobs {
    type Target = Shelf;
    fn deref(&self) -> &Shelf {
        &self.0
    }
}

/// Behind [`Blobs`].
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) blobs: Mutex<BTreeMap<BlobKey, Vec<u8>>>,
    /// Bytes that writers were given, also those that were dropped.
    pub(crate) written: AtomicUsize,
    /// After so many bytes the store is full.
    pub(crate) room: Mutex<Option<usize>>,
    /// Nothing can be read.
    pub(crate) away: AtomicBool,
}

impl Blobs {
    pub(crate) fn uploads(&self) -> Vec<Vec<u8>> {
        let blobs = self.blobs.lock().unwrap();
        blobs.iter().filter(|(key, _)| key.as_str().starts_with("audio/")).map(|(_, b)| b.clone()).collect()
    }
}

struct Writer {
    store: Blobs,
    key: BlobKey,
    bytes: Vec<u8>,
}

#[async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, piece: Bytes) -> Result<(), PortError> {
        let written = self.store.written.fetch_add(piece.len(), Ordering::Relaxed) + piece.len();
        if self.store.room.lock().unwrap().is_some_and(|room| written > room) {
            return Err(PortError::new(ErrorKind::OutOfSpace, "full"));
        }
        self.bytes.extend_from_slice(&piece);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), PortError> {
        self.store.blobs.lock().unwrap().insert(self.key, self.bytes);
        Ok(())
    }
}

#[async_trait]
impl BlobStore for Blobs {
    async fn put_stream(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, PortError> {
        Ok(Box::new(Writer { store: self.clone(), key: key.clone(), bytes: Vec::new() }))
    }

    async fn get_stream(
        &self,
        key: &BlobKey,
    ) -> Result<BoxStream<'static, Result<Bytes, PortError>>, PortError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(PortError::new(ErrorKind::Unavailable, "the share is not mounted"));
        }
        let blob = self.blobs.lock().unwrap().get(key).cloned();
        let blob = blob.ok_or_else(|| PortError::new(ErrorKind::NotFound, "no such blob"))?;
        Ok(stream::iter([Ok(Bytes::from(blob))]).boxed())
    }

    async fn head(&self, _: &BlobKey) -> Result<Option<BlobMeta>, PortError> {
        Ok(None)
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), PortError> {
        self.blobs.lock().unwrap().remove(key);
        Ok(())
    }

    async fn list(&self, _: &str, _: Option<&BlobKey>, _: usize) -> Result<Vec<BlobMeta>, PortError> {
        Ok(Vec::new())
    }

    async fn presign(&self, _: &BlobKey, _: std::time::Duration) -> Result<Option<String>, PortError> {
        Ok(None)
    }

    async fn ping(&self) -> Result<(), PortError> {
        Ok(())
    }
}
