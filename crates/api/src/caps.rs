//! Puts the caps of tenants in force: what the directory says of tenants and their keys, applied by the job store. A change
//! over HTTP is applied before it is answered; what is changed beside this node, and keys that expire, within a second.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};
use verbatim_core::PortError;
use verbatim_core::caps::AllCaps;
use verbatim_core::ids::TenantId;
use verbatim_core::job::TenantCaps;

use crate::error::chain;
use crate::state::ApiState;

/// Between two looks at whether anything changed.
const PACE: Duration = Duration::from_secs(1);
/// So often all caps are applied whether or not anything changed: another node may have applied what it had read before.
const AGAIN: Duration = Duration::from_secs(15);
/// How often caps that change while they are applied are read anew at once.
const MOST_READS: u32 = 5;

/// Keeps the caps of tenants in force.
#[derive(Debug, Default)]
pub(crate) struct CapsKeeper {
    /// What was applied last, and when; one at a time.
    applied: Mutex<Option<(AllCaps, Instant)>>,
}

impl CapsKeeper {
    /// Applies what changes, until the process stops.
    pub(crate) async fn run(&self, state: &ApiState) {
        let mut rounds = interval(PACE);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        while state.shutdown.run_until_cancelled(rounds.tick()).await.is_some() {
            let Some(done) = state.shutdown.run_until_cancelled(self.look(state)).await else { return };
            if let Err(error) = &done
                && !failing
            {
                tracing::warn!(error = %chain(error), "the caps of tenants are not in force as they were set; trying on");
            }
            failing = done.is_err();
        }
    }

    /// Applies all caps if others may be in force than when they were applied last.
    async fn look(&self, state: &ApiState) -> Result<(), PortError> {
        let mut applied = self.applied.lock().await;
        if let Some((caps, at)) = &*applied
            && at.elapsed() < AGAIN
            && !caps.is_outdated(revision(state).await?, state.clock.now())
        {
            return Ok(());
        }
        *applied = Some((apply(state).await?, Instant::now()));
        Ok(())
    }

    /// Applies all caps as they are now.
    ///
    /// # Errors
    /// Those of the directory and of the job store. [`Self::run`] tries again.
    pub(crate) async fn apply(&self, state: &ApiState) -> Result<(), PortError> {
        let mut applied = self.applied.lock().await;
        // Unless this succeeds the next look applies them.
        *applied = None;
        *applied = Some((apply(state).await?, Instant::now()));
        Ok(())
    }
}

async fn apply(state: &ApiState) -> Result<AllCaps, PortError> {
    let applying = async {
        let mut reads = 0;
        loop {
            let caps = read(state).await?;
            let at_cap = caps.apply(state.admin.as_ref()).await?;
            state.metrics.caps.set_at_cap(at_cap);
            reads += 1;
            // What changed meanwhile may have been applied by another node before.
            if reads == MOST_READS || revision(state).await? == caps.revision {
                return Ok(caps);
            }
        }
    };
    applying.await.inspect_err(|_| state.metrics.caps.failures.inc())
}

async fn revision(state: &ApiState) -> Result<u64, PortError> {
    match &state.auth {
        Some(directory) => directory.revision().await,
        None => Ok(0),
    }
}

/// What the directory says. Where nobody is asked for a key, the one tenant has no caps, whatever was in force before.
async fn read(state: &ApiState) -> Result<AllCaps, PortError> {
    match &state.auth {
        Some(directory) => AllCaps::read(directory.as_ref(), state.clock.now()).await,
        None => {
            let nobody = (TenantId::default(), TenantCaps::default());
            Ok(AllCaps { tenants: [nobody].into(), until: None, revision: 0 })
        }
    }
}
