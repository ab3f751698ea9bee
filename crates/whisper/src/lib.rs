//! The local engine: Whisper on CTranslate2. CTranslate2 runs the network; everything around it is here: features,
//! tokens, the decoding loop, word times. Behaviour follows faster-whisper 1.2.1, which is what people compare with.

mod bpe;
mod bytes;
mod config;
mod copies;
mod decode;
mod engine;
mod error;
mod features;
mod hear;
mod load;
mod machine;
mod mel;
mod model;
mod pool;
mod segments;
mod split;
mod timeline;
mod transcribe;
mod vocabulary;
mod words;

pub use config::{ComputeType, Device, ModelSource, WhisperConfig};
pub use engine::WhisperEngine;
pub use error::LoadError;
pub use features::log_mel;
pub use load::load;
pub use model::{DECODER_REVISION, ENGINE};
