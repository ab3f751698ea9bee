//! The one writer: an actor on its own thread that owns the write connection. It groups what is waiting into one
//! transaction, gives each operation a savepoint of its own, and answers only after the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use verbatim_core::ids::{IdSource, JobId};
use verbatim_core::policy::StorePolicy;
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::{ErrorKind, PortError};

use super::error::{StoreError, StoreResult};
use super::watch::Signals;

/// Operations that wait for the writer before callers do.
const BACKLOG: usize = 1024;
/// Operations that share one commit.
const GROUP: usize = 256;

/// What every operation works with: the connection inside its savepoint, the time, and the rules.
pub(super) struct Step<'a> {
    pub(super) conn: &'a Connection,
    pub(super) now: Timestamp,
    pub(super) policy: &'a StorePolicy,
    pub(super) ids: &'a dyn IdSource,
    effects: Effects,
}

/// Whom to tell once the transaction is durable.
#[derive(Debug, Default)]
struct Effects {
    touched: Vec<JobId>,
    work: bool,
    revived: u64,
}

impl Step<'_> {
    /// Watchers of this job will look again.
    pub(super) fn touched(&mut self, job: &JobId) {
        self.effects.touched.push(job.clone());
    }

    /// Idle workers will look again.
    pub(super) fn work_arrived(&mut self) {
        self.effects.work = true;
    }

    /// A lease turned out to have been taken from a worker that lives.
    pub(super) fn revived(&mut self) {
        self.effects.revived += 1;
    }
}

/// What the writer needs besides the connection.
pub(super) struct WriterContext {
    pub(super) policy: StorePolicy,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn IdSource>,
    pub(super) signals: Arc<Signals>,
}

/// Why nothing of a whole group was kept.
#[derive(Debug, Clone)]
struct Lost {
    kind: ErrorKind,
    message: String,
}

impl From<rusqlite::Error> for Lost {
    fn from(error: rusqlite::Error) -> Self {
        Self::from(&StoreError::from(error))
    }
}

impl From<&StoreError> for Lost {
    fn from(error: &StoreError) -> Self {
        let (kind, message) = error.summary();
        Self { kind, message }
    }
}

/// One queued operation, its type hidden.
trait Operation: Send {
    /// Does it; its changes must be undone after an error.
    fn run(&mut self, step: &mut Step<'_>) -> Result<(), Lost>;
    /// Answers the caller, who may have gone.
    fn answer(self: Box<Self>, lost: Option<Lost>);
}

struct Call<T, W> {
    work: Option<W>,
    outcome: Option<StoreResult<T>>,
    reply: oneshot::Sender<Result<T, PortError>>,
}

impl<T, W> Operation for Call<T, W>
where
    T: Send,
    W: FnOnce(&mut Step<'_>) -> StoreResult<T> + Send,
{
    fn run(&mut self, step: &mut Step<'_>) -> Result<(), Lost> {
        let Some(work) = self.work.take() else { return Ok(()) };
        // A bug in one operation must not take the store away from all others.
        let outcome = catch_unwind(AssertUnwindSafe(|| work(step))).unwrap_or_else(|_| {
            Err(PortError::new(
                ErrorKind::Internal,
                "an operation of the job store panicked; nothing was written",
            )
            .into())
        });
        let done = outcome.as_ref().map(|_| ()).map_err(Lost::from);
        self.outcome = Some(outcome);
        done
    }

    fn answer(self: Box<Self>, lost: Option<Lost>) {
        let answer = match (self.outcome, lost) {
            // Even a refusal may rest on what the group had written.
            (_, Some(lost)) => Err(PortError::new(lost.kind, lost.message)),
            (Some(outcome), None) => outcome.map_err(PortError::from),
            (None, None) => Err(PortError::new(ErrorKind::Internal, "the job store skipped an operation")),
        };
        // A caller that no longer waits repeats the call or has lost interest.
        let _ = self.reply.send(answer);
    }
}

/// A handle to the writer; dropping it waits for what was accepted.
pub(super) struct Writer {
    inbox: Option<mpsc::Sender<Box<dyn Operation>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(conn: Connection, context: WriterContext) -> Result<Self, PortError> {
        let (inbox, commands) = mpsc::channel(BACKLOG);
        let thread = std::thread::Builder::new()
            .name("job-store-writer".to_owned())
            .spawn(move || serve(&conn, &context, commands))
            .map_err(|error| PortError::from_io("cannot start the job store's thread", error))?;
        Ok(Self { inbox: Some(inbox), thread: Some(thread) })
    }

    /// Runs `work` in a savepoint and answers when it is durable.
    pub(super) async fn call<T, W>(&self, work: W) -> Result<T, PortError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Step<'_>) -> StoreResult<T> + Send + 'static,
    {
        let gone = || PortError::new(ErrorKind::Unavailable, "the job store has stopped");
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call { work: Some(work), outcome: None, reply });
        let inbox = self.inbox.as_ref().ok_or_else(gone)?;
        inbox.send(call).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.inbox.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the job store's writer panicked");
        }
    }
}

fn serve(conn: &Connection, context: &WriterContext, mut commands: mpsc::Receiver<Box<dyn Operation>>) {
    while let Some(first) = commands.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = commands.try_recv()
        {
            group.push(next);
        }
        serve_group(conn, context, group);
    }
}

fn serve_group(conn: &Connection, context: &WriterContext, mut group: Vec<Box<dyn Operation>>) {
    let mut effects = Vec::with_capacity(group.len());
    let lost = commit_group(conn, context, &mut group, &mut effects).err();
    match &lost {
        Some(lost) => {
            tracing::warn!(operations = group.len(), error = %lost.message, "the job store wrote nothing of a group");
        }
        None => publish(&context.signals, effects),
    }
    for operation in group {
        operation.answer(lost.clone());
    }
}

/// Runs one operation in a transaction of its own, before the thread is started.
pub(super) fn run_once<T, W>(conn: &Connection, context: &WriterContext, work: W) -> Result<T, PortError>
where
    T: Send + 'static,
    W: FnOnce(&mut Step<'_>) -> StoreResult<T> + Send + 'static,
{
    let (reply, mut answer) = oneshot::channel();
    let call = Box::new(Call { work: Some(work), outcome: None, reply });
    serve_group(conn, context, vec![call]);
    answer.try_recv().map_err(|_| PortError::new(ErrorKind::Internal, "the job store did not answer"))?
}

fn publish(signals: &Signals, effects: Vec<Effects>) {
    for effect in effects {
        signals.wake_watchers(&effect.touched);
        if effect.work {
            signals.wake_worker();
        }
        signals.leases_revived(effect.revived);
    }
}

/// Runs the group in one transaction. On an error nothing of it is kept and no transaction is left open.
fn commit_group(
    conn: &Connection,
    context: &WriterContext,
    group: &mut [Box<dyn Operation>],
    effects: &mut Vec<Effects>,
) -> Result<(), Lost> {
    let done = run_group(conn, context, group, effects).and_then(|()| Ok(conn.execute_batch("COMMIT")?));
    if done.is_err() && !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK")?;
    }
    done
}

fn run_group(
    conn: &Connection,
    context: &WriterContext,
    group: &mut [Box<dyn Operation>],
    effects: &mut Vec<Effects>,
) -> Result<(), Lost> {
    let execute = |sql: &str| conn.prepare_cached(sql)?.execute([]);
    conn.execute_batch("BEGIN IMMEDIATE")?;
    for operation in group {
        execute("SAVEPOINT operation")?;
        let mut step = Step {
            conn,
            now: context.clock.now(),
            policy: &context.policy,
            ids: &*context.ids,
            effects: Effects::default(),
        };
        match operation.run(&mut step) {
            Ok(()) => effects.push(step.effects),
            // A full disk or an I/O error can make SQLite roll back the whole transaction, with what others wrote.
            Err(lost) if conn.is_autocommit() => return Err(lost),
            Err(_) => {
                execute("ROLLBACK TO operation")?;
            }
        }
        execute("RELEASE operation")?;
    }
    Ok(())
}
