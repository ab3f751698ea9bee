//! The tables of a Vorbis stream (Vorbis I specification, 3.2.1), measured before a decoder makes them: a header of ten
//! kilobytes can ask for gigabytes.

use crate::error::AudioError;

/// Numbers in all tables of a stream together. The encoder that everybody uses stays below a tenth of it.
const MOST_NUMBERS: u64 = 4 << 20;
/// Bytes of the identification header, which comes first.
const IDENTIFICATION: usize = 30;

/// Checks the two headers that a decoder is made from.
///
/// # Errors
/// Tables that are too large, or that cannot be read.
pub(crate) fn check(headers: &[u8]) -> Result<(), AudioError> {
    let setup = headers.get(IDENTIFICATION..).and_then(|setup| setup.strip_prefix(b"\x05vorbis"));
    let numbers = setup.and_then(|setup| Bits { bytes: setup, at: 0 }.numbers());
    match numbers {
        Some(numbers) if numbers <= MOST_NUMBERS => Ok(()),
        Some(_) => Err(AudioError::malformed("its tables are too large")),
        None => Err(AudioError::malformed("its tables cannot be read")),
    }
}

/// Bits from the lowest of each byte on.
struct Bits<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl Bits<'_> {
    /// Numbers in all tables, as far as there are not too many.
    fn numbers(mut self) -> Option<u64> {
        let tables = self.take(8)? + 1;
        let mut numbers = 0;
        for _ in 0..tables {
            numbers += self.table()?;
            if numbers > MOST_NUMBERS {
                break;
            }
        }
        Some(numbers)
    }

    fn table(&mut self) -> Option<u64> {
        const MARK: u64 = 0x56_43_42;
        if self.take(24)? != MARK {
            return None;
        }
        let (dimensions, entries) = (self.take(16)?, self.take(24)?);
        if self.take(1)? == 1 {
            self.skip(5)?;
            let mut entry = 0;
            while entry < entries {
                let width = u64::BITS - (entries - entry).leading_zeros();
                entry += self.take(width)?;
            }
        } else if self.take(1)? == 1 {
            for _ in 0..entries {
                let used = self.take(1)?;
                self.skip(5 * used)?;
            }
        } else {
            self.skip(5 * entries)?;
        }
        let values = match self.take(4)? {
            0 => return Some(entries),
            1 => (1_u64..).take_while(|root| power(*root, dimensions) <= entries).last().unwrap_or(0),
            2 => entries * dimensions,
            _ => return None,
        };
        self.skip(64)?;
        let width = self.take(4)? + 1;
        self.skip(1 + values * width)?;
        Some(entries * dimensions.max(1))
    }

    fn take(&mut self, count: u32) -> Option<u64> {
        let mut value = 0;
        for bit in 0..count {
            let byte = *self.bytes.get(usize::try_from(self.at / 8).ok()?)?;
            value |= u64::from(byte >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Some(value)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.at = self.at.checked_add(count)?;
        (self.at <= self.bytes.len() as u64 * 8).then_some(())
    }
}

/// `root` to the power of `dimensions`, as far as it matters.
fn power(root: u64, dimensions: u64) -> u64 {
    let exponent = u32::try_from(dimensions).unwrap_or(u32::MAX);
    if exponent == 0 { u64::MAX } else { root.saturating_pow(exponent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers with `tables` tables of `entries` by `dimensions` numbers, each told in some 30 bytes.
    fn headers(tables: u64, entries: u64, dimensions: u64) -> Vec<u8> {
        let mut bits = Vec::new();
        let mut put = |value: u64, count: u32| bits.extend((0..count).map(|bit| value >> bit & 1));
        put(tables - 1, 8);
        for _ in 0..tables {
            put(0x56_43_42, 24);
            put(dimensions, 16);
            put(entries, 24);
            put(1, 1);
            put(16, 5);
            put(entries, u64::BITS - entries.leading_zeros());
            put(1, 4);
            put(0, 64);
            put(0, 4);
            put(0, 1);
            let values = (1_u64..).take_while(|root| power(*root, dimensions) <= entries).last().unwrap_or(0);
            (0..values).for_each(|_| put(0, 1));
        }
        let mut bytes = vec![0; IDENTIFICATION];
        bytes.extend(b"\x05vorbis");
        let byte =
            |bits: &[u64]| bits.iter().enumerate().fold(0, |byte, (at, bit)| byte | (*bit as u8) << at);
        bytes.extend(bits.chunks(8).map(byte));
        bytes
    }

    #[test]
    fn a_small_header_cannot_ask_for_gigabytes() {
        assert!(check(&headers(40, 6_561, 8)).is_ok());
        let greedy = headers(256, 131_072, 16);
        assert!(greedy.len() < 10_000, "{} bytes", greedy.len());
        assert!(check(&greedy).is_err_and(|error| error.to_string().contains("too large")));
        assert!(check(&greedy[..400]).is_err());
    }
}
