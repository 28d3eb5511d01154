//! One suite for both databases.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::{Batch, CatalogStore};
use crate::catalog_memory::Memory;
use crate::catalog_sled::SledStore;
use crate::durable::Disk;

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;
type Open<'a> = dyn Fn() -> Box<dyn CatalogStore> + 'a;

/// Runs a test on each of the databases.
fn on_both(test: impl Fn(&Open<'_>)) {
    let memory = Memory::default();
    test(&|| memory.open());
    let directory = tempfile::tempdir().unwrap();
    test(&|| Box::new(open_sled(directory.path())));
}

fn open_sled(path: &Path) -> SledStore {
    SledStore::open(path, 1 << 20, &Disk::default()).unwrap()
}

fn pairs(store: &dyn CatalogStore) -> Pairs {
    let mut pairs = Pairs::new();
    let mut last = None;
    store
        .scan(&mut |key, value| {
            assert!(last.as_deref() < Some(key), "the keys come in order");
            last = Some(key.to_vec());
            pairs.insert(key.to_vec(), value.to_vec());
        })
        .unwrap();
    pairs
}

fn batch(changes: &[(&str, Option<&[u8]>)]) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put((*key).to_owned(), value.to_vec()),
            None => batch.remove((*key).to_owned()),
        }
    }
    batch
}

#[test]
fn what_is_applied_is_there_after_it_was_opened_again() {
    on_both(|open| {
        let mut store = open();
        assert_eq!(pairs(&*store), Pairs::new());
        store
            .apply(&batch(&[("b", Some(b"2")), ("a", Some(b"1")), ("c", None)]))
            .unwrap();
        store.flush().unwrap();
        store.sync().unwrap();
        drop(store);
        let mut store = open();
        let expected = Pairs::from([
            (b"a".to_vec(), b"1".to_vec()),
            (b"b".to_vec(), b"2".to_vec()),
        ]);
        assert_eq!(pairs(&*store), expected);
        store
            .apply(&batch(&[("a", None), ("b", Some(b"3"))]))
            .unwrap();
        store.close().unwrap();
        assert_eq!(
            pairs(&*open()),
            Pairs::from([(b"b".to_vec(), b"3".to_vec())])
        );
    });
}

#[test]
fn the_last_change_of_a_key_counts() {
    let mut changes = batch(&[("a", Some(b"1")), ("b", Some(b"1"))]);
    changes.put("a".to_owned(), b"2".to_vec());
    changes.remove("b".to_owned());
    let seen: Vec<_> = changes.changes().collect();
    assert_eq!(seen, [("a", Some(b"2".as_slice())), ("b", None)]);
    assert!(!changes.is_empty());
    assert!(Batch::default().is_empty());
}

#[test]
fn a_split_batch_has_the_same_changes_in_order() {
    let whole = batch(&[
        ("a", None),
        ("b", Some(b"1")),
        ("c", None),
        ("d", None),
        ("e", None),
    ]);
    let parts = whole.clone().split(2);
    assert_eq!(
        parts
            .iter()
            .map(|part| part.changes().count())
            .collect::<Vec<_>>(),
        [2, 2, 1]
    );
    let joined: Vec<_> = parts.iter().flat_map(Batch::changes).collect();
    assert_eq!(joined, whole.changes().collect::<Vec<_>>());
    assert!(Batch::default().split(2).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// sled and the model agree after any batches and any number of openings.
    #[test]
    fn sled_does_what_the_model_does(
        rounds in vec((btree_map("[a-d]{1,3}", option::of(vec(any::<u8>(), 0..600)), 0..40), any::<bool>()), 1..12)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::default();
        let mut model = memory.open();
        let mut sled: Box<dyn CatalogStore> = Box::new(open_sled(directory.path()));
        for (changes, reopen) in rounds {
            let changes: Vec<_> =
                changes.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
            let batch = batch(&changes);
            for store in [&mut model, &mut sled] {
                store.apply(&batch).unwrap();
                store.flush().unwrap();
            }
            if reopen {
                drop(sled);
                sled = Box::new(open_sled(directory.path()));
            }
            prop_assert_eq!(pairs(&*sled), pairs(&*model));
        }
    }
}
