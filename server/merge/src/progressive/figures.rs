//! What a code keeps of an update at each rung, measured against the update itself.
//!
//! ‖D − D̂‖² = ‖D‖² − 2⟨D, D̂⟩ + ‖D̂‖², every term by inner products of vectors: exact algebra, so
//! a bound that is kept with the code stays true however often the code is cut off later. Only
//! directions that a rung has changed are multiplied again.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use super::segment::{ModuleTruth, Segment, Truth};
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

/// Vectors that are multiplied at once: enough for a product to be worth its set-up, few enough for a
/// copy of them to be small.
const BLOCK: usize = 32;

/// Follows a segment from rung to rung.
#[derive(Debug)]
pub(super) struct Tracker {
    modules: Vec<Module>,
}

#[derive(Debug)]
struct Module {
    planes: Vec<(i32, i32)>,
    left: Side,
    right: Side,
}

/// One side's vectors and their products, which are f32: far more precise than any code. Vectors are
/// columns of matrices, whose memory is aligned: kernels of products depend on that in the last
/// digit, and the same input must give the same bytes.
#[derive(Debug)]
struct Side {
    /// What is served of the true vectors, of the first `lengths.len()`.
    served: Mat<f32>,
    /// Squared lengths.
    lengths: Vec<f64>,
    /// ⟨truth, served⟩ and ⟨served, served⟩ of all pairs.
    with_truth: Mat<f64>,
    with_served: Mat<f64>,
    /// The vectors that a rung has changed.
    changed: Vec<usize>,
    vector: Vec<f32>,
}

impl Tracker {
    pub(super) fn new(truth: &Truth<'_>) -> Self {
        Self {
            modules: truth.modules.iter().map(Module::new).collect(),
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
    fn new(truth: &ModuleTruth) -> Self {
        Self {
            planes: Vec::new(),
            left: Side::new(&truth.directions.left),
            right: Side::new(&truth.directions.right),
        }
    }

    fn follow(&mut self, segment: &Segment, place: usize, truth: &ModuleTruth) {
        let directions = segment.directions(place);
        for (index, direction) in directions.iter().enumerate() {
            let planes = (direction.left.plane, direction.right.plane);
            let before = self.planes.get(index).copied().unwrap_or_default();
            if before.0 != planes.0 {
                self.left.replace(index, &direction.left);
            }
            if before.1 != planes.1 {
                self.right.replace(index, &direction.right);
            }
            match self.planes.get_mut(index) {
                Some(known) => *known = planes,
                None => self.planes.push(planes),
            }
        }
        self.left.multiply(&truth.directions.left);
        self.right.multiply(&truth.directions.right);
    }

    fn sums(&self, segment: &Segment, place: usize, truth: &ModuleTruth) -> Sums {
        let stretch = segment.stretch(place);
        let directions = segment.directions(place);
        let weights: Vec<f64> = directions
            .iter()
            .enumerate()
            .map(|(index, direction)| {
                direction.weight(self.left.lengths[index], self.right.lengths[index]) * stretch
            })
            .collect();
        let sigmas = &truth.directions.sigmas;
        let (mut inner, mut served) = (0.0, 0.0);
        for (index, weight) in weights.iter().enumerate() {
            let pairs = |left: &Mat<f64>, right: &Mat<f64>, weights: &[f64]| -> f64 {
                let (left, right) = (left.col_as_slice(index), right.col_as_slice(index));
                let products = weights.iter().zip(left.iter().zip(right));
                products.map(|(weight, (l, r))| weight * l * r).sum()
            };
            inner += weight * pairs(&self.left.with_truth, &self.right.with_truth, sigmas);
            served += weight * pairs(&self.left.with_served, &self.right.with_served, &weights);
        }
        Sums {
            all: sigmas.iter().map(|sigma| sigma.powi(2)).sum(),
            inner,
            served,
            kept: segment.kept(place),
            most: directions.len(),
            ranks: directions.len(),
        }
    }
}

impl Side {
    fn new(truth: &Mat<f32>) -> Self {
        let (width, count) = truth.shape();
        Self {
            served: Mat::zeros(width, count),
            lengths: Vec::new(),
            with_truth: Mat::zeros(count, count),
            with_served: Mat::zeros(count, count),
            changed: Vec::new(),
            vector: Vec::new(),
        }
    }

    /// Takes the vector as it is now known. Its products follow.
    fn replace(&mut self, index: usize, vector: &Vector) {
        let length = vector.reconstruct(&mut self.vector);
        self.served
            .col_as_slice_mut(index)
            .copy_from_slice(&self.vector);
        match self.lengths.get_mut(index) {
            Some(known) => *known = length,
            None => self.lengths.push(length),
        }
        self.changed.push(index);
    }

    /// Multiplies what has changed with everything. `truth` has the true vectors as columns, each √d
    /// times a unit vector.
    fn multiply(&mut self, truth: &Mat<f32>) {
        let root = root_of(truth.nrows());
        let known = self.served.as_ref().subcols(0, self.lengths.len());
        for block in self.changed.chunks(BLOCK) {
            let mut changed = Mat::zeros(known.nrows(), block.len());
            for (place, &index) in block.iter().enumerate() {
                let column = self.served.col_as_slice(index);
                changed.col_as_slice_mut(place).copy_from_slice(column);
            }
            let products = product(truth.as_ref(), changed.as_ref());
            for (place, &index) in block.iter().enumerate() {
                for (other, &product) in products.col_as_slice(place).iter().enumerate() {
                    self.with_truth[(other, index)] = f64::from(product) / root;
                }
            }
            let products = product(known, changed.as_ref());
            for (place, &index) in block.iter().enumerate() {
                for (other, &product) in products.col_as_slice(place).iter().enumerate() {
                    self.with_served[(other, index)] = f64::from(product);
                    self.with_served[(index, other)] = f64::from(product);
                }
            }
        }
        self.changed.clear();
    }
}

/// XᵀY.
fn product(x: MatRef<'_, f32>, y: MatRef<'_, f32>) -> Mat<f32> {
    let mut out = Mat::zeros(x.ncols(), y.ncols());
    matmul(
        out.as_mut(),
        Accum::Replace,
        x.transpose(),
        y,
        1.0,
        Par::Seq,
    );
    out
}
