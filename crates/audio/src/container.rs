//! The containers: which reader opens a file, which track is heard and which decoder decodes it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_OPUS};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::errors::{Error, Result as SymphoniaResult};
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::packet::Packet;
use symphonia::core::units::TimeBase;
use symphonia::default::formats::{AdtsReader, FlacReader, IsoMp4Reader, MkvReader, MpaReader, OggReader};
use symphonia_adapter_libopus::OpusDecoder;
use verbatim_core::audio::AudioFormat;

use crate::error::AudioError;
use crate::mp4;
use crate::wav::WavReader;

static CODECS: LazyLock<CodecRegistry> = LazyLock::new(|| {
    let mut codecs = CodecRegistry::new();
    symphonia::default::register_enabled_codecs(&mut codecs);
    codecs.register_audio_decoder::<OpusDecoder>();
    codecs
});

/// Runs code of symphonia. It reads hostile files with arithmetic and indexing of its own, and a panic in it must cost
/// this file and not the worker. Whatever it panicked over is dropped with the file, so no broken state is seen again.
pub(crate) fn shielded<T>(work: impl FnOnce() -> T) -> Result<T, AudioError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| AudioError::malformed("it makes the decoder fail"))
}

/// What an error of symphonia says of the file, when nothing of it could be decoded.
pub(crate) fn refusal(error: Error) -> AudioError {
    match error {
        Error::Unsupported(what) => AudioError::unsupported(what),
        Error::IoError(_) => AudioError::malformed("it ends too early"),
        Error::DecodeError(reason) | Error::LimitError(reason) => AudioError::malformed(reason),
        other => AudioError::malformed(other.to_string()),
    }
}

/// An open file.
pub(crate) enum Demuxer<'s> {
    /// Ours.
    Wav(WavReader<'s>),
    /// Those of symphonia.
    Other(Box<dyn FormatReader + 's>),
}

/// The track that is heard: the first audio track with a codec that can be decoded.
pub(crate) struct AudioTrack {
    /// Its packets carry this.
    pub(crate) id: u32,
    /// Units of its packets' times.
    pub(crate) time_base: Option<TimeBase>,
    /// Priming that the codec's header states.
    pub(crate) edit: mp4::Edit,
    params: AudioCodecParameters,
}

impl<'s> Demuxer<'s> {
    /// Opens `stream`, `total` bytes of `format`.
    pub(crate) fn open(
        stream: MediaSourceStream<'s>,
        format: AudioFormat,
        total: u64,
    ) -> Result<Self, AudioError> {
        if format == AudioFormat::Wav {
            return WavReader::new(stream, total).map(Self::Wav);
        }
        let options = FormatOptions::default();
        let opened = shielded(|| -> SymphoniaResult<Box<dyn FormatReader + 's>> {
            Ok(match format {
                AudioFormat::Wav | AudioFormat::Mp3 => Box::new(MpaReader::try_new(stream, options)?),
                AudioFormat::Flac => Box::new(FlacReader::try_new(stream, options)?),
                AudioFormat::Ogg => Box::new(OggReader::try_new(stream, options)?),
                AudioFormat::M4a => Box::new(IsoMp4Reader::try_new(stream, options)?),
                AudioFormat::Aac => Box::new(AdtsReader::try_new(stream, options)?),
                AudioFormat::Webm => Box::new(MkvReader::try_new(stream, options)?),
            })
        })?;
        opened.map(Self::Other).map_err(refusal)
    }

    /// The track to decode, as the container describes it now; a chained Ogg file has a new one in each link.
    pub(crate) fn audio_track(&self) -> Result<AudioTrack, AudioError> {
        let reader = match self {
            Self::Wav(reader) => {
                let mut track = AudioTrack::new(0, reader.header().codec_params(), None);
                track.edit.length = reader.header().stated_secs();
                return Ok(track);
            }
            Self::Other(reader) => reader,
        };
        let mut found_one = false;
        for track in reader.tracks() {
            if let Some(CodecParameters::Audio(params)) = &track.codec_params {
                found_one = true;
                if CODECS.get_audio_decoder(params.codec).is_some() {
                    return Ok(AudioTrack::new(track.id, params.clone(), track.time_base));
                }
            }
        }
        Err(if found_one {
            AudioError::unsupported("the codec of its audio track")
        } else {
            AudioError::NoAudioTrack
        })
    }

    /// The next packet of any track.
    pub(crate) fn next_packet(&mut self) -> SymphoniaResult<Option<Packet>> {
        match self {
            Self::Wav(reader) => Ok(reader.next_packet()?),
            Self::Other(reader) => reader.next_packet(),
        }
    }
}

impl AudioTrack {
    fn new(id: u32, mut params: AudioCodecParameters, time_base: Option<TimeBase>) -> Self {
        let mut edit = mp4::Edit::default();
        match (params.codec, &mut params.extra_data) {
            // The adapter cuts the pre-skip (RFC 7845, 5.1) from the first packet alone, however long it is.
            (CODEC_ID_OPUS, Some(head)) => {
                if let Some(pre_skip) = head.get_mut(10..12) {
                    edit.lead = f64::from(u16::from_le_bytes([pre_skip[0], pre_skip[1]])) / 48_000.0;
                    pre_skip.fill(0);
                }
            }
            (CODEC_ID_AAC, Some(config)) => {
                if let Some(core) = mp4::core_of_he_aac(config) {
                    *config = Box::new(core);
                }
            }
            _ => {}
        }
        Self { id, time_base, edit, params }
    }

    /// Channels, where the container tells.
    pub(crate) fn channels(&self) -> Option<usize> {
        self.params.channels.as_ref().map(|channels| channels.count())
    }

    /// Sampling rate in Hz, where the container tells.
    pub(crate) fn rate(&self) -> Option<u32> {
        self.params.sample_rate
    }

    /// A decoder for the track.
    pub(crate) fn decoder(&self) -> Result<Box<dyn AudioDecoder>, AudioError> {
        let options = AudioDecoderOptions::default();
        shielded(|| CODECS.make_audio_decoder(&self.params, &options))?.map_err(refusal)
    }
}
