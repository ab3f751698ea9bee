//! Whatever happens to a file on its way, decoding it ends, and ends in an answer.

use std::sync::LazyLock;

use proptest::prelude::*;
use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioLimits, PcmSource};

use crate::support::made;

static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let kinds = [
        ("a.wav", "-c:a pcm_s16le"),
        ("b.wav", "-c:a adpcm_ms"),
        ("a.flac", "-c:a flac"),
        ("a.mp3", "-c:a libmp3lame"),
        ("a.ogg", "-c:a libvorbis"),
        ("b.ogg", "-c:a libopus"),
        ("a.webm", "-c:a libopus"),
        ("a.m4a", "-c:a aac"),
        ("b.m4a", "-c:a alac"),
        ("c.mp4", "-c:a aac -movflags +frag_keyframe+empty_moov"),
        ("a.aac", "-c:a aac"),
    ];
    let file =
        |(name, args)| made("sine=d=0.4:r=16000", args, name).expect("ffmpeg makes the files to break");
    kinds.map(file).into()
});

/// One thing that goes wrong, at a place given as a share of the file.
#[derive(Debug, Clone)]
enum Accident {
    Cut(f64),
    Flip(f64, u8),
    Overwrite(f64, Vec<u8>),
    Insert(f64, Vec<u8>),
    Remove(f64, usize),
}

fn accident() -> impl Strategy<Value = Accident> {
    // Headers are where it hurts.
    let place = prop_oneof![0.0..0.1_f64, 0.0..1.0_f64];
    let bytes = prop_oneof![prop::collection::vec(any::<u8>(), 1..16), Just(vec![0xff; 4]), Just(vec![0; 8])];
    prop_oneof![
        place.clone().prop_map(Accident::Cut),
        (place.clone(), any::<u8>()).prop_map(|(at, bits)| Accident::Flip(at, bits)),
        (place.clone(), bytes.clone()).prop_map(|(at, bytes)| Accident::Overwrite(at, bytes)),
        (place.clone(), bytes).prop_map(|(at, bytes)| Accident::Insert(at, bytes)),
        (place, 1..64_usize).prop_map(|(at, count)| Accident::Remove(at, count)),
    ]
}

fn suffer(bytes: &mut Vec<u8>, accident: &Accident) {
    let place = |share: f64| ((bytes.len() as f64 * share) as usize).min(bytes.len().saturating_sub(1));
    match accident {
        _ if bytes.is_empty() => {}
        Accident::Cut(at) => bytes.truncate(place(*at)),
        Accident::Flip(at, bits) => {
            let at = place(*at);
            bytes[at] ^= bits;
        }
        Accident::Overwrite(at, with) => {
            let at = place(*at);
            bytes.iter_mut().skip(at).zip(with).for_each(|(byte, new)| *byte = *new);
        }
        Accident::Insert(at, new) => {
            let at = place(*at);
            bytes.splice(at..at, new.iter().copied());
        }
        Accident::Remove(at, count) => {
            let at = place(*at);
            bytes.drain(at..bytes.len().min(at + count));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_broken_file_ends_in_an_answer(
        which in 0..11_usize,
        accidents in prop::collection::vec(accident(), 1..6),
    ) {
        let mut bytes = FILES[which].clone();
        accidents.iter().for_each(|accident| suffer(&mut bytes, accident));
        let limits = AudioLimits { max_duration_secs: 60, ..AudioLimits::default() };
        let source = std::io::Cursor::new(&bytes);
        if let Ok(audio) = verbatim_audio::decode(source, &limits, &std::env::temp_dir(), &CancellationToken::new()) {
            prop_assert!(!audio.is_empty());
            let mut samples = vec![0.0; usize::try_from(audio.len()).unwrap()];
            audio.read(0, &mut samples).unwrap();
            prop_assert!(samples.iter().all(|sample| (-1.0..=1.0).contains(sample)));
        }
        let head = &bytes[..bytes.len().min(verbatim_audio::HEAD_BYTES)];
        if let Some(duration) = verbatim_audio::probe_duration(head, bytes.len() as u64) {
            prop_assert!(duration <= bytes.len() as u64 * 820);
        }
    }
}
