//! What is refused, and how it is said.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Service, form, new_speech, told};

#[tokio::test]
async fn a_problem_has_every_field_and_the_requests_own_id() -> Result<()> {
    let service = Service::reach().await?;
    let request = service.client.http.get(service.url("/v1/jobs/job_00000000000000000000000000"));
    let response = request.header("X-Request-Id", "asked-by-a-test").send().await?;
    ensure!(response.headers()["content-type"] == "application/problem+json");
    ensure!(response.headers()["x-request-id"] == "asked-by-a-test");
    let problem: Value = response.json().await?;
    let expected = json!({
        "type": "urn:verbatim:problem:not_found", "title": "Not found", "status": 404,
        "detail": problem["detail"], "code": "not_found", "request_id": "asked-by-a-test",
    });
    ensure!(problem == expected && problem["detail"].is_string(), "{problem}");
    Ok(())
}

#[tokio::test]
async fn what_is_not_built_yet_says_so() -> Result<()> {
    let service = Service::reach().await?;
    for field in ["audio_url", "webhook_url"] {
        let (status, problem) =
            told(service.post("/v1/jobs", new_speech(1)?, &[(field, "http://example.com/a")]).await?).await?;
        ensure!(
            status == 400 && problem["code"] == "unsupported_option" && problem["param"] == field,
            "{problem}"
        );
    }
    let request = service.client.http.post(service.url("/v1/jobs"));
    let (status, problem) =
        told(request.json(&json!({"audio_url": "http://example.com/a"})).send().await?).await?;
    ensure!(status == 400 && problem["code"] == "unsupported_option", "{status} {problem}");
    for path in ["/v1/batches", "/v1/jobs/none/ws"] {
        ensure!(service.get(path).await?.status() == 404, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn forms_that_are_none_are_refused() -> Result<()> {
    let service = Service::reach().await?;
    let unknown = service.post("/v1/jobs", new_speech(1)?, &[("colour", "red")]).await?;
    let (status, problem) = told(unknown).await?;
    ensure!(status == 400 && problem["code"] == "unknown_field" && problem["param"] == "colour", "{problem}");
    let post = || service.client.http.post(service.url("/v1/jobs"));
    let no_file = post().multipart(reqwest::multipart::Form::new().text("model", "tiny.en")).send().await?;
    let (status, problem) = told(no_file).await?;
    ensure!(status == 400 && problem["code"] == "missing_file", "{problem}");
    let (status, problem) = told(post().body("RIFF").send().await?).await?;
    ensure!(status == 415 && problem["code"] == "multipart_expected", "{problem}");
    let header = "multipart/form-data; boundary=b";
    let (status, problem) =
        told(post().header("content-type", header).body("--b\r\nhello").send().await?).await?;
    ensure!(status == 400 && problem["code"] == "invalid_multipart", "{problem}");
    let long = "v".repeat(20_000);
    let (status, problem) =
        told(post().multipart(form(new_speech(1)?, &[("prompt", &long)])).send().await?).await?;
    ensure!(status == 400 && problem["code"] == "field_too_long", "{problem}");
    Ok(())
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() -> Result<()> {
    let service = Service::reach().await?;
    let response = service.client.http.put(service.url("/v1/jobs")).send().await?;
    ensure!(response.status() == 405 && response.headers()["allow"].to_str()?.contains("POST"));
    let (_, problem) = told(response).await?;
    ensure!(problem["code"] == "method_not_allowed", "{problem}");
    Ok(())
}
