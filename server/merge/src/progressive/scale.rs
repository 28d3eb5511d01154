//! Which plane a direction is coded to at which rung: integers only, so that a decoder agrees with
//! the encoder on every machine.
//!
//! A rung halves the tolerated error per element four times an octave. A component of relative size
//! σ = 2^(−s/16) whose singular vectors have d entries is coded, at rung k, to plane
//!
//! ```text
//! p = ⌊ ½·log₂(σ·2^(k/4)) − ½·log₂ d + const ⌋
//! ```
//!
//! and not at all below plane 1. Equal error per element and bit would want log₂ in place of
//! ½·log₂: that is reverse water-filling, the optimum for mean square error (Cover and Thomas,
//! *Elements of Information Theory*, 10.3). Half of it gives more directions fewer planes. Since a
//! served adapter is made unbiased, what is coded roughly costs incoherent noise, and what is left
//! out costs coherent error; on real tasks the former is much the smaller evil (measured: DESIGN.md).

/// Units of s in one octave.
pub(super) const SIZE_STEPS: i32 = 16;
/// The coarsest plane: step 1 in units of the entries' standard deviation.
pub(super) const FIRST_PLANE: i32 = 1;
/// The finest plane: beyond it, rounding to half precision is the larger error.
pub(super) const LAST_PLANE: i32 = 10;
/// The last rung that a code can have.
pub(super) const LAST_RUNG: u8 = 250;
/// Components smaller than 2^(−`SMALLEST`/16) of the whole update are rounding.
pub(super) const SMALLEST: i32 = 352;

/// One plane in the integer unit of this file.
const PLANE: i32 = 64;
/// Moves rung 0 to where the largest possible component of a small module is coded first.
const ORIGIN: i32 = 256;

/// −16·log₂ of a relative size, rounded; `None` for rounding and zero.
pub(super) fn size_step(relative: f64) -> Option<i32> {
    if relative.is_nan() || relative <= 0.0 {
        return None;
    }
    let step = -f64::from(SIZE_STEPS) * relative.log2();
    rounded(step.max(0.0)).filter(|&step| step <= SMALLEST)
}

/// The relative size of a step.
pub(super) fn size(step: i32) -> f64 {
    (-f64::from(step) / f64::from(SIZE_STEPS)).exp2()
}

/// What the number of entries contributes.
pub(super) fn width_term(entries: usize) -> i32 {
    let entries = u32::try_from(entries).unwrap_or(u32::MAX).max(1);
    rounded(f64::from(PLANE / 2) * f64::from(entries).log2()).unwrap_or(i32::MAX / 2)
}

/// The plane of a component of size `step` at `rung`; below [`FIRST_PLANE`] it is not coded.
pub(super) fn plane(step: i32, width_term: i32, rung: u8) -> i32 {
    let position = 8 * i32::from(rung) - 2 * step - width_term + ORIGIN;
    position.div_euclid(PLANE).min(LAST_PLANE)
}

/// The rung at which a component of size `step` is first coded: both of its vectors at once.
/// `width_term` is the larger of the two.
pub(super) fn entry_rung(step: i32, width_term: i32) -> i32 {
    let position = FIRST_PLANE * PLANE + 2 * step + width_term - ORIGIN;
    // Rounded up; before rung 0 means at rung 0.
    (position + 7).div_euclid(8).max(0)
}

/// Bits that an entry of a Gaussian vector takes to be coded to `plane`, sign included: the entropy
/// of a uniform quantiser with a double zero bin. Used to plan ahead; budgets are checked on bytes.
pub(super) fn expected_bits(plane: i32) -> f64 {
    const COARSE: [f64; 6] = [0.0, 1.4221, 2.679, 3.8534, 4.9486, 5.9975];
    match usize::try_from(plane) {
        Ok(plane) if plane < COARSE.len() => COARSE[plane],
        Ok(_) => f64::from(plane) + 1.03,
        Err(_) => 0.0,
    }
}

/// To the nearest integer, if it is one.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the range is checked before the conversion"
)]
fn rounded(value: f64) -> Option<i32> {
    (value.abs() < 1e9).then(|| value.round() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_enters_at_its_entry_rung_and_not_before() {
        for step in 0..=SMALLEST {
            for width in [1, 7, 64, 576, 2048, 49_152, 262_144] {
                let term = width_term(width);
                let entry = entry_rung(step, term);
                if entry > i32::from(LAST_RUNG) {
                    continue;
                }
                let rung = u8::try_from(entry).unwrap();
                assert!(plane(step, term, rung) >= FIRST_PLANE, "{step} {width}");
                if rung > 0 {
                    assert!(plane(step, term, rung - 1) < FIRST_PLANE, "{step} {width}");
                }
            }
        }
    }

    #[test]
    fn planes_never_go_back_and_grow_by_one_at_most() {
        for step in (0..=SMALLEST).step_by(5) {
            let term = width_term(576);
            for rung in 1..=LAST_RUNG {
                let growth = plane(step, term, rung) - plane(step, term, rung - 1);
                assert!((0..=1).contains(&growth));
            }
        }
    }

    #[test]
    fn four_sizes_share_an_entry_rung() {
        let term = width_term(576);
        let entries: Vec<i32> = (100..200).map(|step| entry_rung(step, term)).collect();
        for rung in entries[4]..entries[90] {
            assert_eq!(entries.iter().filter(|&&entry| entry == rung).count(), 4);
        }
    }

    #[test]
    fn sizes_round_trip_to_two_percent() {
        for relative in [1.0, 0.5, 0.03, 1e-4] {
            let back = size(size_step(relative).unwrap());
            assert!((back / relative - 1.0).abs() < 0.0219, "{relative} {back}");
        }
        assert_eq!(size_step(0.0), None);
        assert_eq!(size_step(f64::NAN), None);
        assert_eq!(size_step(1e-9), None);
    }
}
