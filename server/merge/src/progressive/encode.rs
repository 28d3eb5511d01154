//! A newcomer becomes a code: as many layers as it could possibly keep.
//!
//! Two passes over the adapter, so that a segment for each thread is all that is in memory beside
//! the code itself: the first finds the sizes of all directions, which tell how many layers are
//! worth making; the second makes them.

use super::coder::Encoder;
use super::figures::{Sums, Tracker};
use super::member::SMALLEST_NORM;
use super::scale::{self, LAST_RUNG};
use super::segment::{CodedModule, Segment, Truth, segments};
use super::spectrum::{Component, components};
use super::vector;
use crate::operator::ReadScratch;
use crate::parallel::try_map;
use crate::{AdapterView, MergeError};

/// The sizes of an adapter's directions, without the directions.
#[derive(Debug)]
pub(super) struct Outline {
    /// ‖D‖ over all modules.
    pub(super) norm: f64,
    /// ‖D‖ by module, in the order of the layout.
    pub(super) norms: Vec<f64>,
    /// By module, in the order of the layout.
    pub(super) modules: Vec<CodedModule>,
    /// By module, the size steps of its directions, the strongest first.
    sizes: Vec<Vec<i32>>,
    /// The largest rank of a module as it arrived.
    pub(super) rank: usize,
}

/// A code and what it keeps at each rung.
#[derive(Debug)]
pub(super) struct Code {
    /// By segment, the layers from rung 0 on.
    pub(super) segments: Vec<Vec<Vec<u8>>>,
    /// By rung.
    pub(super) sums: Vec<Sums>,
}

impl Outline {
    /// First pass.
    pub(super) fn of(newcomer: AdapterView<'_>) -> Result<Self, MergeError> {
        let modules = &newcomer.layout.modules;
        let sigmas: Vec<Vec<f64>> =
            try_map(modules.len(), ReadScratch::default, |scratch, index| {
                let found = components(&modules[index], newcomer, scratch)?;
                Ok::<_, MergeError>(found.iter().map(|component| component.sigma).collect())
            })?;
        let energy = |sigmas: &[f64]| sigmas.iter().map(|sigma| sigma * sigma).sum::<f64>();
        let norm = sigmas
            .iter()
            .map(|sigmas| energy(sigmas))
            .sum::<f64>()
            .sqrt();
        let relative = |value: f64| if norm > 0.0 { value / norm } else { 0.0 };
        Ok(Self {
            norm,
            norms: sigmas.iter().map(|sigmas| energy(sigmas).sqrt()).collect(),
            modules: modules
                .iter()
                .zip(&sigmas)
                .map(|(module, sigmas)| CodedModule {
                    out_features: module.out_features,
                    in_features: module.in_features,
                    norm: norm_step(relative(energy(sigmas).sqrt())),
                })
                .collect(),
            sizes: sigmas
                .iter()
                .map(|sigmas| {
                    if norm_step(relative(energy(sigmas).sqrt())).is_none() {
                        return Vec::new();
                    }
                    let steps = sigmas.iter();
                    steps
                        .map_while(|&sigma| scale::size_step(relative(sigma)))
                        .collect()
                })
                .collect(),
            rank: newcomer.layout.rank(),
        })
    }

    /// Bytes that the layers up to `rung` are expected to take.
    pub(super) fn expected_bytes(&self, rung: u8) -> f64 {
        let mut bits = 0.0;
        for (module, sizes) in self.modules.iter().zip(&self.sizes) {
            let terms = [module.out_features, module.in_features]
                .map(|entries| (entries, scale::width_term(entries)));
            let widest = terms[0].1.max(terms[1].1);
            for &step in sizes {
                if scale::entry_rung(step, widest) > i32::from(rung) {
                    break;
                }
                for (entries, term) in terms {
                    let entries = f64::from(u32::try_from(entries).unwrap_or(u32::MAX));
                    bits += entries * scale::expected_bits(scale::plane(step, term, rung));
                }
            }
        }
        bits / 8.0
    }

    /// The last rung that is worth a layer when at most `bytes` can be kept: a little beyond what is
    /// expected to fit, and never beyond the finest plane of the weakest direction.
    pub(super) fn last_rung(&self, bytes: u64) -> u8 {
        const MARGIN: u8 = 3;
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let bytes = bytes as f64;
        let finest = self.finest_rung();
        let fits = (0..finest).take_while(|&rung| self.expected_bytes(rung) <= bytes);
        fits.last().map_or(0, |rung| rung + 1 + MARGIN).min(finest)
    }

    /// The first rung at which every direction is at the finest plane.
    fn finest_rung(&self) -> u8 {
        let finest = |rung: u8| {
            self.modules.iter().zip(&self.sizes).all(|(module, sizes)| {
                sizes.last().is_none_or(|&step| {
                    [module.out_features, module.in_features]
                        .into_iter()
                        .all(|entries| {
                            scale::plane(step, scale::width_term(entries), rung)
                                >= scale::LAST_PLANE
                        })
                })
            })
        };
        (0..LAST_RUNG)
            .find(|&rung| finest(rung))
            .unwrap_or(LAST_RUNG)
    }

    /// Second pass: all layers up to `last`.
    pub(super) fn code(
        &self,
        newcomer: AdapterView<'_>,
        last: u8,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<Code, MergeError> {
        let lengths = segments(&self.modules);
        let starts: Vec<usize> = lengths
            .iter()
            .scan(0, |next, length| {
                let start = *next;
                *next += length;
                Some(start)
            })
            .collect();
        let finished = std::sync::atomic::AtomicUsize::new(0);
        let coded = try_map(lengths.len(), ReadScratch::default, |scratch, index| {
            let range = starts[index]..starts[index] + lengths[index];
            let truth = range
                .clone()
                .map(|place| self.truth(place, newcomer, scratch))
                .collect::<Result<Vec<_>, _>>()?;
            let coded = code_segment(&self.modules[range], &Truth { modules: &truth }, last);
            let done = finished.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            progress(crate::similarity::share(done, lengths.len()));
            Ok::<_, MergeError>(coded)
        })?;
        let mut sums = vec![Sums::default(); usize::from(last) + 1];
        let mut segments = Vec::with_capacity(coded.len());
        for (layers, of_segment) in coded {
            sums.iter_mut()
                .zip(&of_segment)
                .for_each(|(sum, more)| sum.add(more));
            segments.push(layers);
        }
        Ok(Code { segments, sums })
    }

    /// A module's directions relative to the adapter's norm, ready to be coded.
    fn truth(
        &self,
        place: usize,
        newcomer: AdapterView<'_>,
        scratch: &mut ReadScratch,
    ) -> Result<Vec<(i32, Component)>, MergeError> {
        let found = components(&newcomer.layout.modules[place], newcomer, scratch)?;
        Ok(found
            .into_iter()
            .zip(&self.sizes[place])
            .map(|(mut component, &step)| {
                component.sigma /= self.norm;
                vector::normalise(&mut component.left);
                vector::normalise(&mut component.right);
                (step, component)
            })
            .collect())
    }
}

/// The size step of a module's norm; a module too small to matter counts as zero.
fn norm_step(relative: f64) -> Option<i32> {
    scale::size_step(relative).filter(|&step| step <= SMALLEST_NORM)
}

fn code_segment(modules: &[CodedModule], truth: &Truth<'_>, last: u8) -> (Vec<Vec<u8>>, Vec<Sums>) {
    let mut segment = Segment::new(modules);
    let mut tracker = Tracker::new(modules.len());
    (0..=last)
        .map(|rung| {
            let mut encoder = Encoder::new();
            // An encoder's own bits always make sense.
            segment.layer(rung, Some(truth), &mut encoder);
            (encoder.finish(), tracker.measure(&segment, truth))
        })
        .unzip()
}
