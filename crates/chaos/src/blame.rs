//! Who may be blamed: the crashes on the account of each job against the deaths of the workers that held it. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::check::{Begun, Kind, Stores, Violation};

/// Deaths of its workers after which a job may be worked on alone.
const ISOLATED_AFTER: u64 = 2;

/// What the store holds against a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Crashes counted: deaths of workers that held nothing else.
    pub crashes: u64,
    /// Deaths counted.
    pub deaths: u64,
    /// Whether it is, or was at its end, to be worked on alone.
    pub isolated: bool,
}

/// How a process of a worker ended, as far as the jobs that it held are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It lives, or ended in order.
    Lived,
    /// A signal ended it: ours, or that of its own `abort`.
    Died,
    /// It was frozen for longer than its lease: nobody can tell that from a death.
    Frozen,
}

/// What a process of a worker had in hand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hands {
    /// Jobs that it began and that it had not ended when its log did.
    pub held: BTreeSet<String>,
    /// Jobs of which it was told that they were not its own any more.
    pub lost: BTreeSet<String>,
}

/// How often a worker that held a job died, by job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deaths {
    of_jobs: HashMap<String, u64>,
    any: bool,
}

impl Deaths {
    /// From the logs of all processes of workers.
    pub fn of<'h>(processes: impl IntoIterator<Item = (Fate, &'h Hands)>) -> Self {
        let mut deaths = Self::default();
        for (fate, hands) in processes {
            let jobs: BTreeSet<&String> = match fate {
                Fate::Lived => continue,
                Fate::Died => hands.held.iter().collect(),
                Fate::Frozen => hands.held.union(&hands.lost).collect(),
            };
            deaths.any = true;
            for job in jobs {
                *deaths.of_jobs.entry(job.clone()).or_default() += 1;
            }
        }
        deaths
    }

    /// How many deaths there may have been of workers that held this job. A lease of which no log tells was claimed by a
    /// worker that died before it could write that down.
    fn at_most(&self, job: &str, fences: u64, begun: &Begun) -> u64 {
        let told = begun.get(job).map_or(0, |fences| fences.len() as u64);
        let untold = if self.any { fences.saturating_sub(told) } else { 0 };
        self.of_jobs.get(job).copied().unwrap_or(0) + untold
    }
}

/// Whether every crash on a job's account, and its isolation, is explained by deaths of workers that held it.
pub fn check_blame(
    accounts: &BTreeMap<String, Account>,
    stores: &Stores,
    begun: &Begun,
    deaths: &Deaths,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (id, Account { crashes, deaths: counted, isolated }) in accounts {
        let fences = stores.jobs.get(id).map_or(0, |job| job.fence);
        let explained = deaths.at_most(id, fences, begun);
        let mut report = |what| violations.push(Violation { kind: Kind::Blamed, what });
        if *crashes.max(counted) > explained {
            report(format!("job {id}: {crashes} crashes, {counted} deaths, and {explained} are explained"));
        }
        if *isolated && explained < ISOLATED_AFTER {
            report(format!("job {id} is isolated after {explained} deaths of workers that held it"));
        }
    }
    violations
}
