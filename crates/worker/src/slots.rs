//! Room for work: a slot is taken before a lease is asked for and given back when it is dropped.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All slots of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    count: usize,
}

/// Room for one job, or for one that takes all of it.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    permit: OwnedSemaphorePermit,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        let count = count.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { free: Arc::new(Semaphore::new(count)), count }
    }

    /// Waits for a free slot.
    pub(crate) async fn take(&self) -> Slot {
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("nobody closes the semaphore");
        Slot { slots: self.clone(), permit }
    }
}

impl Slot {
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
