//! What a client of the service does, in as few words as possible.

use std::collections::HashMap;

use anyhow::{Context, Result};
use reqwest::StatusCode;
use reqwest::multipart::{Form, Part};
use serde_json::Value;

/// A client of the service at one URL, whatever stands behind it.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), http: reqwest::Client::new() }
    }

    /// Uploads `audio` as a job and returns status and body.
    pub(crate) async fn upload(
        &self,
        audio: Vec<u8>,
        fields: &[(&str, &str)],
    ) -> Result<(StatusCode, Value)> {
        let mut form = Form::new();
        for (name, value) in fields {
            form = form.text((*name).to_owned(), (*value).to_owned());
        }
        let form = form.part("file", Part::bytes(audio).file_name("audio"));
        let answer = self.http.post(format!("{}/v1/jobs", self.url)).multipart(form).send().await?;
        let status = answer.status();
        Ok((status, answer.json().await.with_context(|| format!("{status} without JSON"))?))
    }

    /// Uploads `audio`, expects it to be accepted, and returns the job's id.
    pub(crate) async fn accepted(&self, audio: Vec<u8>, fields: &[(&str, &str)]) -> Result<String> {
        let (status, job) = self.upload(audio, fields).await?;
        anyhow::ensure!(status.is_success(), "{status}: {job}");
        Ok(job["id"].as_str().context("a job has an id")?.to_owned())
    }

    /// The job, once it has ended.
    pub(crate) async fn ended(&self, id: &str) -> Result<Value> {
        loop {
            let job = self.get(&format!("/v1/jobs/{id}?wait=20")).await?;
            if matches!(job["status"].as_str(), Some("completed" | "failed" | "cancelled")) {
                return Ok(job);
            }
        }
    }

    /// GET of JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    /// The plain text of a completed job.
    pub(crate) async fn text(&self, id: &str) -> Result<String> {
        let url = format!("{}/v1/jobs/{id}/transcript?format=text", self.url);
        Ok(self.http.get(url).send().await?.error_for_status()?.text().await?)
    }

    /// The samples of `/metrics` by name and labels.
    pub(crate) async fn metrics(&self) -> Result<HashMap<String, f64>> {
        let text = self.http.get(format!("{}/metrics", self.url)).send().await?.text().await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| Ok((name.to_owned(), value.parse()?)))
            .collect()
    }
}
