//! `verbatim tenants list | show | cap`: straight in the directory, whether or not a server runs.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use verbatim_core::api_key::KeyRecord;
use verbatim_core::caps::{Cap, CapSource, CapsInForce, TenantUse};
use verbatim_core::ids::TenantId;
use verbatim_core::job::TenantCaps;
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::{ErrorKind, PortError};

use crate::audit::{Acts, Object};
use crate::cli::{CapArg, CapArgs, TenantsArgs, TenantsCommand};
use crate::config::Config;
use crate::directory::Administration;
use crate::system::SystemClock;

/// Does what was asked of the tenants.
///
/// # Errors
/// When the directory cannot be reached, or there is no such tenant.
pub async fn run(arguments: TenantsArgs, config: &Config) -> anyhow::Result<()> {
    let administration = Administration::open(config).await?;
    let json = arguments.json;
    match arguments.command {
        TenantsCommand::List => list(&administration, json).await,
        TenantsCommand::Show { tenant } => show(&administration, &tenant, json).await,
        TenantsCommand::Cap(order) => cap(&administration, order, json, config).await,
    }
}

/// What is known of a tenant.
struct Tenant {
    own: TenantCaps,
    keys: Vec<KeyRecord>,
    takes_up: TenantUse,
}

impl Tenant {
    fn in_force(&self, now: Timestamp) -> CapsInForce {
        CapsInForce::of(self.own, &self.keys, now)
    }

    fn open_keys(&self, now: Timestamp) -> impl Iterator<Item = &KeyRecord> {
        self.keys.iter().filter(move |record| record.is_open(now))
    }

    /// As the API shows it.
    fn described(&self, now: Timestamp) -> Value {
        let TenantUse { tenant, running, waiting, submissions, caps: _ } = &self.takes_up;
        let CapsInForce { max_running, max_queued } = self.in_force(now);
        let keys = self.open_keys(now).map(|record| {
            let caps = record.key.principal.caps;
            json!({
                "id": record.key.id.as_str(),
                "name": record.key.name.as_str(),
                "max_running": caps.max_running,
                "max_queued": caps.max_queued,
            })
        });
        json!({
            "id": tenant.as_str(),
            "max_running": self.own.max_running,
            "max_queued": self.own.max_queued,
            "in_force": { "max_running": cap_described(&max_running), "max_queued": cap_described(&max_queued) },
            "keys": keys.collect::<Value>(),
            "running": running,
            "queued": waiting,
            "submissions": submissions,
        })
    }

    fn line(&self, now: Timestamp) -> String {
        let TenantUse { tenant, running, waiting, .. } = &self.takes_up;
        let CapsInForce { max_running, max_queued } = self.in_force(now);
        format!(
            "{:<16}  {running:>5} running of {:<6}  {waiting:>6} queued of {}",
            tenant.as_str(),
            shown(max_running.most),
            shown(max_queued.most)
        )
    }
}

fn cap_described(Cap { most, set_by }: &Cap) -> Value {
    json!({ "limit": most, "set_by": set_by.iter().map(source).collect::<Value>() })
}

fn source(source: &CapSource) -> &str {
    match source {
        CapSource::Tenant => "tenant",
        CapSource::Key(id) => id.as_str(),
    }
}

fn shown(cap: Option<u64>) -> String {
    cap.map_or_else(|| "no cap".to_owned(), |most| most.to_string())
}

/// All that is known of the tenant, if there ever was anything of it.
async fn look_up(administration: &Administration, tenant: &TenantId) -> anyhow::Result<Tenant> {
    let directory = &administration.directory;
    let own = directory.caps().await?.into_iter().find(|(name, _)| name == tenant);
    let keys = directory.list(Some(tenant)).await?;
    let mut figures = administration.tenants(std::slice::from_ref(tenant)).await?;
    let has_jobs = |one: &TenantUse| one.running + one.waiting + one.submissions > 0;
    let found = figures.pop().filter(|one| own.is_some() || !keys.is_empty() || has_jobs(one));
    let takes_up = found.ok_or_else(|| {
        let why = format!(
            "nobody ever had a key of {tenant}, and it has no jobs; `verbatim tenants list` shows all"
        );
        PortError::new(ErrorKind::NotFound, why)
    })?;
    Ok(Tenant { own: own.map(|(_, caps)| caps).unwrap_or_default(), keys, takes_up })
}

async fn list(administration: &Administration, json: bool) -> anyhow::Result<()> {
    let mut known: BTreeMap<TenantId, (TenantCaps, Vec<KeyRecord>)> = BTreeMap::new();
    for (tenant, own) in administration.directory.caps().await? {
        known.entry(tenant).or_default().0 = own;
    }
    for record in administration.directory.list(None).await? {
        known.entry(record.key.principal.tenant.clone()).or_default().1.push(record);
    }
    let names: Vec<TenantId> = known.keys().cloned().collect();
    let figures = administration.tenants(&names).await?;
    let all = known.into_values().zip(figures);
    let tenants: Vec<Tenant> = all.map(|((own, keys), takes_up)| Tenant { own, keys, takes_up }).collect();
    let now = SystemClock.now();
    if json {
        println!("{}", tenants.iter().map(|tenant| tenant.described(now)).collect::<Value>());
        return Ok(());
    }
    if tenants.is_empty() {
        eprintln!("no tenants");
    }
    for tenant in &tenants {
        println!("{}", tenant.line(now));
    }
    Ok(())
}

async fn show(administration: &Administration, tenant: &TenantId, json: bool) -> anyhow::Result<()> {
    let found = look_up(administration, tenant).await?;
    let now = SystemClock.now();
    if json {
        println!("{}", found.described(now));
        return Ok(());
    }
    println!("{}", found.line(now));
    let CapsInForce { max_running, max_queued } = found.in_force(now);
    for (name, Cap { most, set_by }) in [("max-running", max_running), ("max-queued", max_queued)] {
        let by = set_by.iter().map(source).collect::<Vec<_>>().join(", ");
        let by = if by.is_empty() { by } else { format!("  set by {by}") };
        println!("  in force  {name:<11}  {}{by}", shown(most));
    }
    let caps = |of: TenantCaps| {
        format!("max-running {}, max-queued {}", shown(of.max_running), shown(of.max_queued))
    };
    println!("  its own   {}", caps(found.own));
    for record in found.open_keys(now) {
        println!("  {}  {}  {}", record.key.id, caps(record.key.principal.caps), record.key.name.as_str());
    }
    Ok(())
}

/// The caps that are not named stay as they are.
async fn cap(
    administration: &Administration,
    order: CapArgs,
    json: bool,
    config: &Config,
) -> anyhow::Result<()> {
    let acts = Acts::begin(config)?;
    let CapArgs { tenant, max_running, max_queued } = order;
    let capping = async {
        let TenantCaps { max_running: running, max_queued: queued } =
            look_up(administration, &tenant).await?.own;
        let caps = TenantCaps {
            max_running: max_running.map_or(running, |CapArg(most)| most),
            max_queued: max_queued.map_or(queued, |CapArg(most)| most),
        };
        Ok(administration.directory.cap(&tenant, caps).await?)
    };
    acts.record("tenant.cap", &Object::tenant(&tenant), capping.await)?;
    administration.put_in_force().await;
    show(administration, &tenant, json).await
}
