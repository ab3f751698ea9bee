//! How long a file of a size can plausibly be. Codecs pack silence so densely that a few kilobytes of it fill a disk.

use verbatim_core::audio::AudioLimits;

use crate::error::AudioError;

/// However small a file is, so many seconds are plausible.
const BASE_SECS: u64 = 600;
/// The densest sound and silence that encoders make: FLAC and Opus need 16 bytes and more for a second of digital silence.
const BYTES_PER_SECOND: u64 = 10;

/// How long the audio of a file may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Longest {
    limit_secs: u64,
    bytes: u64,
}

impl Longest {
    /// For a file of `bytes`.
    pub(crate) fn new(limits: &AudioLimits, bytes: u64) -> Self {
        Self { limit_secs: limits.max_duration_secs, bytes }
    }

    /// Whether audio of so many thousandths of a second is allowed.
    ///
    /// # Errors
    /// Longer than the limit, or than so many bytes can plausibly be.
    pub(crate) fn check(self, millis: u64) -> Result<(), AudioError> {
        let Self { limit_secs, bytes } = self;
        let plausible_secs = BASE_SECS + bytes / BYTES_PER_SECOND;
        if millis > limit_secs.saturating_mul(1000) {
            return Err(AudioError::TooLong { limit_secs });
        }
        if millis > plausible_secs.saturating_mul(1000) {
            return Err(AudioError::Implausible { limit_secs: plausible_secs, bytes });
        }
        Ok(())
    }
}
