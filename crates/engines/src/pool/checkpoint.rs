//! Checkpoints name the provider that wrote them: one provider's notes are never given to another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use verbatim_core::ids::Fence;
use verbatim_core::ports::engine::{Checkpoint, EngineObserver};
use verbatim_core::transcript::Segment;

/// The revision of the wrapping, not of the checkpoint inside.
const REVISION: &str = "pool-1";

#[derive(Serialize, Deserialize)]
struct Notes {
    provider: String,
    revision: String,
    state: serde_json::Value,
    #[serde(default)]
    bill: Option<Bill>,
}

/// The audio that a provider had billed under a lease when the checkpoint was written: the lease may end before it is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bill {
    pub(super) fence: Fence,
    pub(super) billed_ms: u64,
}

/// The point from which a job resumes: a checkpoint, the provider that wrote it, and its bill.
#[derive(Debug, PartialEq)]
pub(super) struct ResumePoint {
    pub(super) provider: String,
    pub(super) checkpoint: Checkpoint,
    pub(super) bill: Option<Bill>,
}

fn wrap(point: ResumePoint) -> Checkpoint {
    let ResumePoint { provider, checkpoint: Checkpoint { revision, position_ms, segments, state }, bill } =
        point;
    let notes =
        serde_json::json!({ "provider": provider, "revision": revision, "state": state, "bill": bill });
    Checkpoint { revision: REVISION.to_owned(), position_ms, segments, state: notes }
}

/// The resume point in a checkpoint; `None` for one that no pool wrapped.
pub(super) fn unwrap(checkpoint: Checkpoint) -> Option<ResumePoint> {
    let Checkpoint { revision, position_ms, segments, state } = checkpoint;
    if revision != REVISION {
        return None;
    }
    let Notes { provider, revision, state, bill } = serde_json::from_value(state).ok()?;
    Some(ResumePoint { provider, checkpoint: Checkpoint { revision, position_ms, segments, state }, bill })
}

/// A job's progress while several providers try it one after the other.
#[derive(Default)]
pub(super) struct Progress {
    /// The last checkpoint of each provider.
    kept: Mutex<HashMap<String, Checkpoint>>,
    /// The provider whose words were shown last.
    shown: Mutex<Option<String>>,
}

impl Progress {
    /// Keeps a checkpoint of this provider.
    pub(super) fn keep(&self, provider: &str, checkpoint: Checkpoint) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(provider.to_owned(), checkpoint);
    }

    /// The last checkpoint of this provider.
    pub(super) fn of(&self, provider: &str) -> Option<Checkpoint> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(provider).cloned()
    }

    /// The checkpoints of all providers but this one.
    pub(super) fn of_others(&self, provider: &str) -> Vec<(String, Checkpoint)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .filter(|(owner, _)| *owner != provider)
            .map(|(owner, point)| (owner.clone(), point.clone()))
            .collect()
    }

    fn last_shown(&self) -> Option<String> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, provider: &str) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(provider.to_owned());
    }
}

/// Stands between one provider's engine and the observer of the job.
pub(super) struct Relay {
    provider: String,
    /// The fence of the lease, and the audio that earlier calls under it were billed for.
    lease: Option<(Fence, Duration)>,
    observer: Arc<dyn EngineObserver>,
    progress: Arc<Progress>,
    /// The audio that the provider has billed, where its engine says so.
    billed: Mutex<Option<Duration>>,
    /// Closed when the call is over: an engine that was given up may still be talking.
    closed: AtomicBool,
}

impl Relay {
    /// A relay for a call to `provider`; `resumes` says whether it goes on from its own checkpoint. Tells the observer
    /// when words that were shown already no longer count.
    pub(super) fn open(
        provider: &str,
        lease: Option<(Fence, Duration)>,
        resumes: bool,
        observer: Arc<dyn EngineObserver>,
        progress: Arc<Progress>,
    ) -> Arc<Self> {
        if progress.last_shown().is_some_and(|shown| shown != provider || !resumes) {
            observer.begun_anew();
        }
        Arc::new(Self {
            provider: provider.to_owned(),
            lease,
            observer,
            progress,
            billed: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Length of the audio that the provider has billed so far; `None` where its engine does not say.
    pub(super) fn billed(&self) -> Option<Duration> {
        *self.billed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

impl EngineObserver for Relay {
    fn window_done(&self, position_ms: u64, segments: &[Segment]) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        if !segments.is_empty() {
            self.progress.show(&self.provider);
        }
        self.observer.window_done(position_ms, segments);
    }

    fn checkpoint(&self, checkpoint: Checkpoint) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        if !checkpoint.segments.is_empty() {
            self.progress.show(&self.provider);
        }
        self.progress.keep(&self.provider, checkpoint.clone());
        let bill = self.lease.zip(self.billed()).map(|((fence, before), billed)| Bill {
            fence,
            billed_ms: u64::try_from((before + billed).as_millis()).unwrap_or(u64::MAX),
        });
        self.observer.checkpoint(wrap(ResumePoint { provider: self.provider.clone(), checkpoint, bill }));
    }

    fn billed(&self, audio: Duration) {
        let mut billed = self.billed.lock().unwrap_or_else(PoisonError::into_inner);
        *billed = Some(billed.unwrap_or_default().saturating_add(audio));
    }

    fn abandoned(&self) -> bool {
        self.observer.abandoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_as_it_was_and_says_whose_it_is() {
        let inner = Checkpoint {
            revision: "azure-batch".to_owned(),
            position_ms: 7,
            segments: Vec::new(),
            state: serde_json::json!({ "self": "https://example.org/1" }),
        };
        let point = |bill| ResumePoint { provider: "azure-west".to_owned(), checkpoint: inner.clone(), bill };
        for bill in [None, Some(Bill { fence: Fence::new(3), billed_ms: 7 })] {
            assert_eq!(unwrap(wrap(point(bill))), Some(point(bill)));
        }
        assert!(unwrap(inner).is_none(), "one that no pool wrapped is nobody's");
    }
}
