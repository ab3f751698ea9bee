//! Many clients at once, for `bench/load`: prints how they fared as JSON.
//!
//! `load clients URL [CLIENTS]`: each submits a sound of its own and polls until it is transcribed; all begin at once.
//! `load uploads URL [CLIENTS] [ABORTING]`: each uploads 1 MiB at once; some break off in the middle.
//!
//! Who is told to come back later (429 or 503 with `Retry-After`) does, and is counted; any other refusal is an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use futures::{StreamExt, stream};
use reqwest::{Body, Response, StatusCode};
use serde_json::{Value, json};

/// Between two polls of one client.
const POLL: Duration = Duration::from_secs(2);
/// A megabyte of sound.
const MEBIBYTE: usize = 1024 * 1024;
const PIECE: usize = 64 * 1024;
const BOUNDARY: &str = "load-boundary";

#[derive(Default)]
struct Tally {
    put_off: AtomicU64,
}

#[derive(Clone)]
struct Load {
    http: reqwest::Client,
    url: String,
    tally: Arc<Tally>,
}

/// What one client saw: milliseconds.
#[derive(Default)]
struct Seen {
    submit: f64,
    polls: Vec<f64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = |place: usize| arguments.get(place).map(String::as_str);
    let number = |place: usize, default: usize| text(place).map_or(Ok(default), str::parse::<usize>);
    let url = text(1).context("load clients|uploads URL")?.trim_end_matches('/').to_owned();
    // Every client has a connection of its own, as if each were on a machine of its own.
    let http = reqwest::Client::builder()
        .pool_max_idle_per_host(usize::MAX)
        .timeout(Duration::from_secs(120))
        .build()?;
    let load = Load { http, url, tally: Arc::default() };
    let figures = match text(0) {
        Some("clients") => load.clients(number(2, 5000)?).await?,
        Some("uploads") => load.uploads(number(2, 1000)?, number(3, 200)?).await?,
        _ => bail!("load clients|uploads URL"),
    };
    println!("{figures}");
    Ok(())
}

impl Load {
    async fn clients(self, clients: usize) -> Result<Value> {
        let begun = Instant::now();
        let ended = join_all((0..clients).map(|number| {
            let load = self.clone();
            tokio::spawn(async move { load.client(number).await })
        }))
        .await;
        let took = begun.elapsed();
        let mut errors = Vec::new();
        let (mut submits, mut polls) = (Vec::new(), Vec::new());
        for outcome in ended {
            match outcome? {
                Ok(seen) => {
                    submits.push(seen.submit);
                    polls.extend(seen.polls);
                }
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
        Ok(json!({
            "clients": clients, "completed": submits.len(), "errors": errors.len(), "first_errors": errors.iter().take(3).collect::<Vec<_>>(),
            "put_off": self.tally.put_off.load(Ordering::Relaxed), "secs": took.as_secs_f64(), "polls": polls.len(),
            "submit_ms": quantiles(&mut submits), "poll_ms": quantiles(&mut polls),
        }))
    }

    async fn client(&self, number: usize) -> Result<Seen> {
        let mut seen = Seen::default();
        let body = form(&sound(number, 400));
        let answer = self.insist(|| self.post(Body::from(body.clone())), |ms| seen.submit = ms).await?;
        let job: Value = answer.json().await?;
        let id = job["id"].as_str().context("a job has an id")?;
        let mut status = job["status"].clone();
        while status != "completed" {
            ensure!(
                status == "queued" || status == "processing",
                "{status} after {} polls",
                seen.polls.len()
            );
            tokio::time::sleep(POLL).await;
            let asked = || self.http.get(format!("{}/v1/jobs/{id}", self.url));
            let answer = self.insist(asked, |ms| seen.polls.push(ms)).await?;
            status = answer.json::<Value>().await?["status"].clone();
        }
        Ok(seen)
    }

    async fn uploads(self, clients: usize, aborting: usize) -> Result<Value> {
        let begun = Instant::now();
        let ended = join_all((0..clients).map(|number| {
            let load = self.clone();
            tokio::spawn(async move {
                let whole = form(&sound(number, MEBIBYTE / 2));
                match number < aborting {
                    true => load.abort(whole).await,
                    false => load.upload(whole).await,
                }
            })
        }))
        .await;
        let took = begun.elapsed();
        let mut errors = Vec::new();
        let mut milliseconds = Vec::new();
        for outcome in ended {
            match outcome? {
                Ok(Some(ms)) => milliseconds.push(ms),
                Ok(None) => {}
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
        Ok(json!({
            "clients": clients, "aborted": aborting, "accepted": milliseconds.len(), "errors": errors.len(),
            "first_errors": errors.iter().take(3).collect::<Vec<_>>(), "put_off": self.tally.put_off.load(Ordering::Relaxed),
            "secs": took.as_secs_f64(), "upload_ms": quantiles(&mut milliseconds),
        }))
    }

    async fn upload(&self, whole: Vec<u8>) -> Result<Option<f64>> {
        let mut took = 0.0;
        self.insist(|| self.post(in_pieces(whole.clone())), |ms| took = ms).await?;
        Ok(Some(took))
    }

    /// Sends half of it and hangs up.
    async fn abort(&self, mut whole: Vec<u8>) -> Result<Option<f64>> {
        let length = whole.len();
        whole.truncate(length / 2);
        let half = stream::iter([Ok(whole)]);
        let broken = stream::once(async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Err(std::io::Error::other("the client goes away"))
        });
        let sent = self.post(Body::wrap_stream(half.chain(broken))).send().await;
        match sent {
            // It may have been put off before it could break off.
            Ok(answer) if is_later(&answer) => Ok(None),
            Ok(answer) => bail!("half an upload was answered with {}", answer.status()),
            Err(_) => Ok(None),
        }
    }

    fn post(&self, body: Body) -> reqwest::RequestBuilder {
        let media_type = format!("multipart/form-data; boundary={BOUNDARY}");
        self.http.post(format!("{}/v1/jobs", self.url)).header("content-type", media_type).body(body)
    }

    /// Asks until the answer is not to come back later; `took` gets the milliseconds of the last try.
    async fn insist(
        &self,
        request: impl Fn() -> reqwest::RequestBuilder,
        mut took: impl FnMut(f64),
    ) -> Result<Response> {
        loop {
            let begun = Instant::now();
            let answer = request().send().await?;
            if is_later(&answer) {
                self.tally.put_off.fetch_add(1, Ordering::Relaxed);
                let after = answer.headers().get("retry-after").context("503 without Retry-After")?;
                let seconds: u64 = after.to_str()?.parse()?;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                continue;
            }
            took(begun.elapsed().as_secs_f64() * 1000.0);
            let status = answer.status();
            if !status.is_success() {
                bail!("{status}: {}", answer.text().await?);
            }
            return Ok(answer);
        }
    }
}

fn is_later(answer: &Response) -> bool {
    matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

fn in_pieces(whole: Vec<u8>) -> Body {
    let pieces: Vec<Vec<u8>> = whole.chunks(PIECE).map(<[u8]>::to_vec).collect();
    Body::wrap_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::convert::Infallible>)))
}

/// A WAV file of so many samples at 16 kHz that no other number gives.
fn sound(number: usize, samples: usize) -> Vec<u8> {
    let bytes = u32::try_from(samples * 2).unwrap_or(u32::MAX);
    let mut file = b"RIFF".to_vec();
    file.extend((36 + bytes).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(16_000_u32.to_le_bytes());
    file.extend(32_000_u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(bytes.to_le_bytes());
    let run = std::process::id() as usize;
    let seed = [number, run].map(|part| (part % 30_000) as i16);
    let tone = (0..samples).map(|place| match seed.get(place) {
        Some(sample) => *sample,
        None => {
            if place % 40 < 20 {
                4000
            } else {
                -4000
            }
        }
    });
    file.extend(tone.flat_map(i16::to_le_bytes));
    file
}

fn form(file: &[u8]) -> Vec<u8> {
    let mut body =
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n")
            .into_bytes();
    body.extend(file);
    body.extend(format!("\r\n--{BOUNDARY}--\r\n").bytes());
    body
}

fn quantiles(figures: &mut [f64]) -> Value {
    figures.sort_by(f64::total_cmp);
    let at = |quantile: f64| {
        let place = (figures.len() as f64 * quantile) as usize;
        figures.get(place.min(figures.len().saturating_sub(1))).map(|ms| ms.round())
    };
    json!({ "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0) })
}
