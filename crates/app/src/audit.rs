//! The audit: opened for a service, and written by commands that change something.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Uid, User};
use verbatim_core::api_key::{KeyRecord, NewKey, Principal};
use verbatim_core::ids::TenantId;
use verbatim_core::{ErrorKind, PortError};
use verbatim_telemetry::audit::{AuditLine, AuditLog};
use verbatim_telemetry::{Metrics, logs};

use crate::config::Config;
use crate::system::SystemClock;

/// Of the log, a command shows the audit only.
const AUDIT_ONLY: &str = "off";

/// Where the configuration wants the audit.
///
/// # Errors
/// When it cannot be written there.
pub fn open(config: &Config, metrics: &Metrics) -> anyhow::Result<AuditLog> {
    let (folder, user) = (config.log.audit_dir.as_deref(), Uid::effective().as_raw());
    Ok(AuditLog::open(folder, user, Arc::new(SystemClock), metrics)?)
}

/// What a command acts on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object {
    name: String,
    tenant: Option<String>,
    scopes: Option<String>,
}

impl Object {
    /// What has this name.
    pub fn named(name: impl Display) -> Self {
        Self { name: name.to_string(), ..Self::default() }
    }

    /// This file or folder, wherever the command was called.
    pub fn at(path: &Path) -> Self {
        Self::named(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display())
    }

    /// This tenant.
    pub fn tenant(tenant: &TenantId) -> Self {
        Self { name: tenant.to_string(), tenant: Some(tenant.to_string()), scopes: None }
    }

    /// This key, with whose it is and what it allows.
    pub fn key(key: &NewKey) -> Self {
        let Principal { tenant, scopes, .. } = &key.principal;
        let scopes = scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(",");
        Self { name: key.id.to_string(), tenant: Some(tenant.to_string()), scopes: Some(scopes) }
    }
}

impl From<&KeyRecord> for Object {
    fn from(record: &KeyRecord) -> Self {
        Self::key(&record.key)
    }
}

/// What one command did.
pub struct Acts {
    log: AuditLog,
    actor: String,
}

impl Acts {
    /// Of a command that is about to change something. Without a folder for the audit, its lines go to standard error.
    ///
    /// # Errors
    /// When the audit cannot be written: then nothing is changed either.
    pub fn begin(config: &Config) -> anyhow::Result<Self> {
        logs::init(AUDIT_ONLY, config.log.format.into(), None)?;
        Ok(Self { log: open(config, &Metrics::new()?)?, actor: actor(Uid::current()) })
    }

    /// Writes an act down that came to this outcome, and passes it on.
    ///
    /// # Errors
    /// Those of `outcome`.
    pub fn record<T>(&self, action: &str, object: &Object, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        self.write(action, object, outcome.as_ref().err().map_or("done", code));
        outcome
    }

    /// Writes down that an act begins which a signal can end half-way.
    pub fn begun(&self, action: &str, object: &Object) {
        self.write(action, object, "begun");
    }

    fn write(&self, action: &str, object: &Object, outcome: &str) {
        let Object { name, tenant, scopes } = object;
        self.log.record(&AuditLine {
            action,
            object: name,
            object_tenant: tenant.as_deref(),
            object_scopes: scopes.as_deref(),
            outcome,
            via: "cli",
            actor: Some(&self.actor),
            ..AuditLine::default()
        });
    }
}

/// As `id` shows a user: `1000(anna)`.
fn actor(user: Uid) -> String {
    // Containers have users without a name.
    let name = User::from_uid(user).ok().flatten().map(|user| format!("({})", user.name));
    format!("{user}{}", name.unwrap_or_default())
}

/// The API's code for an error of a port; `failed` for any other.
fn code(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref::<PortError>().map(PortError::kind) {
        Some(ErrorKind::NotFound) => "not_found",
        Some(ErrorKind::Conflict) => "conflict",
        Some(ErrorKind::Throttled) => "too_many_requests",
        Some(ErrorKind::Unavailable) => "unavailable",
        Some(ErrorKind::OutOfSpace) => "out_of_space",
        Some(ErrorKind::Invalid) => "invalid_request",
        Some(ErrorKind::Internal) => "internal",
        None => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_has_an_id_and_where_there_is_one_a_name() {
        assert_eq!(actor(Uid::from_raw(0)), "0(root)");
        assert_eq!(actor(Uid::from_raw(4_000_000_000)), "4000000000");
    }

    #[test]
    fn an_error_of_a_port_has_the_code_that_the_api_gives_it() {
        let error = anyhow::Error::from(PortError::new(ErrorKind::OutOfSpace, "full"));
        assert_eq!(code(&error.context("no key was made")), "out_of_space");
        assert_eq!(code(&anyhow::anyhow!("nobody knows")), "failed");
    }
}
