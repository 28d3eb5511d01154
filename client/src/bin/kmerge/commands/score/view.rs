//! What `score` says: a row for each task, and S.

use std::path::Path;

use kmerge_client::v1;
use owo_colors::OwoColorize as _;
use serde_json::{Value as Json, json};

use super::Scored;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::record::Record;
use crate::output::table::{Column, Table};
use crate::output::text;
use crate::score::bootstrap::{Kept, Pair, Ratio, kept};
use crate::score::files;
use crate::score::metrics::{Figures, Outcome};
use crate::score::report;

/// Everything that is told.
pub(super) struct Told<'a> {
    pub(super) base_model: &'a str,
    pub(super) model: &'a Path,
    pub(super) seed: u64,
    pub(super) scored: &'a [Scored],
    pub(super) slots: &'a [v1::Slot],
    pub(super) jobs: &'a [v1::Job],
}

impl Told<'_> {
    /// Writes the answer, and the page if one is wanted.
    pub(super) fn tell(&self, context: &Context, html: Option<&Path>) -> Result<(), Failure> {
        let served = kept_by(self.scored, |scored| &scored.served, self.seed);
        let alone = kept_by(self.scored, |scored| &scored.base, self.seed);
        if let Some(path) = html {
            let page = report::scores(self.base_model, self.scored, served, self.slots, self.jobs);
            files::write(path, page.as_bytes())?;
        }
        let tasks: Vec<Json> = self.scored.iter().map(task).collect();
        let document = json!({
            "base_model": self.base_model,
            "model": self.model.display().to_string(),
            "seed": self.seed,
            "tasks": tasks,
            "kept": served.map(kept_json),
            "kept_without_adapter": alone.map(kept_json),
        });
        context.output.document(&document, || {
            let mut said = table(self.scored);
            if let (Some(served), Some(alone)) = (served, alone) {
                said += &format!(
                    "\n{}\n",
                    "S, the share of the originals that is kept:".bold()
                );
                said += &summary(&served, &alone);
            }
            said
        })
    }
}

/// S of the tasks that have an original; none if no task has one.
pub(crate) fn kept_by(
    scored: &[Scored],
    of: impl Fn(&Scored) -> &Vec<Outcome>,
    seed: u64,
) -> Option<Kept> {
    let pairs: Vec<Pair<'_>> = scored
        .iter()
        .filter_map(|scored| {
            Some(Pair {
                served: of(scored),
                original: scored.original.as_ref()?,
            })
        })
        .collect();
    (!pairs.is_empty()).then(|| kept(&pairs, seed))
}

/// Three figures as JSON.
fn figures(outcomes: &[Outcome]) -> Json {
    let figures = Figures::of(outcomes);
    json!({ "accuracy": figures.accuracy, "loss": figures.loss, "exact_match": figures.exact })
}

fn task(scored: &Scored) -> Json {
    json!({
        "task": scored.task,
        "slot": scored.slot,
        "examples": scored.served.len(),
        "base": figures(&scored.base),
        "served": figures(&scored.served),
        "original": scored.original.as_deref().map(figures),
        "retention": scored.retention,
    })
}

/// S as JSON.
pub(crate) fn kept_json(kept: Kept) -> Json {
    let ratio = |ratio: Ratio| {
        json!({
            "value": ratio.value, "low": ratio.low, "high": ratio.high, "left_out": ratio.left_out,
        })
    };
    json!({
        "accuracy": ratio(kept.accuracy),
        "loss": ratio(kept.loss),
        "exact_match": ratio(kept.exact),
    })
}

fn table(scored: &[Scored]) -> String {
    let mut table = Table::new(&[
        Column::Left("TASK"),
        Column::Right("SLOT"),
        Column::Right("ACCURACY: BASE"),
        Column::Right("SERVED"),
        Column::Right("ORIGINAL"),
        Column::Right("LOSS: BASE"),
        Column::Right("SERVED"),
        Column::Right("ORIGINAL"),
        Column::Right("EXACT: BASE"),
        Column::Right("SERVED"),
        Column::Right("ORIGINAL"),
    ]);
    for scored in scored {
        let (base, served) = (Figures::of(&scored.base), Figures::of(&scored.served));
        let original = scored.original.as_ref().map(Figures::of);
        let shown = |of: fn(&Figures) -> f64| {
            let original = original.as_ref().map(|figures| text::figure(of(figures)));
            [
                text::figure(of(&base)),
                text::figure(of(&served)),
                original.unwrap_or_else(|| "-".to_owned()),
            ]
        };
        let [a, b, c] = shown(|figures| figures.accuracy);
        let [d, e, f] = shown(|figures| figures.loss);
        let [g, h, i] = shown(|figures| figures.exact);
        let slot = scored.slot.to_string();
        table.row([scored.task.clone(), slot, a, b, c, d, e, f, g, h, i]);
    }
    table.render()
}

fn summary(served: &Kept, alone: &Kept) -> String {
    let fact = |ratio: &Ratio, alone: &Ratio| {
        let left_out = match ratio.left_out {
            0 => String::new(),
            1 => "; 1 task left out, whose original has 0".to_owned(),
            count => format!("; {count} tasks left out, whose originals have 0"),
        };
        format!(
            "{} (95 %: {} to {}), without adapters {}{left_out}",
            text::figure(ratio.value),
            text::figure(ratio.low),
            text::figure(ratio.high),
            text::figure(alone.value),
        )
    };
    Record::new()
        .fact("accuracy", fact(&served.accuracy, &alone.accuracy))
        .fact("loss", fact(&served.loss, &alone.loss))
        .fact("exact match", fact(&served.exact, &alone.exact))
        .render()
}
