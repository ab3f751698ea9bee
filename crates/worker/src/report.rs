//! From the engine's thread to the job store: what an engine says is gathered without blocking it and reported, under
//! the fence, by one task per job.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use verbatim_core::CancellationToken;
use verbatim_core::event::Stage;
use verbatim_core::job::{LeaseToken, Report};
use verbatim_core::ports::engine::{Checkpoint, EngineObserver};
use verbatim_core::transcript::Segment;

use crate::backoff::Backoff;
use crate::finish::{LAST_TRIES, may_pass};
use crate::held::{Held, StopReason, StopSwitch};
use crate::pipeline::PipelineObserver;
use crate::session::Reach;
use crate::slots::Ahead;
use crate::worker::WorkerPorts;

/// Time between reports of one job.
const PACE: Duration = Duration::from_millis(250);
/// Time for an engine to end the work itself when it takes too long.
const GRACE: Duration = Duration::from_secs(10);
/// The longest wait between reports that are tried again while the end of the work waits for them.
const LAST_WAIT: Duration = Duration::from_millis(100);
/// The most that a job which has not ended has progressed.
const NEARLY_DONE: f32 = 0.99;

/// Gathers what is to be reported. Segments are kept in order, all of them: the transcript bounds them, and the engine
/// holds it anyway. Of progress and checkpoints only the latest counts.
pub(crate) struct Gatherer {
    pending: Mutex<Pending>,
    changed: Notify,
    clock: watch::Sender<Clock>,
    ahead: Option<Ahead>,
    /// Segments of an earlier attempt, from which the engine may go on or not.
    earlier: Vec<Segment>,
    /// Knows why the work was stopped.
    stop: Arc<StopSwitch>,
    reach: Mutex<Reach>,
}

/// What bounds the time of an attempt.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    /// The length of the audio, once it is decoded.
    pub(crate) duration_ms: Option<u64>,
    /// How long the engine has; zero before one has begun.
    pub(crate) engine: Duration,
    /// How often a turn of decoding has begun.
    turns: u64,
}

#[derive(Default)]
struct Pending {
    report: Report,
    /// A digest of each segment gathered so far, by its index.
    told: Vec<u64>,
    /// Where the last of them ends.
    end_ms: u64,
    /// Whether they are another engine's than those to come.
    begun_anew: bool,
}

impl Gatherer {
    pub(crate) fn new(resume: Option<&Checkpoint>, stop: Arc<StopSwitch>, ahead: Option<Ahead>) -> Self {
        Self {
            pending: Mutex::default(),
            changed: Notify::new(),
            clock: watch::Sender::default(),
            ahead,
            earlier: resume.map(|point| point.segments.clone()).unwrap_or_default(),
            stop,
            reach: Mutex::default(),
        }
    }

    /// How far the attempt has got.
    pub(crate) fn reach(&self) -> Reach {
        *self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reached(&self, reach: Reach) {
        let mut furthest = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        *furthest = reach.max(*furthest);
    }

    /// What bounds the time of the attempt; it changes whenever another part of the work begins.
    pub(crate) fn clock(&self) -> watch::Receiver<Clock> {
        self.clock.subscribe()
    }

    /// Adds those of the transcript's segments that the engine did not report as it went. `false`, and nothing is added, when
    /// it reported others than the transcript has: watchers are told all of them with the completion.
    pub(crate) fn complete(&self, all: &[Segment]) -> bool {
        self.reached(Reach::Engine);
        let mut agrees = false;
        self.update(|pending| agrees = pending.complete(all));
        agrees
    }

    /// Whether the audio is being decoded.
    pub(crate) fn is_decoding(&self) -> bool {
        let clock = self.clock.borrow();
        clock.turns > 0 && clock.duration_ms.is_none()
    }

    fn update(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Report> {
        let report = std::mem::take(&mut self.lock().report);
        (report != Report::default()).then_some(report)
    }

    /// Puts segments back that the store refused, before those that were gathered since. Segments stay in order: nothing later is
    /// reported before these.
    fn put_back(&self, mut refused: Vec<Segment>) {
        let mut pending = self.lock();
        refused.append(&mut pending.report.segments);
        pending.report.segments = refused;
    }
}

impl Pending {
    /// Adds the new ones among `segments`. An engine that goes on where an earlier attempt left off begins in the
    /// middle: what comes before is `earlier`, and belongs to this attempt as well.
    fn add(&mut self, segments: &[Segment], earlier: &[Segment]) {
        for segment in segments {
            if self.begun_anew {
                self.add_behind(segment);
                continue;
            }
            let index = segment.index as usize;
            if let Some(skipped) = earlier.get(self.told.len()..index) {
                skipped.iter().for_each(|segment| self.push(segment.clone()));
            }
            if index >= self.told.len() {
                self.push(segment.clone());
            }
        }
    }

    /// Within an attempt what was shown stays shown. An engine that took over from a failed one has cut the audio
    /// otherwise: watchers get those of its segments that lie, for the greater part, behind what they have. The
    /// transcript is all its own, and is told anew with the completion.
    fn add_behind(&mut self, segment: &Segment) {
        let is_behind = segment.start_ms.midpoint(segment.end_ms) >= self.end_ms;
        // The last one shown comes again with each checkpoint, and may have no length.
        if is_behind && segment.end_ms > self.end_ms {
            let index = u32::try_from(self.told.len()).unwrap_or(u32::MAX);
            self.push(Segment { index, ..segment.clone() });
        }
    }

    fn complete(&mut self, all: &[Segment]) -> bool {
        let in_order = all.iter().enumerate().all(|(at, segment)| segment.index as usize == at);
        let same = |(told, segment): (&u64, &Segment)| *told == digest(segment);
        if !in_order || self.told.len() > all.len() || !self.told.iter().zip(all).all(same) {
            return false;
        }
        all.iter().skip(self.told.len()).for_each(|segment| self.push(segment.clone()));
        true
    }

    fn push(&mut self, segment: Segment) {
        let index = segment.index as usize;
        // Those between were never told; a transcript has segments in their place, so that it is told anew.
        self.told.resize(index, UNTOLD);
        self.told.push(digest(&segment));
        self.end_ms = self.end_ms.max(segment.end_ms);
        self.report.segments.push(segment);
    }
}

/// The digest of a segment that an engine left out.
const UNTOLD: u64 = 0;

/// Tells whether two segments are the same to watchers, who see all of them.
fn digest(segment: &Segment) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Writing JSON to a text fails only for keys that are no text, of which a segment has none.
    serde_json::to_string(segment).ok().hash(&mut hasher);
    hasher.finish().max(UNTOLD + 1)
}

impl EngineObserver for Gatherer {
    fn window_done(&self, position_ms: u64, segments: &[Segment]) {
        self.reached(Reach::Engine);
        let done = match self.clock.borrow().duration_ms {
            Some(duration_ms) if duration_ms > 0 => position_ms as f32 / duration_ms as f32,
            _ => 0.0,
        };
        self.update(|pending| {
            pending.report.progress = Some((done.clamp(0.0, NEARLY_DONE), Stage::Transcribing));
            pending.add(segments, &self.earlier);
        });
    }

    fn begun(&self, at_most: Duration) {
        self.reached(Reach::Engine);
        if let Some(ahead) = &self.ahead {
            ahead.leave();
        }
        self.clock.send_modify(|clock| clock.engine = at_most.saturating_add(GRACE));
    }

    fn begun_anew(&self) {
        self.update(|pending| pending.begun_anew = !pending.told.is_empty());
    }

    fn checkpoint(&self, checkpoint: Checkpoint) {
        self.update(|pending| {
            pending.add(&checkpoint.segments, &[]);
            pending.report.checkpoint = Some(checkpoint);
        });
    }

    fn abandoned(&self) -> bool {
        self.stop.reason() == Some(StopReason::Cancelled)
    }
}

impl PipelineObserver for Gatherer {
    fn stage(&self, stage: Stage) {
        self.reached(Reach::Audio);
        if stage == Stage::Decoding {
            self.resumed();
        }
        let done = if stage == Stage::Storing { NEARLY_DONE } else { 0.0 };
        self.update(|pending| pending.report.progress = Some((done, stage)));
    }

    fn resumed(&self) {
        self.clock.send_modify(|clock| clock.turns += 1);
    }

    fn decoded(&self, duration_ms: u64) {
        self.clock.send_modify(|clock| clock.duration_ms = Some(duration_ms));
    }
}

/// The task that reports what was gathered for one job. Dropping it ends it.
pub(crate) struct Reporter {
    task: AbortOnDropHandle<()>,
    closing: CancellationToken,
}

impl Reporter {
    pub(crate) fn start(ports: WorkerPorts, held: &Held, gatherer: Arc<Gatherer>) -> Self {
        let closing = CancellationToken::new();
        let reporting = Reporting {
            ports,
            token: held.lease.token.clone(),
            stop: Arc::clone(&held.stop),
            gatherer,
            closing: closing.clone(),
        };
        Self { task: AbortOnDropHandle::new(tokio::spawn(reporting.run())), closing }
    }

    /// Reports the rest, so that watchers see every segment before the end.
    pub(crate) async fn finish(self) {
        self.closing.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the reporter of a job broke down");
        }
    }
}

struct Reporting {
    ports: WorkerPorts,
    token: LeaseToken,
    stop: Arc<StopSwitch>,
    gatherer: Arc<Gatherer>,
    closing: CancellationToken,
}

impl Reporting {
    async fn run(self) {
        loop {
            self.unless_closing(self.gatherer.changed.notified()).await;
            // Asked before the rest is taken, so that what was gathered before closing is in it.
            let closing = self.closing.is_cancelled();
            if let Some(report) = self.gatherer.take()
                && !self.send(report).await
            {
                return;
            }
            if closing {
                return;
            }
            self.unless_closing(tokio::time::sleep(PACE)).await;
        }
    }

    async fn unless_closing(&self, wait: impl Future<Output = ()>) {
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = wait => {}
        }
    }

    /// Reports, until the store has answered or the work was stopped. `false` when there is nothing more to report. At
    /// the end of the work the store gets few tries: one that refuses reports may still take the completion.
    async fn send(&self, report: Report) -> bool {
        let mut backoff = Backoff::for_store(&self.ports.ids);
        let mut tries_left = LAST_TRIES;
        loop {
            let error = match self.ports.leases.report(&self.token, report.clone()).await {
                Ok(true) => return true,
                Ok(false) => {
                    self.stop.stop(StopReason::LeaseLost);
                    return false;
                }
                Err(error) => error,
            };
            self.ports.metrics.store_errors.with_label_values(&["report"]).inc();
            if self.closing.is_cancelled() {
                tries_left -= 1;
            }
            if !may_pass(&error) || tries_left == 0 {
                // The job does not depend on it; watchers get segments later, at the latest with the completion.
                tracing::error!(job.id = %self.token.job_id, %error, "progress was refused and is told later");
                self.gatherer.put_back(report.segments);
                return true;
            }
            tracing::warn!(job.id = %self.token.job_id, %error, "progress could not be reported; trying again");
            let wait = backoff.next();
            tokio::select! {
                () = self.stop.token().cancelled() => return false,
                // The finish waits for this: what is left of a long wait is not waited for.
                () = self.closing.cancelled() => tokio::time::sleep(wait.min(LAST_WAIT)).await,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(index: u32, start_ms: u64, end_ms: u64, text: &str) -> Segment {
        let (words, speaker, decoding) = (Vec::new(), None, None);
        Segment { index, start_ms, end_ms, text: text.to_owned(), words, speaker, decoding }
    }

    #[test]
    fn only_a_job_that_nobody_wants_is_abandoned() {
        for (reason, expected) in [
            (StopReason::Cancelled, true),
            (StopReason::LeaseLost, false),
            (StopReason::Released, false),
            (StopReason::TimedOut, false),
        ] {
            let stop = Arc::<StopSwitch>::default();
            let gatherer = Gatherer::new(None, Arc::clone(&stop), None);
            assert!(!gatherer.abandoned());
            stop.stop(reason);
            assert_eq!(gatherer.abandoned(), expected, "{reason:?}");
        }
    }

    #[test]
    fn a_time_out_is_the_files_fault_only_while_it_is_decoded() {
        let gatherer = Gatherer::new(None, Arc::default(), None);
        gatherer.stage(Stage::Fetching);
        assert!(!gatherer.is_decoding());
        gatherer.stage(Stage::Decoding);
        assert!(gatherer.is_decoding());
        gatherer.decoded(1_000);
        gatherer.stage(Stage::Transcribing);
        assert!(!gatherer.is_decoding());
    }

    #[test]
    fn watchers_of_an_engine_that_took_over_see_no_stretch_twice_and_miss_none() {
        let gatherer = Gatherer::new(None, Arc::default(), None);
        gatherer.window_done(4_000, &[segment(0, 0, 2_000, "a"), segment(1, 2_000, 4_000, "b")]);
        gatherer.begun_anew();
        let other = [segment(0, 0, 1_500, "A"), segment(1, 1_500, 4_200, "B"), segment(2, 4_200, 6_000, "C")];
        gatherer.window_done(4_200, &other[..2]);
        gatherer.window_done(6_000, &other[2..]);
        assert!(!gatherer.complete(&other), "the transcript is told anew");
        let shown = gatherer.take().expect("a report").segments;
        let shown: Vec<_> = shown.iter().map(|segment| (segment.index, segment.text.as_str())).collect();
        assert_eq!(shown, [(0, "a"), (1, "b"), (2, "C")]);
    }

    #[test]
    fn a_segment_without_length_is_told_once_however_often_it_comes() {
        let gatherer = Gatherer::new(None, Arc::default(), None);
        gatherer.window_done(2_000, &[segment(0, 0, 2_000, "a")]);
        gatherer.begun_anew();
        let other = [segment(0, 0, 1_000, "A"), segment(1, 1_000, 3_000, "B"), segment(2, 3_000, 3_000, "!")];
        for _ in 0..3 {
            gatherer.window_done(3_000, &other);
        }
        let shown = gatherer.take().expect("a report").segments;
        let shown: Vec<_> = shown.iter().map(|segment| segment.text.as_str()).collect();
        assert_eq!(shown, ["a", "B"], "none twice; what has no length is in the transcript");
    }

    #[test]
    fn a_transcript_that_begins_as_was_told_is_only_gone_on_with() {
        let all = [segment(0, 0, 2_000, "a"), segment(1, 2_000, 4_000, "b"), segment(2, 4_000, 6_000, "c")];
        let told = |gatherer: &Gatherer| {
            let report = gatherer.take().unwrap_or_default();
            report.segments.iter().map(|segment| segment.index).collect::<Vec<_>>()
        };
        let gatherer = Gatherer::new(None, Arc::default(), None);
        gatherer.window_done(2_000, &all[..1]);
        // Another engine that heard the same.
        gatherer.begun_anew();
        gatherer.window_done(4_000, &all[..2]);
        assert!(gatherer.complete(&all));
        assert_eq!(told(&gatherer), [0, 1, 2]);

        let one_more = [segment(0, 0, 2_000, "a"), segment(1, 2_000, 4_000, "b")];
        let (other_words, fewer) = ([segment(0, 0, 2_000, "A")], &one_more[..1]);
        for transcript in [&other_words[..], fewer] {
            let gatherer = Gatherer::new(None, Arc::default(), None);
            gatherer.window_done(4_000, &one_more);
            assert!(!gatherer.complete(transcript), "{transcript:?}");
            assert_eq!(
                told(&gatherer),
                [0, 1],
                "nothing of the transcript is added to what it does not go on from"
            );
        }
        let gatherer = Gatherer::new(None, Arc::default(), None);
        gatherer.window_done(6_000, &all[2..]);
        assert!(!gatherer.complete(&all), "the first two were never told");
    }

    #[test]
    fn refused_segments_are_told_before_later_ones() {
        let gatherer = Gatherer::new(None, Arc::default(), None);
        gatherer.window_done(2_000, &[segment(0, 0, 2_000, "a")]);
        let refused = gatherer.take().expect("a report").segments;
        gatherer.window_done(4_000, &[segment(1, 2_000, 4_000, "b")]);
        gatherer.put_back(refused);
        let told = gatherer.take().expect("a report").segments;
        assert_eq!(told.iter().map(|segment| segment.index).collect::<Vec<_>>(), [0, 1]);
    }
}
