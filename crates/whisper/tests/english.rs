//! The English model on real and synthetic speech.

mod support;

use support::{engine, librivox, plain, request, transcribe};
use verbatim_core::options::TranscribeOptions;

#[tokio::test]
async fn real_speech_becomes_its_words() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let transcript = transcribe(&engine, request(librivox("0880")?, TranscribeOptions::for_model("tiny.en"))).await?;
    println!("{transcript:#?}");
    assert_eq!(plain(&transcript.text()), "x");
    Ok(())
}
