//! A client as real ones are: it goes from node to node, repeats what was not answered, and writes down what it saw.

use std::time::Duration;

use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::history::{Expected, History, Manner, Seen, Status};
use crate::sound::Sound;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(20);
/// The longest that a client waits before it tries again: in a test, less than `Retry-After` asks for.
const LONGEST_PAUSE: Duration = Duration::from_millis(700);

/// An answer.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub text: String,
    /// Whether a call before this one may have been carried out without an answer.
    pub unsure: bool,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    fn unexpected(&self) -> Seen {
        Seen::Unexpected(format!("{}: {}", self.status, self.text))
    }
}

/// For whom and with what a sound is to be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Order {
    /// The tenant's place among those of the cluster.
    pub tenant: usize,
    /// The tier; the service's own choice where none is named.
    pub priority: Option<&'static str>,
    /// The model; the service's own choice where none is named.
    pub model: Option<&'static str>,
}

/// One submission and its client.
pub struct Client<'c> {
    /// Where.
    pub cluster: &'c Cluster,
    /// Connections, shared by all clients.
    pub http: &'c reqwest::Client,
    /// Which submission.
    pub number: u64,
    /// What is submitted.
    pub sound: Sound,
    /// How it is submitted.
    pub order: Order,
    /// When it counts as never.
    pub deadline: Instant,
}

/// The client may go no further.
struct Stopped;

impl Client<'_> {
    /// Asks one node after the other until one answers for good. `None` when the time is over.
    pub async fn ask(&self, request: impl Fn(&str) -> RequestBuilder) -> Option<Answer> {
        let nodes = &self.cluster.apis;
        let mut turn = usize::try_from(self.number).unwrap_or(0);
        let mut unsure = false;
        let mut pause = Duration::from_millis(50);
        while Instant::now() < self.deadline {
            turn += 1;
            let url = nodes.get(turn % nodes.len()).and_then(crate::node::Node::url);
            if let Some(url) = url {
                let mut request = request(&url).timeout(CALL);
                if let Some(key) = self.cluster.key(self.order.tenant) {
                    request = request.bearer_auth(key);
                }
                let sent = request.send().await;
                match sent {
                    Ok(answer) => {
                        let status = answer.status();
                        if let (false, Ok(text)) = (is_passing(status), answer.text().await) {
                            return Some(Answer { status, text, unsure });
                        }
                        unsure |= status != StatusCode::SERVICE_UNAVAILABLE;
                    }
                    Err(error) => unsure |= !error.is_connect(),
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        None
    }

    /// Submits and follows the job to its end, in this manner.
    pub async fn run(&self, manner: Manner, expected: Expected, acknowledged: impl FnOnce()) -> History {
        let mut seen = Vec::new();
        let accepted = self.submit(&mut seen).await;
        acknowledged();
        if let Ok(id) = accepted {
            // Why it stopped is written down.
            let _ = self.follow(manner, &id, &mut seen).await;
        }
        History { number: self.number, manner, expected, seen }
    }

    async fn submit(&self, seen: &mut Vec<Seen>) -> Result<String, Stopped> {
        let wav = self.sound.wav();
        let request = |url: &str| {
            let file = Part::bytes(wav.clone()).file_name("sound.wav");
            let mut form = Form::new().text("vad", "false").part("file", file);
            for (name, value) in [("priority", self.order.priority), ("model", self.order.model)] {
                form = match value {
                    Some(value) => form.text(name, value),
                    None => form,
                };
            }
            let key = format!("chaos-{}", self.number);
            self.http.post(format!("{url}/v1/jobs")).header("idempotency-key", key).multipart(form)
        };
        let Some(answer) = self.ask(request).await else {
            seen.push(Seen::GaveUp("an answer to its submission"));
            return Err(Stopped);
        };
        let job = answer.json();
        match job["id"].as_str().filter(|_| answer.status.is_success()) {
            Some(id) => {
                let shared = job["deduplicated"] == true || job["cached"] == true;
                seen.push(Seen::Accepted { id: id.to_owned(), shared });
                Ok(id.to_owned())
            }
            None => {
                seen.push(answer.unexpected());
                Err(Stopped)
            }
        }
    }

    async fn follow(&self, manner: Manner, id: &str, seen: &mut Vec<Seen>) -> Result<(), Stopped> {
        match manner {
            Manner::Cancel => return self.cancel(id, seen).await,
            Manner::Repeat => {
                self.submit(seen).await?;
            }
            Manner::Watch => self.watch(id, seen).await?,
            Manner::Poll | Manner::Remove => {}
        }
        let end = self.wait(id, seen).await?;
        if end == Some(Status::Completed) {
            self.fetch(id, seen).await?;
        }
        if manner == Manner::Remove {
            self.delete(id, seen).await?;
        }
        self.look(id, seen, 0).await?;
        Ok(())
    }

    /// Waits for the end; `None` when the job is gone.
    async fn wait(&self, id: &str, seen: &mut Vec<Seen>) -> Result<Option<Status>, Stopped> {
        loop {
            match self.look(id, seen, 10).await? {
                Some(status) if !status.is_end() => {}
                end => return Ok(end),
            }
        }
    }

    async fn look(&self, id: &str, seen: &mut Vec<Seen>, wait: u64) -> Result<Option<Status>, Stopped> {
        let request = |url: &str| self.http.get(format!("{url}/v1/jobs/{id}?wait={wait}"));
        let Some(answer) = self.ask(request).await else {
            seen.push(Seen::GaveUp("its end"));
            return Err(Stopped);
        };
        if answer.status == StatusCode::NOT_FOUND {
            seen.push(Seen::Gone);
            return Ok(None);
        }
        let job = answer.json();
        let status = job["status"].as_str().and_then(Status::parse);
        let attempt = job["attempt"].as_u64().and_then(|attempt| u32::try_from(attempt).ok());
        match (status, attempt) {
            (Some(status), Some(attempt)) => {
                let code = job["error"]["code"].as_str().map(str::to_owned);
                seen.push(Seen::Job { status, attempt, code });
                Ok(Some(status))
            }
            _ => {
                seen.push(answer.unexpected());
                Err(Stopped)
            }
        }
    }

    async fn fetch(&self, id: &str, seen: &mut Vec<Seen>) -> Result<(), Stopped> {
        let request = |url: &str| self.http.get(format!("{url}/v1/jobs/{id}/transcript?format=text"));
        match self.ask(request).await {
            Some(answer) if answer.status.is_success() => {
                seen.push(Seen::Text(answer.text.trim().to_owned()))
            }
            Some(answer) => seen.push(answer.unexpected()),
            None => seen.push(Seen::GaveUp("its transcript")),
        }
        Ok(())
    }

    async fn cancel(&self, id: &str, seen: &mut Vec<Seen>) -> Result<(), Stopped> {
        self.delete(id, seen).await?;
        self.look(id, seen, 0).await?;
        Ok(())
    }

    async fn delete(&self, id: &str, seen: &mut Vec<Seen>) -> Result<(), Stopped> {
        let request = |url: &str| self.http.delete(format!("{url}/v1/jobs/{id}"));
        let Some(answer) = self.ask(request).await else {
            seen.push(Seen::GaveUp("an answer to its deletion"));
            return Err(Stopped);
        };
        seen.push(match answer.status {
            StatusCode::ACCEPTED => Seen::CancelAccepted,
            StatusCode::NO_CONTENT => Seen::Removed,
            // The call before, whose answer was lost, had removed it.
            StatusCode::NOT_FOUND if answer.unsure => Seen::Removed,
            _ => answer.unexpected(),
        });
        Ok(())
    }

    /// Follows the events, across breaks, until the end.
    async fn watch(&self, id: &str, seen: &mut Vec<Seen>) -> Result<(), Stopped> {
        let mut last: Option<u64> = None;
        while Instant::now() < self.deadline {
            let request = |url: &str| {
                let request = self.http.get(format!("{url}/v1/jobs/{id}/events"));
                match last {
                    Some(last) => request.header("last-event-id", last),
                    None => request,
                }
            };
            // The whole answer: the stream ends after the last event, or at the end of the call.
            let Some(answer) = self.ask(request).await else { break };
            if answer.status == StatusCode::NO_CONTENT {
                return Ok(());
            }
            if !answer.status.is_success() {
                seen.push(answer.unexpected());
                return Err(Stopped);
            }
            for block in answer.text.split("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                let Some(number) = field("id: ").and_then(|id| id.parse().ok()) else { continue };
                let end = field("event: ").and_then(Status::parse).filter(|status| status.is_end());
                last = Some(number);
                seen.push(Seen::Event { number, end });
                if end.is_some() {
                    return Ok(());
                }
            }
        }
        seen.push(Seen::GaveUp("the last event"));
        Err(Stopped)
    }
}

/// Whether the same call may be answered otherwise in a moment.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 503 | 507)
}
