//! WAV as it is found in the wild: RIFF, RF64 and BW64, headers that were never finished or lie about their length,
//! and a last frame that is cut. Our own reader, because the one of symphonia refuses most of these.
//!
//! Layout: Microsoft "Multiple channel audio data and WAVE files"; RF64: EBU Tech 3306.

use std::io::{self, Read, Seek, SeekFrom};

use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_ADPCM_IMA_WAV, CODEC_ID_ADPCM_MS, CODEC_ID_PCM_ALAW, CODEC_ID_PCM_F32LE, CODEC_ID_PCM_F64LE,
    CODEC_ID_PCM_MULAW, CODEC_ID_PCM_S16LE, CODEC_ID_PCM_S24LE, CODEC_ID_PCM_S32LE, CODEC_ID_PCM_U8,
};
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters};
use symphonia::core::errors::{Error, Result as SymphoniaResult};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use crate::container::StreamEnd;
use crate::error::AudioError;

/// Chunks before the data that are looked at; a header with more is a trap.
const MOST_CHUNKS: usize = 1_000;
/// Stated lengths from here on, in bytes, are placeholders where the file is shorter: 2,000,000,000, 0x7fffffff and others.
const SMALLEST_PLACEHOLDER: u64 = 1_900_000_000;
/// Frames in a packet of uncompressed audio, about.
const FRAMES_PER_PACKET: u64 = 4096;

/// What the chunks before the samples say.
#[derive(Debug, Clone)]
pub(crate) struct WavHeader {
    codec: AudioCodecId,
    channels: u16,
    rate: u32,
    /// Bytes of the smallest piece that can be decoded: a frame of uncompressed audio, a block of ADPCM.
    block_bytes: u64,
    frames_per_block: u64,
    data_len: u64,
    /// Where the samples begin in the file.
    data_at: u64,
    /// Whether the header promises more than the file holds.
    cut: bool,
    /// Frames of sound in compressed samples, whose last block is padded.
    stated_frames: Option<u32>,
}

impl WavHeader {
    /// Reads the header at the start of `source`, which is or will be `total` bytes long.
    pub(crate) fn read(source: &mut (impl Read + Seek), total: u64) -> Result<Self, AudioError> {
        Self::read_at(source, 0, total)
    }

    /// Reads the header of a file that begins at `base`, where `source` stands.
    fn read_at(source: &mut (impl Read + Seek), base: u64, total: u64) -> Result<Self, AudioError> {
        let [id, size, _form] = words(source)?;
        // Where the file ends; nowhere that makes sense when the header was never finished.
        let riff_end = base + 8 + u64::from(u32::from_le_bytes(size));
        let long = id != *b"RIFF";
        let mut long_data_len = None;
        let mut format = None;
        let mut stated_frames = None;
        let mut at = base + 12;
        for _ in 0..MOST_CHUNKS {
            let [id, size] = words(source)?;
            at += 8;
            let size = u64::from(u32::from_le_bytes(size));
            match &id {
                b"data" => {
                    let Format { codec, channels, rate, block_bytes, frames_per_block } =
                        format.ok_or_else(|| {
                            AudioError::malformed("the wav file has samples before their format")
                        })?;
                    let there = total.saturating_sub(at);
                    let data_len = match size {
                        0 if (at..=total).contains(&riff_end) => 0,
                        0 | 0xffff_ffff => long_data_len.unwrap_or(there),
                        size => size,
                    };
                    // Writers that never learnt the length leave a number behind that no file has.
                    let cut = data_len > there && data_len < SMALLEST_PLACEHOLDER;
                    let data_len = data_len.min(there);
                    return Ok(Self {
                        codec,
                        channels,
                        rate,
                        block_bytes,
                        frames_per_block,
                        data_len,
                        data_at: at,
                        cut,
                        stated_frames: stated_frames.filter(|frames| frames_per_block > 1 && *frames > 0),
                    });
                }
                b"fmt " => format = Some(Format::parse(&chunk(source, size)?)?),
                b"fact" => {
                    stated_frames = chunk(source, size)?.first_chunk().map(|word| u32::from_le_bytes(*word))
                }
                b"ds64" if long => {
                    let sizes = chunk(source, size)?;
                    long_data_len =
                        sizes.get(8..16).and_then(|len| len.try_into().ok()).map(u64::from_le_bytes);
                }
                _ => {}
            }
            at = next_chunk(source, at, size)?;
        }
        Err(AudioError::malformed("the wav file has no samples among its first thousand chunks"))
    }

    /// Length of the samples in milliseconds.
    pub(crate) fn duration_ms(&self) -> u64 {
        let frames = self.data_len / self.block_bytes * self.frames_per_block;
        frames.saturating_mul(1000) / u64::from(self.rate)
    }

    /// Length of the sound in seconds, where it ends within the last block.
    pub(crate) fn stated_secs(&self) -> Option<f64> {
        self.stated_frames.map(|frames| f64::from(frames) / f64::from(self.rate))
    }

    /// The format for a decoder.
    pub(crate) fn codec_params(&self) -> AudioCodecParameters {
        let mut params = AudioCodecParameters::new();
        params
            .for_codec(self.codec)
            .with_sample_rate(self.rate)
            .with_channels(Channels::Discrete(self.channels))
            .with_max_frames_per_packet(self.blocks_per_packet() * self.frames_per_block)
            .with_frames_per_block(self.frames_per_block);
        params
    }

    fn blocks_per_packet(&self) -> u64 {
        (FRAMES_PER_PACKET / self.frames_per_block).max(1)
    }
}

struct Format {
    codec: AudioCodecId,
    channels: u16,
    rate: u32,
    block_bytes: u64,
    frames_per_block: u64,
}

impl Format {
    fn parse(chunk: &[u8]) -> Result<Self, AudioError> {
        const EXTENSIBLE: u16 = 0xfffe;
        let word = |at: usize| chunk.get(at..at + 2).map(|word| u16::from_le_bytes([word[0], word[1]]));
        let (Some(tag), Some(channels), Some(low), Some(high), Some(block_align)) =
            (word(0), word(2), word(4), word(6), word(12))
        else {
            return Err(AudioError::malformed("the wav file's format is cut off"));
        };
        let rate = u32::from(high) << 16 | u32::from(low);
        let bits = word(14).unwrap_or(8);
        // The extensible format has the real one at the front of its GUID.
        let tag = if tag == EXTENSIBLE { word(24).unwrap_or(tag) } else { tag };
        if channels == 0 {
            return Err(AudioError::malformed("the wav file has zero channels"));
        }
        if rate == 0 {
            return Err(AudioError::malformed("the wav file has a sampling rate of 0 Hz"));
        }
        // Samples of an odd width, such as 12 or 20 bits, lie in the high bits of whole bytes; `block_align` tells of
        // how many, and is not always filled in.
        let stated = usize::from(block_align / channels);
        let bytes = usize::from(bits).div_ceil(8);
        let bytes = if block_align % channels == 0 && stated > bytes && stated <= 4 { stated } else { bytes };
        let codec = match (tag, bytes) {
            (1, 1) => CODEC_ID_PCM_U8,
            (1, 2) => CODEC_ID_PCM_S16LE,
            (1, 3) => CODEC_ID_PCM_S24LE,
            (1, 4) => CODEC_ID_PCM_S32LE,
            (3, 4) => CODEC_ID_PCM_F32LE,
            (3, 8) => CODEC_ID_PCM_F64LE,
            (6, 1) => CODEC_ID_PCM_ALAW,
            (7, 1) => CODEC_ID_PCM_MULAW,
            (0x02, _) => return Self::adpcm(CODEC_ID_ADPCM_MS, 7, 2, channels, rate, block_align),
            (0x11, _) => return Self::adpcm(CODEC_ID_ADPCM_IMA_WAV, 4, 1, channels, rate, block_align),
            _ => {
                let name = codec_name(tag).map(|name| format!(" ({name})")).unwrap_or_default();
                let what = format!("wav with codec {tag:#06x}{name} and {bits} bits a sample");
                return Err(AudioError::unsupported(what));
            }
        };
        Ok(Self {
            codec,
            channels,
            rate,
            block_bytes: (bytes * usize::from(channels)) as u64,
            frames_per_block: 1,
        })
    }

    /// Blocks begin with `header` bytes a channel that hold `first` samples; the rest is 4 bits a sample.
    fn adpcm(
        codec: AudioCodecId,
        header: u64,
        first: u64,
        channels: u16,
        rate: u32,
        block_align: u16,
    ) -> Result<Self, AudioError> {
        let (block_bytes, header) = (u64::from(block_align), header * u64::from(channels));
        if channels > 2 {
            return Err(AudioError::unsupported("ADPCM of more than two channels"));
        }
        if block_bytes <= header {
            return Err(AudioError::malformed("the wav file's ADPCM blocks are too small"));
        }
        let frames_per_block = (block_bytes - header) * 2 / u64::from(channels) + first;
        Ok(Self { codec, channels, rate, block_bytes, frames_per_block })
    }
}

/// The names of codecs that are met in wav files and not decoded (RFC 2361).
fn codec_name(tag: u16) -> Option<&'static str> {
    Some(match tag {
        0x0022 => "TrueSpeech",
        0x0031 => "GSM 6.10",
        0x0038 | 0x0039 => "AMR",
        0x0040 | 0x0045 | 0x0064 | 0x0140 => "G.726 ADPCM",
        0x0042 => "G.723.1",
        0x0050 => "MPEG audio layer II",
        0x0055 => "mp3",
        0x0057 => "AMR-NB",
        0x0058 => "AMR-WB",
        0x0065 | 0x028f => "G.722",
        0x0083 => "G.729",
        0x00ff | 0x1600 | 0x1602 | 0x1610 => "AAC",
        0x0160..=0x0163 => "WMA",
        0x2000 => "AC-3",
        0x2001 => "DTS",
        0x704f => "Opus",
        0x674f..=0x6771 => "Vorbis",
        0xa109 => "Speex",
        0xf1ac => "FLAC",
        _ => return None,
    })
}

/// Packets of a WAV file, and of those that were joined to its end.
pub(crate) struct WavReader<'s> {
    stream: MediaSourceStream<'s>,
    total: u64,
    header: WavHeader,
    /// Frames read so far.
    frames: u64,
    bytes_left: u64,
    end: StreamEnd,
}

impl<'s> WavReader<'s> {
    /// Reads the header; `total` is the length of the file in bytes.
    pub(crate) fn new(mut stream: MediaSourceStream<'s>, total: u64) -> Result<Self, AudioError> {
        let header = WavHeader::read(&mut stream, total)?;
        let bytes_left = header.data_len;
        Ok(Self { stream, total, header, frames: 0, bytes_left, end: StreamEnd::default() })
    }

    /// What the header says.
    pub(crate) fn header(&self) -> &WavHeader {
        &self.header
    }

    /// How the file ended, by its header.
    pub(crate) fn end(&self) -> StreamEnd {
        self.end
    }

    /// The next whole frames; a frame that is cut off at the end is dropped.
    ///
    /// # Errors
    /// `ResetRequired` where another file begins behind this one.
    pub(crate) fn next_packet(&mut self) -> SymphoniaResult<Option<Packet>> {
        let WavHeader { block_bytes, frames_per_block, .. } = self.header;
        let wanted = (self.header.blocks_per_packet() * block_bytes).min(self.bytes_left);
        let mut data = Vec::new();
        (&mut self.stream).take(wanted).read_to_end(&mut data)?;
        self.bytes_left -= data.len() as u64;
        let blocks = data.len() as u64 / block_bytes;
        if blocks == 0 {
            return self.next_file().map(|()| None);
        }
        data.truncate(usize::try_from(blocks * block_bytes).unwrap_or(usize::MAX));
        let start = Timestamp::new(i64::try_from(self.frames).unwrap_or(i64::MAX));
        let frames = blocks * frames_per_block;
        self.frames += frames;
        Ok(Some(Packet::new(0, start, Duration::new(frames), data)))
    }

    /// Looks at what follows the samples: chunks that are passed over, another file, or bytes that are neither.
    fn next_file(&mut self) -> SymphoniaResult<()> {
        self.end.early |= self.header.cut;
        let mut at = self.header.data_at + self.header.data_len;
        for padding in [at & 1, 0] {
            self.stream.seek(SeekFrom::Start(at + padding))?;
            let mut start = [0; 12];
            if self.stream.read_exact(&mut start).is_ok() && is_riff(&start) {
                self.stream.seek(SeekFrom::Start(at + padding))?;
                if let Ok(header) = WavHeader::read_at(&mut self.stream, at + padding, self.total) {
                    (self.bytes_left, self.frames, self.header) = (header.data_len, 0, header);
                    return Err(Error::ResetRequired);
                }
            }
        }
        at += at & 1;
        for _ in 0..MOST_CHUNKS {
            self.stream.seek(SeekFrom::Start(at))?;
            let Ok([id, size]) = words(&mut self.stream) else { return Ok(()) };
            let next = at + 8 + u64::from(u32::from_le_bytes(size));
            if !id.iter().all(|letter| letter.is_ascii_graphic() || *letter == b' ') || next > self.total {
                break;
            }
            at = next + (next & 1);
        }
        self.stream.seek(SeekFrom::Start(at))?;
        let mut rest = Vec::new();
        (&mut self.stream).take(REST_LOOKED_AT).read_to_end(&mut rest)?;
        if rest.iter().any(|byte| *byte != 0) && rest.len() as u64 >= SHORTEST_REST {
            self.end.unheard_bytes = self.total.saturating_sub(at);
        }
        Ok(())
    }
}

/// Bytes behind the samples that are searched for more than zeros.
const REST_LOOKED_AT: u64 = 64 * 1024;
/// Fewer bytes behind the end are somebody's mark and not sound.
const SHORTEST_REST: u64 = 1024;

fn is_riff(start: &[u8; 12]) -> bool {
    [b"RIFF", b"RF64", b"BW64"].iter().any(|id| start.starts_with(*id)) && start.ends_with(b"WAVE")
}

/// Goes behind the chunk of `size` bytes that begins at `at`. A chunk of an odd size has a byte of padding behind it, which
/// some recorders forget: where a chunk that is known begins one byte too early, and none does where it should, it is that.
fn next_chunk(source: &mut (impl Read + Seek), at: u64, size: u64) -> Result<u64, AudioError> {
    const KNOWN: [&[u8; 4]; 10] =
        [b"data", b"fmt ", b"LIST", b"fact", b"bext", b"JUNK", b"PEAK", b"iXML", b"cue ", b"smpl"];
    let end = at.saturating_add(size);
    let mut known_at = |at: u64| -> Result<bool, AudioError> {
        seek(source, at)?;
        Ok(words(source).is_ok_and(|[id]: [[u8; 4]; 1]| KNOWN.contains(&&id)))
    };
    let padded = end + (size & 1);
    let unpadded = size & 1 == 1 && !known_at(padded)? && known_at(end)?;
    let next = if unpadded { end } else { padded };
    seek(source, next)?;
    Ok(next)
}

fn seek(source: &mut impl Seek, at: u64) -> Result<(), AudioError> {
    source.seek(SeekFrom::Start(at)).map(|_| ()).map_err(cut)
}

fn words<const N: usize>(source: &mut impl Read) -> Result<[[u8; 4]; N], AudioError> {
    let mut words = [[0; 4]; N];
    words.iter_mut().try_for_each(|word| source.read_exact(word)).map_err(cut)?;
    Ok(words)
}

/// The whole of a small chunk.
fn chunk(source: &mut impl Read, size: u64) -> Result<Vec<u8>, AudioError> {
    let mut bytes = Vec::new();
    source.take(size.min(64)).read_to_end(&mut bytes).map_err(cut)?;
    Ok(bytes)
}

fn cut(error: io::Error) -> AudioError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
            AudioError::malformed("the wav file ends before its samples begin")
        }
        _ => AudioError::io("reading the audio failed", error),
    }
}
