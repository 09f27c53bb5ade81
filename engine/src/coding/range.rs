//! The range coder: numbers whose parts of a whole are known, as bytes (Martin 1979).
//!
//! `low` and `range` are a piece of [0, 2⁶⁴); each number keeps its own part of the piece. Once the
//! piece is below 2⁴⁸, its first bytes are certain but for a carry, which goes into the bytes that
//! are out already. Parts are of 2³¹, so that cutting costs less than 2⁻¹⁷ of a piece. Test: below.

use super::frequencies::{BITS, Part};
use crate::{EngineError, Result};

/// The smallest range that a part is taken of.
const LEAST: u64 = 1 << 48;

/// Bytes of a range.
const BYTES: usize = 8;

/// Writes numbers.
pub(super) struct Encoder {
    low: u64,
    range: u64,
    out: Vec<u8>,
    /// Where the code begins.
    start: usize,
}

impl Encoder {
    /// Writes behind `before`.
    pub(super) fn new(before: Vec<u8>) -> Encoder {
        let start = before.len();
        Encoder { low: 0, range: u64::MAX, out: before, start }
    }

    pub(super) fn encode(&mut self, part: Part) {
        let each = self.range >> BITS;
        let (low, carry) = self.low.overflowing_add(each * u64::from(part.start));
        self.low = low;
        self.range = each * u64::from(part.size);
        if carry {
            self.carry();
        }
        while self.range < LEAST {
            self.shift();
        }
    }

    /// Adds 1 to what is out.
    fn carry(&mut self) {
        for byte in self.out[self.start..].iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }

    fn shift(&mut self) {
        self.out.push((self.low >> 56) as u8);
        self.low <<= 8;
        self.range <<= 8;
    }

    /// All bytes. Zeros at the end are left away: a reader takes them to be there.
    pub(super) fn finish(mut self) -> Vec<u8> {
        // The number in the piece that has the most zeros at its end: some 2⁴⁸ of them.
        let (last, carry) = self.low.overflowing_add(LEAST - 1);
        if carry {
            self.carry();
        }
        self.low = last & !(LEAST - 1);
        (0..BYTES).for_each(|_| self.shift());
        while self.out.len() > self.start && self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}

/// Reads them again.
pub(super) struct Decoder<'a> {
    /// The code, less `low`.
    code: u64,
    range: u64,
    rest: &'a [u8],
    /// Zeros read behind the end.
    beyond: u64,
}

/// Zeros that a reader may take from behind the end, for each byte of the code: what an encoder
/// leaves away at the end, and the bytes that a reader is ahead.
const MOST_BEYOND: u64 = 4096;

impl<'a> Decoder<'a> {
    pub(super) fn new(code: &'a [u8]) -> Decoder<'a> {
        let mut decoder = Decoder { code: 0, range: u64::MAX, rest: code, beyond: 0 };
        for _ in 0..BYTES {
            decoder.code = decoder.code << 8 | decoder.next();
        }
        decoder
    }

    fn next(&mut self) -> u64 {
        match self.rest.split_first() {
            Some((byte, rest)) => {
                self.rest = rest;
                u64::from(*byte)
            }
            None => {
                self.beyond += 1;
                0
            }
        }
    }

    /// The next number, which `find` finds by a place in its part.
    ///
    /// # Errors
    /// The bytes have ended long before.
    pub(super) fn decode(&mut self, find: impl FnOnce(u32) -> (u32, Part)) -> Result<u32> {
        let each = self.range >> BITS;
        let at = (self.code / each).min((1 << BITS) - 1) as u32;
        let (number, part) = find(at);
        // What stands behind the last part belongs to it, in a damaged code alone.
        self.code -= each * u64::from(part.start);
        self.range = each * u64::from(part.size);
        while self.range < LEAST {
            self.code = self.code << 8 | self.next();
            self.range <<= 8;
        }
        if self.beyond > MOST_BEYOND { Err(EngineError::DamagedArchive) } else { Ok(number) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole of three parts: small, almost all, small.
    fn parts(small: u32) -> [Part; 3] {
        let rest = (1 << BITS) - 2 * small;
        [
            Part { start: 0, size: small },
            Part { start: small, size: rest },
            Part { start: small + rest, size: small },
        ]
    }

    fn packed(numbers: &[usize], small: u32) -> Vec<u8> {
        let mut encoder = Encoder::new(b"before".to_vec());
        numbers.iter().for_each(|number| encoder.encode(parts(small)[*number]));
        encoder.finish()
    }

    fn unpacked(code: &[u8], n: usize, small: u32) -> Result<Vec<usize>> {
        let mut decoder = Decoder::new(code);
        let find = |at: u32| {
            let is_in = |part: &Part| at - part.start < part.size && at >= part.start;
            let i = parts(small).iter().position(is_in).expect("a part");
            (i as u32, parts(small)[i])
        };
        (0..n).map(|_| decoder.decode(find).map(|i| i as usize)).collect()
    }

    #[test]
    fn numbers_come_back_and_cost_what_they_should() {
        let mut rng = fastrand::Rng::with_seed(3);
        for small in [1, 1000, 1 << 29] {
            let chance = f64::from(small) / f64::from(1u32 << BITS);
            for n in [0, 1, 2, 100, 20_000] {
                for even in [false, true] {
                    let draw = |rng: &mut fastrand::Rng| match rng.f64() {
                        _ if even => rng.usize(..3),
                        x if x < chance => 0,
                        x if x < 2.0 * chance => 2,
                        _ => 1,
                    };
                    let numbers: Vec<usize> = (0..n).map(|_| draw(&mut rng)).collect();
                    let bytes = packed(&numbers, small);
                    let code = bytes.strip_prefix(b"before").expect("what was before");
                    assert_eq!(unpacked(code, n, small).expect("whole"), numbers);
                    let bits = |i: &usize| {
                        -(f64::from(parts(small)[*i].size) / f64::from(1u32 << BITS)).log2()
                    };
                    let ideal: f64 = numbers.iter().map(bits).sum();
                    assert!((8 * code.len()) as f64 <= ideal * 1.00002 + 17.0, "{n} {small}");
                }
            }
        }
    }

    #[test]
    fn a_carry_goes_through_all_bytes() {
        // The part in the middle, again and again: the piece lies on both sides of a half, and
        // bytes of ones go out until the part above it comes.
        for n in 1..400 {
            let mut numbers = vec![1; n];
            numbers.extend([2, 1, 0, 2]);
            for small in [1 << 27, 1 << 29, 1 << 30] {
                let small = small - 1;
                let bytes = packed(&numbers, small);
                assert_eq!(&bytes[..6], b"before");
                assert_eq!(unpacked(&bytes[6..], numbers.len(), small).expect("whole"), numbers);
            }
        }
    }

    #[test]
    fn what_ends_early_ends() {
        unpacked(&[], 1 << 20, 1 << 29).expect_err("nothing is there");
    }
}
