//! How well members are kept, where the daemon says so: figures of weights, certified by the
//! daemon, and no promise of how well a task is done.

use kmerge_client::v1;
use owo_colors::OwoColorize as _;

use crate::output::table::{Column, Table};
use crate::output::text;

/// What stands where there is no figure.
const NONE: &str = "-";

/// The members of a slot: their weights, or how well each is kept where they are kept apart.
pub(super) fn members(members: &[v1::Member]) -> String {
    if members.iter().all(|member| member.fidelity.is_none()) {
        let mut table = Table::new(&[Column::Left("MEMBER"), Column::Right("WEIGHT")]);
        for member in members {
            table.row([member.task.clone(), format!("{:.4}", member.weight)]);
        }
        return table.render();
    }
    let mut table = Table::new(&[
        Column::Left("MEMBER"),
        Column::Right("RETENTION"),
        Column::Right("ERROR"),
        Column::Right("ENERGY"),
        Column::Right("SIZE"),
        Column::Right("RANK"),
        Column::Right("MEAN RANK"),
    ]);
    for member in members {
        let kept = member.fidelity.as_ref();
        table.row([
            member.task.clone(),
            retention(kept),
            shown(kept, |kept| {
                format!("<= {}", text::figure(kept.error_bound))
            }),
            shown(kept, |kept| text::percent(kept.energy_kept)),
            shown(kept, |kept| text::bytes(kept.bytes)),
            shown(kept, |kept| kept.rank.to_string()),
            shown(kept, |kept| format!("{:.1}", kept.mean_rank)),
        ]);
    }
    table.render()
}

/// What a newcomer costs the members of its slot.
pub(super) fn costs(costs: &[v1::MemberCost]) -> String {
    let mut table = Table::new(&[
        Column::Left("TASK"),
        Column::Right("RETENTION"),
        Column::Left(""),
        Column::Right("SIZE"),
        Column::Left(""),
    ]);
    for cost in costs {
        let (before, after) = (cost.before.as_ref(), cost.after.as_ref());
        let mark = if before.is_none() {
            "<- new".green().to_string()
        } else {
            String::new()
        };
        table.row([
            cost.task.clone(),
            retention(before),
            format!("-> {}", retention(after)),
            shown(after, |kept| text::bytes(kept.bytes)),
            mark,
        ]);
    }
    table.render()
}

/// One task's figures, as facts.
pub(super) fn facts(kept: Option<&v1::Fidelity>) -> [(&'static str, Option<String>); 5] {
    [
        ("retention", kept.map(|kept| text::figure(kept.retention))),
        (
            "error",
            kept.map(|kept| format!("at most {}", text::figure(kept.error_bound))),
        ),
        (
            "energy kept",
            kept.map(|kept| text::percent(kept.energy_kept)),
        ),
        ("bytes", kept.map(|kept| text::bytes(kept.bytes))),
        (
            "rank",
            kept.map(|kept| format!("{}, on average {:.1}", kept.rank, kept.mean_rank)),
        ),
    ]
}

/// A retention, or a dash.
pub(super) fn retention(kept: Option<&v1::Fidelity>) -> String {
    shown(kept, |kept| text::figure(kept.retention))
}

fn shown(kept: Option<&v1::Fidelity>, text: impl FnOnce(&v1::Fidelity) -> String) -> String {
    kept.map_or_else(|| NONE.to_owned(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(retention: f64) -> v1::Fidelity {
        v1::Fidelity {
            retention,
            error_bound: 0.2512,
            energy_kept: 0.94,
            bytes: 40_960,
            rank: 6,
            mean_rank: 3.25,
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn costs_go_from_before_to_after() {
        let cost = |task: &str, before: Option<f64>, after| v1::MemberCost {
            task: task.into(),
            before: before.map(kept),
            after: Some(kept(after)),
        };
        let shown = costs(&[cost("slug-en", Some(0.99), 0.968), cost("mail", None, 0.97)]);
        insta::assert_snapshot!(plain(&shown));
    }

    #[test]
    fn members_that_are_kept_apart_have_figures() {
        let members_apart = ["slug-en", "mail"].map(|task| v1::Member {
            task: task.into(),
            weight: 0.5,
            fidelity: (task == "mail").then(|| kept(0.97)),
        });
        insta::assert_snapshot!(plain(&members(&members_apart)));
    }
}
