//! The pages that `score` and `replay` write: one file each, readable in light and dark.

mod axes;
mod charts;
mod grid;
mod page;
mod replay;

use kmerge_client::v1;

use self::charts::Bars;
pub(crate) use self::replay::{Replayed, replays};
use super::bootstrap::{Kept, Ratio};
use super::metrics::Figures;
use crate::commands::score::Scored;
use crate::output::text;

/// Takes one of the three figures.
type Figure = fn(&Figures) -> f64;

/// The series of a task's bars.
const SERIES: [&str; 3] = ["base model alone", "served", "original adapter"];

/// The page of `score`.
pub(crate) fn scores(
    base_model: &str,
    scored: &[Scored],
    kept: Option<Kept>,
    slots: &[v1::Slot],
    jobs: &[v1::Job],
) -> String {
    let mut body = String::new();
    if let Some(kept) = kept {
        let row = |name: &str, ratio: &Ratio| {
            let interval = format!(
                "{} to {}",
                text::figure(ratio.low),
                text::figure(ratio.high)
            );
            let left_out = ratio.left_out.to_string();
            vec![
                name.to_owned(),
                text::figure(ratio.value),
                interval,
                left_out,
            ]
        };
        let rows = [
            row("token accuracy", &kept.accuracy),
            row("loss", &kept.loss),
            row("exact match", &kept.exact),
        ];
        let head = ["S", "mean over tasks", "95 % interval", "tasks left out"];
        body += &page::section("What is kept of the originals", &page::table(&head, &rows));
    }
    let figures: [(&str, Figure); 3] = [
        ("Token accuracy", |figures| figures.accuracy),
        ("Exact match", |figures| figures.exact),
        ("Loss, nats per token (less is better)", |figures| {
            figures.loss
        }),
    ];
    for (heading, of) in figures {
        let groups: Vec<Bars> = scored
            .iter()
            .map(|scored| Bars {
                name: scored.task.clone(),
                values: vec![
                    Some(of(&Figures::of(&scored.base))),
                    Some(of(&Figures::of(&scored.served))),
                    scored
                        .original
                        .as_ref()
                        .map(|outcomes| of(&Figures::of(outcomes))),
                ],
            })
            .collect();
        let values = groups
            .iter()
            .flat_map(|group| group.values.iter().flatten());
        let most = values.copied().fold(0.0, f64::max);
        let legend = page::legend(SERIES.into_iter().enumerate());
        body += &page::section(heading, &(legend + &charts::bars(&groups, most)));
    }
    body += &page::section("Slots", &membership(slots));
    body += &similarities(jobs);
    let introduction = format!(
        "{base_model}, {}",
        text::count(u64::try_from(scored.len()).unwrap_or(0), "task")
    );
    page::page("How well the served adapters do", &introduction, &body)
}

fn membership(slots: &[v1::Slot]) -> String {
    let rows: Vec<Vec<String>> = slots
        .iter()
        .map(|slot| {
            let members = slot.members.iter().map(|member| match &member.fidelity {
                Some(kept) => format!("{} ({})", member.task, text::figure(kept.retention)),
                None => member.task.clone(),
            });
            vec![
                slot.slot.to_string(),
                members.collect::<Vec<_>>().join(", "),
                text::bytes(slot.bytes),
            ]
        })
        .collect();
    page::table(&["slot", "members (retention)", "size"], &rows)
}

/// How similar each newcomer was to each slot when it was decided, in order of arrival.
fn similarities(jobs: &[v1::Job]) -> String {
    let mut jobs: Vec<&v1::Job> = jobs.iter().filter(|job| job.decision.is_some()).collect();
    jobs.sort_by_key(|job| job.id);
    let compared = || jobs.iter().filter_map(|job| job.decision.as_ref());
    let all = || compared().flat_map(|decision| &decision.similarities);
    let Some(last) = all().map(|compared| compared.slot).max() else {
        return String::new();
    };
    let columns: Vec<String> = (0..=last).map(|slot| format!("slot {slot}")).collect();
    let most = all()
        .map(|compared| compared.similarity)
        .fold(0.0, f64::max);
    let rows: Vec<(String, Vec<Option<f64>>)> = jobs
        .iter()
        .filter_map(|job| {
            let decision = job.decision.as_ref()?;
            let values = (0..=last).map(|slot| {
                let mut of = decision.similarities.iter();
                of.find(|compared| compared.slot == slot)
                    .map(|compared| compared.similarity)
            });
            Some((job.task.clone(), values.collect()))
        })
        .collect();
    let heading = "Similarity of each newcomer to the slots that there were";
    page::section(heading, &grid::heat(&rows, &columns, most))
}

#[cfg(test)]
mod tests;
