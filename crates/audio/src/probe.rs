//! How long an upload is, from its first bytes, where they tell.

use std::io::Cursor;

use verbatim_core::audio::{AudioFormat, AudioLimits, SAMPLE_RATE};

use crate::error::AudioError;
use crate::flac::StreamInfo;
use crate::pcm::{self, SAMPLES_IN_MEMORY};
use crate::plausible::Longest;
use crate::wav::WavHeader;
use crate::{mp4, mpeg, sniff};

/// The densest that each codec packs time, in milliseconds a byte. A header cannot claim more than its file can hold.
mod densest {
    /// A constant subframe of 65,535 samples at 8 kHz in 10 bytes.
    pub(super) const FLAC: u64 = 820;
    /// 8 kbit/s, the lowest that layer III has.
    pub(super) const MP3: u64 = 1;
    /// A silent frame of 1,024 samples at 8 kHz in 4 bytes, with nothing for the index.
    pub(super) const M4A: u64 = 32;
}

/// The length in milliseconds of a file of `total_bytes` that begins with `head`: exact for wav, as stated for flac,
/// m4a and mp3 with a Xing or VBRI header, estimated by the first frame's bitrate for other mp3. `None` where the head
/// does not tell. Never more than a file of that size can hold.
pub fn probe_duration(head: &[u8], total_bytes: u64) -> Option<u64> {
    if let Some(tag) = mpeg::id3v2_len(head) {
        let rest = head.get(usize::try_from(tag).ok()?..)?;
        return probe_duration(rest, total_bytes.checked_sub(tag)?);
    }
    let (duration, densest) = match sniff(head)? {
        AudioFormat::Wav => {
            (WavHeader::read(&mut Cursor::new(head), total_bytes).ok()?.duration_ms(), u64::MAX)
        }
        AudioFormat::Flac => {
            let info = StreamInfo::parse(head)?;
            (millis(info.samples, u64::from(info.rate))?, densest::FLAC)
        }
        AudioFormat::Mp3 => (mp3_duration(head, total_bytes)?, densest::MP3),
        AudioFormat::M4a => {
            let (units, per_second) = mp4::movie_duration(head)?;
            (millis(units, u64::from(per_second))?, densest::M4A)
        }
        AudioFormat::Ogg | AudioFormat::Aac | AudioFormat::Webm => return None,
    };
    Some(duration.min(total_bytes.saturating_mul(densest))).filter(|duration| *duration > 0)
}

/// Whether audio may be as long as `head` says, in a file of `total_bytes` that begins with it.
///
/// # Errors
/// As from decoding it: [`AudioError::TooLong`] beyond `limits`, [`AudioError::Implausible`] beyond what so many bytes hold.
pub fn check_duration(
    head: &[u8],
    total_bytes: u64,
    limits: &AudioLimits,
) -> Result<Option<u64>, AudioError> {
    let duration = probe_duration(head, total_bytes);
    // Headers round, and some count the padding.
    let stated = duration.unwrap_or(0).saturating_sub(TOLERANCE_MS);
    Longest::new(limits, total_bytes).check(stated).map(|()| duration)
}

/// Bytes that the audio of a file will take in the scratch folder, about: by its length, where that is known, else by its
/// size. None for what stays in memory.
pub fn scratch_bytes(duration_ms: Option<u64>, total_bytes: u64) -> u64 {
    let seconds = duration_ms.map_or(total_bytes / LOW_BYTES_PER_SECOND, |millis| millis.div_ceil(1000));
    let samples = seconds.saturating_mul(u64::from(SAMPLE_RATE));
    if samples <= SAMPLES_IN_MEMORY as u64 { 0 } else { pcm::reserved(samples) }
}

/// Sound of people is rarely packed more densely than with 16 kbit/s.
const LOW_BYTES_PER_SECOND: u64 = 2_000;

/// A header may say so much more than there is.
const TOLERANCE_MS: u64 = 1000;

fn mp3_duration(head: &[u8], total_bytes: u64) -> Option<u64> {
    let (start, first) = mpeg::find_mp3(head)?;
    match first.stated_frames(&head[start..]) {
        Some(frames) => millis(u64::from(frames) * u64::from(first.samples), u64::from(first.rate)),
        None => millis(total_bytes.saturating_sub(start as u64).saturating_mul(8), u64::from(first.bitrate)),
    }
}

/// `units` at `per_second` in milliseconds; `None` for a length or a rate of zero.
fn millis(units: u64, per_second: u64) -> Option<u64> {
    let millis = (u128::from(units) * 1000).checked_div(u128::from(per_second))?;
    u64::try_from(millis).ok().filter(|millis| *millis > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flac_head(rate: u32, samples: u64) -> Vec<u8> {
        let mut head = b"fLaC\x80\x00\x00\x22".to_vec();
        head.extend([0; 10]);
        head.extend((u64::from(rate) << 44 | samples).to_be_bytes());
        head.extend([0; 16]);
        head
    }

    #[test]
    fn a_flac_header_is_believed_as_far_as_the_file_can_hold() {
        assert_eq!(probe_duration(&flac_head(44_100, 441_000), 100_000), Some(10_000));
        assert_eq!(probe_duration(&flac_head(8_000, 0xf_ffff_ffff), 1_000), Some(820_000));
        assert_eq!(probe_duration(&flac_head(44_100, 0), 100_000), None, "zero means unknown");
        assert_eq!(probe_duration(&flac_head(0, 441_000), 100_000), None);
    }
}
