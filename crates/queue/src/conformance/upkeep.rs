//! Invariants 1 and 2, expiry, garbage and figures.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::SubmissionId;
use verbatim_core::job::{JobState, SubmissionStatus};
use verbatim_core::options::Priority;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::jobs::ListQuery;
use verbatim_core::ports::{BlobKey, JobClient, JobUpkeep};
use verbatim_core::{ErrorKind, Refusal};

use super::virtual_world::{LEASE, count_of, tenant};
use super::{Harness, Verdict, World, ensure, ensure_eq};

/// Makes one job of each state, with its ticket: queued, delayed, running, completed, failed, cancelled.
async fn one_of_each<H: Harness>(world: &World<'_, H>) -> Verdict<Vec<(SubmissionId, JobState)>> {
    let mut all = Vec::new();
    for state in [
        JobState::Delayed,
        JobState::Running,
        JobState::Completed,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Queued,
    ] {
        let id = world.ticket(state.as_str()).await?;
        match state {
            JobState::Delayed => {
                world.fail(&world.claim_one().await?, FailureKind::EngineFailed).await?;
            }
            JobState::Running => {
                world.claim_one().await?;
            }
            JobState::Completed => {
                world.work_off_one().await?;
            }
            JobState::Failed => {
                world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
            }
            JobState::Cancelled => {
                world.cancel(&id).await?;
            }
            JobState::Queued => {}
        }
        all.push((id, state));
    }
    Ok(all)
}

/// What the store counts is what there is.
pub async fn counters_equal_what_there_is<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.submit_at("urgent", Priority::High).await?;
    world.work_off_one().await?;
    for (_, state) in one_of_each(&world).await? {
        let expected = 1 + u64::from(state == JobState::Completed);
        ensure_eq!(world.count(state).await?, expected, "jobs that are {}", state.as_str());
    }
    world.clock.advance(Duration::from_secs(7));
    let stats = world.store.stats().await?;
    ensure_eq!(stats.submissions, 7, "submissions");
    for tier in &stats.tiers {
        let (depth, secs) = if tier.priority == Priority::Normal { (1, 7) } else { (0, 0) };
        let age = Duration::from_secs(secs);
        ensure_eq!(
            (tier.depth, tier.oldest_age),
            (depth, age),
            "depth and oldest of {}",
            tier.priority.as_str()
        );
    }
    ensure_eq!(stats.tiers.len(), 3, "tiers");
    ensure_eq!(stats.states.iter().map(|(_, count)| count).sum::<u64>(), 7, "jobs");
    world.store.ping().await?;
    world.audit().await
}

/// Every acknowledged submission can be found in its state until it expires, and then none is left.
pub async fn every_submission_is_somewhere_until_it_expires<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let all = one_of_each(&world).await?;
    for (id, state) in &all {
        world.expect(id, SubmissionStatus::from(*state)).await?;
        let query = ListQuery { status: Some(SubmissionStatus::from(*state)), limit: 10, before: None };
        let listed = world.store.list(&world.tenant(), query).await?.submissions;
        ensure!(
            listed.iter().any(|submission| submission.id == *id),
            "{} is listed by its status",
            state.as_str()
        );
        ensure!(
            listed.iter().all(|submission| submission.status == SubmissionStatus::from(*state)),
            "and no other"
        );
    }
    world.pass(world.policy.result_retention - Duration::from_millis(1)).await?;
    ensure_eq!(world.list().await?.len(), 6, "submissions a moment before the first expires");
    world.pass(Duration::from_millis(1)).await?;
    // The three that had ended are forgotten; the others reached their greatest age and are dead letters now.
    ensure_eq!(world.list().await?.len(), 3, "submissions after the first have expired");
    ensure_eq!(world.count(JobState::Failed).await?, 3, "dead letters");
    world.pass(world.policy.result_retention).await?;
    ensure_eq!(world.list().await?, vec![], "submissions after all have expired");
    let stats = world.store.stats().await?;
    ensure_eq!(stats.states.iter().map(|(_, count)| count).sum::<u64>(), 0, "jobs after all have expired");
    ensure_eq!(stats.submissions, 0, "submissions that are counted after all have expired");
    ensure_eq!(
        world.store.events(&world.tenant(), &all[0].0, None).await?.is_none(),
        true,
        "no events are left"
    );
    ensure_eq!(world.garbage().await?.len(), 7, "blobs to delete: six uploads and one result");
    world.audit().await
}

/// Pages join without gap or repetition.
pub async fn pages_list_everything_newest_first<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let mut tickets = Vec::new();
    for number in 0..10 {
        tickets.push(world.ticket(&format!("talk {number}")).await?);
        world.clock.advance(Duration::from_millis(number % 2));
    }
    tickets.reverse();
    let mut listed: Vec<SubmissionId> = Vec::new();
    loop {
        let query = ListQuery { before: listed.last().cloned(), limit: 3, status: None };
        let page = world.store.list(&world.tenant(), query).await?.submissions;
        if page.is_empty() {
            break;
        }
        ensure!(page.len() <= 3, "a page holds no more than was asked for");
        listed.extend(page.into_iter().map(|submission| submission.id));
    }
    ensure_eq!(listed, tickets, "all pages");
    world.audit().await
}

/// Audio goes at success or with its dead letter, a result with its job, and nothing that is needed is ever listed.
pub async fn audio_and_results_become_garbage_when_nobody_needs_them<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (good, bad) = (world.upload("good"), world.upload("bad"));
    let (good_audio, bad_audio) = (good.blob.clone(), bad.blob.clone());
    world.store.submit(good).await?;
    world.store.submit(bad).await?;
    let first = world.claim_one().await?;
    let result = BlobKey::for_result(&first.token);
    ensure!(world.needs(&result).await?, "the result that is being written is needed");
    ensure!(world.needs(&good_audio).await?, "the audio of a running job is needed");
    ensure!(world.needs(&bad_audio).await?, "the audio of a queued job is needed");
    ensure!(!world.needs(&world.upload("").blob).await?, "an upload that nobody submitted is not needed");
    world.complete(&first).await?;
    ensure_eq!(world.garbage().await?, vec![good_audio.clone()], "garbage after success");
    ensure!(!world.needs(&good_audio).await?, "the audio of a completed job is not needed");
    ensure!(world.needs(&result).await?, "the published result is needed");
    world.store.blobs_deleted(&[good_audio]).await?;
    world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
    ensure_eq!(world.garbage().await?, vec![], "garbage after a failure");
    ensure!(world.needs(&bad_audio).await?, "the audio of a dead letter is kept");
    world.pass(world.policy.result_retention).await?;
    let garbage: HashSet<_> = world.garbage().await?.into_iter().collect();
    ensure_eq!(garbage, HashSet::from([bad_audio.clone(), result.clone()]), "garbage after both expired");
    for key in [bad_audio, result] {
        ensure!(!world.needs(&key).await?, "{key} is not needed any more");
    }
    world.audit().await
}

/// Whoever was answered by an old result can fetch it as long as if it had been made for them.
pub async fn a_cached_answer_keeps_its_result_as_long_as_any_other<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("talk").await?;
    world.work_off_one().await?;
    world.pass(world.policy.dedupe_ttl / 2).await?;
    let cached = world.submit("talk").await?.submission;
    ensure!(cached.cached, "the finished result answers");
    world.pass(world.policy.result_retention - Duration::from_millis(1)).await?;
    world.expect(&cached.id, SubmissionStatus::Completed).await?;
    world.pass(Duration::from_millis(1)).await?;
    ensure_eq!(world.list().await?, vec![], "submissions after its time");
    world.audit().await
}

/// A queue that is full refuses new jobs and says when to come back; what needs no new job is answered.
pub async fn a_full_queue_throttles_new_work_only<H: Harness>(harness: &H) -> Verdict {
    let policy = StorePolicy { max_waiting: Some(2), ..StorePolicy::default() };
    let world = World::with_policy(harness, policy).await?;
    world.ticket("first").await?;
    world.fail(&world.claim_one().await?, FailureKind::EngineFailed).await?;
    world.ticket("second").await?;
    let refused = world.store.submit(world.upload("third")).await.err();
    let told = refused.map(|error| (error.kind(), error.retry_after().is_some()));
    ensure_eq!(told, Some((ErrorKind::Throttled, true)), "the answer to one too many");
    ensure!(world.submit("second").await?.submission.deduplicated, "attaching needs no room");
    world.work_off_one().await?;
    ensure!(world.submit("third").await?.blob_adopted, "there is room again");
    world.audit().await
}

/// A worker is there as long as its last lease would last.
pub async fn workers_are_counted_while_they_are_heard_of<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("talk").await?;
    let busy = world.claim_one().await?;
    world.claim(&world.worker(), 1).await?;
    ensure_eq!(world.store.stats().await?.workers, 2, "workers that asked");
    world.clock.advance(LEASE / 2);
    world.renew(&busy.token).await?;
    world.clock.advance(LEASE / 2);
    let stats = world.store.stats().await?;
    ensure_eq!(stats.workers, 1, "workers that were heard of within the last lease");
    ensure_eq!(count_of(&stats, JobState::Running), 1, "running jobs");
    world.audit().await
}

/// However a tenant's submissions are answered, only so many of them are kept; others are not held up by it.
pub async fn what_is_remembered_of_a_tenant_has_a_limit<H: Harness>(harness: &H) -> Verdict {
    let policy = StorePolicy { max_remembered: Some(3), ..StorePolicy::default() };
    let world = World::with_policy(harness, policy).await?;
    let first = world.upload("talk");
    world.store.submit(first.clone()).await?;
    ensure!(world.submit("talk").await?.submission.deduplicated, "the second is attached");
    world.work_off_one().await?;
    ensure!(world.submit("talk").await?.submission.cached, "the third is answered from the result");
    for work in ["talk", "another"] {
        let refused = world.store.submit(world.upload(work)).await.err();
        let told = refused.map(|error| (error.kind(), error.refusal(), error.retry_after().is_some()));
        let expected = Some((ErrorKind::Throttled, Some(Refusal::TooManyRemembered), true));
        ensure_eq!(told, expected, "the answer to one too many, of {work}");
    }
    ensure!(world.store.submit(first.clone()).await?.replayed, "what was answered is answered again");
    let stranger = tenant("stranger")?;
    world.store.submit(world.upload_of(&stranger, "talk", 1)).await?;
    world.store.delete(&world.tenant(), &first.id).await?;
    ensure!(world.submit("another").await?.blob_adopted, "there is room again");
    world.pass(world.policy.max_age).await?;
    world.pass(world.policy.result_retention).await?;
    for number in 0..3 {
        world.ticket(&format!("new {number}")).await?;
    }
    world.audit().await
}

/// A status that few submissions have is looked for in bounded steps, which lead to every one of them.
pub async fn a_rare_status_is_found_by_going_on<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let rare = world.ticket("rare").await?;
    world.cancel(&rare).await?;
    let mut made = 0;
    while made < 4200 {
        let uploads = (0..150).map(|_| world.store.submit(world.upload("talk")));
        made += join_all(uploads).await.into_iter().collect::<Result<Vec<_>, _>>()?.len();
    }
    let (mut found, mut calls, mut before) = (Vec::new(), 0, None);
    loop {
        let query = ListQuery { status: Some(SubmissionStatus::Cancelled), limit: 10, before };
        let page = world.store.list(&world.tenant(), query).await?;
        calls += 1;
        found.extend(page.submissions.into_iter().map(|submission| submission.id));
        match page.next {
            Some(next) => before = Some(next),
            None => break,
        }
        ensure!(calls < 10, "the search does not come to an end");
    }
    ensure_eq!(found, vec![rare], "what was found");
    ensure_eq!(calls, 2, "calls, none of which looks at everything");
    let all = ListQuery { limit: 5, ..ListQuery::default() };
    ensure_eq!(world.store.list(&world.tenant(), all).await?.next, None, "where to go on from a full page");
    Ok(())
}
