//! Which caps are in force for a tenant: of its own, which an admin sets, and those of its keys that open anything, field by
//! field the strictest. So a cap that answers a flood holds whichever key the flood comes through.

use std::collections::BTreeMap;

use crate::api_key::KeyRecord;
use crate::error::PortError;
use crate::ids::{KeyId, TenantId};
use crate::job::TenantCaps;
use crate::ports::{Directory, JobAdmin};
use crate::time::Timestamp;

/// Tenants whose caps one call sets or whose figures it gives, at most.
pub const MAX_TENANTS_PER_CALL: usize = 500;

/// Who sets a cap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CapSource {
    /// The tenant itself has it.
    Tenant,
    /// One of its keys does.
    Key(KeyId),
}

/// A cap that is in force, and all who set it so: taking it from one of several changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cap {
    /// How many; `None` for no cap.
    pub most: Option<u64>,
    /// Who says so.
    pub set_by: Vec<CapSource>,
}

impl Cap {
    fn tighten(&mut self, most: Option<u64>, source: &CapSource) {
        let Some(new) = most else { return };
        if self.most.is_none_or(|old| new < old) {
            *self = Self { most, set_by: vec![source.clone()] };
        } else if self.most == most {
            self.set_by.push(source.clone());
        }
    }
}

/// The caps that are in force for a tenant, with their sources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CapsInForce {
    /// Of running jobs.
    pub max_running: Cap,
    /// Of waiting jobs.
    pub max_queued: Cap,
}

impl CapsInForce {
    /// Those of a tenant with these caps of its own and these keys, at `now`.
    pub fn of<'a>(own: TenantCaps, keys: impl IntoIterator<Item = &'a KeyRecord>, now: Timestamp) -> Self {
        let mut caps = Self::default();
        caps.tighten(own, &CapSource::Tenant);
        for record in keys {
            if record.is_open(now) {
                caps.tighten(record.key.principal.caps, &CapSource::Key(record.key.id.clone()));
            }
        }
        caps
    }

    fn tighten(&mut self, caps: TenantCaps, source: &CapSource) {
        let TenantCaps { max_running, max_queued } = caps;
        self.max_running.tighten(max_running, source);
        self.max_queued.tighten(max_queued, source);
    }

    /// The caps alone.
    pub fn caps(&self) -> TenantCaps {
        TenantCaps { max_running: self.max_running.most, max_queued: self.max_queued.most }
    }
}

/// The caps of every tenant that the directory knows, those without any among them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllCaps {
    /// By tenant.
    pub tenants: BTreeMap<TenantId, TenantCaps>,
    /// When a key expires that has a cap: from then on others may be in force.
    pub until: Option<Timestamp>,
    /// As which the directory was read.
    pub revision: u64,
}

impl AllCaps {
    /// Reads the directory.
    ///
    /// # Errors
    /// Those of the directory.
    pub async fn read(directory: &dyn Directory, now: Timestamp) -> Result<Self, PortError> {
        // Before the rest: what changes meanwhile makes it out of date rather than overlooked.
        let revision = directory.revision().await?;
        let mut tenants: BTreeMap<TenantId, TenantCaps> = directory.caps().await?.into_iter().collect();
        let mut until: Option<Timestamp> = None;
        for record in directory.list(None).await? {
            let principal = &record.key.principal;
            let caps = tenants.entry(principal.tenant.clone()).or_default();
            if !record.is_open(now) {
                continue;
            }
            *caps = caps.strictest(principal.caps);
            if principal.caps != TenantCaps::default()
                && let Some(end) = record.key.expires_at
            {
                until = Some(until.map_or(end, |until| until.min(end)));
            }
        }
        Ok(Self { tenants, until, revision })
    }

    /// Puts them in force.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn apply(&self, jobs: &dyn JobAdmin) -> Result<AtCap, PortError> {
        let all: Vec<(TenantId, TenantCaps)> =
            self.tenants.iter().map(|(tenant, caps)| (tenant.clone(), *caps)).collect();
        let mut at_cap = AtCap::default();
        for some in all.chunks(MAX_TENANTS_PER_CALL) {
            let AtCap { running, queued } = jobs.set_caps(some).await?;
            at_cap.running += running;
            at_cap.queued += queued;
        }
        Ok(at_cap)
    }

    /// Whether others may be in force than when the directory was read.
    pub fn is_outdated(&self, revision: u64, now: Timestamp) -> bool {
        revision != self.revision || self.until.is_some_and(|until| until <= now)
    }
}

/// How many tenants take up as much as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AtCap {
    /// As many of their jobs run as may.
    pub running: u64,
    /// As many of their jobs wait as may.
    pub queued: u64,
}

/// What one tenant takes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantUse {
    /// Who.
    pub tenant: TenantId,
    /// Jobs being worked on.
    pub running: u64,
    /// Jobs that wait, for a worker or for their time.
    pub waiting: u64,
    /// Submissions that are remembered.
    pub submissions: u64,
    /// The caps that the queue applies.
    pub caps: TenantCaps,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api_key::{KeyName, NewKey, Principal};
    use crate::ids::IdSource;

    struct Numbered(u32);
    impl IdSource for Numbered {
        fn ulid(&self) -> String {
            format!("{:026}", self.0)
        }
        fn fraction(&self) -> f64 {
            0.5
        }
        fn secret(&self) -> [u8; 32] {
            [1; 32]
        }
    }

    fn caps(max_running: Option<u64>, max_queued: Option<u64>) -> TenantCaps {
        TenantCaps { max_running, max_queued }
    }

    fn key(number: u32, caps: TenantCaps, lifetime: Option<Duration>) -> KeyRecord {
        let principal = Principal { caps, ..Principal::default() };
        let now = Timestamp::from_millis(0);
        let (_, key) = NewKey::issue(KeyName::default(), principal, lifetime, now, &Numbered(number));
        KeyRecord { key, revoked_at: None }
    }

    #[test]
    fn each_field_has_its_own_strictest_and_all_who_say_so() {
        let keys = [
            key(1, caps(Some(4), None), None),
            key(2, caps(Some(2), Some(9)), None),
            key(3, caps(None, None), None),
        ];
        let of = |own| CapsInForce::of(own, &keys, Timestamp::from_millis(1));
        let id = |number: usize| CapSource::Key(keys[number].key.id.clone());
        let found = of(caps(Some(2), None));
        assert_eq!(found.caps(), caps(Some(2), Some(9)));
        assert_eq!(found.max_running.set_by, [CapSource::Tenant, id(1)]);
        assert_eq!(found.max_queued.set_by, [id(1)]);
        assert_eq!(of(caps(Some(1), Some(10))).caps(), caps(Some(1), Some(9)));
        assert_eq!(of(caps(Some(1), None)).max_running.set_by, [CapSource::Tenant]);
    }

    #[test]
    fn a_key_that_opens_nothing_caps_nothing() {
        let short = key(1, caps(Some(1), None), Some(Duration::from_millis(10)));
        let mut revoked = key(2, caps(None, Some(1)), None);
        revoked.revoked_at = Some(Timestamp::from_millis(1));
        let keys = [short, revoked];
        let at =
            |millis| CapsInForce::of(TenantCaps::default(), &keys, Timestamp::from_millis(millis)).caps();
        assert_eq!(at(9), caps(Some(1), None));
        assert_eq!(at(10), TenantCaps::default());
    }
}
