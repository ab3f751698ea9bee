//! Jobs from submission to removal.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Service, form, id, new_speech, told};

#[tokio::test]
async fn a_job_has_every_field_of_the_contract_and_ends_with_a_transcript() -> Result<()> {
    let service = Service::reach().await?;
    let audio = new_speech(1)?;
    let response = service.post("/v1/jobs", audio.clone(), &[("metadata", r#"{"case":"17"}"#)]).await?;
    ensure!(response.status() == 202);
    let location = response.headers()["location"].to_str()?.to_owned();
    let job: Value = response.json().await?;
    let mut keys: Vec<&str> = job.as_object().context("an object")?.keys().map(String::as_str).collect();
    keys.sort_unstable();
    let contract = [
        "attempt",
        "audio",
        "cached",
        "created_at",
        "deduplicated",
        "engine",
        "error",
        "finished_at",
        "id",
        "links",
        "metadata",
        "model",
        "object",
        "progress",
        "queue_position",
        "stage",
        "started_at",
        "status",
        "waiting_for",
        "warnings",
    ];
    ensure!(keys == contract, "{keys:?}");
    ensure!(job["object"] == "job" && job["links"]["self"] == location, "{job}");
    ensure!(job["metadata"] == json!({"case": "17"}) && job["cached"] == false, "{job}");
    ensure!(job["audio"]["bytes"] == audio.len() && job["audio"]["format"] == "wav", "{job}");

    let ended = service.client.get(&format!("{location}?wait=60")).await?;
    ensure!(ended["status"] == "completed" && ended["progress"] == 1.0 && ended["attempt"] == 1, "{ended}");
    ensure!(ended["engine"] == "whisper" && ended["queue_position"].is_null(), "{ended}");
    let times =
        ["created_at", "started_at", "finished_at"].map(|name| ended[name].as_str().unwrap_or_default());
    ensure!(
        times.iter().all(|time| time.len() == 24 && time.ends_with('Z')) && times.is_sorted(),
        "{times:?}"
    );
    ensure!(service.client.text(id(&job)?).await?.contains("computer"));
    Ok(())
}

#[tokio::test]
async fn a_transcript_comes_in_every_format() -> Result<()> {
    let service = Service::reach().await?;
    let job = service.finished(new_speech(1)?, &[("timestamp_granularities[]", "word")]).await?;
    let path = format!("/v1/jobs/{}/transcript", id(&job)?);
    for (format, media_type, begins) in [
        ("json", "application/json", "{"),
        ("verbose_json", "application/json", "{"),
        ("text", "text/plain; charset=utf-8", ""),
        ("srt", "application/x-subrip; charset=utf-8", "1\n00:00:0"),
        ("vtt", "text/vtt; charset=utf-8", "WEBVTT\n\n00:00:0"),
        ("tsv", "text/tab-separated-values; charset=utf-8", "start\tend\ttext\n"),
    ] {
        let response = service.get(&format!("{path}?format={format}")).await?;
        ensure!(response.headers()["content-type"] == media_type, "{format}: {:?}", response.headers());
        let body = response.text().await?;
        ensure!(body.starts_with(begins) && body.contains("computer"), "{format}: {body}");
    }
    let transcript = service.client.get(&path).await?;
    let words = transcript["segments"][0]["words"].as_array().context("words were asked for")?;
    ensure!(!words.is_empty() && words[0]["start"].is_number(), "{words:?}");
    let (status, problem) = told(service.get(&format!("{path}?format=docx")).await?).await?;
    ensure!(status == 400 && problem["param"] == "format", "{problem}");
    Ok(())
}

#[tokio::test]
async fn a_finished_result_answers_the_same_audio_at_once_whatever_the_format() -> Result<()> {
    let service = Service::reach().await?;
    let audio = new_speech(1)?;
    let first = service.finished(audio.clone(), &[]).await?;
    let (status, second) = told(service.post("/v1/jobs", audio.clone(), &[]).await?).await?;
    ensure!(
        status == 200 && second["cached"] == true && second["status"] == "completed",
        "{status} {second}"
    );
    ensure!(id(&first)? != id(&second)?, "each submission has an id of its own");
    ensure!(service.client.text(id(&second)?).await? == service.client.text(id(&first)?).await?);
    let (status, other) = told(service.post("/v1/jobs", audio, &[("prompt", "Ada")]).await?).await?;
    ensure!(status == 202 && other["cached"] == false, "other options are other work: {other}");
    Ok(())
}

#[tokio::test]
async fn waiting_at_submission_gives_the_result() -> Result<()> {
    let service = Service::reach().await?;
    let (status, job) = told(service.post("/v1/jobs?wait=60", new_speech(1)?, &[]).await?).await?;
    ensure!(status == 200 && job["status"] == "completed", "{status} {job}");
    let (status, problem) = told(service.post("/v1/jobs?wait=61", new_speech(1)?, &[]).await?).await?;
    ensure!(status == 400 && problem["param"] == "wait", "{problem}");
    Ok(())
}

#[tokio::test]
async fn an_idempotency_key_replays_the_first_answer_and_refuses_another_body() -> Result<()> {
    let service = Service::reach().await?;
    let audio = new_speech(1)?;
    let key = format!("key of {}", std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim());
    let submit = async |audio: &[u8], fields: &[(&str, &str)]| -> Result<_> {
        let request = service.client.http.post(service.url("/v1/jobs")).header("Idempotency-Key", &key);
        Ok(request.multipart(form(audio.to_vec(), fields)).send().await?)
    };
    let first = submit(&audio, &[]).await?;
    ensure!(first.status() == 202 && !first.headers().contains_key("idempotency-replayed"));
    let first: Value = first.json().await?;
    service.client.ended(id(&first)?).await?;
    let again = submit(&audio, &[]).await?;
    ensure!(
        again.status() == 202 && again.headers()["idempotency-replayed"] == "true",
        "{:?}",
        again.headers()
    );
    let again: Value = again.json().await?;
    ensure!(again["id"] == first["id"] && again["status"] == "completed", "{again}");
    for (audio, fields) in [(&audio, &[("vad", "false")][..]), (&new_speech(1)?, &[])] {
        let (status, problem) = told(submit(audio, fields).await?).await?;
        ensure!(status == 409 && problem["code"] == "idempotency_conflict", "{status} {problem}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cancelled_job_stays_cancelled_and_its_twin_goes_on() -> Result<()> {
    let service = Service::reach().await?;
    // Long enough not to be over before it is cancelled.
    let audio = new_speech(60)?;
    let mine = service.client.accepted(audio.clone(), &[]).await?;
    let twin = service.client.accepted(audio, &[]).await?;
    let path = format!("/v1/jobs/{mine}");
    let (status, job) = told(service.delete(&path).await?).await?;
    ensure!(status == 202 && job["status"] == "cancelled", "{status} {job}");
    let (status, problem) = told(service.get(&format!("{path}/transcript")).await?).await?;
    ensure!(status == 409 && problem["code"] == "job_cancelled", "{problem}");
    let other = service.client.get(&format!("/v1/jobs/{twin}")).await?;
    ensure!(matches!(other["status"].as_str(), Some("queued" | "processing")), "{other}");
    ensure!(service.delete(&format!("/v1/jobs/{twin}")).await?.status() == 202);
    ensure!(service.client.get(&path).await?["status"] == "cancelled");
    Ok(())
}

#[tokio::test]
async fn a_removed_job_is_gone_with_its_transcript() -> Result<()> {
    let service = Service::reach().await?;
    let job = service.finished(new_speech(1)?, &[]).await?;
    let path = format!("/v1/jobs/{}", id(&job)?);
    let removed = service.delete(&path).await?;
    ensure!(removed.status() == 204 && removed.bytes().await?.is_empty());
    for path in [path.clone(), format!("{path}/transcript"), format!("{path}/events")] {
        let (status, problem) = told(service.get(&path).await?).await?;
        ensure!(status == 404 && problem["code"] == "not_found", "{path}: {problem}");
    }
    ensure!(service.delete(&path).await?.status() == 404);
    Ok(())
}

#[tokio::test]
async fn pages_hold_every_job_once_newest_first() -> Result<()> {
    let service = Service::reach().await?;
    let mut submitted = Vec::new();
    for _ in 0..3 {
        submitted.push(id(&service.finished(new_speech(1)?, &[]).await?)?.to_owned());
    }
    let mut listed = Vec::new();
    let mut query = "/v1/jobs?limit=2&status=completed".to_owned();
    loop {
        let page = service.client.get(&query).await?;
        let data = page["data"].as_array().context("a list")?;
        ensure!(page["object"] == "list" && data.len() <= 2, "{page}");
        ensure!(data.iter().all(|job| job["status"] == "completed"), "{page}");
        for job in data {
            listed.push(id(job)?.to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(cursor) if page["has_more"] == true => {
                query = format!("/v1/jobs?limit=2&status=completed&cursor={cursor}");
            }
            _ => break,
        }
    }
    listed.retain(|id| submitted.contains(id));
    submitted.reverse();
    ensure!(listed == submitted, "{listed:?} {submitted:?}");
    Ok(())
}
