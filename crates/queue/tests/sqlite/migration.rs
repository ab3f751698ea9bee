//! A database that the first version wrote is brought up to date with everything in it.

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, params};
use verbatim_core::ids::{IdSource, JobId, SubmissionId};
use verbatim_core::job::SubmissionStatus;
use verbatim_core::ports::jobs::DeadLetterQuery;
use verbatim_core::ports::{BlobKey, JobAdmin};
use verbatim_queue::conformance::{SeededIds, World};

use crate::support::{SqliteHarness, audit};

/// The schema as it was released.
const FIRST_VERSION: &str = include_str!("../../src/sqlite/migrations/0001_jobs.sql");

/// One job in each state, and what keeps the state valid.
const STATES: [(&str, &str); 6] = [
    ("queued", ""),
    ("delayed", "run_at = 1700000000000"),
    (
        "running",
        "worker = 'worker_00000000000000000000000007', lease_ends_at = 1700000030000, fence = 1, nonce = 'n', attempt = 1",
    ),
    (
        "completed",
        "result = 'results/old', finished_at = 1700000000000, expires_at = 1700086400000, progress = 1",
    ),
    (
        "failed",
        r#"failure = '{"kind":"bad_audio","message":"no"}', finished_at = 1700000000000, expires_at = 1700086400000"#,
    ),
    ("cancelled", "finished_at = 1700000000000, expires_at = 1700086400000"),
];

/// Writes what the first version would have written.
fn first_version(conn: &Connection, ids: &SeededIds) -> Result<Vec<(SubmissionId, JobId, &'static str)>> {
    conn.execute_batch(FIRST_VERSION)?;
    conn.pragma_update(None, "user_version", 1)?;
    let mut all = Vec::new();
    for (number, (state, set)) in STATES.into_iter().enumerate() {
        let (job, ticket) = (JobId::generate(ids), SubmissionId::generate(ids));
        conn.execute(
            r#"INSERT INTO jobs (id, tenant, dedupe_key, options, blob, created_at, ends_at, state, tier, position, audio,
                                 estimated_secs, queued_at, engine, stage, last_seq)
               VALUES (?1, 'default', ?2,
                       '{"engine":"whisper","model":"tiny.en","language":null,"task":"transcribe","prompt":null,
                         "temperature":0.0,"words":false,"vad":true,"diarize":false}', ?3,
                       1700000000000, 1700086400000, 'queued', 1, ?4,
                       ?5, 7, 1700000000000, 'whisper', 'queued', 1)"#,
            params![
                job.as_str(),
                state,
                format!("audio/{}", ids.ulid()),
                number as i64 + 1,
                serde_json::json!({"sha256": state, "bytes": 9, "format": "wav", "duration_ms": null}).to_string(),
            ],
        )?;
        let set = if set.is_empty() { String::new() } else { format!(", {set}") };
        conn.execute(
            &format!("UPDATE jobs SET state = ?2{set} WHERE id = ?1"),
            params![job.as_str(), state],
        )?;
        conn.execute(
            r#"INSERT INTO events (job_id, seq, at, kind, body)
               VALUES (?1, 1, 1700000000000, 'queued', '{"type":"queued","attempt":0}')"#,
            [job.as_str()],
        )?;
        if ["completed", "failed", "cancelled"].contains(&state) {
            let body = match state {
                "failed" => r#"{"type":"failed","failure":{"kind":"bad_audio","message":"no"}}"#.to_owned(),
                _ => format!(r#"{{"type":"{state}"}}"#),
            };
            conn.execute(
                "INSERT INTO events (job_id, seq, at, kind, body) VALUES (?1, 2, 1700000000000, ?2, ?3)",
                params![job.as_str(), state, body],
            )?;
            conn.execute("UPDATE jobs SET last_seq = 2 WHERE id = ?1", [job.as_str()])?;
        }
        conn.execute(
            "INSERT INTO submissions (id, job_id, tenant, created_at, metadata, cached, deduplicated, first_seq)
             VALUES (?1, ?2, 'default', 1700000000000, '{}', 0, 0, 0)",
            params![ticket.as_str(), job.as_str()],
        )?;
        all.push((ticket, job, state));
    }
    conn.execute("UPDATE counters SET value = ?1 WHERE name = 'queue_tail'", [STATES.len() as i64])?;
    Ok(all)
}

#[tokio::test]
async fn a_database_of_the_first_version_is_migrated_with_its_jobs() -> Result<()> {
    let harness = SqliteHarness::new();
    let ids = SeededIds::starting_at(1_000_000);
    let jobs = first_version(&Connection::open(harness.path().join("jobs.db"))?, &ids)?;

    let world = World::open(&harness).await?;
    audit(harness.path())?;
    for (ticket, _, state) in &jobs {
        // The process that ran it is dead, and its delayed job is due.
        let expected = match *state {
            "completed" => SubmissionStatus::Completed,
            "failed" => SubmissionStatus::Failed,
            "cancelled" => SubmissionStatus::Cancelled,
            _ => SubmissionStatus::Queued,
        };
        world.expect(ticket, expected).await?;
    }
    let done = &jobs.iter().find(|(.., state)| *state == "completed").context("one completed")?.0;
    ensure!(world.get(done).await?.options.model == "tiny.en", "its model is the one that was asked for");
    let failed = &jobs.iter().find(|(.., state)| *state == "failed").context("one failed")?.1;
    let query = DeadLetterQuery { limit: 10, ..DeadLetterQuery::default() };
    let letters = world.store.dead_letters(query).await?.letters;
    ensure!(letters.len() == 1 && letters[0].job_id == *failed, "{letters:?}");
    ensure!(world.store.redrive(failed).await?, "the dead letter is queued again");
    // Uploads were not named after their jobs then.
    let old = letters[0].job_id.ulid();
    ensure!(world.needs(&BlobKey::parse(&blob_of(&harness, failed)?)?).await?, "audio of {old}");

    world.settle().await?;
    let mut done = Vec::new();
    while let Some(lease) = world.claim(&world.worker(), 1).await?.first() {
        ensure!(lease.trace.is_none(), "nobody traced it: {:?}", lease.trace);
        done.push(lease.audio.sha256.clone());
        world.complete(lease).await?;
        world.pass(world.policy.retry.base_delay).await?;
    }
    done.sort();
    ensure!(done == ["delayed", "failed", "queued", "running"], "{done:?}");
    audit(harness.path())
}

fn blob_of(harness: &SqliteHarness, job: &JobId) -> Result<String> {
    let conn = Connection::open(harness.path().join("jobs.db"))?;
    Ok(conn.query_row("SELECT blob FROM jobs WHERE id = ?1", [job.as_str()], |row| row.get(0))?)
}
