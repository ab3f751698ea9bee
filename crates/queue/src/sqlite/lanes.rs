//! The lanes of the queue: what a worker can be given, and which workers are reserved for jobs that must run alone.

use rusqlite::{Connection, OptionalExtension, params};
use verbatim_core::class::{Abilities, JobClass, MOST_CLASSES};
use verbatim_core::ids::{TenantId, WorkerId};
use verbatim_core::options::Priority;
use verbatim_core::policy::RESERVED_ONE_IN;
use verbatim_core::ports::jobs::ClaimRequest;

use super::error::StoreResult;
use super::job::{self, signed, tier_number, unsigned};
use super::watch::Signals;
use super::writer::Step;

/// Each class has a second lane, for its jobs that must run alone.
const MOST_LANES: usize = 2 * MOST_CLASSES;

/// Jobs of one class, or those of it that must run alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) class: JobClass,
    pub(super) isolated: bool,
}

impl Lane {
    /// As it is stored; `jobs.lane` says the same.
    pub(super) fn name(&self) -> String {
        format!("{}{}", if self.isolated { "!" } else { "" }, self.class.as_str())
    }

    fn from_name(name: &str) -> Self {
        let class = name.strip_prefix('!');
        Self { class: JobClass::from_stored(class.unwrap_or(name)), isolated: class.is_some() }
    }
}

/// The lane in which jobs of this class are queued: a class too many is told apart no longer.
pub(super) fn told_apart(conn: &Connection, class: JobClass, isolated: bool) -> StoreResult<JobClass> {
    let lane = Lane { class, isolated };
    if job::exists(conn, "SELECT 1 FROM lanes WHERE lane = ?1", [lane.name()])? {
        return Ok(lane.class);
    }
    let lanes: i64 = conn.prepare_cached("SELECT count(*) FROM lanes")?.query_row([], |row| row.get(0))?;
    Ok(if lanes < signed(MOST_LANES as u64) { lane.class } else { JobClass::unknown() })
}

/// So many more jobs of the tenant are queued in the lane.
pub(super) fn changed(
    conn: &Connection,
    tier: Priority,
    tenant: &TenantId,
    lane: &Lane,
    jobs: i64,
) -> StoreResult<()> {
    let (tier, lane) = (tier_number(tier), lane.name());
    if jobs < 0 {
        // The last job takes its row with it.
        let last = "DELETE FROM queues WHERE tier = ?1 AND tenant = ?2 AND lane = ?3 AND jobs <= -?4";
        conn.prepare_cached(last)?.execute(params![tier, tenant.as_str(), lane, jobs])?;
        conn.prepare_cached("DELETE FROM lanes WHERE lane = ?1 AND jobs <= -?2")?
            .execute(params![lane, jobs])?;
        let fewer = "UPDATE queues SET jobs = jobs + ?4 WHERE tier = ?1 AND tenant = ?2 AND lane = ?3";
        conn.prepare_cached(fewer)?.execute(params![tier, tenant.as_str(), lane, jobs])?;
        conn.prepare_cached("UPDATE lanes SET jobs = jobs + ?2 WHERE lane = ?1")?
            .execute(params![lane, jobs])?;
        return Ok(());
    }
    conn.prepare_cached(
        "INSERT INTO queues (tier, tenant, lane, jobs) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (tier, tenant, lane) DO UPDATE SET jobs = jobs + excluded.jobs",
    )?
    .execute(params![tier, tenant.as_str(), lane, jobs])?;
    conn.prepare_cached(
        "INSERT INTO lanes (lane, jobs) VALUES (?1, ?2)
         ON CONFLICT (lane) DO UPDATE SET jobs = jobs + excluded.jobs",
    )?
    .execute(params![lane, jobs])?;
    Ok(())
}

/// Lanes with queued jobs that the worker can serve, as far as it can do what they need.
pub(super) fn for_worker(conn: &Connection, abilities: &Abilities) -> StoreResult<Vec<Lane>> {
    let lanes = job::ids(conn, "SELECT lane FROM lanes ORDER BY lane", [])?;
    let lanes = lanes.iter().map(|name| Lane::from_name(name));
    Ok(lanes.filter(|lane| abilities.include(&lane.class)).collect())
}

/// Classes of queued jobs with how many each has.
pub(super) fn classes(conn: &Connection) -> StoreResult<Vec<(JobClass, u64)>> {
    let mut statement = conn.prepare_cached("SELECT lane, jobs FROM lanes")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    rows.map(|row| row.map(|(lane, jobs)| (Lane::from_name(&lane).class, unsigned(jobs))).map_err(Into::into))
        .collect()
}

/// Queued jobs that must run alone.
pub(super) fn isolated(conn: &Connection) -> StoreResult<u64> {
    let sql = "SELECT coalesce(sum(jobs), 0) FROM lanes WHERE lane LIKE '!%'";
    Ok(unsigned(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?))
}

/// The tenant of the lane whose turn it is in the tier, with its tag.
pub(super) fn head(conn: &Connection, tier: Priority, lane: &Lane) -> StoreResult<Option<(i64, String)>> {
    let head = conn
        .prepare_cached(
            "SELECT tag, tenant FROM queues WHERE tier = ?1 AND lane = ?2 AND active = 1 ORDER BY tag, tenant LIMIT 1",
        )?
        .query_row(params![tier_number(tier), lane.name()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(head)
}

/// The first job of the tenant in the lane, with its position.
pub(super) fn first(
    conn: &Connection,
    tier: Priority,
    tenant: &str,
    lane: &Lane,
) -> StoreResult<Option<(i64, String)>> {
    let first = conn
        .prepare_cached(
            "SELECT position, id FROM jobs INDEXED BY jobs_queue
             WHERE state = 'queued' AND tier = ?1 AND tenant = ?2 AND lane = ?3 ORDER BY position LIMIT 1",
        )?
        .query_row(params![tier_number(tier), tenant, lane.name()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(first)
}

/// Whether this busy worker may be reserved for a job of the lane: there is one for which no worker is, and not too many
/// workers are.
pub(super) fn may_reserve(step: &Step<'_>, signals: &Signals, lane: &Lane) -> StoreResult<bool> {
    let reserved = reservations(step, signals)?;
    let most = (signals.workers(step.now) / RESERVED_ONE_IN).max(1);
    let for_it = reserved.iter().filter(|(_, other)| other == lane).count();
    Ok((reserved.len() as u64) < most && could_begin(step.conn, lane)? > for_it as u64)
}

/// Reserves the worker that claims: it gets nothing until it is idle, and then a job of the lane. That lapses a lease after
/// it has asked for the last time: a worker that only renews may be about to stop.
pub(super) fn reserve(
    step: &Step<'_>,
    signals: &Signals,
    request: &ClaimRequest,
    lane: &Lane,
) -> StoreResult<()> {
    signals.reserved(&request.worker, step.now, step.now.plus(request.lease));
    step.conn
        .prepare_cached("INSERT OR REPLACE INTO reservations (worker, lane) VALUES (?1, ?2)")?
        .execute(params![request.worker.as_str(), lane.name()])?;
    Ok(())
}

/// For which lane the worker is reserved.
pub(super) fn reserved_for(
    step: &Step<'_>,
    signals: &Signals,
    worker: &WorkerId,
) -> StoreResult<Option<Lane>> {
    if !signals.is_reserved(worker.as_str(), step.now) {
        let_go(step, worker.as_str())?;
        return Ok(None);
    }
    let lane: Option<String> = step
        .conn
        .prepare_cached("SELECT lane FROM reservations WHERE worker = ?1")?
        .query_row([worker.as_str()], |row| row.get(0))
        .optional()?;
    Ok(lane.map(|name| Lane::from_name(&name)))
}

/// Whether all who are reserved for the lane are needed.
pub(super) fn is_needed(step: &Step<'_>, signals: &Signals, lane: &Lane) -> StoreResult<bool> {
    let for_it = reservations(step, signals)?.into_iter().filter(|(_, other)| other == lane).count();
    Ok(could_begin(step.conn, lane)? >= for_it as u64)
}

/// The worker is reserved no longer.
pub(super) fn let_go(step: &Step<'_>, worker: &str) -> StoreResult<()> {
    step.conn.prepare_cached("DELETE FROM reservations WHERE worker = ?1")?.execute([worker])?;
    Ok(())
}

/// Workers that are reserved.
fn reservations(step: &Step<'_>, signals: &Signals) -> StoreResult<Vec<(String, Lane)>> {
    let mut statement = step.conn.prepare_cached("SELECT worker, lane FROM reservations")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let rows: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
    let mut reserved = Vec::new();
    for (worker, lane) in rows {
        if signals.is_reserved(&worker, step.now) {
            reserved.push((worker, Lane::from_name(&lane)));
        } else {
            let_go(step, &worker)?;
        }
    }
    Ok(reserved)
}

/// How many jobs of the lane could begin now, as far as the caps of their tenants go.
fn could_begin(conn: &Connection, lane: &Lane) -> StoreResult<u64> {
    let jobs: i64 = conn
        .prepare_cached(
            "SELECT coalesce(sum(min(jobs, coalesce(max_running - running, jobs))), 0)
             FROM queues JOIN tenants USING (tenant) WHERE lane = ?1 AND tier IN (0, 1, 2) AND active = 1",
        )?
        .query_row([lane.name()], |row| row.get(0))?;
    Ok(unsigned(jobs))
}

#[cfg(test)]
mod tests {
    use rusqlite_migration::Migrations;
    use verbatim_core::language::Language;
    use verbatim_core::options::{Task, TranscribeOptions};

    use super::super::schema::MIGRATIONS;
    use super::*;

    /// Every combination that tells classes apart.
    fn everything() -> Vec<TranscribeOptions> {
        let mut all = Vec::new();
        for engine in ["auto", "whisper"] {
            for language in [None, Some("en"), Some("de")] {
                for bits in 0..8 {
                    all.push(TranscribeOptions {
                        engine: engine.to_owned(),
                        any_model: bits & 1 != 0,
                        task: if bits & 2 != 0 { Task::Translate } else { Task::Transcribe },
                        diarize: bits & 4 != 0,
                        language: language.and_then(|code| Language::parse(code).ok()),
                        ..TranscribeOptions::for_model("base")
                    });
                }
            }
        }
        all
    }

    /// Whether there are lanes after so many migrations.
    fn has_lanes(migrations: usize) -> bool {
        let mut conn = Connection::open_in_memory().unwrap();
        Migrations::from_slice(&MIGRATIONS[..migrations]).to_latest(&mut conn).unwrap();
        job::exists(&conn, "SELECT 1 FROM sqlite_master WHERE name = 'lanes'", []).unwrap()
    }

    #[test]
    fn jobs_of_earlier_versions_get_their_class() {
        let mut conn = Connection::open_in_memory().unwrap();
        let before = (1..=MIGRATIONS.len()).find(|count| has_lanes(*count)).unwrap() - 1;
        Migrations::from_slice(&MIGRATIONS[..before]).to_latest(&mut conn).unwrap();
        for (number, options) in everything().into_iter().enumerate() {
            conn.execute(
                "INSERT INTO jobs (id, tenant, dedupe_key, options, blob, created_at, ends_at, state, tier, position,
                                   audio, estimated_secs, queued_at, engine, stage, isolated)
                 VALUES (?1, 'default', ?1, ?2, ?1, 0, 9, 'queued', 1, CAST(?1 AS INTEGER), '{}', 1, 0, 'auto', 'queued', CAST(?1 AS INTEGER) % 2)",
                params![number.to_string(), serde_json::to_string(&options).unwrap()],
            )
            .unwrap();
        }
        Migrations::from_slice(MIGRATIONS).to_latest(&mut conn).unwrap();
        for (number, options) in everything().into_iter().enumerate() {
            let lane = Lane { class: JobClass::of(&options), isolated: number % 2 == 1 };
            let kept: String = conn
                .query_row("SELECT lane FROM jobs WHERE id = ?1", [number.to_string()], |row| row.get(0))
                .unwrap();
            assert_eq!(kept, lane.name(), "{options:?}");
        }
        let counted: i64 = conn.query_row("SELECT sum(jobs) FROM lanes", [], |row| row.get(0)).unwrap();
        assert_eq!(counted as usize, everything().len());
    }
}
