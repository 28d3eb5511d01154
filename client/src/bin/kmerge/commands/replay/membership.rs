//! Which task went to which slot, in each order of arrival.

use super::run::Run;

/// One order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrivals {
    /// The order's name.
    pub(crate) order: String,
    /// By task, in the order of the tasks' names.
    pub(crate) tasks: Vec<Arrival>,
}

/// What became of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) task: String,
    /// From 1.
    pub(crate) place: usize,
    /// Its slot; none: it was refused.
    pub(crate) slot: Option<u32>,
}

/// Combinations in which every order went the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Their names.
    pub(crate) combinations: Vec<String>,
    pub(crate) orders: Vec<Arrivals>,
}

/// The memberships that differ, in the order of the runs. Where all tasks are in one slot there is
/// nothing to show.
pub(super) fn of(runs: &[Run]) -> Vec<Membership> {
    let mut all: Vec<Membership> = Vec::new();
    for runs in runs.chunk_by(|a, b| a.combination == b.combination) {
        let orders: Vec<Arrivals> = runs.iter().map(Run::arrivals).collect();
        let told = |arrival: &Arrival| arrival.slot != Some(0);
        if !orders.iter().flat_map(|order| &order.tasks).any(told) {
            continue;
        }
        let Some(name) = runs.first().map(|run| run.combination.name()) else {
            continue;
        };
        match all.iter_mut().find(|known| known.orders == orders) {
            Some(known) => known.combinations.push(name),
            None => all.push(Membership {
                combinations: vec![name],
                orders,
            }),
        }
    }
    all
}
