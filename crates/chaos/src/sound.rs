//! Audio with an order in it: its first samples tell the harness's engine what to do with it, the rest is noise that
//! no other serial number has.

use crate::random::Random;

/// Samples of every sound.
const LENGTH: usize = 4_800;
/// How long every sound is.
pub const LENGTH_MS: u64 = 300;
/// What the sounds of this harness begin with.
const MAGIC: [u16; 2] = [0x5643, 0x4853];
/// Samples of the order: magic, mark, number, serial.
const ORDER: usize = 8;

/// What the engine does when it hears the sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Says what it heard after this many milliseconds.
    Plain {
        /// How long it takes.
        millis: u16,
    },
    /// Fails so many times in a way that may pass, wherever it is tried, then says what it heard.
    FailTimes {
        /// How many times.
        times: u16,
    },
    /// Fails for good.
    Refuse,
    /// Ends the process that hears it, after this many milliseconds.
    Abort {
        /// How long it takes.
        millis: u16,
    },
    /// Takes so many windows of work, with a checkpoint after each, then says what it heard.
    Long {
        /// How many.
        windows: u16,
    },
}

/// One sound. Equal sounds are equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sound {
    /// What the engine does.
    pub mark: Mark,
    /// Tells it from the others.
    pub serial: u64,
}

impl Sound {
    /// Its samples at 16 kHz.
    pub fn samples(self) -> Vec<i16> {
        let (mark, number) = match self.mark {
            Mark::Plain { millis } => (0, millis),
            Mark::FailTimes { times } => (1, times),
            Mark::Refuse => (2, 0),
            Mark::Abort { millis } => (3, millis),
            Mark::Long { windows } => (4, windows),
        };
        let mut samples: Vec<i16> = [MAGIC[0], MAGIC[1], mark, number].map(u16::cast_signed).to_vec();
        samples.extend((0..4).map(|part| ((self.serial >> (16 * part)) as u16).cast_signed()));
        let mut noise = Random::new(self.serial);
        // A quarter of full scale.
        samples.extend((ORDER..LENGTH).map(|_| (noise.number() as u16).cast_signed() / 4));
        samples
    }

    /// Its bytes as a WAV file.
    pub fn wav(self) -> Vec<u8> {
        let samples = self.samples();
        let bytes = u32::try_from(samples.len() * 2).unwrap_or(u32::MAX);
        let mut file = Vec::with_capacity(samples.len() * 2 + 44);
        file.extend_from_slice(b"RIFF");
        file.extend_from_slice(&(bytes + 36).to_le_bytes());
        file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
        file.extend_from_slice(&16_000_u32.to_le_bytes());
        file.extend_from_slice(&32_000_u32.to_le_bytes());
        file.extend_from_slice(b"\x02\0\x10\0data");
        file.extend_from_slice(&bytes.to_le_bytes());
        file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        file
    }

    /// The sound that these samples are; `None` for what is none of ours.
    pub fn of(samples: &[i16]) -> Option<Self> {
        let order: [u16; ORDER] = samples
            .get(..ORDER)?
            .iter()
            .map(|sample| sample.cast_unsigned())
            .collect::<Vec<_>>()
            .try_into()
            .ok()?;
        let [first, second, mark, number, serial @ ..] = order;
        if [first, second] != MAGIC {
            return None;
        }
        let mark = match mark {
            0 => Mark::Plain { millis: number },
            1 => Mark::FailTimes { times: number },
            2 => Mark::Refuse,
            3 => Mark::Abort { millis: number },
            4 => Mark::Long { windows: number },
            _ => return None,
        };
        let serial = serial.iter().rev().fold(0, |serial, part| (serial << 16) | u64::from(*part));
        Some(Self { mark, serial })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_heard_as_it_was_given() {
        for mark in [
            Mark::Plain { millis: 65_000 },
            Mark::FailTimes { times: 2 },
            Mark::Refuse,
            Mark::Abort { millis: 5 },
            Mark::Long { windows: 30 },
        ] {
            let sound = Sound { mark, serial: 0x0123_4567_89ab_cdef };
            assert_eq!(Sound::of(&sound.samples()), Some(sound));
        }
        assert_eq!(Sound::of(&[0; 100]), None);
        assert_eq!(Sound::of(&[0x5643]), None);
    }

    #[test]
    fn no_two_serial_numbers_sound_alike() {
        let sound = |serial| Sound { mark: Mark::Refuse, serial }.samples();
        assert_ne!(sound(1)[ORDER..], sound(2)[ORDER..]);
        assert_eq!(sound(1), sound(1));
    }
}
