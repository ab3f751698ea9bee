//! Models that cannot be loaded say why.

use std::fs;
use std::path::Path;

use verbatim_whisper::{LoadError, ModelSource, WhisperConfig, WhisperEngine};

use crate::support::model;

fn load(folder: &Path) -> LoadError {
    let source = ModelSource { name: "broken".into(), folder: folder.to_owned() };
    match WhisperEngine::load(&WhisperConfig::new(vec![source])) {
        Ok(_) => panic!("{} loaded", folder.display()),
        Err(error) => error,
    }
}

/// A copy of the English model without its weights.
fn without_weights() -> anyhow::Result<tempfile::TempDir> {
    let (folder, original) = (tempfile::tempdir()?, model("tiny.en")?.folder);
    for file in ["config.json", "vocabulary.txt"] {
        fs::copy(original.join(file), folder.path().join(file))?;
    }
    Ok(folder)
}

#[test]
fn a_missing_folder_is_named() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let error = load(&folder.path().join("nowhere"));
    assert!(matches!(error, LoadError::Unreadable { .. }), "{error:?}");
    assert!(error.to_string().contains("nowhere/model.bin"), "{error}");
    Ok(())
}

#[test]
fn weights_of_another_kind_are_refused_before_they_are_loaded() -> anyhow::Result<()> {
    let folder = without_weights()?;
    for content in [&b""[..], b"hello", b"\x06\0\0\0\x10\0TransformerSpec\0 and so on", &[0; 4096]] {
        fs::write(folder.path().join("model.bin"), content)?;
        let error = load(folder.path());
        assert!(matches!(error, LoadError::NotWhisper { .. }), "{error:?}");
    }
    Ok(())
}

#[test]
fn truncated_weights_are_an_error_and_not_a_crash() -> anyhow::Result<()> {
    let folder = without_weights()?;
    let weights = fs::read(model("tiny.en")?.folder.join("model.bin"))?;
    for length in [30, 1_000, weights.len() / 2, weights.len() - 1] {
        fs::write(folder.path().join("model.bin"), &weights[..length])?;
        let error = load(folder.path());
        assert!(matches!(error, LoadError::Refused { .. }), "{length}: {error:?}");
    }
    Ok(())
}

#[test]
fn a_vocabulary_that_is_not_whispers_is_refused() -> anyhow::Result<()> {
    let folder = without_weights()?;
    fs::copy(model("tiny.en")?.folder.join("model.bin"), folder.path().join("model.bin"))?;
    fs::write(folder.path().join("vocabulary.txt"), "a\nb\n")?;
    assert!(matches!(load(folder.path()), LoadError::NotWhisper { .. }));
    fs::remove_file(folder.path().join("vocabulary.txt"))?;
    assert!(matches!(load(folder.path()), LoadError::Unreadable { .. }));
    Ok(())
}

#[test]
fn names_are_unique_and_there_is_at_least_one() -> anyhow::Result<()> {
    let tiny = model("tiny.en")?;
    let twice = WhisperConfig::new(vec![tiny.clone(), tiny]);
    assert!(matches!(WhisperEngine::load(&twice), Err(LoadError::DuplicateName(_))));
    assert!(matches!(WhisperEngine::load(&WhisperConfig::new(Vec::new())), Err(LoadError::NoModels)));
    Ok(())
}
