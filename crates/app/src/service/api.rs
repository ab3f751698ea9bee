//! The half that takes jobs in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use verbatim_api_lib::{
    AddressLimit, ApiLimits, ApiParts, ApiState, CostTerms, DiskParts, Edge, Keyless, ProviderParts,
};
use verbatim_core::money::Money;
use verbatim_core::ports::limiter::{ProjectLimit, RequestLimits};

use super::stores::Stores;
use super::{Offered, Parts};
use crate::audit;
use crate::commands::transcribe::audio_limits;
use crate::config::{Config, Origin};
use crate::shutdown::Shutdown;

/// The routes over these stores; the tasks that outlive requests become a part.
///
/// # Errors
/// When the audit cannot be written.
pub(super) fn start(
    stores: &Stores,
    config: &Config,
    offering: Offered,
    listen: SocketAddr,
    shutdown: &Shutdown,
    parts: &mut Parts,
) -> anyhow::Result<Router> {
    let audit = Arc::new(audit::open(config, &stores.metrics)?);
    let state = ApiState::new(ApiParts {
        jobs: stores.jobs.clone(),
        admin: stores.admin.clone(),
        auth: stores.directory.clone(),
        upkeep: stores.upkeep.clone(),
        limiter: request_limits(config, stores.directory.is_some())
            .map(|limits| (stores.limiter.clone(), limits)),
        providers: Some(ProviderParts {
            shared: stores.shared.clone(),
            ledger: stores.ledger.clone(),
            terms: CostTerms {
                currency: config.costs.currency.clone(),
                tenant_daily_budget: config.costs.tenant_daily_budget.and_then(Money::parse),
            },
        }),
        registry: stores.registry.clone(),
        blobs: stores.blobs.clone(),
        disk: stores.disk.clone().map(|disk| DiskParts {
            disk,
            min_free_bytes: config.storage.min_free_disk_mb.saturating_mul(1024 * 1024),
        }),
        offering,
        clock: stores.clock.clone(),
        ids: stores.ids.clone(),
        metrics: stores.metrics.clone(),
        audit,
        limits: ApiLimits {
            max_upload_bytes: config.limits.max_upload_mb * 1024 * 1024,
            audio: audio_limits(&config.limits),
            max_uploads_in_flight: config.limits.max_uploads_in_flight,
            max_requests_in_flight: config.limits.max_requests_in_flight,
            max_bytes_in_flight: match config.limits.max_bytes_in_flight_mb {
                0 => u64::MAX,
                mb => mb * 1024 * 1024,
            },
            max_watchers: config.limits.max_watchers,
            memory_bytes: Some(config.limits.max_memory_mb).filter(|mb| *mb > 0).map(|mb| mb * 1024 * 1024),
            upload_idle: Duration::from_secs(config.server.idle_timeout_secs),
            min_upload_rate: config.server.min_upload_bytes_per_sec,
            upload_time: Duration::from_secs(config.server.upload_time_secs),
            ..ApiLimits::default()
        },
        edge: edge(config, listen, stores.directory.is_some()),
        shutdown: shutdown.soft.clone(),
    });
    let router = verbatim_api_lib::router(state.clone());
    parts.spawn(async move {
        state.run().await;
        Ok(())
    });
    Ok(router)
}

/// The door as configured. One address has a limit where callers need keys and the configuration says nothing.
fn edge(config: &Config, listen: SocketAddr, keys: bool) -> Edge {
    let limits = &config.limits;
    let per_minute = limits.per_ip_per_minute.unwrap_or(if keys { ADDRESS_PER_MINUTE } else { 0 });
    let per_address = (per_minute > 0).then_some(AddressLimit { per_minute, burst: limits.per_ip_burst });
    Edge {
        keyless: (!keys).then(|| keyless(config, listen)),
        trusted_proxies: config.server.trusted_proxies.clone(),
        allowed_origins: config.server.cors_allowed_origins.iter().map(Origin::to_header).collect(),
        per_address,
    }
}

/// Who may ask where callers need no keys.
pub(super) fn keyless(config: &Config, listen: SocketAddr) -> Keyless {
    let allowed_hosts = config.server.allowed_hosts.iter().map(|host| host.trim().to_lowercase()).collect();
    let allowed_origins = config.server.cors_allowed_origins.iter().map(Origin::to_header).collect();
    Keyless { listen, allowed_hosts, allowed_origins }
}

/// Submissions of one tenant in a minute, and of all, where callers need keys and the configuration says nothing.
const TENANT_PER_MINUTE: u64 = 60;
const PROJECT_PER_MINUTE: u64 = 300;
/// Requests of one address in a minute, likewise.
const ADDRESS_PER_MINUTE: u32 = 3000;

/// The request limits in effect. Without keys everybody is one tenant on their own machine: no limit, unless it is asked for.
fn request_limits(config: &Config, keys: bool) -> Option<RequestLimits> {
    let limits = &config.limits;
    let in_effect = |configured: Option<u64>, default: u64| {
        configured.or(keys.then_some(default)).filter(|per_minute| *per_minute > 0)
    };
    let project =
        in_effect(limits.project_per_minute, PROJECT_PER_MINUTE).map(|refill_per_minute| ProjectLimit {
            capacity: limits.project_capacity,
            refill_per_minute,
            burst: limits.project_burst,
            cooldown: Duration::from_secs(limits.project_cooldown_secs),
        });
    let tenant_per_minute = in_effect(limits.per_tenant_per_minute, TENANT_PER_MINUTE);
    (tenant_per_minute.is_some() || project.is_some()).then_some(RequestLimits { tenant_per_minute, project })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(tenant: Option<u64>, project: Option<u64>, keys: bool) -> (Option<u64>, Option<u64>) {
        let mut config = Config::default();
        config.limits.per_tenant_per_minute = tenant;
        config.limits.project_per_minute = project;
        let limits = request_limits(&config, keys).unwrap_or_default();
        (limits.tenant_per_minute, limits.project.map(|project| project.refill_per_minute))
    }

    #[test]
    fn there_are_limits_where_callers_need_keys_unless_somebody_says_otherwise() {
        assert_eq!(limits(None, None, true), (Some(60), Some(300)));
        assert_eq!(limits(None, None, false), (None, None));
        assert_eq!(limits(Some(0), Some(0), true), (None, None));
        assert_eq!(limits(Some(5), None, false), (Some(5), None));
        assert_eq!(limits(None, Some(6000), true), (Some(60), Some(6000)));
    }
}
