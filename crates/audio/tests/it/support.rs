//! Makes files with the tools that users make theirs with, and compares what is decoded with what went in.

use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use verbatim_audio::{AudioError, DecodedAudio, decode, decode_file};
use verbatim_core::CancellationToken;
use verbatim_core::audio::{AudioLimits, PcmSource};

/// Samples a second.
pub(crate) const RATE: usize = 16_000;

/// Ten seconds that tell where in them one is: a tone that rises from 200 to 3,000 Hz and swells ten times.
pub(crate) const SWEEP: &str =
    "aevalsrc=exprs='0.5*(0.2+0.8*abs(sin(PI*t)))*sin(2*PI*(200*t+140*t*t))':s=48000:d=10";

/// Runs a tool, which must be installed.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| {
        format!("`{program}` is not installed, and the tests need it to make their input")
    })?;
    ensure!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Runs ffmpeg with `args` (separated by blanks, which filters must not contain) on an input made by a filter.
pub(crate) fn ffmpeg(filter: &str, args: &str, output: &Path) -> Result<()> {
    let output = output.to_str().context("a path in UTF-8")?;
    let fixed = ["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", filter];
    run("ffmpeg", &fixed.into_iter().chain(args.split_whitespace()).chain([output]).collect::<Vec<_>>())
}

/// The bytes of a file that ffmpeg makes; `name` decides the format.
pub(crate) fn made(filter: &str, args: &str, name: &str) -> Result<Vec<u8>> {
    let dir = TempDir::new()?;
    ffmpeg(filter, args, &dir.path().join(name))?;
    Ok(std::fs::read(dir.path().join(name))?)
}

/// Decodes `bytes` under the default limits.
pub(crate) fn decode_bytes(bytes: impl Into<Vec<u8>>) -> Result<DecodedAudio, AudioError> {
    let cursor = Cursor::new(bytes.into());
    decode(cursor, &AudioLimits::default(), &std::env::temp_dir(), &CancellationToken::new())
}

/// Decodes the file at `path` under the default limits.
pub(crate) fn decode_path(path: &Path) -> Result<DecodedAudio, AudioError> {
    decode_file(path, &AudioLimits::default(), &std::env::temp_dir(), &CancellationToken::new())
}

/// All samples of `pcm`.
pub(crate) fn samples(pcm: &dyn PcmSource) -> Result<Vec<f32>> {
    let mut samples = vec![0.0; usize::try_from(pcm.len())?];
    ensure!(pcm.read(0, &mut samples)? == samples.len(), "a short read");
    Ok(samples)
}

/// The sweep as it is at 16 kHz, computed and not resampled: the truth that decoded files are compared with.
pub(crate) fn sweep() -> Vec<f32> {
    use std::f64::consts::{PI, TAU};
    let sample =
        |t: f64| 0.5 * (0.2 + 0.8 * (PI * t).sin().abs()) * (TAU * (200.0 * t + 140.0 * t * t)).sin();
    (0..10 * RATE).map(|n| sample(n as f64 / RATE as f64) as f32).collect()
}

/// How alike two signals are, -1 to 1, when `b` is moved `lag` samples to the left.
pub(crate) fn correlation(a: &[f32], b: &[f32], lag: isize) -> f64 {
    let (mut ab, mut aa, mut bb) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (n, x) in a.iter().enumerate() {
        let y = usize::try_from(n as isize + lag).ok().and_then(|n| b.get(n)).copied().unwrap_or(0.0);
        ab += f64::from(x * y);
        aa += f64::from(x * x);
        bb += f64::from(y * y);
    }
    ab / (aa * bb).sqrt().max(1e-12)
}

/// The lag of `b` behind `a` in samples, within half a tenth of a second, and how alike they are then.
pub(crate) fn alignment(a: &[f32], b: &[f32]) -> (isize, f64) {
    // One second is enough to tell, and cheap.
    let piece = &a[3 * RATE..4 * RATE];
    let shifted = |lag: isize| correlation(piece, &b[(3 * RATE as isize + lag) as usize..], 0);
    let lags = (-800..=800).map(|lag| (lag, shifted(lag)));
    let (lag, _) = lags.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
    (lag, correlation(a, b, lag))
}

/// Asserts that `audio` is the sweep, of the right length and at the right time.
pub(crate) fn assert_sweep(
    audio: &DecodedAudio,
    what: &str,
    most_lag: isize,
    least_likeness: f64,
) -> Result<()> {
    let truth = sweep();
    let got = samples(audio)?;
    let off_ms = (got.len() as f64 - truth.len() as f64) / 16.0;
    ensure!(off_ms.abs() <= 20.0, "{what}: {off_ms} ms too long");
    let (lag, likeness) = alignment(&truth, &got);
    ensure!(lag.abs() <= most_lag, "{what}: {lag} samples late");
    ensure!(likeness >= least_likeness, "{what}: only {likeness:.4} alike");
    Ok(())
}
