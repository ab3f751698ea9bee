//! From any upload to what an engine hears: type by content, decode to 16 kHz mono with bounded memory, and find
//! the speech in it.
//!
//! Everything here blocks; callers run it on a blocking thread and cancel it through a token.

mod aac;
mod blocks;
mod conditions;
mod container;
mod decode;
mod effort;
mod error;
mod flac;
mod foreign;
mod link;
mod loudness;
mod matroska;
mod mixdown;
mod modulation;
mod mp4;
mod mpeg;
mod names;
mod packets;
mod pcm;
mod pieces;
mod plausible;
mod probe;
mod resample;
mod samples;
mod sniff;
mod source;
mod spans;
mod vad;
mod vorbis;
mod wav;

pub use conditions::{Conditions, Folder, Pace, Reservation, Scratch};
pub use decode::{decode, decode_file, decode_under};
pub use effort::{ProcessorClock, ThreadClock};
pub use error::AudioError;
pub use foreign::refuse;
pub use mpeg::id3v2_len as tag_len;
pub use pcm::{DecodedAudio, SAMPLES_IN_MEMORY};
pub use probe::{check_duration, probe_duration, scratch_bytes};
pub use sniff::{HEAD_BYTES, sniff};
pub use vad::{VadConfig, find_speech, find_speech_at};
