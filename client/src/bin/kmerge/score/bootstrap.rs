//! S, how much of the original adapters' scores the served ones keep, and how sure that is.
//!
//! S is the mean over tasks of served / original for token accuracy and exact match, and of
//! original / served for the loss. A task whose original has 0 has no ratio and is left out. The
//! interval comes from resampling tasks, and examples within each, with a generator that the seed
//! alone decides: same outcomes, same seed, same interval.

use super::metrics::{Figures, Outcome};

/// How often everything is resampled.
pub(crate) const RESAMPLES: usize = 1000;

/// One task's outcomes, example by example, with the served and with the original adapter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) served: &'a [Outcome],
    pub(crate) original: &'a [Outcome],
}

/// One S with its 95 % interval. Not a number where no task has a ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Tasks that have no ratio.
    pub(crate) left_out: usize,
}

/// S for each figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Kept {
    pub(crate) accuracy: Ratio,
    pub(crate) loss: Ratio,
    pub(crate) exact: Ratio,
}

/// The three ratios of one task: accuracy, loss, exact match.
fn ratios(served: &Figures, original: &Figures) -> [Option<f64>; 3] {
    let over = |upper: f64, lower: f64| (lower > 0.0).then(|| upper / lower);
    [
        over(served.accuracy, original.accuracy),
        over(original.loss, served.loss).filter(|_| original.loss > 0.0),
        over(served.exact, original.exact),
    ]
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    // 0 / 0 where there is none.
    sum / count
}

/// S of some tasks, with its interval.
pub(crate) fn kept(pairs: &[Pair<'_>], seed: u64) -> Kept {
    let all: Vec<[Option<f64>; 3]> = pairs
        .iter()
        .map(|pair| ratios(&Figures::of(pair.served), &Figures::of(pair.original)))
        .collect();
    let mut generator = Generator(seed);
    let mut resampled: [Vec<f64>; 3] = Default::default();
    for _ in 0..if pairs.is_empty() { 0 } else { RESAMPLES } {
        let once: Vec<_> = (0..pairs.len())
            .map(|_| resample(&pairs[generator.below(pairs.len())], &mut generator))
            .collect();
        for (figure, values) in resampled.iter_mut().enumerate() {
            let value = mean(once.iter().filter_map(|ratios| ratios[figure]));
            values.extend(Some(value).filter(|value| value.is_finite()));
        }
    }
    let [accuracy, loss, exact] = [0, 1, 2].map(|figure| {
        let values = &mut resampled[figure];
        values.sort_unstable_by(f64::total_cmp);
        Ratio {
            value: mean(all.iter().filter_map(|ratios| ratios[figure])),
            low: quantile(values, 25),
            high: quantile(values, 975),
            left_out: all.iter().filter(|ratios| ratios[figure].is_none()).count(),
        }
    });
    Kept {
        accuracy,
        loss,
        exact,
    }
}

/// The ratios of one task with its examples drawn again, the same ones on both sides.
fn resample(pair: &Pair<'_>, generator: &mut Generator) -> [Option<f64>; 3] {
    let count = pair.served.len().min(pair.original.len());
    if count == 0 {
        return [None; 3];
    }
    let drawn: Vec<usize> = (0..count).map(|_| generator.below(count)).collect();
    let of = |outcomes: &[Outcome]| Figures::of(drawn.iter().map(|index| &outcomes[*index]));
    ratios(&of(pair.served), &of(pair.original))
}

/// A quantile of ordered values, in thousandths.
fn quantile(ordered: &[f64], thousandths: usize) -> f64 {
    let last = ordered.len().saturating_sub(1);
    let index = (last * thousandths + 500) / 1000;
    ordered.get(index).copied().unwrap_or(f64::NAN)
}

/// SplitMix64: small, and good enough to draw indices.
#[derive(Debug, Clone)]
pub(crate) struct Generator(pub(crate) u64);

impl Generator {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// An index below `count`, which is not 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        // The bias of a remainder is far below what counts here.
        let drawn = u64::try_from(count).map_or(0, |count| self.next() % count);
        usize::try_from(drawn).unwrap_or(0)
    }

    /// Mixes a list (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(right: &[u32], loss: f64) -> Vec<Outcome> {
        let outcome = |right: &u32| Outcome {
            tokens: 4,
            right: *right,
            loss,
        };
        right.iter().map(outcome).collect()
    }

    #[test]
    fn s_is_the_mean_of_the_tasks_ratios() {
        let (first, second) = (outcomes(&[4, 4], 1.0), outcomes(&[4, 2], 1.0));
        let (weak, none) = (outcomes(&[4, 0], 2.0), outcomes(&[2, 2], 4.0));
        let pairs = [
            Pair {
                served: &weak,
                original: &first,
            },
            Pair {
                served: &second,
                original: &none,
            },
        ];
        let kept = kept(&pairs, 7);
        assert_eq!(kept.accuracy.value, (0.5 + 1.5) / 2.0);
        assert_eq!(kept.loss.value, (0.5 + 4.0) / 2.0);
        // The second task's original gets nothing right as a whole.
        assert_eq!((kept.exact.value, kept.exact.left_out), (0.5, 1));
        assert_eq!((kept.accuracy.left_out, kept.loss.left_out), (0, 0));
        assert!(kept.accuracy.low <= 0.5 && kept.accuracy.high >= 1.5);
    }

    #[test]
    fn what_is_the_same_is_one_and_certain() {
        let same = outcomes(&[4, 2, 3], 1.5);
        let pairs = [Pair {
            served: &same,
            original: &same,
        }; 3];
        let kept = kept(&pairs, 1);
        for ratio in [kept.accuracy, kept.loss, kept.exact] {
            assert_eq!((ratio.value, ratio.low, ratio.high), (1.0, 1.0, 1.0));
        }
    }

    #[test]
    fn the_seed_decides_the_interval() {
        let (a, b) = (
            outcomes(&[4, 1, 2, 4, 0, 3], 1.0),
            outcomes(&[4, 4, 4, 3, 4, 4], 1.0),
        );
        let pairs = [Pair {
            served: &a,
            original: &b,
        }; 2];
        assert_eq!(kept(&pairs, 3), kept(&pairs, 3));
        // The ends are coarse with few examples: two seeds may agree, many do not.
        let low = kept(&pairs, 3).accuracy.low;
        assert!((4..20).any(|seed| kept(&pairs, seed).accuracy.low != low));
        assert!(kept(&[], 3).accuracy.value.is_nan());
    }

    #[test]
    fn shuffles_are_permutations() {
        let mut items: Vec<u32> = (0..20).collect();
        Generator(5).shuffle(&mut items);
        assert_ne!(items, (0..20).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..20).collect::<Vec<_>>());
    }
}
