//! Event streams.

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use reqwest::Response;
use serde_json::Value;

use super::{Service, id, new_speech};

/// One event as it came.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    seq: u64,
    name: String,
    data: Value,
}

/// Reads events until the stream ends or `enough` says so.
async fn read(response: Response, mut enough: impl FnMut(&Event) -> bool) -> Result<Vec<Event>> {
    ensure!(response.headers()["content-type"] == "text/event-stream", "{:?}", response.headers());
    let mut pieces = response.bytes_stream();
    let (mut buffer, mut events) = (String::new(), Vec::new());
    while let Some(piece) = pieces.next().await {
        buffer.push_str(std::str::from_utf8(&piece?)?);
        while let Some((block, rest)) = buffer.split_once("\n\n") {
            let event = parse(block)?;
            buffer = rest.to_owned();
            if let Some(event) = event {
                events.push(event.clone());
                if enough(&event) {
                    return Ok(events);
                }
            }
        }
    }
    ensure!(buffer.is_empty(), "the stream ends in the middle of an event: {buffer:?}");
    Ok(events)
}

/// One block of a stream; `None` for a comment.
fn parse(block: &str) -> Result<Option<Event>> {
    if block.starts_with(':') {
        return Ok(None);
    }
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let (Some(seq), Some(name), Some(data)) = (field("id"), field("event"), field("data")) else {
        bail!("not an event: {block:?}");
    };
    Ok(Some(Event { seq: seq.parse()?, name: name.to_owned(), data: serde_json::from_str(data)? }))
}

async fn watch(service: &Service, job: &str, after: Option<u64>) -> Result<Response> {
    let mut request = service.client.http.get(service.url(&format!("/v1/jobs/{job}/events")));
    if let Some(after) = after {
        request = request.header("Last-Event-ID", after);
    }
    Ok(request.send().await?.error_for_status()?)
}

#[tokio::test]
async fn a_stream_tells_the_whole_story_once_and_in_order() -> Result<()> {
    let service = Service::reach().await?;
    let job = service.client.accepted(new_speech(4)?, &[]).await?;
    let events = read(watch(&service, &job, None).await?, |_| false).await?;
    ensure!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq), "{events:?}");
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    let place =
        |name| names.iter().position(|found| *found == name).with_context(|| format!("no {name}: {names:?}"));
    ensure!(place("started")? < place("segment")? && place("progress")? < place("completed")?, "{names:?}");
    ensure!(place("completed")? == names.len() - 1, "{names:?}");

    let segments: Vec<&Value> =
        events.iter().map(|event| &event.data["segment"]).filter(|it| !it.is_null()).collect();
    let transcript = service.client.get(&format!("/v1/jobs/{job}/transcript")).await?;
    ensure!(
        transcript["segments"].as_array().context("segments")?.iter().eq(segments),
        "{transcript} {events:?}"
    );
    Ok(())
}

#[tokio::test]
async fn segments_come_while_the_job_is_at_work() -> Result<()> {
    let service = Service::reach().await?;
    let job = service.client.accepted(new_speech(60)?, &[]).await?;
    let events = read(watch(&service, &job, None).await?, |event| event.name == "segment").await?;
    ensure!(events.last().is_some_and(|event| event.name == "segment"), "{events:?}");
    let status = service.client.get(&format!("/v1/jobs/{job}")).await?;
    ensure!(status["status"] == "processing" && status["stage"] == "transcribing", "{status}");
    let progress = status["progress"].as_f64().context("a number")?;
    ensure!(progress > 0.0 && progress < 1.0, "{status}");
    ensure!(service.delete(&format!("/v1/jobs/{job}")).await?.status() == 202);
    let rest = read(watch(&service, &job, None).await?, |_| false).await?;
    ensure!(rest.last().is_some_and(|event| event.name == "cancelled"), "{rest:?}");
    Ok(())
}

#[tokio::test]
async fn a_reader_resumes_where_it_was() -> Result<()> {
    let service = Service::reach().await?;
    let job = service.finished(new_speech(1)?, &[]).await?;
    let job = id(&job)?;
    let all = read(watch(&service, job, None).await?, |_| false).await?;
    let last = all.last().context("there are events")?;
    ensure!(last.name == "completed", "{all:?}");
    for event in &all[..all.len() - 1] {
        let rest = read(watch(&service, job, Some(event.seq)).await?, |_| false).await?;
        let expected: Vec<&Event> = all.iter().filter(|other| other.seq > event.seq).collect();
        ensure!(rest.iter().eq(expected), "after {}: {rest:?}", event.seq);
    }
    ensure!(watch(&service, job, Some(last.seq)).await?.status() == 204);
    Ok(())
}

#[tokio::test]
async fn many_readers_see_the_same() -> Result<()> {
    let service = Service::reach().await?;
    let job = service.client.accepted(new_speech(2)?, &[]).await?;
    let readers = (0..20).map(async |_| read(watch(&service, &job, None).await?, |_| false).await);
    let stories = futures::future::try_join_all(readers).await?;
    // Whoever comes late is told the segments from the transcript, and not when each was decoded.
    let told = |story: &[Event]| -> Vec<(u64, String, serde_json::Value)> {
        let counts = story.iter().filter(|event| matches!(event.name.as_str(), "segment" | "completed"));
        counts.map(|event| (event.seq, event.name.clone(), event.data["segment"].clone())).collect()
    };
    ensure!(told(&stories[0]).len() > 1, "{:?}", stories[0]);
    ensure!(stories.iter().all(|story| told(story) == told(&stories[0])), "{stories:?}");
    Ok(())
}
