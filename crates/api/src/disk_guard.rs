//! The disk guard: uploads are refused before the disk is full, so that accepted jobs can still be worked off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use verbatim_core::ports::{Disk, Room};
use verbatim_telemetry::Metrics;

use crate::error::{ApiError, chain};

/// The time that the disk is waited for: a write will show what is wrong with a slower one.
const DISK_TIMEOUT: Duration = Duration::from_secs(2);

/// The disk that uploads go to, and how much of it has to stay free.
#[derive(Clone)]
pub struct DiskParts {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Uploads that would leave less than so many bytes free are refused; 0 refuses none.
    pub min_free_bytes: u64,
}

/// Watches the free space of the disk and admits uploads by it.
pub(crate) struct DiskGuard {
    parts: Option<DiskParts>,
    metrics: Arc<Metrics>,
    /// Bytes of the uploads under way that have not arrived yet.
    expected: Arc<AtomicU64>,
    low: AtomicBool,
}

impl DiskGuard {
    /// Without a disk, everybody may.
    pub(crate) fn new(parts: Option<DiskParts>, metrics: Arc<Metrics>) -> Self {
        Self { parts, metrics, expected: Arc::default(), low: AtomicBool::new(false) }
    }

    /// Brings the gauges up to date, and tells the log when the watermark was crossed.
    pub(crate) async fn look(&self) -> Option<Room> {
        let parts = self.parts.as_ref()?;
        let room = match tokio::time::timeout(DISK_TIMEOUT, parts.disk.room()).await {
            Ok(Ok(room)) => room,
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "it is unknown how much room the disk has");
                return None;
            }
            Err(_) => {
                tracing::warn!("the disk does not tell in time how much room it has");
                return None;
            }
        };
        self.metrics.set_disk(room);
        self.tell(room.free_bytes, parts.min_free_bytes);
        Some(room)
    }

    /// Once in each direction; a disk that hovers about the watermark is not told of again and again.
    fn tell(&self, free_bytes: u64, min_free_bytes: u64) {
        if free_bytes < min_free_bytes {
            if !self.low.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    free_bytes,
                    min_free_bytes,
                    "the disk is nearly full: uploads are refused until there is more room"
                );
            }
        } else if free_bytes - min_free_bytes >= min_free_bytes / 10
            && self.low.swap(false, Ordering::Relaxed)
        {
            tracing::info!(free_bytes, min_free_bytes, "the disk has room again: uploads are accepted");
        }
    }

    /// Lets an upload of at most `bytes` in, unless it would leave too little free together with those under way.
    ///
    /// # Errors
    /// 507.
    pub(crate) async fn admit(&self, bytes: u64) -> Result<Expected, ApiError> {
        let min_free = self.parts.as_ref().map_or(0, |parts| parts.min_free_bytes);
        let free = match self.look().await {
            Some(room) if min_free > 0 => room.free_bytes,
            _ => u64::MAX,
        };
        let fits = |expected: u64| {
            let after = expected.saturating_add(bytes);
            (free.saturating_sub(after) >= min_free).then_some(after)
        };
        match self.expected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Expected { all: self.expected.clone(), left: AtomicU64::new(bytes) }),
            Err(_) => Err(ApiError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "out_of_space",
                "the service has too little room left for this upload; nothing was stored",
            )),
        }
    }
}

/// What is still to come of an upload that was let in.
#[derive(Debug)]
pub(crate) struct Expected {
    all: Arc<AtomicU64>,
    left: AtomicU64,
}

impl Expected {
    /// So many bytes are on the disk now, which counts them itself.
    pub(crate) fn arrived(&self, bytes: u64) {
        let rest = |left: u64| Some(left.saturating_sub(bytes));
        if let Ok(left) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest) {
            self.all.fetch_sub(left.min(bytes), Ordering::Relaxed);
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.arrived(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verbatim_core::{ErrorKind, PortError};

    /// A disk with as much room as the test says.
    struct Fake(AtomicU64);

    /// No disk has so much: this one does not answer.
    const BROKEN: u64 = u64::MAX;

    #[async_trait::async_trait]
    impl Disk for Fake {
        async fn room(&self) -> Result<Room, PortError> {
            match self.0.load(Ordering::Relaxed) {
                BROKEN => Err(PortError::new(ErrorKind::Unavailable, "broken")),
                free_bytes => Ok(Room { free_bytes, size_bytes: 10_000 }),
            }
        }
    }

    fn over(free: u64, min_free_bytes: u64) -> (DiskGuard, Arc<Fake>) {
        let disk = Arc::new(Fake(AtomicU64::new(free)));
        let parts = DiskParts { disk: disk.clone(), min_free_bytes };
        (DiskGuard::new(Some(parts), Arc::new(Metrics::new().unwrap())), disk)
    }

    #[tokio::test]
    async fn what_would_leave_too_little_is_refused_also_together_with_what_is_under_way() {
        let (watermark, disk) = over(1000, 600);
        let first = watermark.admit(300).await.unwrap();
        let refused = watermark.admit(101).await.unwrap_err();
        assert_eq!((refused.status, refused.code), (StatusCode::INSUFFICIENT_STORAGE, "out_of_space"));
        assert!(refused.retry_after.is_some());
        let second = watermark.admit(100).await.unwrap();
        drop(second);

        // What has arrived is told by the disk, and not counted twice.
        first.arrived(250);
        disk.0.store(750, Ordering::Relaxed);
        assert!(watermark.admit(101).await.is_err());
        drop(watermark.admit(100).await.unwrap());
        // More than was announced frees no more than was announced.
        first.arrived(250);
        drop(first);
        assert_eq!(watermark.expected.load(Ordering::Relaxed), 0);
        assert!(watermark.admit(151).await.is_err());
        assert!(watermark.admit(150).await.is_ok());
    }

    #[tokio::test]
    async fn a_disk_that_cannot_be_asked_and_one_without_watermark_refuse_nobody() {
        assert!(over(BROKEN, 600).0.admit(1 << 40).await.is_ok());
        assert!(over(5, 0).0.admit(1 << 40).await.is_ok());
        let none = DiskGuard::new(None, Arc::new(Metrics::new().unwrap()));
        assert!(none.admit(1 << 40).await.is_ok());
    }
}
