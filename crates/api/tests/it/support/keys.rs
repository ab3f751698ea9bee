//! A directory of keys in memory, and the API behind it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use verbatim_api_lib::ApiLimits;
use verbatim_core::api_key::{KeyName, KeyRecord, NewKey, Principal, Scope};
use verbatim_core::ids::{IdSource, KeyId, TenantId};
use verbatim_core::job::TenantCaps;
use verbatim_core::options::Priority;
use verbatim_core::ports::Directory;
use verbatim_core::time::Timestamp;
use verbatim_core::{ErrorKind, PortError};

use super::World;

/// A directory in memory.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) records: Mutex<Vec<KeyRecord>>,
    pub(crate) caps: Mutex<BTreeMap<TenantId, TenantCaps>>,
    pub(crate) changes: AtomicU64,
    pub(crate) down: AtomicBool,
}

#[async_trait]
impl Directory for Keys {
    async fn add(&self, key: NewKey) -> Result<(), PortError> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.records.lock().unwrap().push(KeyRecord { key, revoked_at: None });
        Ok(())
    }

    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, PortError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(PortError::new(ErrorKind::Unavailable, "the directory is down"));
        }
        Ok(self.records.lock().unwrap().iter().find(|record| record.key.id == *id).cloned())
    }

    async fn list(&self, tenant: Option<&TenantId>) -> Result<Vec<KeyRecord>, PortError> {
        let records = self.records.lock().unwrap();
        let wanted = |record: &&KeyRecord| tenant.is_none_or(|tenant| record.key.principal.tenant == *tenant);
        Ok(records.iter().filter(wanted).cloned().collect())
    }

    async fn revoke(&self, id: &KeyId) -> Result<bool, PortError> {
        let mut records = self.records.lock().unwrap();
        let record = records.iter_mut().find(|record| record.key.id == *id);
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(record.map(|record| record.revoked_at = Some(Timestamp::from_millis(0))).is_some())
    }

    async fn cap(&self, tenant: &TenantId, caps: TenantCaps) -> Result<(), PortError> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.caps.lock().unwrap().insert(tenant.clone(), caps);
        Ok(())
    }

    async fn caps(&self) -> Result<Vec<(TenantId, TenantCaps)>, PortError> {
        Ok(self.caps.lock().unwrap().clone().into_iter().collect())
    }

    async fn revision(&self) -> Result<u64, PortError> {
        Ok(self.changes.load(Ordering::Relaxed))
    }
}

/// The API with keys on.
pub(crate) struct Locked {
    pub(crate) world: World,
    pub(crate) keys: Arc<Keys>,
}

impl Locked {
    pub(crate) fn new() -> Self {
        Self::with_limits(ApiLimits::default())
    }

    pub(crate) fn with_limits(limits: ApiLimits) -> Self {
        let keys = Arc::new(Keys::default());
        let auth: Arc<dyn Directory> = keys.clone();
        let world = World::with(|parts| {
            parts.auth = Some(auth);
            parts.limits = limits;
        });
        Self { world, keys }
    }

    /// A key of this tenant.
    pub(crate) async fn key(&self, tenant: &str, scope: Scope) -> String {
        let principal = Principal {
            tenant: TenantId::parse(tenant).unwrap(),
            scopes: vec![scope],
            max_priority: Priority::Normal,
            caps: TenantCaps { max_running: Some(2), max_queued: Some(7) },
        };
        let (ids, now) = (self.world.state.ids.clone(), self.world.state.clock.now());
        let ids: &dyn IdSource = ids.as_ref();
        let (key, new) = NewKey::issue(KeyName::default(), principal, None, now, ids);
        self.keys.add(new).await.unwrap();
        key.expose()
    }
}

pub(crate) fn with(mut request: Request<Body>, key: &str) -> Request<Body> {
    let value = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
    request.headers_mut().insert("authorization", value);
    request
}
