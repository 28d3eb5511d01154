//! Uploads: what is staged is what was declared, and what is not leaves nothing.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{World, at, base_name, stage, task};
use kmerge_storage::{CommitError, Digest, Existing, IngestError, ReadError, StageRequest};

fn request(bytes: &[u8]) -> StageRequest {
    StageRequest {
        base_model: base_name(),
        task: task("a"),
        format: "peft".to_owned(),
        config: b"{}".to_vec(),
        size_bytes: bytes.len() as u64,
        digest: Digest::of(bytes),
        request_id: None,
    }
}

#[test]
fn a_staged_upload_can_be_read_before_and_after_it_is_a_job() {
    let mut world = World::new();
    // Longer than any buffer, in pieces smaller and larger than it.
    let bytes: Vec<u8> = (0..1_000_003_u32)
        .map(|i| i.to_le_bytes()[0] ^ 0x5a)
        .collect();
    let mut writer = world.open().ingest.stage(request(&bytes)).unwrap();
    let (small, large) = bytes.split_at(100_001);
    for chunk in small.chunks(7) {
        writer.write(chunk).unwrap();
    }
    assert_eq!(writer.received(), 100_001);
    for chunk in large.chunks(400_000) {
        writer.write(chunk).unwrap();
    }
    let staged = writer.finish().unwrap();
    assert_eq!(staged.tensor().len(), bytes.len() as u64);
    let mut middle = vec![0; 1000];
    staged.tensor().read_exact_at(&mut middle, 99_500).unwrap();
    assert_eq!(middle, bytes[99_500..100_500]);

    let job = world.open().committer.enqueue(staged, at(1)).unwrap().job;
    let files = world.open().reader.staged(job.id).unwrap();
    assert_eq!(files.config, b"{}");
    let mut all = vec![0; bytes.len()];
    files.tensor.read_exact_at(&mut all, 0).unwrap();
    assert_eq!(all, bytes);
    assert!(
        files
            .tensor
            .read_exact_at(&mut [0], bytes.len() as u64)
            .is_err()
    );
}

#[test]
fn an_upload_can_be_looked_at_while_the_disk_takes_it() {
    let mut world = World::new();
    let bytes = vec![7; 300_000];
    let mut writer = world.open().ingest.stage(request(&bytes)).unwrap();
    writer.write(&bytes).unwrap();
    let look = |staged: &kmerge_storage::Staged| {
        let mut all = vec![0; bytes.len()];
        staged.tensor().read_exact_at(&mut all, 0).map(|()| all)
    };
    let (staged, seen) = writer.finish_beside(look).unwrap();
    assert_eq!(seen.unwrap(), bytes);
    let job = world.open().committer.enqueue(staged, at(1)).unwrap().job;
    assert!(world.open().reader.staged(job.id).is_ok());

    // What is not whole is not looked at.
    let mut writer = world.open().ingest.stage(request(&[1, 2, 3])).unwrap();
    writer.write(&[1, 2]).unwrap();
    let error = writer
        .finish_beside(|_| panic!("an upload that ended early was looked at"))
        .unwrap_err();
    assert!(matches!(error, IngestError::TooShort { received: 2, .. }));
}

#[test]
fn too_many_bytes_are_refused_at_once_and_too_few_at_the_end() {
    let mut world = World::new();
    let before = world.files();
    let mut writer = world.open().ingest.stage(request(b"12345")).unwrap();
    writer.write(b"1234").unwrap();
    let error = writer.write(b"56").unwrap_err();
    assert!(
        matches!(error, IngestError::TooLong { declared: 5 }),
        "{error}"
    );
    assert_eq!(writer.received(), 4);
    let error = writer.finish().unwrap_err();
    assert!(
        matches!(
            error,
            IngestError::TooShort {
                declared: 5,
                received: 4
            }
        ),
        "{error}"
    );
    assert_eq!(error.reason(), "SIZE_MISMATCH");
    assert_eq!(world.files(), before);
}

#[test]
fn other_bytes_than_declared_are_refused() {
    let mut world = World::new();
    let before = world.files();
    let mut writer = world.open().ingest.stage(request(b"12345")).unwrap();
    writer.write(b"12346").unwrap();
    let error = writer.finish().unwrap_err();
    let IngestError::DigestMismatch { declared, computed } = error else {
        panic!("{error}")
    };
    assert_eq!(
        (declared, computed),
        (Digest::of(b"12345"), Digest::of(b"12346"))
    );
    assert_eq!(world.files(), before);
}

#[test]
fn what_is_dropped_leaves_nothing() {
    let mut world = World::new();
    let before = world.files();
    let mut writer = world.open().ingest.stage(request(b"12345")).unwrap();
    writer.write(b"123").unwrap();
    assert_ne!(world.files(), before);
    drop(writer);
    assert_eq!(world.files(), before);
    drop(stage(world.open(), "a", b"12345", None).unwrap());
    assert_eq!(world.files(), before);
    let mut tensor = world.open().reader.new_tensor().unwrap();
    tensor.write(&[1; 1_000_000]).unwrap();
    drop(tensor);
    assert_eq!(world.files(), before);
}

#[test]
fn requests_that_break_a_limit_are_refused_before_anything_is_written() {
    let mut world = World::new();
    let before = world.files();
    let ingest = world.open().ingest.clone();
    let wrong = [
        (
            StageRequest {
                format: "../x".to_owned(),
                ..request(b"")
            },
            "FORMAT_INVALID",
        ),
        (
            StageRequest {
                config: vec![b' '; 1024 * 1024 + 1],
                ..request(b"")
            },
            "CONFIG_TOO_LARGE",
        ),
        (
            StageRequest {
                request_id: Some(String::new()),
                ..request(b"")
            },
            "REQUEST_ID_LENGTH",
        ),
        (
            StageRequest {
                request_id: Some("x".repeat(129)),
                ..request(b"")
            },
            "REQUEST_ID_LENGTH",
        ),
    ];
    for (request, reason) in wrong {
        assert_eq!(ingest.stage(request).unwrap_err().reason(), reason);
    }
    assert_eq!(world.files(), before);
}

#[test]
fn the_same_upload_is_the_same_job() {
    let mut world = World::new();
    let first = world.stage("a", b"bytes", Some("request-1"));
    let first = world.open().committer.enqueue(first, at(1)).unwrap();
    assert!(!first.existing);
    for request in [Some("request-1"), Some("request-2"), None] {
        let again = world.stage("a", b"bytes", request);
        let again = world.open().committer.enqueue(again, at(2)).unwrap();
        assert!(again.existing);
        assert_eq!(again.job, first.job);
    }
    // Nor does it matter how far the job is.
    world.merge(first.job.id, common::SLOT, b"merged").unwrap();
    let again = world.stage("a", b"bytes", None);
    let again = world.open().committer.enqueue(again, at(3)).unwrap();
    assert_eq!((again.job.id, again.existing), (first.job.id, true));
    assert_eq!(world.catalog().jobs.len(), 1);
}

#[test]
fn other_content_does_not_take_a_request_id_or_a_task() {
    let mut world = World::new();
    let first = world.stage("a", b"bytes", Some("request-1"));
    let first = world.open().committer.enqueue(first, at(1)).unwrap().job;
    let before = world.files();
    let cases = [
        ("b", "bytes", "REQUEST_ID_REUSED"),
        ("a", "other", "REQUEST_ID_REUSED"),
    ];
    for (name, bytes, reason) in cases {
        let staged = world.stage(name, bytes.as_bytes(), Some("request-1"));
        let error = world.open().committer.enqueue(staged, at(2)).unwrap_err();
        assert_eq!(error.reason(), reason);
    }
    let staged = world.stage("a", b"other", None);
    let error = world.open().committer.enqueue(staged, at(2)).unwrap_err();
    let CommitError::AlreadyExists {
        existing: Existing::Task { job, .. },
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(job, first.id);
    assert_eq!(world.files(), before);
}

#[test]
fn a_job_that_ended_badly_gives_its_task_back_but_not_its_request_id() {
    let mut world = World::new();
    let first = world.stage("a", b"bytes", Some("request-1"));
    let first = world.open().committer.enqueue(first, at(1)).unwrap().job;
    world.open().committer.cancel_job(first.id, at(2)).unwrap();
    let error = world.open().reader.staged(first.id).unwrap_err();
    assert!(
        matches!(error, ReadError::StagedMissing { job } if job == first.id),
        "{error}"
    );

    let again = world.stage("a", b"bytes", Some("request-1"));
    let again = world.open().committer.enqueue(again, at(3)).unwrap();
    assert_eq!((again.job.id, again.existing), (first.id, true));
    let again = world.stage("a", b"bytes", Some("request-2"));
    let again = world.open().committer.enqueue(again, at(4)).unwrap();
    assert!(!again.existing);
    assert_eq!(again.job.id, first.id.next());
}

#[test]
fn an_upload_for_an_unknown_base_model_is_refused() {
    let mut world = World::new();
    let before = world.files();
    let unknown = StageRequest {
        base_model: "unknown".parse().unwrap(),
        ..request(b"")
    };
    let staged = world
        .open()
        .ingest
        .stage(unknown)
        .unwrap()
        .finish()
        .unwrap();
    let error = world.open().committer.enqueue(staged, at(1)).unwrap_err();
    assert_eq!(error.reason(), "BASE_MODEL_UNKNOWN");
    assert_eq!(world.files(), before);
}

#[test]
fn only_the_owner_can_read_the_state() {
    let mut world = World::new();
    world.push("a", common::SLOT, b"tensors");
    world.enqueue("b", b"bytes");
    let mut directories = vec![world.path()];
    let mut checked = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let mode = std::fs::symlink_metadata(&path)
                .unwrap()
                .permissions()
                .mode()
                & 0o777;
            if path.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
                // What the database makes in its directory nobody else can reach.
                if path != world.path().join("catalog") {
                    directories.push(path);
                }
            } else {
                assert!(
                    [0o600, 0o440].contains(&mode),
                    "{mode:o} {}",
                    path.display()
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 15, "{checked}");
}
