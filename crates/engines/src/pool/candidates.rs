//! The providers that can do a job, and the order in which they are tried.

use std::cmp::Ordering;
use std::time::Duration;

use verbatim_core::class::JobClass;
use verbatim_core::failure::FailureKind;
use verbatim_core::model::ModelInfo;
use verbatim_core::options::{ENGINE_AUTO, TranscribeOptions};
use verbatim_core::ports::engine::{Capabilities, EngineError};

use super::provider::Provider;

/// The factor within which latencies count as equal: they vary more than that from job to job.
const SAME_LATENCY: f64 = 1.5;

/// The time after which a job that only other workers can do is tried again.
const OTHER_WORKERS_RETRY: Duration = Duration::from_secs(5);

/// The reason for which a provider cannot do a job, in words for the client.
enum Obstacle {
    /// It is not what was asked for. The service accepted the job, so another worker has that.
    Elsewhere(String),
    /// It is what was asked for and does not support the job.
    Unable(String),
}

/// A provider that can do a job, and the model with which it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its index in the pool.
    pub(super) provider: usize,
    pub(super) model: String,
}

/// The providers that are what was asked for (any, for `auto`) and can do the job, in the pool's order.
///
/// # Errors
/// [`FailureKind::UnsupportedOption`] when a provider is what was asked for and cannot; [`FailureKind::EngineUnavailable`]
/// when none here is. With the first reason for the client.
pub(super) fn find_candidates(
    providers: &[Provider],
    options: &TranscribeOptions,
    duration_ms: u64,
) -> Result<Vec<Candidate>, EngineError> {
    let (mut candidates, mut unable, mut elsewhere) = (Vec::new(), None, None);
    for (index, provider) in providers.iter().enumerate() {
        let asked = [ENGINE_AUTO, provider.kind.as_str(), provider.name.as_str()];
        if !asked.contains(&options.engine.as_str()) {
            continue;
        }
        match model_for(&provider.kind, &provider.engine.capabilities(), options, duration_ms) {
            Ok(model) => candidates.push(Candidate { provider: index, model }),
            Err(Obstacle::Unable(reason)) => unable = unable.or(Some(reason)),
            Err(Obstacle::Elsewhere(reason)) => elsewhere = elsewhere.or(Some(reason)),
        }
    }
    if !candidates.is_empty() {
        return Ok(candidates);
    }
    if let Some(reason) = unable {
        return Err(EngineError::new(FailureKind::UnsupportedOption, reason));
    }
    let reason = elsewhere.unwrap_or_else(|| format!("there is no engine `{}` here", options.engine));
    let mut error = EngineError::new(FailureKind::EngineUnavailable, reason);
    error.retry_after = Some(OTHER_WORKERS_RETRY);
    Err(error)
}

/// The support that these providers have for a class of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClassSupport {
    /// These do them, by their indexes in the pool.
    By(Vec<usize>),
    /// One is what was asked for, and cannot do it: no other worker needs to be asked.
    Refused,
}

/// The classes of jobs that are not left to other workers, with their support here: the answer of [`find_candidates`] for one example
/// of each. The length of the audio, which may matter too, is known only when it is decoded.
pub(super) fn classes(providers: &[Provider]) -> Vec<(JobClass, ClassSupport)> {
    let models: Vec<ModelInfo> =
        providers.iter().flat_map(|provider| provider.engine.capabilities().models).collect();
    let engines = providers.iter().flat_map(|provider| [provider.kind.as_str(), provider.name.as_str()]);
    let examples = JobClass::examples(engines, models.iter().map(|model| model.name.as_str()));
    let support = |options: &TranscribeOptions| match find_candidates(providers, options, 0) {
        Ok(candidates) => {
            Some(ClassSupport::By(candidates.into_iter().map(|candidate| candidate.provider).collect()))
        }
        Err(error) if error.kind == FailureKind::UnsupportedOption => Some(ClassSupport::Refused),
        Err(_) => None,
    };
    examples.iter().filter_map(|options| Some((JobClass::of(options), support(options)?))).collect()
}

/// The model with which an engine would do the job, or why it cannot.
fn model_for(
    kind: &str,
    capabilities: &Capabilities,
    options: &TranscribeOptions,
    duration_ms: u64,
) -> Result<String, Obstacle> {
    let Capabilities { models, max_duration, .. } = capabilities;
    let named = models.iter().filter(|model| model.name == options.model);
    // Its default comes first among its own.
    let others = models.iter().filter(|model| options.any_model && model.name != options.model);
    let mut reason = None;
    let mut able = named.chain(others).filter(|model| match model.check(options) {
        Ok(()) => true,
        Err(error) => {
            reason.get_or_insert(error.to_string());
            false
        }
    });
    let Some(ModelInfo { name, .. }) = able.next() else {
        drop(able);
        // It never will: only where any engine and model would do, another worker may have one that can.
        let any_would_do = options.engine == ENGINE_AUTO && options.any_model;
        return Err(match reason {
            None => Obstacle::Elsewhere(format!("engine `{kind}` has no model `{}`", options.model)),
            Some(reason) if any_would_do => Obstacle::Elsewhere(reason),
            Some(reason) => Obstacle::Unable(reason),
        });
    };
    match max_duration {
        Some(max) if Duration::from_millis(duration_ms) > *max => {
            Err(Obstacle::Unable(format!("engine `{kind}` takes audio of at most {} s", max.as_secs())))
        }
        _ => Ok(name.clone()),
    }
}

/// The keys by which candidates are ordered. The lowest is tried first:
/// 1. the priority of the configuration;
/// 2. its health: not paused, not cooling down, its breaker closed;
/// 3. the price, a local engine without one being free and a remote one without one the dearest;
/// 4. the latency per second of audio, in steps: twice as slow is worse, a little slower is not; one that is not known
///    counts as the best, so that it gets known;
/// 5. among those that are equal until here, a draw in which each wins as often as its weight says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Score {
    pub(super) priority: u32,
    pub(super) unhealthy: bool,
    /// Millionths per hour.
    pub(super) price: u64,
    pub(super) latency_step: u32,
    /// Drawn; the highest wins.
    pub(super) draw: f64,
}

impl Score {
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let key = |score: &Self| (score.priority, score.unhealthy, score.price, score.latency_step);
        key(self).cmp(&key(other)).then(other.draw.total_cmp(&self.draw))
    }
}

/// The price by which providers are compared.
pub(super) fn price(provider: &Provider) -> u64 {
    match provider.price_per_hour {
        Some(price) => price.as_micros(),
        None if provider.local => 0,
        None => u64::MAX,
    }
}

/// The step of a latency, seen from the best one.
pub(super) fn latency_step(latency: Option<f64>, best: Option<f64>) -> u32 {
    match (latency, best) {
        (Some(latency), Some(best)) if latency > best && best > 0.0 => {
            (latency / best).log(SAME_LATENCY).floor() as u32
        }
        _ => 0,
    }
}

/// A draw in which the highest wins as often as its weight says (Efraimidis and Spirakis, "Weighted random sampling with
/// a reservoir", 2006). `fraction` is drawn evenly from `[0, 1)`.
pub(super) fn draw(weight: u32, fraction: f64) -> f64 {
    fraction.powf(1.0 / f64::from(weight.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EQUAL: Score = Score { priority: 1, unhealthy: false, price: 5, latency_step: 1, draw: 0.5 };

    #[test]
    fn each_rule_decides_only_where_those_before_it_do_not() {
        let first = [
            Score { priority: 0, unhealthy: true, price: 9, latency_step: 9, draw: 0.0 },
            Score { unhealthy: false, price: 9, latency_step: 9, draw: 0.0, ..EQUAL },
            Score { price: 4, latency_step: 9, draw: 0.0, ..EQUAL },
            Score { latency_step: 0, draw: 0.0, ..EQUAL },
            Score { draw: 0.6, ..EQUAL },
        ];
        let second = [EQUAL, Score { unhealthy: true, ..EQUAL }, EQUAL, EQUAL, EQUAL];
        for (first, second) in first.iter().zip(&second) {
            assert_eq!(first.compare(second), Ordering::Less, "{first:?} before {second:?}");
            assert_eq!(second.compare(first), Ordering::Greater);
        }
    }

    #[test]
    fn a_draw_follows_the_weights() {
        // A grid instead of chance: every pair of fractions once.
        let grid = || (0..100).map(|step| (f64::from(step) + 0.5) / 100.0);
        let wins = grid().flat_map(|one| grid().map(move |other| draw(3, one) > draw(1, other)));
        let share = wins.filter(|wins| *wins).count();
        assert!((7400..7600).contains(&share), "three of four, not {share} of 10000");
    }

    #[test]
    fn small_differences_of_latency_are_none() {
        assert_eq!(latency_step(None, Some(0.1)), 0);
        assert_eq!(latency_step(Some(0.14), Some(0.1)), 0);
        assert_eq!(latency_step(Some(0.1), Some(0.1)), 0);
        assert!(latency_step(Some(1.0), Some(0.1)) > latency_step(Some(0.2), Some(0.1)));
    }
}
