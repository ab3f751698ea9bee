//! How fast a file is decoded and searched for speech, in how much memory, what was noticed in it, or why it is refused:
//! `cargo run --release -p verbatim-audio --example figures -- FILE...`

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use verbatim_audio::{VadConfig, decode_file, find_speech};
use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioLimits, PcmSource, SpeechSpan};

fn main() -> Result<()> {
    let cancel = CancellationToken::new();
    for path in std::env::args().skip(1) {
        let start = Instant::now();
        let decoded = decode_file(Path::new(&path), &AudioLimits::default(), &std::env::temp_dir(), &cancel);
        let audio = match decoded {
            Ok(audio) => audio,
            Err(error) => {
                println!("{path}: refused as {}: {error}", error.failure_kind().code());
                continue;
            }
        };
        let (decoding, start) = (start.elapsed().as_secs_f64(), Instant::now());
        let spans = find_speech(&audio, &VadConfig::default(), &cancel)?;
        let searching = start.elapsed().as_secs_f64();
        let seconds = audio.duration_ms() as f64 / 1000.0;
        let speech = spans.iter().map(|span| span.samples()).sum::<u64>() as f64 / audio.len() as f64;
        println!(
            "{path}: {} of {seconds:.1} s, {:?}; decoded in {decoding:.2} s ({:.0} x real time), searched in \
             {searching:.2} s ({:.0} x); {} spans with {:.1} % of it; peak memory {} MiB",
            audio.format().as_str(),
            audio.findings(),
            seconds / decoding,
            seconds / searching,
            spans.len(),
            100.0 * speech,
            peak_mib()?
        );
        for SpeechSpan { start, end } in spans.iter().take(20) {
            println!("  {:.2} - {:.2} s", *start as f64 / 16_000.0, *end as f64 / 16_000.0);
        }
    }
    Ok(())
}

/// The most memory that this process has had.
fn peak_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("no figure")?.parse::<u64>()? / 1024)
}
