//! The modules that the members of a slot have between them, written once.

use super::bytes::{Cursor, push_count};
use crate::{AdapterLayout, MergeError, ModuleLayout, compare_paths};

/// Paths and shapes in natural order, each path once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Table(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) out_features: usize,
    pub(super) in_features: usize,
}

/// A table with a newcomer's modules in it, and where everything is in it.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) table: Table,
    /// Where the modules of the table before are.
    pub(super) old: Vec<usize>,
    /// Where the newcomer's modules are.
    pub(super) new: Vec<usize>,
}

impl Entry {
    pub(super) fn of(module: &ModuleLayout) -> Self {
        Self {
            path: module.path.clone(),
            out_features: module.out_features,
            in_features: module.in_features,
        }
    }

    /// Adapters of one base model agree on every module's shape.
    pub(super) fn expect_shape(
        &self,
        out_features: usize,
        in_features: usize,
    ) -> Result<(), MergeError> {
        if (self.out_features, self.in_features) == (out_features, in_features) {
            return Ok(());
        }
        Err(MergeError::ShapeMismatch {
            module: self.path.clone(),
            slot_out: self.out_features,
            slot_in: self.in_features,
            new_out: out_features,
            new_in: in_features,
        })
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// `out_features` and `in_features` of each module.
    pub(super) fn shapes(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.0
            .iter()
            .map(|entry| (entry.out_features, entry.in_features))
    }

    /// The modules of an adapter, which are sorted as a table is.
    pub(super) fn of(layout: &AdapterLayout) -> Self {
        Self(layout.modules.iter().map(Entry::of).collect())
    }

    /// With the modules of `layout`.
    pub(super) fn join(&self, layout: &AdapterLayout) -> Result<Joined, MergeError> {
        self.join_table(&Self::of(layout))
    }

    /// With the modules of another table.
    pub(super) fn join_table(&self, newer: &Self) -> Result<Joined, MergeError> {
        let mut table = self.clone();
        for module in &newer.0 {
            match table.find(&module.path) {
                Ok(place) => {
                    table.0[place].expect_shape(module.out_features, module.in_features)?;
                }
                Err(place) => table.0.insert(place, module.clone()),
            }
        }
        let places = |of: &Self| -> Vec<usize> {
            let paths = of.0.iter().map(|entry| entry.path.as_str());
            paths.filter_map(|path| table.find(path).ok()).collect()
        };
        Ok(Joined {
            old: places(self),
            new: places(newer),
            table,
        })
    }

    /// Only the modules for which `kept` says so.
    pub(super) fn narrowed(mut self, kept: &[bool]) -> Self {
        let mut kept = kept.iter();
        self.0.retain(|_| kept.next() == Some(&true));
        self
    }

    fn find(&self, path: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|entry| compare_paths(&entry.path, path))
    }

    /// Appends the table: of each path only what differs from the one before.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        push_count(out, self.0.len());
        let mut before = "";
        for entry in &self.0 {
            let shared = before
                .bytes()
                .zip(entry.path.bytes())
                .take_while(|(left, right)| left == right)
                .count();
            let rest = &entry.path.as_bytes()[shared..];
            push_count(out, shared);
            push_count(out, rest.len());
            out.extend_from_slice(rest);
            push_count(out, entry.out_features);
            push_count(out, entry.in_features);
            before = &entry.path;
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        /// Far above any model's; keeps products of sizes far from overflow.
        const LARGEST: usize = 1 << 24;
        /// The same; and few bytes of shared beginnings must not become many bytes of paths.
        const MODULES: usize = 1 << 16;
        const PATH: usize = 1 << 10;
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..cursor.count().filter(|&count| count <= MODULES)? {
            let before = entries
                .last()
                .map_or(&[][..], |entry| entry.path.as_bytes());
            let shared = cursor.count()?;
            let rest = cursor
                .count()
                .filter(|&rest| rest <= PATH - shared.min(PATH))?;
            let mut path = before.get(..shared)?.to_vec();
            path.extend_from_slice(cursor.take(rest)?);
            let entry = Entry {
                path: String::from_utf8(path).ok()?,
                out_features: cursor.count().filter(|size| (1..=LARGEST).contains(size))?,
                in_features: cursor.count().filter(|size| (1..=LARGEST).contains(size))?,
            };
            let in_order = entries
                .last()
                .is_none_or(|last| compare_paths(&last.path, &entry.path).is_lt());
            if !in_order {
                return None;
            }
            entries.push(entry);
        }
        Some(Self(entries))
    }
}
