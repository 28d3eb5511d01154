//! Best pair of K + 1: a newcomer gets a slot of its own for a moment, and then the two closest of
//! all become one, be it the newcomer and a slot or two slots that were there.
//!
//! So a slot that was opened in haste is undone by later arrivals, which first-come rules cannot do,
//! and no threshold is needed. Owned by whoever holds the [`Table`]; a decision is a pure function
//! of it, and equals go to the lowest numbers.
//!
//! The table holds the inner products ⟨μ_a, μ_b⟩ of the clusters' mean updates, before anything is
//! cut off. They are sums over modules; with updates at norm one in every module, divided by the
//! number of modules, they are the mean cosines that similarity search compares. Joining a and b
//! needs no values again:
//!
//! ```text
//! n = n_a + n_b,  μ = (n_a·μ_a + n_b·μ_b)/n,  m̄ = (n_a·m̄_a + n_b·m̄_b)/n
//! ⟨μ, μ_c⟩ = (n_a·⟨μ_a, μ_c⟩ + n_b·⟨μ_b, μ_c⟩)/n
//! ‖μ‖²     = (n_a²·‖μ_a‖² + 2·n_a·n_b·⟨μ_a, μ_b⟩ + n_b²·‖μ_b‖²)/n²
//! ```

use std::cmp::Ordering;

use thiserror::Error;

/// How close two clusters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Linkage {
    /// Highest ⟨μ_a, μ_b⟩/(m̄_a·m̄_b), m̄ the mean norm of the members: the mean cosine between the
    /// members of one and those of the other. Divided by the norms of the means it would grow with
    /// the number of members.
    Average,
    /// Lowest n_a·n_b/(n_a + n_b)·‖μ_a − μ_b‖²: what the sum of squared distances to the means grows
    /// by. It evens out the sizes of clusters, and with them how thin their members are spread.
    Ward,
}

/// One cluster, as measured on what is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cluster {
    /// How many updates it is the mean of, at least 1.
    pub members: u32,
    /// m̄, the mean norm of those updates.
    pub mean_norm: f64,
    /// Squared norm of what rank has cut off the mean so far: it is missing in a measured ‖μ‖².
    pub cut: f64,
}

/// A newcomer beside all clusters of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// ‖D‖.
    pub norm: f64,
    /// ⟨D, μ⟩ with every cluster, in the table's order.
    pub products: Vec<f64>,
}

/// What to do with a newcomer. Slots are places in the table, from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Move {
    /// It opens the next slot.
    Open {
        /// The slot.
        slot: usize,
    },
    /// It is merged into a slot.
    Join {
        /// The slot.
        slot: usize,
        /// The linkage between the two.
        linkage: f64,
    },
    /// Two slots become one, and the newcomer takes the one that is freed.
    Pair {
        /// The slot that holds both from then on.
        kept: usize,
        /// The slot that then holds the newcomer.
        freed: usize,
        /// The linkage between the two.
        linkage: f64,
    },
}

/// A table, row or limit that nothing can be decided from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BestPairError {
    /// A row or a table has another number of entries than there are clusters.
    #[error("{found} inner products were given for {clusters} clusters; measure one for each")]
    Length {
        /// Entries given.
        found: usize,
        /// Clusters there are.
        clusters: usize,
    },
    /// A number is not finite, a norm is negative, or a cluster has no members.
    #[error(
        "a norm, an inner product or a number of members cannot be one; measure the slots again"
    )]
    Measure,
    /// No slot may be used.
    #[error("no slot may be used; allow one at least")]
    NoSlots,
    /// A move that does not fit the table.
    #[error("the move was chosen for another table; choose again")]
    OtherTable,
}

/// All clusters with their inner products.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    clusters: Vec<Known>,
    /// Symmetric; ‖μ‖² on the diagonal.
    products: Vec<Vec<f64>>,
}

/// What is kept of a cluster beside its products.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    members: f64,
    mean_norm: f64,
}

impl Table {
    /// A table of clusters whose inner products were measured; of `products`, row by row, the lower
    /// triangle with its diagonal is read.
    ///
    /// # Errors
    ///
    /// [`BestPairError::Length`] and [`BestPairError::Measure`].
    pub fn measured(clusters: &[Cluster], products: &[Vec<f64>]) -> Result<Self, BestPairError> {
        let count = clusters.len();
        let row_lengths = products
            .iter()
            .zip(1..)
            .map(|(row, least)| (row.len(), least));
        if let Some((found, _)) = row_lengths.into_iter().find(|(found, least)| found < least) {
            return Err(BestPairError::Length {
                found,
                clusters: count,
            });
        }
        if products.len() != count {
            return Err(BestPairError::Length {
                found: products.len(),
                clusters: count,
            });
        }
        let lower = |row: usize, column: usize| products[row.max(column)][row.min(column)];
        let full = (0..count)
            .map(|row| {
                (0..count)
                    .map(|column| {
                        let cut = if row == column {
                            clusters[row].cut
                        } else {
                            0.0
                        };
                        lower(row, column) + cut
                    })
                    .collect()
            })
            .collect();
        let table = Self {
            clusters: clusters
                .iter()
                .map(|cluster| Known {
                    members: f64::from(cluster.members),
                    mean_norm: cluster.mean_norm,
                })
                .collect(),
            products: full,
        };
        let sound = table.clusters.iter().all(|cluster| {
            cluster.members >= 1.0 && cluster.mean_norm.is_finite() && cluster.mean_norm >= 0.0
        });
        let finite = table
            .products
            .iter()
            .flatten()
            .all(|value| value.is_finite());
        if sound && finite {
            Ok(table)
        } else {
            Err(BestPairError::Measure)
        }
    }

    /// How many clusters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clusters.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// ⟨μ_a, μ_b⟩, where both exist.
    #[must_use]
    pub fn product(&self, a: usize, b: usize) -> Option<f64> {
        self.products.get(a)?.get(b).copied()
    }

    /// How close two clusters are, where both exist.
    #[must_use]
    pub fn linkage(&self, linkage: Linkage, a: usize, b: usize) -> Option<f64> {
        let product = self.product(a, b)?;
        let (left, right) = (self.clusters[a], self.clusters[b]);
        Some(match linkage {
            Linkage::Average => {
                let norms = left.mean_norm * right.mean_norm;
                if norms > 0.0 { product / norms } else { 0.0 }
            }
            Linkage::Ward => {
                let distance = self.products[a][a] - 2.0 * product + self.products[b][b];
                left.members * right.members / (left.members + right.members) * distance.max(0.0)
            }
        })
    }

    /// What to do with a newcomer when `limit` slots may be used: open one while there is room,
    /// else join the closest two of all.
    ///
    /// # Errors
    ///
    /// [`BestPairError`] for a row of another table, and for a limit of nothing.
    pub fn choose(&self, row: &Row, limit: usize, linkage: Linkage) -> Result<Move, BestPairError> {
        if limit == 0 {
            return Err(BestPairError::NoSlots);
        }
        let with_newcomer = self.with(row)?;
        let newcomer = self.len();
        if newcomer < limit {
            return Ok(Move::Open { slot: newcomer });
        }
        let pairs = (0..=newcomer).flat_map(|a| (a + 1..=newcomer).map(move |b| (a, b)));
        let (a, b, linkage) = pairs
            .filter_map(|(a, b)| Some((a, b, with_newcomer.linkage(linkage, a, b)?)))
            .reduce(|best, next| {
                let closer = match linkage {
                    Linkage::Average => Ordering::Greater,
                    Linkage::Ward => Ordering::Less,
                };
                if next.2.total_cmp(&best.2) == closer {
                    next
                } else {
                    best
                }
            })
            .ok_or(BestPairError::OtherTable)?;
        Ok(if b == newcomer {
            Move::Join { slot: a, linkage }
        } else {
            Move::Pair {
                kept: a,
                freed: b,
                linkage,
            }
        })
    }

    /// The table after a move.
    ///
    /// # Errors
    ///
    /// [`BestPairError`] for a row or a move of another table.
    pub fn moved(&self, row: &Row, chosen: Move) -> Result<Self, BestPairError> {
        let table = self.with(row)?;
        let newcomer = self.len();
        match chosen {
            Move::Open { slot } if slot == newcomer => Ok(table),
            Move::Join { slot, .. } if slot < newcomer => Ok(table.joined(slot, newcomer)),
            Move::Pair { kept, freed, .. } if kept < freed && freed < newcomer => {
                Ok(table.joined(kept, freed))
            }
            Move::Open { .. } | Move::Join { .. } | Move::Pair { .. } => {
                Err(BestPairError::OtherTable)
            }
        }
    }

    /// The table with the newcomer as its last cluster.
    fn with(&self, row: &Row) -> Result<Self, BestPairError> {
        let Row { norm, products } = row;
        if products.len() != self.len() {
            return Err(BestPairError::Length {
                found: products.len(),
                clusters: self.len(),
            });
        }
        if !(norm.is_finite() && *norm >= 0.0) || products.iter().any(|value| !value.is_finite()) {
            return Err(BestPairError::Measure);
        }
        let mut table = self.clone();
        for (known, &product) in table.products.iter_mut().zip(products) {
            known.push(product);
        }
        let mut last = products.clone();
        last.push(norm * norm);
        table.products.push(last);
        table.clusters.push(Known {
            members: 1.0,
            mean_norm: *norm,
        });
        Ok(table)
    }

    /// a and b become one at place a; the last cluster takes place b.
    fn joined(mut self, a: usize, b: usize) -> Self {
        let (left, right) = (self.clusters[a], self.clusters[b]);
        let n = left.members + right.members;
        let (to_left, to_right) = (left.members / n, right.members / n);
        let mut row: Vec<f64> = self.products[a]
            .iter()
            .zip(&self.products[b])
            .map(|(left, right)| to_left * left + to_right * right)
            .collect();
        row[a] = to_left * row[a] + to_right * row[b];
        for (other, &product) in self.products.iter_mut().zip(&row) {
            other[a] = product;
        }
        self.products[a] = row;
        self.clusters[a] = Known {
            members: n,
            mean_norm: to_left * left.mean_norm + to_right * right.mean_norm,
        };
        self.clusters.swap_remove(b);
        self.products.swap_remove(b);
        for other in &mut self.products {
            other.swap_remove(b);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the plane as updates.
    fn row(table: &[Vec<[f64; 2]>], newcomer: [f64; 2]) -> Row {
        Row {
            norm: dot(newcomer, newcomer).sqrt(),
            products: table.iter().map(|all| dot(mean(all), newcomer)).collect(),
        }
    }

    fn dot(x: [f64; 2], y: [f64; 2]) -> f64 {
        x[0] * y[0] + x[1] * y[1]
    }

    fn mean(all: &[[f64; 2]]) -> [f64; 2] {
        let n = f64::from(u32::try_from(all.len()).unwrap());
        [0, 1].map(|axis| all.iter().map(|one| one[axis]).sum::<f64>() / n)
    }

    const ARRIVALS: [[f64; 2]; 9] = [
        [1.0, 0.0],
        [0.9, 0.2],
        [0.0, 2.0],
        [-1.0, 0.5],
        [0.8, -0.3],
        [-0.2, 1.1],
        [-3.0, 0.1],
        [0.3, 0.3],
        [0.0, 0.0],
    ];

    #[test]
    fn the_closed_form_is_the_mean_of_the_members() {
        for linkage in [Linkage::Average, Linkage::Ward] {
            let (mut table, mut clusters) = (Table::default(), Vec::<Vec<[f64; 2]>>::new());
            let mut pairs = 0;
            for newcomer in ARRIVALS {
                let row = row(&clusters, newcomer);
                let chosen = table.choose(&row, 3, linkage).unwrap();
                table = table.moved(&row, chosen).unwrap();
                match chosen {
                    Move::Open { .. } => clusters.push(vec![newcomer]),
                    Move::Join { slot, .. } => clusters[slot].push(newcomer),
                    Move::Pair { kept, freed, .. } => {
                        let moving = std::mem::replace(&mut clusters[freed], vec![newcomer]);
                        clusters[kept].extend(moving);
                        pairs += 1;
                    }
                }
                assert_eq!(table.len(), clusters.len());
                for a in 0..clusters.len() {
                    let norms = clusters[a].iter().map(|one| dot(*one, *one).sqrt());
                    let n = f64::from(u32::try_from(clusters[a].len()).unwrap());
                    assert!((table.clusters[a].mean_norm - norms.sum::<f64>() / n).abs() < 1e-12);
                    assert!((table.clusters[a].members - n).abs() < 1e-12);
                    for b in 0..clusters.len() {
                        let wanted = dot(mean(&clusters[a]), mean(&clusters[b]));
                        let found = table.product(a, b).unwrap();
                        assert!((found - wanted).abs() < 1e-12, "{a} {b}: {found}");
                    }
                }
            }
            assert!(pairs > 0, "{linkage:?}: no two old slots were joined");
        }
    }

    #[test]
    fn two_old_slots_join_when_they_are_closer_than_the_newcomer() {
        let clusters = [vec![[1.0, 0.0]], vec![[0.0, 1.0]], vec![[1.0, 0.1]]];
        let mut table = Table::default();
        for (place, cluster) in clusters.iter().enumerate() {
            let row = row(&clusters[..place], cluster[0]);
            table = table.moved(&row, Move::Open { slot: place }).unwrap();
        }
        let stranger = row(&clusters, [-1.0, -1.0]);
        for linkage in [Linkage::Average, Linkage::Ward] {
            let chosen = table.choose(&stranger, 3, linkage).unwrap();
            assert!(
                matches!(
                    chosen,
                    Move::Pair {
                        kept: 0,
                        freed: 2,
                        ..
                    }
                ),
                "{chosen:?}"
            );
        }
        let familiar = row(&clusters, [0.0, 1.0]);
        let chosen = table.choose(&familiar, 3, Linkage::Ward).unwrap();
        assert_eq!(
            chosen,
            Move::Join {
                slot: 1,
                linkage: 0.0
            }
        );
    }

    #[test]
    fn equals_go_to_the_lowest_numbers_and_size_counts_for_ward_alone() {
        let cluster = |members| Cluster {
            members,
            mean_norm: 1.0,
            cut: 0.0,
        };
        let products = [vec![1.0], vec![0.0, 1.0]];
        let table = Table::measured(&[cluster(5), cluster(1)], &products).unwrap();
        let row = Row {
            norm: 1.0,
            products: vec![0.0, 0.0],
        };
        let average = table.choose(&row, 2, Linkage::Average).unwrap();
        assert!(matches!(
            average,
            Move::Pair {
                kept: 0,
                freed: 1,
                ..
            }
        ));
        let ward = table.choose(&row, 2, Linkage::Ward).unwrap();
        assert!(matches!(ward, Move::Join { slot: 1, .. }), "{ward:?}");
    }

    #[test]
    fn what_was_cut_off_counts_as_distance() {
        let cluster = |cut| Cluster {
            members: 1,
            mean_norm: 1.0,
            cut,
        };
        let products = [vec![0.6], vec![0.0, 1.0]];
        let table = Table::measured(&[cluster(0.4), cluster(0.0)], &products).unwrap();
        assert_eq!(table.product(0, 0), Some(1.0));
        assert_eq!(table.linkage(Linkage::Ward, 0, 1), Some(1.0));
        assert_eq!(table.linkage(Linkage::Ward, 0, 2), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let row = |products: Vec<f64>| Row {
            norm: 1.0,
            products,
        };
        let table = Table::default()
            .moved(&row(vec![]), Move::Open { slot: 0 })
            .unwrap();
        let choose = |row: Row, limit| table.choose(&row, limit, Linkage::Ward);
        assert_eq!(
            choose(row(vec![]), 1),
            Err(BestPairError::Length {
                found: 0,
                clusters: 1
            })
        );
        assert_eq!(choose(row(vec![f64::NAN]), 1), Err(BestPairError::Measure));
        assert_eq!(choose(row(vec![0.1]), 0), Err(BestPairError::NoSlots));
        for other in [
            Move::Open { slot: 0 },
            Move::Join {
                slot: 1,
                linkage: 0.0,
            },
            Move::Pair {
                kept: 0,
                freed: 1,
                linkage: 0.0,
            },
        ] {
            assert_eq!(
                table.moved(&row(vec![0.1]), other),
                Err(BestPairError::OtherTable)
            );
        }
        let nobody = Cluster {
            members: 0,
            mean_norm: 1.0,
            cut: 0.0,
        };
        assert_eq!(
            Table::measured(&[nobody], &[vec![1.0]]),
            Err(BestPairError::Measure)
        );
        assert!(matches!(
            Table::measured(&[nobody], &[vec![]]),
            Err(BestPairError::Length { .. })
        ));
    }
}
