//! A job store in memory that follows the port's rules about fences, and can be told to be down, to lose leases and to
//! cancel. Tests wait for its state instead of sleeping.

use std::collections::{HashMap, VecDeque};

use async_trait::async_trait;
use tokio::sync::watch;

use super::PATIENCE;
use verbatim_core::failure::JobFailure;
use verbatim_core::ids::{Fence, JobId};
use verbatim_core::job::{Completion, JobState, Lease, LeaseToken, Report};
use verbatim_core::ports::jobs::{ClaimRequest, Finish, JobLeases, Renewal};
use verbatim_core::retry::{NextStep, RetryPolicy, next_step};
use verbatim_core::time::Timestamp;
use verbatim_core::{ErrorKind, PortError, Refusal};

/// One job.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// As it is handed out; token and attempt are those of the last claim.
    pub(crate) lease: Lease,
    pub(crate) state: JobState,
    pub(crate) cancel_requested: bool,
    pub(crate) reports: Vec<Report>,
    pub(crate) completions: Vec<Completion>,
    pub(crate) failures: Vec<JobFailure>,
    pub(crate) releases: u32,
}

/// What the store knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) queue: VecDeque<JobId>,
    pub(crate) jobs: HashMap<JobId, Job>,
    /// Every call fails.
    pub(crate) down: bool,
    /// Every call's answer is lost after it took effect.
    pub(crate) deaf: bool,
    /// So many claims are refused for a reason that repeating does not mend.
    pub(crate) claims_to_refuse: u32,
    /// Its records are written in words of another version: every finish is refused.
    pub(crate) newer: bool,
    /// Has no room for reports, as a full Redis; everything else is done.
    pub(crate) full: bool,
    /// Claims wait until this is over.
    pub(crate) claims_wait: bool,
    pub(crate) claims: Vec<ClaimRequest>,
    pub(crate) failed_calls: u32,
    /// So many reports that bring segments are refused for a reason that repeating does not mend.
    pub(crate) reports_to_refuse: u32,
    pub(crate) renewals: u32,
    /// The most jobs that ran at once.
    pub(crate) most_running: usize,
}

impl State {
    pub(crate) fn running(&self) -> usize {
        self.jobs.values().filter(|job| job.state == JobState::Running).count()
    }

    pub(crate) fn all_are(&self, state: JobState) -> bool {
        self.jobs.values().all(|job| job.state == state)
    }

    /// The job, if this token is its current one and it is running.
    fn current(&mut self, token: &LeaseToken) -> Option<&mut Job> {
        let job = self.jobs.get_mut(&token.job_id)?;
        (job.lease.token == *token && job.state == JobState::Running).then_some(job)
    }

    fn claim(&mut self, request: &ClaimRequest) -> Option<Lease> {
        if let Some(repeated) = self.jobs.values().find(|job| job.lease.token.nonce == request.nonce) {
            return Some(repeated.lease.clone());
        }
        let place = self.queue.iter().position(|id| request.idle || !self.jobs[id].lease.alone);
        let id = place.and_then(|place| self.queue.remove(place))?;
        let job = self.jobs.get_mut(&id).expect("queued jobs exist");
        job.state = JobState::Running;
        job.lease.attempt += 1;
        job.lease.token = LeaseToken {
            job_id: id,
            fence: Fence::new(job.lease.token.fence.get() + 1),
            nonce: request.nonce.clone(),
        };
        let lease = job.lease.clone();
        self.most_running = self.most_running.max(self.running());
        Some(lease)
    }

    fn end(&mut self, token: &LeaseToken, next: impl FnOnce(&mut Job) -> JobState) -> Finish {
        let Some(job) = self.current(token) else { return Finish::Stale };
        job.state = if job.cancel_requested { JobState::Cancelled } else { next(job) };
        let state = job.state;
        if state == JobState::Queued {
            self.queue.push_back(token.job_id.clone());
        }
        Finish::Done(state)
    }
}

/// The store.
#[derive(Default)]
pub(crate) struct FakeLeases(watch::Sender<State>);

impl FakeLeases {
    pub(crate) fn queue(&self, lease: Lease) {
        self.change(|state| {
            let id = lease.token.job_id.clone();
            state.queue.push_back(id.clone());
            let job = Job {
                lease,
                state: JobState::Queued,
                cancel_requested: false,
                reports: Vec::new(),
                completions: Vec::new(),
                failures: Vec::new(),
                releases: 0,
            };
            state.jobs.insert(id, job);
        });
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut changed = None;
        self.0.send_modify(|state| changed = Some(change(state)));
        changed.expect("the change was made")
    }

    /// Waits until the state is such.
    pub(crate) async fn until(&self, such: impl FnMut(&State) -> bool) -> State {
        let mut state = self.0.subscribe();
        let waited = tokio::time::timeout(PATIENCE, state.wait_for(such)).await;
        waited.expect("it comes to this").expect("the store lives").clone()
    }

    pub(crate) fn state(&self) -> State {
        self.0.borrow().clone()
    }

    pub(crate) fn job(&self, id: &JobId) -> Job {
        self.0.borrow().jobs[id].clone()
    }

    /// Gives the job to somebody else.
    pub(crate) fn take_away(&self, id: &JobId) {
        self.change(|state| {
            let job = state.jobs.get_mut(id).expect("the job exists");
            job.lease.token.fence = Fence::new(job.lease.token.fence.get() + 1);
        });
    }

    fn call<T>(&self, work: impl FnOnce(&mut State) -> T) -> Result<T, PortError> {
        self.change(|state| {
            if state.down {
                state.failed_calls += 1;
                return Err(PortError::new(ErrorKind::Unavailable, "the store is down"));
            }
            let done = work(state);
            if state.deaf {
                state.failed_calls += 1;
                return Err(PortError::new(ErrorKind::Unavailable, "the answer was lost"));
            }
            Ok(done)
        })
    }
}

#[async_trait]
impl JobLeases for FakeLeases {
    async fn claim(&self, request: ClaimRequest) -> Result<Option<Lease>, PortError> {
        self.change(|state| state.claims.push(request.clone()));
        self.until(|state| !state.claims_wait).await;
        let refused = |state: &mut State| {
            let due = state.claims_to_refuse > 0;
            state.claims_to_refuse -= u32::from(due);
            due
        };
        if self.change(refused) {
            return Err(PortError::new(ErrorKind::Internal, "the record is broken"));
        }
        self.call(|state| state.claim(&request))
    }

    async fn work_may_be_there(&self) {
        self.until(|state| !state.queue.is_empty()).await;
    }

    async fn renew(&self, tokens: &[LeaseToken], _: std::time::Duration) -> Result<Vec<Renewal>, PortError> {
        self.call(|state| {
            state.renewals += 1;
            let renew = |token| match state.current(token) {
                None => Renewal::Lost,
                Some(job) if job.cancel_requested => Renewal::CancelRequested,
                Some(_) => Renewal::Held { expires_at: Timestamp::from_millis(0) },
            };
            tokens.iter().map(renew).collect()
        })
    }

    async fn report(&self, token: &LeaseToken, report: Report) -> Result<bool, PortError> {
        let refused = |state: &mut State| {
            if state.full {
                state.failed_calls += 1;
                return Some((ErrorKind::OutOfSpace, "the store is full"));
            }
            let due = !report.segments.is_empty() && state.reports_to_refuse > 0;
            state.reports_to_refuse -= u32::from(due);
            due.then_some((ErrorKind::Internal, "the report was refused"))
        };
        if let Some((kind, why)) = self.change(refused) {
            return Err(PortError::new(kind, why));
        }
        self.call(|state| state.current(token).map(|job| job.reports.push(report)).is_some())
    }

    async fn complete(&self, token: &LeaseToken, completion: Completion) -> Result<Finish, PortError> {
        let newer = |state: &mut State| {
            state.failed_calls += u32::from(state.newer);
            state.newer
        };
        if self.change(newer) {
            let error = PortError::new(ErrorKind::Unavailable, "words of another version");
            return Err(error.because(Refusal::OtherVersion));
        }
        self.call(|state| {
            let again = |job: &&Job| job.lease.token == *token && job.completions.contains(&completion);
            if let Some(job) = state.jobs.get(&token.job_id).filter(again) {
                return Finish::Done(job.state);
            }
            state.end(token, |job| {
                job.completions.push(completion);
                JobState::Completed
            })
        })
    }

    async fn fail(&self, token: &LeaseToken, failure: JobFailure) -> Result<Finish, PortError> {
        self.call(|state| {
            state.end(token, |job| {
                job.failures.push(failure.clone());
                match next_step(&RetryPolicy::default(), job.lease.attempt, &failure, 0.0) {
                    NextStep::Retry { .. } => JobState::Queued,
                    NextStep::GiveUp => JobState::Failed,
                }
            })
        })
    }

    async fn release(&self, token: &LeaseToken) -> Result<Finish, PortError> {
        self.call(|state| {
            state.end(token, |job| {
                job.releases += 1;
                job.lease.attempt -= 1;
                JobState::Queued
            })
        })
    }
}
