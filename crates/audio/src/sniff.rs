//! What an upload is, by its first bytes and never by its name.

use verbatim_core::audio::AudioFormat;

use crate::mpeg;

/// How many of the first bytes [`sniff`] and [`crate::probe_duration`] make good use of.
pub const HEAD_BYTES: usize = 16 * 1024;

/// The container format of a file that begins with `head` ([`HEAD_BYTES`] of it, or the whole file when it is shorter),
/// or `None` when it is none of those accepted.
///
/// A frame of mp3 or ADTS is only believed when another follows it. An ID3 tag that is longer than `head` hides what
/// follows it; that is taken for mp3, which decoding checks.
pub fn sniff(head: &[u8]) -> Option<AudioFormat> {
    if let Some(tag) = mpeg::id3v2_len(head) {
        return match usize::try_from(tag).ok().and_then(|tag| head.get(tag..)) {
            None | Some([]) => Some(AudioFormat::Mp3),
            // Some taggers leave padding between the tag and the audio.
            Some(rest) => sniff(rest).or_else(|| rest.starts_with(&[0]).then_some(AudioFormat::Mp3)),
        };
    }
    match head {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..]
        | [b'R', b'F', b'6', b'4', _, _, _, _, b'W', b'A', b'V', b'E', ..]
        | [b'B', b'W', b'6', b'4', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some(AudioFormat::Wav),
        [b'f', b'L', b'a', b'C', ..] => Some(AudioFormat::Flac),
        [b'O', b'g', b'g', b'S', ..] => Some(AudioFormat::Ogg),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => Some(AudioFormat::Webm),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => (!is_picture(brand)).then_some(AudioFormat::M4a),
        _ if mpeg::is_adts(head) => Some(AudioFormat::Aac),
        _ => mpeg::find_mp3(head).map(|_| AudioFormat::Mp3),
    }
}

/// Phones wrap photographs in the same container as sound.
fn is_picture(brand: &[u8]) -> bool {
    [b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis"].iter().any(|picture| brand.starts_with(*picture))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_content_is_not_audio() {
        let jpeg = [0xff, 0xd8, 0xff, 0xe0, 0, 16, b'J', b'F', b'I', b'F', 0, 1];
        let others: [&[u8]; 9] = [
            b"",
            b"R",
            b"This is a text that somebody has named speech.wav.\n",
            b"PK\x03\x04\x14\x00\x00\x00\x08\x00",
            &jpeg,
            b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR",
            b"%PDF-1.7\n",
            b"RIFF\x24\x00\x00\x00AVI LIST",
            b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00",
        ];
        for content in others {
            assert_eq!(sniff(content), None, "{content:?}");
        }
    }

    #[test]
    fn a_sync_word_without_a_second_frame_is_not_mp3() {
        let mut noise = vec![0x55_u8; 4096];
        noise[..4].copy_from_slice(&[0xff, 0xfb, 0x90, 0x00]);
        assert_eq!(sniff(&noise), None);
        noise[417..421].copy_from_slice(&[0xff, 0xfb, 0x90, 0x00]);
        noise[834..838].copy_from_slice(&[0xff, 0xfb, 0x90, 0x00]);
        assert_eq!(sniff(&noise), Some(AudioFormat::Mp3));
    }

    #[test]
    fn a_tag_does_not_hide_what_follows_it() {
        let mut tagged = b"ID3\x04\x00\x00\x00\x00\x00\x05tags!".to_vec();
        assert_eq!(sniff(&tagged), Some(AudioFormat::Mp3));
        tagged.extend_from_slice(b"fLaC\x00\x00\x00\x22");
        assert_eq!(sniff(&tagged), Some(AudioFormat::Flac));
    }
}
