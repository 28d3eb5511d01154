//! What a code keeps of an update at each rung, measured against the update itself.
//!
//! ‖D − D̂‖² = ‖D‖² − 2⟨D, D̂⟩ + ‖D̂‖², every term by inner products of vectors: exact algebra, so
//! a bound that is kept with the code stays true however often the code is cut off later. Only
//! directions that a rung has changed are multiplied again.

use super::segment::{Segment, Truth};
use super::spectrum::Component;
use super::vector::{Vector, root_of};

/// Sums over modules, relative to the squared norm of the whole adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sums {
    /// ‖D‖².
    pub(super) all: f64,
    /// ⟨D, D̂⟩.
    pub(super) inner: f64,
    /// ‖D̂‖².
    pub(super) served: f64,
    /// Energy of the directions that are kept.
    pub(super) kept: f64,
    /// The largest rank of a module.
    pub(super) most: usize,
    /// The sum of the ranks.
    pub(super) ranks: usize,
}

impl Sums {
    pub(super) fn add(&mut self, other: &Self) {
        self.all += other.all;
        self.inner += other.inner;
        self.served += other.served;
        self.kept += other.kept;
        self.most = self.most.max(other.most);
        self.ranks += other.ranks;
    }
}

/// Follows a segment from rung to rung.
#[derive(Debug)]
pub(super) struct Tracker {
    modules: Vec<Module>,
}

#[derive(Debug, Default)]
struct Module {
    planes: Vec<(i32, i32)>,
    left: Side,
    right: Side,
}

/// One side's vectors and their products.
#[derive(Debug, Default)]
struct Side {
    vectors: Vec<Vec<f32>>,
    /// Squared lengths.
    lengths: Vec<f64>,
    /// With every true vector, which is √d times a unit vector.
    with_truth: Vec<Vec<f64>>,
    /// With one another.
    with_served: Vec<Vec<f64>>,
}

impl Tracker {
    pub(super) fn new(modules: usize) -> Self {
        Self {
            modules: (0..modules).map(|_| Module::default()).collect(),
        }
    }

    /// The sums of the segment as it now is.
    pub(super) fn measure(&mut self, segment: &Segment, truth: &Truth<'_>) -> Sums {
        let mut sums = Sums::default();
        for (place, (module, truth)) in self.modules.iter_mut().zip(truth.modules).enumerate() {
            module.follow(segment, place, truth);
            sums.add(&module.sums(segment, place, truth));
        }
        sums
    }
}

impl Module {
    fn follow(&mut self, segment: &Segment, place: usize, truth: &[(i32, Component)]) {
        for (index, direction) in segment.directions(place).iter().enumerate() {
            let planes = (direction.left.plane, direction.right.plane);
            let before = self.planes.get(index).copied().unwrap_or_default();
            if before.0 != planes.0 {
                let left = truth.iter().map(|(_, component)| component.left.as_slice());
                self.left.replace(index, &direction.left, left);
            }
            if before.1 != planes.1 {
                let right = truth
                    .iter()
                    .map(|(_, component)| component.right.as_slice());
                self.right.replace(index, &direction.right, right);
            }
            match self.planes.get_mut(index) {
                Some(known) => *known = planes,
                None => self.planes.push(planes),
            }
        }
    }

    fn sums(&self, segment: &Segment, place: usize, truth: &[(i32, Component)]) -> Sums {
        let stretch = segment.stretch(place);
        let directions = segment.directions(place);
        let weights: Vec<f64> = directions
            .iter()
            .enumerate()
            .map(|(index, direction)| {
                direction.weight(self.left.lengths[index], self.right.lengths[index]) * stretch
            })
            .collect();
        let (mut inner, mut served) = (0.0, 0.0);
        for (index, weight) in weights.iter().enumerate() {
            for (other, (_, component)) in truth.iter().enumerate() {
                inner += weight
                    * component.sigma
                    * self.left.with_truth[index][other]
                    * self.right.with_truth[index][other];
            }
            for (other, other_weight) in weights.iter().enumerate() {
                served += weight
                    * other_weight
                    * self.left.with_served[index][other]
                    * self.right.with_served[index][other];
            }
        }
        Sums {
            all: truth
                .iter()
                .map(|(_, component)| component.sigma.powi(2))
                .sum(),
            inner,
            served,
            kept: segment.kept(place),
            most: directions.len(),
            ranks: directions.len(),
        }
    }
}

impl Side {
    fn replace<'a>(
        &mut self,
        index: usize,
        vector: &Vector,
        truth: impl Iterator<Item = &'a [f32]>,
    ) {
        if index >= self.vectors.len() {
            self.vectors.push(Vec::new());
            self.lengths.push(0.0);
            self.with_truth.push(Vec::new());
            self.with_served.push(Vec::new());
        }
        let mut served = std::mem::take(&mut self.vectors[index]);
        self.lengths[index] = vector.reconstruct(&mut served);
        self.with_truth[index] = truth
            .map(|truth| dot(truth, &served) / root_of(truth.len()))
            .collect();
        self.vectors[index] = served;
        let products: Vec<f64> = self
            .vectors
            .iter()
            .map(|other| dot(other, &self.vectors[index]))
            .collect();
        for (other, &product) in products.iter().enumerate() {
            if other != index {
                let row = &mut self.with_served[other];
                match row.get_mut(index) {
                    Some(known) => *known = product,
                    None => row.push(product),
                }
            }
        }
        self.with_served[index] = products;
    }
}

/// An inner product, f32 inside blocks and f64 across them.
fn dot(left: &[f32], right: &[f32]) -> f64 {
    const LANES: usize = 16;
    const BLOCK: usize = 32 * LANES;
    left.chunks(BLOCK)
        .zip(right.chunks(BLOCK))
        .map(|(left, right)| {
            let mut lanes = [0.0_f32; LANES];
            let (whole, rest) = left.as_chunks::<LANES>();
            let (other, other_rest) = right.as_chunks::<LANES>();
            for (left, right) in whole.iter().zip(other) {
                for (lane, (left, right)) in lanes.iter_mut().zip(left.iter().zip(right)) {
                    *lane += left * right;
                }
            }
            let tail: f32 = rest.iter().zip(other_rest).map(|(l, r)| l * r).sum();
            f64::from(lanes.iter().sum::<f32>() + tail)
        })
        .sum()
}
