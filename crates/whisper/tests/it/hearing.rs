//! What the English model hears, and when.

use verbatim_audio::{VadConfig, find_speech};
use verbatim_core::CancellationToken;
use verbatim_core::options::TranscribeOptions;

use crate::support::{
    engine, librivox, noise, plain, request, request_speech, say, silence, tone, transcribe,
};

fn options() -> TranscribeOptions {
    TranscribeOptions::for_model("tiny.en")
}

#[tokio::test]
async fn read_aloud_books_become_text() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let said = [
        (
            "0870",
            "and mister john dashwood had then leisure to consider how much there might be prudently in his power",
        ),
        ("0890", "unless to be rather cold hearted and rather selfish is to be ill disposed"),
        ("0930", "he might even have been made amiable himself"),
    ];
    for (number, said) in said {
        let transcript = transcribe(&engine, request(librivox(number)?, options())).await?;
        let heard = plain(&transcript.text()).replace("mr ", "mister ");
        let missed: Vec<&str> =
            said.split(' ').filter(|word| !heard.split(' ').any(|other| other == *word)).collect();
        assert!(missed.len() <= 1, "{number}: missed {missed:?} in {heard:?}");
        assert_eq!(transcript.language.code(), "en");
        assert_eq!((transcript.engine.as_str(), transcript.model.as_str()), ("whisper", "tiny.en"));
    }
    Ok(())
}

#[tokio::test]
async fn long_speech_is_heard_to_its_end_in_order_of_time() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let mut audio = Vec::new();
    for sentence in [
        "The harbour was quiet before the boats came in.",
        "A truck waited at the top of the road.",
        "The driver bought a newspaper and some oranges.",
        "The teacher laughed and asked a question.",
        "The stone bridge was finished at last.",
    ] {
        audio.extend(say(sentence)?);
        audio.extend(silence(11.0));
    }
    let transcript = transcribe(&engine, request(audio, options())).await?;
    let text = plain(&transcript.text());
    let places: Vec<Option<usize>> = ["quiet", "truck", "newspaper", "teacher", "stone bridge"]
        .iter()
        .map(|word| text.find(word))
        .collect();
    assert!(places.is_sorted() && places[0].is_some(), "{places:?} in {text:?}");
    assert!(transcript.segments.windows(2).all(|pair| pair[0].end_ms <= pair[1].start_ms));
    assert!(transcript.segments.iter().all(|s| s.start_ms < s.end_ms && s.end_ms <= transcript.duration_ms));
    assert!(transcript.segments.iter().zip(0..).all(|(segment, index)| segment.index == index));
    // The last sentence begins more than 50 s in.
    assert!(transcript.segments.last().is_some_and(|last| last.start_ms > 50_000));
    Ok(())
}

#[tokio::test]
async fn only_the_stretches_of_speech_are_heard_and_times_are_those_of_the_whole() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let (first, second) =
        (say("The harbour was quiet this morning.")?, say("The bridge is finished at last.")?);
    let first_end = 5.0 + first.len() as f64 / 16_000.0;
    let second_start = first_end + 20.0;
    let second_end = second_start + second.len() as f64 / 16_000.0;
    let audio = [silence(5.0), first, silence(20.0), second, silence(5.0)].concat();
    let spans = [(4.8, first_end + 0.2), (second_start - 0.2, second_end + 0.2)];
    let words = TranscribeOptions { words: true, ..options() };
    for options in [options(), words] {
        let transcript = transcribe(&engine, request_speech(audio.clone(), options, &spans)).await?;
        let text = plain(&transcript.text());
        assert!(text.contains("quiet this morning") && text.contains("finished at last"), "{text:?}");
        let first = transcript.segments.first().unwrap();
        let last = transcript.segments.last().unwrap();
        assert!((4_800..6_000).contains(&first.start_ms), "{first:?}");
        let second_start = (second_start * 1000.0) as u64;
        assert!(
            last.end_ms > second_start + 1_000 && last.end_ms <= (second_end * 1000.0) as u64 + 300,
            "{last:?}"
        );
        assert!(transcript.duration_ms > last.end_ms);
        let late = transcript.words().filter(|word| word.start_ms > first.end_ms.max(15_000)).count();
        assert!(late == 0 || late == 6, "{late} words of the second sentence");
    }
    // What is not marked as speech is not heard.
    let transcript = transcribe(&engine, request_speech(audio, options(), &spans[..1])).await?;
    assert!(!plain(&transcript.text()).contains("bridge"));
    Ok(())
}

#[tokio::test]
async fn nobody_speaking_means_no_words() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    for (name, audio) in [("silence", silence(5.0)), ("noise", noise(5.0)), ("tone", tone(5.0))] {
        let spans = find_speech(&audio, &VadConfig::default(), &CancellationToken::new())?;
        let mut request = request(audio, options());
        request.speech = Some(spans);
        let transcript = transcribe(&engine, request).await?;
        assert_eq!(transcript.text(), "", "{name} with voice activity");
    }
    // A tone or noise is left to voice activity: without it, sampling at a higher temperature may invent words.
    let transcript = transcribe(&engine, request(silence(5.0), options())).await?;
    assert_eq!(transcript.text(), "", "silence without voice activity");
    let transcript = transcribe(&engine, request_speech(say("Hello there.")?, options(), &[])).await?;
    assert!(transcript.segments.is_empty() && transcript.duration_ms > 500);
    Ok(())
}

#[tokio::test]
async fn scraps_of_audio_are_no_problem() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    for samples in [0, 1, 159, 160, 161, 319, 400, 800, 5_000] {
        for words in [false, true] {
            let options = TranscribeOptions { words, ..options() };
            let transcript = transcribe(&engine, request(tone(1.0)[..samples].to_vec(), options)).await?;
            assert_eq!(transcript.duration_ms, (samples as u64 + 8) / 16);
        }
    }
    Ok(())
}

#[tokio::test]
async fn samples_that_are_no_numbers_are_heard_as_silence() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let transcript = transcribe(&engine, request(vec![f32::NAN; 32_000], options())).await?;
    assert_eq!(transcript.text(), "");
    let mut audio = say("The harbour was quiet.")?;
    audio[100] = f32::INFINITY;
    transcribe(&engine, request(audio, options())).await?;
    Ok(())
}

#[tokio::test]
async fn a_prompt_teaches_spelling() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let audio = say("My friend Kathryn Smythe is at home.")?;
    let prompt = Some("A letter from Kathryn Smythe. Kathryn Smythe is well.".to_owned());
    let plain = transcribe(&engine, request(audio.clone(), options())).await?;
    let taught = transcribe(&engine, request(audio, TranscribeOptions { prompt, ..options() })).await?;
    assert!(!plain.text().contains("Kathryn Smythe"), "{}", plain.text());
    assert!(taught.text().contains("Kathryn Smythe"), "{}", taught.text());
    Ok(())
}

#[tokio::test]
async fn a_temperature_that_was_asked_for_is_used() -> anyhow::Result<()> {
    let engine = engine(&["tiny.en"])?;
    let warm = TranscribeOptions { temperature: 0.4, ..options() };
    let transcript = transcribe(&engine, request(librivox("0930")?, warm)).await?;
    let decoding = transcript.segments[0].decoding.clone().unwrap();
    assert_eq!(decoding.temperature, 0.4);
    let transcript = transcribe(&engine, request(librivox("0930")?, options())).await?;
    let decoding = transcript.segments[0].decoding.clone().unwrap();
    assert_eq!(decoding.temperature, 0.0);
    assert!(decoding.avg_logprob < 0.0 && decoding.avg_logprob > -1.0, "{decoding:?}");
    assert!(decoding.compression_ratio > 0.5 && decoding.no_speech_prob < 0.6, "{decoding:?}");
    Ok(())
}
