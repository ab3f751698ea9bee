//! Those who watch submissions. Each looks now and then, going on after the last event that it saw, and keeps what it was
//! told.

use futures::StreamExt;
use verbatim_core::event::{EventKind, EventSeq, JobEvent, segment_seq};
use verbatim_core::ids::{SubmissionId, TenantId};
use verbatim_core::job::{JobState, SubmissionStatus};
use verbatim_core::ports::JobClient;
use verbatim_core::ports::jobs::EventStream;

use super::super::virtual_world::{drain, patiently};
use super::super::{Verdict, Violation, ensure, ensure_eq};
use super::Told;
use super::reference::Model;

/// What who watches a submission must be told.
#[derive(Debug)]
pub(super) struct Look {
    /// How it ended.
    ended: Option<SubmissionStatus>,
    /// The last event before, and how many there were.
    latest: Told,
    events: u32,
    /// Segments in the transcript, where a completed job is the submission's.
    segments: Option<u32>,
    /// How often the job was begun afresh by hand.
    lives: u32,
}

impl Model {
    /// What who watches the submission must be told; `None` when it is gone.
    pub(super) fn told(&self, ticket: usize) -> Option<Look> {
        let (status, ticket) = (self.status(ticket)?, &self.tickets[ticket]);
        let job = &self.jobs[ticket.job];
        let transcribed = job.is(JobState::Completed) && ticket.ended.is_none() && !ticket.cached;
        Some(Look {
            ended: status.is_terminal().then_some(status),
            latest: job.story.latest,
            events: job.story.events,
            segments: transcribed.then_some(job.story.segments),
            // One that ended apart from its job has no part in what became of that afterwards.
            lives: if ticket.ended.is_some() { ticket.lives } else { job.story.lives },
        })
    }
}

/// Progress in percent as workers tell it.
pub(super) fn fraction(percent: u8) -> f32 {
    f32::from(percent) / 100.0
}

/// Who watches one submission.
#[derive(Debug, Default)]
pub(super) struct Watcher {
    /// The last event that it saw.
    after: Option<EventSeq>,
    /// How many events of the job there were when it looked last.
    events: u32,
    /// How many segments of the attempt it was told of.
    segments: u32,
    /// The life of the job whose end it saw.
    end_of: Option<u32>,
}

impl Watcher {
    /// Looks, and checks what it is told.
    pub(super) async fn look(
        &mut self,
        store: &impl JobClient,
        tenant: &TenantId,
        id: &SubmissionId,
        expected: Option<Look>,
    ) -> Verdict {
        let stream = store.events(tenant, id, self.after).await?;
        let Some(expected) = expected else {
            ensure!(stream.is_none(), "a submission that is gone has events");
            return Ok(());
        };
        let stream = stream.ok_or_else(|| Violation::new("a submission has no events"))?;
        let events = match expected.ended {
            Some(_) => drain(stream).await?,
            // Nothing new; the stream would wait.
            None if expected.events == self.events => Vec::new(),
            None => up_to(expected.latest, stream).await?,
        };
        self.events = expected.events;
        for event in events {
            self.hear(&event, &expected)?;
        }
        match (expected.ended, expected.latest) {
            (Some(_), _) => ensure_eq!(self.end_of, Some(expected.lives), "the life whose end was told"),
            (None, Told::Segment(index)) => ensure_eq!(self.segments, index + 1, "segments that were told"),
            (None, _) => {}
        }
        if let Some(segments) = expected.segments {
            ensure_eq!(self.segments, segments, "segments that were told in the end");
        }
        Ok(())
    }

    fn hear(&mut self, event: &JobEvent, expected: &Look) -> Verdict {
        ensure!(self.after < Some(event.seq), "numbers rise: {event:?} after {:?}", self.after);
        ensure!(self.end_of != Some(expected.lives), "{event:?} was told after the end");
        match event.kind {
            EventKind::Queued { .. } | EventKind::Progress { .. } => {}
            EventKind::Started { .. } => self.segments = 0,
            EventKind::Segment { ref segment, .. } => self.hear_segment(segment.index)?,
            EventKind::Transcribed { first, count, .. } => {
                let after = self.after;
                for index in (0..count).filter(|index| Some(segment_seq(first, *index)) > after) {
                    self.hear_segment(index)?;
                }
            }
            EventKind::Completed => self.end(event, SubmissionStatus::Completed, expected)?,
            EventKind::Failed { .. } => self.end(event, SubmissionStatus::Failed, expected)?,
            EventKind::Cancelled => self.end(event, SubmissionStatus::Cancelled, expected)?,
        }
        self.after = Some(event.seq);
        Ok(())
    }

    fn hear_segment(&mut self, index: u32) -> Verdict {
        ensure_eq!(index, self.segments, "the segment that is told next");
        self.segments += 1;
        Ok(())
    }

    fn end(&mut self, event: &JobEvent, how: SubmissionStatus, expected: &Look) -> Verdict {
        ensure_eq!(expected.ended, Some(how), "how it ended, of which {event:?} is told");
        self.end_of = Some(expected.lives);
        Ok(())
    }
}

/// The events up to this one, which is or comes before the newest.
async fn up_to(latest: Told, mut stream: EventStream) -> Verdict<Vec<JobEvent>> {
    let mut events = Vec::new();
    loop {
        let event = patiently(stream.next()).await?;
        let event = event.ok_or_else(|| Violation::new("the stream of a live job ended"))??;
        let is_latest = match (&event.kind, latest) {
            (EventKind::Queued { attempt }, Told::Queued(latest)) => *attempt == latest,
            (EventKind::Started { attempt }, Told::Started(latest)) => *attempt == latest,
            (EventKind::Segment { segment, .. }, Told::Segment(latest)) => segment.index == latest,
            (EventKind::Progress { progress, .. }, Told::Progress(latest)) => *progress == fraction(latest),
            _ => false,
        };
        events.push(event);
        if is_latest {
            return Ok(events);
        }
    }
}
