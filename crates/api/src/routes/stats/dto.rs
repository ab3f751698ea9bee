//! The JSON of `/v1/stats`.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::own::TenantStats;
use crate::routes::providers::Provider;

/// What the key may see.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Figures {
    /// Of the whole service, for the scope `admin`.
    Service(Box<Stats>),
    /// Of the key's own tenant, for all others.
    Tenant(TenantStats),
}

/// The service in figures.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stats {
    /// Always `stats`.
    #[schema(example = "stats")]
    pub(super) object: &'static str,
    /// When (RFC 3339, UTC, milliseconds).
    #[schema(example = "2026-01-31T12:00:00.000Z")]
    pub(super) at: String,
    /// The queue of all nodes together.
    pub(super) queue: Option<Queue>,
    /// Who works on it.
    pub(super) workers: Workers,
    /// The node that answers, since its process began.
    pub(super) node: Node,
    /// The request limits and how much of them is used; null where there are none.
    pub(super) limits: Option<Limits>,
    /// The providers behind the engines; null where nothing is known of them.
    pub(super) providers: Option<Vec<Provider>>,
    /// What the work costs; null where nothing is known of it.
    pub(super) cost: Option<Cost>,
    /// Parts of the service that did not tell their figures: of `queue`, `workers`, `limits`, `providers`, `cost`.
    #[schema(example = json!([]))]
    pub(super) missing: Vec<&'static str>,
}

/// The queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Queue {
    /// Jobs that wait, for a worker or for their time.
    #[schema(example = 12)]
    pub(super) waiting: u64,
    /// Jobs being worked on.
    #[schema(example = 4)]
    pub(super) running: u64,
    /// The tiers, each with its own line.
    pub(super) tiers: Vec<Tier>,
    /// Jobs by state: `queued`, `delayed`, `running`, `completed`, `failed`, `cancelled`.
    #[schema(value_type = BTreeMap<String, u64>, example = json!({"queued": 12, "running": 4, "completed": 300}))]
    pub(super) jobs: BTreeMap<&'static str, u64>,
    /// Submissions that are remembered.
    #[schema(example = 340)]
    pub(super) submissions: u64,
    /// The most that may be, which tenants share; null for no limit.
    #[schema(example = 160_000)]
    pub(super) max_submissions: Option<u64>,
    /// Tenants of which submissions are remembered.
    #[schema(example = 12)]
    pub(super) holders: u64,
}

/// A tier of the queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tier {
    /// `high`, `normal` or `low`.
    #[schema(example = "normal")]
    pub(super) priority: &'static str,
    /// Jobs waiting.
    #[schema(example = 12)]
    pub(super) depth: u64,
    /// How long the oldest has waited, in seconds.
    #[schema(example = 3.5)]
    pub(super) oldest_age_secs: f64,
}

/// The workers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Workers {
    /// Workers that were heard of within the last lease.
    #[schema(example = 3)]
    pub(super) active: Option<u64>,
    /// What each worker of the cluster can do; null where the worker is part of the node.
    pub(super) data: Option<Vec<Worker>>,
}

/// A worker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Worker {
    /// Its name.
    #[schema(example = "worker_01JD8N3W0S5Y6T7E8Z9QK4M2VX")]
    pub(super) id: String,
    /// The version of its program.
    #[schema(example = "0.1.0")]
    pub(super) version: String,
    /// The models that it offers.
    #[schema(example = json!(["tiny.en"]))]
    pub(super) models: Vec<String>,
    /// Whether it tells speakers apart.
    pub(super) diarization: bool,
    /// When it said so last.
    pub(super) announced_at: String,
}

/// One node, since its process began.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Node {
    /// When that was.
    pub(super) started_at: String,
    /// The version of its program.
    #[schema(example = "0.1.0")]
    pub(super) version: &'static str,
    /// Its memory in RAM, in bytes; null where the system does not tell.
    #[schema(example = 48_000_000)]
    pub(super) resident_bytes: Option<u64>,
    /// Submissions by where their answer came from.
    pub(super) submissions: ReuseCounts,
    /// Part of the submissions that a finished result answered; null before the first.
    #[schema(example = 0.1)]
    pub(super) cache_hit_ratio: Option<f64>,
    /// Part of the submissions that made no new work: the cached ones, and those that joined work under way.
    #[schema(example = 0.25)]
    pub(super) reuse_ratio: Option<f64>,
    /// Its stages: how many may be at each at once, and are.
    pub(super) stages: Vec<Stage>,
    /// Response times, the busiest route first.
    pub(super) routes: Vec<Route>,
}

/// Submissions by where their answer came from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReuseCounts {
    /// New work.
    pub(super) new: u64,
    /// Joined work under way.
    pub(super) attached: u64,
    /// Answered by a finished result.
    pub(super) cached: u64,
    /// Repeated requests.
    pub(super) replayed: u64,
}

/// A stage of the work on one node. The number of places follows the load.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stage {
    /// `connections` (requests being answered), `uploads`, `watchers` (event streams and waiting requests), and in a
    /// process that also works on jobs: `decode`, `transcribe`, `store`.
    #[schema(example = "uploads")]
    pub(super) stage: &'static str,
    /// Places there are now.
    #[schema(example = 64)]
    pub(super) places: i64,
    /// Those taken.
    #[schema(example = 16)]
    pub(super) taken: i64,
    /// Who waits for one.
    #[schema(example = 0)]
    pub(super) waiting: i64,
    /// Part of them that is taken.
    #[schema(example = 0.25)]
    pub(super) utilisation: f64,
    /// Who found none in time.
    #[schema(example = 0)]
    pub(super) turned_away: u64,
}

/// Response times of a route, until the head of the answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Route {
    /// The route.
    #[schema(example = "/v1/jobs/{id}")]
    pub(super) route: String,
    /// The method.
    #[schema(example = "GET")]
    pub(super) method: String,
    /// Requests answered.
    pub(super) requests: u64,
    /// On average, in milliseconds.
    pub(super) mean_ms: f64,
    /// Half of them were quicker, as far as the histogram's buckets tell.
    pub(super) p50_ms: f64,
    /// 95 % of them were.
    pub(super) p95_ms: f64,
    /// 99 % of them were.
    pub(super) p99_ms: f64,
}

/// The request limits. Requests that make work are counted: submissions on both faces.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Limits {
    /// Requests of one tenant within any 60 seconds; null for no limit.
    #[schema(example = 60)]
    pub(super) tenant_per_minute: Option<u64>,
    /// Requests of all; null for no limit.
    pub(super) project: Option<ProjectUse>,
    /// The busiest tenants of the last minute.
    pub(super) tenants: Vec<TenantUse>,
}

/// The bucket of requests of all tenants.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProjectUse {
    /// Its size.
    #[schema(example = 300)]
    pub(super) capacity: u64,
    /// What is refilled in a minute.
    #[schema(example = 300)]
    pub(super) refill_per_minute: u64,
    /// Requests within one second, at most.
    #[schema(example = 50)]
    pub(super) burst_per_second: u64,
    /// How long everything is refused once it is empty.
    #[schema(example = 5.0)]
    pub(super) cooldown_secs: f64,
    /// What is left in it.
    #[schema(example = 280)]
    pub(super) remaining: Option<u64>,
    /// Part of it that is used up.
    #[schema(example = 0.0667)]
    pub(super) utilisation: Option<f64>,
}

/// The requests of a tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantUse {
    /// Whose.
    #[schema(example = "acme")]
    pub(super) tenant: String,
    /// Requests in the last minute.
    #[schema(example = 15)]
    pub(super) requests_last_minute: u64,
    /// Part of its limit that is used; null without a limit.
    #[schema(example = 0.25)]
    pub(super) utilisation: Option<f64>,
}

/// What the work costs. Days are UTC.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cost {
    /// The currency of all amounts; null where no prices are configured.
    #[schema(example = "EUR")]
    pub(super) currency: Option<String>,
    /// Today.
    #[schema(example = "2026-01-31")]
    pub(super) day: String,
    /// Today's sum.
    pub(super) today: Expense,
    /// Today by provider, against their budgets.
    pub(super) providers: Vec<CostLine>,
    /// Today by tenant, against theirs.
    pub(super) tenants: Vec<CostLine>,
    /// Where the cost of a day is going.
    pub(super) trend: TrendView,
    /// Providers over today and the seven days before it, the cheapest audio hour first; unknown prices last.
    pub(super) comparison: Vec<CostLine>,
}

/// A sum.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Expense {
    /// Pieces of work billed.
    pub(super) jobs: u64,
    /// Seconds of audio billed.
    pub(super) audio_secs: f64,
    /// Of these, seconds for which no price is known.
    pub(super) unpriced_audio_secs: f64,
    /// What it cost, as far as prices are known; null when none is.
    #[schema(example = 1.44)]
    pub(super) cost: Option<f64>,
    /// What an hour of the priced audio cost; null when there is none.
    #[schema(example = 0.36)]
    pub(super) cost_per_audio_hour: Option<f64>,
}

/// The sum of one provider or tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CostLine {
    /// Whose.
    #[schema(example = "azure-west")]
    pub(super) name: String,
    /// How much.
    #[serde(flatten)]
    pub(super) sum: Expense,
    /// What may be spent in a day; null for no limit.
    #[schema(example = 10.0)]
    pub(super) budget: Option<f64>,
    /// Part of it that is spent. From 0.8 on, somebody should look.
    #[schema(example = 0.144)]
    pub(super) budget_used: Option<f64>,
}

/// Where the cost of a day is going.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrendView {
    /// `rising`, `falling` or `stable`: the straight line that fits the last seven full days best changes by more than a
    /// tenth of the average day from the first to the last of them, or it does not.
    #[schema(example = "stable")]
    pub(super) direction: &'static str,
    /// That change, as a part of the average day.
    #[schema(example = 0.03)]
    pub(super) change: f64,
    /// The days, the earliest first; today is not over and not among them.
    pub(super) days: Vec<DayCost>,
}

/// The sum of one day.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DayCost {
    /// Which.
    #[schema(example = "2026-01-30")]
    pub(super) day: String,
    /// How much.
    #[serde(flatten)]
    pub(super) sum: Expense,
}
