//! What a tenant is shown: its own figures, and nothing that tells when and how much others submit.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;
use verbatim_core::caps::TenantUse;
use verbatim_core::costs::{Sum, daily};
use verbatim_core::ids::TenantId;
use verbatim_core::job::TenantCaps;
use verbatim_core::ports::ledger::{Day, DayTotal};

use super::cost::{DAYS, date};
use super::told;
use crate::dto::rfc3339;
use crate::routes::providers::rounded;
use crate::state::ApiState;

/// The figures of the key's tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantStats {
    /// Always `tenant_stats`.
    #[schema(example = "tenant_stats")]
    object: &'static str,
    /// When (RFC 3339, UTC, milliseconds).
    #[schema(example = "2026-01-31T12:00:00.000Z")]
    at: String,
    /// Whose.
    #[schema(example = "acme")]
    tenant: String,
    /// Its jobs; null where the job store did not tell.
    jobs: Option<OwnJobs>,
    /// What was done for it by day (UTC), the latest first, today among them; null where nothing is known of it.
    usage: Option<Vec<DayUse>>,
    /// Parts of the service that did not tell their figures: of `jobs`, `usage`.
    #[schema(example = json!([]))]
    missing: Vec<&'static str>,
}

/// The jobs of one tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OwnJobs {
    /// Jobs that wait, for a worker or for their time.
    #[schema(example = 12)]
    queued: u64,
    /// Jobs being worked on.
    #[schema(example = 2)]
    running: u64,
    /// Submissions that are remembered, those that have ended among them.
    #[schema(example = 340)]
    submissions: u64,
    /// Jobs that may run at once; null for no cap.
    #[schema(example = 2)]
    max_running: Option<u64>,
    /// Jobs that may wait before new ones are refused; null for no cap.
    #[schema(example = 100)]
    max_queued: Option<u64>,
}

/// What was done for a tenant on one day.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DayUse {
    /// Which.
    #[schema(example = "2026-01-31")]
    day: String,
    /// Pieces of work finished.
    #[schema(example = 40)]
    jobs: u64,
    /// Seconds of audio in them.
    #[schema(example = 7_200.0)]
    audio_secs: f64,
}

/// The figures of this tenant.
pub(super) async fn figures(state: &ApiState, tenant: &TenantId) -> TenantStats {
    let now = state.clock.now();
    let today = Day::of(now);
    let (jobs, totals) = tokio::join!(
        told("jobs", async { Some(state.admin.tenants(std::slice::from_ref(tenant)).await) }),
        told("usage", async {
            let ledger = &state.providers.as_ref()?.ledger;
            Some(ledger.totals(today.earlier(DAYS), today).await)
        }),
    );
    TenantStats {
        object: "tenant_stats",
        at: rfc3339(now),
        tenant: tenant.to_string(),
        missing: [jobs.missing, totals.missing].into_iter().flatten().collect(),
        jobs: jobs.answer.and_then(|mut found| found.pop()).map(own_jobs),
        usage: totals.answer.map(|totals| usage(&totals, tenant, today)),
    }
}

fn own_jobs(figures: TenantUse) -> OwnJobs {
    let TenantUse { tenant: _, running, waiting, submissions, caps } = figures;
    let TenantCaps { max_running, max_queued } = caps;
    OwnJobs { queued: waiting, running, submissions, max_running, max_queued }
}

fn usage(totals: &[DayTotal], tenant: &TenantId, today: Day) -> Vec<DayUse> {
    let own = totals.iter().filter(|total| total.tenant == *tenant);
    let shown = |(day, Sum { jobs, billed_ms, .. }): (Day, Sum)| DayUse {
        day: date(day),
        jobs,
        audio_secs: rounded(Duration::from_millis(billed_ms).as_secs_f64()),
    };
    daily(own, today.earlier(DAYS), today).into_iter().rev().map(shown).collect()
}
