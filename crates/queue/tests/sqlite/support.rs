//! What the tests of the SQLite store share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Connection;
use tempfile::TempDir;
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;
use verbatim_core::policy::StorePolicy;
use verbatim_core::time::Clock;
use verbatim_queue::conformance::{Harness, Verdict, Violation};
use verbatim_queue::{SqliteConfig, SqliteStore};

/// One store in a folder of its own, or in one that another process left.
pub(crate) struct SqliteHarness {
    folder: PathBuf,
    _temporary: Option<TempDir>,
}

impl SqliteHarness {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { folder: folder.path().to_owned(), _temporary: Some(folder) }
    }

    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), _temporary: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

#[async_trait]
impl Harness for SqliteHarness {
    type Store = SqliteStore;

    async fn fresh(
        &self,
        policy: StorePolicy,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
    ) -> Result<SqliteStore, PortError> {
        SqliteStore::open(SqliteConfig { folder: self.folder.clone(), policy, clock, ids })
    }

    async fn audit(&self, _store: &SqliteStore) -> Verdict {
        audit(&self.folder).map_err(|error| Violation::new(format!("{error:#}")))
    }
}

/// Each query finds what must not be.
const NEVER: [(&str, &str); 12] = [
    (
        "counters that differ from what there is",
        "SELECT state || ' ' || tier || ': ' || jobs FROM counts AS c
         WHERE jobs <> (SELECT count(*) FROM jobs WHERE jobs.state = c.state AND jobs.tier = c.tier)",
    ),
    (
        "submissions, or tenants of which there are any, that are counted wrong",
        "SELECT name || ' ' || value FROM counters
         WHERE name = 'submissions' AND value <> (SELECT count(*) FROM submissions)
            OR name = 'holders' AND value <> (SELECT count(DISTINCT tenant) FROM submissions)",
    ),
    (
        "tenants that are counted wrong",
        "WITH live AS (
             SELECT tenant, sum(state = 'running') AS running, sum(state <> 'running') AS waiting
             FROM jobs WHERE state IN ('queued','delayed','running') GROUP BY tenant)
         SELECT tenant FROM tenants FULL JOIN live USING (tenant)
         WHERE coalesce(tenants.running, 0) <> coalesce(live.running, 0)
            OR coalesce(tenants.waiting, 0) <> coalesce(live.waiting, 0)",
    ),
    (
        "queues of tenants that are counted wrong",
        "WITH queues AS (
             SELECT tier, tenant, count(*) AS jobs FROM jobs WHERE state = 'queued' GROUP BY tier, tenant)
         SELECT tier || ' ' || tenant FROM shares FULL JOIN queues USING (tier, tenant)
         WHERE coalesce(shares.jobs, 0) <> coalesce(queues.jobs, 0)",
    ),
    (
        "lanes that are counted wrong, or in which a tenant stands under another tag than in its tier",
        "WITH real AS (
             SELECT tier, tenant, lane, count(*) AS jobs FROM jobs WHERE state = 'queued' GROUP BY tier, tenant, lane)
         SELECT tier || ' ' || tenant || ' ' || lane
         FROM queues FULL JOIN real USING (tier, tenant, lane) LEFT JOIN shares USING (tier, tenant)
         WHERE coalesce(queues.jobs, 0) <> coalesce(real.jobs, 0)
            OR (queues.active, queues.tag) IS NOT (shares.active, shares.tag)",
    ),
    (
        "lanes whose jobs are counted wrong",
        "WITH real AS (SELECT lane, count(*) AS jobs FROM jobs WHERE state = 'queued' GROUP BY lane)
         SELECT lane FROM lanes FULL JOIN real USING (lane)
         WHERE coalesce(lanes.jobs, 0) <> coalesce(real.jobs, 0)",
    ),
    (
        "tenants that take part and should not, or the other way round",
        "SELECT tier || ' ' || tenant FROM shares LEFT JOIN tenants USING (tenant)
         WHERE active <> (jobs > 0 AND (max_running IS NULL OR running < max_running))",
    ),
    (
        "live jobs that nobody waits for",
        "SELECT id FROM jobs WHERE state IN ('queued','delayed') AND NOT EXISTS
             (SELECT 1 FROM submissions WHERE job_id = jobs.id AND ended IS NULL)",
    ),
    (
        "jobs whose last event is not their end",
        "SELECT id FROM jobs WHERE finished_at IS NOT NULL AND state <>
             (SELECT kind FROM events WHERE job_id = jobs.id ORDER BY seq DESC LIMIT 1)",
    ),
    (
        "checkpoints of jobs that ended, but for dead letters",
        "SELECT job_id FROM checkpoints JOIN jobs ON id = job_id WHERE finished_at IS NOT NULL AND state <> 'failed'",
    ),
    (
        "segments without their checkpoint",
        "SELECT job_id FROM checkpoint_segments WHERE job_id NOT IN (SELECT job_id FROM checkpoints)",
    ),
    (
        "blobs that are needed and listed for deletion",
        "SELECT key FROM garbage WHERE key IN (SELECT result FROM jobs)
             OR key IN (SELECT blob FROM jobs WHERE state IN ('queued','delayed','running','failed'))",
    ),
];

/// Looks into the database beside the store.
pub(crate) fn audit(folder: &Path) -> anyhow::Result<()> {
    let conn = Connection::open(folder.join("jobs.db"))?;
    let health: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    anyhow::ensure!(health == "ok", "the database is damaged: {health}");
    anyhow::ensure!(!conn.prepare("PRAGMA foreign_key_check")?.exists([])?, "a row refers to nothing");
    for (what, query) in NEVER {
        let found: Vec<String> =
            conn.prepare(query)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        anyhow::ensure!(found.is_empty(), "{what}: {found:?}");
    }
    Ok(())
}
