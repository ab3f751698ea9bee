//! What a cluster makes of a service with limits, and of one that is down for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use verbatim_core::provider::{BreakerState, Rate, SlotLimits, list};
use verbatim_engines::pool::Provider;

use super::cluster::{Queue, work};
use super::service::{Allowance, Service};
use super::{World, local, remote};

const SECOND: Duration = Duration::from_secs(1);

/// 1,000 jobs, 8 workers, and a service that takes 20 at once and 600 a minute and refuses the rest.
pub(crate) const JOBS: usize = 1000;
pub(crate) const WORKERS: usize = 8;
const AT_ONCE: usize = 20;
const PER_MINUTE: u32 = 600;

/// What the service looked like at one moment.
pub(crate) struct Sample {
    pub(crate) at: u64,
    pub(crate) under_way: usize,
    pub(crate) limit: u32,
    pub(crate) served: usize,
    pub(crate) refused: usize,
}

pub(crate) struct Findings {
    pub(crate) samples: Vec<Sample>,
    pub(crate) took: Duration,
    /// Jobs a second that the limits allow.
    pub(crate) allowed: f64,
    pub(crate) done: usize,
    pub(crate) failed: usize,
    pub(crate) refunded: usize,
    pub(crate) refused: usize,
}

impl Findings {
    /// The part of what the limits allow that was used, from the first job's begin to the last one's end.
    pub(crate) fn used(&self) -> f64 {
        self.done as f64 / self.took.as_secs_f64() / self.allowed
    }
}

/// Lets the cluster meet the limits, with calls that take this long.
pub(crate) async fn meet_limits(latency: Duration) -> Findings {
    let world = World::new();
    let service = Service::new(Allowance {
        at_once: AT_ONCE,
        per: Some((PER_MINUTE as usize, Duration::from_secs(60))),
        retry_after: Some(2 * SECOND),
        latency,
    });
    let mut provider = remote("azure", &service);
    // What the subscription promises at once is wrong, as it is with Azure: the pool has to find out.
    provider.limits = SlotLimits { max_concurrency: 100, rate: Some(Rate::per_minute(PER_MINUTE)) };
    let queue = Arc::new(Queue::default());
    (0..JOBS).for_each(|_| queue.submit(world.request(10)));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let pool = Arc::new(world.pool(vec![provider.clone()]));
        workers.spawn(work(pool, Arc::clone(&queue), Arc::clone(&world.ids) as _, JOBS));
    }
    let mut samples = Vec::new();
    while queue.ended() < JOBS {
        let limit =
            list(world.state.as_ref()).await.ok().and_then(|views| Some(views.first()?.concurrency_limit));
        samples.push(Sample {
            at: begun.elapsed().as_secs(),
            under_way: service.under_way(),
            limit: limit.unwrap_or_default(),
            served: service.served().len(),
            refused: service.refused(),
        });
        tokio::time::sleep(SECOND).await;
    }
    workers.join_all().await;
    let done = queue.done.lock().expect("no panic").clone();
    let last = done.iter().map(|(at, _)| *at).max().unwrap_or(begun);
    let by_concurrency = AT_ONCE as f64 / latency.as_secs_f64();
    Findings {
        samples,
        took: last - begun,
        allowed: by_concurrency.min(f64::from(PER_MINUTE) / 60.0),
        done: done.len(),
        failed: queue.failed.lock().expect("no panic").len(),
        refunded: *queue.refunded.lock().expect("no panic"),
        refused: service.refused(),
    }
}

/// Who served how many jobs within one span of ten seconds, and how the breaker stood at its end.
#[derive(Default)]
pub(crate) struct Span {
    pub(crate) served: BTreeMap<String, usize>,
    pub(crate) breaker: BreakerState,
}

pub(crate) struct Outage {
    pub(crate) spans: Vec<Span>,
    pub(crate) failed: usize,
    pub(crate) refunded: usize,
}

/// When the service is down, in spans of ten seconds.
pub(crate) const DOWN: std::ops::Range<usize> = 6..13;
const SPANS: usize = 24;
const SPAN: Duration = Duration::from_secs(10);
const JOBS_A_SPAN: usize = 40;

/// Four jobs a second for four minutes; Azure comes first and is down from the second minute on for 70 seconds. Beside it
/// there may be a Whisper on each of four workers.
pub(crate) async fn live_through_an_outage(with_whisper: bool) -> Outage {
    let world = World::new();
    let azure = Service::new(Allowance { at_once: 20, per: None, retry_after: None, latency: 2 * SECOND });
    let queue = Arc::new(Queue::default());
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..4 {
        let mut providers = vec![remote("azure", &azure)];
        if with_whisper {
            let whisper = Service::new(Allowance::generous(3 * SECOND));
            providers.push(Provider { priority: 2, ..local("whisper", &whisper) });
        }
        let pool = Arc::new(world.pool(providers));
        let ids = Arc::clone(&world.ids) as _;
        workers.spawn(work(pool, Arc::clone(&queue), ids, SPANS * JOBS_A_SPAN));
    }
    let mut breakers = Vec::new();
    for span in 0..SPANS {
        azure.set_down(DOWN.contains(&span));
        for _ in 0..JOBS_A_SPAN {
            queue.submit(world.request(10));
            tokio::time::sleep(SPAN / JOBS_A_SPAN as u32).await;
        }
        let views = list(world.state.as_ref()).await.unwrap_or_default();
        let azure = views.into_iter().find(|view| view.name == "azure");
        breakers.push(azure.map(|view| view.breaker).unwrap_or_default());
    }
    workers.join_all().await;
    let done = queue.done.lock().expect("no panic").clone();
    let mut spans: Vec<Span> =
        breakers.into_iter().map(|breaker| Span { breaker, ..Span::default() }).collect();
    for (at, engine) in done {
        let place = ((at - begun).as_secs() / SPAN.as_secs()) as usize;
        if place >= spans.len() {
            spans.resize_with(place + 1, Span::default);
        }
        *spans[place].served.entry(engine).or_default() += 1;
    }
    let failed = queue.failed.lock().expect("no panic").len();
    let refunded = *queue.refunded.lock().expect("no panic");
    Outage { spans, failed, refunded }
}
