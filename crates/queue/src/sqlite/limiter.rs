//! Request limits: one process has the store, so that they are counted in its memory.

use std::sync::PoisonError;

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::ids::TenantId;
use verbatim_core::ports::Limiter;
use verbatim_core::ports::limiter::{Admission, LimitUse, RequestLimits};

use super::SqliteStore;

#[async_trait]
impl Limiter for SqliteStore {
    async fn admit(&self, tenant: &TenantId, limits: &RequestLimits) -> Result<Option<Admission>, PortError> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(requests.admit(self.clock.now(), tenant, limits))
    }

    async fn usage(&self, limits: &RequestLimits) -> Result<LimitUse, PortError> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(requests.usage(self.clock.now(), limits))
    }
}
