//! Fetching models from a hub that misbehaves.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{FakeHub, Fault, model, options};
use anyhow::{Context, Result};
use bytes::Bytes;
use verbatim_models::{ModelError, PullEvent, Source, SourceChoice, list, pull, pull_model, resolve, verify};

/// hf-hub asks for pieces of this length.
const CHUNK: usize = 8 << 20;

/// Weights of two and a half pieces, so that a piece in the middle can go wrong.
fn weights() -> Bytes {
    (0..CHUNK * 5 / 2).map(|i| (i * i / 7) as u8).collect()
}

fn files() -> Vec<(&'static str, Bytes)> {
    vec![
        (".gitattributes", "x".into()),
        ("README.md", "A model.".into()),
        ("config.json", "{}".into()),
        ("model.bin", weights()),
        ("tokenizer.json", "{}\n".into()),
        ("vocabulary.txt", "a\nb\n".into()),
    ]
}

async fn hub() -> Result<FakeHub> {
    FakeHub::start(&files()).await
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = entries.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[tokio::test]
async fn a_pull_fetches_the_models_files_and_no_others() -> Result<()> {
    let (hub, dir) = (hub().await?, tempfile::tempdir()?);
    let folder = pull_model(model(&[]), dir.path(), &hub.options()).await?;
    assert_eq!(folder, dir.path().join("test"));
    assert_eq!(
        names(&folder)?,
        ["config.json", "model.bin", "tokenizer.json", "verbatim-model.json", "vocabulary.txt"]
    );
    assert_eq!(std::fs::read(folder.join("model.bin"))?, weights());
    assert!(!dir.path().join("test.partial").exists());
    let manifest = verify(&folder)?;
    assert_eq!(manifest.source, "owner/faster-whisper-test");
    assert_eq!(manifest.files["vocabulary.txt"].bytes, 4);
    Ok(())
}

#[tokio::test]
async fn an_intact_model_is_not_fetched_again_but_a_damaged_one_is() -> Result<()> {
    let (hub, dir) = (hub().await?, tempfile::tempdir()?);
    let folder = pull_model(model(&[]), dir.path(), &hub.options()).await?;
    hub.asked();
    pull_model(model(&[]), dir.path(), &hub.options()).await?;
    assert_eq!(hub.asked(), Vec::<String>::new());

    for damage in [Some("scrambled"), None] {
        match damage {
            Some(text) => std::fs::write(folder.join("vocabulary.txt"), text)?,
            None => std::fs::remove_file(folder.join("vocabulary.txt"))?,
        }
        assert!(matches!(verify(&folder), Err(ModelError::Damaged { .. })));
        pull_model(model(&[]), dir.path(), &hub.options()).await?;
        verify(&folder)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_cut_connection_goes_on_where_it_broke() -> Result<()> {
    let (hub, dir) = (hub().await?, tempfile::tempdir()?);
    hub.break_with(Fault::Cut { at: CHUNK, times: 2 });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut options = hub.options();
    let heard = seen.clone();
    options.listener = Arc::new(move |event| {
        if let (PullEvent::Bytes { file: "model.bin", done, total }, Ok(mut heard)) = (event, heard.lock()) {
            heard.push((done, total));
        }
    });
    let folder = pull_model(model(&[]), dir.path(), &options).await?;
    assert_eq!(std::fs::read(folder.join("model.bin"))?, weights());
    let asked = hub.asked();
    let times = |what: &str| asked.iter().filter(|asked| *asked == what).count();
    assert_eq!(times("model.bin 0"), 1, "{asked:?}");
    assert_eq!(times(&format!("model.bin {CHUNK}")), 3, "{asked:?}");
    let length = weights().len() as u64;
    let seen = seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    assert_eq!(seen.last(), Some(&(length, length)));
    assert!(seen.iter().all(|(done, total)| done <= total), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn an_interrupted_pull_shows_no_model_and_is_taken_up_by_the_next() -> Result<()> {
    let (hub, dir) = (hub().await?, tempfile::tempdir()?);
    hub.break_with(Fault::Cut { at: CHUNK, times: 1 });
    let mut impatient = hub.options();
    impatient.timeouts.attempts = 1;
    let error = pull_model(model(&[]), dir.path(), &impatient).await.unwrap_err();
    assert!(matches!(error, ModelError::Hub { .. }), "{error}");
    assert!(!dir.path().join("test").exists());
    hub.asked();
    let folder = pull_model(model(&[]), dir.path(), &hub.options()).await?;
    verify(&folder)?;
    let asked = hub.asked();
    assert!(!asked.contains(&"model.bin 0".to_owned()), "{asked:?}");
    assert!(!asked.contains(&"config.json 0".to_owned()), "{asked:?}");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_given_up_and_tried_again() -> Result<()> {
    let (hub, dir) = (hub().await?, tempfile::tempdir()?);
    hub.break_with(Fault::Stall { at: 2 * CHUNK, times: 1 });
    let mut options = hub.options();
    options.timeouts.idle = Duration::from_secs(2);
    verify(&pull_model(model(&[]), dir.path(), &options).await?)?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_checksum_is_refused_and_not_kept() -> Result<()> {
    let (hub, dir) = (hub().await?, tempfile::tempdir()?);
    hub.lie(true);
    let error = pull_model(model(&[]), dir.path(), &hub.options()).await.unwrap_err();
    assert!(matches!(error, ModelError::Damaged { .. }), "{error}");
    assert!(!dir.path().join("test").exists());
    hub.lie(false);
    verify(&pull_model(model(&[]), dir.path(), &hub.options()).await?)?;
    Ok(())
}

#[tokio::test]
async fn other_weights_than_the_pinned_ones_are_refused_before_they_are_fetched() -> Result<()> {
    let (hub, dir) = (hub().await?, tempfile::tempdir()?);
    let pinned = model(&[("model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a")]);
    let error = pull_model(pinned, dir.path(), &hub.options()).await.unwrap_err();
    assert!(error.to_string().contains("expected 1a5afae0"), "{error}");
    assert_eq!(hub.asked(), ["info"]);
    Ok(())
}

#[tokio::test]
async fn a_repository_that_lacks_the_vocabulary_is_no_model() -> Result<()> {
    let mut files = files();
    files.retain(|(name, _)| *name != "vocabulary.txt");
    let (hub, dir) = (FakeHub::start(&files).await?, tempfile::tempdir()?);
    let error = pull_model(model(&[]), dir.path(), &hub.options()).await.unwrap_err();
    assert!(matches!(error, ModelError::NotAModel { .. }), "{error}");
    assert!(!dir.path().join("test").exists());
    Ok(())
}

#[tokio::test]
async fn a_hub_that_is_not_there_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let mut options = options(format!("http://{nobody}"));
    options.source = SourceChoice::Only(Source::Hub);
    let error = pull("tiny", dir.path(), &options).await.unwrap_err().to_string();
    assert!(error.contains(&nobody.to_string()) && error.contains("refused"), "{error}");
    assert!(!dir.path().join("tiny.partial").exists(), "nothing arrived, nothing is left");
    Ok(())
}

#[tokio::test]
async fn a_folder_that_somebody_made_is_left_alone() -> Result<()> {
    let (hub, dir) = (hub().await?, tempfile::tempdir()?);
    let folder = dir.path().join("test");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("notes.txt"), "mine")?;
    let error = pull_model(model(&[]), dir.path(), &hub.options()).await.unwrap_err();
    assert!(matches!(error, ModelError::NotAModel { .. }), "{error}");
    for name in ["config.json", "model.bin", "vocabulary.json"] {
        std::fs::write(folder.join(name), "mine")?;
    }
    assert_eq!(pull_model(model(&[]), dir.path(), &hub.options()).await?, folder);
    assert_eq!(std::fs::read_to_string(folder.join("model.bin"))?, "mine");
    assert_eq!(hub.asked(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn two_pulls_of_one_model_do_not_mix() -> Result<()> {
    let (hub, dir) = (hub().await?, tempfile::tempdir()?);
    let lock = std::fs::File::create(dir.path().join(".test.lock"))?;
    lock.lock()?;
    let error = pull_model(model(&[]), dir.path(), &hub.options()).await.unwrap_err();
    assert!(matches!(error, ModelError::Busy("test")), "{error}");
    drop(lock);
    pull_model(model(&[]), dir.path(), &hub.options()).await?;
    Ok(())
}

#[tokio::test]
async fn what_was_pulled_is_found_by_its_folders_name() -> Result<()> {
    let (hub, dir) = (hub().await?, tempfile::tempdir()?);
    let folder = pull_model(model(&[]), dir.path(), &hub.options()).await?;
    assert_eq!(resolve("test", dir.path())?, folder);
    let known = list(dir.path());
    let tiny = known.iter().find(|status| status.model.name == "tiny.en").context("tiny.en is known")?;
    assert_eq!(tiny.installed, None);
    Ok(())
}
