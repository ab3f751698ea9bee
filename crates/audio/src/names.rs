//! What is not heard, by its name: a file that is refused says of what it is, and a piece of a recording that its
//! beginning is missing.

use std::io::SeekFrom;

use symphonia::core::codecs::audio::AudioCodecId;
use symphonia::core::codecs::audio::well_known as codecs;
use symphonia::core::io::MediaSource;
use verbatim_core::audio::AudioFormat;

use crate::error::AudioError;
use crate::matroska;

/// Bytes at the start of a file in which its tracks are described.
const HEAD: usize = 64 * 1024;

/// The first bytes of `source`, which is then at its beginning again.
pub(crate) fn head(source: &mut Box<dyn MediaSource + '_>) -> Result<Vec<u8>, AudioError> {
    let mut head = vec![0; HEAD];
    let mut len = 0;
    let read = || -> std::io::Result<()> {
        while len < HEAD {
            match source.read(&mut head[len..])? {
                0 => break,
                count => len += count,
            }
        }
        source.seek(SeekFrom::Start(0)).map(|_| ())
    };
    let mut read = read;
    read().map_err(|error| AudioError::io("reading the audio failed", error))?;
    head.truncate(len);
    Ok(head)
}

/// The name of a codec that no decoder is there for.
pub(crate) fn codec(id: AudioCodecId) -> String {
    let name = match id {
        codecs::CODEC_ID_MP1 => "MPEG audio layer I",
        codecs::CODEC_ID_MP2 => "MPEG audio layer II (mp2)",
        codecs::CODEC_ID_AC3 => "AC-3 (Dolby Digital)",
        codecs::CODEC_ID_EAC3 => "E-AC-3 (Dolby Digital Plus)",
        codecs::CODEC_ID_AC4 => "AC-4",
        codecs::CODEC_ID_DCA => "DTS",
        codecs::CODEC_ID_TRUEHD => "TrueHD",
        codecs::CODEC_ID_SPEEX => "Speex",
        codecs::CODEC_ID_MUSEPACK => "Musepack",
        codecs::CODEC_ID_WAVPACK => "WavPack",
        codecs::CODEC_ID_TTA => "TTA",
        codecs::CODEC_ID_WMA => "WMA",
        codecs::CODEC_ID_MONKEYS_AUDIO => "Monkey's Audio",
        codecs::CODEC_ID_ATRAC1 | codecs::CODEC_ID_ATRAC3 => "ATRAC",
        codecs::CODEC_ID_RA10 | codecs::CODEC_ID_RA20 | codecs::CODEC_ID_COOK | codecs::CODEC_ID_SIPR => {
            "RealAudio"
        }
        codecs::CODEC_ID_RALF => "RealAudio Lossless",
        _ => return "the codec of its audio track".to_owned(),
    };
    format!("{name} audio")
}

/// For a file whose tracks are none that can be heard: the codec that its description names.
pub(crate) fn unknown_codec(format: AudioFormat, head: &[u8]) -> Option<AudioError> {
    let name = match format {
        AudioFormat::Ogg => first_packet(head).and_then(ogg_codec)?.to_owned(),
        AudioFormat::Webm => {
            format!("the codec {} of its audio track", matroska::tracks(head).first()?.codec)
        }
        _ => return None,
    };
    Some(AudioError::unsupported(name))
}

/// What is wrong with a file that does not open, where its first bytes tell more than the reader: its beginning is missing,
/// when it is a piece of a longer recording, or its codec is none that the reader knows.
pub(crate) fn instead_of(error: AudioError, format: AudioFormat, head: &[u8]) -> AudioError {
    const FIRST_PAGE: u8 = 2;
    if format != AudioFormat::Ogg {
        return error;
    }
    if head.get(5).is_some_and(|flags| flags & FIRST_PAGE == 0) {
        return AudioError::no_beginning();
    }
    unknown_codec(format, head).unwrap_or(error)
}

/// The packet in the first page of an Ogg file (RFC 3533, 6).
fn first_packet(head: &[u8]) -> Option<&[u8]> {
    let segments = usize::from(*head.get(26)?);
    head.get(27 + segments..)
}

fn ogg_codec(packet: &[u8]) -> Option<&'static str> {
    let codecs: [(&[u8], &str); 6] = [
        (b"Speex   ", "Speex audio in Ogg"),
        (b"CELT    ", "CELT audio in Ogg"),
        (b"PCM     ", "PCM audio in Ogg"),
        (b"fishead", "an Ogg file whose tracks have no codec that is known"),
        (b"\x80theora", "an Ogg file with video alone"),
        (b"OggMIDI", "MIDI in Ogg"),
    ];
    codecs.into_iter().find(|(start, _)| packet.starts_with(start)).map(|(_, name)| name)
}
