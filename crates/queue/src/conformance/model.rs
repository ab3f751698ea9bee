//! A reference model of the job store: what DESIGN.md says, as plainly as it can be written, without indexes or SQL.
//! [`replay`] runs a history on a store and on the model and compares after each step; `tests/model` draws the histories.
//!
//! Predicted step by step: submissions with their idempotency keys and the limits on what waits and what is remembered;
//! which job a claim gives, with its checkpoint; what becomes of leases, attempts, crashes and isolation, also when workers
//! come back late; retries under a jitter that differs from moment to moment; cancelling, deleting, dead letters; deadlines
//! and ages; and all counts.
//!
//! Goals, which no rule of the model brings about: watchers of a submission who look now and then are told under rising
//! numbers where its job stands, each segment of the attempt that counts once and in order, and its end once (`watchers`);
//! in the end every job has ended, and later nothing is left.
//!
//! Not in here: blobs and their grace ([`super::garbage`]), shared values, money and request limits ([`super::ledger`] and
//! others), stores that restart or lose data, several nodes at once, streams that wait for news ([`super::events`]), draws of
//! jitter for jobs that lapse at once ([`super::crashes`]), how long anybody waits ([`super::service`]), and who may cancel
//! what ([`super::cancellation`]).

mod reference;
mod run;
mod submissions;
mod turns;
mod upkeep;
mod watchers;

use std::time::Duration;

use verbatim_core::Refusal;
use verbatim_core::caps::AtCap;
use verbatim_core::class::{Abilities, JobClass};
use verbatim_core::failure::FailureKind;
use verbatim_core::job::{SubmissionStatus, TenantCaps};
use verbatim_core::options::TranscribeOptions;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::jobs::{DeleteOutcome, Finish, Renewal};
use verbatim_core::time::Clock;

use super::virtual_world::VirtualClock;
use reference::Given;
pub use reference::Model;
pub use run::replay;

/// Those who submit.
pub const TENANTS: [&str; 3] = ["ann", "bob", "cat"];
/// How many claim.
pub const WORKERS: usize = 3;
/// What jobs need: a model. The work decides.
const CLASSES: [&str; 3] = ["tiny.en", "base", "small"];
/// The classes that each worker can do; the last can do everything.
const ABLE: [&[usize]; WORKERS] = [&[0], &[0, 1], &[0, 1, 2]];
/// How long a claim can be repeated at least, in milliseconds.
const REPEATABLE: i64 = 600_000;

/// Work of a tenant on its way.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are those of a submission; tiers in the order of Priority::ALL")]
pub struct Work {
    pub tenant: usize,
    pub work: u8,
    pub tier: usize,
    pub secs: u64,
    pub caps: TenantCaps,
    pub deadline: Option<u16>,
    /// The name that the client gives the request, whose body says what the work is.
    pub key: Option<u8>,
}

/// What bounds a store, drawn for each history.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "the fields are those of a policy")]
pub struct Limits {
    pub max_waiting: Option<u64>,
    pub max_remembered: Option<u64>,
    pub max_remembered_of_all: Option<u64>,
}

/// One step of a history. Numbers name what was made so far, in the order in which it was made.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields say what is picked")]
pub enum Op {
    /// Submits work.
    Submit(Work),
    /// Submits the same ticket again, with other caps, which do not count.
    Resubmit { ticket: usize, caps: TenantCaps },
    /// Caps are set for a tenant, which no submission lifts.
    SetCaps { tenant: usize, caps: TenantCaps },
    /// A worker claims.
    Claim { worker: usize, says_idle: bool },
    /// A worker repeats its last claim that got something.
    ClaimAgain { worker: usize },
    /// The holder of any lease ever given completes; the audio lasted so long.
    Complete { lease: usize, secs: u16 },
    /// The holder of any lease ever given fails.
    Fail { lease: usize, kind: FailureKind },
    /// The holder of any lease ever given releases.
    Release { lease: usize },
    /// The holder of any lease ever given tells of its last segments again, and of more; of its progress in percent; and
    /// how many seconds of audio all its segments cover, in a checkpoint.
    Report { lease: usize, again: u8, more: u8, percent: Option<u8>, checkpoint: Option<u16> },
    /// Who watches a submission looks what there is to be told.
    Watch { ticket: usize },
    /// The holder of any lease ever given renews.
    Renew { lease: usize },
    /// A submission is cancelled.
    Cancel { ticket: usize },
    /// A submission is deleted.
    Delete { ticket: usize },
    /// A job is queued afresh, if it is a dead letter.
    Redrive { job: usize },
    /// A job is forgotten, if it is a dead letter.
    Discard { job: usize },
    /// Time passes in which nobody reaches the store.
    Wait { secs: u16 },
    /// Time passes while upkeep goes on.
    Pass { secs: u16 },
    /// Upkeep, until there is nothing to do.
    Upkeep,
}

/// A checkpoint: seconds of audio, and how many segments.
type Resume = (u16, u32);

/// An event before the end: attempts made, the attempt, the index of a segment, percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Queued(u32),
    Started(u32),
    Segment(u32),
    Progress(u8),
}

/// What a step answers.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Nothing,
    Submitted { job: usize, cached: bool, attached: bool },
    Replayed { job: usize },
    Refused(Refusal),
    Conflict,
    Given(Option<Given>, Option<Resume>),
    Finish(Finish),
    Reported(bool),
    Renewal(Renewal),
    Status(Option<SubmissionStatus>),
    Deleted(Option<DeleteOutcome>),
    Redriven(Option<bool>),
    Capped(AtCap),
}

/// The class of the work.
fn class_of(work: u8) -> usize {
    usize::from(work) % CLASSES.len()
}

/// Whether the worker can do jobs of the class.
fn can(worker: usize, class: usize) -> bool {
    ABLE[worker].contains(&class)
}

fn options_of(class: usize) -> TranscribeOptions {
    TranscribeOptions::for_model(CLASSES[class])
}

/// What the worker says that it can do.
fn abilities(worker: usize) -> Abilities {
    if ABLE[worker].len() == CLASSES.len() {
        return Abilities::all();
    }
    Abilities::of(ABLE[worker].iter().map(|class| JobClass::of(&options_of(*class))))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Rules under which a short history meets every limit.
fn brisk_policy() -> StorePolicy {
    StorePolicy {
        dedupe_ttl: Duration::from_secs(120),
        result_retention: Duration::from_secs(300),
        idempotency_ttl: Duration::from_secs(10),
        max_age: Duration::from_secs(400),
        ..StorePolicy::default()
    }
}

impl Model {
    /// Of an empty store with these limits.
    pub fn within(limits: Limits) -> Self {
        let Limits { max_waiting, max_remembered, max_remembered_of_all } = limits;
        let policy = StorePolicy { max_waiting, max_remembered, max_remembered_of_all, ..brisk_policy() };
        Self::empty(VirtualClock::default().now(), policy)
    }

    /// Whether what the step names is there.
    pub fn allows(&self, op: &Op) -> bool {
        match *op {
            Op::Submit(_) | Op::SetCaps { .. } | Op::Claim { .. } => true,
            Op::Wait { .. } | Op::Pass { .. } | Op::Upkeep => true,
            Op::Resubmit { ticket, .. } => self.tickets.get(ticket).is_some_and(|ticket| !ticket.gone),
            Op::ClaimAgain { worker } => {
                self.turns.last[worker].as_ref().is_some_and(|(_, until)| self.now < *until)
            }
            Op::Complete { lease, .. } | Op::Fail { lease, .. } => lease < self.leases.len(),
            Op::Release { lease } | Op::Report { lease, .. } | Op::Renew { lease } => {
                lease < self.leases.len()
            }
            Op::Cancel { ticket } | Op::Delete { ticket } | Op::Watch { ticket } => {
                ticket < self.tickets.len()
            }
            Op::Redrive { job } | Op::Discard { job } => job < self.jobs.len(),
        }
    }

    /// Takes the step.
    pub fn apply(&mut self, op: &Op) {
        self.answer = self.step(op);
        self.refresh();
    }

    /// How many tickets, jobs and leases were ever made.
    pub fn made(&self) -> (usize, usize, usize) {
        (self.tickets.len(), self.jobs.len(), self.leases.len())
    }

    /// The leases that are held.
    pub fn held(&self) -> Vec<usize> {
        (0..self.leases.len()).filter(|lease| self.is_current(&self.leases[*lease])).collect()
    }
}
