//! Word times.

use verbatim_core::options::TranscribeOptions;

use crate::support::{engine, plain, request, say, silence, transcribe};

fn options() -> TranscribeOptions {
    TranscribeOptions { words: true, ..TranscribeOptions::for_model("tiny.en") }
}

#[tokio::test]
async fn words_are_where_they_were_said() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let (first, second) = (say("Good morning, everybody.")?, say("Welcome to the harbour.")?);
    let first_end = 1_500 + first.len() as u64 / 16;
    let second_start = first_end + 2_000;
    let audio = [silence(1.5), first, silence(2.0), second].concat();
    let transcript = transcribe(&engine, request(audio, options())).await?;
    let words: Vec<_> = transcript.words().collect();
    let texts: Vec<String> = words.iter().map(|word| plain(&word.text)).collect();
    assert_eq!(texts[..3], ["good", "morning", "everybody"]);
    assert_eq!(texts[3], "welcome");
    let about = |time: u64, wanted: u64| time.abs_diff(wanted) <= 350;
    assert!(about(words[0].start_ms, 1_500), "{:?}", words[0]);
    assert!(about(words[2].end_ms, first_end), "{:?}, speech ends at {first_end}", words[2]);
    assert!(about(words[3].start_ms, second_start), "{:?}, speech begins at {second_start}", words[3]);
    assert!(
        words.windows(2).all(|pair| pair[0].start_ms <= pair[0].end_ms && pair[0].end_ms <= pair[1].start_ms)
    );
    assert!(words.iter().all(|word| word.probability > 0.0 && word.probability <= 1.0));
    Ok(())
}

#[tokio::test]
async fn segments_are_made_of_their_words() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let text = "\"I cannot stay,\" he said; \"it's late.\" Then he left: quickly, quietly, and for good!";
    let transcript = transcribe(&engine, request(say(text)?, options())).await?;
    assert!(!transcript.segments.is_empty());
    for segment in &transcript.segments {
        let joined: String = segment.words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(joined, segment.text);
        assert_eq!(segment.start_ms, segment.words[0].start_ms);
        assert_eq!(segment.end_ms, segment.words.last().unwrap().end_ms);
        // Punctuation belongs to a word.
        assert!(
            segment.words.iter().all(|word| word.text.chars().any(char::is_alphanumeric)),
            "{:?}",
            segment.words
        );
    }
    Ok(())
}

#[tokio::test]
async fn nobody_gets_words_who_did_not_ask() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let transcript =
        transcribe(&engine, request(say("Good morning.")?, TranscribeOptions::for_model("tiny.en"))).await?;
    assert!(!transcript.segments.is_empty() && transcript.words().next().is_none());
    Ok(())
}
