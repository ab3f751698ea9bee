//! Whether the caps of tenants hold, looked at all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::check::{Kind, Violation};
use crate::cluster::{Cluster, PREFIX};

/// Between two looks.
const PACE: Duration = Duration::from_millis(100);

/// Looks until `stop` fires: how many jobs of each tenant with a cap run at once, and whether that is ever more than may.
/// Redis is asked past all faults but its own; what it does not answer is left out.
pub async fn watch(cluster: &Cluster, stop: CancellationToken) -> Vec<Violation> {
    let capped: Vec<_> = cluster
        .settings
        .tenants
        .iter()
        .filter_map(|tenant| Some((tenant.name, tenant.max_running?)))
        .collect();
    let mut most: BTreeMap<&str, u64> = BTreeMap::new();
    while stop.run_until_cancelled(tokio::time::sleep(PACE)).await.is_some() {
        for (name, _) in &capped {
            let key = format!("{{{PREFIX}}}:t:{name}");
            let asked = cluster.look(move |redis| {
                let running: Option<u64> = redis::cmd("HGET").arg(key).arg("r").query(redis)?;
                Ok(running.unwrap_or(0))
            });
            // One that is frozen answers late, and the end does not wait for that.
            if let Some(Ok(running)) = stop.run_until_cancelled(asked).await {
                let most = most.entry(name).or_default();
                *most = running.max(*most);
            }
        }
    }
    let judge = |(name, cap): &(&str, u64)| {
        let seen = most.get(name).copied().unwrap_or(0);
        let what = match seen {
            0 => format!("no job of {name} was ever seen running: the run proves nothing about its cap"),
            _ if seen > *cap => format!("{seen} jobs of {name} ran at once, and {cap} may"),
            _ => return None,
        };
        Some(Violation { kind: Kind::Unaccounted, what })
    };
    capped.iter().filter_map(judge).collect()
}
