//! The engine of the harness's workers: the fake one, which also does what the sound orders. No shipped binary has it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use verbatim_core::CancellationToken;
use verbatim_core::audio::PcmSource;
use verbatim_core::failure::FailureKind;
use verbatim_core::model::ModelInfo;
use verbatim_core::options::TranscribeOptions;
use verbatim_core::ports::engine::{
    Capabilities, Checkpoint, EngineError, EngineObserver, EngineRequest, SpeechEngine,
};
use verbatim_core::ports::local_engine::{LoadError, LocalEngineSettings};
use verbatim_core::transcript::{Segment, Transcript};
use verbatim_engines::FakeEngine;

use crate::sound::{LENGTH_MS, Mark, Sound};

/// The variable that names the folder where engines note what they have done, across processes.
pub const NOTES: &str = "CHAOS_NOTES";
/// The variable that names the engine and its model, where it is not [`CHAOS`].
pub const MODEL: &str = "CHAOS_MODEL";
/// Name of the engine and of its model, unless [`MODEL`] says otherwise.
pub const CHAOS: &str = "chaos";
/// Of all checkpoints.
const REVISION: &str = "chaos-1";
/// How long a window of a long job takes.
const WINDOW_MS: u16 = 300;

/// Loads it. What is configured of a local engine does not matter.
///
/// # Errors
/// When [`NOTES`] names no folder.
pub fn load(_: LocalEngineSettings) -> Result<Arc<dyn SpeechEngine>, LoadError> {
    let notes = std::env::var_os(NOTES).ok_or("CHAOS_NOTES is not set")?;
    let name = std::env::var(MODEL).unwrap_or_else(|_| CHAOS.to_owned());
    Ok(Arc::new(ChaosEngine { notes: notes.into(), name }))
}

/// What the service must answer for this sound.
///
/// # Errors
/// When the fake engine fails.
pub async fn known_answer(sound: Sound) -> Result<String, EngineError> {
    let samples: Vec<f32> = sound.samples().iter().map(|sample| f32::from(*sample) / 32_768.0).collect();
    let options = TranscribeOptions::for_model(CHAOS);
    let transcript = say(Arc::new(samples), options, CancellationToken::new()).await?;
    let text: String = transcript.segments.iter().map(|segment| segment.text.as_str()).collect();
    Ok(text.trim().to_owned())
}

struct ChaosEngine {
    notes: PathBuf,
    name: String,
}

impl ChaosEngine {
    /// Whether this sound has failed fewer times than ordered; notes that it does now.
    fn has_to_fail(&self, serial: u64, times: u16) -> std::io::Result<bool> {
        for time in 0..times {
            let note = self.notes.join(format!("failed-{serial}-{time}"));
            match std::fs::File::create_new(note) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    async fn obey(
        &self,
        sound: Sound,
        resume: Option<&Checkpoint>,
        observer: &dyn EngineObserver,
        cancel: &CancellationToken,
    ) -> Result<(), EngineError> {
        match sound.mark {
            Mark::Long { windows } => long(windows, resume, observer, cancel).await,
            Mark::Plain { millis } => pause(millis, cancel).await,
            Mark::FailTimes { times } => match self.has_to_fail(sound.serial, times) {
                Ok(false) => Ok(()),
                Ok(true) => Err(EngineError::new(FailureKind::EngineFailed, "this sound was to fail")),
                Err(error) => Err(EngineError::new(FailureKind::Internal, "the note could not be written")
                    .with_source(error)),
            },
            Mark::Refuse => Err(EngineError::new(FailureKind::BadAudio, "this sound was to be refused")),
            Mark::Abort { millis } => {
                pause(millis, cancel).await?;
                std::process::abort()
            }
        }
    }
}

/// Works window by window, from where an earlier worker got to.
async fn long(
    windows: u16,
    resume: Option<&Checkpoint>,
    observer: &dyn EngineObserver,
    cancel: &CancellationToken,
) -> Result<(), EngineError> {
    let done = resume.filter(|point| point.revision == REVISION).and_then(|point| point.state.as_u64());
    for window in done.unwrap_or(0)..u64::from(windows) {
        pause(WINDOW_MS, cancel).await?;
        let position_ms = LENGTH_MS * (window + 1) / u64::from(windows);
        observer.window_done(position_ms, &[]);
        let state = serde_json::Value::from(window + 1);
        let (revision, segments) = (REVISION.to_owned(), Vec::new());
        observer.checkpoint(Checkpoint { revision, position_ms, segments, state });
    }
    Ok(())
}

async fn pause(millis: u16, cancel: &CancellationToken) -> Result<(), EngineError> {
    tokio::select! {
        () = cancel.cancelled() => Err(EngineError::new(FailureKind::Cancelled, "cancelled")),
        () = tokio::time::sleep(Duration::from_millis(u64::from(millis))) => Ok(()),
    }
}

#[async_trait]
impl SpeechEngine for ChaosEngine {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        let model = ModelInfo {
            name: self.name.clone(),
            engine: self.name.clone(),
            multilingual: true,
            translates: true,
            diarizes: false,
            revision: REVISION.to_owned(),
        };
        Capabilities { models: vec![model], concurrency: 4, max_duration: None }
    }

    async fn transcribe(
        &self,
        request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError> {
        let samples = samples(Arc::clone(&request.audio)).await?;
        let Some(sound) = Sound::of(&samples) else {
            return Err(EngineError::new(FailureKind::BadAudio, "this is no sound of the harness"));
        };
        self.obey(sound, request.resume.as_ref(), observer.as_ref(), &cancel).await?;
        let mut transcript = say(request.audio, request.options, cancel).await?;
        self.name.clone_into(&mut transcript.engine);
        self.name.clone_into(&mut transcript.model);
        observer.window_done(transcript.duration_ms, &transcript.segments);
        Ok(transcript)
    }
}

/// The fake engine's words, and a digest of all samples: few words are too easily the right ones by chance.
async fn say(
    audio: Arc<dyn PcmSource>,
    options: TranscribeOptions,
    cancel: CancellationToken,
) -> Result<Transcript, EngineError> {
    let digest = digest(&samples(Arc::clone(&audio)).await?);
    let request = EngineRequest::new(audio, options);
    let mut transcript = FakeEngine::new(0.0).transcribe(request, Arc::new(Nobody), cancel).await?;
    if let Some(last) = transcript.segments.last_mut() {
        last.text = format!("{} {digest:016x}", last.text);
    }
    Ok(transcript)
}

/// FNV-1a.
fn digest(samples: &[i16]) -> u64 {
    samples.iter().fold(0xcbf2_9ce4_8422_2325, |hash, sample| {
        (hash ^ u64::from(sample.cast_unsigned())).wrapping_mul(0x100_0000_01b3)
    })
}

async fn samples(audio: Arc<dyn PcmSource>) -> Result<Vec<i16>, EngineError> {
    let read = tokio::task::spawn_blocking(move || {
        let mut samples = vec![0.0; usize::try_from(audio.len()).unwrap_or(0)];
        audio.read(0, &mut samples)?;
        Ok::<_, verbatim_core::PortError>(samples)
    });
    let failed =
        |error| EngineError::new(FailureKind::Internal, "the audio cannot be read").with_source(error);
    let samples = read.await.map_err(|_| EngineError::new(FailureKind::Internal, "reading stopped"))?;
    Ok(samples.map_err(failed)?.iter().map(|sample| (sample * 32_768.0) as i16).collect())
}

/// Whom the fake engine reports to here.
struct Nobody;

impl EngineObserver for Nobody {
    fn window_done(&self, _: u64, _: &[Segment]) {}

    fn checkpoint(&self, _: Checkpoint) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_sound_has_an_answer_of_its_own() -> Result<(), EngineError> {
        let sound = |serial| Sound { mark: Mark::Plain { millis: 0 }, serial };
        assert_eq!(known_answer(sound(1)).await?, known_answer(sound(1)).await?);
        assert_ne!(known_answer(sound(1)).await?, known_answer(sound(2)).await?);
        Ok(())
    }

    #[tokio::test]
    async fn a_sound_fails_as_often_as_ordered_whoever_hears_it() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let sound = Sound { mark: Mark::FailTimes { times: 2 }, serial: 9 };
        let mut failures = Vec::new();
        for _ in 0..4 {
            let engine = ChaosEngine { notes: folder.path().to_owned(), name: CHAOS.to_owned() };
            failures.push(engine.obey(sound, None, &Nobody, &CancellationToken::new()).await.is_err());
        }
        assert_eq!(failures, [true, true, false, false]);
        Ok(())
    }

    /// What an engine leaves behind.
    #[derive(Default)]
    struct Left(std::sync::Mutex<Vec<Checkpoint>>);

    impl EngineObserver for Left {
        fn window_done(&self, _: u64, _: &[Segment]) {}

        fn checkpoint(&self, checkpoint: Checkpoint) {
            self.0.lock().unwrap().push(checkpoint);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_sound_goes_on_where_it_was_left() {
        let (first, second) = (Left::default(), Left::default());
        let cancel = CancellationToken::new();
        long(5, None, &first, &cancel).await.unwrap();
        let points = first.0.into_inner().unwrap();
        assert_eq!(points.len(), 5);
        long(5, points.get(2), &second, &cancel).await.unwrap();
        assert_eq!(second.0.into_inner().unwrap(), points[3..]);
    }
}
