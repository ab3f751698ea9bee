//! Headers of the two MPEG audio streams that come without a container: layer III frames (mp3, ISO/IEC 11172-3 2.4.1.3)
//! and AAC in ADTS frames (ISO/IEC 13818-7 6.2).

/// Length of an ID3v2 tag at the start of `bytes`, header and footer included (id3.org, ID3v2.4 3.1).
pub fn id3v2_len(bytes: &[u8]) -> Option<u64> {
    let header = bytes.first_chunk::<10>()?;
    if !header.starts_with(b"ID3") || header[3] == 0xff || header[6..].iter().any(|byte| byte & 0x80 != 0) {
        return None;
    }
    let body = header[6..].iter().fold(0, |size, byte| size << 7 | u64::from(*byte));
    let footer = if header[5] & 0x10 != 0 { 10 } else { 0 };
    Some(10 + body + footer)
}

/// The header of a layer III frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mp3Frame {
    /// Sampling rate in Hz.
    pub(crate) rate: u32,
    /// Bits per second.
    pub(crate) bitrate: u32,
    /// Length in bytes, header included.
    pub(crate) len: usize,
    /// Samples per channel: 1152 for MPEG-1, 576 for MPEG-2 and 2.5.
    pub(crate) samples: u32,
    mono: bool,
    mpeg1: bool,
}

impl Mp3Frame {
    /// Parses the header at the start of `bytes`. Free-format streams are not recognised.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        const MPEG1_KBITS: [u32; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
        const MPEG2_KBITS: [u32; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
        const RATES: [u32; 3] = [44_100, 48_000, 32_000];

        let word = u32::from_be_bytes(*bytes.first_chunk::<4>()?);
        let field = |shift: u32, bits: u32| (word >> shift) as usize & ((1 << bits) - 1);
        let (sync, version, layer) = (field(21, 11), field(19, 2), field(17, 2));
        if sync != 0x7ff || version == 1 || layer != 1 {
            return None;
        }
        let mpeg1 = version == 3;
        let kbits = *if mpeg1 { MPEG1_KBITS } else { MPEG2_KBITS }.get(field(12, 4))?;
        let divisor = [4, 1, 2, 1][version];
        let rate = RATES.get(field(10, 2))? / divisor;
        // Emphasis 2 is reserved: one more bit pattern that random data has and frames have not.
        if kbits == 0 || field(0, 2) == 2 {
            return None;
        }
        let samples = if mpeg1 { 1152 } else { 576 };
        let len = (samples / 8 * kbits * 1000 / rate) as usize + field(9, 1);
        Some(Self { rate, bitrate: kbits * 1000, len, samples, mono: field(6, 2) == 3, mpeg1 })
    }

    /// How many frames the stream has by its Xing, Info or VBRI header, where `frame` (this frame's bytes) holds one.
    pub(crate) fn stated_frames(self, frame: &[u8]) -> Option<u32> {
        let side_info = match (self.mpeg1, self.mono) {
            (true, false) => 32,
            (true, true) | (false, false) => 17,
            (false, true) => 9,
        };
        let word = |at: usize| Some(u32::from_be_bytes(*frame.get(at..)?.first_chunk::<4>()?));
        let xing = 4 + side_info;
        match frame.get(xing..xing + 4)? {
            b"Xing" | b"Info" if word(xing + 4)? & 1 != 0 => word(xing + 8),
            _ if frame.get(36..40)? == b"VBRI" => word(36 + 14),
            _ => None,
        }
    }

    fn follows(self, other: Self) -> bool {
        self.rate == other.rate && self.mpeg1 == other.mpeg1
    }
}

/// Where the first frame of an mp3 stream begins in `bytes`. A frame counts when the next one is where it says (twice
/// when the stream starts with something else), or when `bytes` end before that and it is the first thing there.
pub(crate) fn find_mp3(bytes: &[u8]) -> Option<(usize, Mp3Frame)> {
    let mut candidates = (0..bytes.len()).filter_map(|at| Some((at, Mp3Frame::parse(&bytes[at..])?)));
    candidates.find(|(at, first)| {
        let mut next = at + first.len;
        for _ in 0..2 {
            match bytes.get(next..).filter(|rest| rest.len() >= 4) {
                None => return *at == 0,
                Some(rest) => match Mp3Frame::parse(rest) {
                    Some(frame) if frame.follows(*first) => next += frame.len,
                    _ => return false,
                },
            }
        }
        true
    })
}

/// The layer of the MPEG audio frame that `bytes` begin with, 1 to 3. A frame of layer II is only believed when another
/// follows it.
pub(crate) fn layer(bytes: &[u8]) -> Option<u8> {
    const KBITS: [u32; 15] = [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384];
    const LOW_KBITS: [u32; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    const RATES: [u32; 3] = [44_100, 48_000, 32_000];
    let word = u32::from_be_bytes(*bytes.first_chunk::<4>()?);
    let field = |shift: u32, bits: u32| (word >> shift) as usize & ((1 << bits) - 1);
    let (sync, version, layer) = (field(21, 11), field(19, 2), field(17, 2));
    if sync != 0x7ff || version == 1 || layer == 0 {
        return None;
    }
    if layer == 2 {
        let kbits =
            *if version == 3 { KBITS } else { LOW_KBITS }.get(field(12, 4)).filter(|kbits| **kbits > 0)?;
        let rate = RATES.get(field(10, 2))? / [4, 1, 2, 1][version];
        let next = (144_000 * kbits / rate) as usize + field(9, 1);
        let followed = bytes.get(next..).is_none_or(|rest| rest.len() < 2 || rest[..2] == bytes[..2]);
        if !followed {
            return None;
        }
    }
    Some(4 - layer as u8)
}

/// Whether `bytes` begin with ADTS frames: the second is checked where `bytes` reach that far.
pub(crate) fn is_adts(bytes: &[u8]) -> bool {
    match adts_frame_len(bytes) {
        None => false,
        Some(len) => match bytes.get(len..).filter(|rest| rest.len() >= 7) {
            None => true,
            Some(rest) => adts_frame_len(rest).is_some(),
        },
    }
}

fn adts_frame_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<7>()?;
    let sync = header[0] == 0xff && header[1] & 0xf6 == 0xf0;
    let rate_index = header[2] >> 2 & 0xf;
    let len = usize::from(header[3] & 3) << 11 | usize::from(header[4]) << 3 | usize::from(header[5] >> 5);
    (sync && rate_index < 13 && len >= 7).then_some(len)
}
