//! The HTTP contract, asked of a running service. With `VERBATIM_TEST_URL` it is asked of the service there, over
//! whatever store that one has; without, each test starts its own. The audio is new every time, so that neither
//! other tests nor earlier runs have left answers for it.

mod audio;
mod events;
mod jobs;
mod operations;
mod refusals;
mod uploads;

use anyhow::{Context, Result};
use reqwest::multipart::{Form, Part};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::support::redis_server::RedisServer;
use crate::support::sound::{hello, wav};
use crate::support::{Client, Server};

/// A service and a client of it.
struct Service {
    client: Client,
    /// Kept alive for as long as the test asks it.
    _server: Option<Server>,
    _redis: Option<RedisServer>,
}

/// Whether this copy of the suite runs over Redis: `main.rs` includes it twice.
fn over_redis() -> bool {
    module_path!().contains("over_redis")
}

impl Service {
    /// The service under test: English model, default settings.
    async fn reach() -> Result<Self> {
        match std::env::var("VERBATIM_TEST_URL") {
            Ok(url) => Ok(Self { client: Client::new(&url), _server: None, _redis: None }),
            Err(_) => Self::own(&[]).await,
        }
    }

    /// A service of the test's own, for what needs other settings.
    async fn own(settings: &[(&str, &str)]) -> Result<Self> {
        let redis = over_redis().then(|| RedisServer::start(&[]));
        let url = redis.as_ref().map(RedisServer::url).unwrap_or_default();
        let mut all = settings.to_vec();
        if redis.is_some() {
            all.extend([("VERBATIM__REDIS__URL", url.as_str()), ("VERBATIM__AUTH__REQUIRED", "false")]);
        }
        let server = Server::start(&all).await?;
        Ok(Self { client: Client::new(server.url()), _server: Some(server), _redis: redis })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.client.url)
    }

    async fn get(&self, path: &str) -> Result<Response> {
        Ok(self.client.http.get(self.url(path)).send().await?)
    }

    async fn delete(&self, path: &str) -> Result<Response> {
        Ok(self.client.http.delete(self.url(path)).send().await?)
    }

    /// Posts a form; `file` is the name of the audio's field among the others.
    async fn post(&self, path: &str, audio: Vec<u8>, fields: &[(&str, &str)]) -> Result<Response> {
        Ok(self.client.http.post(self.url(path)).multipart(form(audio, fields)).send().await?)
    }

    /// A job that has ended.
    async fn finished(&self, audio: Vec<u8>, fields: &[(&str, &str)]) -> Result<Value> {
        let id = self.client.accepted(audio, fields).await?;
        self.client.ended(&id).await
    }
}

/// A form with the audio first and these fields after it.
fn form(audio: Vec<u8>, fields: &[(&str, &str)]) -> Form {
    let form = Form::new().part("file", Part::bytes(audio).file_name("audio"));
    fields.iter().fold(form, |form, (name, value)| form.text((*name).to_owned(), (*value).to_owned()))
}

/// Status and JSON body.
async fn told(response: Response) -> Result<(StatusCode, Value)> {
    let status = response.status();
    Ok((status, response.json().await.with_context(|| format!("{status} without JSON"))?))
}

/// The id in a job's JSON.
fn id(job: &Value) -> Result<&str> {
    job["id"].as_str().with_context(|| format!("no id in {job}"))
}

/// The sample with a tail of inaudible noise that no other call makes, `times` over.
fn new_speech(times: usize) -> Result<Vec<u8>> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let mut once = hello();
    once.extend_from_slice(&[0; 16_000]);
    let mut samples = once.repeat(times);
    samples.extend(uuid.trim().bytes().map(|byte| i16::from(byte % 4)));
    Ok(wav(16_000, &samples))
}
