//! For those who keep the store in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::class::JobClass;
use verbatim_core::job::JobState;
use verbatim_core::options::Priority;
use verbatim_core::policy::ISOLATED_AFTER;
use verbatim_core::ports::JobUpkeep;
use verbatim_core::ports::blobs::{BlobKey, RESULTS_PREFIX};
use verbatim_core::ports::jobs::{
    BlobFate, GarbageRequest, LONGEST_HOLD, MAX_BLOBS_PER_CALL, QueueStats, TickReport, TierStats,
};
use verbatim_core::retry::RetryPolicy;

use super::error::corrupt;
use super::leases::steps;
use super::record::{Fields, class_of};
use super::{RedisStore, health, json, millis, scripts};
use crate::{AWAY, MOST_GRACES, blobs, ticket};

/// Jobs of each kind that one tick moves: a few milliseconds of Redis's time.
const MOST_PER_TICK: usize = 64;
/// Jobs at which one step of the walk over all of them looks: a few milliseconds of Redis's time.
const PAGE: usize = 256;
/// Steps of that walk after a tick, where jobs are known to be in no lane.
const MOST_PAGES: usize = 16;
/// How long the node that ticks may be silent before another one takes its place: its own pauses are shorter.
const TURN: Duration = Duration::from_millis(1500);
/// How often a node that does not tick asks whether it should, in a small cluster.
const ASK: Duration = Duration::from_secs(1);
/// Nodes that stand by: they ask that often however large the cluster is.
const STANDBYS: u32 = 2;
/// How long a node stands by after it has asked.
const STANDS_BY: Duration = Duration::from_secs(4);
/// Of the others, in a cluster of more workers than this, each asks less often, so that together they ask as often as these
/// would.
const ASKERS: u32 = 2;
/// The longest that a node does not ask.
const ASK_AT_LEAST: Duration = Duration::from_secs(30);
/// Draws of jitter that come with a tick, so that jobs that lapsed together do not return together.
const DRAWS: usize = 8;

/// How long a node that neither ticks nor stands by waits before it asks again, where there are so many workers.
fn pause(workers: u64) -> Duration {
    let share = u32::try_from(workers).unwrap_or(u32::MAX) / ASKERS;
    (ASK * share.clamp(1, 60)).min(ASK_AT_LEAST)
}

/// How the walk over all jobs gets on, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// What was put right in this round; nothing before this process has seen a round begin.
    righted: Option<usize>,
    /// How many jobs a whole round has not found that seem to be in no lane: a counter is wrong, or they cannot be read.
    in_vain: u64,
}

impl Walk {
    /// At how many pages to look, where so many jobs seem to be in no lane.
    fn pages(&mut self, missing: u64) -> usize {
        self.in_vain = self.in_vain.min(missing);
        if missing > self.in_vain { MOST_PAGES } else { 1 }
    }

    /// Notes what a page came to.
    fn saw(&mut self, righted: usize, is_last: bool, missing: u64) {
        if let Some(so_far) = &mut self.righted {
            *so_far += righted;
        }
        if !is_last {
            return;
        }
        if self.righted == Some(0) && missing > self.in_vain {
            self.in_vain = missing;
            tracing::warn!(
                jobs = missing,
                "more jobs are counted as queued than are in lanes, and a look at all of them put nothing right: some cannot be \
                 read, or a counter is wrong"
            );
        }
        self.righted = Some(0);
    }
}

/// Whose turn it is to tick, as far as this process knows.
pub(super) struct Turn {
    /// The name of this process among those that tick.
    node: String,
    /// Milliseconds until which another node ticks.
    anothers_until: AtomicI64,
    /// The number of the news of which this process heard last; 0 for none.
    heard: AtomicI64,
    /// The node that ticked has handed over.
    free: AtomicBool,
}

impl Turn {
    pub(super) fn of(node: String) -> Self {
        Self {
            node,
            anothers_until: AtomicI64::new(i64::MIN),
            heard: AtomicI64::new(0),
            free: AtomicBool::new(false),
        }
    }

    fn node(&self) -> &str {
        &self.node
    }

    fn is_anothers(&self, now: i64) -> bool {
        let free = self.free.swap(false, Ordering::Relaxed);
        !free && now < self.anothers_until.load(Ordering::Relaxed)
    }

    /// The next call asks, whatever was answered last.
    pub(super) fn is_free(&self) {
        self.free.store(true, Ordering::Relaxed);
    }

    fn heard(&self) -> i64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Whether what has this number is news.
    fn hears_of(&self, number: i64) -> bool {
        number != 0 && self.heard.swap(number, Ordering::Relaxed) != number
    }

    fn leave_until(&self, then: i64) {
        self.anothers_until.store(then, Ordering::Relaxed);
    }
}

impl RedisStore {
    /// The time on the clock of this process, which only measures pauses: steps of the wall clock do not count.
    fn now(&self) -> i64 {
        let monotonic = || i64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.0.wire.clock.as_ref().map_or_else(monotonic, |clock| clock.now().as_millis())
    }

    /// A time drawn from half of `pause` to half as long again, so that nodes that were started together do not ask together.
    fn about(&self, pause: Duration) -> Duration {
        pause.mul_f64(0.5 + self.0.ids.fraction())
    }
}

#[async_trait]
impl JobUpkeep for RedisStore {
    async fn tick(&self) -> Result<TickReport, PortError> {
        if self.0.turn.is_anothers(self.now()) {
            return Ok(TickReport { elsewhere: true, ..TickReport::default() });
        }
        let lost = ticket::worker_lost();
        let crashes = RetryPolicy { max_attempts: self.0.policy.retry.max_crashes, ..self.0.policy.retry };
        let mut call = self.0.wire.call(&scripts::TICK);
        call.arg(MOST_PER_TICK)
            .arg(millis(self.0.policy.result_retention))
            .arg(json(&ticket::missed_deadline())?)
            .arg(json(&ticket::too_old())?)
            .arg(json(&lost)?)
            .arg(ISOLATED_AFTER)
            .arg(self.0.turn.node())
            .arg(millis(TURN))
            .arg(millis(AWAY))
            .arg(MOST_GRACES)
            .arg(self.0.turn.heard())
            .arg(STANDBYS)
            .arg(millis(STANDS_BY));
        for _ in 0..DRAWS {
            call.arg(steps(&crashes, &lost, self.0.ids.fraction()).0);
        }
        let (answer, which): (Vec<u64>, String) = self.0.wire.link.run(&call).await?;
        match answer[..] {
            [promoted, lapsed, failed, expired, old, extended, away, number, told, unreadable] => {
                let in_no_lane = self.adopt(old).await?;
                if unreadable > 0 {
                    tracing::error!(
                        record = which,
                        records = unreadable,
                        "what is due cannot be read and stays as it is"
                    );
                }
                let unreadable = unreadable + in_no_lane;
                let is_news = self.hear(i64::try_from(number).unwrap_or(0)).await;
                let away = (is_news && away > 0).then_some(Duration::from_millis(away));
                let revived = if is_news { told } else { 0 };
                Ok(TickReport {
                    promoted,
                    lapsed,
                    failed,
                    expired,
                    extended,
                    away,
                    revived,
                    elsewhere: false,
                    unreadable,
                })
            }
            [workers, stands_by] => {
                let pause = if stands_by == 1 { ASK } else { self.about(pause(workers)) };
                self.0.turn.leave_until(self.now() + i64::try_from(pause.as_millis()).unwrap_or(0));
                Ok(TickReport { elsewhere: true, ..TickReport::default() })
            }
            _ => Err(corrupt("an answer to a tick")),
        }
    }

    async fn hand_over(&self) -> Result<(), PortError> {
        let mut call = self.0.wire.call(&scripts::HAND_OVER);
        call.arg(self.0.turn.node());
        let _: u8 = self.0.wire.link.run(&call).await?;
        Ok(())
    }

    async fn take_garbage(&self, request: GarbageRequest) -> Result<Vec<BlobKey>, PortError> {
        let GarbageRequest { most, grace, hold } = request;
        let mut call = self.0.wire.call(&scripts::TAKE_GARBAGE);
        call.arg(most.min(MAX_BLOBS_PER_CALL)).arg(millis(grace)).arg(millis(hold)).arg(LONGEST_HOLD.ilog2());
        let keys: Vec<String> = self.0.wire.link.run(&call).await?;
        Ok(blobs::readable(keys))
    }

    async fn blobs_deleted(&self, keys: &[BlobKey]) -> Result<(), PortError> {
        blobs::check_size(keys.len())?;
        if keys.is_empty() {
            return Ok(());
        }
        let mut call = self.0.wire.call(&scripts::BLOBS_DELETED);
        for key in keys {
            call.arg(key.as_str());
        }
        self.0.wire.link.run(&call).await
    }

    async fn fates(&self, keys: &[BlobKey]) -> Result<Vec<BlobFate>, PortError> {
        blobs::check_size(keys.len())?;
        let mut call = self.0.wire.call(&scripts::REFERENCED);
        for key in keys {
            let text = key.as_str();
            let (folder, name) = text.rsplit_once('/').unwrap_or(("", text));
            let (job, lease) = match text.starts_with(RESULTS_PREFIX) {
                true => (folder.rsplit('/').next().unwrap_or_default(), name),
                false => (name, ""),
            };
            call.arg(job.trim_start_matches("work_")).arg(text).arg(lease);
        }
        let fates: Vec<u8> = self.0.wire.link.run(&call).await?;
        let fate = |fate| match fate {
            2 => BlobFate::Needed,
            1 => BlobFate::ToBeDeleted,
            _ => BlobFate::Unknown,
        };
        Ok(fates.into_iter().map(fate).collect())
    }

    async fn stats(&self) -> Result<QueueStats, PortError> {
        let call = self.0.wire.call(&scripts::STATS);
        let (counts, workers, oldest, now, garbage, unserved, isolated, holders): (
            Fields,
            u64,
            Vec<i64>,
            i64,
            u64,
            Vec<(String, u64)>,
            u64,
            u64,
        ) = self.0.wire.link.run(&call).await?;
        let mut by_class: BTreeMap<JobClass, u64> = BTreeMap::new();
        for (class, jobs) in unserved {
            *by_class.entry(JobClass::from_stored(class)).or_default() += jobs;
        }
        let count = |name: &str| Ok::<u64, PortError>(counts.number(name)?.unwrap_or(0));
        let depths = [count("q2")?, count("q1")?, count("q0")?];
        let tiers = Priority::ALL
            .into_iter()
            .zip(depths)
            .zip(oldest)
            .map(|((priority, depth), since)| {
                let age = if since < 0 { 0 } else { u64::try_from(now - since).unwrap_or(0) };
                TierStats { priority, depth, oldest_age: Duration::from_millis(age) }
            })
            .collect();
        let states = vec![
            (JobState::Queued, depths.iter().sum()),
            (JobState::Delayed, count("d")?),
            (JobState::Running, count("r")?),
            (JobState::Completed, count("c")?),
            (JobState::Failed, count("f")?),
            (JobState::Cancelled, count("x")?),
        ];
        Ok(QueueStats {
            tiers,
            states,
            submissions: count("subs")?,
            max_submissions: self.0.policy.max_remembered_of_all,
            holders,
            workers,
            garbage,
            isolated,
            unserved: by_class.into_iter().collect(),
        })
    }

    async fn ping(&self) -> Result<(), PortError> {
        // Not a PING, which every node of a cluster answers: whether the queue can be worked on is what counts.
        health::look(&self.0.wire).await.map(drop)
    }
}

impl RedisStore {
    /// Whether what has this number is news for this node. Then the store tells it nobody else: at once, since another node may
    /// take over the ticks before this one's next. Where that is lost, the next tick says it.
    async fn hear(&self, number: i64) -> bool {
        if !self.0.turn.hears_of(number) {
            return false;
        }
        let mut call = self.0.wire.call(&scripts::HEARD);
        call.arg(number);
        let told: Result<redis::Value, PortError> = self.0.wire.link.run(&call).await;
        if let Err(error) = told {
            tracing::debug!(%error, "the store does not know yet that its outage was noticed");
        }
        true
    }

    /// Puts right what nodes of earlier versions left behind, which queue every job for every worker: looks at a page of all
    /// jobs, and at several while so many more are queued than are in lanes. Returns how many queued jobs can be given to nobody
    /// because they cannot be read.
    async fn adopt(&self, missing: u64) -> Result<u64, PortError> {
        let call = || {
            let mut call = self.0.wire.call(&scripts::ADOPT);
            call.arg(PAGE);
            call
        };
        let (mut adopted, mut in_no_lane) = (0, 0);
        let mut walk = self.0.walk.lock().await;
        for _ in 0..walk.pages(missing) {
            let (righted, without_class, unreadable, is_last): (
                usize,
                Vec<(String, String)>,
                Vec<String>,
                u8,
            ) = self.0.wire.link.run(&call()).await?;
            if !without_class.is_empty() {
                let mut classing = call();
                for (job, unmoving) in &without_class {
                    classing.arg(job).arg(class_of(unmoving).as_str());
                }
                let _: redis::Value = self.0.wire.link.run(&classing).await?;
            }
            adopted += righted + without_class.len();
            walk.saw(righted + without_class.len(), is_last == 1, missing);
            if let Some(record) = unreadable.first() {
                tracing::error!(
                    record,
                    records = unreadable.len(),
                    "queued jobs cannot be read and are given to nobody"
                );
                in_no_lane += unreadable.len() as u64;
                // They would be found again and again in this round.
                break;
            }
        }
        if adopted > 0 {
            tracing::info!(jobs = adopted, "jobs that an earlier version queued were taken over");
        }
        Ok(in_no_lane)
    }
}
