//! Room in the scratch folder, reserved before it is written, as permits of a pool that tenants share (ADR 78). A permit is
//! a byte. A job reserves what it will need in one piece before it begins, so that no job waits for more while it holds some.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use verbatim_admission::{
    Headroom, Holder, Permit, Pool, PoolConfig, PoolGauge, PoolUse, Refused, Reserve, Sizing,
};
use verbatim_audio::{Reservation, Scratch};
use verbatim_core::{ErrorKind, PortError};

/// The unit in which room is shown, in bytes.
const UNIT: u64 = 1024 * 1024;
/// Disk that is left to everything else, in bytes.
const LEFT_ALONE: u64 = 64 * UNIT;
/// A job waits for room for as long as it takes; its time limit ends it, if anything does.
const PATIENCE: Duration = Duration::MAX;

/// The scratch folder of a worker; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ScratchFolder {
    path: Arc<Path>,
    pool: Pool,
    /// Bytes of files in the folder, as far as reserved. They are missing in the free space of the disk.
    written: Arc<AtomicU64>,
}

/// What one job has reserved of the folder.
#[derive(Debug)]
pub(crate) struct JobScratch {
    folder: ScratchFolder,
    /// Room that no file uses yet.
    rest: Mutex<Permit>,
    /// The room of the upload's copy, held for as long as this is.
    _copy: Option<FileRoom>,
}

/// The room of one file, written or about to be.
#[derive(Debug)]
struct FileRoom {
    permit: Permit,
    written: Arc<AtomicU64>,
}

impl ScratchFolder {
    /// The folder at `path`, on a disk with so many bytes `free` (`None`: unknown); shows itself on `gauge`.
    pub(crate) fn new(
        path: &Path,
        free: impl Fn() -> Option<u64> + Send + Sync + 'static,
        gauge: Box<dyn PoolGauge>,
    ) -> Self {
        let written = Arc::new(AtomicU64::new(0));
        let ours = Arc::clone(&written);
        let room = move || {
            let all = free()?.saturating_add(ours.load(Ordering::Relaxed));
            Some(amount(all.saturating_sub(LEFT_ALONE)))
        };
        let config = PoolConfig { sizing: Sizing::room(), max_waiting: usize::MAX, reserve: Reserve::Eighth };
        let pool = Pool::new(config, vec![Headroom::permits(room)], Box::new(InUnits(gauge)));
        Self { path: path.into(), pool, written }
    }

    /// The path of the folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    /// Reserves `decoded` bytes for decoded audio and `copy` bytes for a copy of the upload, once there is room.
    ///
    /// # Errors
    /// `OutOfSpace` when the folder is too small for them even if no other job used it.
    pub(crate) async fn reserve(
        &self,
        holder: &Holder,
        decoded: u64,
        copy: u64,
    ) -> Result<JobScratch, PortError> {
        let permit = self.pool.acquire_many(holder, amount(decoded.saturating_add(copy)), PATIENCE).await;
        let mut permit = permit.map_err(no_room)?;
        let copy = (copy > 0).then(|| self.file(permit.split(amount(copy))));
        Ok(JobScratch { folder: self.clone(), rest: Mutex::new(permit), _copy: copy })
    }

    fn file(&self, permit: Permit) -> FileRoom {
        self.written.fetch_add(permit.amount() as u64, Ordering::Relaxed);
        FileRoom { permit, written: Arc::clone(&self.written) }
    }
}

fn amount(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn no_room(why: Refused) -> PortError {
    PortError::new(ErrorKind::OutOfSpace, "the scratch folder has no room for the decoded audio")
        .with_source(why)
}

impl Drop for FileRoom {
    fn drop(&mut self) {
        // Before the permit is given back: the file is gone, and its bytes would count twice.
        self.written.fetch_sub(self.permit.amount() as u64, Ordering::Relaxed);
    }
}

impl JobScratch {
    /// Gives back what no file uses, once decoding has shown how much it took.
    pub(crate) fn settle(&self) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        drop(rest.split(usize::MAX));
    }
}

impl Scratch for JobScratch {
    fn folder(&self) -> &Path {
        &self.folder.path
    }

    fn reserve(&self, bytes: u64) -> Result<Reservation, PortError> {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = amount(bytes).saturating_sub(rest.amount());
        if missing > 0 {
            // The estimate was too low. Waiting would block jobs that wait for what this one holds.
            rest.grow_ahead(missing).map_err(no_room)?;
        }
        Ok(Box::new(self.folder.file(rest.split(amount(bytes)))))
    }
}

/// Shows permits of a byte in mebibytes.
struct InUnits(Box<dyn PoolGauge>);

impl PoolGauge for InUnits {
    fn show(&self, now: PoolUse) {
        let PoolUse { permits, max, held, waiting, holders } = now;
        let [permits, max] = [permits, max].map(|bytes| bytes / amount(UNIT));
        let [held, waiting] = [held, waiting].map(|bytes| bytes.div_ceil(amount(UNIT)));
        self.0.show(PoolUse { permits, max, held, waiting, holders });
    }

    fn refused(&self, why: Refused) {
        self.0.refused(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder on a disk of so many units that are for it, and where what is written is missing.
    fn folder(units: u64) -> (ScratchFolder, Arc<AtomicU64>) {
        let free = Arc::new(AtomicU64::new(units * UNIT + LEFT_ALONE));
        let seen = Arc::clone(&free);
        (ScratchFolder::new(Path::new("/"), move || Some(seen.load(Ordering::Relaxed)), Box::new(())), free)
    }

    fn tenant(name: &str) -> Holder {
        Holder::tenant(name)
    }

    fn held(folder: &ScratchFolder) -> u64 {
        folder.pool.usage().held as u64 / UNIT
    }

    #[tokio::test(start_paused = true)]
    async fn one_tenant_leaves_room_for_the_next_and_waits_for_its_own() {
        let (folder, _) = folder(80);
        let mut all = Vec::new();
        for _ in 0..7 {
            all.push(folder.reserve(&tenant("a"), 10 * UNIT, 0).await.unwrap());
        }
        let a = tenant("a");
        let waits = folder.reserve(&a, 10 * UNIT, 0);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending(), "an eighth is kept back");
        let other = folder.reserve(&tenant("b"), 10 * UNIT, 0).await.unwrap();
        all.truncate(4);
        waits.await.unwrap();
        drop((all, other));
        assert_eq!(held(&folder), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_reserved_is_given_back_once_it_turns_out_to_be_less() {
        let (folder, _) = folder(80);
        let scratch = folder.reserve(&tenant("a"), 40 * UNIT, 10 * UNIT).await.unwrap();
        let first = Scratch::reserve(&scratch, 16 * UNIT).unwrap();
        assert_eq!(held(&folder), 50, "the room was there already");
        scratch.settle();
        assert_eq!(held(&folder), 26, "the copy of the upload, and what is decoded");
        let second = Scratch::reserve(&scratch, 16 * UNIT).unwrap();
        assert_eq!(held(&folder), 42, "a job may take more than it has reserved");
        let beyond = Scratch::reserve(&scratch, 80 * UNIT);
        assert!(beyond.is_err_and(|error| error.kind() == ErrorKind::OutOfSpace));
        drop(scratch);
        assert_eq!(held(&folder), 32, "the files outlive the job's reservation");
        drop((first, second));
        assert_eq!((held(&folder), folder.written.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_jobs_have_written_is_not_taken_from_the_limit_twice() {
        let (folder, free) = folder(80);
        let scratch = folder.reserve(&tenant("a"), 0, 30 * UNIT).await.unwrap();
        free.fetch_sub(30 * UNIT, Ordering::Relaxed);
        assert_eq!(folder.pool.usage().permits as u64, 80 * UNIT);
        free.fetch_add(30 * UNIT, Ordering::Relaxed);
        drop(scratch);
        assert_eq!(folder.pool.usage().permits as u64, 80 * UNIT);
        free.fetch_sub(50 * UNIT, Ordering::Relaxed);
        assert_eq!(folder.pool.usage().permits as u64, 30 * UNIT, "others have written something");
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_never_fit_is_refused_and_nothing_is_always_there() {
        let (folder, _) = folder(10);
        let refused = folder.reserve(&tenant("a"), 11 * UNIT, 0).await;
        assert!(refused.is_err_and(|error| error.kind() == ErrorKind::OutOfSpace));
        let _all = folder.reserve(&tenant("a"), 10 * UNIT, 0).await.unwrap();
        let _none = folder.reserve(&tenant("b"), 0, 0).await.unwrap();
    }
}
