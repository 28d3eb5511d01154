//! How alike the adapters of a folder are before anything is merged: task by task.
//!
//! As the daemon has it: the mean over the modules that two adapters share of the cosine of their
//! updates B·A, by ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ), so that no update is ever multiplied out.

use std::collections::BTreeMap;

use candle_core::Tensor;
use rayon::prelude::*;

use super::adapter::{Adapter, Update};

/// Every adapter against every other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Similarities {
    pub(crate) tasks: Vec<String>,
    /// In the order of `tasks`, both ways.
    pub(crate) values: Vec<Vec<f64>>,
}

impl Similarities {
    /// Compares all pairs.
    pub(crate) fn of(adapters: &BTreeMap<String, Adapter>) -> candle_core::Result<Self> {
        let all: Vec<&Adapter> = adapters.values().collect();
        let pairs: Vec<(usize, usize)> = (0..all.len())
            .flat_map(|row| (0..row).map(move |column| (row, column)))
            .collect();
        let compared = pairs
            .par_iter()
            .map(|(row, column)| similarity(all[*row], all[*column]))
            .collect::<candle_core::Result<Vec<f64>>>()?;
        let mut values = vec![vec![1.0; all.len()]; all.len()];
        for ((row, column), value) in pairs.into_iter().zip(compared) {
            values[row][column] = value;
            values[column][row] = value;
        }
        Ok(Self {
            tasks: adapters.keys().cloned().collect(),
            values,
        })
    }
}

/// The mean cosine over common modules; 0 where there is none.
fn similarity(one: &Adapter, other: &Adapter) -> candle_core::Result<f64> {
    let others: BTreeMap<&str, &Update> = other.updates().collect();
    let (mut sum, mut count) = (0.0, 0.0);
    for (name, update) in one.updates() {
        let Some(other) = others.get(name) else {
            continue;
        };
        let norms = inner(update, update)? * inner(other, other)?;
        if norms > 0.0 {
            sum += inner(update, other)? / norms.sqrt();
        }
        count += 1.0;
    }
    Ok(if count > 0.0 { sum / count } else { 0.0 })
}

/// ⟨B₁A₁, B₂A₂⟩, scalings left out.
fn inner(one: &Update, other: &Update) -> candle_core::Result<f64> {
    let (a, b) = one.factors();
    let (other_a, other_b) = other.factors();
    let left: Tensor = b.t()?.matmul(other_b)?;
    let right = a.matmul(&other_a.t()?)?;
    Ok(f64::from((left * right)?.sum_all()?.to_scalar::<f32>()?))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn adapter(modules: &[(&str, [f32; 2], [f32; 2])]) -> Adapter {
        let updates = modules.iter().map(|(name, a, b)| {
            let a = Tensor::from_slice(a, (1, 2), &Device::Cpu).unwrap();
            let b = Tensor::from_slice(b, (2, 1), &Device::Cpu).unwrap();
            ((*name).to_owned(), Update::new(a, b, 3.0))
        });
        Adapter::of(updates.collect()).unwrap()
    }

    #[test]
    fn it_is_the_mean_cosine_of_the_updates_in_common_modules() {
        let adapters = BTreeMap::from([
            (
                "a".to_owned(),
                adapter(&[("x", [1.0, 0.0], [2.0, 0.0]), ("y", [1.0, 1.0], [0.0, 1.0])]),
            ),
            (
                "b".to_owned(),
                adapter(&[
                    ("x", [-4.0, 0.0], [1.0, 0.0]),
                    ("y", [1.0, 0.0], [0.0, 5.0]),
                    ("z", [1.0, 0.0], [1.0, 0.0]),
                ]),
            ),
            ("c".to_owned(), adapter(&[("w", [1.0, 0.0], [1.0, 0.0])])),
            ("d".to_owned(), adapter(&[("x", [0.0, 0.0], [1.0, 0.0])])),
        ]);
        let compared = Similarities::of(&adapters).unwrap();
        assert_eq!(compared.tasks, ["a", "b", "c", "d"]);
        let expected = f64::midpoint(-1.0, 0.5_f64.sqrt());
        assert!(
            (compared.values[0][1] - expected).abs() < 1e-6,
            "{compared:?}"
        );
        assert_eq!(compared.values[0][1], compared.values[1][0]);
        // No common module, or an update that is nothing.
        assert_eq!(compared.values[0][2..], [0.0, 0.0]);
        assert_eq!(compared.values[3][3], 1.0);
    }
}
