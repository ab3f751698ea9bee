//! How often one address may ask, by `tower-governor`: each node by itself, before keys and bodies are looked at, so that
//! neither guessing keys nor flooding is worth the while. The limits of tenants, which all nodes share, come after it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use governor::middleware::NoOpMiddleware;
use tower_governor::governor::{GovernorConfig, GovernorConfigBuilder};
use tower_governor::key_extractor::KeyExtractor;
use tower_governor::{GovernorError, GovernorLayer};
use verbatim_admission::Holder;

use super::AddressLimit;
use super::address::ClientAddress;
use crate::error::ApiError;

/// The limit, with what every address has used of it.
#[derive(Debug, Clone)]
pub(crate) struct AddressRate {
    limit: AddressLimit,
    config: Arc<GovernorConfig<ByAddress, NoOpMiddleware>>,
}

impl AddressRate {
    /// `None` when the limit allows nothing, which is no limit that makes sense.
    pub(crate) fn new(limit: AddressLimit) -> Option<Self> {
        let period = Duration::from_secs(60).checked_div(limit.per_minute)?;
        let mut builder = GovernorConfigBuilder::default().key_extractor(ByAddress);
        let config = builder.period(period).burst_size(limit.burst).finish()?;
        Some(Self { limit, config: Arc::new(config) })
    }

    /// What guards routes with it.
    pub(crate) fn layer(&self) -> GovernorLayer<ByAddress, NoOpMiddleware, Body> {
        let burst = u64::from(self.limit.burst);
        GovernorLayer::new(self.config.clone()).error_handler(move |error| refusal(&error, burst))
    }

    /// Forgets addresses that have saved up all they may: they are as good as new.
    pub(crate) fn forget(&self) {
        self.config.limiter().retain_recent();
        self.config.limiter().shrink_to_fit();
    }
}

/// One client is one holder of shares by address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByAddress;

impl KeyExtractor for ByAddress {
    type Key = Holder;

    fn extract<T>(&self, request: &Request<T>) -> Result<Holder, GovernorError> {
        let ClientAddress(address) =
            request.extensions().get().copied().ok_or(GovernorError::UnableToExtractKey)?;
        Ok(Holder::address(address))
    }
}

fn refusal(error: &GovernorError, burst: u64) -> Response {
    let GovernorError::TooManyRequests { wait_time, .. } = error else {
        tracing::error!(%error, "a request came without an address");
        return ApiError::internal().into_response();
    };
    let detail = "your address has sent too many requests; `Retry-After` says when to go on";
    let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail);
    // The wait is told in seconds begun.
    error.retry_after = Some(Duration::from_secs(wait_time + 1));
    error.limit = Some(burst);
    error.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_nothing_is_none() {
        assert!(AddressRate::new(AddressLimit { per_minute: 0, burst: 1 }).is_none());
        assert!(AddressRate::new(AddressLimit { per_minute: 1, burst: 0 }).is_none());
    }

    #[test]
    fn addresses_are_forgotten() {
        let rate = AddressRate::new(AddressLimit { per_minute: u32::MAX, burst: 1 }).unwrap();
        for last in 0..200 {
            let _ = rate.config.limiter().check_key(&Holder::address([203, 0, 113, last].into()));
        }
        // At this rate the first has its one request back by the time that it is looked at.
        rate.forget();
        assert!(rate.config.limiter().len() < 200);
    }
}
