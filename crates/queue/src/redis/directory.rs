//! API keys: one hash, a JSON record per key. Caps of their tenants: another one.

use std::collections::BTreeMap;

use async_trait::async_trait;
use redis::cmd;
use verbatim_core::api_key::{KeyRecord, NewKey};
use verbatim_core::ids::{KeyId, TenantId};
use verbatim_core::job::TenantCaps;
use verbatim_core::ports::Directory;
use verbatim_core::{BadJson, PortError};

use super::{RedisStore, json, scripts};
use crate::newer::{readable, unreadable};

#[async_trait]
impl Directory for RedisStore {
    async fn add(&self, key: NewKey) -> Result<(), PortError> {
        let id = key.id.clone();
        let record = KeyRecord { key, revoked_at: None };
        let mut command = cmd("HSETNX");
        command.arg(self.0.wire.key("keys")).arg(id.ulid()).arg(json(&record)?);
        let _: redis::Value = self.0.wire.link.command(&command).await?;
        Ok(())
    }

    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, PortError> {
        let mut command = cmd("HMGET");
        command.arg(self.0.wire.key("keys")).arg(id.ulid()).arg(format!("{}:revoked", id.ulid()));
        let (record, revoked): (Option<String>, Option<i64>) = self.0.wire.link.command(&command).await?;
        record.map(|record| read(&record, revoked)).transpose()
    }

    async fn list(&self, tenant: Option<&TenantId>) -> Result<Vec<KeyRecord>, PortError> {
        let mut command = cmd("HGETALL");
        command.arg(self.0.wire.key("keys"));
        let all: std::collections::HashMap<String, String> = self.0.wire.link.command(&command).await?;
        let mut records = Vec::new();
        for (name, record) in &all {
            if name.ends_with(":revoked") {
                continue;
            }
            let revoked = all.get(&format!("{name}:revoked")).and_then(|at| at.parse().ok());
            records.push(read(record, revoked));
        }
        let mut records: Vec<_> = readable("an API key", records.into_iter()).collect();
        records.retain(|record| tenant.is_none_or(|tenant| record.key.principal.tenant == *tenant));
        records.sort_by(|a, b| (a.key.created_at, &a.key.id).cmp(&(b.key.created_at, &b.key.id)));
        Ok(records)
    }

    async fn revoke(&self, id: &KeyId) -> Result<bool, PortError> {
        let mut call = self.0.wire.call(&scripts::REVOKE);
        call.arg(id.ulid());
        let found: u8 = self.0.wire.link.run(&call).await?;
        Ok(found == 1)
    }

    async fn cap(&self, tenant: &TenantId, caps: TenantCaps) -> Result<(), PortError> {
        let mut call = self.0.wire.call(&scripts::CAP);
        call.arg(tenant.as_str()).arg(json(&caps)?);
        self.0.wire.link.run(&call).await
    }

    async fn caps(&self) -> Result<Vec<(TenantId, TenantCaps)>, PortError> {
        let mut command = cmd("HGETALL");
        command.arg(self.0.wire.key("own"));
        let all: BTreeMap<String, String> = self.0.wire.link.command(&command).await?;
        let own = all.iter().map(|(tenant, caps)| {
            let unreadable = || unreadable("the caps of a tenant");
            let tenant = TenantId::parse(tenant).map_err(|error| unreadable().with_source(error))?;
            let caps =
                serde_json::from_str(caps).map_err(|error| unreadable().with_source(BadJson::from(error)))?;
            Ok((tenant, caps))
        });
        Ok(readable("the caps of a tenant", own).collect())
    }

    async fn revision(&self) -> Result<u64, PortError> {
        self.0.wire.link.run(&self.0.wire.call(&scripts::DIRECTORY_REVISION)).await
    }
}

fn read(record: &str, revoked: Option<i64>) -> Result<KeyRecord, PortError> {
    let record: KeyRecord = serde_json::from_str(record)
        .map_err(|error| unreadable("a key").with_source(BadJson::from(error)))?;
    let revoked_at = revoked.map(verbatim_core::time::Timestamp::from_millis);
    Ok(KeyRecord { revoked_at, ..record })
}
