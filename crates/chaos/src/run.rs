//! A run: a load and a schedule of faults, which wait for each other so that neither is over before the other; then the
//! wait for order, and the verdict.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::blame::{Deaths, Fate, check_blame};
use crate::caps;
use crate::check::{Kind, Tally, Violation, check_clients, check_stores};
use crate::client::Client;
use crate::cluster::{Cluster, LEASE, Settings};
use crate::faults::{Dose, Fault, schedule};
use crate::history::History;
use crate::inspect;
use crate::load::{Load, Plan};
use crate::node::{Node, Signal};
use crate::proxy::Line;

#[path = "../../queue/tests/redis/audit.rs"]
mod audit;

/// Submissions that are under way at once, at most.
const UNDER_WAY: usize = 300;
/// How long one client waits before it counts as never.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long the stores may take to come to rest: a batch of deletions is held for a minute by a node that died.
const REST: Duration = Duration::from_secs(90);

/// What is run.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Submissions.
    pub jobs: u64,
    /// Faults.
    pub dose: Dose,
    /// What load and schedule are drawn from.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How long it took.
    pub took: Duration,
    /// The faults.
    pub faults: Vec<Fault>,
    /// What became of the submissions.
    pub tally: Tally,
    /// Attempts that ended because their lease was lost.
    pub stale_attempts: u64,
    /// Restarts of workers by themselves.
    pub restarts: u64,
    /// What is wrong.
    pub violations: Vec<Violation>,
}

/// Runs the profile on a cluster in this folder.
///
/// # Errors
/// When the harness itself fails.
pub async fn run(folder: &Path, settings: Settings, profile: &Profile) -> Result<Outcome> {
    let begun = Instant::now();
    let mut cluster = Arc::new(Cluster::start(folder, settings).await?);
    let faults = schedule(profile.seed, &profile.dose);
    let over = CancellationToken::new();
    let loading = async {
        let histories = load(&cluster, profile, &faults).await;
        over.cancel();
        histories
    };
    let (histories, beyond_caps) = tokio::join!(loading, caps::watch(&cluster, over.clone()));
    let histories = histories?;
    let (tally, mut violations) = check_clients(&histories);
    violations.extend(beyond_caps);
    let alone = Arc::get_mut(&mut cluster).context("somebody still holds the cluster")?;
    violations.extend(at_rest(alone, &histories).await?);
    let restarts = inspect::restarts(&alone.logs())?;
    if restarts == 0 {
        let what = "no worker restarted itself: the run proves nothing about that".to_owned();
        violations.push(Violation { kind: Kind::Unaccounted, what });
    }
    let (begun_leases, stale_attempts) = inspect::logs(&alone.logs())?;
    let mut stores = alone.look(inspect::stores).await?;
    stores.blobs = inspect::blobs(&alone.room.blobs())?;
    violations.extend(check_stores(&histories, &stores, &begun_leases));
    let accounts = alone.look(inspect::accounts).await?;
    violations.extend(check_blame(&accounts, &stores, &begun_leases, &deaths(alone)?));
    // One freeze may catch an idle worker; of several, none can be without a job by chance.
    if profile.dose.freeze > 1 && stale_attempts == 0 {
        let what = "no zombie held a job: the run proves nothing about them".to_owned();
        violations.push(Violation { kind: Kind::Unaccounted, what });
    }
    Ok(Outcome { took: begun.elapsed(), faults, tally, stale_attempts, restarts, violations })
}

/// The deaths of workers, from how their processes ended and what these had in hand.
fn deaths(cluster: &Cluster) -> Result<Deaths> {
    let zombies = cluster.zombies.lock().unwrap_or_else(PoisonError::into_inner);
    let hands = inspect::hands(&cluster.logs())?;
    let fate = |log: &PathBuf| match cluster.ends.get(log) {
        Some(exit) if exit.code.is_none() => Fate::Died,
        _ if zombies.contains(log) => Fate::Frozen,
        _ => Fate::Lived,
    };
    Ok(Deaths::of(hands.iter().map(|(log, hands)| (fate(log), hands))))
}

/// Stops the nodes, sweeps, and looks whether the stores came to rest in order.
async fn at_rest(cluster: &mut Cluster, histories: &[History]) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    let mut report = |what: String| violations.push(Violation { kind: Kind::Unaccounted, what });
    if !rests(|| cluster.look(|redis| Ok(inspect::unfinished(redis)? == 0))).await {
        report("the queue did not come to rest".to_owned());
    }
    for (name, exit) in cluster.stop_nodes().await? {
        if exit.is_some_and(|exit| exit.code != Some(0)) {
            report(format!("{name} did not end in order: {exit:?}"));
        }
    }
    cluster.start_sweeper();
    let swept = async || -> Result<bool> {
        let mut stores = cluster.look(inspect::stores).await?;
        stores.blobs = inspect::blobs(&cluster.room.blobs())?;
        Ok(check_stores(histories, &stores, &Default::default()).is_empty())
    };
    // What is still there then is reported by the checker.
    rests(swept).await;
    cluster.stop_nodes().await?;
    if let Err(error) = cluster.look(|redis| audit::audit(redis, crate::cluster::PREFIX)).await {
        report(format!("the store is not in order: {error:#}"));
    }
    Ok(violations)
}

async fn rests<F: Future<Output = Result<bool>>>(mut at_rest: impl FnMut() -> F) -> bool {
    let deadline = Instant::now() + REST;
    while Instant::now() < deadline {
        if at_rest().await.unwrap_or(false) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    false
}

/// The load in as many parts as there are faults, and one more: a part begins when the fault before it has, and a fault
/// befalls the cluster when half of its part is acknowledged.
async fn load(cluster: &Arc<Cluster>, profile: &Profile, faults: &[Fault]) -> Result<Vec<History>> {
    let parts = faults.len() as u64 + 1;
    let (struck, mut released) = watch::channel(0_u64);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let striking = tokio::spawn(strike(
        Arc::clone(cluster),
        faults.to_vec(),
        profile.jobs,
        Arc::clone(&acknowledged),
        struck,
    ));
    let http = reqwest::Client::new();
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let mut load = Load::new(profile.seed.wrapping_add(1), &cluster.settings);
    let mut clients = JoinSet::new();
    for number in 0..profile.jobs {
        let part = number * parts / profile.jobs;
        // Everything is released when the faults are over.
        let _ = released.wait_for(|struck| *struck >= part).await;
        let Plan { sound, order, manner, expected } = load.next(number).await?;
        let place = Arc::clone(&under_way).acquire_owned().await?;
        let (cluster, http, acknowledged) = (Arc::clone(cluster), http.clone(), Arc::clone(&acknowledged));
        clients.spawn(async move {
            let deadline = Instant::now() + PATIENCE;
            let client = Client { cluster: &cluster, http: &http, number, sound, order, deadline };
            let counted = || {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            };
            let history = client.run(manner, expected, counted).await;
            drop(place);
            history
        });
    }
    let histories = clients.join_all().await;
    striking.await??;
    Ok(histories)
}

async fn strike(
    cluster: Arc<Cluster>,
    faults: Vec<Fault>,
    jobs: u64,
    acknowledged: Arc<AtomicU64>,
    struck: watch::Sender<u64>,
) -> Result<()> {
    let parts = faults.len() as u64 + 1;
    let mut healing = JoinSet::new();
    for (number, fault) in (0_u64..).zip(faults) {
        let due = (2 * number + 1) * jobs / (2 * parts);
        while acknowledged.load(Ordering::Relaxed) < due {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("{number:3}  {fault:?}");
        let of_fault = Arc::clone(&cluster);
        let whole = healing.spawn(async move { befall(&of_fault, fault).await });
        struck.send_replace(number + 1);
        // One at a time; a zombie sleeps beside the others.
        while !matches!(fault, Fault::FreezeWorker(..)) && !whole.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    while let Some(healed) = healing.join_next().await {
        healed??;
    }
    Ok(())
}

async fn befall(cluster: &Cluster, fault: Fault) -> Result<()> {
    match fault {
        Fault::KillWorker(node) => {
            Cluster::signal(&cluster.workers, cluster.awake(node), Signal::Kill).await;
        }
        Fault::KillApi(node) => {
            Cluster::signal(&cluster.apis, node, Signal::Kill).await;
        }
        Fault::FreezeWorker(node, beyond) => freeze(cluster, node, LEASE + beyond).await,
        Fault::KillRedis(down) => cluster.restart_redis(down).await?,
        Fault::Outage(beyond) => cluster.restart_redis(LEASE + beyond).await?,
        Fault::FreezeRedis(beyond) => cluster.freeze_redis(LEASE + beyond).await?,
        Fault::Cut => cluster.proxy.cut(),
        Fault::Slow(delay, time) => through(cluster, Line::Slow(delay), time).await,
        Fault::Stall(time) => through(cluster, Line::Stalled, time).await,
        Fault::ForgetScripts => {
            cluster.look(|redis| Ok(redis::cmd("SCRIPT").arg("FLUSH").exec(redis)?)).await?;
        }
        Fault::FillBlobs(time) => {
            cluster.room.fill().await?;
            tokio::time::sleep(time).await;
            cluster.room.free()?;
        }
        Fault::RollWorker(node) => {
            Cluster::signal(&cluster.workers, cluster.awake(node), Signal::Term).await;
        }
        Fault::RollApi(node) => {
            Cluster::signal(&cluster.apis, node, Signal::Term).await;
        }
    }
    Ok(())
}

async fn through(cluster: &Cluster, line: Line, time: Duration) {
    cluster.proxy.set(line);
    tokio::time::sleep(time).await;
    cluster.proxy.set(Line::Open);
}

/// Freezes this worker, or the next one that holds a job then.
async fn freeze(cluster: &Cluster, first: usize, time: Duration) {
    for node in first..first + 200 {
        let node = cluster.awake(node);
        cluster.frozen(|frozen| frozen.insert(node));
        if Cluster::signal(&cluster.workers, node, Signal::Stop).await {
            if cluster.held_by(node).await.unwrap_or(0) > 0 {
                let log = cluster.workers.get(node).map(Node::log);
                cluster.zombies.lock().unwrap_or_else(PoisonError::into_inner).extend(log);
                tokio::time::sleep(time).await;
                Cluster::signal(&cluster.workers, node, Signal::Cont).await;
                cluster.frozen(|frozen| frozen.remove(&node));
                return;
            }
            Cluster::signal(&cluster.workers, node, Signal::Cont).await;
        }
        cluster.frozen(|frozen| frozen.remove(&node));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Outcome {
    /// The table that ends a run.
    pub fn table(&self) -> String {
        let count =
            |wanted: fn(&Fault) -> bool| self.faults.iter().filter(|fault| wanted(fault)).count() as u64;
        let wrong = |kind| self.violations.iter().filter(|violation| violation.kind == kind).count() as u64;
        let Tally { submitted, acknowledged, completed, failed, cancelled, removed, shared } = self.tally;
        let rows = [
            ("submissions", submitted),
            ("acknowledged", acknowledged),
            ("  completed", completed),
            ("  failed as ordered", failed),
            ("  cancelled", cancelled),
            ("  removed before an end was seen", removed),
            ("deduplicated", shared),
            ("SIGKILL of a worker", count(|fault| matches!(fault, Fault::KillWorker(_)))),
            ("SIGKILL of an API node", count(|fault| matches!(fault, Fault::KillApi(_)))),
            ("zombies (SIGSTOP, SIGCONT)", count(|fault| matches!(fault, Fault::FreezeWorker(..)))),
            ("Redis killed and restarted", count(|fault| matches!(fault, Fault::KillRedis(_)))),
            ("Redis down for longer than a lease", count(|fault| matches!(fault, Fault::Outage(_)))),
            ("Redis frozen for longer than one", count(|fault| matches!(fault, Fault::FreezeRedis(_)))),
            ("connections cut", count(|fault| matches!(fault, Fault::Cut))),
            ("line slow", count(|fault| matches!(fault, Fault::Slow(..)))),
            ("line stalled", count(|fault| matches!(fault, Fault::Stall(_)))),
            ("SCRIPT FLUSH", count(|fault| matches!(fault, Fault::ForgetScripts))),
            ("blob store full", count(|fault| matches!(fault, Fault::FillBlobs(_)))),
            ("SIGTERM", count(|fault| matches!(fault, Fault::RollWorker(_) | Fault::RollApi(_)))),
            ("told that a lease was lost", self.stale_attempts),
            ("restarts of workers by themselves", self.restarts),
            ("lost", wrong(Kind::Lost)),
            ("wrong", wrong(Kind::Wrong)),
            ("published by a stale fence", wrong(Kind::Stale)),
            ("innocents blamed", wrong(Kind::Blamed)),
            ("unaccounted", wrong(Kind::Unaccounted)),
            ("against the contract", wrong(Kind::Contract)),
        ];
        let mut table = String::new();
        for (name, number) in rows {
            // Writing to a text cannot fail.
            let _ = writeln!(table, "{name:<34}{number:>8}");
        }
        let _ = writeln!(table, "{:<34}{:>6.1} s", "duration", self.took.as_secs_f64());
        table
    }
}
