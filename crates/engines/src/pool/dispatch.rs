//! A job's way through the pool: a lease of a provider, a call, and the next candidate when that fails.

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
use super::budget::BudgetReservation;
use super::candidates::{Candidate, Score, draw, find_candidates, latency_step, price};
use super::checkpoint::{Progress, Relay, ResumePoint, unwrap};
use super::lease::ProviderLease;

/// Time for an engine to notice that its call took too long, before it is abandoned.
const GRACE: Duration = Duration::from_secs(2);
/// The number of times that a provider which throttled a job is tried again for it.
const THROTTLED_AGAIN: u32 = 2;

/// One job on its way through the pool.
pub(super) struct Job {
    request: EngineRequest,
    observer: Arc<dyn EngineObserver>,
    cancel: CancellationToken,
    pub(super) audio: Duration,
    progress: Arc<Progress>,
    /// The audio that calls were billed for and that is not charged yet, by provider: further calls may follow, and a lease has one
    /// entry in the ledger for each provider.
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

/// The last failure of each provider that was tried.
#[derive(Default)]
struct Failures(HashMap<usize, EngineError>);

impl Failures {
    fn add(&mut self, provider: usize, error: EngineError) {
        self.0.insert(provider, error);
    }

    /// The failure that decides most about the job, with the soonest time of those that name one.
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

/// The rank of a failure in the verdict, the lowest deciding: faults of the job itself; then failures of a provider that tried, which
/// are counted, so that another one's absence does not have a job tried for ever; then failures that pass with time; last options that one
/// provider does not support, since another may.
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

/// The outcome that a failure means for the provider's breaker and limits.
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
        let candidates = self.rank(find_candidates(&self.providers, &request.options, duration_ms)?).await;
        let progress = Arc::new(Progress::default());
        // The provider that began the job is sticky: it goes on with it, whatever its rank.
        let mut sticky = None;
        if let Some(ResumePoint { provider, checkpoint, bill }) = request.resume.take().and_then(unwrap) {
            sticky = candidates
                .iter()
                .find(|candidate| self.providers[candidate.provider].name == provider)
                .cloned();
            if let (Some(bill), Some(job)) = (bill, &request.job) {
                let owner = self.providers.iter().find(|known| known.name == provider);
                owner.inspect(|owner| self.budgets.charge_earlier_lease(owner, job, bill));
            }
            progress.keep(&provider, checkpoint);
        }
        let audio = Duration::from_millis(duration_ms);
        let job = Job { request, observer, cancel, audio, progress, owed: Mutex::default() };
        let done = self.try_each(&job, candidates, sticky).await;
        let owed = std::mem::take(&mut *job.owed());
        for (provider, billed) in owed {
            self.budgets.charge(&self.providers[provider], job.engine_job(), billed, None).await;
        }
        done
    }

    /// Tries one candidate after the other, beginning with the sticky one where there is one.
    async fn try_each(
        &self,
        job: &Job,
        mut candidates: Vec<Candidate>,
        mut sticky: Option<Candidate>,
    ) -> Result<Transcript, EngineError> {
        let (mut failures, mut throttled, mut calls) = (Failures::default(), HashMap::new(), 0);
        while !candidates.is_empty() {
            let asked = sticky.as_ref().map_or(candidates.as_slice(), std::slice::from_ref);
            let leased = tokio::select! {
                biased;
                () = job.cancel.cancelled() => return Err(cancelled()),
                leased = self.lease(asked, job) => leased,
            };
            let (candidate, lease) = match (leased, sticky.take()) {
                (Ok(leased), _) => leased,
                // It is down, not busy: another candidate begins anew.
                (Err(none), Some(sticky)) if !none.is_busy() && candidates.len() > 1 => {
                    failures.add(sticky.provider, none.into_error());
                    candidates.retain(|candidate| *candidate != sticky);
                    continue;
                }
                (Err(none), _) => {
                    failures.add(usize::MAX, none.into_error());
                    break;
                }
            };
            job.observer.begun(self.providers[candidate.provider].timeout(job.audio).saturating_add(GRACE));
            self.count_choice(candidate.provider, calls);
            calls += 1;
            let error = match self.call(&candidate, lease, job).await {
                Ok(transcript) => {
                    self.abandon_others(&self.providers[candidate.provider].name, job);
                    return Ok(transcript);
                }
                Err(error) if error.kind == FailureKind::Cancelled => return Err(error),
                Err(error) => error,
            };
            let provider = &self.providers[candidate.provider];
            let source = error.source.as_deref();
            tracing::warn!(
                provider = provider.name,
                kind = error.kind.code(),
                source,
                "a provider failed: {error}"
            );
            let times = throttled.entry(candidate.provider).or_insert(0);
            *times += 1;
            if error.kind == FailureKind::Throttled && !provider.local && *times <= THROTTLED_AGAIN {
                // Its checkpoint is worth waiting for.
                sticky = job.progress.of(&provider.name).is_some().then(|| candidate.clone());
            } else {
                candidates.retain(|other| *other != candidate);
            }
            failures.add(candidate.provider, error);
        }
        Err(failures.verdict())
    }

    /// The candidates in the order in which they are tried; see [`Score`].
    async fn rank(&self, candidates: Vec<Candidate>) -> Vec<Candidate> {
        if candidates.len() < 2 {
            return candidates;
        }
        let views = join_all(candidates.iter().map(|candidate| self.cached_view(candidate.provider))).await;
        let latencies: Vec<Option<f64>> = candidates
            .iter()
            .zip(&views)
            .map(|(candidate, view)| {
                self.local_latency(candidate.provider)
                    .or(view.as_ref().and_then(|view| view.secs_per_audio_sec))
            })
            .collect();
        let best = latencies.iter().flatten().copied().min_by(f64::total_cmp);
        let mut ranked: Vec<(Score, Candidate)> = candidates
            .into_iter()
            .zip(views)
            .zip(latencies)
            .map(|((candidate, view), latency)| {
                let provider = &self.providers[candidate.provider];
                let unhealthy = view.is_some_and(|view| {
                    // One that is half open needs calls to find out whether it has healed.
                    view.paused || view.breaker == BreakerState::Open || view.cool_down_secs > 0.0
                });
                let score = Score {
                    priority: provider.priority,
                    unhealthy,
                    price: price(provider),
                    latency_step: latency_step(latency, best),
                    draw: draw(provider.weight, self.ports.ids.fraction()),
                };
                (score, candidate)
            })
            .collect();
        ranked.sort_by(|(one, _), (other, _)| one.compare(other));
        ranked.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// One call to its end, with its metrics, outcome and charge.
    async fn call(
        &self,
        candidate: &Candidate,
        lease: ProviderLease,
        job: &Job,
    ) -> Result<Transcript, EngineError> {
        let provider = &self.providers[candidate.provider];
        let ProviderLease { slot, reservation, permit } = lease;
        let resume = job.progress.of(&provider.name);
        let before = job.owed().get(&candidate.provider).copied().unwrap_or_default();
        let relay = Relay::open(
            &provider.name,
            job.engine_job().map(|job| (job.fence, before)),
            resume.is_some(),
            Arc::clone(&job.observer),
            Arc::clone(&job.progress),
        );
        let mut request = EngineRequest { resume, ..job.request.clone() };
        request.options.model.clone_from(&candidate.model);
        let wait_timeout = self.config.wait_timeout;
        let pacer =
            slot.as_ref().map(|slot| slot.pacer(provider.limits, self.ports.ids.clone(), wait_timeout));
        request.pace = pacer.clone().map(|pacer| pacer as Arc<dyn Pace>);
        let begun = Instant::now();
        let result = {
            let _counted = self.ports.metrics.providers.count_in_flight(&provider.name);
            let span = traces::provider_call(&provider.name, &candidate.model, provider.local);
            let timed = self.timed(candidate.provider, request, Arc::clone(&relay), job);
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
            // The next call may go to the same provider, which has to know this outcome by then.
            let _ = tokio::time::timeout(GRACE, known).await;
        }
        drop(permit);
        if result.is_ok() {
            self.note_latency(candidate.provider, took, job.audio);
        }
        self.charge_call(candidate.provider, job, reservation, relay.billed(), &result).await;
        result
    }

    /// Charges the audio that the call was billed for: as its engine said, else all of a success and nothing of a failure.
    async fn charge_call(
        &self,
        index: usize,
        job: &Job,
        reservation: Option<BudgetReservation>,
        billed: Option<Duration>,
        result: &Result<Transcript, EngineError>,
    ) {
        let billed = billed.unwrap_or(if result.is_ok() { job.audio } else { Duration::ZERO });
        let billed = job.owed().remove(&index).unwrap_or_default() + billed;
        // A throttled provider may be called again under the same lease.
        let is_throttled = matches!(result, Err(error) if error.kind == FailureKind::Throttled);
        if !is_throttled && (result.is_ok() || !billed.is_zero()) {
            self.budgets.charge(&self.providers[index], job.engine_job(), billed, reservation).await;
            return;
        }
        if !billed.is_zero() {
            job.owed().insert(index, billed);
        }
        if let Some(reservation) = reservation {
            // Released before the next reservation of the same entry, which it would release otherwise.
            let _ = tokio::time::timeout(GRACE, reservation.release()).await;
        }
    }

    /// Abandons work that other providers have begun for the job: it is of no use any more, and may cost money.
    fn abandon_others(&self, done_by: &str, job: &Job) {
        for (owner, checkpoint) in job.progress.of_others(done_by) {
            if let Some(provider) = self.providers.iter().find(|provider| provider.name == owner) {
                let engine = Arc::clone(&provider.engine);
                self.background.spawn(async move { engine.abandon(checkpoint).await });
            }
        }
    }

    /// The engine's answer, or `TimedOut` when it takes longer than this audio may.
    async fn timed(
        &self,
        index: usize,
        request: EngineRequest,
        relay: Arc<Relay>,
        job: &Job,
    ) -> Result<Transcript, EngineError> {
        let provider = &self.providers[index];
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

    fn count_choice(&self, index: usize, calls_before: u32) {
        let choice = if calls_before == 0 { "first" } else { "failover" };
        let labels = [self.providers[index].name.as_str(), choice];
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
            for (index, (kind, after)) in kinds.iter().enumerate() {
                let mut error = EngineError::new(*kind, "x");
                error.retry_after = after.map(Duration::from_secs);
                failures.add(index, error);
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
