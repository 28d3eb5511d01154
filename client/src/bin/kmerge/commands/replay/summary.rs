//! The runs of one combination as one row: means over orders, least and most.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::run::Run;
use crate::output::text;

/// A figure over several orders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) mean: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// None where there is no number.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let count = u32::try_from(values.len())
            .ok()
            .filter(|count| *count > 0)?;
        Some(Self {
            mean: values.iter().sum::<f64>() / f64::from(count),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    /// `0.954 (0.931…0.970)`, or the mean alone where all are the same.
    pub(crate) fn text(&self) -> String {
        let [mean, least, most] = [self.mean, self.least, self.most].map(text::figure);
        if least == most {
            mean
        } else {
            format!("{mean} ({least}…{most})")
        }
    }

    fn json(self) -> Json {
        json!({ "mean": self.mean, "least": self.least, "most": self.most })
    }
}

/// One combination.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) operator: String,
    /// K.
    pub(crate) slots: u32,
    pub(crate) slot_bytes: Option<u64>,
    /// Bytes of all slots together.
    pub(crate) stored: Spread,
    /// Those bytes for each task, as a share of an adapter's own.
    pub(crate) share: f64,
    /// S for accuracy, loss and exact match.
    pub(crate) kept: Option<[Spread; 3]>,
    pub(crate) retention: Option<Spread>,
    /// Orders of arrival.
    pub(crate) orders: usize,
    /// Tasks that were refused as below the floor, with the number of orders.
    pub(crate) refused: BTreeMap<String, usize>,
}

impl Row {
    /// What the columns are called.
    pub(crate) const HEAD: [&str; 10] = [
        "OPERATOR",
        "K",
        "SLOT",
        "STORED",
        "PER TASK",
        "S ACCURACY",
        "S LOSS",
        "S EXACT",
        "RETENTION",
        "REFUSED",
    ];

    /// A row for each combination, in the order of the runs.
    pub(super) fn of(runs: &[Run]) -> Vec<Self> {
        let same = |a: &Run, b: &Run| a.combination == b.combination;
        runs.chunk_by(same).filter_map(Self::of_one).collect()
    }

    fn of_one(runs: &[Run]) -> Option<Self> {
        let first = runs.first()?;
        let figure = |index: usize| {
            Spread::of(runs.iter().filter_map(|run| {
                let kept = run.kept.as_ref()?;
                let value = [kept.accuracy, kept.loss, kept.exact].get(index)?.value;
                Some(value)
            }))
        };
        let kept = (figure(0), figure(1), figure(2));
        Some(Self {
            operator: super::word(first.combination.operator),
            slots: first.combination.slots,
            slot_bytes: first.combination.slot_bytes,
            stored: Spread::of(runs.iter().map(Run::stored))?,
            share: Spread::of(runs.iter().map(Run::share))?.mean,
            kept: match kept {
                (Some(accuracy), Some(loss), Some(exact)) => Some([accuracy, loss, exact]),
                _ => None,
            },
            retention: Spread::of(runs.iter().filter_map(|run| run.retention)),
            orders: runs.len(),
            refused: runs.iter().flat_map(|run| &run.refused).fold(
                BTreeMap::new(),
                |mut refused, task| {
                    *refused.entry(task.clone()).or_default() += 1;
                    refused
                },
            ),
        })
    }

    /// As it is shown, in the order of [`Row::HEAD`].
    pub(crate) fn cells(&self) -> [String; 10] {
        let none = || "-".to_owned();
        let kept = |index: usize| {
            let spread = self.kept.as_ref().and_then(|kept| kept.get(index));
            spread.map_or_else(none, Spread::text)
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a mean of byte counts is a byte count"
        )]
        let stored = self.stored.mean.round() as u64;
        [
            self.operator.clone(),
            self.slots.to_string(),
            self.slot_bytes.map_or_else(none, text::bytes),
            text::bytes(stored),
            format!("{:.4}", self.share),
            kept(0),
            kept(1),
            kept(2),
            self.retention.as_ref().map_or_else(none, Spread::text),
            self.refused_text(),
        ]
    }

    /// `a, b` where there is one order; `a in 1 of 4, b in 3 of 4` where there are several.
    fn refused_text(&self) -> String {
        let named = self.refused.iter().map(|(task, count)| match self.orders {
            1 => task.clone(),
            orders => format!("{task} in {count} of {orders}"),
        });
        let named: Vec<String> = named.collect();
        if named.is_empty() {
            "-".to_owned()
        } else {
            named.join(", ")
        }
    }

    /// As a document.
    pub(super) fn json(&self) -> Json {
        let kept = self.kept.map(|[accuracy, loss, exact]| {
            json!({
                "accuracy": accuracy.json(), "loss": loss.json(), "exact_match": exact.json(),
            })
        });
        json!({
            "operator": self.operator,
            "slots": self.slots,
            "slot_bytes": self.slot_bytes,
            "stored_bytes": self.stored.json(),
            "bytes_per_task": self.share,
            "kept": kept,
            "retention": self.retention.map(Spread::json),
            "refused": self.refused,
        })
    }
}

/// A row of figures for tests.
#[cfg(test)]
pub(crate) fn row(operator: &str) -> Row {
    let spread = |mean, least, most| Spread { mean, least, most };
    Row {
        operator: operator.into(),
        slots: 3,
        slot_bytes: Some(1 << 20),
        stored: spread(3e6, 3e6, 3e6),
        share: 0.25,
        kept: Some([spread(0.9, 0.8, 1.1); 3]),
        retention: None,
        orders: 4,
        refused: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_tasks_are_named() {
        let mut row = row("exact");
        assert_eq!(row.cells()[9], "-");
        row.refused = BTreeMap::from([("b".into(), 1), ("a".into(), 3)]);
        row.orders = 4;
        assert_eq!(row.cells()[9], "a in 3 of 4, b in 1 of 4");
        row.refused.remove("a");
        row.orders = 1;
        assert_eq!(row.cells()[9], "b");
        assert_eq!(row.json()["refused"], json!({"b": 1}));
    }

    #[test]
    fn a_spread_leaves_out_what_is_no_number() {
        let spread = Spread::of([0.5, f64::NAN, 1.0].into_iter()).unwrap();
        assert_eq!((spread.mean, spread.least, spread.most), (0.75, 0.5, 1.0));
        assert_eq!(spread.text(), "0.750 (0.500…1.000)");
        assert_eq!(Spread::of([f64::NAN].into_iter()), None);
        assert_eq!(
            Spread::of([0.25, 0.25].into_iter()).unwrap().text(),
            "0.250"
        );
    }
}
