//! A client of our own HTTP API, for the commands that talk to a server.

use std::path::Path;

use anyhow::{Context, bail};
use futures::StreamExt;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::multipart::{Form, Part};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::cli::ServerArgs;

/// Talks to one server.
pub struct Client {
    base: String,
    http: reqwest::Client,
}

/// One event of a job's stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `queued`, `segment`, `completed` …
    pub name: String,
    /// Its body.
    pub data: Value,
}

impl Client {
    /// A client of this server, which presents the key with every request.
    ///
    /// # Errors
    /// When the server is not an HTTP URL or the key cannot be one.
    pub fn new(server: &ServerArgs) -> anyhow::Result<Self> {
        let base = server.server.trim_end_matches('/');
        let url = reqwest::Url::parse(base).with_context(|| format!("--server {base} is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            bail!("--server {base} must begin with http:// or https://");
        }
        let mut headers = HeaderMap::new();
        if let Some(key) = &server.api_key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
                .context("the API key has characters that no key has")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder().user_agent("verbatim-cli").default_headers(headers).build()?;
        Ok(Self { base: base.to_owned(), http })
    }

    /// Uploads one file as a job; `fields` are the options. Returns the job.
    ///
    /// # Errors
    /// When the file cannot be read, the server cannot be reached, or it refuses.
    pub async fn submit(&self, file: &Path, fields: &[(&str, String)]) -> anyhow::Result<Value> {
        let part = Part::file(file).await.with_context(|| format!("cannot read {}", file.display()))?;
        let mut form = Form::new();
        // Options first, so that a bad one is refused before the audio is sent.
        for (name, value) in fields {
            form = form.text((*name).to_owned(), value.clone());
        }
        let request = self.http.post(self.url("/v1/jobs")).multipart(form.part("file", part));
        json(self.send(request).await?).await
    }

    /// GET of a JSON document.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        json(self.send(self.http.get(self.url(path))).await?).await
    }

    /// GET of a text.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn get_text(&self, path: &str) -> anyhow::Result<String> {
        Ok(self.send(self.http.get(self.url(path))).await?.text().await?)
    }

    /// Cancels or removes a job: `true` when it was removed, `false` when it was cancelled.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn delete(&self, id: &str) -> anyhow::Result<bool> {
        Ok(self.delete_at(&format!("/v1/jobs/{id}")).await? == StatusCode::NO_CONTENT)
    }

    /// DELETE; tells the status.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn delete_at(&self, path: &str) -> anyhow::Result<StatusCode> {
        Ok(self.send(self.http.delete(self.url(path))).await?.status())
    }

    /// POST without a body.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn post(&self, path: &str) -> anyhow::Result<()> {
        self.send(self.http.post(self.url(path))).await?;
        Ok(())
    }

    /// Whether the server is ready, and what it says.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn readiness(&self) -> anyhow::Result<(bool, String)> {
        let response = self
            .http
            .get(self.url("/readyz"))
            .timeout(std::time::Duration::from_secs(5))
            .send()
            .await
            .with_context(|| format!("cannot reach {}", self.base))?;
        Ok((response.status().is_success(), response.text().await.unwrap_or_default()))
    }

    /// Follows a job's events until they end; `each` sees every one. Reconnects where a connection is cut.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses, or `each` fails.
    pub async fn follow(
        &self,
        id: &str,
        mut each: impl FnMut(&Event) -> anyhow::Result<()>,
    ) -> anyhow::Result<Event> {
        let mut last_id: Option<String> = None;
        let mut reconnects = 0;
        loop {
            let mut request = self.http.get(self.url(&format!("/v1/jobs/{id}/events")));
            if let Some(last) = &last_id {
                request = request.header("Last-Event-ID", last);
            }
            let mut body = self.send(request).await?.bytes_stream();
            let mut reader = EventReader::default();
            while let Some(Ok(piece)) = body.next().await {
                for (event_id, event) in reader.push(&piece)? {
                    last_id = event_id.or(last_id);
                    reconnects = 0;
                    each(&event)?;
                    if matches!(event.name.as_str(), "completed" | "failed" | "cancelled") {
                        return Ok(event);
                    }
                }
            }
            reconnects += 1;
            if reconnects > 5 {
                bail!(
                    "the server cuts the event stream of {id} again and again; `verbatim jobs get {id}` shows it"
                );
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Sends, and turns refusals into errors that carry the server's own words.
    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.with_context(|| {
            format!(
                "cannot reach {}; is `verbatim serve` running there? (--server URL names another)",
                self.base
            )
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        let problem: Value = serde_json::from_str(&body).unwrap_or_default();
        if status == StatusCode::UNAUTHORIZED {
            bail!(
                "the server asks for an API key that it knows: pass one with --api-key or VERBATIM_API_KEY ({status})"
            );
        }
        match problem["detail"].as_str().or(problem["title"].as_str()) {
            Some(detail) => bail!("{detail} ({status})"),
            None => bail!("the server answered {status}"),
        }
    }
}

async fn json(response: Response) -> anyhow::Result<Value> {
    response.json().await.context("the server's answer is not JSON; is it a Verbatim server?")
}

/// Cuts a stream of bytes into server-sent events (WHATWG HTML, section 9.2).
#[derive(Default)]
struct EventReader {
    buffer: Vec<u8>,
}

impl EventReader {
    fn push(&mut self, piece: &[u8]) -> anyhow::Result<Vec<(Option<String>, Event)>> {
        self.buffer.extend_from_slice(piece);
        let mut events = Vec::new();
        while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let block = String::from_utf8(block).context("the event stream is not UTF-8")?;
            let field = |wanted: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(wanted)?.strip_prefix(':').map(str::trim_start))
            };
            if let (Some(name), Some(data)) = (field("event"), field("data")) {
                let data = serde_json::from_str(data).context("an event's body is not JSON")?;
                events.push((field("id").map(str::to_owned), Event { name: name.to_owned(), data }));
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_cut_in_the_middle_come_out_whole() {
        let mut reader = EventReader::default();
        assert!(reader.push(b": heartbeat\n\nid: 3\nevent: seg").unwrap().is_empty());
        let events = reader.push(b"ment\ndata: {\"a\":1}\n\nid: 4\nevent: completed\ndata: {}\n\n").unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].0.as_deref(), Some("3"));
        assert_eq!(events[0].1, Event { name: "segment".into(), data: serde_json::json!({"a": 1}) });
    }

    #[test]
    fn only_http_urls_are_servers() {
        let of = |server: &str, key: Option<&str>| {
            Client::new(&ServerArgs { server: server.to_owned(), api_key: key.map(Into::into) })
        };
        assert!(of("ftp://x", None).is_err());
        assert!(of("nonsense", None).is_err());
        assert!(of("http://127.0.0.1:8080/", Some("vbk_x")).is_ok());
        assert!(of("http://127.0.0.1:8080/", Some("two\nlines")).is_err());
    }
}
