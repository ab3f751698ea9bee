//! The checker: from what clients saw, what the stores hold in the end and which leases workers began on, to what is
//! wrong. Pure: it asks nobody.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use crate::history::{Expected, History, Manner, Seen, Status};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Acknowledged, and never heard of again, or not to its end.
    Lost,
    /// Not the known answer.
    Wrong,
    /// A result of a lease that was not the last one, or a state that changed after the end.
    Stale,
    /// A job that did nothing wrong paid for the death of a worker.
    Blamed,
    /// The books do not add up: something is left over, missing or invented.
    Unaccounted,
    /// An answer that the contract does not know.
    Contract,
}

/// One thing that is wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What it is.
    pub kind: Kind,
    /// Where.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

/// A job in the store when all is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredJob {
    /// Its end; `None` when it has not ended.
    pub end: Option<Status>,
    /// The last fence that was given.
    pub fence: u64,
    /// The nonce of the last claim.
    pub nonce: String,
    /// The published result.
    pub result: Option<String>,
    /// The name of its upload.
    pub audio: String,
}

/// What the stores hold when all is over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stores {
    /// Jobs by id.
    pub jobs: BTreeMap<String, StoredJob>,
    /// Submissions, and the jobs that they point at.
    pub submissions: BTreeMap<String, String>,
    /// Names of the blobs.
    pub blobs: BTreeSet<String>,
}

/// Leases that workers began to work on: the fences of each job.
pub type Begun = HashMap<String, BTreeSet<u64>>;

/// What became of the submissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Planned.
    pub submitted: u64,
    /// Accepted.
    pub acknowledged: u64,
    /// Whose client saw the transcript.
    pub completed: u64,
    /// With the failure that was to come.
    pub failed: u64,
    /// On request.
    pub cancelled: u64,
    /// Cancelled or ended, then removed on request before its client saw an end.
    pub removed: u64,
    /// Of the accepted, those that shared the work of others.
    pub shared: u64,
}

/// Checks every client's story and counts.
pub fn check_clients(histories: &[History]) -> (Tally, Vec<Violation>) {
    let mut tally = Tally::default();
    let mut violations = Vec::new();
    for history in histories {
        let mut client = Client { history, violations: &mut violations };
        client.check();
        count(&mut tally, history);
    }
    let ended = tally.completed + tally.failed + tally.cancelled + tally.removed;
    if tally.acknowledged != ended {
        let what = format!("{} were acknowledged, and {ended} came to an end", tally.acknowledged);
        violations.push(Violation { kind: Kind::Unaccounted, what });
    }
    (tally, violations)
}

fn count(tally: &mut Tally, history: &History) {
    tally.submitted += 1;
    tally.acknowledged += u64::from(history.id().is_some());
    let shared = |seen: &Seen| matches!(seen, Seen::Accepted { shared: true, .. });
    tally.shared += u64::from(history.seen.iter().any(shared));
    let of_end = match history.end() {
        Some(Status::Completed) => &mut tally.completed,
        Some(Status::Failed) => &mut tally.failed,
        Some(Status::Cancelled) => &mut tally.cancelled,
        _ if history.was_removed() => &mut tally.removed,
        _ => return,
    };
    *of_end += 1;
}

struct Client<'a> {
    history: &'a History,
    violations: &'a mut Vec<Violation>,
}

impl Client<'_> {
    fn report(&mut self, kind: Kind, what: impl fmt::Display) {
        let History { number, manner, seen, .. } = self.history;
        let id = self.history.id().unwrap_or("never accepted");
        let story: Vec<String> = seen.iter().map(|seen| format!("{seen:?}")).collect();
        let what = format!("submission {number} ({manner:?}, {id}): {what}; it saw {}", story.join(", "));
        self.violations.push(Violation { kind, what });
    }

    fn check(&mut self) {
        self.check_answers();
        self.check_end();
        self.check_order();
        if let Some(end) = self.history.end() {
            self.check_outcome(end);
        }
    }

    fn check_answers(&mut self) {
        let mut ids = BTreeSet::new();
        for seen in &self.history.seen {
            match seen {
                Seen::Accepted { id, .. } => {
                    ids.insert(id.as_str());
                }
                Seen::Unexpected(answer) => self.report(Kind::Contract, answer),
                Seen::GaveUp(what) => self.report(Kind::Lost, format!("waited in vain for {what}")),
                _ => {}
            }
        }
        if ids.len() > 1 {
            self.report(Kind::Contract, format!("one key was answered with {} jobs", ids.len()));
        }
        if ids.is_empty() && !self.history.seen.iter().any(|seen| matches!(seen, Seen::GaveUp(_))) {
            self.report(Kind::Lost, "never answered");
        }
    }

    /// Whether it came to an end that its client could see, and only to one that its client had a part in.
    fn check_end(&mut self) {
        let removed = self.history.was_removed();
        if self.history.id().is_none() {
            return;
        }
        match self.history.end() {
            None if !removed => self.report(Kind::Lost, "its end was never seen"),
            Some(Status::Cancelled) if self.history.manner != Manner::Cancel => {
                self.report(Kind::Lost, "cancelled, and nobody asked for that");
            }
            _ => {}
        }
        if self.history.seen.contains(&Seen::Gone) && !removed {
            self.report(Kind::Lost, "gone, and nobody removed it");
        }
    }

    /// Whether the story has one end, after which nothing changes.
    fn check_order(&mut self) {
        let mut end: Option<Status> = None;
        let mut cancelled = false;
        let mut last_number = None;
        for seen in &self.history.seen {
            let now = match seen {
                Seen::Job { status, .. } => Some(*status),
                Seen::Event { number, end } => {
                    if last_number.is_some_and(|last| *number <= last) {
                        self.report(Kind::Contract, format!("event {number} came after {last_number:?}"));
                    }
                    last_number = Some(*number);
                    // Events of the past may follow a state that was asked for meanwhile; the end may not change.
                    *end
                }
                Seen::CancelAccepted => {
                    cancelled = true;
                    None
                }
                _ => None,
            };
            let Some(now) = now else { continue };
            match end {
                Some(end) if end != now => {
                    self.report(Kind::Stale, format!("it had ended as {end:?}, then it was {now:?}"));
                }
                None if cancelled && now != Status::Cancelled => {
                    self.report(Kind::Stale, format!("it was cancelled, then it was {now:?}"));
                }
                _ => {}
            }
            if now.is_end() {
                end = end.or(Some(now));
            }
        }
    }

    /// Whether it ended as its sound ordered.
    fn check_outcome(&mut self, end: Status) {
        let History { expected, manner, seen, .. } = self.history;
        match (expected, end) {
            (_, Status::Cancelled) => {}
            (Expected::Failure(wanted), Status::Failed) => {
                let code = codes(seen).next();
                if code != Some(wanted) {
                    self.report(Kind::Wrong, format!("failed with {code:?}, not {wanted}"));
                }
            }
            (Expected::Failure(wanted), _) => {
                self.report(Kind::Wrong, format!("it was to fail with {wanted}"))
            }
            (Expected::Text { .. }, Status::Failed) => {
                let code = codes(seen).next().unwrap_or("no reason").to_owned();
                let kind = if code == "worker_lost" { Kind::Blamed } else { Kind::Lost };
                self.report(kind, format!("it failed with {code}"));
            }
            (Expected::Text { text, attempts }, _) => {
                let mut texts = seen.iter().filter_map(|seen| match seen {
                    Seen::Text(text) => Some(text),
                    _ => None,
                });
                if texts.any(|heard| heard != text) {
                    self.report(Kind::Wrong, format!("the answer is `{text}`"));
                }
                // Who cancels does not fetch what came all the same.
                let fetches = *manner != Manner::Cancel;
                if fetches && !seen.iter().any(|seen| matches!(seen, Seen::Text(_))) {
                    self.report(Kind::Lost, "completed, and its text could not be had");
                }
                let most = seen.iter().filter_map(|seen| match seen {
                    Seen::Job { status: Status::Completed, attempt, .. } => Some(*attempt),
                    _ => None,
                });
                if let Some(attempt) = most.max().filter(|attempt| attempt > attempts) {
                    self.report(Kind::Blamed, format!("{attempt} attempts were counted, not {attempts}"));
                }
            }
        }
    }
}

fn codes(seen: &[Seen]) -> impl Iterator<Item = &str> {
    seen.iter().filter_map(|seen| match seen {
        Seen::Job { code, .. } => code.as_deref(),
        _ => None,
    })
}

/// Checks what the stores hold against what clients saw and what workers began.
pub fn check_stores(histories: &[History], stores: &Stores, begun: &Begun) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut report = |kind, what: String| violations.push(Violation { kind, what });
    let mut wanted = BTreeSet::new();
    for (id, job) in &stores.jobs {
        let Some(end) = job.end else {
            report(Kind::Lost, format!("job {id} never ended: {job:?}"));
            continue;
        };
        let last_begun = begun.get(id).and_then(|fences| fences.last()).copied().unwrap_or(0);
        if last_begun > job.fence {
            report(
                Kind::Stale,
                format!("job {id} was begun under fence {last_begun}, its last is {}", job.fence),
            );
        }
        match (end, &job.result) {
            (Status::Completed, Some(result)) => {
                let own = format!("/work_{id}/{}-{}", job.fence, job.nonce);
                if !result.ends_with(&own) {
                    report(Kind::Stale, format!("job {id} published {result}, its last lease wrote {own}"));
                }
                wanted.insert(result.clone());
            }
            (Status::Completed, None) => report(Kind::Lost, format!("job {id} completed without a result")),
            (_, Some(result)) => report(Kind::Stale, format!("job {id} is {end:?} and published {result}")),
            (Status::Failed, None) => {
                wanted.insert(job.audio.clone());
            }
            _ => {}
        }
    }
    for blob in wanted.difference(&stores.blobs) {
        report(Kind::Lost, format!("blob {blob} is missing"));
    }
    for blob in stores.blobs.difference(&wanted) {
        report(Kind::Unaccounted, format!("nobody needs blob {blob}"));
    }
    check_submissions(histories, stores, &mut report);
    violations
}

fn check_submissions(histories: &[History], stores: &Stores, report: &mut impl FnMut(Kind, String)) {
    let mut known = BTreeSet::new();
    for history in histories {
        let Some(id) = history.id() else { continue };
        known.insert(id);
        let stored = stores.submissions.get(id);
        match stored.map(|job| stores.jobs.get(job)) {
            None if !history.was_removed() => report(Kind::Lost, format!("the store has forgotten {id}")),
            Some(_) if history.was_removed() => {
                report(Kind::Unaccounted, format!("{id} was removed and is there"))
            }
            Some(None) => report(Kind::Lost, format!("{id} points at a job that is not there")),
            Some(Some(job)) => {
                // One submission of many can be cancelled apart.
                let differs = |end| Some(end) != job.end && end != Status::Cancelled;
                if let Some(end) = history.end().filter(|end| differs(*end)) {
                    report(Kind::Stale, format!("{id} was seen as {end:?}, and its job is {:?}", job.end));
                }
            }
            _ => {}
        }
    }
    for id in stores.submissions.keys().filter(|id| !known.contains(id.as_str())) {
        report(Kind::Unaccounted, format!("nobody was told of {id}"));
    }
}
