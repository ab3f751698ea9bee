//! Finishes of one moment travel together: those that wait while a call is under way share the next one. Each is answered
//! by itself, and nobody waits for company.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use verbatim_core::event::SEGMENT_STRIDE;
use verbatim_core::job::LeaseToken;
use verbatim_core::ports::jobs::Finish;
use verbatim_core::{ErrorKind, PortError};

use super::error::{again, corrupt};
use super::{Wire, millis, record, scripts};

/// Finishes that one call brings: about a millisecond of Redis's time.
const TOGETHER: usize = 64;
/// Calls under way at once: one travels while another is worked on.
const CARRIERS: usize = 2;

/// What a finish says besides its lease, as `lua/finish.lua` takes it.
pub(super) type Details = [String; 7];

struct Item {
    call: &'static str,
    token: LeaseToken,
    details: Details,
    reply: oneshot::Sender<Result<Finish, PortError>>,
}

/// Where finishes are handed in.
pub(super) struct Finishes {
    inbox: mpsc::Sender<Item>,
    _carriers: Vec<AbortOnDropHandle<()>>,
}

impl Finishes {
    /// Carries finishes until it is dropped.
    pub(super) fn start(wire: &Arc<Wire>, retention: Duration) -> Self {
        let (inbox, waiting) = mpsc::channel(1024);
        let waiting = Arc::new(Mutex::new(waiting));
        let carrier = |_| {
            let (wire, waiting) = (Arc::clone(wire), Arc::clone(&waiting));
            AbortOnDropHandle::new(tokio::spawn(carry(wire, retention, waiting)))
        };
        Self { inbox, _carriers: (0..CARRIERS).map(carrier).collect() }
    }

    /// Finishes one lease.
    pub(super) async fn finish(
        &self,
        call: &'static str,
        token: &LeaseToken,
        details: Details,
    ) -> Result<Finish, PortError> {
        let gone = || PortError::new(ErrorKind::Internal, "nobody carries finishes to Redis any more");
        let (reply, answer) = oneshot::channel();
        let item = Item { call, token: token.clone(), details, reply };
        self.inbox.send(item).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn carry(wire: Arc<Wire>, retention: Duration, waiting: Arc<Mutex<mpsc::Receiver<Item>>>) {
    loop {
        let mut items = Vec::new();
        if waiting.lock().await.recv_many(&mut items, TOGETHER).await == 0 {
            return;
        }
        let answers = finish_all(&wire, retention, &items).await;
        answer(items, answers);
    }
}

async fn finish_all(wire: &Wire, retention: Duration, items: &[Item]) -> Result<Vec<String>, PortError> {
    let mut call = wire.call(&scripts::FINISH);
    call.arg(millis(retention)).arg(SEGMENT_STRIDE);
    for Item { call: kind, token, details, .. } in items {
        call.arg(*kind)
            .arg(token.job_id.ulid())
            .arg(token.fence.get())
            .arg(token.nonce.as_str())
            .arg(details);
    }
    let states: Vec<String> = wire.link.run(&call).await?;
    if states.len() == items.len() { Ok(states) } else { Err(corrupt("finishes without answers")) }
}

/// A caller that no longer waits repeats the call or has lost interest.
fn answer(items: Vec<Item>, answers: Result<Vec<String>, PortError>) {
    match answers {
        Ok(states) => {
            for (item, state) in items.into_iter().zip(states) {
                let _ = item.reply.send(finish_of(&state));
            }
        }
        Err(error) => {
            for item in items {
                let _ = item.reply.send(Err(again(&error)));
            }
        }
    }
}

fn finish_of(state: &str) -> Result<Finish, PortError> {
    match state.strip_prefix('!') {
        Some(why) => Err(corrupt(format!("a job that is to be finished: {why}"))),
        None if state.is_empty() => Ok(Finish::Stale),
        None => Ok(Finish::Done(record::state(state))),
    }
}
