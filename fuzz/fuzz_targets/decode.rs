//! The way of an upload through the audio crate: what it is, how long, its samples, and the speech in them.
//!
//! A panic in symphonia is caught by the crate and is the file's fault, so it is no finding; libfuzzer would abort on it
//! in its panic hook, which is therefore replaced. A panic of ours reaches the end of the target and aborts there.
#![no_main]

use std::io::Cursor;
use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use verbatim_audio::{HEAD_BYTES, VadConfig, check_duration, decode, find_speech, refuse, sniff};
use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioLimits, PcmSource};

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let outcome = std::panic::catch_unwind(|| {
        let head = &bytes[..bytes.len().min(HEAD_BYTES)];
        if sniff(head).is_none() {
            let _ = refuse(head).to_string();
        }
        let _ = check_duration(head, bytes.len() as u64, &AudioLimits::default());

        let cancel = CancellationToken::new();
        // Short enough that silence from a few bytes does not make the fuzzer slow.
        let limits = AudioLimits { max_duration_secs: 20, max_channels: 8, ..AudioLimits::default() };
        let Ok(audio) = decode(Cursor::new(bytes), &limits, &std::env::temp_dir(), &cancel) else { return };
        assert!(!audio.is_empty(), "no samples are an error");
        let mut samples = vec![0.0; audio.len() as usize];
        assert_eq!(audio.read(0, &mut samples).unwrap(), samples.len());
        assert!(samples.iter().all(|sample| (-1.0..=1.0).contains(sample)), "samples are within bounds");
        let spans = find_speech(&audio, &VadConfig::default(), &cancel).unwrap();
        assert!(spans.iter().all(|span| span.start < span.end && span.end <= audio.len()));
        assert!(spans.windows(2).all(|pair| pair[0].end < pair[1].start));
    });
    if outcome.is_err() {
        eprintln!("a panic of ours");
        std::process::abort();
    }
});
