//! The containers: which reader opens a file, which tracks can be heard and which decoder decodes them.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_OPUS, CODEC_ID_VORBIS};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::errors::{Error, Result as SymphoniaResult};
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::{MediaSource, MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::packet::Packet;
use symphonia::core::units::TimeBase;
use symphonia::default::formats::{AdtsReader, FlacReader, MkvReader, MpaReader, OggReader};
use symphonia_adapter_libopus::OpusDecoder;
use verbatim_core::audio::AudioFormat;

use crate::error::AudioError;
use crate::flac::WithoutMetadata;
use crate::matroska::MatroskaTrack;
use crate::mp4::{Edit, Movie, Mp4Reader, Mp4Track};
use crate::wav::WavReader;
use crate::{aac, matroska, names, vorbis};

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
pub(crate) struct Demuxer<'s> {
    reader: Reader<'s>,
    /// Which of its tracks can be heard, the one that is meant to be heard first.
    tracks: Vec<AudioTrack>,
}

enum Reader<'s> {
    Wav(WavReader<'s>),
    Mp4(Box<Mp4Reader<'s>>),
    /// With what is known of its end.
    Symphonia(Box<dyn FormatReader + 's>, StreamEnd),
}

/// A track that can be heard.
#[derive(Clone)]
pub(crate) struct AudioTrack {
    /// Its packets carry this.
    pub(crate) id: u32,
    /// Units of its packets' times.
    pub(crate) time_base: Option<TimeBase>,
    /// Priming that the codec's header or the container states.
    pub(crate) edit: Edit,
    /// What its samples are to be multiplied by.
    pub(crate) gain: f32,
    params: AudioCodecParameters,
}

impl<'s> Demuxer<'s> {
    /// Opens `source`, `total` bytes of `format`, to hear the track that is number `choice` among those that can be heard.
    ///
    /// # Errors
    /// Why there is no such track.
    pub(crate) fn open(
        mut source: Box<dyn MediaSource + 's>,
        format: AudioFormat,
        total: u64,
        choice: usize,
    ) -> Result<Self, AudioError> {
        if format == AudioFormat::M4a {
            return Self::open_mp4(source, total, choice);
        }
        let head = names::head(&mut source)?;
        if format == AudioFormat::Flac {
            source = Box::new(WithoutMetadata::new(source)?);
        }
        let stream = MediaSourceStream::new(source, MediaSourceStreamOptions::default());
        if format == AudioFormat::Wav {
            let reader = WavReader::new(stream, total)?;
            let track = wav_track(&reader);
            return Ok(Self { reader: Reader::Wav(reader), tracks: vec![track] });
        }
        let options = FormatOptions::default();
        let open = || -> SymphoniaResult<Box<dyn FormatReader + 's>> {
            Ok(match format {
                AudioFormat::Wav | AudioFormat::M4a | AudioFormat::Mp3 => {
                    Box::new(MpaReader::try_new(stream, options)?)
                }
                AudioFormat::Flac => Box::new(FlacReader::try_new(stream, options)?),
                AudioFormat::Ogg => Box::new(OggReader::try_new(stream, options)?),
                AudioFormat::Aac => Box::new(AdtsReader::try_new(stream, options)?),
                AudioFormat::Webm => Box::new(MkvReader::try_new(stream, options)?),
            })
        };
        let opened = shielded(open).and_then(|opened| opened.map_err(refusal));
        let reader = opened.map_err(|error| names::instead_of(error, format, &head))?;
        let end = match format {
            AudioFormat::Webm => matroska::end(&head, total),
            _ => StreamEnd::default(),
        };
        let described = if format == AudioFormat::Webm { matroska::tracks(&head) } else { Vec::new() };
        let tracks = heard(reader.as_ref(), &described).map_err(|error| match error {
            AudioError::NoAudioTrack => names::unknown_codec(format, &head).unwrap_or(error),
            error => error,
        })?;
        Ok(Self { reader: Reader::Symphonia(reader, end), tracks })
    }

    fn open_mp4(
        mut source: Box<dyn MediaSource + 's>,
        total: u64,
        choice: usize,
    ) -> Result<Self, AudioError> {
        let movie = Movie::read(&mut source, total).ok_or_else(|| AudioError::malformed(NO_INDEX))?;
        let mut refused = None;
        let (mut tracks, mut rest) = (Vec::new(), Vec::new());
        for track in &movie.tracks {
            match &track.codec {
                Ok(codec) if CODECS.get_audio_decoder(codec.params.codec).is_some() => {
                    if track.enabled { &mut tracks } else { &mut rest }.push(track);
                }
                Ok(codec) => refused = refused.or(Some(names::codec(codec.params.codec))),
                Err(name) => refused = refused.or(Some(name.clone())),
            }
        }
        tracks.append(&mut rest);
        let chosen = tracks.get(choice).copied().cloned();
        let Some(chosen) = chosen else {
            return Err(refused.map_or(AudioError::NoAudioTrack, AudioError::unsupported));
        };
        let tracks = tracks.into_iter().filter_map(AudioTrack::of_mp4).collect();
        let reader = Mp4Reader::new(source, &movie, total, chosen);
        Ok(Self { reader: Reader::Mp4(Box::new(reader)), tracks })
    }

    /// The tracks that can be heard, the one that is meant to be heard first. A chained Ogg file has new ones in each link.
    pub(crate) fn tracks(&self) -> &[AudioTrack] {
        &self.tracks
    }

    /// Looks at the tracks of the link that begins.
    ///
    /// # Errors
    /// Why none of them can be heard.
    pub(crate) fn begin_link(&mut self) -> Result<(), AudioError> {
        match &self.reader {
            Reader::Symphonia(reader, _) => self.tracks = heard(reader.as_ref(), &[])?,
            Reader::Wav(reader) => self.tracks = vec![wav_track(reader)],
            Reader::Mp4(_) => {}
        }
        Ok(())
    }

    /// The next packet of any track.
    pub(crate) fn next_packet(&mut self) -> SymphoniaResult<Option<Packet>> {
        match &mut self.reader {
            Reader::Wav(reader) => reader.next_packet(),
            Reader::Mp4(reader) => Ok(reader.next_packet()?),
            Reader::Symphonia(reader, _) => reader.next_packet(),
        }
    }

    /// After the last packet: whether the container itself says that more should have come, and whether more came than it
    /// knows what to do with.
    pub(crate) fn end(&self) -> StreamEnd {
        match &self.reader {
            Reader::Wav(reader) => reader.end(),
            Reader::Mp4(reader) => reader.end(),
            Reader::Symphonia(_, end) => *end,
        }
    }

    /// How many frames the header of a file of one track promises.
    pub(crate) fn stated_frames(&self) -> Option<u64> {
        match &self.reader {
            Reader::Symphonia(reader, _) => reader.tracks().first().and_then(|track| track.num_frames),
            Reader::Wav(_) | Reader::Mp4(_) => None,
        }
    }
}

/// How a stream ended, by its container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StreamEnd {
    /// More was promised.
    pub(crate) early: bool,
    /// Bytes behind the end that were not heard.
    pub(crate) unheard_bytes: u64,
}

/// What is wrong with an MP4 without a description of its contents.
const NO_INDEX: &str = "its index is missing, which is written last";

fn wav_track(reader: &WavReader<'_>) -> AudioTrack {
    let mut track = AudioTrack::new(0, reader.header().codec_params(), None);
    track.edit.length = reader.header().stated_secs();
    track
}

/// The tracks that can be heard, those that are meant to be heard first.
fn heard(reader: &dyn FormatReader, described: &[MatroskaTrack]) -> Result<Vec<AudioTrack>, AudioError> {
    let (mut tracks, mut rest, mut refused) = (Vec::new(), Vec::new(), None);
    for track in reader.tracks() {
        let Some(CodecParameters::Audio(params)) = &track.codec_params else { continue };
        if CODECS.get_audio_decoder(params.codec).is_none() {
            refused = refused.or(Some(names::codec(params.codec)));
            continue;
        }
        let found = AudioTrack::new(track.id, params.clone(), track.time_base);
        let described = described.iter().find(|described| described.number == u64::from(track.id));
        if described.is_some_and(|described| described.is_default) { &mut tracks } else { &mut rest }
            .push(found);
    }
    tracks.append(&mut rest);
    match refused {
        _ if !tracks.is_empty() => Ok(tracks),
        Some(codec) => Err(AudioError::unsupported(codec)),
        None => Err(AudioError::NoAudioTrack),
    }
}

impl AudioTrack {
    fn new(id: u32, mut params: AudioCodecParameters, time_base: Option<TimeBase>) -> Self {
        let (mut edit, mut gain) = (Edit::default(), 1.0);
        match (params.codec, &mut params.extra_data) {
            // The adapter cuts the pre-skip (RFC 7845, 5.1) from the first packet alone, however long it is.
            (CODEC_ID_OPUS, Some(head)) => {
                if let Some(pre_skip) = head.get_mut(10..12) {
                    edit.lead = f64::from(u16::from_le_bytes([pre_skip[0], pre_skip[1]])) / 48_000.0;
                    pre_skip.fill(0);
                }
                // The adapter leaves out the gain as well, which is in steps of 1/256 dB.
                if let Some(steps) = head.get(16..18) {
                    let steps = f32::from(i16::from_le_bytes([steps[0], steps[1]]));
                    gain = 10_f32.powf(steps / (20.0 * 256.0));
                }
            }
            (CODEC_ID_AAC, Some(config)) => {
                if let Some(core) = aac::core_of_he_aac(config) {
                    *config = Box::new(core);
                }
            }
            _ => {}
        }
        Self { id, time_base, edit, gain, params }
    }

    /// A track of an MP4 file, when it has a codec.
    fn of_mp4(track: &Mp4Track) -> Option<Self> {
        let units = NonZero::new(track.timescale).map(TimeBase::from_recip);
        let mut found = Self::new(track.id, track.codec.as_ref().ok()?.params.clone(), units);
        if let Some(edit) = track.edit {
            // Opus says how much priming it has in a place of its own, which writers of edits forget.
            found.edit = Edit { lead: found.edit.lead.max(edit.lead), ..edit };
        }
        Some(found)
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
        if self.params.codec == CODEC_ID_VORBIS {
            vorbis::check(self.params.extra_data.as_deref().unwrap_or_default())?;
        }
        shielded(|| CODECS.make_audio_decoder(&self.params, &options))?.map_err(refusal)
    }
}
