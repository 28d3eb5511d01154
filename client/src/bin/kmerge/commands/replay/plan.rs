//! Which combinations are replayed, and in which orders adapters arrive. No files, no clock.

use super::Replay;
use crate::output::text;
use crate::score::bootstrap::Generator;
use crate::values::Operator;

/// One operator, K and size of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Combination {
    pub(super) operator: Operator,
    pub(super) slots: u32,
    /// For progressive only; none: the daemon's default.
    pub(super) slot_bytes: Option<u64>,
}

impl Combination {
    /// What it is called: `progressive, K = 1, 2.0 MiB`.
    pub(super) fn name(&self) -> String {
        let operator = super::word(self.operator);
        let size = self.slot_bytes.map(text::bytes);
        let size = size.map_or_else(String::new, |size| format!(", {size}"));
        format!("{operator}, K = {}{size}", self.slots)
    }
}

/// An order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// Its name: `shuffle 1`, `adversarial`.
    pub(super) name: String,
    pub(super) tasks: Vec<String>,
}

/// Every combination, in the order in which the arguments name them.
pub(super) fn combinations(replay: &Replay) -> Vec<Combination> {
    let mut all = Vec::new();
    for &operator in &replay.operator {
        for &slots in &replay.slots {
            let sizes = match replay.slot_bytes.as_slice() {
                sizes if operator == Operator::Progressive && !sizes.is_empty() => {
                    sizes.iter().copied().map(Some).collect()
                }
                _ => vec![None],
            };
            all.extend(sizes.into_iter().map(|slot_bytes| Combination {
                operator,
                slots,
                slot_bytes,
            }));
        }
    }
    all
}

/// `count` orders that the seed decides, and the adversarial one if it is wanted.
pub(super) fn orders(tasks: &[String], count: u32, adversarial: bool, seed: u64) -> Vec<Order> {
    let mut generator = Generator(seed);
    let mut orders: Vec<Order> = (1..=count)
        .map(|number| {
            let mut tasks = tasks.to_vec();
            generator.shuffle(&mut tasks);
            let name = format!("shuffle {number}");
            Order { name, tasks }
        })
        .collect();
    if adversarial {
        let mut tasks = tasks.to_vec();
        let kind = |task: &String| task.split('-').next().unwrap_or_default().to_owned();
        tasks.sort_by_key(|task| (kind(task), task.clone()));
        let name = "adversarial".to_owned();
        orders.push(Order { name, tasks });
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_the_seeds_and_the_adversarial_one_puts_the_alike_in_a_row() {
        let tasks = ["b-en", "a-en", "b-de", "a-de", "c"].map(String::from);
        let drawn = orders(&tasks, 3, true, 9);
        assert_eq!(drawn, orders(&tasks, 3, true, 9));
        assert_ne!(drawn[..3], orders(&tasks, 3, false, 8)[..]);
        assert_ne!(drawn[0].tasks, drawn[1].tasks);
        assert_eq!(drawn[3].tasks, ["a-de", "a-en", "b-de", "b-en", "c"]);
        for order in &drawn {
            let mut sorted = order.tasks.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, drawn[3].tasks);
        }
    }
}
