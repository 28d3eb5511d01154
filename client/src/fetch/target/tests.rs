//! Which directories are taken, and what is in them afterwards.
#![expect(clippy::disallowed_methods, reason = "the tests set up and read files")]

use std::fs;

use kmerge_proto::v1;

use super::*;

fn why(error: Error) -> Target {
    let Error::Target { why, .. } = error else {
        panic!("expected no target, got {error:?}")
    };
    why
}

/// Publishes an export of one file without bytes, adapter_config.json.
fn publish(directory: Directory) -> Result<PathBuf, Error> {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let file = v1::ExportFile {
        name: "adapter_config.json".into(),
        size_bytes: 0,
        sha256: empty.into(),
    };
    let header = v1::ExportHeader {
        files: vec![file],
        ..v1::ExportHeader::default()
    };
    let export = Export::begin(directory.temporary()?, header)?;
    directory.publish(export)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_new_directory_is_made_with_its_parents() {
    let root = tempfile::tempdir().unwrap();
    let path = publish(Directory::new(&root.path().join("a/b/out"), false).unwrap()).unwrap();
    assert_eq!(names(&path), ["adapter_config.json"]);
    assert_eq!(names(&root.path().join("a/b")), ["out"]);
}

#[test]
fn an_empty_directory_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    publish(Directory::new(&out, false).unwrap()).unwrap();
    assert_eq!(names(&out), ["adapter_config.json"]);
}

#[test]
fn a_link_to_a_directory_stands_for_it() {
    let root = tempfile::tempdir().unwrap();
    let (real, link) = (root.path().join("real"), root.path().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    publish(Directory::new(&link, false).unwrap()).unwrap();
    assert_eq!(names(&real), ["adapter_config.json"]);
    assert!(link.is_symlink());
}

#[test]
fn an_earlier_export_is_replaced_only_when_asked() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("adapter_config.json"), "earlier").unwrap();
    assert_eq!(
        why(Directory::new(&out, false).unwrap_err()),
        Target::NotEmpty
    );
    assert_eq!(
        fs::read_to_string(out.join("adapter_config.json")).unwrap(),
        "earlier"
    );
    publish(Directory::new(&out, true).unwrap()).unwrap();
    assert_eq!(
        fs::read_to_string(out.join("adapter_config.json")).unwrap(),
        ""
    );
    assert_eq!(names(root.path()), ["out"]);
}

#[test]
fn an_export_of_another_format_is_replaced_too() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    for name in ["adapter.gguf", "adapters.safetensors"] {
        fs::write(out.join(name), "earlier").unwrap();
    }
    publish(Directory::new(&out, true).unwrap()).unwrap();
    assert_eq!(names(&out), ["adapter_config.json"]);
}

#[test]
fn a_directory_with_anything_else_is_never_replaced() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("adapter_config.json"), "earlier").unwrap();
    fs::write(out.join("thesis.tex"), "years of work").unwrap();
    let error = Directory::new(&out, true).unwrap_err();
    assert_eq!(why(error), Target::Foreign("thesis.tex".into()));
    assert_eq!(names(&out), ["adapter_config.json", "thesis.tex"]);
}

#[test]
fn a_subdirectory_with_an_exports_name_is_not_an_export() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("out/adapter_config.json/precious")).unwrap();
    let error = Directory::new(&root.path().join("out"), true).unwrap_err();
    assert_eq!(why(error), Target::Foreign("adapter_config.json".into()));
}

#[test]
fn what_appeared_meanwhile_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let directory = Directory::new(&out, false).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("adapter_config.json"), "someone else's").unwrap();
    assert_eq!(why(publish(directory).unwrap_err()), Target::NotEmpty);
    assert_eq!(
        fs::read_to_string(out.join("adapter_config.json")).unwrap(),
        "someone else's"
    );
    assert_eq!(names(root.path()), ["out"]);
}

#[test]
fn a_file_and_the_root_are_no_targets() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let error = Directory::new(&root.path().join("file"), true).unwrap_err();
    assert_eq!(why(error), Target::NotADirectory);
    assert_eq!(
        why(Directory::new(Path::new("/"), true).unwrap_err()),
        Target::Nameless
    );
}
