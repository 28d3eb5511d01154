//! One singular vector in planes: what each plane codes, and what a decoder makes of it.
//!
//! Entries are y = x·√d for a unit vector x of d entries, so they have standard deviation 1. To
//! plane p an entry is known as q = ±⌊|y|·2^(p−1)⌋: the next plane tells which half of its interval
//! it is in, so a code cut off at any plane is the code that this plane alone would have been. No
//! precision is lost by reaching a plane in steps: Gaussian vectors are successively refinable
//! (Equitz and Cover 1991), and the double zero bin is that of embedded image coders (Taubman 2000).

use std::sync::LazyLock;

use super::coder::{Adaptive, Coder, WORD};
use super::scale::{FIRST_PLANE, LAST_PLANE};
use crate::operator::narrow;

/// Larger values are escaped.
const UNARY: usize = 14;
/// Magnitudes that have a chance of their own when they are refined.
const REFINED: usize = 4;
/// q of the largest entry that can be: 2^15 standard deviations at the finest plane.
const LARGEST: u32 = 1 << 27;

/// From this plane on, halves are not worth a learnt chance: inside an interval a quarter of a
/// standard deviation wide the density hardly falls.
const RAW_PLANE: i32 = 4;

const PLANES: usize = LAST_PLANE as usize + 1;

/// The learnt chances of one segment, by plane.
#[derive(Debug, Clone, Default)]
pub(super) struct Chances {
    planes: [PlaneChances; PLANES],
}

#[derive(Debug, Clone, Default)]
struct PlaneChances {
    /// Whether an entry is not zero, when its vector comes in.
    significant: Adaptive,
    /// Whether it is larger than 1, 2, …
    larger: [Adaptive; UNARY],
    /// Whether an entry that was zero stops being so.
    becomes: Adaptive,
    /// Which half, by magnitude.
    half: [Adaptive; REFINED],
}

/// One vector as far as it is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Vector {
    /// The plane it is known to; 0 before it comes in.
    pub(super) plane: i32,
    /// q of each entry.
    pub(super) values: Vec<i32>,
}

impl Vector {
    /// Codes everything from the present plane to `plane`. `truth` is y, for an encoder.
    pub(super) fn advance<C: Coder>(
        &mut self,
        plane: i32,
        entries: usize,
        truth: Option<&[f32]>,
        coder: &mut C,
        chances: &mut Chances,
    ) {
        if self.plane < FIRST_PLANE && plane >= FIRST_PLANE {
            self.enter(plane, entries, truth, coder, chances);
            self.plane = plane;
        }
        while self.plane < plane {
            self.plane += 1;
            if self.plane < RAW_PLANE {
                self.refine(truth, coder, chances);
            } else {
                self.append(truth, coder);
            }
        }
    }

    fn enter<C: Coder>(
        &mut self,
        plane: i32,
        entries: usize,
        truth: Option<&[f32]>,
        coder: &mut C,
        chances: &mut Chances,
    ) {
        let chances = &mut chances.planes[index(plane)];
        let scale = narrow(step(plane).recip());
        self.values.clear();
        self.values.reserve_exact(entries);
        for entry in 0..entries {
            let (magnitude, negative) = truth.map_or((0, false), |y| known(y[entry], scale));
            let mut value = 0;
            if coder.bit(&mut chances.significant, magnitude > 0) {
                let negative = coder.coin(negative);
                let found = magnitude_of(magnitude, coder, &mut chances.larger);
                value = signed(found, negative);
            }
            self.values.push(value);
        }
    }

    fn refine<C: Coder>(&mut self, truth: Option<&[f32]>, coder: &mut C, chances: &mut Chances) {
        let chances = &mut chances.planes[index(self.plane)];
        let scale = narrow(step(self.plane).recip());
        for (entry, value) in self.values.iter_mut().enumerate() {
            let (magnitude, negative) = truth.map_or((0, false), |y| known(y[entry], scale));
            if *value == 0 {
                if coder.bit(&mut chances.becomes, magnitude > 0) {
                    *value = signed(1, coder.coin(negative));
                }
            } else {
                let before = value.unsigned_abs();
                let kind = usize::try_from(before).unwrap_or(REFINED).min(REFINED) - 1;
                let upper = coder.bit(&mut chances.half[kind], magnitude & 1 == 1);
                let after = (before << 1 | u32::from(upper)).min(LARGEST);
                *value = signed(after, *value < 0);
            }
        }
    }

    /// As `refine`, at a plane where either half is as likely: a few of a hundred bits would be saved.
    fn append<C: Coder>(&mut self, truth: Option<&[f32]>, coder: &mut C) {
        let scale = narrow(step(self.plane).recip());
        let mut start = 0;
        for values in self.values.chunks_mut(WORD as usize) {
            let y = truth.map(|y| &y[start..start + values.len()]);
            start += values.len();
            let halves = y.map_or(0, |y| {
                let entries = y.iter().enumerate();
                entries.fold(0, |halves, (place, &y)| {
                    halves | (known(y, scale).0 & 1) << place
                })
            });
            let count = u32::try_from(values.len()).unwrap_or(WORD);
            let halves = coder.raw(halves, count);
            for (place, value) in values.iter_mut().enumerate() {
                let upper = halves >> place & 1;
                if *value != 0 {
                    let after = (value.unsigned_abs() << 1 | upper).min(LARGEST);
                    *value = signed(after, *value < 0);
                } else if upper == 1 {
                    let negative = y.is_some_and(|y| y[place] < 0.0);
                    *value = signed(1, coder.coin(negative));
                }
            }
        }
    }

    /// Writes the vector as it is known, of length √α, and gives α: the expected inner product with
    /// the true unit vector, since each entry is set to its mean given what is known.
    pub(super) fn reconstruct(&self, out: &mut Vec<f32>) -> f64 {
        out.clear();
        if self.plane < FIRST_PLANE {
            return 0.0;
        }
        let step = step(self.plane);
        let means = &MEANS[index(self.plane)];
        let root = root_of(self.values.len());
        let mut square = 0.0;
        out.extend(self.values.iter().map(|&value| {
            let magnitude = value.unsigned_abs();
            let mean = usize::try_from(magnitude)
                .ok()
                .and_then(|place| means.get(place))
                .copied()
                .unwrap_or_else(|| (f64::from(magnitude) + 0.5) * step);
            let entry = narrow(mean.copysign(f64::from(value)) / root);
            square += f64::from(entry) * f64::from(entry);
            entry
        }));
        square
    }
}

/// √d as a number.
pub(super) fn root_of(entries: usize) -> f64 {
    f64::from(u32::try_from(entries).unwrap_or(u32::MAX)).sqrt()
}

/// Turns a unit vector into entries of standard deviation 1, in place.
pub(super) fn normalise(vector: &mut [f32]) {
    let root = narrow(root_of(vector.len()));
    vector.iter_mut().for_each(|entry| *entry *= root);
}

/// The width of an interval at `plane`.
fn step(plane: i32) -> f64 {
    f64::from(1 - plane).exp2()
}

fn index(plane: i32) -> usize {
    usize::try_from(plane).unwrap_or(0).min(PLANES - 1)
}

/// ⌊|y|·scale⌋ and the sign; the scale is 2^(p−1). Scaling by a power of two is exact, so planes nest exactly.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounding towards zero is the purpose, and the range is limited first"
)]
fn known(y: f32, scale: f32) -> (u32, bool) {
    #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
    const LIMIT: f32 = LARGEST as f32;
    ((y.abs() * scale).min(LIMIT) as u32, y < 0.0)
}

fn signed(magnitude: u32, negative: bool) -> i32 {
    let value = i32::try_from(magnitude).unwrap_or(i32::MAX);
    if negative { -value } else { value }
}

/// Codes a magnitude of at least 1: in unary, then by an Exp-Golomb code.
fn magnitude_of<C: Coder>(magnitude: u32, coder: &mut C, larger: &mut [Adaptive; UNARY]) -> u32 {
    let mut found = 1;
    for chance in larger {
        if !coder.bit(chance, magnitude > found) {
            return found;
        }
        found += 1;
    }
    let rest = magnitude.saturating_sub(found) + 1;
    let digits = rest.ilog2();
    let mut length = 0;
    while length < LARGEST.ilog2() && coder.coin(length < digits) {
        length += 1;
    }
    let low = coder.raw(rest & ((1 << length) - 1), length);
    (found + (1 << length | low) - 1).min(LARGEST)
}

/// By plane and magnitude, the mean of a standard normal variable inside the interval. On a fixed
/// grid, so that the last digit of a machine's exp does not matter; finer planes take the middle.
static MEANS: LazyLock<Vec<Vec<f64>>> = LazyLock::new(|| {
    (0..PLANES)
        .map(|plane| {
            if !(1..=5).contains(&plane) {
                return vec![0.0];
            }
            let step = step(i32::try_from(plane).unwrap_or(1));
            let mut means = vec![0.0];
            while f64::from(u32::try_from(means.len()).unwrap_or(u32::MAX)) * step < 6.0 {
                let low = f64::from(u32::try_from(means.len()).unwrap_or(u32::MAX)) * step;
                means.push((mean_inside(low, low + step) * 16_384.0).round() / 16_384.0);
            }
            means
        })
        .collect()
});

/// ∫yφ / ∫φ over an interval, by Simpson's rule.
fn mean_inside(low: f64, high: f64) -> f64 {
    const PARTS: u32 = 32;
    let width = (high - low) / f64::from(PARTS);
    let (mut mass, mut moment) = (0.0, 0.0);
    for part in 0..=PARTS {
        let y = low + width * f64::from(part);
        let weight = match part {
            0 | PARTS => 1.0,
            part if part % 2 == 1 => 4.0,
            _ => 2.0,
        };
        // Relative to the lower end, so that nothing underflows far out.
        let density = weight * ((low * low - y * y) / 2.0).exp();
        mass += density;
        moment += density * y;
    }
    moment / mass
}

#[cfg(test)]
mod tests {
    use super::super::coder::{Decoder, Encoder};
    use super::*;

    /// Roughly normal: a sum of twelve uniform values.
    fn gaussian(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            f32::from(u16::try_from(state >> 48).unwrap()) / 65_536.0
        };
        (0..count)
            .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
            .collect()
    }

    fn encode(y: &[f32], planes: &[i32]) -> (Vec<Vec<u8>>, Vector) {
        let mut vector = Vector::default();
        let mut chances = Chances::default();
        let layers = planes
            .iter()
            .map(|&plane| {
                let mut encoder = Encoder::new();
                vector.advance(plane, y.len(), Some(y), &mut encoder, &mut chances);
                encoder.finish()
            })
            .collect();
        (layers, vector)
    }

    fn decode(layers: &[Vec<u8>], planes: &[i32], entries: usize) -> Vector {
        let mut vector = Vector::default();
        let mut chances = Chances::default();
        for (layer, &plane) in layers.iter().zip(planes) {
            vector.advance(plane, entries, None, &mut Decoder::new(layer), &mut chances);
        }
        vector
    }

    #[test]
    fn planes_reached_in_steps_or_at_once_are_the_same() {
        let mut y = gaussian(500, 7);
        y[3] = 0.0;
        y[4] = -45.0;
        y[5] = 1500.0;
        for last in [1, 2, 5, 12] {
            let steps: Vec<i32> = (0..=last).collect();
            let (layers, encoded) = encode(&y, &steps);
            let decoded = decode(&layers, &steps, y.len());
            assert_eq!(decoded.values, encoded.values);
            assert_eq!(decoded.values, encode(&y, &[last]).1.values);
            let expected: Vec<f64> = y
                .iter()
                .map(|&y| (f64::from(y) * f64::from(last - 1).exp2()).trunc())
                .collect();
            let found: Vec<f64> = decoded.values.iter().map(|&q| f64::from(q)).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_code_is_as_short_as_its_entropy() {
        let y = gaussian(40_000, 11);
        for (plane, bits) in [(1, 1.422), (2, 2.679), (4, 4.949)] {
            let planes: Vec<i32> = (1..=plane).collect();
            let bytes: usize = encode(&y, &planes).0.iter().map(Vec::len).sum();
            let found = f64::from(u32::try_from(bytes * 8).unwrap()) / 40_000.0;
            assert!((found / bits - 1.0).abs() < 0.01, "plane {plane}: {found}");
        }
    }

    #[test]
    fn a_reconstruction_knows_how_much_of_the_truth_it_has() {
        let mut y = gaussian(20_000, 3);
        let norm = y.iter().map(|y| y * y).sum::<f32>().sqrt();
        let unit: Vec<f32> = y.iter().map(|y| y / norm).collect();
        y.copy_from_slice(&unit);
        normalise(&mut y);
        for plane in [1, 2, 3, 6] {
            let (_, vector) = encode(&y, &[plane]);
            let mut out = Vec::new();
            let alpha = vector.reconstruct(&mut out);
            let inner: f32 = out.iter().zip(&unit).map(|(l, r)| l * r).sum();
            assert!(
                (f64::from(inner) / alpha - 1.0).abs() < 0.01,
                "{plane}: {inner} {alpha}"
            );
        }
    }
}
