//! What a model makes of a task: token accuracy, loss and exact match, teacher-forced.

use candle_core::Device;
use rayon::prelude::*;

use super::error::Error;
use super::examples::{Example, batches};
use super::model::{Asked, Model, judged};

/// The most tokens that are run at once: enough for large products, few enough that a task has a
/// batch for every core and a batch's tensors stay near them.
const BATCH_TOKENS: usize = 384;

/// Is told how many more examples are through, from any thread.
pub(crate) type Done<'a> = dyn Fn(usize) + Sync + 'a;

/// What a model made of one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    /// Target tokens.
    pub(crate) tokens: u32,
    /// Those that were the model's first choice.
    pub(crate) right: u32,
    /// Sum of the negative log likelihoods of the target tokens, in nats.
    pub(crate) loss: f64,
}

/// The three figures of a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    /// Share of target tokens that were the first choice.
    pub(crate) accuracy: f64,
    /// Mean negative log likelihood per target token, in nats.
    pub(crate) loss: f64,
    /// Share of examples all of whose target tokens were the first choice.
    pub(crate) exact: f64,
}

impl Figures {
    /// The figures of some examples.
    pub(crate) fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Self {
        let (mut examples, mut exact) = (0.0, 0.0);
        let (mut tokens, mut right, mut loss) = (0.0, 0.0, 0.0);
        for outcome in outcomes {
            examples += 1.0;
            exact += if outcome.right == outcome.tokens {
                1.0
            } else {
                0.0
            };
            tokens += f64::from(outcome.tokens);
            right += f64::from(outcome.right);
            loss += outcome.loss;
        }
        Self {
            accuracy: right / tokens,
            loss: loss / tokens,
            exact: exact / examples,
        }
    }
}

/// Runs a model on examples; one outcome each, in order.
///
/// On the processor batches run side by side: a product uses all cores by itself, but what lies
/// between two products does not. `done` is told how many more examples are through.
pub(crate) fn run(
    model: &Model,
    examples: &[Example],
    done: &Done<'_>,
) -> Result<Vec<Outcome>, Error> {
    let batches = batches(examples, BATCH_TOKENS);
    let one = |batch: &&[Example]| {
        let outcomes = run_batch(model, batch)?;
        done(batch.len());
        Ok(outcomes)
    };
    let outcomes: Result<Vec<_>, Error> = match model.device() {
        Device::Cpu => batches.par_iter().map(one).collect(),
        Device::Cuda(_) | Device::Metal(_) => batches.iter().map(one).collect(),
    };
    Ok(outcomes?.concat())
}

fn run_batch(model: &Model, batch: &[Example]) -> Result<Vec<Outcome>, Error> {
    let vocabulary = model.vocabulary();
    let unknown = |token: &&u32| usize::try_from(**token).map_or(true, |id| id >= vocabulary);
    if let Some(token) = batch.iter().flat_map(|e| &e.tokens).find(unknown) {
        return Err(Error::Misfit(format!(
            "token {token} is not among the model's {vocabulary}"
        )));
    }
    let asked: Vec<Asked<'_>> = batch
        .iter()
        .map(|example| Asked {
            tokens: &example.tokens,
            first: example.prompt.saturating_sub(1),
        })
        .collect();
    let wanted: Vec<u32> = batch.iter().flat_map(Example::target).copied().collect();
    let (best, losses) = judged(&model.logits(&asked)?, &wanted)?;
    let mut of_tokens = best.iter().zip(&wanted).zip(&losses);
    let outcomes = batch.iter().map(|example| {
        let mut outcome = Outcome {
            tokens: 0,
            right: 0,
            loss: 0.0,
        };
        for ((best, wanted), loss) in of_tokens.by_ref().take(example.target().len()) {
            outcome.tokens += 1;
            outcome.right += u32::from(best == wanted);
            outcome.loss += f64::from(*loss);
        }
        outcome
    });
    Ok(outcomes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_weigh_tokens_but_exact_match_weighs_examples() {
        let outcomes = [(2, 2, 1.0), (6, 3, 7.0)].map(|(tokens, right, loss)| Outcome {
            tokens,
            right,
            loss,
        });
        let figures = Figures::of(&outcomes);
        assert_eq!(
            (figures.accuracy, figures.loss, figures.exact),
            (0.625, 1.0, 0.5)
        );
    }
}
