//! The half that takes jobs in.

use std::time::Duration;

use axum::Router;
use verbatim_api_lib::{ApiLimits, ApiParts, ApiState};

use super::stores::Stores;
use super::{Offered, Parts};
use crate::config::Config;
use crate::shutdown::Shutdown;

/// The routes over these stores; the tasks that outlive requests become a part.
pub(super) fn start(
    stores: &Stores,
    config: &Config,
    offering: Offered,
    shutdown: &Shutdown,
    parts: &mut Parts,
) -> Router {
    let state = ApiState::new(ApiParts {
        jobs: stores.jobs.clone(),
        admin: stores.admin.clone(),
        auth: stores.directory.clone(),
        upkeep: stores.upkeep.clone(),
        blobs: stores.blobs.clone(),
        offering,
        clock: stores.clock.clone(),
        ids: stores.ids.clone(),
        metrics: stores.metrics.clone(),
        limits: ApiLimits {
            max_upload_bytes: config.limits.max_upload_mb * 1024 * 1024,
            max_uploads_in_flight: config.limits.max_uploads_in_flight,
            upload_idle: Duration::from_secs(config.server.idle_timeout_secs),
            ..ApiLimits::default()
        },
        shutdown: shutdown.soft.clone(),
    });
    let router = verbatim_api_lib::router(state.clone());
    let soft = shutdown.soft.clone();
    parts.spawn(async move {
        soft.cancelled().await;
        state.finish_tasks().await;
        Ok(())
    });
    router
}
