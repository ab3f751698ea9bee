//! Room in the scratch folder, reserved before it is written. Tenants share it (see [`Shares`]); a job takes what it will
//! need in one piece before it begins, so that nobody holds some while he waits for more.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use verbatim_admission::{PoolGauge, PoolUse, Refused};
use verbatim_audio::{Reservation, Scratch};
use verbatim_core::{ErrorKind, PortError};

use crate::shares::Shares;

/// The unit in which room is counted and shown, in bytes.
const UNIT: u64 = 1024 * 1024;
/// Disk that is left to everything else, in units.
const LEFT_ALONE: u64 = 64;
/// Others than this process may make room, too: it is looked for so often while somebody waits.
const LOOK: Duration = Duration::from_secs(1);

/// The scratch folder of a worker; clones share it.
#[derive(Clone)]
pub(crate) struct ScratchFolder(Arc<Shared>);

struct Shared {
    path: PathBuf,
    /// Bytes that the disk has left; `None` when nobody knows.
    free: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    gauge: Box<dyn PoolGauge>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    shares: Shares,
    waiting: usize,
    /// Bytes of what is held that are written, or are about to be.
    promised: u64,
}

/// Room that somebody holds until this is dropped.
pub(crate) struct Room {
    shared: Arc<Shared>,
    owner: Arc<str>,
    units: AtomicU64,
    /// Bytes of it that are written, or are about to be.
    promised: AtomicU64,
}

/// What one job has of the folder: what it took before it began, and what it finds out to need besides.
pub(crate) struct JobScratch {
    room: Arc<Room>,
    /// Bytes of the room that are not promised to a file yet.
    left: Mutex<u64>,
}

impl ScratchFolder {
    /// The folder at `path`, on a disk with so much `free`; shows itself on `gauge`.
    pub(crate) fn new(
        path: &Path,
        free: impl Fn() -> Option<u64> + Send + Sync + 'static,
        gauge: Box<dyn PoolGauge>,
    ) -> Self {
        let (path, free) = (path.to_owned(), Box::new(free));
        Self(Arc::new(Shared { path, free, gauge, state: Mutex::default(), changed: Notify::new() }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Takes `bytes` for `owner`, once there is room for them.
    ///
    /// # Errors
    /// `OutOfSpace` when the folder is too small for them even when nobody else uses it.
    pub(crate) async fn take(&self, owner: &str, bytes: u64) -> Result<JobScratch, PortError> {
        let units = bytes.div_ceil(UNIT);
        let _waits = Waits::begin(&self.0, owner);
        loop {
            let changed = self.0.changed.notified();
            if let Some(room) = self.0.try_take(owner, units) {
                return Ok(JobScratch { room: Arc::new(room), left: Mutex::new(units * UNIT) });
            }
            if self.0.is_hopeless(units) {
                return Err(no_room());
            }
            let _ = tokio::time::timeout(LOOK, changed).await;
        }
    }
}

fn no_room() -> PortError {
    PortError::new(ErrorKind::OutOfSpace, "the scratch folder has no room for the decoded audio")
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Units that all can hold together: what is free, and what of theirs is no longer free because it is written.
    fn limit(&self, state: &State) -> u64 {
        match (self.free)() {
            Some(free) => (free.saturating_add(state.promised) / UNIT).saturating_sub(LEFT_ALONE),
            None => u64::MAX / UNIT,
        }
    }

    fn try_take(self: &Arc<Self>, owner: &str, units: u64) -> Option<Room> {
        let mut state = self.lock();
        let limit = self.limit(&state);
        let room = units == 0 || state.shares.may_take(owner, units, limit);
        if room {
            state.shares.take(owner, units);
        }
        self.show(&state, limit);
        room.then(|| {
            let (units, promised) = (AtomicU64::new(units), AtomicU64::new(0));
            Room { shared: Arc::clone(self), owner: owner.into(), units, promised }
        })
    }

    fn is_hopeless(&self, units: u64) -> bool {
        let state = self.lock();
        state.shares.held() == 0 && units > self.limit(&state)
    }

    fn give_back(&self, owner: &str, units: u64, promised: u64) {
        let mut state = self.lock();
        state.shares.give_back(owner, units);
        state.promised = state.promised.saturating_sub(promised);
        let limit = self.limit(&state);
        self.show(&state, limit);
        drop(state);
        self.changed.notify_waiters();
    }

    fn show(&self, state: &State, limit: u64) {
        let count = |units| usize::try_from(units).unwrap_or(usize::MAX);
        let (permits, held, holders) = (count(limit), count(state.shares.held()), state.shares.owners());
        self.gauge.show(PoolUse { permits, max: permits, held, waiting: state.waiting, holders });
    }
}

/// Somebody who waits, for as long as he does.
struct Waits<'s> {
    shared: &'s Shared,
    owner: String,
}

impl<'s> Waits<'s> {
    fn begin(shared: &'s Shared, owner: &str) -> Self {
        let mut state = shared.lock();
        state.shares.wait(owner);
        state.waiting += 1;
        Self { shared, owner: owner.to_owned() }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.shares.leave(&self.owner);
        state.waiting -= 1;
    }
}

impl Room {
    /// So many bytes of it are about to be written.
    fn promise(&self, bytes: u64) {
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        self.shared.lock().promised += bytes;
    }

    /// Gives back what is more than `bytes`.
    fn shrink_to(&self, bytes: u64) {
        let units = bytes.div_ceil(UNIT);
        let before = self.units.fetch_min(units, Ordering::Relaxed);
        self.shared.give_back(&self.owner, before.saturating_sub(units), 0);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.give_back(&self.owner, *self.units.get_mut(), *self.promised.get_mut());
    }
}

impl std::fmt::Debug for ScratchFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ScratchFolder").field(&self.0.path).finish()
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("units", &self.units).finish_non_exhaustive()
    }
}

impl JobScratch {
    /// Promises so many bytes to a file that is about to be written by other means than [`Scratch`].
    pub(crate) fn promise(&self, bytes: u64) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(bytes);
        self.room.promise(bytes);
    }

    /// Gives back what was not promised to any file.
    pub(crate) fn settle(&self) {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let held = self.room.units.load(Ordering::Relaxed) * UNIT;
        self.room.shrink_to(held.saturating_sub(left));
    }
}

impl Scratch for JobScratch {
    fn folder(&self) -> &Path {
        &self.room.shared.path
    }

    fn reserve(&self, bytes: u64) -> Result<Reservation, PortError> {
        {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(rest) = left.checked_sub(bytes) {
                *left = rest;
                self.room.promise(bytes);
                return Ok(Box::new(Arc::clone(&self.room)));
            }
        }
        // Whoever has begun does not wait: others may wait for what he holds.
        let room = self.room.shared.try_take(&self.room.owner, bytes.div_ceil(UNIT));
        let room = room.ok_or_else(|| {
            self.room.shared.gauge.refused(Refused::Full);
            no_room()
        })?;
        room.promise(bytes);
        Ok(Box::new(room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(units: u64) -> ScratchFolder {
        ScratchFolder::new(Path::new("/"), move || Some((units + LEFT_ALONE) * UNIT), Box::new(()))
    }

    #[tokio::test(start_paused = true)]
    async fn one_tenant_leaves_room_for_the_next_and_waits_for_his_own() {
        let folder = folder(80);
        let mut held = Vec::new();
        for _ in 0..7 {
            held.push(folder.take("a", 10 * UNIT).await.unwrap());
        }
        let waits = folder.take("a", 10 * UNIT);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending(), "an eighth is kept back");
        let other = folder.take("b", 10 * UNIT).await.unwrap();
        let second = folder.take("b", 10 * UNIT);
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending(), "there is no more");
        held.truncate(4);
        assert!(futures::poll!(&mut waits).is_pending(), "he has his half");
        drop((second.await.unwrap(), other));
        waits.await.unwrap();
        drop(held);
        assert_eq!(folder.0.lock().shares.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_is_given_back_once_it_turns_out_to_be_less() {
        let folder = folder(80);
        let scratch = folder.take("a", 50 * UNIT).await.unwrap();
        let first = scratch.reserve(16 * UNIT).unwrap();
        scratch.settle();
        assert_eq!(folder.0.lock().shares.held(), 16);
        let second = scratch.reserve(16 * UNIT).unwrap();
        assert_eq!(folder.0.lock().shares.held(), 32, "beyond what was taken there may be more");
        assert!(scratch.reserve(80 * UNIT).is_err_and(|error| error.kind() == ErrorKind::OutOfSpace));
        drop((scratch, first));
        assert_eq!(folder.0.lock().shares.held(), 16);
        drop(second);
        assert_eq!(folder.0.lock().shares.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_never_fit_is_refused_and_nothing_is_always_there() {
        let folder = folder(10);
        let refused = folder.take("a", 11 * UNIT).await;
        assert!(refused.is_err_and(|error| error.kind() == ErrorKind::OutOfSpace));
        let _all = folder.take("a", 10 * UNIT).await.unwrap();
        let _none = folder.take("b", 0).await.unwrap();
    }
}
