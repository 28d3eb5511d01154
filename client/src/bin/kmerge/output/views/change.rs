//! What a job that brings no adapter did, or would do.

use kmerge_client::v1;
use owo_colors::OwoColorize as _;

use super::fidelity;
use crate::output::table::{Column, Table};
use crate::output::text;

/// A change: the sentence, the slots, and what it costs whom.
pub(crate) fn change(change: &v1::Change, is_rehearsed: bool) -> String {
    let lead = if is_rehearsed { "would be: " } else { "" };
    let mut said = format!("{}\n", format!("{lead}{}", change.reason).bold());
    if !change.slots.is_empty() {
        let mut table = Table::new(&[
            Column::Right("SLOT"),
            Column::Right("GENERATION"),
            Column::Right("TASKS"),
            Column::Right("SIZE"),
            Column::Left(""),
            Column::Left(""),
        ]);
        for slot in &change.slots {
            let mark = if slot.emptied {
                "<- emptied".yellow().to_string()
            } else {
                String::new()
            };
            table.row([
                slot.slot.to_string(),
                slot.generation.to_string(),
                slot.tasks.to_string(),
                text::bytes(slot.bytes_before),
                format!("-> {}", text::bytes(slot.bytes)),
                mark,
            ]);
        }
        said += &table.render();
    }
    let costs: Vec<v1::MemberCost> = change
        .slots
        .iter()
        .flat_map(|slot| slot.costs.iter().cloned())
        .collect();
    if !costs.is_empty() {
        said += &fidelity::costs(&costs);
    }
    if !change.forgotten_tasks.is_empty() {
        said += &format!("forgotten: {}\n", change.forgotten_tasks.join(", "));
    }
    said
}

/// A slot that was emptied, as a line of a watch.
pub(crate) fn emptied(slot: &v1::EmptiedSlot, revision: u64) -> String {
    format!(
        "{} slot {} {} {}",
        format!("revision {revision:<6}").dimmed(),
        slot.slot.bold(),
        "emptied".yellow(),
        format!("({})", slot.base_model).dimmed(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_becomes_of_each_slot_and_whom_it_costs() {
        let kept = |retention| v1::Fidelity {
            retention,
            bytes: 40_960,
            ..v1::Fidelity::default()
        };
        let made = v1::Change {
            slots: vec![
                v1::SlotChange {
                    slot: 0,
                    generation: 4,
                    bytes_before: 100_000,
                    bytes: 60_000,
                    tasks: 5,
                    budget_bytes: Some(65_536),
                    costs: vec![v1::MemberCost {
                        task: "slug-en".into(),
                        before: Some(kept(0.991)),
                        after: Some(kept(0.962)),
                    }],
                    ..v1::SlotChange::default()
                },
                v1::SlotChange {
                    slot: 1,
                    generation: 2,
                    emptied: true,
                    bytes_before: 100_000,
                    ..v1::SlotChange::default()
                },
            ],
            forgotten_tasks: vec!["mail".into()],
            reason: "slots 2 to 1: 1 slot is emptied and 1 slot is written anew".into(),
        };
        let shown = change(&made, true);
        insta::assert_snapshot!(anstream::adapter::strip_str(&shown).to_string());
    }
}
