//! Invariant 10: a stream, snapshot plus tail, shows what counts in order and always the end.

use futures::{StreamExt, join};
use verbatim_core::event::{EventKind, EventSeq, JobEvent, Stage, segment_seq};
use verbatim_core::failure::FailureKind;
use verbatim_core::job::{Lease, Report};
use verbatim_core::ports::JobLeases;
use verbatim_core::ports::jobs::EventStream;
use verbatim_core::transcript::Segment;

use super::virtual_world::{drain, names, patiently};
use super::{Harness, Verdict, Violation, World, ensure, ensure_eq};

/// A segment with this index.
pub(super) fn segment(index: u32) -> Segment {
    let start_ms = u64::from(index) * 1000;
    let text = format!(" segment {index}");
    Segment {
        index,
        start_ms,
        end_ms: start_ms + 1000,
        text,
        words: Vec::new(),
        speaker: None,
        decoding: None,
    }
}

async fn report<H: Harness>(world: &World<'_, H>, lease: &Lease, progress: f32, indices: &[u32]) -> Verdict {
    let segments = indices.iter().copied().map(segment).collect();
    let report = Report { progress: Some((progress, Stage::Transcribing)), segments, checkpoint: None };
    ensure!(world.store.report(&lease.token, report).await?, "the report of the current lease was refused");
    Ok(())
}

/// The next event.
pub(super) async fn next(stream: &mut EventStream) -> Verdict<JobEvent> {
    let event =
        patiently(stream.next()).await?.ok_or_else(|| Violation::new("the stream ended too early"))?;
    Ok(event?)
}

fn rising(events: &[JobEvent]) -> bool {
    events.windows(2).all(|pair| pair[0].seq < pair[1].seq)
}

/// Who watches from the beginning sees each step as it happens.
pub async fn a_watcher_sees_the_whole_story_in_order<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let mut stream = world.watch(&id, None).await?;
    ensure_eq!(next(&mut stream).await?.kind, EventKind::Queued { attempt: 0 }, "the first event");
    let lease = world.claim_one().await?;
    ensure_eq!(next(&mut stream).await?.kind, EventKind::Started { attempt: 1 }, "the event of the claim");
    for index in 0..3 {
        report(&world, &lease, 0.25 * (index + 1) as f32, &[index]).await?;
        let decoded = EventKind::Segment { attempt: 1, segment: segment(index) };
        ensure_eq!(next(&mut stream).await?.kind, decoded, "the event of a segment");
        let progress =
            EventKind::Progress { progress: 0.25 * (index + 1) as f32, stage: Stage::Transcribing };
        ensure_eq!(next(&mut stream).await?.kind, progress, "the event of progress");
    }
    let seen = world.get(&id).await?;
    ensure_eq!((seen.progress, seen.stage), (0.75, Stage::Transcribing), "the progress that polling shows");
    world.complete(&lease).await?;
    ensure_eq!(names(&drain(stream).await?), vec!["completed"], "the rest of the stream");
    world.audit().await
}

/// A watcher that waits hears of each event without asking again.
pub async fn a_waiting_watcher_is_woken_by_each_event<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let mut stream = world.watch(&id, None).await?;
    ensure_eq!(next(&mut stream).await?.kind.name(), "queued", "the first event");
    let (started, lease) = join!(next(&mut stream), world.claim_one());
    let lease = lease?;
    ensure_eq!(started?.kind.name(), "started", "the event of the claim");
    let (segment, reported) = join!(next(&mut stream), report(&world, &lease, 0.5, &[0]));
    reported?;
    ensure_eq!(segment?.kind.name(), "segment", "the event of the report");
    ensure_eq!(next(&mut stream).await?.kind.name(), "progress", "the other event of the report");
    let (cancelled, ended) = join!(next(&mut stream), world.cancel(&id));
    ended?;
    ensure_eq!(cancelled?.kind.name(), "cancelled", "the event of the cancellation");
    world.audit().await
}

/// Who comes late sees every segment, the last progress only, and the end.
pub async fn a_late_watcher_sees_what_counts_and_the_end<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let lease = world.claim_one().await?;
    for index in 0..300 {
        report(&world, &lease, index as f32 / 300.0, &[index]).await?;
    }
    world.complete(&lease).await?;
    let story = world.story(&id, None).await?;
    ensure!(rising(&story), "numbers rise");
    let expected = vec!["started", "transcribed", "completed"];
    ensure_eq!(names(&story), expected, "what who comes late is told");
    let segments = told(&story, 0);
    ensure_eq!(segments.len(), 300, "segments that are in the transcript");
    ensure!(segments.windows(2).all(|pair| pair[0].0 < pair[1].0), "their numbers rise");
    world.audit().await
}

/// The numbers and indices of the segments after this number: those that are events, and those in the transcript.
fn told(events: &[JobEvent], after: u64) -> Vec<(u64, u32)> {
    let of = |event: &JobEvent| match &event.kind {
        EventKind::Segment { segment, .. } => vec![(event.seq.0, segment.index)],
        EventKind::Transcribed { first, count, .. } => {
            (0..*count).map(|index| (segment_seq(*first, index).0, index)).collect()
        }
        _ => Vec::new(),
    };
    events.iter().flat_map(of).filter(|(seq, _)| *seq > after).collect()
}

/// Segments are events until the job ends. Who resumes afterwards, wherever it was, is told the rest under the same
/// numbers, and the end; also where progress was told between them, and where others came and went.
pub async fn segments_keep_their_numbers_when_they_are_in_the_transcript<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let mut live = world.watch(&id, None).await?;
    let lease = world.claim_one().await?;
    let mut seen = Vec::new();
    for (round, indices) in [&[0_u32, 1, 2][..], &[], &[3], &[], &[], &[4, 5]].into_iter().enumerate() {
        report(&world, &lease, 0.1 * (round + 1) as f32, indices).await?;
        // Whoever joins and leaves takes numbers, too.
        let other = world.ticket("talk").await?;
        world.cancel(&other).await?;
        while seen.last().is_none_or(|event: &JobEvent| !is_progress(event, 0.1 * (round + 1) as f32)) {
            seen.push(next(&mut live).await?);
        }
    }
    world.complete(&lease).await?;
    seen.extend(drain(live).await?);
    ensure_eq!(told(&seen, 0).len(), 6, "segments that were seen live");
    ensure!(
        seen.iter().all(|event| event.kind.name() != "transcribed"),
        "one that missed nothing is told nothing twice"
    );
    for event in &seen {
        let rest = world.story(&id, Some(event.seq)).await?;
        ensure!(rising(&rest), "numbers rise");
        ensure_eq!(told(&rest, event.seq.0), told(&seen, event.seq.0), "segments after {:?}", event.seq);
        let over = event.kind.is_terminal();
        ensure_eq!(rest.last().is_some_and(|last| last.kind.is_terminal()), !over, "whether the end is told");
    }
    world.audit().await
}

fn is_progress(event: &JobEvent, wanted: f32) -> bool {
    matches!(event.kind, EventKind::Progress { progress, .. } if progress == wanted)
}

/// From any event on, a stream goes on with the next one.
pub async fn a_stream_resumes_without_gap_or_repetition<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let lease = world.claim_one().await?;
    report(&world, &lease, 0.5, &[0, 1, 2]).await?;
    world.complete(&lease).await?;
    let story = world.story(&id, None).await?;
    for (number, event) in story.iter().enumerate() {
        let rest = world.story(&id, Some(event.seq)).await?;
        ensure_eq!(rest, story[number + 1..], "the stream after event {number}");
    }
    let unknown = Some(EventSeq(u64::MAX));
    ensure_eq!(world.story(&id, unknown).await?, story, "the stream after a number that was never given");
    world.audit().await
}

/// Segments of the attempt that failed are not mixed with those of the next.
pub async fn a_retried_job_starts_its_story_over<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let id = world.ticket("talk").await?;
    let live = world.watch(&id, None).await?;
    let first = world.claim_one().await?;
    report(&world, &first, 0.5, &[0, 1]).await?;
    world.fail(&first, FailureKind::EngineFailed).await?;
    world.pass(world.policy.retry.max_delay).await?;
    let second = world.claim_one().await?;
    ensure_eq!(world.get(&id).await?.progress, 0.0, "progress of the new attempt");
    report(&world, &second, 0.9, &[0]).await?;
    world.complete(&second).await?;
    for story in [world.story(&id, None).await?, drain(live).await?] {
        let started = story.iter().rposition(|event| event.kind == EventKind::Started { attempt: 2 });
        let last = started.map(|at| names(&story[at..]));
        ensure_eq!(last, Some(vec!["started", "transcribed", "completed"]), "the story of the last attempt");
        ensure!(rising(&story), "numbers rise");
    }
    let late = names(&world.story(&id, None).await?);
    let segments = late.iter().filter(|name| **name == "transcribed").count();
    ensure_eq!(segments, 1, "attempts of whose segments who comes now is told");
    world.audit().await
}

/// Who cancels sees the end, while the others go on.
pub async fn a_cancelled_submission_sees_its_own_end<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let (leaves, stays) = (world.ticket("talk").await?, world.ticket("talk").await?);
    let live = world.watch(&leaves, None).await?;
    let lease = world.claim_one().await?;
    world.cancel(&leaves).await?;
    report(&world, &lease, 0.5, &[0]).await?;
    world.complete(&lease).await?;
    for story in [drain(live).await?, world.story(&leaves, None).await?] {
        ensure_eq!(names(&story), vec!["started", "cancelled"], "what the one that left sees");
        for (number, event) in story.iter().enumerate() {
            ensure_eq!(
                world.story(&leaves, Some(event.seq)).await?,
                story[number + 1..],
                "the rest after {number}"
            );
        }
    }
    let story = world.story(&stays, None).await?;
    ensure_eq!(names(&story), vec!["started", "transcribed", "completed"], "what the other sees");
    // The last to leave sees the end at once, not when the worker has noticed.
    let last = world.ticket("unwanted").await?;
    world.claim_one().await?;
    world.cancel(&last).await?;
    ensure_eq!(
        names(&world.story(&last, None).await?),
        vec!["queued", "started", "cancelled"],
        "what the last sees"
    );
    world.audit().await
}

/// Whoever holds a ticket sees how it ended.
pub async fn an_attached_and_a_cached_submission_see_the_end<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    world.ticket("talk").await?;
    let lease = world.claim_one().await?;
    report(&world, &lease, 0.5, &[0]).await?;
    let attached = world.ticket("talk").await?;
    world.complete(&lease).await?;
    let cached = world.ticket("talk").await?;
    let story = names(&world.story(&attached, None).await?);
    ensure_eq!(story, vec!["started", "transcribed", "completed"], "what an attached one sees");
    ensure_eq!(names(&world.story(&cached, None).await?), vec!["completed"], "what a cached one sees");
    let failed = world.ticket("broken").await?;
    world.fail(&world.claim_one().await?, FailureKind::BadAudio).await?;
    ensure_eq!(names(&world.story(&failed, None).await?).last(), Some(&"failed"), "how a failure ends");
    world.audit().await
}
