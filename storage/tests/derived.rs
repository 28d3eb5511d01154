//! Derived exports: made on demand, whole or absent, gone with their generation, their turn or the
//! process, and never worth a promise.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{SLOT, World, base_name, read_file, task};
use kmerge_storage::{
    Derived, DerivedLimit, DerivedName, Digest, ExportError, Generation, GenerationRecord,
    ReadError, TaskName, UnixMillis,
};

const TENSORS: &str = "adapter_model.safetensors";
const ROOMY: DerivedLimit = DerivedLimit {
    bytes: u64::MAX,
    keep_since: UnixMillis(u64::MAX),
};

fn generation(world: &World, number: u64) -> Arc<GenerationRecord> {
    let catalog = world.catalog();
    Arc::clone(
        catalog
            .generation(&base_name(), SLOT, Generation(number))
            .unwrap(),
    )
}

fn of<'a>(generation: &'a GenerationRecord, task: &'a TaskName) -> DerivedName<'a> {
    DerivedName {
        generation,
        format: "peft",
        task: Some(task),
    }
}

fn make(
    world: &mut World,
    name: DerivedName<'_>,
    content: &[u8],
    limit: DerivedLimit,
    now: u64,
) -> Result<Derived, ExportError> {
    let reader = &world.open().reader;
    let mut writer = reader.new_derived(TENSORS)?;
    for piece in content.chunks(3) {
        writer.write(piece).unwrap();
    }
    writer.finish(
        name,
        &[("adapter_config.json", b"{}")],
        limit,
        UnixMillis(now),
    )
}

/// The files of a part of the state directory.
fn below(world: &World, part: &str) -> usize {
    let files = world.files();
    files.keys().filter(|path| path.starts_with(part)).count()
}

fn is_there(world: &World, task: &TaskName) -> bool {
    let generation = world.path().join("derived/peft/tiny/slot-0/1");
    generation.join(format!("task-{task}")).is_dir()
}

#[test]
fn it_is_found_with_its_digest_and_read_whole() {
    let mut world = World::new();
    world.push("a", SLOT, b"packed");
    let record = generation(&world, 1);
    let name = task("a");
    let name = of(&record, &name);
    let reader = world.open().reader.clone();
    assert_eq!(reader.derived(name, UnixMillis(1)), None);
    assert!(matches!(
        reader.open_derived(name, UnixMillis(1)),
        Err(ReadError::ExportMissing { .. })
    ));

    let made = make(&mut world, name, b"decoded tensors", ROOMY, 5).unwrap();
    assert_eq!(
        made.path,
        world.path().join("derived/peft/tiny/slot-0/1/task-a")
    );
    assert_eq!(made.digest, Digest::of(b"decoded tensors"));
    assert_eq!(made.bytes, 17);
    assert_eq!(reader.derived(name, UnixMillis(6)), Some(made.clone()));
    let files = reader.open_derived(name, UnixMillis(7)).unwrap();
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["adapter_config.json", TENSORS]);
    assert_eq!(files[0].digest, Digest::of(b"{}"));
    assert_eq!(files[1].digest, made.digest);

    // Made twice at once, the first one stays.
    let again = make(&mut world, name, b"decoded tensors", ROOMY, 8).unwrap();
    assert_eq!(again, made);
    let whole = DerivedName { task: None, ..name };
    let whole = make(&mut world, whole, b"mean", ROOMY, 9).unwrap();
    assert_eq!(
        whole.path,
        world.path().join("derived/peft/tiny/slot-0/1/whole")
    );
    assert_eq!(below(&world, "staging"), 0);
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing_and_bad_names_are_refused() {
    let mut world = World::new();
    world.push("a", SLOT, b"packed");
    let record = generation(&world, 1);
    let reader = world.open().reader.clone();
    let mut writer = reader.new_derived(TENSORS).unwrap();
    writer.write(b"half").unwrap();
    drop(writer);
    assert_eq!(below(&world, "staging"), 0);
    assert!(matches!(
        reader.new_derived("../up"),
        Err(ExportError::FileName { .. })
    ));
    let name = task("a");
    let odd = DerivedName {
        format: "../up",
        ..of(&record, &name)
    };
    let refused = make(&mut world, odd, b"x", ROOMY, 1).unwrap_err();
    assert!(matches!(refused, ExportError::Format { .. }), "{refused}");
    assert_eq!(below(&world, "derived"), 0);
}

#[test]
fn what_was_unused_for_longest_makes_room_and_open_files_stay_readable() {
    let mut world = World::new();
    world.push("a", SLOT, b"packed");
    let record = generation(&world, 1);
    let tasks = ["a", "b", "c", "d"].map(task);
    let reader = world.open().reader.clone();
    let limit = DerivedLimit {
        bytes: 3 * 12,
        keep_since: UnixMillis(100),
    };
    for (at, task) in (1..).zip(&tasks[..3]) {
        make(&mut world, of(&record, task), b"0123456789", limit, at).unwrap();
    }
    let open = reader
        .open_derived(of(&record, &tasks[1]), UnixMillis(4))
        .unwrap();
    // "a" is used again, so "b" would be the oldest but for its use at 4: "c" goes.
    reader
        .derived(of(&record, &tasks[0]), UnixMillis(5))
        .unwrap();
    make(&mut world, of(&record, &tasks[3]), b"0123456789", limit, 6).unwrap();
    assert_eq!(
        tasks.each_ref().map(|task| is_there(&world, task)),
        [true, true, false, true]
    );
    assert_eq!(reader.derived(of(&record, &tasks[2]), UnixMillis(7)), None);

    let tight = DerivedLimit {
        bytes: 0,
        keep_since: UnixMillis(6),
    };
    make(&mut world, of(&record, &tasks[2]), b"0123456789", tight, 8).unwrap();
    // The newest stays, and what was asked for recently enough.
    assert_eq!(
        tasks.each_ref().map(|task| is_there(&world, task)),
        [false, false, true, true]
    );
    let mut bytes = [0; 10];
    open[1].file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"0123456789");
}

#[test]
fn it_goes_with_its_generation_and_a_start_begins_without() {
    let mut world = World::new();
    world.push("a", SLOT, b"first");
    let record = generation(&world, 1);
    let name = task("a");
    let made = make(&mut world, of(&record, &name), b"one", ROOMY, 1).unwrap();
    world.push("b", SLOT, b"second");
    let newer = generation(&world, 2);
    let kept = make(&mut world, of(&newer, &name), b"two", ROOMY, 1).unwrap();
    world.collect(Duration::ZERO);
    assert!(!made.path.exists() && kept.path.exists());
    let reader = world.open().reader.clone();
    assert_eq!(reader.derived(of(&record, &name), UnixMillis(2)), None);
    let refused = make(&mut world, of(&record, &name), b"one", ROOMY, 3).unwrap_err();
    assert!(
        matches!(refused, ExportError::GenerationRemoved { .. }),
        "{refused}"
    );

    drop(reader);
    world.reopen();
    assert!(!kept.path.exists());
    let reader = world.open().reader.clone();
    assert_eq!(reader.derived(of(&newer, &name), UnixMillis(9)), None);
    let again = make(&mut world, of(&newer, &name), b"two", ROOMY, 9).unwrap();
    assert_eq!(read_file(&again.path.join(TENSORS)), b"two");
}
