//! The source of tasks that apalis polls: leases, one at a time, and never an error, which would end the worker.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use apalis::prelude::{Backend, Task, WorkerContext};
use apalis_core::backend::BackendConfig;
use apalis_core::backend::finalize::Ephemeral;
use apalis_core::task::task_id::RandomId;
use futures::FutureExt;
use futures::future::BoxFuture;
use tower::layer::util::Identity;

use crate::claimer::Claimer;
use crate::held::Held;
use crate::session::Session;

/// Leases as apalis sees them. apalis acknowledges nothing here: the handler finishes each job itself.
pub(crate) struct LeaseBackend {
    claimer: Claimer,
    session: Arc<Session>,
    /// The claim or the release under way.
    busy: Option<BoxFuture<'static, Option<Held>>>,
    /// No more claims are begun.
    ended: bool,
}

impl LeaseBackend {
    pub(crate) fn new(claimer: Claimer, session: Arc<Session>) -> Self {
        Self { claimer, session, busy: None, ended: false }
    }
}

impl Backend for LeaseBackend {
    type Task = Task<Held>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Infallible>>> {
        if self.ended {
            // The session is over; apalis is woken by its own shutdown. An end of the stream would make it panic.
            return Poll::Pending;
        }
        let claim = self.busy.get_or_insert_with(|| {
            let (claimer, session) = (self.claimer.clone(), Arc::clone(&self.session));
            async move { claimer.next(&session).await }.boxed()
        });
        let claimed = ready!(claim.poll_unpin(cx));
        self.busy = None;
        match claimed {
            Some(held) => Poll::Ready(Some(Ok(Task::new(held)))),
            None => {
                self.ended = true;
                Poll::Pending
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.ended = true;
        self.session.soft.cancel();
        while let Some(busy) = &mut self.busy {
            let left = ready!(busy.poll_unpin(cx));
            self.busy = left.map(|held| {
                let (claimer, session) = (self.claimer.clone(), Arc::clone(&self.session));
                async move {
                    claimer.release(held, &session).await;
                    None
                }
                .boxed()
            });
        }
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for LeaseBackend {
    type Args = Held;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}
