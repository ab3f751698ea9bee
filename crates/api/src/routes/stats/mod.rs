//! The service in figures. What a part of the service does not tell in time is left out, not waited for.

mod cost;
mod dto;
mod node;
mod own;

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use verbatim_core::PortError;
use verbatim_core::api_key::Scope;
use verbatim_core::job::JobState;
use verbatim_core::ports::jobs::QueueStats;
use verbatim_core::ports::ledger::{Day, DayTotal};
use verbatim_core::ports::limiter::{LimitUse, RequestLimits};
use verbatim_core::ports::registry::EngineOffer;
use verbatim_core::provider;
use verbatim_core::time::Timestamp;

use self::dto::{Figures, Limits, ProjectUse, Queue, Stats, TenantUse, Tier, Worker, Workers};
use crate::dto::rfc3339;
use crate::error::chain;
use crate::extract::Caller;
use crate::routes::providers::{Provider, rounded};
use crate::state::ApiState;

/// What takes longer to answer is left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// Who announced itself longer ago than twice the usual time has gone.
const HERE: Duration = Duration::from_secs(150);

/// The service in figures
///
/// With the scope `admin`, and where nobody is asked for a key: the queue, the workers, this node, the request limits, the
/// providers, what tenants use and what everything costs. With any other scope: what the key's own tenant takes up and may,
/// and what was done for it. What a part of the service does not tell in time is null, and named in `missing`.
#[utoipa::path(get, path = "/v1/stats", tag = "operations", operation_id = "stats",
    responses((status = 200, description = "The figures", body = Figures)))]
pub(crate) async fn get(State(state): State<ApiState>, caller: Caller) -> Json<Figures> {
    Json(if caller.principal.may(Scope::Admin) {
        Figures::Service(Box::new(service(&state).await))
    } else {
        Figures::Tenant(own::figures(&state, &caller.principal.tenant).await)
    })
}

/// The figures of the whole service.
async fn service(state: &ApiState) -> Stats {
    let now = state.clock.now();
    let today = Day::of(now);
    let (queue, offers, usage, providers, totals) = tokio::join!(
        told("queue", async { Some(state.upkeep.stats().await) }),
        told("workers", async { Some(state.registry.as_ref()?.offers().await) }),
        told("limits", async {
            let (limiter, limits) = state.limiter.as_ref()?;
            Some(limiter.usage(limits).await)
        }),
        told("providers", async { Some(provider::list(state.providers.as_ref()?.shared.as_ref()).await) }),
        told("cost", async {
            let ledger = &state.providers.as_ref()?.ledger;
            Some(ledger.totals(today.earlier(cost::DAYS), today).await)
        }),
    );
    let answers = [&queue.missing, &offers.missing, &usage.missing, &providers.missing, &totals.missing];
    let missing = answers.into_iter().copied().flatten().collect();
    let providers: Option<Vec<Provider>> =
        providers.answer.map(|views| views.into_iter().map(Provider::from).collect());
    let totals: Option<Vec<DayTotal>> = totals.answer;
    let cost = state.providers.as_ref().zip(totals).map(|(parts, totals)| {
        cost::Books { today, terms: &parts.terms, providers: providers.as_deref().unwrap_or_default() }
            .report(&totals)
    });
    let active = queue.answer.as_ref().map(|stats: &QueueStats| stats.workers);
    let limits = state.limiter.as_ref().map(|(_, limits)| shown_limits(limits, usage.answer));
    Stats {
        object: "stats",
        at: rfc3339(now),
        queue: queue.answer.map(shown_queue),
        workers: Workers {
            active,
            data: offers.answer.map(|offers| {
                let now = workers_now(now, active, &offers);
                let here = |offer: &EngineOffer| now.since(offer.announced_at) < HERE;
                offers.into_iter().filter(here).map(shown_worker).collect()
            }),
        },
        node: node::figures(state),
        limits,
        providers,
        cost,
        missing,
    }
}

/// The time by the clocks of the workers, which announce themselves: this node's may be ahead of theirs. While there are
/// workers, the last of them did so a moment ago.
fn workers_now(here: Timestamp, active: Option<u64>, offers: &[EngineOffer]) -> Timestamp {
    let last = offers.iter().map(|offer| offer.announced_at).max();
    last.filter(|_| active > Some(0)).map_or(here, |last| last.min(here))
}

/// An answer, or the name of the part that gave none.
struct Told<T> {
    answer: Option<T>,
    missing: Option<&'static str>,
}

/// What a part of the service tells in time; nothing where there is no such part.
async fn told<T>(name: &'static str, asking: impl Future<Output = Option<Result<T, PortError>>>) -> Told<T> {
    let error = match tokio::time::timeout(PATIENCE, asking).await {
        Ok(None) => return Told { answer: None, missing: None },
        Ok(Some(Ok(answer))) => return Told { answer: Some(answer), missing: None },
        Ok(Some(Err(error))) => chain(&error),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(error, part = name, "a part of the figures is missing");
    Told { answer: None, missing: Some(name) }
}

fn shown_queue(stats: QueueStats) -> Queue {
    let of = |state| stats.states.iter().find(|(known, _)| *known == state).map_or(0, |(_, count)| *count);
    Queue {
        waiting: of(JobState::Queued) + of(JobState::Delayed),
        running: of(JobState::Running),
        tiers: stats
            .tiers
            .iter()
            .map(|tier| Tier {
                priority: tier.priority.as_str(),
                depth: tier.depth,
                oldest_age_secs: rounded(tier.oldest_age.as_secs_f64()),
            })
            .collect(),
        jobs: stats.states.iter().map(|(state, count)| (state.as_str(), *count)).collect(),
        submissions: stats.submissions,
        max_submissions: stats.max_submissions,
        holders: stats.holders,
    }
}

fn shown_worker(offer: EngineOffer) -> Worker {
    Worker {
        id: offer.worker.into(),
        version: offer.version,
        diarization: offer.models.iter().any(|model| model.diarizes),
        models: offer.models.into_iter().map(|model| model.name).collect(),
        announced_at: rfc3339(offer.announced_at),
    }
}

fn shown_limits(limits: &RequestLimits, usage: Option<LimitUse>) -> Limits {
    let usage = usage.unwrap_or_default();
    let per_minute = limits.tenant_per_minute;
    #[expect(clippy::cast_precision_loss, reason = "requests in a minute")]
    let part = |of: u64, all: u64| rounded(of as f64 / all.max(1) as f64);
    Limits {
        tenant_per_minute: per_minute,
        project: limits.project.map(|project| ProjectUse {
            capacity: project.capacity,
            refill_per_minute: project.refill_per_minute,
            burst_per_second: project.burst,
            cooldown_secs: project.cooldown.as_secs_f64(),
            remaining: usage.project_remaining,
            utilisation: usage
                .project_remaining
                .map(|left| part(project.capacity.saturating_sub(left), project.capacity)),
        }),
        tenants: usage
            .tenants
            .into_iter()
            .map(|(tenant, requests)| TenantUse {
                tenant: tenant.into(),
                requests_last_minute: requests,
                utilisation: per_minute.map(|limit| part(requests, limit)),
            })
            .collect(),
    }
}
