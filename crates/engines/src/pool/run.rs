//! A job's way through the pool: a seat, a call, and the next provider when that fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tracing::Instrument;
use verbatim_core::CancellationToken;
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::{EngineError, EngineJob, EngineObserver, EngineRequest, Pace};
use verbatim_core::provider::{BreakerState, Outcome};
use verbatim_core::transcript::Transcript;
use verbatim_telemetry::traces;

use super::Inner;
use super::checkpoint::{Left, Progress, Relay, unwrap};
use super::choice::{Fit, Score, draw, fitting, latency_step, price};
use super::money::Booking;
use super::seat::Seat;

/// Time for an engine to notice that its call took too long, before it is abandoned.
const GRACE: Duration = Duration::from_secs(2);
/// How often a provider that asked to slow down is asked again for the same job, where its patience allows.
const THROTTLED_AGAIN: u32 = 2;

/// One job on its way.
pub(super) struct Job {
    request: EngineRequest,
    observer: Arc<dyn EngineObserver>,
    cancel: CancellationToken,
    pub(super) audio: Duration,
    progress: Arc<Progress>,
    /// What was billed by calls that others to the same provider may follow: a lease has one entry in its books.
    owed: Mutex<HashMap<usize, Duration>>,
}

impl Job {
    fn owed(&self) -> MutexGuard<'_, HashMap<usize, Duration>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn engine_job(&self) -> Option<&EngineJob> {
        self.request.job.as_ref()
    }
}

/// What went wrong so far, the last failure of each provider.
#[derive(Default)]
struct Failures(HashMap<usize, EngineError>);

impl Failures {
    fn add(&mut self, provider: usize, error: EngineError) {
        self.0.insert(provider, error);
    }

    /// The failure that says most about what to do with the job; of several that ask for time, the soonest.
    fn verdict(self) -> EngineError {
        let soonest =
            self.0.values().filter(|error| refunded(error.kind)).filter_map(|error| error.retry_after).min();
        let worst = self.0.into_values().min_by_key(|error| weight(error.kind));
        let mut error = worst.unwrap_or_else(|| {
            EngineError::new(FailureKind::EngineUnavailable, "no engine can do this job now")
        });
        if refunded(error.kind) {
            error.retry_after = soonest.or(error.retry_after);
        }
        error
    }
}

fn refunded(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Throttled | FailureKind::EngineUnavailable)
}

/// What says most comes first: faults of the job itself, then those of a provider that tried, which are counted: that
/// another one is away must not let a job be tried for ever. Then what time alone mends; last what this provider does
/// not take, since another one may.
fn weight(kind: FailureKind) -> u32 {
    match kind {
        FailureKind::BadAudio | FailureKind::AudioMissing | FailureKind::Expired | FailureKind::Cancelled => {
            0
        }
        FailureKind::TimedOut => 1,
        FailureKind::EngineFailed => 2,
        FailureKind::WorkerLost | FailureKind::Panicked | FailureKind::Internal => 3,
        FailureKind::StorageUnavailable => 4,
        FailureKind::Throttled => 5,
        FailureKind::EngineUnavailable => 6,
        FailureKind::UnsupportedOption | FailureKind::UnsupportedMedia => 7,
    }
}

/// What a failure tells about the provider.
fn outcome_of(error: &EngineError) -> Outcome {
    match error.kind {
        _ if error.blameless => Outcome::Neutral,
        FailureKind::Throttled => Outcome::Throttled { retry_after: error.retry_after },
        FailureKind::EngineUnavailable => {
            Outcome::Failed { unavailable: true, retry_after: error.retry_after }
        }
        FailureKind::EngineFailed | FailureKind::TimedOut | FailureKind::Panicked => {
            Outcome::Failed { unavailable: false, retry_after: None }
        }
        _ => Outcome::Neutral,
    }
}

fn cancelled() -> EngineError {
    EngineError::new(FailureKind::Cancelled, "the work was stopped")
}

impl Inner {
    /// Finds a provider for the job, and another one when that fails, each once.
    pub(super) async fn run(
        &self,
        mut request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError> {
        let duration_ms = request.audio.duration_ms();
        let fits = self.rank(fitting(&self.providers, &request.options, duration_ms)?).await;
        let progress = Arc::new(Progress::default());
        // Whoever began the job goes on with it, whatever its place in the order.
        let mut home = None;
        if let Some(Left { provider, checkpoint, bill }) = request.resume.take().and_then(unwrap) {
            home = fits.iter().find(|fit| self.providers[fit.provider].name == provider).cloned();
            if let (Some(bill), Some(job)) = (bill, &request.job) {
                let owner = self.providers.iter().find(|known| known.name == provider);
                owner.inspect(|owner| self.purse.make_up(owner, job, bill));
            }
            progress.keep(&provider, checkpoint);
        }
        let audio = Duration::from_millis(duration_ms);
        let job = Job { request, observer, cancel, audio, progress, owed: Mutex::default() };
        let done = self.go(&job, fits, home).await;
        let owed = std::mem::take(&mut *job.owed());
        for (provider, billed) in owed {
            self.purse.charge(&self.providers[provider], job.engine_job(), billed, None).await;
        }
        done
    }

    /// From one provider to the next, beginning `home` where there is one.
    async fn go(
        &self,
        job: &Job,
        mut fits: Vec<Fit>,
        mut home: Option<Fit>,
    ) -> Result<Transcript, EngineError> {
        let (mut failures, mut throttled, mut calls) = (Failures::default(), HashMap::new(), 0);
        while !fits.is_empty() {
            let asked = home.as_ref().map_or(fits.as_slice(), std::slice::from_ref);
            let seated = tokio::select! {
                biased;
                () = job.cancel.cancelled() => return Err(cancelled()),
                seated = self.seat(asked, job) => seated,
            };
            let (fit, seat) = match (seated, home.take()) {
                (Ok(seated), _) => seated,
                // Down, not busy: others begin anew.
                (Err(none), Some(home)) if !none.is_busy() && fits.len() > 1 => {
                    failures.add(home.provider, none.into_error());
                    fits.retain(|fit| *fit != home);
                    continue;
                }
                (Err(none), _) => {
                    failures.add(usize::MAX, none.into_error());
                    break;
                }
            };
            job.observer.begun(self.providers[fit.provider].timeout(job.audio).saturating_add(GRACE));
            self.count_choice(fit.provider, calls);
            calls += 1;
            let error = match self.call(&fit, seat, job).await {
                Ok(transcript) => {
                    self.abandon_others(&self.providers[fit.provider].name, job);
                    return Ok(transcript);
                }
                Err(error) if error.kind == FailureKind::Cancelled => return Err(error),
                Err(error) => error,
            };
            let provider = &self.providers[fit.provider];
            let source = error.source.as_deref();
            tracing::warn!(
                provider = provider.name,
                kind = error.kind.code(),
                source,
                "a provider failed: {error}"
            );
            let times = throttled.entry(fit.provider).or_insert(0);
            *times += 1;
            if error.kind == FailureKind::Throttled && !provider.local && *times <= THROTTLED_AGAIN {
                // What it has done already is worth waiting for.
                home = job.progress.of(&provider.name).is_some().then(|| fit.clone());
            } else {
                fits.retain(|other| *other != fit);
            }
            failures.add(fit.provider, error);
        }
        Err(failures.verdict())
    }

    /// In the order in which they are asked; see [`Score`].
    async fn rank(&self, fits: Vec<Fit>) -> Vec<Fit> {
        if fits.len() < 2 {
            return fits;
        }
        let views = join_all(fits.iter().map(|fit| self.glance(fit.provider))).await;
        let latencies: Vec<Option<f64>> = fits
            .iter()
            .zip(&views)
            .map(|(fit, view)| {
                self.local_latency(fit.provider).or(view.as_ref().and_then(|view| view.secs_per_audio_sec))
            })
            .collect();
        let best = latencies.iter().flatten().copied().min_by(f64::total_cmp);
        let mut ranked: Vec<(Score, Fit)> = fits
            .into_iter()
            .zip(views)
            .zip(latencies)
            .map(|((fit, view), latency)| {
                let provider = &self.providers[fit.provider];
                let ailing = view.is_some_and(|view| {
                    // One that is half open needs calls to find out whether it has healed.
                    view.paused || view.breaker == BreakerState::Open || view.cool_down_secs > 0.0
                });
                let score = Score {
                    priority: provider.priority,
                    ailing,
                    price: price(provider),
                    latency_step: latency_step(latency, best),
                    draw: draw(provider.weight, self.ports.ids.fraction()),
                };
                (score, fit)
            })
            .collect();
        ranked.sort_by(|(one, _), (other, _)| one.compare(other));
        ranked.into_iter().map(|(_, fit)| fit).collect()
    }

    /// One call, to its end, and all that follows from how it ended.
    async fn call(&self, fit: &Fit, seat: Seat, job: &Job) -> Result<Transcript, EngineError> {
        let provider = &self.providers[fit.provider];
        let Seat { slot, booking, place } = seat;
        let resume = job.progress.of(&provider.name);
        let before = job.owed().get(&fit.provider).copied().unwrap_or_default();
        let relay = Relay::open(
            &provider.name,
            job.engine_job().map(|job| (job.fence, before)),
            resume.is_some(),
            Arc::clone(&job.observer),
            Arc::clone(&job.progress),
        );
        let mut request = EngineRequest { resume, ..job.request.clone() };
        request.options.model.clone_from(&fit.model);
        let patience = self.config.patience;
        let pacer = slot.as_ref().map(|slot| slot.pacer(provider.limits, self.ports.ids.clone(), patience));
        request.pace = pacer.clone().map(|pacer| pacer as Arc<dyn Pace>);
        let begun = Instant::now();
        let result = {
            let _counted = self.ports.metrics.providers.count_in_flight(&provider.name);
            let span = traces::provider_call(&provider.name, &fit.model, provider.local);
            let timed = self.timed(fit.provider, request, Arc::clone(&relay), job);
            timed
                .instrument(span.clone())
                .await
                .inspect_err(|error| traces::provider_failed(&span, error.kind))
        };
        relay.close();
        let took = begun.elapsed().saturating_sub(pacer.map(|pacer| pacer.waited()).unwrap_or_default());
        let metrics = &self.ports.metrics.providers;
        metrics.seconds.with_label_values(&[provider.name.as_str()]).observe(took.as_secs_f64());
        metrics.count_request(&provider.name, result.as_ref().err().map(|error| error.kind));
        let outcome = match &result {
            Ok(_) => Outcome::Success { took, audio: job.audio },
            Err(error) => outcome_of(error),
        };
        if let Some(known) = slot.and_then(|slot| slot.end(outcome))
            && result.is_err()
        {
            // The next one asked may be the same: what it said has to be known by then.
            let _ = tokio::time::timeout(GRACE, known).await;
        }
        drop(place);
        if result.is_ok() {
            self.note_latency(fit.provider, took, job.audio);
        }
        self.book(fit.provider, job, booking, relay.billed(), &result).await;
        result
    }

    /// Charges what the call was billed for: what its engine said, or all of a success and nothing of a failure.
    async fn book(
        &self,
        place: usize,
        job: &Job,
        booking: Option<Booking>,
        billed: Option<Duration>,
        result: &Result<Transcript, EngineError>,
    ) {
        let billed = billed.unwrap_or(if result.is_ok() { job.audio } else { Duration::ZERO });
        let billed = job.owed().remove(&place).unwrap_or_default() + billed;
        // It may be asked again under the same lease.
        let is_throttled = matches!(result, Err(error) if error.kind == FailureKind::Throttled);
        if !is_throttled && (result.is_ok() || !billed.is_zero()) {
            self.purse.charge(&self.providers[place], job.engine_job(), billed, booking).await;
            return;
        }
        if !billed.is_zero() {
            job.owed().insert(place, billed);
        }
        if let Some(booking) = booking {
            // Before the next reservation of the same entry: it would be given back in its place.
            let _ = tokio::time::timeout(GRACE, booking.give_back()).await;
        }
    }

    /// What other providers have begun for the job is of no use any more, and may cost money.
    fn abandon_others(&self, done_by: &str, job: &Job) {
        for (owner, checkpoint) in job.progress.of_others(done_by) {
            if let Some(provider) = self.providers.iter().find(|provider| provider.name == owner) {
                let engine = Arc::clone(&provider.engine);
                self.afterwards.spawn(async move { engine.abandon(checkpoint).await });
            }
        }
    }

    /// The engine's answer, or `TimedOut` when it takes longer than this audio may.
    async fn timed(
        &self,
        place: usize,
        request: EngineRequest,
        relay: Arc<Relay>,
        job: &Job,
    ) -> Result<Transcript, EngineError> {
        let provider = &self.providers[place];
        let cancel = job.cancel.child_token();
        let mut answer = provider.engine.transcribe(request, relay, cancel.clone());
        tokio::select! {
            result = &mut answer => return result,
            () = tokio::time::sleep(provider.timeout(job.audio)) => {}
        }
        cancel.cancel();
        if tokio::time::timeout(GRACE, answer).await.is_err() {
            tracing::warn!(provider = provider.name, "an engine did not stop when its call took too long");
        }
        Err(EngineError::new(FailureKind::TimedOut, "the engine took too long for audio of this length"))
    }

    fn count_choice(&self, place: usize, calls_before: u32) {
        let choice = if calls_before == 0 { "first" } else { "failover" };
        let labels = [self.providers[place].name.as_str(), choice];
        self.ports.metrics.providers.choices.with_label_values(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_the_failure_that_says_most() {
        let verdict = |kinds: &[(FailureKind, Option<u64>)]| {
            let mut failures = Failures::default();
            for (place, (kind, after)) in kinds.iter().enumerate() {
                let mut error = EngineError::new(*kind, "x");
                error.retry_after = after.map(Duration::from_secs);
                failures.add(place, error);
            }
            let verdict = failures.verdict();
            (verdict.kind, verdict.retry_after.map(|after| after.as_secs()))
        };
        use FailureKind::{BadAudio, EngineFailed, EngineUnavailable, Throttled, UnsupportedOption};
        assert_eq!(
            verdict(&[(EngineFailed, None), (BadAudio, None), (Throttled, Some(1))]),
            (BadAudio, None)
        );
        // It was tried, and counts: that another one is busy must not have it tried for ever.
        assert_eq!(verdict(&[(EngineFailed, None), (Throttled, Some(9))]), (EngineFailed, None));
        assert_eq!(verdict(&[(Throttled, Some(9)), (EngineUnavailable, Some(4))]), (Throttled, Some(4)));
        assert_eq!(verdict(&[(UnsupportedOption, None), (Throttled, None)]).0, Throttled);
        assert_eq!(verdict(&[]).0, EngineUnavailable);
    }
}
