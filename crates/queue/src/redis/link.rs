//! The connections. Each of a few lanes holds one pooled connection that all callers share, so that calls of one moment
//! travel together. A connection that broke, or on which nobody answers any more, is left for a new one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deadpool::managed::{Object, Pool, PoolError};
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, ScriptInvocation};
use tokio::sync::Notify;
use verbatim_core::{ErrorKind, PortError};

use super::address::Address;
use super::dial::{Dialer, OPEN, Shared};
use super::error;

/// Connections of a process. More of them spread the work of one process over several of Redis's sockets; a few do.
const LANES: usize = 4;
/// How often a script is loaded anew for one call.
const MOST_LOADS: u32 = 4;
/// Time-outs in a row, without an answer between them, after which a connection is given up. One is a slow script or a slow
/// disk; more may be a server that hangs, or a connection of which the other side knows nothing any more.
const MOST_SILENCE: usize = 2;

#[derive(Clone, Copy)]
enum Ask<'a> {
    Script(&'a ScriptInvocation<'a>),
    Command(&'a Cmd),
}

/// The connection of a lane.
struct Open {
    shared: Shared,
    /// Tells this connection from the one that took its place.
    number: usize,
    /// Time-outs since the last answer.
    silent: Arc<AtomicUsize>,
    pooled: Object<Dialer>,
}

/// What a caller holds of a lane's connection while it waits for its answer.
struct Borrowed {
    shared: Shared,
    number: usize,
    silent: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Lane {
    open: Mutex<Option<Open>>,
    /// Held by the one caller that opens the lane; the others wait for its connection.
    opening: tokio::sync::Mutex<()>,
}

/// The connections of a process to one Redis.
pub(super) struct Link {
    pool: Pool<Dialer>,
    lanes: [Lane; LANES],
    next: AtomicUsize,
    opened: AtomicUsize,
    /// Time-outs on any lane since the last answer on any.
    silent: AtomicUsize,
    given_up: AtomicU64,
    /// Told when a script found the queue missing or on its way.
    refused: Notify,
}

impl Lane {
    /// The place stays usable when a thread panicked while it held it: every change to it is a single assignment.
    fn place(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn borrow(&self) -> Option<Borrowed> {
        self.place().as_ref().map(|open| Borrowed {
            shared: open.shared.clone(),
            number: open.number,
            silent: Arc::clone(&open.silent),
        })
    }

    fn holds(&self, number: usize) -> bool {
        self.place().as_ref().is_some_and(|open| open.number == number)
    }

    /// Closes the connection for new calls; calls under way keep it until they have ended. Whether there was one.
    fn close(&self, only: Option<usize>) -> bool {
        let mut place = self.place();
        let closes = place.as_ref().is_some_and(|open| only.is_none_or(|number| open.number == number));
        if let Some(open) = closes.then(|| place.take()).flatten() {
            // It does not go back to the pool, whose check would wait for an answer that does not come.
            drop(Object::take(open.pooled));
        }
        closes
    }
}

impl Link {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the address makes no sense to the client.
    pub(super) fn new(address: &Address) -> Result<Self, PortError> {
        let unusable = || PortError::new(ErrorKind::Invalid, "redis.url cannot be used");
        let dialer = Dialer::new(address).map_err(|error| unusable().with_source(error))?;
        let pool = Pool::builder(dialer).max_size(2 * LANES).build();
        Ok(Self {
            pool: pool.map_err(|error| unusable().with_source(error))?,
            lanes: Default::default(),
            next: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            silent: AtomicUsize::new(0),
            given_up: AtomicU64::new(0),
            refused: Notify::new(),
        })
    }

    /// Runs a script.
    ///
    /// # Errors
    /// As [`error::from_redis`] tells them apart.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, PortError> {
        self.ask(Ask::Script(script)).await
    }

    /// Runs one command that can be repeated.
    ///
    /// # Errors
    /// As [`error::from_redis`] tells them apart.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, PortError> {
        self.ask(Ask::Command(command)).await
    }

    /// How many connections were given up because nobody answered on them.
    pub(super) fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Waits until a script has found the queue missing or on its way to another node.
    pub(super) async fn refused(&self) {
        self.refused.notified().await;
    }

    /// All that is asked can be repeated, so that a connection that turns out to be broken costs no more than another try
    /// on a fresh one.
    async fn ask<T: FromRedisValue>(&self, what: Ask<'_>) -> Result<T, PortError> {
        // Whether a try broke off, and so may have taken effect: whatever the next one meets, that stays unknown.
        let mut broke_off = false;
        let (mut tried_again, mut loads) = (false, 0);
        let lane = &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % LANES];
        loop {
            let open = self.connection(lane).await;
            let mut open = open.map_err(|error| if broke_off { error.outcome_unknown() } else { error })?;
            let answer = match what {
                Ask::Script(script) => script.invoke_async(&mut open.shared).await,
                Ask::Command(command) => command.query_async(&mut open.shared).await,
            };
            self.listen(lane, &open, &answer);
            let failure = match answer {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            // Forgotten again between the loading and the call: nothing was done.
            if failure.code() == Some(error::code::NO_SCRIPT) && loads < MOST_LOADS {
                loads += 1;
                continue;
            }
            use error::code::{NO_SCRIPT, SLOT_MOVES, STORE_GONE};
            if matches!(failure.code(), Some(NO_SCRIPT | SLOT_MOVES | STORE_GONE)) {
                self.refused.notify_one();
            }
            let broken = is_broken(&failure);
            if broken {
                lane.close(Some(open.number));
            }
            if broken && !tried_again {
                (tried_again, broke_off) = (true, !is_demoted(&failure));
                continue;
            }
            let error = error::from_redis(failure);
            return Err(if broke_off { error.outcome_unknown() } else { error });
        }
    }

    /// Counts what was not answered. A lane that stays silent is given up, and all of them when none has had an answer since:
    /// a caller that asks one thing after the other would else have to wait for each lane twice.
    fn listen<T>(&self, lane: &Lane, open: &Borrowed, answer: &RedisResult<T>) {
        let silent = answer.as_ref().err().is_some_and(RedisError::is_timeout);
        if !silent {
            open.silent.store(0, Ordering::Relaxed);
            self.silent.store(0, Ordering::Relaxed);
            return;
        }
        // The calls that were under way when the connection was given up say nothing of the one that took its place.
        if !lane.holds(open.number) {
            return;
        }
        let on_lane = open.silent.fetch_add(1, Ordering::Relaxed) + 1;
        let on_any = self.silent.fetch_add(1, Ordering::Relaxed) + 1;
        let closed = if on_any >= MOST_SILENCE {
            self.lanes.iter().filter(|lane| lane.close(None)).count()
        } else {
            usize::from(on_lane >= MOST_SILENCE && lane.close(Some(open.number)))
        };
        if closed > 0 {
            self.given_up.fetch_add(closed as u64, Ordering::Relaxed);
            tracing::warn!(connections = closed, "Redis is silent; connecting to it anew");
        }
    }

    /// The connection of this lane, opened where there is none.
    async fn connection(&self, lane: &Lane) -> Result<Borrowed, PortError> {
        if let Some(open) = lane.borrow() {
            return Ok(open);
        }
        let opening = tokio::time::timeout(OPEN, async {
            let _opening = lane.opening.lock().await;
            match lane.borrow() {
                Some(open) => Ok(open),
                None => self.open(lane).await,
            }
        });
        opening.await.map_err(|_| error::unreachable())?
    }

    async fn open(&self, lane: &Lane) -> Result<Borrowed, PortError> {
        let pooled = self.pool.get().await.map_err(not_opened)?;
        let shared = (*pooled).clone();
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let silent = Arc::new(AtomicUsize::new(0));
        // Its greeting was answered.
        self.silent.store(0, Ordering::Relaxed);
        *lane.place() = Some(Open { shared: shared.clone(), number, silent: Arc::clone(&silent), pooled });
        Ok(Borrowed { shared, number, silent })
    }
}

/// Whether the connection is of no more use: it broke, or leads to a server that is no master any more. For a time-out see
/// [`Link::listen`].
fn is_broken(failure: &RedisError) -> bool {
    is_demoted(failure)
        || (failure.is_connection_dropped() || failure.is_unrecoverable_error()) && !failure.is_timeout()
}

/// Whether the server refused the call as no master: certainly nothing was done.
fn is_demoted(failure: &RedisError) -> bool {
    matches!(failure.code(), Some("READONLY" | "MASTERDOWN"))
}

fn not_opened(failure: PoolError<RedisError>) -> PortError {
    match failure {
        PoolError::Backend(failure) => error::not_connected(failure),
        other => error::unreachable().with_source(other),
    }
}
