//! A disk that is nearly full: who uploads is told so before the body is read, who reads notices nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use axum::body::Body;
use axum::http::Request;
use futures::stream;
use verbatim_api_lib::DiskParts;
use verbatim_core::PortError;
use verbatim_core::ports::{Disk, Room};

use crate::support::lines::Lines;
use crate::support::{World, bytes, form, get, post, wav};

const MIN_FREE: u64 = 1 << 20;
/// Room for the largest upload.
const PLENTY: u64 = 200 << 20;

struct SmallDisk(AtomicU64);

#[async_trait]
impl Disk for SmallDisk {
    async fn room(&self) -> Result<Room, PortError> {
        Ok(Room { free_bytes: self.0.load(Ordering::Relaxed), size_bytes: 64 << 20 })
    }
}

fn world(free: u64) -> (World, Arc<SmallDisk>) {
    let disk = Arc::new(SmallDisk(AtomicU64::new(free)));
    let parts = DiskParts { disk: disk.clone(), min_free_bytes: MIN_FREE };
    (World::with(|all| all.disk = Some(parts)), disk)
}

/// A body of which nothing ever comes, although its head tells how long it is.
fn endless(path: &str, length: u64) -> Request<Body> {
    let body = Body::from_stream(stream::pending::<Result<&'static [u8], std::io::Error>>());
    let mut request = post(path, body);
    request.headers_mut().insert("content-length", length.into());
    request
}

#[tokio::test]
async fn an_upload_for_which_there_is_too_little_room_is_refused_unread() {
    let (world, disk) = world(PLENTY);
    let id = world.submit().await;
    disk.0.store(MIN_FREE + 100_000, Ordering::Relaxed);
    for path in ["/v1/jobs", "/v1/audio/transcriptions", "/v1/audio/translations"] {
        let response = world.call(endless(path, 100_001)).await;
        assert_eq!(response.status(), 507, "{path}");
        assert_eq!(response.headers()["retry-after"], "60", "{path}");
    }
    disk.0.store(MIN_FREE - 1, Ordering::Relaxed);
    let (status, problem) = world.json(post("/v1/jobs", form(&[("file", &wav())]))).await;
    assert_eq!((status, &problem["code"]), (507, &"out_of_space".into()), "{problem}");
    assert_eq!(world.blobs.uploads().len(), 1);

    for path in [&format!("/v1/jobs/{id}"), "/readyz"] {
        assert_eq!(world.call(get(path)).await.status(), 200, "{path}");
    }
    let metrics = bytes(world.call(get("/metrics")).await).await;
    let metrics = String::from_utf8_lossy(&metrics);
    assert!(metrics.contains(&format!("\nverbatim_disk_free_bytes {}\n", MIN_FREE - 1)), "{metrics}");

    disk.0.store(PLENTY, Ordering::Relaxed);
    world.submit().await;
}

#[tokio::test]
async fn a_client_that_does_not_say_how_much_comes_is_expected_to_send_some_megabytes() {
    let (world, disk) = world(MIN_FREE + (7 << 20));
    let unsaid = || {
        post(
            "/v1/jobs",
            Body::from_stream(stream::iter([Ok::<_, std::io::Error>(form(&[("file", &wav())]))])),
        )
    };
    assert_eq!(world.call(unsaid()).await.status(), 507);
    disk.0.store(MIN_FREE + (9 << 20), Ordering::Relaxed);
    assert_eq!(world.call(unsaid()).await.status(), 202);
}

#[tokio::test]
async fn the_log_tells_once_in_each_direction() {
    let lines = Lines::captured();
    let (world, disk) = world(2 * MIN_FREE);
    let about = |text: &str| lines.text().matches(text).count();
    let told = || (about("the disk is nearly full"), about("the disk has room again"));
    // Hovering about the watermark is not told of either.
    for (free, expected) in [
        (MIN_FREE, (0, 0)),
        (MIN_FREE - 1, (1, 0)),
        (MIN_FREE / 2, (1, 0)),
        (MIN_FREE + 1, (1, 0)),
        (MIN_FREE - 1, (1, 0)),
        (2 * MIN_FREE, (1, 1)),
        (2 * MIN_FREE, (1, 1)),
        (0, (2, 1)),
    ] {
        disk.0.store(free, Ordering::Relaxed);
        world.call(get("/metrics")).await;
        assert_eq!(told(), expected, "{free} of {MIN_FREE}");
    }
}
