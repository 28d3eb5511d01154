//! How alike a newcomer and the members of a slot are: average linkage, from rough codes.
//!
//! The first layers of a member hold its strongest directions, which is what a likeness is made of;
//! decoding all layers would cost more than merging does. Of many members an even sample is taken,
//! so that the cost of an arrival stays bounded.

use super::encode::Outline;
use super::place::PackedView;
use super::segment::Served;
use crate::gram::{self, reduce};
use crate::operator::{ReadScratch, narrow};
use crate::parallel::try_map;
use crate::{AdapterView, MergeError, device, element};

/// Members of a slot that are compared at most.
const SAMPLE: usize = 16;
/// A member's first rungs are decoded until they have this share of its energy.
const ENERGY: f64 = 0.5;

/// Mean over members (a sample) of the mean over common modules of the cosine of the updates.
pub(super) fn likeness(
    view: &PackedView<'_>,
    newcomer: AdapterView<'_>,
    outline: &Outline,
) -> Result<f64, MergeError> {
    let members = view.packed.members.len();
    let count = members.min(SAMPLE);
    let mut sum = 0.0;
    for index in 0..count {
        sum += with_member(view, index * members / count, newcomer, outline)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of at most SAMPLE")]
    let count = count.max(1) as f64;
    Ok(sum / count)
}

fn with_member(
    view: &PackedView<'_>,
    index: usize,
    newcomer: AdapterView<'_>,
    outline: &Outline,
) -> Result<f64, MergeError> {
    let packed = view.packed;
    let member = &packed.members[index];
    let rungs = (1..member.height())
        .find(|&rungs| member.fidelity_at(rungs).energy_kept >= ENERGY)
        .unwrap_or(member.height());
    let sums = try_map(
        packed.segments(index),
        Scratch::default,
        |scratch, segment| {
            let (decoded, places) = packed.decode(view.source, index, segment, rungs)?;
            let (mut sum, mut common) = (0.0, 0_u32);
            for (place, &entry) in places.iter().enumerate() {
                let entry = &packed.table.entries()[entry];
                let modules = &newcomer.layout.modules;
                let found = modules
                    .binary_search_by(|module| crate::compare_paths(&module.path, &entry.path));
                if let Ok(module) = found {
                    let shape = &modules[module];
                    entry.expect_shape(shape.out_features, shape.in_features)?;
                    sum += scratch.cosine(newcomer, outline, module, &decoded.served(place))?;
                    common += 1;
                }
            }
            Ok::<_, MergeError>((sum, common))
        },
    )?;
    let (sum, common) = sums
        .into_iter()
        .fold((0.0, 0), |(sum, count), (more, common)| {
            (sum + more, count + common)
        });
    Ok(if common > 0 {
        sum / f64::from(common)
    } else {
        0.0
    })
}

#[derive(Debug, Default)]
struct Scratch {
    read: ReadScratch,
    served: Vec<f32>,
    left: Vec<f32>,
    right: Vec<f32>,
}

impl Scratch {
    /// ⟨D, D̂⟩ / (‖D‖·‖D̂‖) for one module; 0 where either is zero.
    fn cosine(
        &mut self,
        newcomer: AdapterView<'_>,
        outline: &Outline,
        module: usize,
        served: &Served,
    ) -> Result<f64, MergeError> {
        let norm = outline.norms[module];
        let directions = served.weights.len();
        if directions == 0 || norm <= 0.0 {
            return Ok(0.0);
        }
        let layout = &newcomer.layout.modules[module];
        let device = device::compute();
        let Self {
            read,
            served: stack,
            left,
            right,
        } = self;
        let (values, halves) = read.buffers();

        values.resize(layout.rank * layout.in_features, 0.0);
        element::read(newcomer.source, &layout.a, values, halves).map_err(MergeError::Source)?;
        stack.clear();
        stack.extend(served.right.iter().flatten());
        // rank × directions
        gram::rows(values, layout.rank, stack, directions, right, device)?;
        let mut square = Vec::new();
        gram::rows(stack, directions, stack, directions, &mut square, device)?;

        values.resize(layout.out_features * layout.rank, 0.0);
        element::read(newcomer.source, &layout.b, values, halves).map_err(MergeError::Source)?;
        stack.clear();
        for row in 0..layout.out_features {
            stack.extend(served.left.iter().map(|left| left[row]));
        }
        gram::columns(values, layout.rank, stack, directions, left, device)?;
        let mut left_square = Vec::new();
        gram::columns(
            stack,
            directions,
            stack,
            directions,
            &mut left_square,
            device,
        )?;

        for (index, entry) in left.iter_mut().enumerate() {
            *entry *= narrow(served.weights[index % directions] * layout.scaling);
        }
        for (index, entry) in square.iter_mut().enumerate() {
            let weights = served.weights[index / directions] * served.weights[index % directions];
            *entry *= narrow(weights);
        }
        let length = reduce(&square, &left_square).max(0.0).sqrt();
        let inner = reduce(left, right);
        Ok(if length > 0.0 {
            (inner / (norm * length)).clamp(-1.0, 1.0)
        } else {
            0.0
        })
    }
}
