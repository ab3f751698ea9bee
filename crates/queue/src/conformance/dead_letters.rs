//! Dead letters: seen, tried again, forgotten. What is tried again keeps every invariant: its fence goes on rising (3), its
//! attempts are capped afresh (4), it is the only live job of its work (5), its watchers see how it ends (10), and doing it
//! twice changes nothing (11).

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use futures::join;
use verbatim_core::ErrorKind;
use verbatim_core::event::EventKind;
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::{JobId, TenantId};
use verbatim_core::job::{JobState, Lease, NewSubmission, SubmissionStatus};
use verbatim_core::ports::jobs::{DeadLetter, DeadLetterQuery, Finish};
use verbatim_core::ports::{BlobKey, JobAdmin, JobClient, JobUpkeep};

use super::virtual_world::{LEASE, names, tenant};
use super::{Harness, MOMENT, Verdict, World, ensure, ensure_eq};

/// Submits the work and lets it fail for good.
async fn dead_letter<H: Harness>(world: &World<'_, H>, work: &str) -> Verdict<Lease> {
    world.ticket(work).await?;
    let lease = world.claim_one().await?;
    ensure_eq!(lease.audio.sha256, work, "the job that is claimed");
    world.fail(&lease, FailureKind::BadAudio).await?;
    Ok(lease)
}

async fn listed<H: Harness>(world: &World<'_, H>) -> Verdict<Vec<DeadLetter>> {
    let query = DeadLetterQuery { limit: usize::MAX, ..DeadLetterQuery::default() };
    Ok(world.store.dead_letters(query).await?.letters)
}

/// One tenant's dead letter is found behind thousands of others, in calls of which none looks at all of them.
pub async fn a_rare_tenants_dead_letters_are_found_by_going_on<H: Harness>(harness: &H) -> Verdict {
    const OTHERS: usize = 4200;
    let world = World::open(harness).await?;
    let rare = tenant("rare")?;
    world.store.submit(world.upload_of(&rare, "rare", 10)).await?;
    let lease = world.claim_one().await?;
    world.fail(&lease, FailureKind::BadAudio).await?;
    for round in 0..OTHERS / 150 {
        let late = |number: usize| NewSubmission {
            deadline: Some(MOMENT),
            ..world.upload(&format!("late {round} {number}"))
        };
        let uploads = (0..150).map(|number| world.store.submit(late(number)));
        join_all(uploads).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    world.clock.advance(MOMENT);
    world.settle().await?;
    ensure_eq!(world.count(JobState::Failed).await?, OTHERS as u64 + 1, "dead letters");
    let (mut found, mut calls, mut before) = (Vec::new(), 0, None);
    loop {
        let page = world
            .store
            .dead_letters(DeadLetterQuery { tenant: Some(rare.clone()), before, limit: 10 })
            .await?;
        calls += 1;
        found.extend(page.letters.into_iter().map(|letter| letter.job_id));
        before = page.next;
        if before.is_none() {
            break;
        }
        ensure!(calls < 10, "the search does not come to an end");
    }
    ensure_eq!(found, vec![lease.token.job_id], "what was found");
    let first = world.store.dead_letters(DeadLetterQuery { limit: 5, ..DeadLetterQuery::default() }).await?;
    ensure_eq!((first.letters.len(), first.next), (5, None), "a full page, and where it says to go on");
    Ok(())
}

async fn refused<H: Harness>(world: &World<'_, H>, job: &JobId) -> Verdict<Option<ErrorKind>> {
    Ok(world.store.redrive(job).await.map_err(|error| error.kind()).err())
}

/// What an operator sees of them, the latest first, page by page, of all tenants or of one.
pub async fn dead_letters_are_listed_latest_first<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let stranger = tenant("stranger")?;
    let mut expected = Vec::new();
    for number in 0..7 {
        let whose = if number % 3 == 0 { stranger.clone() } else { TenantId::default() };
        let new = world.upload_of(&whose, &format!("talk {number}"), 10);
        let ticket = world.store.submit(new).await?.submission.id;
        let lease = world.claim_one().await?;
        world.clock.advance(Duration::from_secs(1));
        world.fail(&lease, FailureKind::BadAudio).await?;
        expected.insert(0, (lease.token.job_id, whose, vec![ticket], world.now()));
    }
    let brief = |letters: Vec<DeadLetter>| -> Vec<_> {
        letters.into_iter().map(|one| (one.job_id, one.tenant, one.submissions, one.failed_at)).collect()
    };
    ensure_eq!(brief(listed(&world).await?), expected, "all dead letters");
    for of in [None, Some(stranger)] {
        let mut pages: Vec<DeadLetter> = Vec::new();
        loop {
            let before = pages.last().map(|last| last.job_id.clone());
            let query = DeadLetterQuery { tenant: of.clone(), before, limit: 2 };
            let page = world.store.dead_letters(query).await?.letters;
            if page.is_empty() {
                break;
            }
            ensure!(page.len() <= 2, "a page holds no more than was asked for");
            pages.extend(page);
            ensure!(pages.len() <= expected.len(), "the pages never end");
        }
        let wanted: Vec<_> = expected
            .iter()
            .filter(|(_, whose, ..)| of.as_ref().is_none_or(|of| of == whose))
            .cloned()
            .collect();
        ensure_eq!(brief(pages), wanted, "all pages of {of:?}");
    }
    world.audit().await
}

/// Everything that an operator needs to decide is in the letter.
pub async fn a_dead_letter_tells_its_story<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let new = world.upload("talk");
    let first = world.store.submit(new.clone()).await?.submission;
    let (left, second) = (world.ticket("talk").await?, world.ticket("talk").await?);
    world.cancel(&left).await?;
    world.fail(&world.claim_one().await?, FailureKind::EngineFailed).await?;
    world.pass(world.policy.retry.base_delay).await?;
    world.claim_one().await?;
    world.pass(LEASE).await?;
    world.pass(world.policy.retry.max_delay).await?;
    world.fail(&world.claim_one().await?, FailureKind::UnsupportedMedia).await?;
    let letters = listed(&world).await?;
    let [letter] = &letters[..] else {
        return Err(super::Violation::new(format!("one job failed, listed are {letters:?}")));
    };
    let told: HashSet<_> = letter.submissions.iter().cloned().collect();
    ensure_eq!(told, HashSet::from([first.id, second]), "who was told that it failed");
    ensure_eq!(letter.failure.kind, FailureKind::UnsupportedMedia, "why it failed");
    ensure_eq!((letter.attempts, letter.crashes), (2, 1), "attempts and crashes");
    ensure_eq!(
        (letter.created_at, letter.failed_at),
        (first.created_at, world.now()),
        "when it was made and failed"
    );
    ensure_eq!(letter.expires_at, world.now().plus(world.policy.result_retention), "when it is forgotten");
    ensure_eq!((&letter.options, &letter.audio), (&new.options, &new.audio), "what was asked for");
    world.audit().await
}

/// It is as if it had just been submitted, for everybody who waits for it; only its fence goes on.
pub async fn a_redriven_dead_letter_starts_afresh<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let mut last = world.claim_one().await?;
    for _ in 1..world.policy.retry.max_attempts {
        world.fail(&last, FailureKind::EngineFailed).await?;
        world.pass(world.policy.retry.max_delay).await?;
        last = world.claim_one().await?;
    }
    ensure_eq!(
        world.fail(&last, FailureKind::EngineFailed).await?,
        Finish::Done(JobState::Failed),
        "the last attempt"
    );
    let job = last.token.job_id.clone();
    world.ticket("other").await?;
    world.pass(world.policy.max_age / 4 * 3).await?;
    ensure!(world.store.redrive(&job).await?, "the dead letter was not there");
    let queued = world.get(&id).await?;
    ensure_eq!((queued.status, queued.attempt), (SubmissionStatus::Queued, 0), "status and attempts");
    ensure_eq!((queued.failure, queued.finished_at), (None, None), "why and when it ended");
    ensure_eq!(queued.queue_position, Some(1), "its place, behind those who waited");
    ensure_eq!(listed(&world).await?, vec![], "dead letters");
    ensure!(world.submit("talk").await?.submission.deduplicated, "the same work attaches again");
    ensure_eq!(
        world.fail(&last, FailureKind::EngineFailed).await?,
        Finish::Done(JobState::Failed),
        "the last failure, repeated"
    );
    ensure_eq!(world.complete(&last).await?, Finish::Stale, "a completion under the old lease");
    world.work_off_one().await?;
    for attempt in 1..=world.policy.retry.max_attempts {
        let lease = world.claim_one().await?;
        ensure_eq!(
            (&lease.token.job_id, lease.attempt),
            (&job, attempt),
            "the job, and its attempt counted afresh"
        );
        ensure!(
            lease.token.fence > last.token.fence && !lease.alone,
            "the fence rises, and it was not isolated"
        );
        last = lease;
        world.fail(&last, FailureKind::EngineFailed).await?;
        world.pass(world.policy.retry.max_delay).await?;
    }
    ensure_eq!(listed(&world).await?.len(), 1, "dead letters after all attempts failed again");
    ensure!(world.store.redrive(&job).await?, "it can be tried once more");
    world.pass(world.policy.max_age / 2).await?;
    world.expect(&id, SubmissionStatus::Queued).await?;
    let lease = world.work_off_one().await?;
    let done = world.get(&id).await?;
    ensure_eq!(done.result, Some(BlobKey::for_result(&lease.token)), "the result at last");
    world.audit().await
}

/// Who watches a job that is tried again sees that story from its beginning, with numbers that go on rising, to its end.
pub async fn a_redriven_job_tells_its_story_anew<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let job = dead_letter(&world, "talk").await?.token.job_id;
    let id = world.list().await?.remove(0).id;
    let past = world.story(&id, None).await?;
    ensure_eq!(names(&past), vec!["queued", "started", "failed"], "the story of the failure");
    let end = past.last().map(|event| event.seq);
    world.store.redrive(&job).await?;
    let mut anew = world.watch(&id, None).await?;
    let first = super::events::next(&mut anew).await?.kind;
    ensure_eq!(first, EventKind::Queued { attempt: 0 }, "what is told before it is claimed");
    let live = world.watch(&id, end).await?;
    let (live, worked) = join!(super::virtual_world::drain(live), world.work_off_one());
    worked?;
    let fresh = world.story(&id, None).await?;
    ensure_eq!(names(&fresh), vec!["started", "completed"], "the story for who comes now");
    let live = live?;
    ensure_eq!(
        names(&live),
        vec!["queued", "started", "completed"],
        "the story for who goes on after the failure"
    );
    ensure_eq!(live[1..], fresh[..], "what both are told");
    ensure!(fresh.iter().all(|event| Some(event.seq) > end), "the numbers go on rising");
    world.audit().await
}

/// One that killed workers is not let loose on others because somebody tries it again.
pub async fn a_redriven_poison_job_still_runs_alone<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("poison").await?;
    let crash = async || {
        let lease = world.claim_one().await?;
        world.pass(LEASE).await?;
        world.pass(world.policy.retry.max_delay).await?;
        Verdict::Ok(lease)
    };
    let mut job = None;
    for _ in 0..world.policy.retry.max_crashes {
        job = Some(crash().await?.token.job_id);
    }
    let Some(job) = job else { return Ok(()) };
    ensure_eq!(listed(&world).await?.len(), 1, "dead letters");
    ensure!(world.store.redrive(&job).await?, "it is tried again");
    for crashes in 1..=world.policy.retry.max_crashes {
        ensure!(crash().await?.alone, "it runs alone");
        let letters = listed(&world).await?.len();
        ensure_eq!(
            letters == 1,
            crashes == world.policy.retry.max_crashes,
            "given up after {crashes} crashes"
        );
    }
    world.audit().await
}

/// What is done or being done in another job is not done twice, nor what nobody waits for.
pub async fn a_dead_letter_is_not_redriven_beside_its_own_work<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let first = dead_letter(&world, "talk").await?.token.job_id;
    let second = dead_letter(&world, "talk").await?.token.job_id;
    ensure!(world.store.redrive(&second).await?, "the second is tried again");
    ensure_eq!(refused(&world, &first).await?, Some(ErrorKind::Conflict), "the first beside it");
    let lease = world.claim_one().await?;
    ensure_eq!(refused(&world, &first).await?, Some(ErrorKind::Conflict), "the first while the other runs");
    world.complete(&lease).await?;
    world.pass(world.policy.dedupe_ttl - MOMENT).await?;
    ensure_eq!(
        refused(&world, &first).await?,
        Some(ErrorKind::Conflict),
        "the first while the other's result answers"
    );
    world.pass(MOMENT).await?;
    ensure!(world.store.redrive(&first).await?, "the first once the other's result answers no more");
    world.work_off_one().await?;

    let deadline = Some(LEASE);
    let late = world.store.submit(NewSubmission { deadline, ..world.upload("late") }).await?.submission;
    world.pass(LEASE).await?;
    ensure_eq!(listed(&world).await?.len(), 1, "dead letters, of one that came too late");
    ensure_eq!(refused(&world, &late.job_id).await?, Some(ErrorKind::Conflict), "one that nobody waits for");
    world.audit().await
}

/// Redriving and discarding again, or what never was, is answered with no.
pub async fn redriving_and_discarding_again_changes_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let job = dead_letter(&world, "talk").await?.token.job_id;
    let id = world.list().await?.remove(0).id;
    ensure!(world.store.redrive(&job).await?, "the first time");
    let queued = world.get(&id).await?;
    for _ in 0..2 {
        ensure!(!world.store.redrive(&job).await?, "it is no dead letter any more");
        ensure!(!world.store.discard_dead_letter(&job).await?, "a job that waits is not discarded");
        ensure_eq!(world.get(&id).await?, queued, "the submission");
        ensure_eq!(world.count(JobState::Queued).await?, 1, "queued jobs");
    }
    world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
    ensure!(world.store.discard_dead_letter(&job).await?, "the first time");
    ensure!(!world.store.discard_dead_letter(&job).await?, "the second time");
    ensure!(!world.store.redrive(&job).await?, "it is gone");
    let never = JobId::generate(&*world.ids);
    ensure!(!world.store.redrive(&never).await?, "it never was");
    ensure!(!world.store.discard_dead_letter(&never).await?, "it never was");
    world.audit().await
}

/// Its submissions go with it, its audio is listed, and its work is new again.
pub async fn a_discarded_dead_letter_leaves_nothing<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (first, second) = (world.ticket("talk").await?, world.ticket("talk").await?);
    let lease = world.claim_one().await?;
    world.fail(&lease, FailureKind::BadAudio).await?;
    ensure!(world.needs(&lease.blob).await?, "a dead letter keeps its audio");
    ensure!(world.store.discard_dead_letter(&lease.token.job_id).await?, "it was there");
    for id in [&first, &second] {
        ensure_eq!(world.store.get(&world.tenant(), id).await?, None, "its submissions");
    }
    let stats = world.store.stats().await?;
    ensure_eq!((stats.submissions, listed(&world).await?.len()), (0, 0), "submissions and dead letters");
    ensure_eq!(world.garbage().await?, vec![lease.blob.clone()], "blobs to delete");
    ensure!(!world.needs(&lease.blob).await?, "nobody needs its audio");
    ensure_eq!(world.complete(&lease).await?, Finish::Stale, "a completion of what is gone");
    ensure!(world.submit("talk").await?.blob_adopted, "the same work is new");
    world.audit().await
}
