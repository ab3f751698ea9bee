//! Sound made on the spot.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The bytes of a 16-bit mono WAV file.
pub(crate) fn wav(rate: u32, samples: &[i16]) -> Vec<u8> {
    let bytes = u32::try_from(samples.len() * 2).expect("a short sound");
    let mut file = Vec::with_capacity(samples.len() * 2 + 44);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(bytes + 36).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend_from_slice(&rate.to_le_bytes());
    file.extend_from_slice(&(rate * 2).to_le_bytes());
    file.extend_from_slice(b"\x02\0\x10\0data");
    file.extend_from_slice(&bytes.to_le_bytes());
    file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}

/// The repository's sample, 16 kHz.
pub(crate) fn hello() -> Vec<i16> {
    let file =
        std::fs::read(super::repository().join("samples/hello.wav")).expect("the repository has a sample");
    file[44..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The sample spoken `times` over, with a second of silence after each.
pub(crate) fn hello_times(times: usize) -> Vec<u8> {
    let mut once = hello();
    once.extend_from_slice(&[0; 16_000]);
    wav(16_000, &once.repeat(times))
}

/// The first `sentences` of `bench/speech.txt`: the words in lower case without punctuation, and a voice that speaks them.
/// Unlike a sentence said over and over, which Whisper takes for a decoder gone round in circles.
pub(crate) fn story(sentences: usize, folder: &Path) -> Result<(Vec<String>, Vec<u8>)> {
    let text = std::fs::read_to_string(super::repository().join("bench/speech.txt"))?;
    let text: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(sentences).collect();
    let text = text.join(" ");
    let audio = made_by("flite", &["-voice", "slt", "-t", &text, "-o"], &folder.join("story.wav"))?;
    Ok((words(&text), audio))
}

/// The words of a text in lower case, without punctuation.
pub(crate) fn words(text: &str) -> Vec<String> {
    let letters =
        |word: &str| word.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    text.split_whitespace().map(letters).filter(|word| !word.is_empty()).collect()
}

/// How many words two texts share in the same order (the longest common subsequence).
pub(crate) fn shared_words(one: &[String], other: &[String]) -> usize {
    let mut row = vec![0; other.len() + 1];
    for word in one {
        let mut diagonal = 0;
        for (index, candidate) in other.iter().enumerate() {
            let above = row[index + 1];
            row[index + 1] = if word == candidate { diagonal + 1 } else { above.max(row[index]) };
            diagonal = above;
        }
    }
    row[other.len()]
}

/// Runs a tool of `scripts/setup test` that writes a file, and returns the file's bytes.
pub(crate) fn made_by(program: &str, arguments: &[&str], file: &Path) -> Result<Vec<u8>> {
    let status = Command::new(program)
        .args(arguments)
        .arg(file)
        .stderr(std::process::Stdio::null())
        .status()
        .with_context(|| format!("{program} is missing: run `scripts/setup test`"))?;
    ensure!(status.success(), "{program} {arguments:?} failed");
    Ok(std::fs::read(file)?)
}
