//! One subscription per process, fanned out to those who wait in it: watchers of jobs, and workers without work. A process in
//! which nobody waits for one of the two does not subscribe to it: each message costs Redis as much as it has subscribers.
//! What is published can be lost, so that all of them also look now and then by themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::address::Address;
use super::dial::{ANSWER, OPEN};
use super::upkeep::Turn;

/// Before the subscription is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a subscription may be silent before it is asked whether it lives.
const QUIET: Duration = Duration::from_secs(5);

struct Waiting {
    jobs: Mutex<HashMap<String, watch::Sender<()>>>,
    work: Notify,
    wanted: watch::Sender<Wanted>,
    turn: Arc<Turn>,
}

/// What anybody in this process ever waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Wanted {
    news: bool,
    work: bool,
}

/// The subscription.
pub(super) struct News {
    waiting: Arc<Waiting>,
    _listening: AbortOnDropHandle<()>,
}

impl News {
    /// Listens until it is dropped.
    pub(super) fn start(address: Address, prefix: &str, turn: &Arc<Turn>) -> Self {
        let waiting = Arc::new(Waiting {
            jobs: Mutex::default(),
            work: Notify::new(),
            wanted: watch::Sender::default(),
            turn: Arc::clone(turn),
        });
        let channels = Channels { news: format!("{prefix}news"), work: format!("{prefix}work") };
        let listening = tokio::spawn(listen(address, channels, Arc::clone(&waiting)));
        Self { waiting, _listening: AbortOnDropHandle::new(listening) }
    }

    /// News of a job from now on.
    pub(super) fn watch(&self, job: &str) -> watch::Receiver<()> {
        self.waiting.want(|wanted| &mut wanted.news);
        let mut jobs = self.waiting.jobs();
        jobs.retain(|_, sender| sender.receiver_count() > 0);
        jobs.entry(job.to_owned()).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    /// Waits until work may have arrived.
    pub(super) async fn work(&self) {
        self.waiting.want(|wanted| &mut wanted.work);
        self.waiting.work.notified().await;
    }
}

impl Waiting {
    fn want(&self, what: impl Fn(&mut Wanted) -> &mut bool) {
        self.wanted.send_if_modified(|wanted| !std::mem::replace(what(wanted), true));
    }

    /// The map stays usable when a thread panicked while it held it: every change to it is a single call.
    fn jobs(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self, id: &str) {
        if let Some(sender) = self.jobs().get(id) {
            sender.send_replace(());
        }
    }

    /// Wakes everybody: something may have been missed.
    fn everybody(&self) {
        for sender in self.jobs().values() {
            sender.send_replace(());
        }
        self.work.notify_one();
    }
}

struct Channels {
    news: String,
    work: String,
}

impl Channels {
    fn of(&self, wanted: Wanted) -> Vec<&str> {
        let of = |is_wanted, channel| Some(channel).filter(|_| is_wanted);
        [of(wanted.news, self.news.as_str()), of(wanted.work, self.work.as_str())]
            .into_iter()
            .flatten()
            .collect()
    }
}

async fn listen(address: Address, channels: Channels, waiting: Arc<Waiting>) {
    let mut quiet = false;
    let mut wanted = waiting.wanted.subscribe();
    for attempt in 0.. {
        if wanted.wait_for(|wanted| *wanted != Wanted::default()).await.is_err() {
            return;
        }
        if let Err(failure) = subscribed(&address, attempt, &channels, &waiting).await {
            // Once per outage; what waits looks by itself meanwhile.
            if !std::mem::replace(&mut quiet, true) {
                tracing::warn!(error = %failure, "the subscription to news of jobs broke off; polling until it is back");
            }
        } else {
            quiet = false;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Listens until the connection breaks.
async fn subscribed(
    address: &Address,
    attempt: usize,
    channels: &Channels,
    waiting: &Waiting,
) -> redis::RedisResult<()> {
    let mut changed = waiting.wanted.subscribe();
    let wanted = *changed.borrow_and_update();
    let connecting = async {
        let client = address.subscriber(attempt).await?;
        let mut pubsub = client.get_async_pubsub().await?;
        pubsub.subscribe(channels.of(wanted)).await?;
        Ok::<_, redis::RedisError>(pubsub)
    };
    let timed_out = || redis::RedisError::from((redis::ErrorKind::Io, "no subscription in time"));
    let pubsub = tokio::time::timeout(OPEN, connecting).await.map_err(|_| timed_out())??;
    let (mut sink, mut messages) = pubsub.split();
    waiting.everybody();
    loop {
        let message = tokio::select! {
            message = tokio::time::timeout(QUIET, messages.next()) => message,
            _ = changed.changed() => {
                let wanted = *changed.borrow_and_update();
                let more = tokio::time::timeout(ANSWER, sink.subscribe(channels.of(wanted))).await;
                more.map_err(|_| timed_out())??;
                waiting.everybody();
                continue;
            }
        };
        match message {
            Ok(Some(message)) if message.get_channel_name() == channels.work => {
                if message.get_payload_bytes() == b"turn" {
                    waiting.turn.is_free();
                } else {
                    waiting.work.notify_one();
                }
            }
            Ok(Some(message)) => {
                if let Ok(ids) = message.get_payload::<String>() {
                    ids.split(',').for_each(|id| waiting.job(id));
                }
            }
            Ok(None) => return Ok(()),
            // A connection that was cut without a word, or a server that hangs, looks like silence.
            Err(_) => {
                let alive = tokio::time::timeout(ANSWER, sink.ping::<redis::Value>()).await;
                alive.map_err(|_| timed_out())??;
            }
        }
    }
}
