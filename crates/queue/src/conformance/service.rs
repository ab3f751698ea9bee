//! The goal of the queue's order, as a number: how many other jobs may begin before one that its tenant's caps allow, while no
//! worker is ever idle. Says nothing of how the store keeps to it; see `docs/adr/0062-nobody-starves.md`.
//!
//! [`keeps_to_it`] runs a cluster on a store: its workers ask as soon as a slot is free, there is always a backlog, all jobs
//! are equally long, and those that began first end first. `tests/model` draws the clusters.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use verbatim_core::ids::{JobId, WorkerId};
use verbatim_core::job::{Lease, NewSubmission};
use verbatim_core::options::Priority;
use verbatim_core::policy::RESERVED_ONE_IN;
use verbatim_core::ports::jobs::ClaimRequest;
use verbatim_core::ports::{JobClient, JobLeases};
use verbatim_core::time::Timestamp;

use super::virtual_world::{LEASE, tenant};
use super::{Harness, Verdict, Violation, World, ensure};

/// The weights of all tiers together.
const WEIGHTS: u64 = 64 + 8 + 1;
/// What every job is estimated to last, and lasts, in seconds of audio.
const SECS: u64 = 10;

/// What decides how long a job may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its tier.
    pub tier: Priority,
    /// Jobs of its tenant that wait before it in its tier.
    pub ahead: u64,
    /// Isolated jobs that wait, itself among them, if it is one; else `None`.
    pub isolated: Option<u64>,
}

/// A cluster that always has work.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Workers.
    pub workers: u64,
    /// Jobs that each holds at most.
    pub slots: u64,
    /// Tenants with work.
    pub tenants: u64,
}

impl Cluster {
    /// How many other jobs begin at most before a job in this place.
    ///
    /// A tenant has its turn after each other one had two (one for the tag under which it comes back), and a tier of weight
    /// `w` is served once in `73 / w` claims. An isolated job then waits until the worker that is reserved for it has ended
    /// what it holds, before which no more jobs can begin than run in the cluster; and so often as there are more isolated
    /// jobs before it than workers may be reserved at a time.
    pub fn most_before(&self, place: Place) -> u64 {
        let turns = (place.ahead + 2) * self.tenants + 1;
        let claims = (turns * WEIGHTS).div_ceil(place.tier.weight().into()) + 3;
        match place.isolated {
            None => claims,
            Some(jobs) => {
                let reserved = (self.workers / RESERVED_ONE_IN).max(1);
                jobs.div_ceil(reserved) * (claims + self.workers * self.slots)
            }
        }
    }
}

/// A tenant, as a number, and a tier.
pub type Origin = (u64, Priority);

/// What the cluster works on.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where it runs.
    pub cluster: Cluster,
    /// Isolated jobs at the start.
    pub isolated: Vec<Origin>,
    /// Where further jobs come from, in turn; as many wait at any time as there are here.
    pub backlog: Vec<Origin>,
    /// Jobs that begin before it ends.
    pub claims: u64,
    /// How long each takes.
    pub job: Duration,
}

struct Waiting {
    place: Place,
    origin: Origin,
    /// Jobs that had begun when it came.
    since: u64,
    /// When it came.
    at: Timestamp,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, Default)]
struct Doing {
    held: u64,
    alone: bool,
    /// It got nothing when it asked last.
    refused: bool,
}

struct Run<'w, 'h, H: Harness> {
    world: &'w World<'h, H>,
    load: &'w Load,
    waiting: BTreeMap<JobId, Waiting>,
    running: VecDeque<(usize, Lease)>,
    workers: Vec<(WorkerId, Doing)>,
    /// How long isolated jobs waited.
    waits: Vec<Duration>,
    begun: u64,
    made: u64,
}

/// No job waits longer than stated, and no more workers are kept from working than may be reserved. Tells how long each
/// isolated job waited, on the virtual clock: the ends of jobs are spread evenly.
///
/// # Errors
/// The first job that waited longer.
pub async fn keeps_to_it<H: Harness>(harness: &H, load: &Load) -> Verdict<Vec<Duration>> {
    let world = World::open(harness).await?;
    let workers = (0..load.cluster.workers).map(|_| (world.worker(), Doing::default())).collect();
    let mut run = Run {
        world: &world,
        load,
        waiting: BTreeMap::new(),
        running: VecDeque::new(),
        workers,
        waits: Vec::new(),
        begun: 0,
        made: 0,
    };
    run.begin().await?;
    while run.begun < load.claims {
        run.step().await?;
    }
    // A job that is never given is found, too.
    for (job, waiting) in &run.waiting {
        run.check(job, waiting)?;
    }
    world.audit().await?;
    Ok(run.waits)
}

impl<H: Harness> Run<'_, '_, H> {
    fn upload(&mut self, (whose, priority): Origin) -> Verdict<NewSubmission> {
        self.made += 1;
        let new = self.world.upload_of(&tenant(&format!("tenant-{whose}"))?, &format!("{}", self.made), SECS);
        Ok(NewSubmission { priority, ..new })
    }

    /// Every slot holds a job, then the isolated jobs are there, then the backlog.
    async fn begin(&mut self) -> Verdict {
        for _ in 0..self.load.cluster.workers * self.load.cluster.slots {
            let filler = self.upload((0, Priority::Normal))?;
            self.submit(filler, (0, Priority::Normal)).await?;
        }
        for _ in 0..self.load.cluster.slots {
            for worker in 0..self.workers.len() {
                self.ask(worker).await?;
            }
        }
        let isolated = self.load.isolated.clone();
        let news = isolated.iter().map(|origin| self.upload(*origin)).collect::<Verdict<Vec<_>>>()?;
        let jobs: Vec<_> = news.iter().map(|new| new.job_id.clone()).collect();
        self.world.isolate_all(news).await?;
        for (number, (job, origin)) in jobs.into_iter().zip(isolated).enumerate() {
            self.note(job, origin, Some(number as u64 + 1));
        }
        for origin in &self.load.backlog {
            let new = self.upload(*origin)?;
            self.submit(new, *origin).await?;
        }
        Ok(())
    }

    fn note(&mut self, job: JobId, origin: Origin, isolated: Option<u64>) {
        let ahead = self.waiting.values().filter(|other| other.origin == origin).count() as u64;
        let place = Place { tier: origin.1, ahead, isolated };
        self.waiting.insert(job, Waiting { place, origin, since: self.begun, at: self.world.now() });
    }

    async fn submit(&mut self, new: NewSubmission, origin: Origin) -> Verdict {
        let job = new.job_id.clone();
        self.world.store.submit(new).await?;
        self.note(job, origin, None);
        Ok(())
    }

    /// The job that began first ends, and its worker asks until its slots are full or it gets nothing.
    async fn step(&mut self) -> Verdict {
        let Some((worker, lease)) = self.running.pop_front() else {
            return Err(Violation::new("there is a backlog, and nothing runs"));
        };
        let slots = u32::try_from(self.load.cluster.workers * self.load.cluster.slots).unwrap_or(u32::MAX);
        self.world.clock.advance(self.load.job / slots);
        self.world.complete_after(&lease, SECS).await?;
        let doing = &mut self.workers[worker].1;
        (doing.held, doing.alone) = (doing.held - 1, false);
        while self.ask(worker).await? {
            let origin = self.load.backlog[usize::try_from(self.made).unwrap_or(0) % self.load.backlog.len()];
            let new = self.upload(origin)?;
            self.submit(new, origin).await?;
        }
        let kept = self.workers.iter().filter(|(_, doing)| doing.refused).count() as u64;
        let most = (self.load.cluster.workers / RESERVED_ONE_IN).max(1);
        ensure!(kept <= most, "{kept} workers get nothing while there is work");
        Ok(())
    }

    /// Whether the worker got a job. One that holds an isolated job, or as many as it has slots, does not ask.
    async fn ask(&mut self, worker: usize) -> Verdict<bool> {
        let (id, doing) = &mut self.workers[worker];
        doing.refused = false;
        if doing.held >= self.load.cluster.slots || doing.alone {
            return Ok(false);
        }
        let request = ClaimRequest { lease: LEASE * 100_000, ..self.world.request(id, doing.held == 0) };
        let given = self.world.store.claim(request).await?;
        doing.refused = given.is_none();
        let Some(lease) = given else { return Ok(false) };
        (doing.held, doing.alone) = (doing.held + 1, lease.alone);
        let job = &lease.token.job_id;
        let waited = self.waiting.remove(job);
        let waited = waited.ok_or_else(|| Violation::new("a job was given that does not wait"))?;
        self.check(job, &waited)?;
        ensure!(lease.alone == waited.place.isolated.is_some(), "a job that waits alone runs alone");
        if lease.alone {
            self.waits.push(self.world.now().since(waited.at));
        }
        self.begun += 1;
        self.running.push_back((worker, lease));
        Ok(true)
    }

    fn check(&self, job: &JobId, Waiting { place, since, .. }: &Waiting) -> Verdict {
        let (waited, most) = (self.begun - since, self.load.cluster.most_before(*place));
        ensure!(waited <= most, "{job} in {place:?} saw {waited} others begin, not {most} at most");
        Ok(())
    }
}

/// Eight workers with four slots, more isolated jobs than may be served at a time, tenants in each tier.
pub async fn nobody_waits_longer_than_stated<H: Harness>(harness: &H) -> Verdict {
    let [high, normal, low] = Priority::ALL;
    let load = Load {
        cluster: Cluster { workers: 8, slots: 4, tenants: 3 },
        isolated: vec![(1, low), (0, normal), (1, high)],
        backlog: vec![(0, high), (1, normal), (0, normal), (2, low), (1, high), (0, low)],
        claims: 900,
        job: Duration::from_secs(600),
    };
    let waits = keeps_to_it(harness, &load).await?;
    ensure!(waits.len() == 3, "of three isolated jobs began {}", waits.len());
    Ok(())
}

/// A small sibling of `examples/isolated_wait`: with as many reserved workers as isolated jobs, each begins when a worker has
/// ended what it held when the job's turn came.
pub async fn isolated_jobs_begin_within_two_lengths_of_a_job<H: Harness>(harness: &H) -> Verdict {
    let job = Duration::from_secs(600);
    let load = Load {
        cluster: Cluster { workers: 16, slots: 4, tenants: 1 },
        isolated: vec![(0, Priority::Normal); 2],
        backlog: vec![(0, Priority::Normal); 4],
        claims: 200,
        job,
    };
    let waits = keeps_to_it(harness, &load).await?;
    ensure!(waits.len() == 2 && waits.iter().all(|wait| *wait <= 2 * job), "they waited {waits:?}");
    Ok(())
}

/// One worker takes part like a thousand: it ends what it holds before an isolated job, and then goes on.
pub async fn one_worker_serves_isolated_jobs_too<H: Harness>(harness: &H) -> Verdict {
    let load = Load {
        cluster: Cluster { workers: 1, slots: 2, tenants: 1 },
        isolated: vec![(0, Priority::Normal), (0, Priority::Normal)],
        backlog: vec![(0, Priority::Normal); 4],
        claims: 100,
        job: Duration::from_secs(60),
    };
    let waits = keeps_to_it(harness, &load).await?;
    ensure!(waits.len() == 2, "of two isolated jobs began {}", waits.len());
    Ok(())
}
