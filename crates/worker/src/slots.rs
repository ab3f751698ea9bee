//! Room for work: a slot is taken before a lease is asked for and given back when it is dropped. Of all that have a
//! slot only a few may still wait for their engine: what cannot begin soon is better off in the queue, where any worker
//! can have it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All slots of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    /// For those whose work has not begun.
    ahead: Arc<Semaphore>,
    count: usize,
}

/// Room for one job, or for one that takes all of it.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    permit: OwnedSemaphorePermit,
    ahead: Ahead,
}

/// A job's place among those whose work has not begun. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Ahead(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Ahead {
    /// The work begins: another job may be claimed.
    pub(crate) fn leave(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Slots {
    /// Slots for `count` jobs, of which `ahead` may wait for their engine.
    pub(crate) fn new(count: usize, ahead: usize) -> Self {
        let within = |count: usize| count.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let (count, ahead) = (within(count), within(ahead));
        Self { free: Arc::new(Semaphore::new(count)), ahead: Arc::new(Semaphore::new(ahead)), count }
    }

    /// Waits for a free slot.
    pub(crate) async fn take(&self) -> Slot {
        let take = async |semaphore: &Arc<Semaphore>| {
            Arc::clone(semaphore).acquire_owned().await.expect("nobody closes the semaphore")
        };
        let ahead = take(&self.ahead).await;
        let permit = take(&self.free).await;
        Slot { slots: self.clone(), permit, ahead: Ahead(Arc::new(Mutex::new(Some(ahead)))) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The work may be over before it has begun, and others may still know the place.
        self.ahead.leave();
    }
}

impl Slot {
    /// Its place among those whose work has not begun.
    pub(crate) fn ahead(&self) -> Ahead {
        self.ahead.clone()
    }

    /// Whether this slot is the only one in use.
    pub(crate) fn is_only_one(&self) -> bool {
        self.slots.free.available_permits() + self.permit.num_permits() == self.slots.count
    }

    /// Takes all other slots as well, so that nothing is worked on beside this. Waits for those in use.
    pub(crate) async fn take_all(&mut self) {
        let others = self.slots.count - self.permit.num_permits();
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        let rest = Arc::clone(&self.slots.free).acquire_many_owned(others).await;
        self.permit.merge(rest.expect("nobody closes the semaphore"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whether a slot can be had at once.
    async fn is_free(slots: &Slots) -> bool {
        tokio::time::timeout(Duration::ZERO, slots.take()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_for_their_engine_than_may() {
        let slots = Slots::new(5, 2);
        let (first, second) = (slots.take().await, slots.take().await);
        assert!(!is_free(&slots).await, "two wait");
        first.ahead().leave();
        first.ahead().leave();
        assert!(is_free(&slots).await, "one has begun");
        let third = slots.take().await;
        assert!(!is_free(&slots).await, "two wait again");
        drop(second);
        assert!(is_free(&slots).await, "one is over before it has begun");
        drop((first, third));
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_have_begun_there_are_no_more_than_slots() {
        let slots = Slots::new(2, 2);
        let both = [slots.take().await, slots.take().await];
        both.iter().for_each(|slot| slot.ahead().leave());
        assert!(!is_free(&slots).await);
    }
}
