//! The service in figures.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::keys::{Keys, Locked, with};
use crate::support::shared::{Books, Doorman, Offers, Values};
use crate::support::{World, get};
use serde_json::{Value, json};
use verbatim_api_lib::{CostTerms, ProviderParts};
use verbatim_core::ErrorKind;
use verbatim_core::api_key::Scope;
use verbatim_core::ids::{TenantId, WorkerId};
use verbatim_core::job::JobState;
use verbatim_core::model::ModelInfo;
use verbatim_core::money::Money;
use verbatim_core::options::Priority;
use verbatim_core::ports::jobs::{QueueStats, TierStats};
use verbatim_core::ports::ledger::{Day, DayTotal};
use verbatim_core::ports::limiter::{LimitUse, ProjectLimit, RequestLimits};
use verbatim_core::ports::registry::EngineOffer;
use verbatim_core::provider::{ProviderFacts, announce};
use verbatim_core::time::Timestamp;

/// The API with something to tell about everything.
struct Busy {
    world: World,
    keys: Arc<Keys>,
    values: Arc<Values>,
    books: Arc<Books>,
    doorman: Arc<Doorman>,
}

const NOON: Timestamp = Timestamp::from_millis(1_767_268_800_000);

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn total(days_ago: u32, provider: &str, name: &str, cost: Option<u64>) -> DayTotal {
    DayTotal {
        day: Day::of(NOON).earlier(days_ago),
        provider: provider.into(),
        tenant: tenant(name),
        jobs: 2,
        billed_ms: 3_600_000,
        unpriced_ms: if cost.is_some() { 0 } else { 3_600_000 },
        cost: Money::from_micros(cost.unwrap_or(0)),
    }
}

fn offer(number: u32, model: &str, secs_ago: u64) -> EngineOffer {
    EngineOffer {
        worker: WorkerId::from_ulid(&format!("{number:026}")).unwrap(),
        version: "0.1.0".into(),
        models: vec![ModelInfo {
            name: model.into(),
            engine: "whisper".into(),
            multilingual: false,
            translates: false,
            diarizes: false,
            revision: "r1".into(),
        }],
        announced_at: Timestamp::from_millis(NOON.as_millis() - i64::try_from(secs_ago).unwrap() * 1000),
    }
}

impl Busy {
    async fn new() -> Self {
        let (keys, values) = (Arc::new(Keys::default()), Arc::new(Values::default()));
        let (books, doorman) = (Arc::new(Books::default()), Arc::new(Doorman::default()));
        let facts = ProviderFacts {
            kind: "azure".into(),
            local: false,
            priority: 1,
            weight: 1,
            max_concurrency: 20,
            requests_per_minute: None,
            price_per_hour: Money::parse(0.36),
            daily_budget: Money::parse(1.0),
        };
        announce(values.as_ref(), "azure", &facts).await.unwrap();
        *books.totals.lock().unwrap() = vec![
            total(2, "azure", "acme", Some(360_000)),
            total(0, "azure", "acme", Some(360_000)),
            total(0, "azure", "other", Some(540_000)),
            total(0, "whisper", "other", None),
        ];
        *doorman.usage.lock().unwrap() =
            LimitUse { tenants: vec![(tenant("acme"), 15)], project_remaining: Some(270) };
        let limits = RequestLimits {
            tenant_per_minute: Some(60),
            project: Some(ProjectLimit {
                capacity: 300,
                refill_per_minute: 300,
                burst: 50,
                cooldown: Duration::from_secs(5),
            }),
        };
        let terms = CostTerms { currency: Some("EUR".into()), tenant_daily_budget: Money::parse(0.72) };
        let offers = Offers(vec![offer(1, "tiny.en", 30), offer(2, "base", 3_600)].into());
        let world = World::with(|parts| {
            parts.auth = Some(keys.clone());
            parts.providers = Some(ProviderParts { shared: values.clone(), ledger: books.clone(), terms });
            parts.limiter = Some((doorman.clone(), limits));
            parts.registry = Some(Arc::new(offers));
        });
        *world.jobs.figures.lock().unwrap() = QueueStats {
            tiers: vec![TierStats {
                priority: Priority::High,
                depth: 3,
                oldest_age: Duration::from_millis(1_500),
            }],
            states: vec![(JobState::Queued, 3), (JobState::Delayed, 2), (JobState::Running, 4)],
            submissions: 11,
            max_submissions: Some(24),
            holders: 2,
            workers: 1,
            garbage: 0,
            isolated: 0,
            unserved: Vec::new(),
        };
        Self { world, keys, values, books, doorman }
    }

    async fn stats(&self, scope: Scope) -> Value {
        let locked = Locked { world: World::new(), keys: self.keys.clone() };
        let key = locked.key("acme", scope).await;
        let (status, stats) = self.world.json(with(get("/v1/stats"), &key)).await;
        assert_eq!(status, 200, "{stats}");
        stats
    }
}

#[tokio::test]
async fn an_operator_sees_everything() {
    let busy = Busy::new().await;
    let stats = busy.stats(Scope::Admin).await;
    assert_eq!(stats["missing"], json!([]));
    let queue = &stats["queue"];
    assert_eq!(
        (&queue["waiting"], &queue["running"], &queue["submissions"]),
        (&json!(5), &json!(4), &json!(11))
    );
    assert_eq!(queue["tiers"], json!([{"priority": "high", "depth": 3, "oldest_age_secs": 1.5}]));
    assert_eq!(queue["jobs"], json!({"queued": 3, "delayed": 2, "running": 4}));

    let workers = &stats["workers"];
    assert_eq!(
        (&workers["active"], workers["data"].as_array().unwrap().len()),
        (&json!(1), 1),
        "one has gone"
    );
    assert_eq!(workers["data"][0]["models"], json!(["tiny.en"]));

    let limits = &stats["limits"];
    assert_eq!((&limits["tenant_per_minute"], &limits["project"]["utilisation"]), (&json!(60), &json!(0.1)));
    assert_eq!(
        limits["tenants"],
        json!([{"tenant": "acme", "requests_last_minute": 15, "utilisation": 0.25}])
    );
    assert_eq!(
        (&stats["providers"][0]["name"], &stats["providers"][0]["price_per_audio_hour"]),
        (&json!("azure"), &json!(0.36))
    );

    let cost = &stats["cost"];
    assert_eq!((&cost["currency"], &cost["day"]), (&json!("EUR"), &json!("2026-01-01")));
    assert_eq!((&cost["today"]["cost"], &cost["today"]["audio_secs"]), (&json!(0.9), &json!(10_800.0)));
    let [azure, whisper] = [&cost["providers"][0], &cost["providers"][1]];
    assert_eq!(
        (&azure["name"], &azure["budget"], &azure["budget_used"]),
        (&json!("azure"), &json!(1.0), &json!(0.9))
    );
    assert_eq!((&whisper["cost"], &whisper["cost_per_audio_hour"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&cost["tenants"][1]["name"], &cost["tenants"][1]["budget_used"]),
        (&json!("other"), &json!(0.75))
    );
    assert_eq!(
        (&cost["comparison"][0]["name"], &cost["comparison"][0]["cost_per_audio_hour"]),
        (&json!("azure"), &json!(0.42))
    );
    assert_eq!(cost["trend"]["days"].as_array().unwrap().len(), 7);
    assert_eq!(cost["trend"]["days"][5]["cost"], 0.36);
}

#[tokio::test]
async fn whoever_is_no_admin_sees_nothing_of_others_or_of_money_and_its_own_days() {
    let busy = Busy::new().await;
    for scope in [Scope::Read, Scope::Jobs] {
        let stats = busy.stats(scope).await;
        assert_eq!((&stats["tenant"], &stats["missing"]), (&json!("acme"), &json!([])));
        let days = stats["usage"].as_array().unwrap();
        assert_eq!(days.len(), 8);
        assert_eq!(days[0], json!({"day": "2026-01-01", "jobs": 2, "audio_secs": 3_600.0}));
        assert_eq!(
            (&days[1]["jobs"], &days[2]["day"], &days[2]["jobs"]),
            (&json!(0), &json!("2025-12-30"), &json!(2))
        );
        for hidden in ["other", "azure", "whisper", "cost", "price", "0.1.0", "tiny.en", "project"] {
            assert!(!stats.to_string().contains(hidden), "{hidden} in {stats}");
        }
    }
}

#[tokio::test]
async fn what_is_down_is_named_and_the_rest_is_there() {
    let busy = Busy::new().await;
    for down in [&busy.values.down, &busy.books.down, &busy.doorman.down] {
        down.store(true, Ordering::Relaxed);
    }
    *busy.world.jobs.refuse.lock().unwrap() = Some(ErrorKind::Unavailable);
    let stats = busy.stats(Scope::Admin).await;
    assert_eq!(stats["missing"], json!(["queue", "limits", "providers", "cost"]));
    for missing in ["queue", "providers", "cost"] {
        assert_eq!(stats[missing], Value::Null, "{missing}");
    }
    assert_eq!(stats["workers"]["data"].as_array().unwrap().len(), 1);
    assert!(!stats.to_string().contains("secret"));
}

#[tokio::test]
async fn a_node_tells_its_response_times_stages_and_reuse() {
    let world = World::new();
    world.submit().await;
    world.jobs.attach.store(true, Ordering::Relaxed);
    world.submit().await;
    world.call(get("/v1/jobs")).await;
    let (_, stats) = world.json(get("/v1/stats")).await;
    let node = &stats["node"];
    assert_eq!(node["submissions"], json!({"new": 1, "attached": 1, "cached": 0, "replayed": 0}));
    assert_eq!((&node["reuse_ratio"], &node["cache_hit_ratio"]), (&json!(0.5), &json!(0.0)));
    let routes = node["routes"].as_array().unwrap();
    let posted = routes.iter().find(|route| route["method"] == "POST").unwrap();
    assert_eq!((&posted["route"], &posted["requests"]), (&json!("/v1/jobs"), &json!(2)));
    assert!(posted["p99_ms"].as_f64().unwrap() >= posted["p50_ms"].as_f64().unwrap());
    let stages: Vec<_> = node["stages"].as_array().unwrap().iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(stages, ["connections", "upload_bytes", "uploads", "watchers"]);
    // The question itself is being worked on.
    assert_eq!((&node["stages"][0]["taken"], &node["stages"][1]["taken"]), (&json!(1), &json!(0)));
    assert_eq!(
        (&stats["limits"], &stats["providers"], &stats["cost"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
}

/// This node's clock is ten minutes ahead of those of the workers, one of which is gone for an hour.
#[tokio::test]
async fn workers_are_shown_by_a_node_whose_clock_is_ahead() {
    let offers = vec![offer(1, "tiny.en", 600), offer(2, "base", 4_200)];
    let world = World::with(|parts| parts.registry = Some(Arc::new(Offers(offers.into()))));
    for (active, shown) in [(1, 1), (0, 0)] {
        world.jobs.figures.lock().unwrap().workers = active;
        let (status, stats) = world.json(get("/v1/stats")).await;
        assert_eq!(status, 200, "{stats}");
        assert_eq!(stats["workers"]["data"].as_array().map(Vec::len), Some(shown), "{stats}");
    }
}
