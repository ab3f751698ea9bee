//! Voice activity: no speech where there is none, and no word lost where there is.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use verbatim_audio::{VadConfig, find_speech};
use verbatim_core::CancellationToken;
use verbatim_core::audio::{PcmSource, SpeechSpan};

use crate::support::{RATE, decode_bytes, decode_path, made, run, samples};

const LIBRIVOX: &str = "/usr/share/pocketsphinx/test/data/librivox";

fn spans(pcm: &dyn PcmSource) -> Result<Vec<SpeechSpan>> {
    Ok(find_speech(pcm, &VadConfig::default(), &CancellationToken::new())?)
}

#[test]
fn silence_noise_and_tones_are_not_speech() -> Result<()> {
    let mut sounds =
        vec!["anullsrc=r=16000:cl=mono:d=5".to_owned(), "anullsrc=r=16000:cl=mono:d=0.05".to_owned()];
    for color in ["white", "pink", "brown", "blue"] {
        for amplitude in ["0.001", "0.01", "0.1", "0.5", "1"] {
            sounds.push(format!("anoisesrc=c={color}:a={amplitude}:r=16000:d=5:seed=7"));
            sounds.push(format!("anoisesrc=c={color}:a={amplitude}:r=44100:d=60:seed=8"));
        }
    }
    for hertz in [100, 200, 300, 440, 1000, 3000] {
        for volume in ["0.01", "0.1", "1"] {
            sounds.push(format!("aevalsrc=exprs='{volume}*sin(2*PI*{hertz}*t)':s=16000:d=5"));
        }
    }
    for sound in sounds {
        let audio = decode_bytes(made(&sound, "-c:a pcm_s16le", "a.wav")?)?;
        assert_eq!(spans(&audio)?, [], "{sound}");
    }
    Ok(())
}

/// A recording as it is, and where in it somebody speaks: where a frame is within 30 dB of the loud ones.
struct Speech {
    name: String,
    samples: Vec<f32>,
    voiced: Vec<bool>,
}

const FRAME: usize = 160;

impl Speech {
    fn new(name: impl Into<String>, samples: Vec<f32>) -> Self {
        let energies: Vec<f32> =
            samples.chunks(FRAME).map(|frame| energy(frame) / frame.len() as f32).collect();
        let mut sorted = energies.clone();
        sorted.sort_by(f32::total_cmp);
        let loud = sorted[sorted.len() * 95 / 100];
        let voiced = energies.iter().map(|energy| *energy > loud / 1000.0).collect();
        Self { name: name.into(), samples, voiced }
    }

    /// The share of the frames with speech that `spans` keep.
    fn kept(&self, spans: &[SpeechSpan]) -> f64 {
        let within = |at: usize| spans.iter().any(|span| (span.start..span.end).contains(&(at as u64)));
        let voiced = self.voiced.iter().enumerate().filter(|(_, voiced)| **voiced);
        let (kept, all) = voiced.fold((0, 0), |(kept, all), (frame, _)| {
            (kept + usize::from(within(frame * FRAME + FRAME / 2)), all + 1)
        });
        kept as f64 / all as f64
    }
}

fn energy(samples: &[f32]) -> f32 {
    samples.iter().map(|sample| sample * sample).sum()
}

fn flite(dir: &Path, voice: &str, text: &str) -> Result<Vec<f32>> {
    let path: PathBuf = dir.join("flite.wav");
    run("flite", &["-voice", voice, "-t", text, "-o", path.to_str().unwrap_or_default()])?;
    samples(&decode_path(&path)?)
}

/// Read and synthesised speech, with the pauses of read speech between sentences.
fn recordings(dir: &Path) -> Result<Vec<Speech>> {
    let mut recordings = Vec::new();
    for number in ["0870", "0880", "0890", "0920", "0930"] {
        let path = PathBuf::from(format!("{LIBRIVOX}/sense_and_sensibility_01_austen_64kb-{number}.wav"));
        ensure!(path.exists(), "the package `pocketsphinx-testdata` is not installed");
        recordings.push(Speech::new(format!("librivox {number}"), samples(&decode_path(&path)?)?));
    }
    let sentences =
        ["The birch canoe slid on the smooth planks.", "Four hours of steady work faced us.", "No."];
    for voice in ["slt", "kal", "rms"] {
        let mut all = vec![0.0; RATE];
        for sentence in sentences {
            all.extend(flite(dir, voice, sentence)?);
            all.resize(all.len() + 4 * RATE, 0.0);
        }
        recordings.push(Speech::new(format!("flite {voice}"), all));
    }
    Ok(recordings)
}

/// How loud speech is, in dBFS, and the noise on top of it: its color and how far below the speech it is, in dB.
struct Condition(&'static str, f32, Option<(&'static str, f32)>);

const CONDITIONS: &[Condition] = &[
    Condition("as loud as usual", -20.0, None),
    Condition("faint", -40.0, None),
    Condition("very faint", -65.0, None),
    Condition("white noise, 10 dB below", -25.0, Some(("white", 10.0))),
    Condition("white noise, 5 dB below", -25.0, Some(("white", 5.0))),
    Condition("pink noise, 5 dB below", -25.0, Some(("pink", 5.0))),
    Condition("brown noise, 5 dB below", -25.0, Some(("brown", 5.0))),
    Condition("pink noise, as loud", -25.0, Some(("pink", 0.0))),
    Condition("faint, and pink noise 5 dB below", -45.0, Some(("pink", 5.0))),
];

#[test]
fn no_speech_is_lost() -> Result<()> {
    let dir = TempDir::new()?;
    let recordings = recordings(dir.path())?;
    for Condition(condition, loudness, noise) in CONDITIONS {
        let (mut worst, mut total) = (1.0_f64, 0.0);
        for speech in &recordings {
            let voiced = speech.voiced.iter().filter(|voiced| **voiced).count() * FRAME;
            let power = energy(&speech.samples) / voiced as f32;
            let gain = 10_f32.powf(loudness / 20.0) / power.sqrt();
            let mut heard: Vec<f32> = speech.samples.iter().map(|sample| sample * gain).collect();
            if let Some((color, below)) = noise {
                let filter = format!("anoisesrc=c={color}:a=0.3:r=16000:d=60:seed=3");
                let noise = samples(&decode_bytes(made(&filter, "-c:a pcm_f32le", "noise.wav")?)?)?;
                let power = energy(&noise) / noise.len() as f32;
                let gain = 10_f32.powf((loudness - below) / 20.0) / power.sqrt();
                heard.iter_mut().zip(&noise).for_each(|(sample, noise)| *sample += gain * noise);
            }
            let kept = speech.kept(&spans(&heard)?);
            println!("{condition}: {} keeps {:.2} %", speech.name, 100.0 * kept);
            worst = worst.min(kept);
            total += kept;
        }
        println!(
            "{condition}: {:.2} % kept on average, {:.2} % at worst",
            100.0 * total / recordings.len() as f64,
            100.0 * worst
        );
        ensure!(worst >= 0.99, "{condition}: only {worst} of the speech is kept");
    }
    Ok(())
}

/// What is gained: long pauses are left out.
#[test]
fn pauses_are_left_out() -> Result<()> {
    let dir = TempDir::new()?;
    let words = flite(dir.path(), "slt", "One moment please, I am looking for it.")?;
    let mut pcm = vec![0.0; 30 * RATE];
    pcm.extend(&words);
    pcm.resize(pcm.len() + 30 * RATE, 0.0);
    pcm.extend(&words);
    pcm.resize(pcm.len() + 30 * RATE, 0.0);
    let found = spans(&pcm)?;
    let bounds: Vec<f64> =
        found.iter().flat_map(|span| [span.start, span.end]).map(|at| at as f64 / RATE as f64).collect();
    ensure!(found.len() == 2, "{bounds:?}");
    let length = words.len() as f64 / RATE as f64;
    for (bound, expected) in bounds.iter().zip([30.0, 30.0 + length, 60.0 + length, 60.0 + 2.0 * length]) {
        ensure!((bound - expected).abs() < 1.0, "{bounds:?} for words of {length} s");
    }
    Ok(())
}

/// A loud talker does not drown a faint one.
#[test]
fn a_faint_talker_after_a_loud_one_is_heard() -> Result<()> {
    let dir = TempDir::new()?;
    let loud = flite(dir.path(), "rms", "This is the chair speaking, and we will now hear the report.")?;
    let mut pcm: Vec<f32> = loud.clone();
    for pause in [4, 30] {
        pcm.resize(pcm.len() + pause * RATE, 0.0);
        let start = pcm.len() as u64;
        pcm.extend(
            flite(dir.path(), "slt", "Thank you, there is nothing to report today.")?
                .iter()
                .map(|sample| sample * 0.05),
        );
        let end = pcm.len() as u64;
        let found = spans(&pcm)?;
        let heard: u64 =
            found.iter().map(|span| span.end.min(end).saturating_sub(span.start.max(start))).sum();
        ensure!(
            heard as f64 > 0.9 * (end - start) as f64,
            "after {pause} s: {heard} of {} samples",
            end - start
        );
    }
    Ok(())
}
