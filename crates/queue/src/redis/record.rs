//! What the scripts answer, read into the domain's types. The names of the fields stand in `lua/common.lua`.

use std::collections::HashMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use verbatim_core::PortError;
use verbatim_core::audio::AudioInfo;
use verbatim_core::class::JobClass;
use verbatim_core::ids::{ClaimNonce, Fence, JobId, SubmissionId, TenantId};
use verbatim_core::job::{JobState, Lease, LeaseToken, Submission};
use verbatim_core::options::{Priority, TranscribeOptions};
use verbatim_core::ports::blobs::{BlobKey, RESULTS_PREFIX};
use verbatim_core::ports::jobs::DeadLetter;
use verbatim_core::time::Timestamp;
use verbatim_core::trace::TraceParent;

use crate::newer::{self, bad_json, corrupt, unreadable};
use crate::ticket::{Ended, EndedHow, JobFacts, Ticket};

/// The fields of a hash.
#[derive(Debug, Default)]
pub(super) struct Fields(HashMap<String, String>);

impl redis::FromRedisValue for Fields {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        HashMap::from_redis_value(value).map(Self)
    }
}

impl Fields {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn needed(&self, name: &str) -> Result<&str, PortError> {
        self.text(name).ok_or_else(|| corrupt(format!("field `{name}` is missing")))
    }

    pub(super) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, PortError> {
        self.text(name).map(|text| parsed(name, text)).transpose()
    }

    pub(super) fn time(&self, name: &str) -> Result<Option<Timestamp>, PortError> {
        Ok(self.number(name)?.map(Timestamp::from_millis))
    }

    fn time_of(&self, name: &str) -> Result<Timestamp, PortError> {
        Ok(Timestamp::from_millis(parsed(name, self.needed(name)?)?))
    }
}

fn parsed<T: FromStr>(name: &str, text: &str) -> Result<T, PortError> {
    text.parse().map_err(|_| corrupt(format!("field `{name}` is `{text}`")))
}

fn json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, PortError> {
    serde_json::from_str(text).map_err(|error| bad_json("a JSON document", error))
}

/// What does not move of a job.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Unmoving {
    pub(super) options: TranscribeOptions,
    pub(super) audio: AudioInfo,
    /// Where the audio lies, where that is not the usual place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<BlobKey>,
    /// What submitted the job, where that was traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<TraceParent>,
}

impl Unmoving {
    fn blob(&self, job: &JobId) -> BlobKey {
        self.blob.clone().unwrap_or_else(|| BlobKey::for_upload(job))
    }
}

/// Submission, job, what does not move of it, place in the queue (-1: none), id of the job, whether no worker can do it.
pub(super) type View = (Fields, Fields, String, i64, String, u8);

/// What a claim answers.
#[derive(Debug)]
pub(super) enum Claimed {
    Nothing,
    Given(Box<LeaseRow>),
    /// The digest of the worker's abilities is not known (any more).
    UnknownAbilities,
}

impl redis::FromRedisValue for Claimed {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        match value {
            redis::Value::Nil => Ok(Self::Nothing),
            redis::Value::BulkString(word) if word == b"abilities" => Ok(Self::UnknownAbilities),
            row => LeaseRow::from_redis_value(row).map(Box::new).map(Self::Given),
        }
    }
}

/// Job, tenant, fence, nonce, attempt, end, time of submission, alone, length of the audio, what does not move, checkpoint,
/// segments that are kept beside it.
pub(super) type LeaseRow =
    (String, String, u64, String, u32, i64, i64, u8, String, String, String, Vec<String>);

/// Job, its fields, what does not move, submissions.
pub(super) type DeadLetterRow = (String, Fields, String, Vec<String>);

/// The number of a tier in Redis.
pub(super) fn tier_number(tier: Priority) -> u8 {
    match tier {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}

/// The state behind a letter.
pub(super) fn state(letter: &str) -> JobState {
    match letter {
        "q" => JobState::Queued,
        "d" => JobState::Delayed,
        "r" => JobState::Running,
        "c" => JobState::Completed,
        "f" => JobState::Failed,
        "x" => JobState::Cancelled,
        // A state between queued and ended that a newer version knows.
        _ => JobState::Running,
    }
}

pub(super) fn job_id(ulid: &str) -> Result<JobId, PortError> {
    JobId::from_ulid(ulid).map_err(corrupt)
}

pub(super) fn submission_id(ulid: &str) -> Result<SubmissionId, PortError> {
    SubmissionId::from_ulid(ulid).map_err(corrupt)
}

fn tenant(fields: &Fields) -> Result<TenantId, PortError> {
    TenantId::parse(fields.needed("t")?).map_err(corrupt)
}

/// The submission of a view.
pub(super) fn ticket(fields: &Fields) -> Result<Ticket, PortError> {
    let how = match fields.text("x") {
        None => None,
        Some("c") => Some(EndedHow::Cancelled),
        Some("e") => Some(EndedHow::Expired),
        Some(other) => return Err(unreadable(format!("a submission ended as `{other}`"))),
    };
    let ended = match (how, fields.time("y")?, fields.number("z")?) {
        (Some(how), Some(at), Some(seq)) => Some(Ended { how, at, seq }),
        _ => None,
    };
    Ok(Ticket {
        id: submission_id(fields.needed("id")?)?,
        tenant: tenant(fields)?,
        created_at: fields.time_of("c")?,
        metadata: fields.text("m").map(json).transpose()?.unwrap_or_default(),
        cached: fields.text("h").is_some(),
        deduplicated: fields.text("u").is_some(),
        first_seq: fields.number("f")?.unwrap_or(0),
        ended,
    })
}

/// The job of a view.
pub(super) fn facts(id: &str, fields: &Fields, unmoving: &str) -> Result<JobFacts, PortError> {
    let id = job_id(id)?;
    let Unmoving { options, mut audio, .. } = json(unmoving)?;
    audio.duration_ms = fields.number("dm")?.or(audio.duration_ms);
    // What a newer version notices is nothing that this one could tell.
    audio.findings = fields.text("fi").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let tier = match fields.needed("p")? {
        "0" => Priority::Low,
        "1" => Priority::Normal,
        "2" => Priority::High,
        other => {
            let newer: u8 = parsed("p", other)?;
            return Err(unreadable(format!("tier {newer}")));
        }
    };
    Ok(JobFacts {
        state: state(fields.needed("s")?),
        tier,
        progress: fields.number("pr")?.unwrap_or(0.0),
        stage: newer::stage(fields.needed("st")?),
        started_at: fields.time("S")?,
        finished_at: fields.time("F")?,
        attempt: fields.number("a")?.unwrap_or(0),
        engine: fields.needed("g")?.to_owned(),
        model: fields.text("mo").map(str::to_owned),
        failure: fields.text("E").map(newer::failure),
        result: fields.text("r").map(|kept| result(&id, fields.text("rs"), kept)).transpose()?,
        id,
        options,
        audio,
    })
}

fn result(job: &JobId, store: Option<&str>, kept: &str) -> Result<BlobKey, PortError> {
    let whole = kept.strip_prefix('~').map(|end| match store {
        Some(store) => format!("{RESULTS_PREFIX}{store}/{job}/{end}"),
        None => format!("{RESULTS_PREFIX}{job}/{end}"),
    });
    BlobKey::parse(whole.as_deref().unwrap_or(kept)).map_err(corrupt)
}

/// What a client sees.
pub(super) fn submission((sub, job, unmoving, place, id, unserved): View) -> Result<Submission, PortError> {
    let position = u64::try_from(place).ok();
    Ok(ticket(&sub)?.view(facts(&id, &job, &unmoving)?, position, unserved == 1))
}

/// The class of a job of which this does not move. What cannot be read is offered to every worker.
pub(super) fn class_of(unmoving: &str) -> JobClass {
    json::<Unmoving>(unmoving)
        .map_or_else(|_| JobClass::unknown(), |unmoving| JobClass::of(&unmoving.options))
}

/// What names the lease of a row, also where the rest of it cannot be read.
pub(super) fn token(row: &LeaseRow) -> Result<LeaseToken, PortError> {
    let (id, _, fence, nonce, ..) = row;
    let nonce = ClaimNonce::from_stored(nonce.clone());
    Ok(LeaseToken { job_id: job_id(id)?, fence: Fence::new(*fence), nonce })
}

/// A lease that a claim gave.
pub(super) fn lease(row: LeaseRow) -> Result<Lease, PortError> {
    let (id, tenant, fence, nonce, attempt, ends, created, alone, millis, unmoving, head, segments) = row;
    let job = job_id(&id)?;
    let unmoving: Unmoving = json(&unmoving)?;
    let blob = unmoving.blob(&job);
    let Unmoving { options, mut audio, trace, .. } = unmoving;
    if !millis.is_empty() {
        audio.duration_ms = Some(parsed("dm", &millis)?);
    }
    Ok(Lease {
        token: LeaseToken { job_id: job, fence: Fence::new(fence), nonce: ClaimNonce::from_stored(nonce) },
        expires_at: Timestamp::from_millis(ends),
        attempt,
        tenant: TenantId::parse(&tenant).map_err(corrupt)?,
        options,
        audio,
        blob,
        submitted_at: Timestamp::from_millis(created),
        checkpoint: Some(head)
            .filter(|head| !head.is_empty())
            .and_then(|head| newer::checkpoint(&head, &segments)),
        alone: alone == 1,
        trace,
    })
}

/// A dead letter.
pub(super) fn dead_letter(
    (id, fields, unmoving, submissions): DeadLetterRow,
) -> Result<DeadLetter, PortError> {
    let job = facts(&id, &fields, &unmoving)?;
    let failure = job.failure.ok_or_else(|| corrupt("a dead letter without a reason"))?;
    Ok(DeadLetter {
        job_id: job.id,
        tenant: tenant(&fields)?,
        submissions: submissions.iter().map(|id| submission_id(id)).collect::<Result<_, _>>()?,
        failure,
        attempts: job.attempt,
        crashes: fields.number("C")?.unwrap_or(0),
        created_at: fields.time_of("c")?,
        failed_at: fields.time_of("F")?,
        expires_at: fields.time_of("X")?,
        options: job.options,
        audio: job.audio,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_a_newer_version_are_shown_as_something_known() {
        assert_eq!((state("a"), state("q")), (JobState::Running, JobState::Queued));
    }

    #[test]
    fn a_job_of_a_version_that_did_not_trace_is_read() {
        let old = r#"{"options":{"engine":"whisper","model":"tiny.en","language":null,"task":"transcribe","prompt":null,
            "temperature":0.0,"words":false,"vad":true,"diarize":false},
            "audio":{"sha256":"aa","bytes":9,"format":"wav","duration_ms":null}}"#;
        let unmoving: Unmoving = json(old).unwrap();
        assert!(unmoving.trace.is_none() && unmoving.blob.is_none());
        let written = serde_json::to_string(&unmoving).unwrap();
        assert!(!written.contains("trace"), "a job without a trace takes no more room: {written}");
    }
}
