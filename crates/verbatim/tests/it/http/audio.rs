//! OpenAI's audio API as bare HTTP: what its own client does not look at.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Service, new_speech, told};

const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

#[tokio::test]
async fn json_holds_text_and_usage_and_nothing_else() -> Result<()> {
    let service = Service::reach().await?;
    let fields = [("model", "whisper-1"), ("include[]", "logprobs"), ("user", "somebody")];
    let (status, body) = told(service.post(TRANSCRIPTIONS, new_speech(1)?, &fields).await?).await?;
    ensure!(status == 200, "{body}");
    let text = body["text"].as_str().context("text")?;
    ensure!(text.contains("computer") && text == text.trim(), "{text:?}");
    ensure!(body == json!({"text": text, "usage": {"type": "duration", "seconds": 11}}), "{body}");
    Ok(())
}

#[tokio::test]
async fn subtitles_are_plain_bodies() -> Result<()> {
    let service = Service::reach().await?;
    let audio = new_speech(1)?;
    for (format, begins) in [("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n"), ("text", "")] {
        let response = service.post(TRANSCRIPTIONS, audio.clone(), &[("response_format", format)]).await?;
        ensure!(response.status() == 200);
        let body = response.text().await?;
        ensure!(body.starts_with(begins) && body.contains("computer"), "{format}: {body}");
    }
    Ok(())
}

/// Fields, and the status, `param` and `code` that they lead to.
type Case<'a> = (&'a [(&'a str, &'a str)], u16, &'a str, &'a str);

#[tokio::test]
async fn errors_have_openais_shape_and_nothing_else() -> Result<()> {
    let service = Service::reach().await?;
    let cases: [Case<'_>; 5] = [
        (&[("model", "gpt-99")], 404, "model", "model_not_found"),
        (&[("model", "tiny.en"), ("language", "de")], 400, "language", "model_cannot_hear"),
        (&[("response_format", "docx")], 400, "response_format", "invalid_option"),
        (&[("timestamp_granularities[]", "word")], 400, "timestamp_granularities", "invalid_option"),
        (&[("temperature", "2")], 400, "temperature", "invalid_option"),
    ];
    for (fields, wanted, param, code) in cases {
        let (status, body) = told(service.post(TRANSCRIPTIONS, new_speech(1)?, fields).await?).await?;
        let message = body["error"]["message"].as_str().unwrap_or_default().to_owned();
        let expected = json!({"error": {
            "message": message, "type": "invalid_request_error", "param": param, "code": code,
        }});
        ensure!(status == wanted && body == expected && message.len() > 10, "{fields:?}: {status} {body}");
    }
    let english = [("model", "tiny.en")];
    let (status, body) =
        told(service.post("/v1/audio/translations", new_speech(1)?, &english).await?).await?;
    ensure!(status == 400 && body["error"]["code"] == "model_cannot_translate", "{status} {body}");
    Ok(())
}

#[tokio::test]
async fn a_file_that_cannot_be_decoded_is_the_clients_error() -> Result<()> {
    let service = Service::reach().await?;
    let text = b"This is a letter, not a recording.".repeat(50);
    let (status, body) = told(service.post(TRANSCRIPTIONS, text, &[]).await?).await?;
    ensure!(status == 415 && body["error"]["type"] == "invalid_request_error", "{status} {body}");
    let mut broken = new_speech(1)?;
    broken[22] = 0; // channels
    let (status, body) = told(service.post(TRANSCRIPTIONS, broken, &[]).await?).await?;
    ensure!(status == 400 && body["error"]["param"] == "file", "{status} {body}");
    Ok(())
}

#[tokio::test]
async fn a_stream_is_deltas_and_then_the_whole() -> Result<()> {
    let service = Service::reach().await?;
    let response = service.post(TRANSCRIPTIONS, new_speech(4)?, &[("stream", "true")]).await?;
    ensure!(response.headers()["content-type"] == "text/event-stream");
    let body = response.text().await?;
    let lines = body.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut messages = lines.map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let done = messages.pop().context("the stream says something")?;
    ensure!(done["type"] == "transcript.text.done" && done["usage"]["seconds"].is_u64(), "{done}");
    ensure!(messages.len() > 1, "{messages:?}");
    ensure!(messages.iter().all(|message| message["type"] == "transcript.text.delta"), "{messages:?}");
    let told: String = messages.iter().filter_map(|message| message["delta"].as_str()).collect();
    ensure!(done["text"] == told.trim_end(), "{told:?} {done}");
    Ok(())
}

#[tokio::test]
async fn models_are_listed_and_found_by_name() -> Result<()> {
    let service = Service::reach().await?;
    let list = service.client.get("/v1/models").await?;
    let first = &list["data"][0];
    ensure!(list["object"] == "list" && first["object"] == "model" && first["created"].is_i64(), "{list}");
    let name = first["id"].as_str().context("an id")?;
    ensure!(&service.client.get(&format!("/v1/models/{name}")).await? == first);
    ensure!(&service.client.get("/v1/models/whisper-1").await? == first);
    let (status, body) = told(service.get("/v1/models/gpt-99").await?).await?;
    ensure!(status == 404 && body["error"]["code"] == "model_not_found", "{body}");
    Ok(())
}
