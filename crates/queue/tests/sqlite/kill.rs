//! `kill -9` at any moment loses nothing that was acknowledged.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::support::{SqliteHarness, audit};
use anyhow::{Context, Result, ensure};
use verbatim_core::ids::SubmissionId;
use verbatim_core::job::SubmissionStatus;
use verbatim_core::policy::StorePolicy;
use verbatim_core::retry::RetryPolicy;
use verbatim_queue::conformance::{SeededIds, Verdict, VirtualClock, World};

const TEST: &str = "kill::kill_9_loses_nothing_that_was_acknowledged";
const FOLDER: &str = "VERBATIM_TEST_KILL_FOLDER";
const ROUND: &str = "VERBATIM_TEST_KILL_ROUND";
/// After how many acknowledgements each process is killed.
const LIVES: [usize; 6] = [1, 40, 7, 133, 260, 71];

/// Jobs may be caught by every one of the kills.
fn policy() -> StorePolicy {
    StorePolicy {
        retry: RetryPolicy { max_crashes: 1000, ..RetryPolicy::default() },
        ..StorePolicy::default()
    }
}

async fn world<'a>(harness: &'a SqliteHarness, round: usize) -> Verdict<World<'a, SqliteHarness>> {
    let ids = SeededIds::starting_at(1 + round as u64 * 1_000_000);
    World::resume(harness, policy(), Arc::new(VirtualClock::default()), Arc::new(ids)).await
}

/// What the child was told is durable.
#[derive(Debug, Default)]
struct Acknowledged {
    submitted: BTreeSet<String>,
    completed: BTreeSet<String>,
    cancelled: BTreeSet<String>,
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Ok(folder) = std::env::var(FOLDER) {
        return runtime.block_on(work_until_killed(Path::new(&folder), std::env::var(ROUND)?.parse()?));
    }
    let harness = SqliteHarness::new();
    let mut acknowledged = Acknowledged::default();
    for (round, life) in LIVES.into_iter().enumerate() {
        kill_after(life, harness.path(), round, &mut acknowledged)?;
        runtime.block_on(check(&harness, round, &acknowledged))?;
        audit(harness.path())?;
    }
    ensure!(!acknowledged.completed.is_empty() && !acknowledged.cancelled.is_empty(), "{acknowledged:?}");
    runtime.block_on(finish(&harness, &acknowledged))
}

/// The child: everybody works at once, and says what was acknowledged.
async fn work_until_killed(folder: &Path, round: usize) -> Result<()> {
    let harness = SqliteHarness::at(folder);
    let world = world(&harness, round).await?;
    let world = &world;
    let submitters = (0..4).map(|submitter| async move {
        for number in 0_u32.. {
            let id = world.ticket(&format!("{round} {submitter} {number}")).await?;
            say("submitted", id.as_str())?;
            if number % 5 == 4 {
                world.cancel(&id).await?;
                say("cancelled", id.as_str())?;
            }
        }
        anyhow::Ok(())
    });
    let workers = (0..2).map(|_| async move {
        let worker = world.worker();
        loop {
            for lease in world.claim(&worker, 3).await? {
                world.complete(&lease).await?;
                say("completed", lease.token.job_id.as_str())?;
            }
            tokio::task::yield_now().await;
        }
        #[expect(unreachable_code, reason = "names the type of the error")]
        anyhow::Ok(())
    });
    futures::future::try_join(
        futures::future::try_join_all(submitters),
        futures::future::try_join_all(workers),
    )
    .await?;
    Ok(())
}

fn say(what: &str, id: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {id}")?;
    Ok(out.flush()?)
}

fn kill_after(life: usize, folder: &Path, round: usize, acknowledged: &mut Acknowledged) -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([TEST, "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("the child has an output")?).lines();
    let mut heard = 0;
    // What was said before the kill is still in the pipe after it.
    while let Some(line) = lines.next().transpose()? {
        let Some((what, id)) = line.split_once(' ') else { continue };
        let set = match what {
            "submitted" => &mut acknowledged.submitted,
            "completed" => &mut acknowledged.completed,
            "cancelled" => &mut acknowledged.cancelled,
            _ => continue,
        };
        // The last line may be cut.
        if id.len() >= 30 {
            set.insert(id.to_owned());
            heard += 1;
        }
        if heard == life {
            child.kill()?;
        }
    }
    let status = child.wait()?;
    ensure!(heard >= life && !status.success(), "the child ended by itself after {heard} acknowledgements");
    Ok(())
}

async fn check(harness: &SqliteHarness, round: usize, acknowledged: &Acknowledged) -> Result<()> {
    let world = world(harness, LIVES.len() + round).await?;
    for id in &acknowledged.submitted {
        let submission = world.get(&SubmissionId::parse(id)?).await?;
        let completed = acknowledged.completed.contains(submission.job_id.as_str());
        let cancelled = acknowledged.cancelled.contains(id);
        match submission.status {
            SubmissionStatus::Completed => {}
            status if completed => anyhow::bail!("{id} was completed and is {status:?}"),
            SubmissionStatus::Cancelled => {}
            status if cancelled => anyhow::bail!("{id} was cancelled and is {status:?}"),
            status => {
                ensure!(status == SubmissionStatus::Queued, "{id} is {status:?} though no process lives")
            }
        }
    }
    Ok(())
}

/// Whatever was left can be worked off.
async fn finish(harness: &SqliteHarness, acknowledged: &Acknowledged) -> Result<()> {
    let world = world(harness, 2 * LIVES.len()).await?;
    let worker = world.worker();
    loop {
        let leases = world.claim(&worker, 256).await?;
        if leases.is_empty() {
            break;
        }
        for lease in leases {
            world.complete(&lease).await?;
        }
    }
    for id in &acknowledged.submitted {
        let status = world.status(&SubmissionId::parse(id)?).await?;
        ensure!(status.is_terminal() && status != SubmissionStatus::Failed, "{id} is {status:?} at last");
    }
    audit(harness.path())
}
