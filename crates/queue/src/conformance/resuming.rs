//! Invariant 10 for who comes back: whatever the last event was that a watcher saw, it is told the rest, under the numbers under
//! which everybody else was told it, and nothing twice.

use verbatim_core::event::{EventKind, EventSeq, JobEvent, Stage, segment_seq};
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::SubmissionId;
use verbatim_core::job::{Completion, JobState, Lease, Report};
use verbatim_core::ports::JobLeases;
use verbatim_core::ports::jobs::{EventStream, Finish};

use super::events::{next, segment};
use super::{Harness, Verdict, World, ensure, ensure_eq};

/// A job that is watched from the beginning, and all that its watcher was told.
struct Watched<'w, 'h, H: Harness> {
    world: &'w World<'h, H>,
    id: SubmissionId,
    stream: EventStream,
    seen: Vec<JobEvent>,
    reports: u8,
}

impl<'w, 'h, H: Harness> Watched<'w, 'h, H> {
    async fn submit(world: &'w World<'h, H>, work: &str) -> Verdict<Self> {
        let id = world.ticket(work).await?;
        let stream = world.watch(&id, None).await?;
        let mut watched = Self { world, id, stream, seen: Vec::new(), reports: 0 };
        watched.until(|kind| matches!(kind, EventKind::Queued { .. })).await?;
        Ok(watched)
    }

    /// Watches up to such an event, and comes back after each event so far.
    async fn until(&mut self, is_it: impl Fn(&EventKind) -> bool) -> Verdict {
        loop {
            let event = next(&mut self.stream).await?;
            let is_last = is_it(&event.kind);
            self.seen.push(event);
            if is_last {
                return self.come_back().await;
            }
        }
    }

    async fn claim(&mut self) -> Verdict<Lease> {
        let lease = self.world.claim_one().await?;
        self.until(|kind| matches!(kind, EventKind::Started { .. })).await?;
        Ok(lease)
    }

    async fn report(&mut self, lease: &Lease, indices: &[u32]) -> Verdict {
        self.reports += 1;
        let done = f32::from(self.reports) / 100.0;
        let segments = indices.iter().copied().map(segment).collect();
        let report = Report { progress: Some((done, Stage::Transcribing)), segments, checkpoint: None };
        ensure!(
            self.world.store.report(&lease.token, report).await?,
            "the report of the current lease was refused"
        );
        self.until(|kind| matches!(kind, EventKind::Progress { progress, .. } if *progress == done)).await
    }

    /// Others join the job and leave it, which takes numbers.
    async fn company(&self, work: &str, times: u32) -> Verdict {
        for _ in 0..times {
            let other = self.world.ticket(work).await?;
            self.world.cancel(&other).await?;
        }
        Ok(())
    }

    async fn complete(&mut self, lease: &Lease, segments: u32, retold: bool) -> Verdict {
        let completion = Completion { segments, retold, ..self.world.completion(&lease.token) };
        let done = self.world.store.complete(&lease.token, completion.clone()).await?;
        ensure_eq!(done, Finish::Done(JobState::Completed), "the completion");
        let again = self.world.store.complete(&lease.token, completion).await?;
        ensure_eq!(again, done, "the same completion");
        self.until(EventKind::is_terminal).await
    }

    /// Indices of the segments that count in the end, of those that were told live.
    fn told_in_the_end(&self) -> Vec<String> {
        let all = plain(&self.seen);
        let begun = all.iter().rposition(|(_, what)| what.starts_with("Started")).unwrap_or(0);
        let segments = all.into_iter().skip(begun).map(|(_, what)| what);
        segments.filter(|what| what.starts_with("segment")).collect()
    }

    /// Comes back after each event, and looks at what is told.
    async fn come_back(&self) -> Verdict {
        let all = plain(&self.seen);
        let over = self.seen.last().is_some_and(|last| last.kind.is_terminal());
        let newest = all.last().map_or(0, |(seq, _)| *seq);
        ensure!(all.windows(2).all(|pair| pair[0].0 < pair[1].0), "numbers rise: {all:?}");
        for after in std::iter::once(0).chain(all.iter().map(|(seq, _)| *seq)) {
            let rest = plain(&self.rest(EventSeq(after), newest, over).await?);
            let rest: Vec<_> = rest.into_iter().filter(|(seq, _)| *seq > after).collect();
            let unseen = rest.iter().find(|told| !all.contains(told));
            ensure_eq!(unseen, None, "what nobody else was told so, after {after} of {all:?}");
            ensure!(
                rest.windows(2).all(|pair| pair[0].0 < pair[1].0),
                "numbers rise after {after}: {rest:?}"
            );
            let missed = counting(&all, over).find(|told| told.0 > after && !rest.contains(told));
            ensure_eq!(missed, None, "what is missing after {after} of {all:?}");
        }
        Ok(())
    }

    async fn rest(&self, after: EventSeq, newest: u64, over: bool) -> Verdict<Vec<JobEvent>> {
        if over {
            return self.world.story(&self.id, Some(after)).await;
        }
        let mut stream = self.world.watch(&self.id, Some(after)).await?;
        let mut rest = Vec::new();
        while rest.last().map_or(after, |event: &JobEvent| event.seq).0 < newest {
            rest.push(next(&mut stream).await?);
        }
        Ok(rest)
    }
}

/// Numbers, and what is told under them. The API tells segments that are in the transcript like all others, and none of them
/// twice.
fn plain(events: &[JobEvent]) -> Vec<(u64, String)> {
    let mut told: Vec<(u64, String)> = Vec::new();
    for event in events {
        let newest = told.last().map_or(0, |(seq, _)| *seq);
        match &event.kind {
            EventKind::Segment { attempt, segment } => {
                told.push((event.seq.0, format!("segment {} of attempt {attempt}", segment.index)));
            }
            EventKind::Transcribed { attempt, first, count } => {
                let all = (0..*count).map(|index| (segment_seq(*first, index).0, index));
                let new = all.filter(|(seq, _)| *seq > newest);
                told.extend(new.map(|(seq, index)| (seq, format!("segment {index} of attempt {attempt}"))));
            }
            kind => told.push((event.seq.0, format!("{kind:?}"))),
        }
    }
    told
}

/// Those that nobody may miss: that it was begun last, what it told since, and the end, or how far it is.
fn counting(all: &[(u64, String)], over: bool) -> impl Iterator<Item = &(u64, String)> {
    let begun = all.iter().rposition(|(_, what)| what.starts_with("Started")).unwrap_or(all.len());
    let counts = |(_, what): &&(u64, String)| what.starts_with("segment") || what.starts_with("Started");
    let last = all.last().filter(|(_, what)| over || what.starts_with("Progress"));
    all[begun..].iter().filter(counts).chain(last)
}

/// While it goes on, between attempts, and when it is done.
pub async fn who_comes_back_after_any_event_is_told_exactly_the_rest<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    let mut watched = Watched::submit(&world, "talk").await?;
    let first = watched.claim().await?;
    for indices in [&[][..], &[], &[0, 1]] {
        watched.report(&first, indices).await?;
    }
    world.fail(&first, FailureKind::EngineFailed).await?;
    watched.until(|kind| matches!(kind, EventKind::Queued { attempt: 1 })).await?;
    world.pass(world.policy.retry.max_delay).await?;
    let second = watched.claim().await?;
    for indices in [&[][..], &[0], &[], &[1, 2], &[]] {
        watched.company("talk", 1).await?;
        watched.report(&second, indices).await?;
    }
    watched.complete(&second, 3, false).await?;
    world.audit().await
}

/// The store was full, or the engine says all at the end: what no report brought is told with the completion.
pub async fn segments_that_no_report_brought_are_told_with_the_completion<H: Harness>(
    harness: &H,
) -> Verdict {
    let world = World::open(harness).await?;
    for (work, reported, segments) in
        [("none of three", 0, 3), ("two of five", 2, 5), ("all", 2, 2), ("no speech", 0, 0)]
    {
        let mut watched = Watched::submit(&world, work).await?;
        let lease = watched.claim().await?;
        for index in 0..reported {
            watched.report(&lease, &[index]).await?;
        }
        watched.company(work, 3).await?;
        watched.report(&lease, &[]).await?;
        watched.complete(&lease, segments, false).await?;
        let expected: Vec<_> = (0..segments).map(|index| format!("segment {index} of attempt 1")).collect();
        ensure_eq!(watched.told_in_the_end(), expected, "segments of {work}");
    }
    world.audit().await
}

/// Another engine took over, and cut the audio otherwise: watchers start over, whenever they come, and no number stands for
/// two segments.
pub async fn watchers_start_over_when_the_transcript_has_other_segments<H: Harness>(harness: &H) -> Verdict {
    let world = World::open(harness).await?;
    for (work, segments) in [("fewer", 2), ("more", 7), ("none", 0)] {
        let mut watched = Watched::submit(&world, work).await?;
        let lease = watched.claim().await?;
        watched.report(&lease, &[0, 1]).await?;
        watched.report(&lease, &[2, 3]).await?;
        watched.complete(&lease, segments, true).await?;
        let expected: Vec<_> = (0..segments).map(|index| format!("segment {index} of attempt 1")).collect();
        ensure_eq!(watched.told_in_the_end(), expected, "segments of {work}");
        let begun = watched.seen.iter().filter(|event| event.kind == EventKind::Started { attempt: 1 });
        ensure_eq!(begun.count(), 2, "how often the attempt was begun");
    }
    world.audit().await
}
