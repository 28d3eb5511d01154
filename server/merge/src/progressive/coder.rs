//! An adaptive binary range coder: what turns the planes of a code into bytes.
//!
//! Carry-propagating, 32 bits of range, 16 bits of probability (Martin 1979; Schindler's byte-wise
//! renormalisation). Bits that are as likely as not, which are most of a fine code, go around it: they
//! are laid down from the other end of the same bytes (as in Opus, RFC 6716, 4.1.4), so nothing has
//! to say where they begin. Encoder and decoder are one trait, so every step of the code is written
//! once and the two sides cannot differ. A decoder reads zeros beyond the end.

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
#[inline]
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
    #[inline]
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

    #[inline]
    fn bound(self, range: u32) -> u32 {
        (range >> 16) * u32::from(self.zero)
    }
}

/// Either direction: an encoder takes the bits it is given, a decoder ignores them and finds its own.
pub(super) trait Coder {
    /// Codes one bit by its learnt chance, and gives it.
    fn bit(&mut self, chance: &mut Adaptive, bit: bool) -> bool;
    /// The lowest `count` bits of `value`, each as likely as not: at most [`WORD`]. Bits above them
    /// must be zero.
    fn raw(&mut self, value: u32, count: u32) -> u32;

    /// One bit that is as likely as not.
    fn coin(&mut self, bit: bool) -> bool {
        self.raw(u32::from(bit), 1) == 1
    }
}

/// The most raw bits at once.
pub(super) const WORD: u32 = 32;

/// Writes bits.
#[derive(Debug)]
pub(super) struct Encoder {
    /// 32 bits, and a carry above them that is due.
    low: u64,
    range: u32,
    bytes: Vec<u8>,
    raw: RawBits,
}

/// Raw bits, the first one lowest in the first byte.
#[derive(Debug, Default)]
struct RawBits {
    bytes: Vec<u8>,
    open: u64,
    count: u32,
}

impl RawBits {
    fn push(&mut self, value: u32, count: u32) {
        self.open |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 8 {
            let [first, ..] = self.open.to_le_bytes();
            self.bytes.push(first);
            self.open >>= 8;
            self.count -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            let [first, ..] = self.open.to_le_bytes();
            self.bytes.push(first);
        }
        self.bytes
    }
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self {
            low: 0,
            range: u32::MAX,
            bytes: Vec::new(),
            raw: RawBits::default(),
        }
    }

    /// The bytes from which all bits so far can be decoded.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let raw = std::mem::take(&mut self.raw).finish();
        self.end(!raw.is_empty());
        self.bytes.extend(raw.iter().rev());
        self.bytes
    }

    /// The number with the fewest digits inside the last interval: with zeros after it, which are
    /// left away, or with anything after it.
    fn end(&mut self, is_followed: bool) {
        let end = self.low + u64::from(self.range);
        for shift in [32, 24, 16, 8, 0] {
            let unit = 1_u64 << shift;
            let value = self.low.div_ceil(unit) * unit;
            let fits = if is_followed {
                value + unit <= end
            } else {
                value < end
            };
            if fits {
                self.low = value;
                for _ in 0..(32 - shift) / 8 {
                    self.shift_out();
                }
                self.carry();
                break;
            }
        }
        while !is_followed && self.bytes.last() == Some(&0) {
            self.bytes.pop();
        }
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
        self.carry();
        let [.., top, _, _, _] = self.low.to_be_bytes();
        self.bytes.push(top);
        self.low = self.low << 8 & u64::from(u32::MAX);
    }
}

impl Coder for Encoder {
    #[inline]
    fn bit(&mut self, chance: &mut Adaptive, bit: bool) -> bool {
        let bound = chance.bound(self.range);
        chance.learn(bit);
        // A carry may wait until the next byte goes: the interval only ever gets narrower.
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        while self.range < BOTTOM {
            self.shift_out();
            self.range <<= 8;
        }
        bit
    }

    #[inline]
    fn raw(&mut self, value: u32, count: u32) -> u32 {
        self.raw.push(value, count);
        value
    }
}

/// Reads bits.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    /// The value read so far, counted from the lower end of the interval.
    code: u32,
    range: u32,
    rest: &'a [u8],
    /// Raw bits come from the other end.
    raw: &'a [u8],
    open: u64,
    count: u32,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self {
            code: 0,
            range: u32::MAX,
            rest: bytes,
            raw: bytes,
            open: 0,
            count: 0,
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
}

impl Coder for Decoder<'_> {
    #[inline]
    fn bit(&mut self, chance: &mut Adaptive, _: bool) -> bool {
        let bound = chance.bound(self.range);
        let bit = self.code >= bound;
        chance.learn(bit);
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

    #[inline]
    fn raw(&mut self, _: u32, count: u32) -> u32 {
        while self.count < count {
            let byte = match self.raw.split_last() {
                Some((&last, rest)) => {
                    self.raw = rest;
                    last
                }
                None => 0,
            };
            self.open |= u64::from(byte) << self.count;
            self.count += 8;
        }
        let mask = (1_u64 << count) - 1;
        let value = u32::try_from(self.open & mask).unwrap_or(0);
        self.open >>= count;
        self.count -= count;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word(bit: bool) -> u32 {
        if bit { 0x5_a5a5 } else { 0x7_ffff }
    }

    fn round_trip(bits: &[(u8, bool)]) -> usize {
        let mut chances = [Adaptive::default(); 4];
        let mut encoder = Encoder::new();
        for &(kind, bit) in bits {
            match kind {
                0..4 => encoder.bit(&mut chances[usize::from(kind)], bit),
                4 => encoder.coin(bit),
                _ => encoder.raw(word(bit), 19) != 0,
            };
        }
        let bytes = encoder.finish();
        let mut chances = [Adaptive::default(); 4];
        let mut decoder = Decoder::new(&bytes);
        for (index, &(kind, bit)) in bits.iter().enumerate() {
            let found = match kind {
                0..4 => decoder.bit(&mut chances[usize::from(kind)], false),
                4 => decoder.coin(false),
                _ => {
                    let found = decoder.raw(0, 19);
                    assert_eq!(found, word(bit), "word {index}");
                    bit
                }
            };
            assert_eq!(found, bit, "bit {index} of {}", bits.len());
        }
        bytes.len()
    }

    proptest! {
        #[test]
        fn every_sequence_comes_back(bits in prop::collection::vec((0_u8..6, any::<bool>()), 0..2000)) {
            round_trip(&bits);
        }

        #[test]
        fn runs_that_force_carries_come_back(runs in prop::collection::vec((0_u8..6, any::<bool>(), 1_usize..300), 0..40)) {
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
