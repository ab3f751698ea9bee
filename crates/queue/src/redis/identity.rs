//! Which store this is, as long as the process runs. A Redis that lost its data answers as if nothing had ever been there:
//! scripts refuse to work on it until a node has seen that and begun a new queue, and every node hears of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;

use super::error::code;
use super::health::{self, Found};
use super::{Wire, error, layout};

/// How often a node looks whether the store is still the same.
const LOOK: Duration = Duration::from_secs(2);
/// How soon it looks again after a script was refused.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What a process knows of its store at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreCondition {
    /// Which store this is: 26 characters, made with it. Another one means that Redis came back empty or with other data.
    pub id: String,
    /// How often another store was found in its place since this process started.
    pub replaced: u64,
    /// Whether the queue's slot is on its way to another node of the cluster: nothing is done until it has arrived.
    pub slot_moves: bool,
}

/// Watches the store until it is dropped.
pub(super) struct Identity {
    condition: watch::Receiver<StoreCondition>,
    _watching: AbortOnDropHandle<()>,
}

impl Identity {
    /// Begins with this store.
    pub(super) fn start(wire: &Arc<Wire>, ids: &Arc<dyn IdSource>, id: String) -> Self {
        let (known, condition) = watch::channel(StoreCondition { id, replaced: 0, slot_moves: false });
        let watching = tokio::spawn(watch_over(Arc::clone(wire), Arc::clone(ids), known));
        Self { condition, _watching: AbortOnDropHandle::new(watching) }
    }

    pub(super) fn condition(&self) -> watch::Receiver<StoreCondition> {
        self.condition.clone()
    }
}

async fn watch_over(wire: Arc<Wire>, ids: Arc<dyn IdSource>, known: watch::Sender<StoreCondition>) {
    loop {
        let refused = tokio::time::timeout(LOOK, wire.link.refused()).await.is_ok();
        note(&known, present(&wire, ids.as_ref()).await);
        if refused {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// What is there, made anew where nothing is.
async fn present(wire: &Wire, ids: &dyn IdSource) -> Result<Found, PortError> {
    let queue = health::look(wire).await?;
    if queue.layout.is_empty() || queue.store.is_empty() { health::found(wire, ids).await } else { Ok(queue) }
}

fn note(known: &watch::Sender<StoreCondition>, present: Result<Found, PortError>) {
    let before = known.borrow().clone();
    let after = match present {
        Ok(Found { layout, store }) => {
            if store != before.id {
                tracing::error!(
                    store.before = before.id,
                    store.now = store,
                    "Redis came back without the queue, empty or with another one: what it held is lost unless its data is restored"
                );
                if let Err(error) = layout::check(&layout) {
                    tracing::error!(%error, "this version cannot work on the queue that is there now");
                }
            }
            let replaced = before.replaced + u64::from(store != before.id);
            StoreCondition { id: store, replaced, slot_moves: false }
        }
        Err(error) if matches!(error::code_of(&error), Some(code::SLOT_MOVES | code::NO_SCRIPT)) => {
            StoreCondition { slot_moves: true, ..before.clone() }
        }
        // Redis is away, which those say who wanted something of it.
        Err(_) => return,
    };
    match (before.slot_moves, after.slot_moves) {
        (false, true) => tracing::error!(
            "the queue's slot is being moved between nodes of the Redis cluster: no job is taken in or worked on until it has arrived"
        ),
        (true, false) => tracing::info!("the queue's slot has arrived"),
        _ => {}
    }
    known.send_if_modified(|condition| {
        let changed = *condition != after;
        *condition = after;
        changed
    });
}
