//! What the domain knows of audio: its formats, its limits, and decoded samples that are read piece by piece.

use serde::{Deserialize, Serialize};

use crate::error::PortError;

/// Every engine hears audio at this rate, in samples per second, in one channel.
pub const SAMPLE_RATE: u32 = 16_000;

/// Samples in a millisecond at [`SAMPLE_RATE`].
pub const SAMPLES_PER_MS: u64 = 16;

/// The container formats accepted, decided by content and never by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioFormat {
    /// RIFF/WAVE with PCM, float, A-law or mu-law samples.
    Wav,
    /// Native FLAC.
    Flac,
    /// MPEG audio layer III, with or without ID3 tags.
    Mp3,
    /// Ogg with Vorbis or Opus.
    Ogg,
    /// ISO base media (m4a, mp4) with AAC.
    M4a,
    /// AAC in ADTS frames.
    Aac,
    /// WebM or Matroska with Opus or Vorbis.
    Webm,
}

impl AudioFormat {
    /// The short lower-case name used in the API and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wav => "wav",
            Self::Flac => "flac",
            Self::Mp3 => "mp3",
            Self::Ogg => "ogg",
            Self::M4a => "m4a",
            Self::Aac => "aac",
            Self::Webm => "webm",
        }
    }
}

/// What is known of an upload when it has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioInfo {
    /// SHA-256 of the bytes, lower-case hexadecimal.
    pub sha256: String,
    /// Length of the upload in bytes.
    pub bytes: u64,
    /// Container format.
    pub format: AudioFormat,
    /// Length in milliseconds, where the header tells or the audio has been decoded.
    pub duration_ms: Option<u64>,
    /// What was noticed in it, once it has been decoded.
    #[serde(default, skip_serializing_if = "Findings::is_nothing")]
    pub findings: Findings,
}

/// What of a file could not be decoded. Times stay right: a lost packet is replaced by silence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Damage {
    /// Packets that could not be decoded.
    pub lost_packets: u64,
    /// Whether less came than the file promises, as in a cut download. Live streams and bare ADTS promise nothing.
    pub ended_early: bool,
    /// Bytes behind the end of the sound that hold something and were not heard.
    pub unheard_bytes: u64,
}

impl Damage {
    /// Whether anything was lost.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// Why there are no words in a transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoWords {
    /// The audio is digital silence.
    Silent,
    /// There is sound, and none of it was taken for speech.
    NoSpeech,
    /// The engine heard the sound and wrote nothing.
    NothingHeard,
}

/// What whoever sent audio should know of how it was heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Findings {
    /// What could not be decoded.
    pub damage: Damage,
    /// Channels that were mixed to one although they hold different sound; 0 when they do not.
    pub mixed_channels: u16,
    /// Tracks before the one that was heard that are digital silence.
    pub silent_tracks: u16,
    /// Why there are no words, where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_words: Option<NoWords>,
}

/// One of the findings, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Stable name.
    pub code: &'static str,
    /// What it means.
    pub message: String,
}

impl Findings {
    /// Whether there is anything to say.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    fn is_nothing(&self) -> bool {
        !self.any()
    }

    /// The findings in words.
    pub fn warnings(self) -> Vec<Warning> {
        let Self {
            damage: Damage { lost_packets, ended_early, unheard_bytes },
            mixed_channels,
            silent_tracks,
            no_words,
        } = self;
        let mut warnings = Vec::new();
        let mut warn = |code, message: String| warnings.push(Warning { code, message });
        if lost_packets > 0 {
            let what = format!(
                "{lost_packets} packets of the audio could not be decoded; there is silence in their place"
            );
            warn("packets_lost", what);
        }
        if ended_early {
            warn(
                "ended_early",
                "the audio ends earlier than its file promises; it may have been cut off".to_owned(),
            );
        }
        if unheard_bytes > 0 {
            let what = format!("{unheard_bytes} bytes follow the end of the audio and were not heard");
            warn("goes_on_after_its_end", what);
        }
        if mixed_channels > 0 {
            let what = format!(
                "{mixed_channels} channels hold different sound and were mixed to one; upload them one by one if people \
                 talk over each other"
            );
            warn("channels_differ", what);
        }
        if silent_tracks > 0 {
            let what =
                format!("{silent_tracks} audio tracks are silent; the first that is not was heard instead");
            warn("silent_track_skipped", what);
        }
        match no_words {
            None => {}
            Some(NoWords::Silent) => warn("silent", "the audio is silent".to_owned()),
            Some(NoWords::NoSpeech) => {
                let what =
                    "there is sound, and none of it was taken for speech; with `vad` off all of it is heard";
                warn("no_speech_found", what.to_owned());
            }
            Some(NoWords::NothingHeard) => {
                warn("no_words_heard", "there is sound, and no words were made out in it".to_owned());
            }
        }
        warnings
    }
}

/// What protects workers from hostile audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLimits {
    /// Longest audio that is decoded, in seconds.
    pub max_duration_secs: u64,
    /// Most channels that are mixed down.
    pub max_channels: u16,
    /// Highest sampling rate that is accepted, in Hz.
    pub max_sample_rate: u32,
}

impl Default for AudioLimits {
    fn default() -> Self {
        Self { max_duration_secs: 8 * 3600, max_channels: 32, max_sample_rate: 384_000 }
    }
}

/// Decoded audio: mono samples in `[-1, 1]` at [`SAMPLE_RATE`], read by position. Hours of it need not be in memory.
pub trait PcmSource: Send + Sync {
    /// How many samples there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies samples from `start` into `out` and returns how many were copied: fewer than asked only at the end.
    ///
    /// # Errors
    /// `Unavailable` when the samples are in a file that cannot be read. May block on that file.
    fn read(&self, start: u64, out: &mut [f32]) -> Result<usize, PortError>;

    /// Length in milliseconds, rounded to the nearest.
    fn duration_ms(&self) -> u64 {
        (self.len() + SAMPLES_PER_MS / 2) / SAMPLES_PER_MS
    }
}

/// Samples held in memory.
impl PcmSource for Vec<f32> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read(&self, start: u64, out: &mut [f32]) -> Result<usize, PortError> {
        let start = usize::try_from(start).unwrap_or(usize::MAX).min(self.as_slice().len());
        let count = out.len().min(self.as_slice().len() - start);
        out[..count].copy_from_slice(&self[start..start + count]);
        Ok(count)
    }
}

/// A stretch of the audio in which somebody speaks, in samples: `start` included, `end` not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeechSpan {
    /// First sample.
    pub start: u64,
    /// One past the last sample.
    pub end: u64,
}

impl SpeechSpan {
    /// Length in samples.
    pub fn samples(self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}
