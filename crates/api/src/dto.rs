//! The JSON bodies of the native API.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use verbatim_core::audio::AudioInfo;
use verbatim_core::job::Submission;
use verbatim_core::time::Timestamp;

/// A job as its client sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Job {
    /// What to ask for it by.
    #[schema(example = "job_01JD8N3W0S5Y6T7E8Z9QK4M2VX")]
    id: String,
    /// Always `job`.
    #[schema(example = "job")]
    object: &'static str,
    /// `queued`, `processing`, `completed`, `failed` or `cancelled`.
    #[schema(example = "processing")]
    status: &'static str,
    /// From 0 to 1.
    #[schema(example = 0.42, minimum = 0, maximum = 1)]
    progress: f64,
    /// What is being done: `queued`, `fetching`, `decoding`, `transcribing`, `storing` or `done`.
    #[schema(example = "transcribing")]
    stage: &'static str,
    /// When it was submitted (RFC 3339, UTC, milliseconds).
    #[schema(example = "2026-01-31T12:00:00.000Z")]
    created_at: String,
    /// When a worker first took it.
    #[schema(example = "2026-01-31T12:00:00.120Z")]
    started_at: Option<String>,
    /// When it ended.
    finished_at: Option<String>,
    /// How many jobs are ahead of it, while it is queued.
    queue_position: Option<u64>,
    /// What it waits for, while no worker that is there can do it.
    #[schema(example = "a worker with model base")]
    waiting_for: Option<String>,
    /// Attempts made so far.
    #[schema(example = 1)]
    attempt: u32,
    /// The engine that does the work; the one asked for until one has taken it.
    #[schema(example = "whisper")]
    engine: String,
    /// The model, by its own name.
    #[schema(example = "tiny.en")]
    model: String,
    /// What was uploaded.
    audio: Audio,
    /// What was noticed in the audio that may have cost words, once completed.
    warnings: Vec<Warning>,
    /// Whether a finished result answered it at once.
    cached: bool,
    /// Whether it joined work that was already under way.
    deduplicated: bool,
    /// Why it failed, once it has.
    error: Option<JobError>,
    /// Your own notes.
    metadata: BTreeMap<String, String>,
    /// Where to go from here.
    pub(crate) links: Links,
}

/// What was uploaded.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Audio {
    /// SHA-256 of the bytes, in hexadecimal.
    #[schema(example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    sha256: String,
    /// Length in bytes.
    #[schema(example = 512_044)]
    bytes: u64,
    /// Length in seconds; null until known.
    #[schema(example = 16.04)]
    duration_secs: Option<f64>,
    /// `wav`, `flac`, `mp3`, `ogg`, `m4a`, `aac` or `webm`: what the content is, whatever its name.
    #[schema(example = "wav")]
    format: &'static str,
    /// What of it could not be decoded; null when all of it was, and until it has been.
    damage: Option<Damage>,
}

/// What of the audio could not be decoded.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Damage {
    /// Packets that could not be decoded. There is silence in their place, so that times stay right.
    #[schema(example = 3)]
    lost_packets: u64,
    /// Whether the audio ends earlier than its file promises, as in a cut download.
    #[schema(example = false)]
    ended_early: bool,
    /// Bytes behind the end of the audio that were not heard.
    #[schema(example = 0)]
    unheard_bytes: u64,
}

/// Something in the audio that may have cost words.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Warning {
    /// `packets_lost`, `ended_early`, `goes_on_after_its_end`, `channels_differ`, `silent_track_skipped`; and for a
    /// transcript without words `silent`, `no_speech_found` or `no_words_heard`.
    #[schema(example = "channels_differ")]
    code: &'static str,
    /// What it means and what to do about it.
    #[schema(example = "2 channels hold different sound and were mixed to one")]
    message: String,
}

/// Why a job failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobError {
    /// Stable: what programs look at.
    #[schema(example = "bad_audio")]
    pub(crate) code: &'static str,
    /// What happened and what to do about it.
    #[schema(example = "the file ends in the middle of its audio")]
    pub(crate) message: String,
}

/// Paths on this server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Links {
    /// The job itself.
    #[serde(rename = "self")]
    #[schema(example = "/v1/jobs/job_01JD8N3W0S5Y6T7E8Z9QK4M2VX")]
    pub(crate) this: String,
    /// Its transcript, once completed.
    #[schema(example = "/v1/jobs/job_01JD8N3W0S5Y6T7E8Z9QK4M2VX/transcript")]
    transcript: String,
    /// Its events.
    #[schema(example = "/v1/jobs/job_01JD8N3W0S5Y6T7E8Z9QK4M2VX/events")]
    events: String,
}

/// A page of jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobList {
    /// Always `list`.
    #[schema(example = "list")]
    pub(crate) object: &'static str,
    /// The jobs.
    pub(crate) data: Vec<Job>,
    /// Whether there are older ones.
    pub(crate) has_more: bool,
    /// The `cursor` of the next page, if there is one.
    #[schema(example = "job_01JD8N3W0S5Y6T7E8Z9QK4M2VX")]
    pub(crate) next_cursor: Option<String>,
}

impl From<AudioInfo> for Audio {
    fn from(audio: AudioInfo) -> Self {
        Self {
            sha256: audio.sha256,
            bytes: audio.bytes,
            duration_secs: audio.duration_ms.map(seconds),
            format: audio.format.as_str(),
            damage: audio.findings.damage.any().then(|| audio.findings.damage.into()),
        }
    }
}

impl From<verbatim_core::audio::Damage> for Damage {
    fn from(damage: verbatim_core::audio::Damage) -> Self {
        let verbatim_core::audio::Damage { lost_packets, ended_early, unheard_bytes } = damage;
        Self { lost_packets, ended_early, unheard_bytes }
    }
}

impl From<verbatim_core::audio::Warning> for Warning {
    fn from(warning: verbatim_core::audio::Warning) -> Self {
        let verbatim_core::audio::Warning { code, message } = warning;
        Self { code, message }
    }
}

impl From<Submission> for Job {
    fn from(submission: Submission) -> Self {
        let this = format!("/v1/jobs/{}", submission.id);
        let links =
            Links { transcript: format!("{this}/transcript"), events: format!("{this}/events"), this };
        Self {
            id: submission.id.into(),
            object: "job",
            status: submission.status.as_str(),
            progress: fraction(submission.progress),
            stage: submission.stage.as_str(),
            created_at: rfc3339(submission.created_at),
            started_at: submission.started_at.map(rfc3339),
            finished_at: submission.finished_at.map(rfc3339),
            queue_position: submission.queue_position,
            waiting_for: submission.waiting_for,
            attempt: submission.attempt,
            engine: submission.engine,
            model: submission.options.model,
            warnings: submission.audio.findings.warnings().into_iter().map(Warning::from).collect(),
            audio: submission.audio.into(),
            cached: submission.cached,
            deduplicated: submission.deduplicated,
            error: submission
                .failure
                .map(|failure| JobError { code: failure.kind.code(), message: failure.message }),
            metadata: submission.metadata,
            links,
        }
    }
}

/// A point in time as RFC 3339 in UTC with milliseconds.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let at = jiff::Timestamp::from_millisecond(at.as_millis()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{at:.3}")
}

/// A progress with four decimals, so that the widening of its 32 bits does not show.
pub(crate) fn fraction(progress: f32) -> f64 {
    (f64::from(progress).clamp(0.0, 1.0) * 10_000.0).round() / 10_000.0
}

fn seconds(millis: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "audio is far shorter than 2^53 ms")]
    let seconds = millis as f64 / 1000.0;
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_a_z() {
        assert_eq!(rfc3339(Timestamp::from_millis(1_767_225_600_000)), "2026-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Timestamp::from_millis(1_767_225_600_042)), "2026-01-01T00:00:00.042Z");
    }

    #[test]
    fn progress_reads_as_it_was_meant() {
        assert_eq!(fraction(0.42).to_string(), "0.42");
        assert_eq!(fraction(1.5).to_string(), "1");
    }
}
