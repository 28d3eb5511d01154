//! A backup is one consistent file that brings everything back, and anything else is refused.
//!
//! `KMERGE_BACKUP_FLIPS` sets how many seeded damages are tried; 300 unless told.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use common::{
    SLOT, World, at, base_name, emptying, make_directories, open_at, placing, scratch, stage, task,
    write_file,
};
use kmerge_storage::{
    BackupContents, BackupError, Catalog, Digest, JobFailure, JobKind, JobState, Opened, Options,
    Rearrangement, RestoreError, RestoreOptions, SlotIndex, Written, restore, verify_backup,
};

/// A state with something of everything: merges, a forgotten task, an emptied slot, generations in
/// grace, a failed job, uploads and an order that wait, and a job that runs.
fn world() -> World {
    let mut world = World::new();
    for (name, bytes) in [("a0", b"zero"), ("a1", b"one."), ("a2", b"two.")] {
        world.push(name, SLOT, bytes);
    }
    world.push("lone", SlotIndex(2), b"alone");
    // a1 is forgotten.
    rearrange(&mut world, "a1", |world| {
        let tensor = world.tensor(b"without");
        let expected = common::current(&world.catalog(), SLOT);
        vec![placing(SLOT, expected, tensor, &[("a0", 0.5), ("a2", 0.5)])]
    });
    rearrange(&mut world, "lone", |world| {
        let expected = common::current(&world.catalog(), SlotIndex(2));
        vec![emptying(SlotIndex(2), expected)]
    });
    let failed = world.stage("bad", b"bad upload", Some("request-of-bad"));
    let now = world.tick();
    let failed = world.open().committer.enqueue(failed, now).unwrap().job.id;
    let failure = JobFailure {
        code: 3,
        reason: "BAD".to_owned(),
        message: "A \"bad\" upload\nin two lines.".to_owned(),
    };
    world
        .open()
        .committer
        .fail_job(failed, failure, now)
        .unwrap();
    let waits = world.stage("waits", &[7; 3000], Some("request-of-waits"));
    let now = world.tick();
    world.open().committer.enqueue(waits, now).unwrap();
    let runs = world.enqueue("runs", b"it runs").job.id;
    let now = world.tick();
    world.open().committer.start_job(runs, now).unwrap();
    let order = JobKind::Forget { task: task("a0") };
    let request = Some("request-of-order".to_owned());
    let committer = &mut world.open().committer;
    committer
        .enqueue_maintenance(&base_name(), order, request, now)
        .unwrap();
    world
}

fn rearrange(
    world: &mut World,
    forgotten: &str,
    steps: impl FnOnce(&mut World) -> Vec<kmerge_storage::SlotStep>,
) {
    let now = world.tick();
    let kind = JobKind::Forget {
        task: task(forgotten),
    };
    let committer = &mut world.open().committer;
    let queued = committer.enqueue_maintenance(&base_name(), kind, None, now);
    let job = queued.unwrap().job.id;
    committer.start_job(job, now).unwrap();
    let steps = steps(world);
    let outcome = Rearrangement {
        job,
        steps,
        settings: None,
        result: "{\"forgot\":true}".to_owned(),
    };
    world.open().committer.rearrange(outcome, now).unwrap();
}

fn backup(opened: &Opened) -> Result<(Vec<u8>, Written), BackupError> {
    let ready = opened.committer.snapshot(at(900))?.prepare()?;
    let announced = ready.length;
    let mut bytes = Vec::new();
    let written = ready.write(&mut |piece| bytes.write_all(piece))?;
    assert_eq!(written.length, bytes.len() as u64);
    assert_eq!(announced, written.length);
    assert_eq!(written.digest, Digest::of(&bytes));
    Ok((bytes, written))
}

fn options() -> RestoreOptions {
    RestoreOptions {
        open: Options::default(),
    }
}

fn restored(bytes: &[u8], target: &Path) -> Result<BackupContents, RestoreError> {
    restore(&mut &*bytes, target, &options(), at(1000))
}

/// What a backup keeps of a catalog.
fn kept(catalog: &Catalog) -> Catalog {
    let mut kept = catalog.clone();
    kept.revision = Default::default();
    kept.last_job = Default::default();
    for base_model in kept.base_models.values_mut() {
        let base_model = std::sync::Arc::make_mut(base_model);
        for slot in base_model.slots.values_mut() {
            let slot = std::sync::Arc::make_mut(slot);
            let current = slot.current().generation;
            slot.generations
                .retain(|generation, _| *generation == current);
        }
        for slot in base_model.emptied.values_mut() {
            std::sync::Arc::make_mut(slot).generations.clear();
        }
    }
    for job in kept.jobs.values_mut() {
        if job.state == JobState::Running {
            let job = std::sync::Arc::make_mut(job);
            job.state = JobState::Queued;
            job.attempts -= 1;
            job.started = None;
        }
    }
    kept
}

#[test]
fn everything_comes_back() {
    let mut world = world();
    let before = world.catalog();
    let (bytes, _) = backup(world.open()).unwrap();
    assert_eq!(world.catalog(), before, "a backup changes nothing");
    let room = scratch();
    let target = room.path().join("deep/state");
    let contents = restored(&bytes, &target).unwrap();
    assert_eq!(verify_backup(&mut &*bytes).unwrap(), contents);
    assert_eq!(
        (contents.slots, contents.tasks, contents.unfinished_jobs),
        (1, 2, 3)
    );
    assert_eq!(contents.revision, before.revision);

    let mut opened = open_at(&target, at(2000));
    assert_eq!(opened.report.notes, Vec::<String>::new());
    let after = opened.committer.catalog();
    assert_eq!(kept(&after), kept(&before));
    assert!(after.revision > before.revision && after.last_job > before.last_job);
    let current = after.slot(&base_name(), SLOT).unwrap().current().clone();
    opened
        .reader
        .verify(&current, u64::MAX, &mut |_| true)
        .unwrap();
    // What was acknowledged is known by its request id, and runs from its own bytes.
    let again = stage(&opened, "waits", &[7; 3000], Some("request-of-waits")).unwrap();
    let again = opened.committer.enqueue(again, at(2001)).unwrap();
    assert!(again.existing);
    opened.committer.start_job(again.job.id, at(2002)).unwrap();
    assert_eq!(
        opened.reader.staged(again.job.id).unwrap().tensor.len(),
        3000
    );
    let new = stage(&opened, "new", b"new", None).unwrap();
    let new = opened.committer.enqueue(new, at(2003)).unwrap().job;
    assert!(new.id > before.last_job);
    drop(opened);

    // A backup of what came back is as good, and so is what files alone bring back of it.
    common::remove(&target.join("catalog"));
    let opened = open_at(&target, at(3000));
    assert!(opened.report.catalog_rebuilt);
    let tasks = |catalog: &Catalog| catalog.base_models[&base_name()].tasks.clone();
    assert_eq!(tasks(&opened.committer.catalog()), tasks(&before));
    let (bytes, _) = backup(&opened).unwrap();
    restored(&bytes, &room.path().join("again")).unwrap();
}

#[test]
fn an_empty_state_can_be_kept_too() {
    let room = scratch();
    let opened = open_at(&room.path().join("one"), at(0));
    let (bytes, _) = backup(&opened).unwrap();
    restored(&bytes, &room.path().join("two")).unwrap();
    open_at(&room.path().join("two"), at(1));
}

#[test]
fn a_snapshot_outlives_what_is_removed_meanwhile_and_leaves_nothing() {
    let mut world = world();
    let before = world.catalog();
    let snapshot = world.open().committer.snapshot(at(900)).unwrap();
    // Everything that the snapshot needs goes: the generation, and the files of the jobs.
    let jobs: Vec<_> = before.unfinished_jobs().map(|job| job.id).collect();
    for job in jobs {
        let now = world.tick();
        let failure = JobFailure {
            code: 13,
            reason: "GONE".to_owned(),
            message: String::new(),
        };
        let committer = &mut world.open().committer;
        committer.fail_job(job, failure, now).unwrap();
    }
    rearrange(&mut world, "a0", |world| {
        let expected = common::current(&world.catalog(), SLOT);
        vec![emptying(SLOT, expected)]
    });
    world.collect(Duration::ZERO);
    assert_eq!(world.catalog().generations().count(), 0);
    let mut bytes = Vec::new();
    let ready = snapshot.prepare().unwrap();
    ready.write(&mut |piece| bytes.write_all(piece)).unwrap();
    let room = scratch();
    restored(&bytes, &room.path().join("state")).unwrap();
    let opened = open_at(&room.path().join("state"), at(2000));
    assert_eq!(kept(&opened.committer.catalog()), kept(&before));
    let left: Vec<_> = world.files().into_keys().collect();
    assert!(left.iter().all(|name| !name.contains("backup")), "{left:?}");
    // A reader that gives up lets go as well.
    let ready = world.open().committer.snapshot(at(901)).unwrap();
    let ready = ready.prepare().unwrap();
    let refused = ready.write(&mut |_| Err(std::io::ErrorKind::BrokenPipe.into()));
    assert!(matches!(refused, Err(BackupError::Sink(_))));
    assert_eq!(world.files().into_keys().collect::<Vec<_>>(), left);
}

#[test]
fn a_forgotten_task_is_in_no_later_backup() {
    let mut world = World::new();
    world.push("kept", SLOT, b"kept");
    world.push("secret", SLOT, b"SECRET-BYTES");
    let holds = |bytes: &[u8]| {
        let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
        (has(b"SECRET-BYTES"), has(b"\"secret\""))
    };
    let (bytes, _) = backup(world.open()).unwrap();
    assert_eq!(holds(&bytes), (true, true));
    rearrange(&mut world, "secret", |world| {
        let tensor = world.tensor(b"without");
        let expected = common::current(&world.catalog(), SLOT);
        vec![placing(SLOT, expected, tensor, &[("kept", 1.0)])]
    });
    // Its generation is in grace still.
    assert_eq!(world.catalog().generations().count(), 3);
    let (bytes, _) = backup(world.open()).unwrap();
    // Its jobs stay known, as any that have ended: nothing else.
    assert_eq!(holds(&bytes), (false, true));
    let room = scratch();
    restored(&bytes, &room.path().join("state")).unwrap();
    let opened = open_at(&room.path().join("state"), at(2000));
    let catalog = opened.committer.catalog();
    assert!(catalog.task(&base_name(), &task("secret")).is_none());
}

#[test]
fn what_is_damaged_here_is_given_out_as_no_backup() {
    for part in ["tensors", "manifests", "staging"] {
        let mut world = world();
        let files = world.files();
        let current = world.catalog();
        let current = current.slot(&base_name(), SLOT).unwrap().current();
        let generation = current.generation.to_string();
        let digest = current.digest.to_string();
        let name = files.keys().find(|name| match part {
            "tensors" => name.ends_with(&digest) && name.starts_with("tensors"),
            "manifests" => name.ends_with(&format!("0/{generation}.json")),
            _ => name.starts_with("staging") && name.ends_with("tensors"),
        });
        let path = world.path().join(name.unwrap());
        let mut bytes = common::read_file(&path);
        bytes[2] ^= 1;
        write_file(&path, &bytes);
        let refused = backup(world.open()).unwrap_err();
        assert!(
            matches!(refused, BackupError::Damaged { .. }),
            "{refused:?}"
        );
        common::remove(&path);
        let refused = backup(world.open()).unwrap_err();
        assert!(
            matches!(refused, BackupError::Missing { .. }),
            "{refused:?}"
        );
    }
}

#[test]
fn a_target_that_is_not_empty_or_in_use_is_refused_untouched() {
    let mut world = world();
    let (bytes, _) = backup(world.open()).unwrap();
    let refused = restored(&bytes, &world.path()).unwrap_err();
    assert_eq!(refused.reason(), "STATE_LOCKED", "{refused:?}");
    world.close();
    let files = world.files();
    let refused = restored(&bytes, &world.path()).unwrap_err();
    assert_eq!(refused.reason(), "STATE_NOT_EMPTY", "{refused:?}");
    assert_eq!(world.files(), files);
    let room = scratch();
    let file = room.path().join("file");
    write_file(&file, b"");
    assert_eq!(
        restored(&bytes, &file).unwrap_err().reason(),
        "STATE_NOT_EMPTY"
    );
    let empty = room.path().join("empty");
    make_directories(&empty);
    restored(&bytes, &empty).unwrap();
    // What a killed restore left is removed; what is not of one is not.
    make_directories(&room.path().join(".next.restoring/tensors"));
    let next = room.path().join("next");
    assert_eq!(
        restored(&bytes, &next).unwrap_err().reason(),
        "STATE_NOT_EMPTY"
    );
    write_file(&room.path().join(".next.restoring/LOCK"), b"");
    restored(&bytes, &next).unwrap();
    let names = |path: &Path| std::fs::read_dir(path).unwrap().count();
    assert_eq!(names(room.path()), 3, "nothing stays beside the states");
}

/// Every damage is refused, by name, and leaves nothing.
fn assert_refused(bytes: &[u8], what: &str) {
    let refused = verify_backup(&mut &*bytes).expect_err(what);
    let reason = refused.reason();
    assert!(
        ["BACKUP_DAMAGED", "NOT_A_BACKUP"].contains(&reason),
        "{what}: {refused:?}"
    );
}

#[test]
fn every_flip_and_every_cut_is_refused() {
    let mut world = world();
    let (bytes, _) = backup(world.open()).unwrap();
    // All headers, bit by bit: the first one, and every block that names an entry.
    let headers = (0..bytes.len()).step_by(512);
    let headers: Vec<usize> = headers
        .filter(|&at| bytes[at..].len() > 265 && &bytes[at + 257..at + 262] == b"ustar")
        .collect();
    assert!(headers.len() > 10, "{headers:?}");
    let mut spoilt = bytes.clone();
    for &header in &headers {
        for at in header..header + 512 {
            spoilt[at] ^= 1 << (at % 8);
            assert_refused(&spoilt, &format!("byte {at}"));
            spoilt[at] = bytes[at];
        }
    }
    for cut in (0..bytes.len())
        .step_by(512)
        .chain([1, 511, bytes.len() - 1])
    {
        assert_refused(&bytes[..cut], &format!("cut at {cut}"));
    }
    let count = std::env::var("KMERGE_BACKUP_FLIPS").map_or(300, |text| text.parse().unwrap());
    let room = scratch();
    for seed in 0..count {
        let mut state: u64 = seed;
        let mut below = |limit: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % limit
        };
        let mut spoilt = bytes.clone();
        for _ in 0..=below(3) {
            let place = below(spoilt.len());
            spoilt[place] ^= 1 << below(8);
        }
        // Flips may cancel each other.
        if spoilt == bytes {
            continue;
        }
        assert_refused(&spoilt, &format!("seed {seed}"));
        if seed % 50 == 0 {
            restored(&spoilt, &room.path().join("state")).unwrap_err();
            assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0);
        }
    }
}

/// A header as tar writes it, and what follows.
fn entry(name: &str, kind: u8, content: &[u8], link: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, format!("{:011o}\0", at(900).0 / 1000).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

#[test]
fn hostile_archives_are_refused_and_write_nothing_outside() {
    let mut world = world();
    let (bytes, _) = backup(world.open()).unwrap();
    let first = 512 + bytes[512..].iter().position(|&byte| byte == 0).unwrap();
    let first = first.next_multiple_of(512);
    let digest = Digest::of(b"x").to_string();
    let tensor = format!("tensors/{}/{digest}", &digest[..2]);
    let hostile = [
        ("outside", entry("../outside", b'0', b"x", "")),
        ("absolute", entry("/tmp/outside", b'0', b"x", "")),
        (
            "in the middle",
            entry("tensors/../../outside", b'0', b"x", ""),
        ),
        ("symbolic link", entry("staging/1", b'2', b"", "/tmp")),
        ("hard link", entry(&tensor, b'1', b"", "/etc/passwd")),
        ("directory", entry("staging/1/", b'5', b"", "")),
        ("long name", entry("././@LongLink", b'L', b"../outside", "")),
        (
            "pax",
            entry("catalog.jsonl", b'x', b"20 path=../outside\n", ""),
        ),
        ("other bytes", entry(&tensor, b'0', b"y", "")),
        ("a name for a name", entry("LOCK", b'0', b"x", "")),
    ];
    let room = scratch();
    for (what, entry) in &hostile {
        let archive = [&bytes[..first], entry, &bytes[first..]].concat();
        assert_refused(&archive, what);
        let target = room.path().join("inner/state");
        restored(&archive, &target).expect_err(what);
        assert!(!room.path().join("outside").exists(), "{what}");
        assert!(!target.exists(), "{what}");
    }
    // A length that nobody has is no reason to take memory for it.
    let mut endless = entry("catalog.jsonl", b'0', b"", "");
    endless[124..135].copy_from_slice(b"77777777777");
    endless[148..156].copy_from_slice(b"        ");
    let sum: u32 = endless.iter().map(|&byte| u32::from(byte)).sum();
    endless[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_refused(&[&bytes[..first], &endless].concat(), "endless");
    // Twice the same entry, and one that is missing.
    let second = &bytes[first..];
    let length = std::str::from_utf8(&second[124..135]).unwrap();
    let length = usize::from_str_radix(length, 8).unwrap();
    let end = first + 512 + length.next_multiple_of(512);
    let twice = [&bytes[..end], &bytes[first..]].concat();
    assert_refused(&twice, "twice");
    let without = [&bytes[..first], &bytes[end..]].concat();
    assert_refused(&without, "without");
    assert_refused(&[&bytes[..], b"x"].concat(), "something after it");
    assert_refused(b"", "nothing");
    assert_refused(&[0; 4096], "zeros");
}

#[test]
fn the_archive_is_one_that_any_tar_reads() {
    let mut world = world();
    let (bytes, _) = backup(world.open()).unwrap();
    let room = scratch();
    let archive = room.path().join("backup.tar");
    write_file(&archive, &bytes);
    let tar = |arguments: &[&str]| {
        let ran = std::process::Command::new("tar")
            .args(arguments)
            .current_dir(room.path())
            .output()
            .unwrap();
        assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    let listed = tar(&["tf", "backup.tar"]);
    assert!(listed.starts_with("kmerge-backup.json\ncatalog.jsonl\nbase-models/tiny/"));
    assert!(listed.ends_with("SHA256SUMS\n"));
    tar(&["xf", "backup.tar"]);
    for line in String::from_utf8(common::read_file(&room.path().join("SHA256SUMS")))
        .unwrap()
        .lines()
    {
        let (digest, name) = line.split_once("  ").unwrap();
        let found = Digest::of(&common::read_file(&room.path().join(name)));
        assert_eq!(found.to_string(), digest, "{name}");
    }
}
