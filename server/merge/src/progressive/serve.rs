//! From a packed slot to ordinary adapters: one for each task, and one for the slot as a whole.
//!
//! A served adapter is in normal form: weights folded into the factors, one rank, scaling 1. It is
//! written segment by segment.

use super::segment::Served;
use super::slot::PackedSlot;
use crate::header::{NormalForm, ShapedModule};
use crate::operator::exact::{self, ExactScratch};
use crate::operator::{Side, Target, narrow};
use crate::parallel::try_map;
use crate::{
    AdapterLayout, Dtype, MergeError, ModuleLayout, TensorRange, TensorSink, TensorSource, element,
};

impl PackedSlot {
    /// Writes the adapter that serves one member, at the rank that it needs.
    ///
    /// # Errors
    ///
    /// [`MergeError::Source`] and [`MergeError::Sink`] from reading and writing,
    /// [`MergeError::DamagedSlot`] for layers that make no sense, [`MergeError::NotFinite`] when a
    /// value does not fit `dtype`.
    ///
    /// # Panics
    ///
    /// When there is no such member.
    pub fn export_member(
        &self,
        source: &dyn TensorSource,
        member: usize,
        dtype: Dtype,
        sink: &mut dyn TensorSink,
    ) -> Result<AdapterLayout, MergeError> {
        let owner = &self.members[member];
        let rank = owner.fidelity().rank.max(1);
        let present = (0..self.table.len()).filter(|&place| owner.modules[place].is_some());
        let form = NormalForm::new(present.map(|place| self.shape(place)), rank, dtype);
        sink.write(&form.head).map_err(MergeError::Sink)?;
        let norm = f64::from(owner.norm);
        in_order(self.segments(member), sink, |index| {
            let (segment, places) = self.decode(source, member, index, owner.height())?;
            let mut bytes = Vec::new();
            for (place, &entry) in places.iter().enumerate() {
                let target = self.target(entry, rank);
                let mut values = vec![0.0; target.len()];
                factors(&segment.served(place), norm, target, &mut values);
                self.append(entry, dtype, &mut values, &mut bytes)?;
            }
            Ok(bytes)
        })?;
        Ok(form.layout)
    }

    /// Writes the adapter of the slot as a whole: the mean of the members' updates, at the largest
    /// rank that any of them arrived with (or all are served with, where that is less), cut off one
    /// member after the other as `exact` does.
    ///
    /// # Errors
    ///
    /// As for [`PackedSlot::export_member`].
    pub fn export_mean(
        &self,
        source: &dyn TensorSource,
        dtype: Dtype,
        sink: &mut dyn TensorSink,
    ) -> Result<AdapterLayout, MergeError> {
        let arrived = self.members.iter().map(|member| member.rank).max();
        let served = self.members.iter().map(|member| member.fidelity().rank);
        let rank = arrived.unwrap_or(0).min(served.sum()).max(1);
        let shapes = (0..self.table.len()).map(|place| self.shape(place));
        let form = NormalForm::new(shapes, rank, dtype);
        sink.write(&form.head).map_err(MergeError::Sink)?;
        in_order(self.table.len(), sink, |entry| {
            let mut bytes = Vec::new();
            let mut values = self.mean(source, entry, rank)?;
            self.append(entry, dtype, &mut values, &mut bytes)?;
            Ok(bytes)
        })?;
        Ok(form.layout)
    }

    /// The mean of one module.
    fn mean(
        &self,
        source: &dyn TensorSource,
        entry: usize,
        rank: usize,
    ) -> Result<Vec<f32>, MergeError> {
        let target = self.target(entry, rank);
        let mut mean = vec![0.0; target.len()];
        let mut scratch = ExactScratch::default();
        for (member, owner) in self.members.iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "members are few")]
            let share = 1.0 / (member as f64 + 1.0);
            let mut next = vec![0.0; target.len()];
            if let Some((segment, place)) = self.segment_of(member, entry) {
                let (decoded, _) = self.decode(source, member, segment, owner.height())?;
                let mut served = decoded.served(place);
                served.weights.truncate(rank);
                factors(&served, f64::from(owner.norm), target, &mut next);
            }
            if member == 0 {
                mean = next;
                continue;
            }
            let module = self.in_memory(entry, target);
            let before: Vec<u8> = bytemuck::cast_slice(&mean).to_vec();
            let next: Vec<u8> = bytemuck::cast_slice(&next).to_vec();
            let side = |source| Side {
                module: &module,
                source,
            };
            exact::merge(
                side(&before),
                side(&next),
                share,
                target,
                &mut scratch,
                &mut mean,
            )?;
        }
        Ok(mean)
    }

    /// Which segment of a member has a module of the table, and its place there.
    fn segment_of(&self, member: usize, entry: usize) -> Option<(usize, usize)> {
        let owner = &self.members[member];
        owner.modules[entry]?;
        let mut place = owner.modules[..entry].iter().flatten().count();
        for (segment, length) in super::segment::segments(&owner.present())
            .into_iter()
            .enumerate()
        {
            if place < length {
                return Some((segment, place));
            }
            place -= length;
        }
        None
    }

    fn shape(&self, place: usize) -> ShapedModule<'_> {
        let entry = &self.table.entries()[place];
        ShapedModule {
            path: &entry.path,
            out_features: entry.out_features,
            in_features: entry.in_features,
        }
    }

    fn target(&self, place: usize, rank: usize) -> Target {
        let entry = &self.table.entries()[place];
        Target {
            out_features: entry.out_features,
            in_features: entry.in_features,
            rank,
        }
    }

    /// A module whose factors lie one after the other in memory, as f32.
    fn in_memory(&self, place: usize, target: Target) -> ModuleLayout {
        let range = |start: usize, count: usize| TensorRange {
            dtype: Dtype::F32,
            offset: wide(start * 4),
            bytes: wide(count * 4),
        };
        let b = target.len() - target.a_len();
        ModuleLayout {
            path: self.table.entries()[place].path.clone(),
            in_features: target.in_features,
            out_features: target.out_features,
            rank: target.rank,
            scaling: 1.0,
            a: range(0, target.a_len()),
            b: range(target.a_len(), b),
        }
    }

    /// Appends factors as they are stored.
    fn append(
        &self,
        place: usize,
        dtype: Dtype,
        values: &mut [f32],
        bytes: &mut Vec<u8>,
    ) -> Result<(), MergeError> {
        let mut words = Vec::new();
        element::round(dtype, values, &mut words);
        if !element::all_finite(values) {
            return Err(MergeError::NotFinite {
                module: self.table.entries()[place].path.clone(),
                dtype,
            });
        }
        bytes.extend_from_slice(element::bytes(dtype, values, &words));
        Ok(())
    }
}

/// Fills A and B, zero beyond the directions that there are. The root of each weight goes into
/// either factor, so that both have values of the same size.
fn factors(served: &Served, norm: f64, target: Target, values: &mut [f32]) {
    let (a, b) = values.split_at_mut(target.a_len());
    for (index, weight) in served.weights.iter().enumerate() {
        let root = narrow((weight * norm).sqrt());
        let row = &mut a[index * target.in_features..(index + 1) * target.in_features];
        row.iter_mut()
            .zip(&served.right[index])
            .for_each(|(out, &entry)| *out = entry * root);
        b.chunks_exact_mut(target.rank)
            .zip(&served.left[index])
            .for_each(|(row, &entry)| row[index] = entry * root);
    }
}

/// Computes pieces side by side and writes them in order, a few at a time.
fn in_order(
    count: usize,
    sink: &mut dyn TensorSink,
    piece: impl Fn(usize) -> Result<Vec<u8>, MergeError> + Sync,
) -> Result<(), MergeError> {
    let batch = rayon::current_num_threads();
    for start in (0..count).step_by(batch) {
        let pieces = try_map(
            batch.min(count - start),
            || (),
            |(), index| piece(start + index),
        )?;
        for bytes in pieces {
            sink.write(&bytes).map_err(MergeError::Sink)?;
        }
    }
    Ok(())
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
