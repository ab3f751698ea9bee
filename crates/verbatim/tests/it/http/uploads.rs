//! Uploads: formats by content, fields in any order, limits.

use std::path::Path;

use anyhow::{Result, ensure};
use reqwest::multipart::{Form, Part};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Service, id, new_speech, told};
use crate::support::sound::made_by;

#[tokio::test]
async fn every_format_is_recognised_by_its_content() -> Result<()> {
    let service = Service::reach().await?;
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source.wav");
    std::fs::write(&source, new_speech(1)?)?;
    let source = source.to_string_lossy().into_owned();
    for (name, codec, format) in [
        ("a.wav", "pcm_s24le", "wav"),
        ("a.flac", "flac", "flac"),
        ("a.mp3", "libmp3lame", "mp3"),
        ("a.ogg", "libvorbis", "ogg"),
        ("a.opus", "libopus", "ogg"),
        ("a.m4a", "aac", "m4a"),
        ("a.aac", "aac", "aac"),
        ("a.webm", "libopus", "webm"),
    ] {
        let audio = encoded(folder.path(), &source, name, codec)?;
        let job = service.finished(audio, &[]).await?;
        ensure!(job["status"] == "completed" && job["audio"]["format"] == format, "{name}: {job}");
        let secs = job["audio"]["duration_secs"].as_f64().unwrap_or_default();
        ensure!((10.0..11.0).contains(&secs), "{name}: {job}");
        let text = service.client.text(id(&job)?).await?;
        ensure!(text.contains("computer"), "{name}: {text}");
    }
    Ok(())
}

fn encoded(folder: &Path, source: &str, name: &str, codec: &str) -> Result<Vec<u8>> {
    made_by("ffmpeg", &["-y", "-i", source, "-c:a", codec], &folder.join(name))
}

#[tokio::test]
async fn fields_count_before_and_after_the_file() -> Result<()> {
    let service = Service::reach().await?;
    let form = Form::new()
        .text("language", "en")
        .part("file", Part::bytes(new_speech(1)?))
        .text("metadata", r#"{"after":"yes"}"#);
    let (status, job) =
        told(service.client.http.post(service.url("/v1/jobs")).multipart(form).send().await?).await?;
    ensure!(status == 202 && job["metadata"]["after"] == "yes", "{status} {job}");
    Ok(())
}

/// A connection on which bytes can be sent that no well-behaved client sends.
async fn connect(service: &Service) -> Result<TcpStream> {
    let address = service.client.url.trim_start_matches("http://").trim_end_matches('/');
    Ok(TcpStream::connect(address).await?)
}

/// The head of an upload with these further headers.
fn head(headers: &str) -> String {
    format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n{headers}\r\n\r\n"
    )
}

/// Reads until the answer contains `wanted`.
async fn answered(connection: &mut TcpStream, wanted: &str) -> Result<()> {
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(wanted) {
        let count = connection.read_buf(&mut answer).await?;
        ensure!(count > 0, "the connection ended: {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

#[tokio::test]
async fn too_long_a_body_is_refused_by_its_announced_length() -> Result<()> {
    let service = Service::reach().await?;
    for headers in ["Content-Length: 2000000000", "Content-Length: 2000000000\r\nExpect: 100-continue"] {
        let mut connection = connect(&service).await?;
        // Not one byte of the body is ever sent.
        connection.write_all(head(headers).as_bytes()).await?;
        answered(&mut connection, "HTTP/1.1 413 ").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_reads_only_after_it_has_sent_everything_still_gets_the_refusal() -> Result<()> {
    let service = Service::reach().await?;
    let mut connection = connect(&service).await?;
    connection.write_all(head("Transfer-Encoding: chunked").as_bytes()).await?;
    let field = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    connection.write_all(format!("{:x}\r\n{field}\r\n", field.len()).as_bytes()).await?;
    // No audio, which is known after the first 16 KB; 64 MB more follow all the same.
    let piece = [format!("{:x}\r\n", 1 << 20).as_bytes(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
    for _ in 0..64 {
        connection.write_all(&piece).await?;
    }
    connection.write_all(b"0\r\n\r\n").await?;
    answered(&mut connection, "unsupported_media").await
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() -> Result<()> {
    let service = Service::reach().await?;
    let mut connection = connect(&service).await?;
    connection.write_all(head("Content-Length: 1000\r\nExpect: 100-continue").as_bytes()).await?;
    answered(&mut connection, "HTTP/1.1 100 Continue").await
}

#[tokio::test]
async fn an_upload_that_stops_arriving_is_given_up() -> Result<()> {
    let service =
        Service::own(&[("VERBATIM__SERVER__IDLE_TIMEOUT_SECS", "1"), ("VERBATIM__WORKER__ENGINES", "fake")])
            .await?;
    let mut connection = connect(&service).await?;
    connection.write_all(head("Content-Length: 1000").as_bytes()).await?;
    connection.write_all(b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nRIFF").await?;
    answered(&mut connection, "upload_timeout").await
}

#[tokio::test]
async fn the_limit_is_where_the_operator_set_it() -> Result<()> {
    let service =
        Service::own(&[("VERBATIM__LIMITS__MAX_UPLOAD_MB", "1"), ("VERBATIM__WORKER__ENGINES", "fake")])
            .await?;
    let mut audio = new_speech(5)?;
    audio.truncate(1024 * 1024);
    let (status, job) = told(service.post("/v1/jobs", audio.clone(), &[]).await?).await?;
    ensure!(status == 202 && job["audio"]["bytes"] == 1024 * 1024, "{status} {job}");
    audio.push(0);
    let (status, problem) = told(service.post("/v1/jobs", audio, &[]).await?).await?;
    ensure!(status == 413 && problem["code"] == "too_large", "{status} {problem}");
    Ok(())
}
