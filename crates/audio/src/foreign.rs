//! What an upload is when it is none of the formats that are accepted, by its first bytes: whoever sent it is told its
//! name, or that its beginning is missing.

use crate::error::AudioError;
use crate::mpeg;

/// Letters at a place, and the name of what has them there.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0, b"FORM", "an AIFF file"),
    (0, b"caff", "a Core Audio file (CAF)"),
    (0, b".snd", "a Sun/NeXT audio file (AU)"),
    (0, b"#!AMR-WB", "AMR-WB audio"),
    (0, b"#!AMR", "AMR audio"),
    (0, b"#!SILK", "SILK audio"),
    (0, b"\x02#!SILK", "SILK audio"),
    (8, b"AVI ", "an AVI film"),
    (8, b"RMID", "MIDI, which holds notes and no sound,"),
    (0, b"MThd", "MIDI, which holds notes and no sound,"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (ASF, WMA, WMV)"),
    (0, b"\x00\x00\x01\xba", "an MPEG program stream"),
    (0, b"\x00\x00\x01\xb3", "an MPEG video stream"),
    (0, b"FLV\x01", "Flash video (FLV)"),
    (0, b".RMF", "RealMedia"),
    (0, b".ra\xfd", "RealAudio"),
    (0, b"\x0b\x77", "AC-3 (Dolby Digital) audio"),
    (0, b"\x7f\xfe\x80\x01", "DTS audio"),
    (0, b"wvpk", "WavPack audio"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"MPCK", "Musepack audio"),
    (0, b"MP+", "Musepack audio"),
    (0, b"TTA1", "TTA audio"),
    (0, b"DSD ", "DSD audio"),
    (0, b"FRM8", "DSD audio"),
    (0, b"Creative Voice File", "a Creative Voice file"),
    (0, b"riff\x2e\x91\xcf\x11", "a Wave64 file"),
    (0, b"\x89PNG", "a picture"),
    (0, b"\xff\xd8\xff", "a picture"),
    (0, b"GIF8", "a picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive or office document"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (0, b"Rar!", "a RAR archive"),
];

/// Why a file that begins with `head`, of which [`crate::sniff`] knows nothing, is not accepted.
pub fn refuse(head: &[u8]) -> AudioError {
    let audio = mpeg::id3v2_len(head).and_then(|tag| head.get(usize::try_from(tag).ok()?..)).unwrap_or(head);
    if head.is_empty() {
        return AudioError::Empty;
    }
    if is_later_piece(audio) {
        return AudioError::no_beginning();
    }
    let known = SIGNATURES
        .iter()
        .find(|(at, letters, _)| audio.get(*at..).is_some_and(|rest| rest.starts_with(letters)));
    let name = known.map(|(.., name)| *name).or_else(|| repeated(audio)).unwrap_or("this content");
    AudioError::unsupported(name)
}

/// Whether it is a piece of a recording that was cut into pieces: only the first tells how to decode the rest.
fn is_later_piece(head: &[u8]) -> bool {
    // Matroska: a cluster, a block, a group of blocks or the time of a cluster.
    let cluster = head.starts_with(b"\x1f\x43\xb6\x75");
    let in_cluster = head.first() == Some(&0xe7) && matches!(head.get(1), Some(0x81..=0x88));
    let block = head.first() == Some(&0xa3) && matches!(head.get(1), Some(0x40..)) && matroska_block(head);
    // MP4: a fragment without the description before it.
    let fragment = [b"moof", b"styp", b"sidx", b"mdat", b"emsg", b"prft"]
        .iter()
        .any(|kind| head.get(4..8) == Some(&kind[..]));
    // FLAC: a frame.
    let frame = matches!(head, [0xff, 0xf8 | 0xf9, third, fourth, ..]
        if third >> 4 != 0 && third & 0xf != 0xf && fourth >> 4 <= 10 && fourth & 1 == 0);
    cluster || in_cluster || block || fragment || frame
}

/// A block of track 1 to 15 with flags that exist.
fn matroska_block(head: &[u8]) -> bool {
    let size = head[1].leading_zeros() as usize + 1;
    head.get(1 + size).is_some_and(|track| matches!(track, 0x81..=0x8f))
        && head.get(1 + size + 3).is_some_and(|flags| flags & 0x70 == 0)
}

/// Streams without a header, which have the same mark again and again.
fn repeated(head: &[u8]) -> Option<&'static str> {
    let every = |first: usize, step: usize| {
        let marks = head.iter().skip(first).step_by(step);
        head.len() > first + 2 * step && marks.take(8).all(|byte| *byte == 0x47)
    };
    if every(0, 188) || every(4, 192) {
        return Some("an MPEG transport stream");
    }
    // A frame of GSM 06.10 has 33 bytes and begins with the same four bits.
    if head.len() >= 330 && head.iter().step_by(33).take(10).all(|byte| byte >> 4 == 0xd) {
        return Some("raw GSM 06.10 audio");
    }
    let layer = mpeg::layer(head)?;
    (layer != 3).then_some(if layer == 2 { "MPEG audio layer II (mp2)" } else { "MPEG audio layer I" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_accepted_is_called_by_its_name() {
        let mut transport = vec![0; 188 * 10];
        transport.iter_mut().step_by(188).for_each(|byte| *byte = 0x47);
        for (head, name) in [
            (&b"FORM\0\0\0\x10AIFFCOMM"[..], "AIFF"),
            (b"RIFF\x24\0\0\0AVI LIST", "AVI"),
            (b"ID3\x04\x00\x00\x00\x00\x00\x05tags!caff\0\x01", "CAF"),
            (b"PK\x03\x04", "ZIP"),
            (&transport, "transport stream"),
            (b"hello, this is text", "this content"),
        ] {
            let message = refuse(head).to_string();
            assert!(message.contains(name) && message.contains("flac"), "{name}: {message}");
        }
    }

    #[test]
    fn a_later_piece_of_a_recording_is_told_from_other_content() {
        let pieces: [&[u8]; 5] = [
            b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff\xe7\x81\x00",
            b"\xe7\x82\x13\x88\xa3\x41\x00",
            b"\xa3\x41\x26\x81\x00\x14\x80\xfc",
            b"\x00\x00\x00\x68moof\x00\x00\x00\x10mfhd",
            b"\xff\xf8\xc9\x18\x05\x10",
        ];
        for piece in pieces {
            assert!(matches!(refuse(piece), AudioError::NoBeginning), "{piece:x?}");
        }
    }
}
