//! From any upload to what an engine hears: type by content, decode to 16 kHz mono with bounded memory, and find
//! the speech in it.
//!
//! Everything here blocks; callers run it on a blocking thread and cancel it through a token.

mod container;
mod damage;
mod decode;
mod error;
mod flac;
mod link;
mod loudness;
mod mixdown;
mod modulation;
mod mp4;
mod mpeg;
mod packets;
mod pcm;
mod probe;
mod resample;
mod samples;
mod sniff;
mod source;
mod spans;
mod vad;
mod wav;

pub use damage::Damage;
pub use decode::{decode, decode_file};
pub use error::AudioError;
pub use pcm::{DecodedAudio, SAMPLES_IN_MEMORY};
pub use probe::probe_duration;
pub use sniff::{HEAD_BYTES, sniff};
pub use vad::{VadConfig, find_speech};
