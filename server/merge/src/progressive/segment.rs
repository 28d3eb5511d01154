//! A run of modules that is coded together, layer by layer: one layer for each rung.
//!
//! Segments are the unit of parallel work and of memory. A segment knows its modules' shapes and
//! norms; everything else is in its layers, and any number of its first layers is a whole code.

use super::coder::{Adaptive, Coder};
use super::scale::{self, SMALLEST};
use super::spectrum::Directions;
use super::vector::{Chances, Vector};

/// The most entries in one direction of all modules of a segment, unless one module alone has more:
/// enough for chances to be learnt, little enough for many threads and little memory in each.
const ENTRIES: usize = 32_768;

/// A served update is never stretched by more than this to make up for directions left out.
const STRETCH: f64 = 2.0;
/// Nor a direction by more than this for what its vectors lack.
const GAIN: f64 = 4.0;

/// What a decoder must be told of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CodedModule {
    pub(super) out_features: usize,
    pub(super) in_features: usize,
    /// Size of its update relative to the whole adapter's, as a size step; `None` for zero.
    pub(super) norm: Option<i32>,
}

impl CodedModule {
    /// The most directions that it can have.
    pub(super) fn full_rank(&self) -> usize {
        match self.norm {
            Some(_) => self.out_features.min(self.in_features),
            None => 0,
        }
    }
}

/// Cuts modules into segments: the lengths of the runs.
pub(super) fn segments(modules: &[CodedModule]) -> Vec<usize> {
    let mut lengths = Vec::new();
    let (mut length, mut entries) = (0, 0);
    for module in modules {
        let more = module.out_features + module.in_features;
        if length > 0 && entries + more > ENTRIES {
            lengths.push(length);
            (length, entries) = (0, 0);
        }
        length += 1;
        entries += more;
    }
    if length > 0 {
        lengths.push(length);
    }
    lengths
}

/// A direction as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// Size relative to the whole adapter, as a size step.
    step: i32,
    pub(super) left: Vector,
    pub(super) right: Vector,
}

impl Direction {
    /// The weight with which it is served, given the squared lengths of the reconstructed vectors.
    /// Each is as long as what it has of the truth; divided by that it is an unbiased estimate.
    pub(super) fn weight(&self, alpha: f64, beta: f64) -> f64 {
        scale::size(self.step) * unbiased(alpha, beta)
    }
}

/// A module as far as it is known.
#[derive(Debug)]
struct Module {
    shape: CodedModule,
    left_term: i32,
    right_term: i32,
    directions: Vec<Direction>,
}

impl Module {
    fn new(shape: CodedModule) -> Self {
        Self {
            shape,
            left_term: scale::width_term(shape.out_features),
            right_term: scale::width_term(shape.in_features),
            directions: Vec::new(),
        }
    }

    /// The factor that makes up for the energy of directions left out.
    fn stretch(&self) -> f64 {
        let Some(norm) = self.shape.norm else {
            return 1.0;
        };
        let kept = self.kept();
        if kept > 0.0 {
            (scale::size(norm).powi(2) / kept).clamp(1.0, STRETCH)
        } else {
            1.0
        }
    }

    fn kept(&self) -> f64 {
        let sizes = self.directions.iter();
        sizes
            .map(|direction| scale::size(direction.step).powi(2))
            .sum()
    }
}

/// A module's update as served, relative to the adapter's norm: Σ weight · left · rightᵀ.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Weight of each direction.
    pub(super) weights: Vec<f64>,
    /// `out_features` entries each.
    pub(super) left: Vec<Vec<f32>>,
    /// `in_features` entries each.
    pub(super) right: Vec<Vec<f32>>,
}

/// What an encoder knows beside what it has coded.
#[derive(Debug)]
pub(super) struct Truth<'a> {
    /// By module.
    pub(super) modules: &'a [ModuleTruth],
}

/// A module's directions as they are to be coded.
#[derive(Debug)]
pub(super) struct ModuleTruth {
    /// The size step of each.
    pub(super) steps: Vec<i32>,
    /// Relative to the whole adapter, with vectors normalised to standard deviation 1, the strongest
    /// first.
    pub(super) directions: Directions,
}

/// All modules of a segment at some rung.
#[derive(Debug)]
pub(super) struct Segment {
    modules: Vec<Module>,
    chances: Box<SegmentChances>,
    limit: usize,
}

#[derive(Debug, Default)]
struct SegmentChances {
    /// Whether one more direction comes in.
    another: Adaptive,
    left: Chances,
    right: Chances,
}

impl Segment {
    /// Nothing known yet. A module with more than `limit` directions makes no sense.
    pub(super) fn new(modules: &[CodedModule], limit: usize) -> Self {
        Self {
            modules: modules.iter().copied().map(Module::new).collect(),
            chances: Box::default(),
            limit,
        }
    }

    /// Codes the layer of `rung`; rungs come in order from 0. `false` when the bytes make no sense.
    pub(super) fn layer<C: Coder>(
        &mut self,
        rung: u8,
        truth: Option<&Truth<'_>>,
        coder: &mut C,
    ) -> bool {
        for (place, module) in self.modules.iter_mut().enumerate() {
            if module.shape.norm.is_none() {
                continue;
            }
            let truth = truth.map(|truth| &truth.modules[place]);
            if !module.layer(rung, truth, coder, &mut self.chances, self.limit) {
                return false;
            }
        }
        true
    }

    /// One module as served.
    pub(super) fn served(&self, place: usize) -> Served {
        let stretch = self.stretch(place);
        let mut served = Served::default();
        for direction in self.directions(place) {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            let alpha = direction.left.reconstruct(&mut left);
            let beta = direction.right.reconstruct(&mut right);
            served.weights.push(direction.weight(alpha, beta) * stretch);
            served.left.push(left);
            served.right.push(right);
        }
        served
    }

    /// One module's directions, the strongest first.
    pub(super) fn directions(&self, place: usize) -> &[Direction] {
        &self.modules[place].directions
    }

    /// The factor by which a module's weights make up for directions left out.
    pub(super) fn stretch(&self, place: usize) -> f64 {
        self.modules[place].stretch()
    }

    /// Energy of a module's directions relative to the whole adapter's.
    pub(super) fn kept(&self, place: usize) -> f64 {
        self.modules[place].kept()
    }
}

fn unbiased(alpha: f64, beta: f64) -> f64 {
    let product = alpha * beta;
    if product > 0.0 {
        product.recip().clamp(GAIN.recip(), GAIN)
    } else {
        0.0
    }
}

impl Module {
    fn layer<C: Coder>(
        &mut self,
        rung: u8,
        truth: Option<&ModuleTruth>,
        coder: &mut C,
        chances: &mut SegmentChances,
        limit: usize,
    ) -> bool {
        let widest = self.left_term.max(self.right_term);
        let most = self.shape.full_rank();
        // Directions that come in at this rung, the strongest first.
        while self.directions.len() < most {
            let next = truth.and_then(|truth| truth.steps.get(self.directions.len()).copied());
            let due = next.is_some_and(|step| scale::entry_rung(step, widest) <= i32::from(rung));
            if !coder.bit(&mut chances.another, due) {
                break;
            }
            if self.directions.len() >= limit {
                return false;
            }
            // Which of the sizes that share this rung as their entry; at rung 0, all that is larger.
            let step = if rung == 0 {
                let step = next.unwrap_or(0);
                i32::try_from(coder.raw(u32::try_from(step).unwrap_or(0), 9)).unwrap_or(0)
            } else {
                let first = first_size(rung, widest);
                let offset = next.map_or(0, |step| step - first);
                let offset = coder.raw(u32::try_from(offset).unwrap_or(0), 2);
                first + i32::try_from(offset).unwrap_or(0)
            };
            // An encoder never sends one that is not due, so both vectors come in with it.
            let due = scale::entry_rung(step, widest) <= i32::from(rung);
            if !(due && (0..=SMALLEST).contains(&step)) {
                return false;
            }
            self.directions.push(Direction {
                step,
                ..Direction::default()
            });
        }
        for (index, direction) in self.directions.iter_mut().enumerate() {
            let truth = truth.map(|truth| &truth.directions);
            direction.left.advance(
                scale::plane(direction.step, self.left_term, rung),
                self.shape.out_features,
                truth.map(|truth| truth.left.col_as_slice(index)),
                coder,
                &mut chances.left,
            );
            direction.right.advance(
                scale::plane(direction.step, self.right_term, rung),
                self.shape.in_features,
                truth.map(|truth| truth.right.col_as_slice(index)),
                coder,
                &mut chances.right,
            );
        }
        true
    }
}

/// The largest size whose entry rung is `rung`; it and the next three share it.
fn first_size(rung: u8, width_term: i32) -> i32 {
    let mut step = (8 * (i32::from(rung) - 1) - width_term + 192) / 2 - 4;
    while scale::entry_rung(step, width_term) < i32::from(rung) {
        step += 1;
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_size_of_a_rung_is_the_first() {
        for width in [64, 576, 2048, 14_336] {
            let term = scale::width_term(width);
            for rung in 1..=scale::LAST_RUNG {
                let step = first_size(rung, term);
                assert_eq!(
                    scale::entry_rung(step, term),
                    i32::from(rung),
                    "{width} {rung}"
                );
                assert!(scale::entry_rung(step - 1, term) < i32::from(rung));
                assert_eq!(scale::entry_rung(step + 3, term), i32::from(rung));
                assert!(scale::entry_rung(step + 4, term) > i32::from(rung));
            }
        }
    }

    #[test]
    fn segments_cover_all_modules_in_order() {
        let module = CodedModule {
            out_features: 576,
            in_features: 576,
            norm: Some(3),
        };
        let lengths = segments(&[module; 100]);
        assert_eq!(lengths, [28, 28, 28, 16]);
        assert!(segments(&[]).is_empty());
        // A large module stands alone, however large.
        let large = |out_features| CodedModule {
            out_features,
            ..module
        };
        let mixed = [module, large(50_000), large(20_000), large(20_000), module];
        assert_eq!(segments(&mixed), [1, 1, 1, 2]);
    }
}
