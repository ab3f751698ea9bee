//! What the tests of single faults share.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::time::Instant;
use verbatim_chaos::client::{Client, Order};
use verbatim_chaos::cluster::{Cluster, Settings};
use verbatim_chaos::engine::known_answer;
use verbatim_chaos::history::{Expected, History, Manner};
use verbatim_chaos::sound::{Mark, Sound};

/// A cluster in a folder of its own.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) http: reqwest::Client,
    _folder: TempDir,
}

/// What a test changes of the usual cluster.
pub(crate) fn settings() -> Settings {
    Settings::new(env!("CARGO_BIN_EXE_verbatim-chaos"))
}

pub(crate) fn plain(serial: u64, millis: u16) -> Sound {
    Sound { mark: Mark::Plain { millis }, serial }
}

impl World {
    pub(crate) async fn new(settings: Settings) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let cluster = Cluster::start(folder.path(), settings).await?;
        Ok(Self { cluster, http: reqwest::Client::new(), _folder: folder })
    }

    /// A client that submits this sound and waits for its end.
    pub(crate) async fn client(&self, number: u64, sound: Sound) -> Result<History> {
        let expected = match sound.mark {
            Mark::Abort { .. } => Expected::Failure("worker_lost"),
            Mark::Refuse => Expected::Failure("bad_audio"),
            _ => Expected::Text { text: known_answer(sound).await?, attempts: 1 },
        };
        let deadline = Instant::now() + Duration::from_secs(100);
        let order = Order::default();
        let client = Client { cluster: &self.cluster, http: &self.http, number, sound, order, deadline };
        Ok(client.run(Manner::Poll, expected, || {}).await)
    }

    /// Waits until this is so.
    pub(crate) async fn until(&self, what: &str, so: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if so().await? {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The text of a field of the only running job that Redis has, and its id.
    pub(crate) async fn job(&self, submission: &str) -> Result<std::collections::HashMap<String, String>> {
        let sub = submission.strip_prefix("job_").context("an id")?.to_owned();
        self.cluster
            .look(move |redis| {
                let prefix = format!("{{{}}}:", verbatim_chaos::cluster::PREFIX);
                let job: String = redis::cmd("HGET").arg(format!("{prefix}s:{sub}")).arg("j").query(redis)?;
                let mut fields: std::collections::HashMap<String, String> =
                    redis::cmd("HGETALL").arg(format!("{prefix}j:{job}")).query(redis)?;
                fields.insert("id".to_owned(), job);
                Ok(fields)
            })
            .await
    }
}
