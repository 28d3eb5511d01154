//! What an export accepts, and each way in which a stream can break its header's promises.

use super::*;

fn announced(name: &str, content: &[u8]) -> v1::ExportFile {
    v1::ExportFile {
        name: name.to_owned(),
        size_bytes: u64::try_from(content.len()).unwrap(),
        sha256: hex(Sha256::digest(content)),
    }
}

fn begin(files: Vec<v1::ExportFile>) -> Result<Export, Error> {
    let header = v1::ExportHeader {
        files,
        ..v1::ExportHeader::default()
    };
    Export::begin(tempfile::tempdir().unwrap(), header)
}

fn chunk(file: u32, data: &'static [u8]) -> v1::ExportChunk {
    v1::ExportChunk {
        file,
        data: data.into(),
    }
}

fn breach(error: Error) -> Breach {
    let Error::Protocol(breach) = error else {
        panic!("expected a breach, got {error:?}")
    };
    breach
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test reads what was written")]
fn files_come_out_as_they_were_announced() {
    let files = vec![
        announced("a", b"one two"),
        announced("empty", b""),
        announced("b", b"3"),
    ];
    let mut export = begin(files).unwrap();
    for chunk in [chunk(0, b"one "), chunk(0, b"two"), chunk(2, b"3")] {
        export.take(&chunk).unwrap();
    }
    let (directory, _) = export.finish().unwrap();
    let read = |name| std::fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!([read("a"), read("empty"), read("b")], ["one two", "", "3"]);
}

#[test]
fn names_that_are_not_plain_are_refused() {
    let long = "x".repeat(256);
    for name in [
        "",
        ".",
        "..",
        ".bashrc",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "a\0b",
        "a\nb",
        &long,
    ] {
        let error = begin(vec![announced(name, b"1")]).unwrap_err();
        assert_eq!(breach(error), Breach::FileName(name.to_owned()));
    }
}

#[test]
fn a_name_that_comes_twice_is_refused() {
    let error = begin(vec![announced("a", b"1"), announced("a", b"2")]).unwrap_err();
    assert_eq!(breach(error), Breach::FileName("a".to_owned()));
}

#[test]
fn a_header_without_files_is_refused() {
    assert_eq!(
        breach(begin(Vec::new()).unwrap_err()),
        Breach::Missing("files")
    );
}

#[test]
fn other_bytes_than_announced_are_refused() {
    let mut export = begin(vec![announced("a", b"right")]).unwrap();
    let error = export.take(&chunk(0, b"wrong")).unwrap_err();
    let Breach::Digest {
        name,
        expected,
        got,
    } = breach(error)
    else {
        panic!("not the digest")
    };
    assert_eq!(name, "a");
    assert_ne!(expected, got);
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let mut export = begin(vec![announced("a", b"four")]).unwrap();
    let error = export.take(&chunk(0, b"fives")).unwrap_err();
    assert_eq!(
        breach(error),
        Breach::Sequence("a file has more bytes than announced")
    );
}

#[test]
fn chunks_out_of_order_are_refused() {
    for first in [1, 2, u32::MAX] {
        let mut export = begin(vec![announced("a", b"1"), announced("b", b"2")]).unwrap();
        let error = export.take(&chunk(first, b"1")).unwrap_err();
        assert!(
            matches!(breach(error), Breach::Sequence(_)),
            "chunk of file {first}"
        );
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let mut export = begin(vec![announced("a", b"1")]).unwrap();
    export.take(&chunk(0, b"1")).unwrap();
    assert!(matches!(
        breach(export.take(&chunk(0, b"")).unwrap_err()),
        Breach::Sequence(_)
    ));
}

#[test]
fn an_early_end_is_refused_and_nothing_stays() {
    let mut export = begin(vec![announced("a", b"four")]).unwrap();
    export.take(&chunk(0, b"fo")).unwrap();
    let directory = export.directory.path().to_owned();
    assert!(directory.exists());
    assert_eq!(
        breach(export.finish().unwrap_err()),
        Breach::Cut("a file is not whole")
    );
    assert!(!directory.exists());
}
