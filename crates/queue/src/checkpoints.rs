//! Checkpoints on their way to a store. An engine tells all its segments with each; a store keeps them one by one and is told
//! only those that it lacks, so that a segment is sent and written once and not with every checkpoint that follows.
//!
//! What a store has is named by its mark, a digest of the segments and their number. What it is told names the mark that it
//! builds on: a store that has anything else, as after a failover or when another process reported, says so and is told all.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use verbatim_core::PortError;
use verbatim_core::job::LeaseToken;
use verbatim_core::ports::engine::Checkpoint;
use verbatim_core::transcript::Segment;

use crate::newer;

/// Leases of which it is remembered what the store has; many more than a worker holds. Of one that was forgotten all is told.
const MOST: usize = 1024;

/// A checkpoint without its segments, as stores keep it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    revision: String,
    position_ms: u64,
    state: serde_json::Value,
    /// Earlier versions kept them here, and nowhere else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    segments: Vec<Segment>,
}

impl Head {
    /// The checkpoint with these segments, which were kept beside it.
    pub(crate) fn with(self, beside: impl IntoIterator<Item = Segment>) -> Checkpoint {
        let Self { revision, position_ms, state, mut segments } = self;
        segments.extend(beside);
        Checkpoint { revision, position_ms, segments, state }
    }
}

/// What a store is told of a checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    /// JSON of the checkpoint without its segments.
    pub(crate) head: String,
    /// Milliseconds of audio that it covers.
    pub(crate) position_ms: u64,
    /// The mark of what it builds on; `None` where it takes the place of whatever is there.
    pub(crate) base: Option<String>,
    /// So many segments stay; what follows them in the store is no more.
    pub(crate) keep: usize,
    /// The mark of what the store has then.
    pub(crate) mark: String,
    /// JSON of every segment.
    all: Vec<String>,
    /// For each segment a digest of it and all before.
    digests: Vec<u64>,
}

impl Changes {
    /// JSON of the segments behind those that stay.
    pub(crate) fn added(&self) -> &[String] {
        self.all.get(self.keep..).unwrap_or_default()
    }

    fn whole(&self) -> Self {
        Self { base: None, keep: 0, ..self.clone() }
    }
}

/// What a store says to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reported {
    /// The lease is not the current one.
    Lost,
    /// It has all of it.
    Kept,
    /// It has all but the checkpoint, for it has not what that builds on.
    LacksBase,
}

/// Remembers what a store has of the checkpoints of leases that this process holds.
#[derive(Default)]
pub(crate) struct Checkpoints {
    known: Mutex<HashMap<LeaseToken, Vec<u64>>>,
}

impl Checkpoints {
    /// Reports with `send`, which is given what the store lacks of the checkpoint. Answers whether the lease is held.
    ///
    /// # Errors
    /// Those of `send`, and that of a checkpoint that cannot be written.
    pub(crate) async fn report<F>(
        &self,
        token: &LeaseToken,
        checkpoint: Option<Checkpoint>,
        send: impl Fn(Option<Arc<Changes>>) -> F + Send,
    ) -> Result<bool, PortError>
    where
        F: Future<Output = Result<Reported, PortError>> + Send,
    {
        let changes = checkpoint.map(|checkpoint| self.since(token, &checkpoint)).transpose();
        let unwritable = |error| newer::corrupt("a checkpoint that is to be written").with_source(error);
        let mut changes = changes.map_err(unwritable)?.map(Arc::new);
        let mut reported = send(changes.clone()).await?;
        if reported == Reported::LacksBase {
            changes = changes.map(|changes| Arc::new(changes.whole()));
            reported = send(changes.clone()).await?;
        }
        match (reported, changes) {
            (Reported::Kept, Some(changes)) => self.know(token, changes.digests.clone()),
            (Reported::Kept, None) => {}
            (Reported::Lost | Reported::LacksBase, _) => self.forget(token),
        }
        Ok(reported != Reported::Lost)
    }

    /// The lease is over.
    pub(crate) fn forget(&self, token: &LeaseToken) {
        self.lock().remove(token);
    }

    fn know(&self, token: &LeaseToken, digests: Vec<u64>) {
        let mut known = self.lock();
        if known.len() >= MOST && !known.contains_key(token) {
            known.clear();
        }
        known.insert(token.clone(), digests);
    }

    fn since(&self, token: &LeaseToken, checkpoint: &Checkpoint) -> Result<Changes, serde_json::Error> {
        let Checkpoint { revision, position_ms, segments, state } = checkpoint;
        let position_ms = *position_ms;
        let head =
            Head { revision: revision.clone(), position_ms, state: state.clone(), segments: Vec::new() };
        let all = segments.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        let digests = digests(&all);
        let known = self.lock();
        let known = known.get(token);
        let same = |known: &Vec<u64>| known.iter().zip(&digests).take_while(|(had, has)| had == has).count();
        Ok(Changes {
            head: serde_json::to_string(&head)?,
            position_ms,
            base: known.map(|known| mark(known)),
            keep: known.map_or(0, same),
            mark: mark(&digests),
            all,
            digests,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseToken, Vec<u64>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digests(segments: &[String]) -> Vec<u64> {
    let mut before = 0_u64;
    segments
        .iter()
        .map(|segment| {
            let mut hasher = DefaultHasher::new();
            (before, segment).hash(&mut hasher);
            before = hasher.finish();
            before
        })
        .collect()
}

fn mark(digests: &[u64]) -> String {
    format!("{:016x}|{}", digests.last().copied().unwrap_or_default(), digests.len())
}
