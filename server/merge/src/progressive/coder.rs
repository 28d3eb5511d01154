//! An adaptive binary range coder: what turns the planes of a code into bytes.
//!
//! Carry-propagating, 32 bits of range, 16 bits of probability (Martin 1979; Schindler's byte-wise
//! renormalisation). Encoder and decoder are one trait, so every step of the code is written once
//! and the two sides cannot differ. The bytes may be cut off after any layer that was finished:
//! a decoder reads zeros beyond the end, and an encoder leaves the zeros at the end away.

/// Below this range a byte is shifted out.
const BOTTOM: u32 = 1 << 24;

/// The chance of a bit being 0, learnt from the bits before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adaptive {
    /// In 1/65,536.
    zero: u16,
    /// Bits seen, up to [`MEMORY`].
    seen: u8,
}

/// The average reaches back over this many bits: entries of singular vectors behave alike from the
/// first to the last, so a long memory costs nothing.
const MEMORY: u8 = 254;

/// ⌈2³²/(seen + 2)⌉: a division for each bit would take as long as everything else that it needs.
const SHARES: [u64; MEMORY as usize + 1] = {
    let mut shares = [0; MEMORY as usize + 1];
    let mut seen = 0;
    while seen < shares.len() {
        shares[seen] = (1_u64 << 32).div_ceil(seen as u64 + 2);
        seen += 1;
    }
    shares
};

/// ⌊`distance` / (seen + 2)⌋, exactly, for a distance of at most 2¹⁶.
fn shared(distance: u32, seen: u8) -> u32 {
    let share = SHARES[usize::from(seen.min(MEMORY))];
    u32::try_from((u64::from(distance) * share) >> 32).unwrap_or(0)
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            zero: 1 << 15,
            seen: 0,
        }
    }
}

impl Adaptive {
    fn learn(&mut self, bit: bool) {
        let zero = u32::from(self.zero);
        let moved = if bit {
            zero - shared(zero, self.seen)
        } else {
            zero + shared((1 << 16) - zero, self.seen)
        };
        // Never certain, so that a surprise stays codable.
        self.zero = u16::try_from(moved.clamp(1 << 6, (1 << 16) - (1 << 6))).unwrap_or(1 << 15);
        self.seen = self.seen.saturating_add(1).min(MEMORY);
    }

    fn bound(self, range: u32) -> u32 {
        (range >> 16) * u32::from(self.zero)
    }
}

/// Either direction: an encoder takes the bit it is given, a decoder ignores it and finds its own.
pub(super) trait Coder {
    /// Codes one bit by its learnt chance, and gives it.
    fn bit(&mut self, chance: &mut Adaptive, bit: bool) -> bool;
    /// Codes one bit that is as likely as not, and gives it.
    fn coin(&mut self, bit: bool) -> bool;

    /// The lowest `count` bits of `value`, each as likely as not, the highest first.
    fn coins(&mut self, value: u32, count: u32) -> u32 {
        (0..count).rev().fold(0, |so_far, place| {
            so_far << 1 | u32::from(self.coin(value >> place & 1 == 1))
        })
    }
}

/// Writes bits.
#[derive(Debug)]
pub(super) struct Encoder {
    low: u64,
    range: u32,
    bytes: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self {
            low: 0,
            range: u32::MAX,
            bytes: Vec::new(),
        }
    }

    /// The bytes from which all bits so far can be decoded.
    pub(super) fn finish(mut self) -> Vec<u8> {
        // The number with the fewest digits inside the last interval.
        let end = self.low + u64::from(self.range);
        for shift in [32, 24, 16, 8, 0] {
            let unit = 1_u64 << shift;
            let value = self.low.div_ceil(unit) * unit;
            if value < end {
                self.low = value;
                self.carry();
                for _ in 0..4 {
                    self.shift_out();
                }
                break;
            }
        }
        while self.bytes.last() == Some(&0) {
            self.bytes.pop();
        }
        self.bytes
    }

    fn carry(&mut self) {
        if self.low > u64::from(u32::MAX) {
            self.low &= u64::from(u32::MAX);
            for byte in self.bytes.iter_mut().rev() {
                *byte = byte.wrapping_add(1);
                if *byte != 0 {
                    break;
                }
            }
        }
    }

    fn shift_out(&mut self) {
        let [.., top, _, _, _] = self.low.to_be_bytes();
        self.bytes.push(top);
        self.low = self.low << 8 & u64::from(u32::MAX);
    }

    fn narrow(&mut self, bound: u32, bit: bool) {
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
            self.carry();
        } else {
            self.range = bound;
        }
        while self.range < BOTTOM {
            self.shift_out();
            self.range <<= 8;
        }
    }
}

impl Coder for Encoder {
    fn bit(&mut self, chance: &mut Adaptive, bit: bool) -> bool {
        self.narrow(chance.bound(self.range), bit);
        chance.learn(bit);
        bit
    }

    fn coin(&mut self, bit: bool) -> bool {
        self.narrow(self.range >> 1, bit);
        bit
    }
}

/// Reads bits.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    /// The value read so far, counted from the lower end of the interval.
    code: u32,
    range: u32,
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self {
            code: 0,
            range: u32::MAX,
            rest: bytes,
        };
        for _ in 0..4 {
            decoder.shift_in();
        }
        decoder
    }

    fn shift_in(&mut self) {
        let byte = match self.rest.split_first() {
            Some((&first, rest)) => {
                self.rest = rest;
                first
            }
            None => 0,
        };
        self.code = self.code << 8 | u32::from(byte);
    }

    fn narrow(&mut self, bound: u32) -> bool {
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        while self.range < BOTTOM {
            self.shift_in();
            self.range <<= 8;
        }
        bit
    }
}

impl Coder for Decoder<'_> {
    fn bit(&mut self, chance: &mut Adaptive, _: bool) -> bool {
        let bit = self.narrow(chance.bound(self.range));
        chance.learn(bit);
        bit
    }

    fn coin(&mut self, _: bool) -> bool {
        self.narrow(self.range >> 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(bits: &[(u8, bool)]) -> usize {
        let mut chances = [Adaptive::default(); 4];
        let mut encoder = Encoder::new();
        for &(kind, bit) in bits {
            match kind {
                0..4 => encoder.bit(&mut chances[usize::from(kind)], bit),
                _ => encoder.coin(bit),
            };
        }
        let bytes = encoder.finish();
        let mut chances = [Adaptive::default(); 4];
        let mut decoder = Decoder::new(&bytes);
        for (index, &(kind, bit)) in bits.iter().enumerate() {
            let found = match kind {
                0..4 => decoder.bit(&mut chances[usize::from(kind)], false),
                _ => decoder.coin(false),
            };
            assert_eq!(found, bit, "bit {index} of {}", bits.len());
        }
        bytes.len()
    }

    proptest! {
        #[test]
        fn every_sequence_comes_back(bits in prop::collection::vec((0_u8..5, any::<bool>()), 0..2000)) {
            round_trip(&bits);
        }

        #[test]
        fn runs_that_force_carries_come_back(runs in prop::collection::vec((0_u8..5, any::<bool>(), 1_usize..300), 0..40)) {
            let bits: Vec<_> = runs.iter().flat_map(|&(kind, bit, count)| vec![(kind, bit); count]).collect();
            round_trip(&bits);
        }
    }

    #[test]
    fn shares_are_exact() {
        for seen in 0..=MEMORY {
            for distance in 0..=1 << 16 {
                let expected = distance / (u32::from(seen) + 2);
                assert_eq!(shared(distance, seen), expected, "{distance} {seen}");
            }
        }
    }

    #[test]
    fn one_sided_bits_cost_little_and_nothing_costs_nothing() {
        assert_eq!(round_trip(&[]), 0);
        let rare: Vec<_> = (0..20_000).map(|index| (0, index % 20 == 0)).collect();
        // The entropy of 1 in 20 is .286 bits.
        let bytes = round_trip(&rare);
        assert!((700..750).contains(&bytes), "{bytes}");
    }
}
