//! Audio that is none, or not quite: each ends in a clear refusal or a job with a reason, and the next job is fine.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::sound::{hello, hello_times, made_by, wav};
use crate::support::{Client, Server};

/// What must come of an upload.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// The upload is refused with this status and code.
    Refused(u16, &'static str),
    /// It is refused, or the job fails, with one of these codes.
    Unusable(&'static [&'static str]),
    /// The job completes without a word.
    Silent,
    /// The job completes, whatever it heard.
    Completed,
}

async fn check(client: &Client, name: &str, audio: Vec<u8>, expected: Expected) -> Result<()> {
    let (status, answer) = client.upload(audio, &[]).await.with_context(|| name.to_owned())?;
    if !status.is_success() {
        let code = answer["code"].as_str().unwrap_or_default();
        let told = answer["detail"].as_str().is_some_and(|detail| detail.len() > 10);
        let fits = match expected {
            Expected::Refused(wanted, wanted_code) => status == wanted && code == wanted_code,
            Expected::Unusable(codes) => status.is_client_error() && codes.contains(&code),
            Expected::Silent | Expected::Completed => false,
        };
        ensure!(fits && told, "{name}: expected {expected:?}, got {status} {answer}");
        return Ok(());
    }
    let job = client.ended(answer["id"].as_str().context("an id")?).await?;
    ensure!(ends_as(client, &job, expected).await?, "{name}: expected {expected:?}, got {job}");
    Ok(())
}

async fn ends_as(client: &Client, job: &Value, expected: Expected) -> Result<bool> {
    let completed = job["status"] == "completed";
    Ok(match expected {
        Expected::Refused(..) => false,
        Expected::Unusable(codes) => {
            let error = &job["error"];
            let told = error["message"].as_str().is_some_and(|message| message.len() > 10);
            job["status"] == "failed" && told && codes.contains(&error["code"].as_str().unwrap_or_default())
        }
        Expected::Silent => {
            let id = job["id"].as_str().context("an id")?;
            completed && client.text(id).await?.trim().is_empty()
        }
        Expected::Completed => completed,
    })
}

/// The sample in another format, cut to this share of its length.
fn cut(folder: &Path, name: &str, share: f64) -> Result<Vec<u8>> {
    let source = folder.join("hello.wav");
    std::fs::write(&source, hello_times(2))?;
    let source = source.to_str().context("a path in UTF-8")?;
    let mut bytes = made_by("ffmpeg", &["-y", "-i", source], &folder.join(name))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share"
    )]
    bytes.truncate((bytes.len() as f64 * share) as usize);
    Ok(bytes)
}

/// A WAV file with some bytes of its header replaced.
fn wav_with(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = wav(16_000, &hello());
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

/// As a recorder leaves it that was switched off: neither length was ever filled in.
fn unfinished() -> Vec<u8> {
    let mut file = wav_with(40, &[0; 4]);
    file[4..8].copy_from_slice(&[0; 4]);
    file
}

/// A second of samples that are not numbers.
fn not_numbers() -> Vec<u8> {
    let mut file = wav(16_000, &[0; 32_000]);
    file[20] = 3; // IEEE float
    file[28..32].copy_from_slice(&64_000_u32.to_le_bytes());
    file[32..36].copy_from_slice(&[4, 0, 32, 0]);
    for sample in file[44..].chunks_exact_mut(4) {
        sample.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    file
}

const UNUSABLE: Expected = Expected::Unusable(&["bad_audio", "unsupported_media", "empty_audio"]);

#[tokio::test]
async fn every_bad_file_has_a_clear_end_and_the_worker_goes_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path();
    let server = Server::start(&[]).await?;
    let client = Client::new(server.url());
    let silence = ["-y", "-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-t", "7200"];
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("empty", Vec::new(), Expected::Refused(422, "empty_audio")),
        ("one byte", vec![b'R'], Expected::Refused(415, "unsupported_media")),
        (
            "text",
            b"This is a letter, not a recording.".repeat(50),
            Expected::Refused(415, "unsupported_media"),
        ),
        ("a lone WAV header", wav(16_000, &[]), UNUSABLE),
        ("flac cut in its header", cut(dir, "a.flac", 0.0005)?, UNUSABLE),
        ("flac cut in the middle", cut(dir, "a.flac", 0.5)?, Expected::Completed),
        ("mp3 cut in the middle", cut(dir, "a.mp3", 0.5)?, Expected::Completed),
        ("m4a without its end", cut(dir, "a.m4a", 0.5)?, UNUSABLE),
        (
            "a WAV header that promises too much",
            wav_with(40, &0x7fff_0000_u32.to_le_bytes()),
            Expected::Completed,
        ),
        ("a WAV header that was never finished", unfinished(), Expected::Completed),
        ("zero channels", wav_with(22, &[0, 0]), UNUSABLE),
        ("0 Hz", wav_with(24, &[0; 4]), UNUSABLE),
        ("not numbers", not_numbers(), Expected::Silent),
        ("five seconds of silence", wav(16_000, &[0; 80_000]), Expected::Silent),
        ("a twentieth of a second", wav(16_000, &hello()[8000..8800]), Expected::Completed),
        ("two hours of silence", made_by("ffmpeg", &silence, &dir.join("silence.flac"))?, Expected::Silent),
    ];
    for (name, audio, expected) in cases {
        check(&client, name, audio, expected).await?;
    }
    let good = client.accepted(hello_times(1), &[]).await?;
    ensure!(client.ended(&good).await?["attempt"] == 1);
    ensure!(client.text(&good).await?.contains("computer"));
    Ok(())
}

#[tokio::test]
async fn options_that_make_no_sense_are_named() -> Result<()> {
    let server = Server::start(&[("VERBATIM__WORKER__ENGINES", "fake")]).await?;
    let client = Client::new(server.url());
    for (field, value) in [
        ("language", "klingon"),
        ("temperature", "7"),
        ("task", "sing"),
        ("priority", "urgent"),
        ("engine", "steam"),
        ("metadata", "[1]"),
    ] {
        let (status, answer) = client.upload(hello_times(1), &[(field, value)]).await?;
        ensure!(status == 400, "{field}={value}: {status} {answer}");
        ensure!(answer["detail"].as_str().is_some_and(|detail| detail.contains(field)), "{field}: {answer}");
    }
    let (status, answer) = client.upload(hello_times(1), &[("model", "gpt-99")]).await?;
    ensure!(
        status.is_client_error() && answer["detail"].as_str().is_some_and(|it| it.contains("gpt-99")),
        "{answer}"
    );
    Ok(())
}

/// Words may be missing from a job that completed: it says so.
#[tokio::test]
async fn what_may_have_cost_words_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&[("VERBATIM__WORKER__ENGINES", "fake")]).await?;
    let client = Client::new(server.url());
    let two_people = "aevalsrc=exprs='0.3*sin(2*PI*300*t)|0.3*sin(2*PI*470*t)':s=8000:d=3";
    let call = made_by("ffmpeg", &["-y", "-f", "lavfi", "-i", two_people], &folder.path().join("call.wav"))?;
    let half = wav(16_000, &hello())[..30_000].to_vec();
    let whole = hello_times(1);
    let none = serde_json::Value::Null;
    let early = serde_json::json!({ "lost_packets": 0, "ended_early": true, "unheard_bytes": 0 });
    for (name, audio, damage, codes) in [
        ("whole", whole, none.clone(), vec![]),
        ("half", half, early, vec!["ended_early"]),
        ("call", call, none, vec!["channels_differ"]),
    ] {
        let id = client.accepted(audio, &[("vad", "false")]).await?;
        let job = client.ended(&id).await?;
        ensure!(job["status"] == "completed" && job["audio"]["damage"] == damage, "{name}: {job}");
        let warnings = job["warnings"].as_array().context("warnings")?;
        let told: Vec<_> = warnings.iter().filter_map(|warning| warning["code"].as_str()).collect();
        ensure!(told == codes, "{name}: {job}");
        ensure!(warnings.iter().all(|warning| warning["message"].as_str().is_some_and(|it| it.len() > 20)));
    }
    Ok(())
}
