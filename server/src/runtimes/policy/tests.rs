//! The order of steps, and that its promises hold whatever happens in between.

use kmerge_storage::{Digest, Generation, SlotIndex};
use proptest::prelude::*;

use super::super::desired::Wanted;
use super::*;
use crate::served;

const DRAIN: Duration = Duration::from_secs(60);

const LIMITS: Limits = Limits {
    drain: DRAIN,
    most_held: 6,
};

fn at(seconds: u64) -> UnixMillis {
    UnixMillis(seconds * 1000)
}

/// Names with the aliases that should lead to them.
fn wanting(names: &[(&str, &[&str])]) -> Desired {
    let mut desired = Desired::default();
    for (name, aliases) in names {
        let wanted = Wanted {
            base_model: "tiny".parse().unwrap(),
            slot: SlotIndex(0),
            generation: Generation(1),
            digest: Digest::of(name.as_bytes()),
            of: served::Wanted::Slot,
            tasks: Vec::new(),
        };
        desired.adapters.insert((*name).to_owned(), wanted);
        for alias in *aliases {
            desired
                .routes
                .insert((*alias).to_owned(), (*name).to_owned());
        }
    }
    desired
}

/// Takes every step at once until there is none, and gives them.
fn settle(known: &mut Known, desired: &Desired, now: UnixMillis) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        known.aim(desired, now);
        let Some(step) = known.next(desired, LIMITS, now).step else {
            return said;
        };
        said.push(match &step {
            Step::Load(name) => format!("load {name}"),
            Step::Switch { alias, name } => format!("{alias} → {name}"),
            Step::Unroute(alias) => format!("no {alias}"),
            Step::Unload(name) => format!("unload {name}"),
            Step::Release(name) => format!("release {name}"),
        });
        if let Step::Load(name) = &step {
            known.holds(name);
        }
        known.done(&step, now);
        assert!(said.len() < 1000, "it never settles: {said:?}");
    }
}

fn listing(entries: &[(&str, &str)]) -> Listing {
    entries
        .iter()
        .map(|(name, mark)| {
            let mark = (!mark.is_empty()).then(|| (*mark).to_owned());
            ((*name).to_owned(), mark)
        })
        .collect()
}

#[test]
fn a_new_generation_is_loaded_then_switched_to_and_the_old_one_drains() {
    let mut known = Known::holding([], true);
    let first = wanting(&[("a.g1", &["a"])]);
    assert_eq!(settle(&mut known, &first, at(0)), ["load a.g1", "a → a.g1"]);
    assert_eq!(settle(&mut known, &first, at(1000)), [""; 0]);

    let second = wanting(&[("a.g2", &["a"])]);
    assert_eq!(
        settle(&mut known, &second, at(1000)),
        ["load a.g2", "a → a.g2"]
    );
    let next = known.next(&second, LIMITS, at(1001));
    assert_eq!(next.wake, Some(at(1060)), "it drains from the switch");
    assert_eq!(settle(&mut known, &second, at(1059)), [""; 0]);
    assert_eq!(settle(&mut known, &second, at(1060)), ["unload a.g1"]);
    assert_eq!(known.next(&second, LIMITS, at(1061)).wake, None);
}

#[test]
fn the_old_one_serves_as_long_as_the_new_one_cannot_be_loaded() {
    let mut known = Known::holding([], true);
    settle(&mut known, &wanting(&[("a.g1", &["a"])]), at(0));
    let second = wanting(&[("a.g2", &["a"])]);
    for round in 0..5 {
        let now = at(100 + 100 * round);
        known.aim(&second, now);
        let step = known.next(&second, LIMITS, now).step.unwrap();
        assert_eq!(step, Step::Load("a.g2".to_owned()));
        known.failed(&step, "rank".to_owned(), None, now, 0.5);
        assert_eq!(known.routes["a"], "a.g1");
    }
    assert_eq!(known.trouble["a.g2"].failures, 5);
    assert_eq!(known.draining().count(), 0);
    // A third generation has nothing to do with the trouble of the second.
    let third = wanting(&[("a.g3", &["a"])]);
    assert_eq!(
        settle(&mut known, &third, at(600)),
        ["load a.g3", "a → a.g3"]
    );
    assert!(known.trouble.is_empty());
}

#[test]
fn one_that_fails_does_not_hold_up_the_others() {
    let mut known = Known::holding([], true);
    let both = wanting(&[("a.g1", &["a"]), ("b.g1", &["b"])]);
    known.aim(&both, at(0));
    let step = known.next(&both, LIMITS, at(0)).step.unwrap();
    known.failed(&step, "no".to_owned(), None, at(0), 0.9);
    assert_eq!(settle(&mut known, &both, at(0)), ["load b.g1", "b → b.g1"]);
    let next = known.next(&both, LIMITS, at(0));
    assert_eq!(next.wake, Some(UnixMillis(900)));
    assert_eq!(settle(&mut known, &both, at(1)), ["load a.g1", "a → a.g1"]);
}

#[test]
fn what_a_slot_shares_is_loaded_once() {
    let mut known = Known::holding([], true);
    let desired = wanting(&[("slot-0.g1", &["a", "b"])]);
    assert_eq!(
        settle(&mut known, &desired, at(0)),
        ["load slot-0.g1", "a → slot-0.g1", "b → slot-0.g1"]
    );
    // One of two moves elsewhere: the name stays for the other.
    let desired = wanting(&[("slot-0.g1", &["a"]), ("slot-1.g1", &["b"])]);
    assert_eq!(
        settle(&mut known, &desired, at(1)),
        ["load slot-1.g1", "b → slot-1.g1"]
    );
    assert_eq!(settle(&mut known, &desired, at(1000)), [""; 0]);
}

#[test]
fn a_task_that_is_gone_is_not_answered_for_and_its_adapter_drains() {
    let mut known = Known::holding([], true);
    settle(&mut known, &wanting(&[("a.g1", &["a"])]), at(0));
    let nothing = Desired::default();
    assert_eq!(settle(&mut known, &nothing, at(10)), ["no a"]);
    assert_eq!(settle(&mut known, &nothing, at(70)), ["unload a.g1"]);
    assert_eq!(known, Known::holding([], true));
}

#[test]
fn what_has_drained_makes_its_place_free_before_anything_is_loaded() {
    let mut known = Known::holding([], true);
    settle(&mut known, &wanting(&[("a.g1", &["a"])]), at(0));
    settle(&mut known, &wanting(&[("a.g2", &["a"])]), at(10));
    assert_eq!(
        settle(&mut known, &wanting(&[("a.g3", &["a"])]), at(100)),
        ["unload a.g1", "load a.g3", "a → a.g3"]
    );
}

#[test]
fn generations_that_come_faster_than_old_ones_drain_wait_for_a_place() {
    let mut known = Known::holding([], true);
    for generation in 1..=6 {
        let name = format!("a.g{generation}");
        settle(&mut known, &wanting(&[(&name, &["a"])]), at(generation));
    }
    assert_eq!(known.held.len(), 6);
    for generation in 7..=50 {
        let name = format!("a.g{generation}");
        let steps = settle(&mut known, &wanting(&[(&name, &["a"])]), at(generation));
        assert_eq!(steps, [""; 0], "{generation}");
    }
    assert_eq!(known.routes["a"], "a.g6", "what is there goes on serving");
    // The first that has drained makes room for the newest of all.
    let newest = wanting(&[("a.g51", &["a"])]);
    assert_eq!(known.next(&newest, LIMITS, at(51)).wake, Some(at(62)));
    assert_eq!(
        settle(&mut known, &newest, at(62)),
        ["unload a.g1", "load a.g51", "a → a.g51"]
    );
}

#[test]
fn what_is_wanted_never_waits_for_itself() {
    let mut known = Known::holding([], true);
    let names: Vec<_> = (0..9).map(|task| format!("t{task}.g1")).collect();
    let aliases: Vec<_> = (0..9).map(|task| [format!("t{task}")]).collect();
    let mut desired = Desired::default();
    for (name, alias) in names.iter().zip(&aliases) {
        let one = wanting(&[(name, &[&alias[0]])]);
        desired.adapters.extend(one.adapters);
        desired.routes.extend(one.routes);
    }
    settle(&mut known, &desired, at(0));
    assert_eq!(
        known.loaded.len(),
        9,
        "more than the limit, and all of them wanted"
    );
}

#[test]
fn a_runtime_that_has_lost_everything_gets_it_again() {
    let mut known = Known::holding([], true);
    let desired = wanting(&[("a.g1", &["a"]), ("b.g1", &["b"])]);
    settle(&mut known, &desired, at(0));
    known.told(&listing(&[("base", ""), ("b.g1", "")]), false);
    assert_eq!(
        known.routes.get("a"),
        None,
        "nobody is sent where nothing is"
    );
    assert_eq!(
        settle(&mut known, &desired, at(1)),
        ["load a.g1", "a → a.g1"]
    );
}

#[test]
fn an_alias_that_was_moved_by_someone_else_is_moved_back() {
    let mut known = Known::holding([], true);
    let desired = wanting(&[("a.g2", &["a"])]);
    settle(&mut known, &desired, at(0));
    known.told(&listing(&[("a.g2", "two"), ("a", "two")]), true);
    assert_eq!(settle(&mut known, &desired, at(1)), [""; 0]);
    known.told(&listing(&[("a.g2", "two"), ("a", "one")]), true);
    assert_eq!(settle(&mut known, &desired, at(2)), ["a → a.g2"]);
    known.told(&listing(&[("a.g2", "two")]), true);
    assert_eq!(settle(&mut known, &desired, at(3)), ["a → a.g2"]);
}

#[test]
fn after_a_start_what_is_there_is_adopted_and_what_is_not_ours_is_left_alone() {
    let held = ["a.g1".to_owned(), "a.g2".to_owned()];
    let mut known = Known::holding(held, true);
    let desired = wanting(&[("a.g2", &["a"])]);
    let there = listing(&[("a.g1", "one"), ("a", "one"), ("foreign.g1", "x")]);
    known.aim(&desired, at(0));
    known.told(&there, true);
    known.adopt(&there, &desired);
    assert_eq!(known.routes["a"], "a.g1");
    assert_eq!(
        settle(&mut known, &desired, at(0)),
        ["load a.g2", "a → a.g2"]
    );
    assert_eq!(settle(&mut known, &desired, at(60)), ["unload a.g1"]);
    assert_eq!(settle(&mut known, &desired, at(9999)), [""; 0]);
}

#[test]
fn files_of_what_the_runtime_does_not_have_are_released_without_asking_it() {
    let mut known = Known::holding(["old.g1".to_owned()], true);
    let nothing = Desired::default();
    known.aim(&nothing, at(0));
    known.told(&Listing::new(), false);
    assert_eq!(settle(&mut known, &nothing, at(59)), [""; 0]);
    assert_eq!(settle(&mut known, &nothing, at(60)), ["release old.g1"]);
}

#[test]
fn one_that_does_not_tell_is_told_again_after_a_start() {
    let held = ["a.g1".to_owned(), "a.g2".to_owned()];
    let mut known = Known::holding(held, false);
    let desired = wanting(&[("a.g2", &["a"])]);
    assert_eq!(
        settle(&mut known, &desired, at(0)),
        ["load a.g2", "a → a.g2"]
    );
    assert_eq!(settle(&mut known, &desired, at(60)), ["unload a.g1"]);
}

#[test]
fn waits_grow_are_jittered_in_full_and_heed_what_the_runtime_asks() {
    let waits: Vec<_> = (1..=8)
        .map(|failures| wait(failures, None, 1.0).as_secs())
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(wait(u32::MAX, None, 1.0), LONGEST_WAIT);
    assert_eq!(wait(5, None, 0.0), SHORTEST_WAIT);
    assert_eq!(wait(5, None, 0.5), Duration::from_secs(8));
    let asked = wait(1, Some(Duration::from_secs(30)), 0.5);
    assert_eq!(asked, Duration::from_millis(30_500));
    let much = wait(1, Some(Duration::MAX), 0.0);
    assert_eq!(much, LONGEST_HINT + SHORTEST_WAIT);
}

/// A runtime made of sets, and the time.
#[derive(Debug, Default)]
struct World {
    has: BTreeMap<String, String>,
    now: u64,
}

#[derive(Debug, Clone)]
enum Happening {
    Generation(u8, u8),
    Gone(u8),
    Lost,
    Failure,
    Ask,
    Pass(u16),
    Steps(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..3_u8, 1..5_u8).prop_map(|(task, generation)| Happening::Generation(task, generation)),
        (0..3_u8).prop_map(Happening::Gone),
        Just(Happening::Lost),
        Just(Happening::Failure),
        Just(Happening::Ask),
        (1..90_u16).prop_map(Happening::Pass),
        (1..9_u8).prop_map(Happening::Steps),
    ]
}

/// Takes one step against the world and checks that the step was allowed.
fn take(
    world: &mut World,
    known: &mut Known,
    desired: &Desired,
    left: &mut BTreeMap<String, u64>,
    aliases: bool,
) -> bool {
    let now = at(world.now);
    known.aim(desired, now);
    let Some(step) = known.next(desired, LIMITS, now).step else {
        return false;
    };
    match &step {
        Step::Load(name) => {
            known.holds(name);
            world.has.insert(name.clone(), name.clone());
        }
        Step::Switch { alias, name } => {
            assert!(known.loaded.contains(name), "{alias} to missing {name}");
            if aliases {
                if let Some(mark) = world.has.get(name).cloned() {
                    world.has.insert(alias.clone(), mark);
                } else {
                    // It was lost since: the runtime refuses, and what it has is asked for.
                    known.failed(&step, "lost".to_owned(), None, now, 0.1);
                    let listing = world.has.iter();
                    let listing = listing.map(|(name, mark)| (name.clone(), Some(mark.clone())));
                    known.told(&listing.collect(), true);
                    return true;
                }
            }
            if let Some(before) = known.routes.get(alias) {
                left.insert(before.clone(), world.now);
            }
        }
        Step::Unroute(alias) => {
            assert!(!desired.routes.contains_key(alias));
            world.has.remove(alias);
            if let Some(before) = known.routes.get(alias) {
                left.insert(before.clone(), world.now);
            }
        }
        Step::Unload(name) | Step::Release(name) => {
            assert!(!desired.adapters.contains_key(name), "{name} is wanted");
            assert!(!known.routes.values().any(|led| led == name));
            let since = left.get(name).copied().unwrap_or(0);
            assert!(world.now - since >= DRAIN.as_secs(), "{name} still drains");
            let loaded = world.has.remove(name).is_some();
            assert!(
                !loaded || matches!(step, Step::Unload(_)),
                "{name} was there"
            );
        }
    }
    known.done(&step, now);
    true
}

proptest! {
    #[test]
    fn whatever_happens_the_promises_hold_and_it_settles(
        happenings in prop::collection::vec(happening(), 1..60),
        aliases: bool,
    ) {
        let mut world = World::default();
        world.has.insert("foreign".to_owned(), "foreign".to_owned());
        let mut known = Known::holding([], true);
        let mut left = BTreeMap::new();
        let mut tasks: BTreeMap<u8, u8> = BTreeMap::new();
        let desired = |tasks: &BTreeMap<u8, u8>| {
            let mut desired = Desired::default();
            for (task, generation) in tasks {
                let name = format!("t{task}.g{generation}");
                let one = wanting(&[(&name, &[&format!("t{task}")])]);
                desired.adapters.extend(one.adapters);
                desired.routes.extend(one.routes);
            }
            desired
        };
        let ask = |world: &World, known: &mut Known| {
            let listing = world.has.iter();
            let listing = listing.map(|(name, mark)| (name.clone(), Some(mark.clone())));
            known.told(&listing.collect(), aliases);
        };
        for happening in happenings {
            match happening {
                Happening::Generation(task, generation) => { tasks.insert(task, generation); }
                Happening::Gone(task) => { tasks.remove(&task); }
                Happening::Lost => world.has.clear(),
                Happening::Failure => {
                    let now = at(world.now);
                    let desired = desired(&tasks);
                    known.aim(&desired, now);
                    if let Some(step) = known.next(&desired, LIMITS, now).step {
                        known.failed(&step, "no".to_owned(), None, now, 0.7);
                    }
                }
                Happening::Ask => ask(&world, &mut known),
                Happening::Pass(seconds) => world.now += u64::from(seconds),
                Happening::Steps(count) => for _ in 0..count {
                    take(&mut world, &mut known, &desired(&tasks), &mut left, aliases);
                },
            }
        }
        let desired = desired(&tasks);
        for _ in 0..3 {
            // Long enough for every wait and every drain.
            world.now += 1000;
            ask(&world, &mut known);
            let mut steps = 0;
            while take(&mut world, &mut known, &desired, &mut left, aliases) {
                steps += 1;
                prop_assert!(steps < 200);
            }
        }
        prop_assert_eq!(&known.routes, &desired.routes);
        let ours: BTreeSet<_> = desired.adapters.keys().cloned().collect();
        prop_assert_eq!(&known.loaded, &ours);
        prop_assert_eq!(&known.held, &ours);
        let there: BTreeSet<_> = world.has.keys().filter(|name| name.contains(".g")).cloned().collect();
        prop_assert_eq!(there, ours);
    }
}
