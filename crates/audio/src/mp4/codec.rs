//! The first entry of a track's sample descriptions (ISO/IEC 14496-12, 8.5.2; QuickTime File Format, "Sound Sample
//! Description"): which codec, and what its decoder has to know.

use std::ops::Range;

use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_AAC, CODEC_ID_ADPCM_IMA_QT, CODEC_ID_ALAC, CODEC_ID_FLAC, CODEC_ID_MP3, CODEC_ID_OPUS,
    CODEC_ID_PCM_ALAW, CODEC_ID_PCM_F32BE, CODEC_ID_PCM_F32LE, CODEC_ID_PCM_F64BE, CODEC_ID_PCM_F64LE,
    CODEC_ID_PCM_MULAW, CODEC_ID_PCM_S8, CODEC_ID_PCM_S16BE, CODEC_ID_PCM_S16LE, CODEC_ID_PCM_S24BE,
    CODEC_ID_PCM_S24LE, CODEC_ID_PCM_S32BE, CODEC_ID_PCM_S32LE, CODEC_ID_PCM_U8,
};
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters};

use super::boxes::{Boxes, Source};
use super::{Blocks, Mp4Codec};

/// Bytes of a codec's own description; the longest are Vorbis' tables.
const LONGEST_CONFIG: usize = 64 * 1024;
/// Frames of a packet of blocks.
const FRAMES_PER_PACKET: u64 = 4096;

/// What is said of the samples before the boxes of the codec.
struct Entry {
    kind: [u8; 4],
    channels: u16,
    bits: u32,
    rate: u32,
    /// Of linear samples in a description of the second version.
    linear: Option<u32>,
    /// The boxes of the codec.
    boxes: Range<u64>,
}

/// The codec of a track by its sample descriptions, or the name of one that there is no decoder for.
pub(super) fn read<S: Source>(file: &mut Boxes<'_, S>, entries: Range<u64>) -> Result<Mp4Codec, String> {
    let unreadable = || "an MP4 audio track whose description cannot be read".to_owned();
    let entry = Entry::read(file, entries).ok_or_else(unreadable)?;
    let mut params = AudioCodecParameters::new();
    params.with_sample_rate(entry.rate).with_channels(Channels::Discrete(entry.channels));
    match &entry.kind {
        b"mp4a" => return mpeg4(file, &entry, params),
        b".mp3" | b"ms\0\x55" => params.for_codec(CODEC_ID_MP3),
        b"Opus" => {
            let (channels, head) = opus_head(file, &entry).ok_or_else(unreadable)?;
            let params = params.for_codec(CODEC_ID_OPUS).with_sample_rate(48_000);
            params.with_channels(Channels::Discrete(channels)).with_extra_data(head)
        }
        b"alac" => {
            let cookie = entry.config(file, b"alac").ok_or_else(unreadable)?;
            let cookie = cookie.get(4..).ok_or_else(unreadable)?;
            params.for_codec(CODEC_ID_ALAC).with_extra_data(cookie.into())
        }
        b"fLaC" => {
            let blocks = entry.config(file, b"dfLa").ok_or_else(unreadable)?;
            // Version and flags, the header of the block, and the block.
            let info = blocks.get(8..8 + 34).ok_or_else(unreadable)?;
            params.for_codec(CODEC_ID_FLAC).with_extra_data(info.into())
        }
        b"ima4" => {
            let channels = u32::from(entry.channels);
            return Ok(in_blocks(CODEC_ID_ADPCM_IMA_QT, params, Blocks { bytes: 34 * channels, frames: 64 }));
        }
        kind => {
            let (codec, bytes) = linear(file, &entry).ok_or_else(|| name(*kind))?;
            let bytes = bytes * u32::from(entry.channels);
            return Ok(in_blocks(codec, params, Blocks { bytes, frames: 1 }));
        }
    };
    Ok(Mp4Codec { params, blocks: None })
}

fn in_blocks(codec: AudioCodecId, mut params: AudioCodecParameters, blocks: Blocks) -> Mp4Codec {
    let frames = u64::from(blocks.frames);
    params
        .for_codec(codec)
        .with_max_frames_per_packet(FRAMES_PER_PACKET.max(frames))
        .with_frames_per_block(frames);
    Mp4Codec { params, blocks: (blocks.bytes > 0).then_some(blocks) }
}

impl Entry {
    fn read<S: Source>(file: &mut Boxes<'_, S>, entries: Range<u64>) -> Option<Self> {
        let first = file.next(entries.start + 8, entries.end)?;
        // Six bytes are reserved and two name where the data is.
        let at = first.body.start + 8;
        let [version, _] = file.bytes::<2>(at).map(|version| [u16::from_be_bytes(version), 0])?;
        let word = |file: &mut Boxes<'_, S>, at| file.bytes(at).map(u16::from_be_bytes);
        let (mut channels, mut bits) = (word(file, at + 8)?, u32::from(word(file, at + 10)?));
        let mut rate = file.u32(at + 16)? >> 16;
        let mut linear = None;
        let mut boxes = at + 20;
        match version {
            1 => boxes += 16,
            2 => {
                rate = f64::from_be_bytes(file.bytes(at + 24)?).clamp(0.0, f64::from(u32::MAX)) as u32;
                channels = u16::try_from(file.u32(at + 32)?).unwrap_or(u16::MAX);
                bits = file.u32(at + 40)?;
                linear = Some(file.u32(at + 44)?);
                boxes += 36;
            }
            _ => {}
        }
        Some(Self { kind: first.kind, channels, bits, rate, linear, boxes: boxes..first.body.end })
    }

    /// Where a box of the codec is, which QuickTime puts into one of its own.
    fn find<S: Source>(&self, file: &mut Boxes<'_, S>, kind: &[u8; 4]) -> Option<Range<u64>> {
        file.find(self.boxes.clone(), kind).or_else(|| file.descend(self.boxes.clone(), &[b"wave", kind]))
    }

    fn config<S: Source>(&self, file: &mut Boxes<'_, S>, kind: &[u8; 4]) -> Option<Vec<u8>> {
        let body = self.find(file, kind)?;
        file.slice(&body, LONGEST_CONFIG)
    }
}

/// The header that decoders of Opus want (RFC 7845, 5.1), which has its numbers the other way round than the box
/// ("Encapsulation of Opus in ISO Base Media File Format", 4.3.2), and the number of channels.
fn opus_head<S: Source>(file: &mut Boxes<'_, S>, entry: &Entry) -> Option<(u16, Box<[u8]>)> {
    let stated = entry.config(file, b"dOps")?;
    let (_version, rest) = stated.split_first()?;
    let [channels, skip_high, skip_low, r3, r2, r1, r0, gain_high, gain_low] = *rest.first_chunk()?;
    let mut head = b"OpusHead\x01".to_vec();
    head.extend([channels, skip_low, skip_high, r0, r1, r2, r3, gain_low, gain_high]);
    head.extend(&rest[9..]);
    Some((u16::from(channels), head.into()))
}

/// The kinds of codec that hide behind `mp4a` (ISO/IEC 14496-1, 7.2.6.6).
fn mpeg4<S: Source>(
    file: &mut Boxes<'_, S>,
    entry: &Entry,
    mut params: AudioCodecParameters,
) -> Result<Mp4Codec, String> {
    let config = entry.config(file, b"esds");
    let stated = config.as_deref().and_then(|esds| Descriptor::decoder(esds.get(4..)?));
    let Some((object, config)) = stated else {
        return Err("an MP4 audio track (mp4a) that does not name its codec".to_owned());
    };
    match object {
        0x40 | 0x66..=0x68 => params.for_codec(CODEC_ID_AAC).with_extra_data(config.into()),
        0x69 | 0x6b => params.for_codec(CODEC_ID_MP3),
        0xa5 => return Err("AC-3 audio in MP4".to_owned()),
        0xa6 => return Err("E-AC-3 audio in MP4".to_owned()),
        0xa9..=0xac => return Err("DTS audio in MP4".to_owned()),
        0xdd => return Err("Vorbis audio in MP4".to_owned()),
        0xe1 => return Err("QCELP audio in MP4".to_owned()),
        other => return Err(format!("the codec of its audio track (MPEG-4 object type {other:#04x})")),
    };
    // The configuration tells of channels and rate; QuickTime's entries often do not.
    (params.channels, params.sample_rate) = (None, None);
    if object >= 0x69 {
        params.with_channels(Channels::Discrete(entry.channels)).with_sample_rate(entry.rate);
    }
    Ok(Mp4Codec { params, blocks: None })
}

/// One of the nested descriptors in an `esds` box.
struct Descriptor<'b> {
    tag: u8,
    body: &'b [u8],
    rest: &'b [u8],
}

impl<'b> Descriptor<'b> {
    fn read(bytes: &'b [u8]) -> Option<Self> {
        let (tag, mut bytes) = bytes.split_first()?;
        let mut len = 0;
        for _ in 0..4 {
            let (byte, rest) = bytes.split_first()?;
            bytes = rest;
            len = len << 7 | usize::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (body, rest) = bytes.split_at(len.min(bytes.len()));
        Some(Self { tag: *tag, body, rest })
    }

    /// Object type and configuration of the decoder.
    fn decoder(bytes: &'b [u8]) -> Option<(u8, &'b [u8])> {
        const ES: u8 = 3;
        const DECODER: u8 = 4;
        const SPECIFIC: u8 = 5;
        let found = Self::read(bytes).filter(|found| found.tag == ES)?;
        let flags = *found.body.get(2)?;
        let mut skip = 3 + usize::from(flags >> 7) * 2 + usize::from(flags >> 5 & 1) * 2;
        if flags & 0x40 != 0 {
            skip += 1 + usize::from(*found.body.get(skip)?);
        }
        let mut rest = found.body.get(skip..)?;
        while let Some(found) = Self::read(rest) {
            if found.tag == DECODER {
                let config = found.body.get(13..).and_then(Self::read);
                let config =
                    config.filter(|config| config.tag == SPECIFIC).map_or(&[][..], |config| config.body);
                return Some((*found.body.first()?, config));
            }
            rest = found.rest;
        }
        None
    }
}

/// Codec and bytes of a sample of uncompressed sound.
fn linear<S: Source>(file: &mut Boxes<'_, S>, entry: &Entry) -> Option<(AudioCodecId, u32)> {
    // QuickTime's box that says "the other way round", and the flags of ISO/IEC 23003-5.
    let reversed = entry.find(file, b"enda").and_then(|at| file.bytes(at.start)) == Some([0, 1]);
    let iso = entry.find(file, b"pcmC").and_then(|at| file.bytes::<6>(at.start));
    let (float, bits, little, signed) = match &entry.kind {
        b"sowt" => (false, entry.bits, true, true),
        b"twos" => (false, entry.bits, false, true),
        b"raw " => (false, 8, false, false),
        b"NONE" => (false, entry.bits, false, entry.bits > 8),
        b"in24" => (false, 24, reversed, true),
        b"in32" => (false, 32, reversed, true),
        b"fl32" => (true, 32, reversed, true),
        b"fl64" => (true, 64, reversed, true),
        b"lpcm" => {
            let flags = entry.linear.unwrap_or(0b1110);
            (flags & 1 != 0, entry.bits, flags & 2 == 0, flags & 4 != 0)
        }
        b"ipcm" => iso.map(|[.., flags, bits]| (false, u32::from(bits), flags & 1 != 0, true))?,
        b"fpcm" => iso.map(|[.., flags, bits]| (true, u32::from(bits), flags & 1 != 0, true))?,
        b"ulaw" => return Some((CODEC_ID_PCM_MULAW, 1)),
        b"alaw" => return Some((CODEC_ID_PCM_ALAW, 1)),
        _ => return None,
    };
    let codec = match (float, bits, little) {
        (false, 8, _) if signed => CODEC_ID_PCM_S8,
        (false, 8, _) => CODEC_ID_PCM_U8,
        (false, 16, true) => CODEC_ID_PCM_S16LE,
        (false, 16, false) => CODEC_ID_PCM_S16BE,
        (false, 24, true) => CODEC_ID_PCM_S24LE,
        (false, 24, false) => CODEC_ID_PCM_S24BE,
        (false, 32, true) => CODEC_ID_PCM_S32LE,
        (false, 32, false) => CODEC_ID_PCM_S32BE,
        (true, 32, true) => CODEC_ID_PCM_F32LE,
        (true, 32, false) => CODEC_ID_PCM_F32BE,
        (true, 64, true) => CODEC_ID_PCM_F64LE,
        (true, 64, false) => CODEC_ID_PCM_F64BE,
        _ => return None,
    };
    Some((codec, bits / 8))
}

/// The name of a codec that there is no decoder for.
fn name(kind: [u8; 4]) -> String {
    let name = match &kind {
        b"ac-3" => "AC-3",
        b"ec-3" => "E-AC-3",
        b"ac-4" => "AC-4",
        b"dtsc" | b"dtsh" | b"dtsl" | b"dtse" | b"dtsx" => "DTS",
        b"mlpa" => "TrueHD",
        b"samr" => "AMR-NB",
        b"sawb" | b"sawp" => "AMR-WB",
        b"agsm" | b"ms\0\x31" => "GSM",
        b"Qclp" | b"sqcp" => "QCELP",
        b"sevc" => "EVRC",
        b"QDMC" | b"QDM2" => "QDesign",
        b"MAC3" | b"MAC6" => "MACE",
        b"ms\0\x02" => "Microsoft ADPCM",
        b"ms\0\x11" => "IMA ADPCM (Microsoft)",
        b"mha1" | b"mhm1" | b"mha2" | b"mhm2" => "MPEG-H",
        b"enca" | b"drms" => "encrypted",
        b"spex" => "Speex",
        _ => {
            let letters: String =
                kind.iter().map(|byte| char::from(*byte)).filter(|c| !c.is_control()).collect();
            return format!("the codec of its audio track ({letters:?})");
        }
    };
    format!("{name} audio in MP4")
}
