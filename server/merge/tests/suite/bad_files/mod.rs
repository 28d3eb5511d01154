//! The collection of bad files: more than 300, each with a name and the one error that it must get.
//!
//! Made by tables, so that a whole field of values, types and cuts is covered, and not what came to
//! mind. `hostile` beside it has the defects that need a story of their own. What holds for each: an
//! error that says what is wrong in plain words, no panic, and no memory that a file only claims to
//! need (see `hostile::container` for that).

mod base_models;
mod configurations;
mod foreign;
mod headers;
mod packed;
mod values;

use std::collections::BTreeMap;

use kmerge_merge::progressive::PackedSlot;
use kmerge_merge::{AdapterView, BaseModel, check_values, decode, decode_slot, gguf, mlx};

use crate::support::tiny_base;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reader {
    Peft,
    Slot,
    Gguf,
    Mlx,
    Base,
    Packed,
}

/// A bad file.
struct Bad {
    name: String,
    reader: Reader,
    config: Vec<u8>,
    file: Vec<u8>,
    reason: &'static str,
}

impl Bad {
    /// Tensors beside a good configuration of PEFT.
    fn tensors(name: impl Into<String>, file: Vec<u8>, reason: &'static str) -> Self {
        Self::new(Reader::Peft, name, headers::config(), file, reason)
    }

    fn new(
        reader: Reader,
        name: impl Into<String>,
        config: impl Into<Vec<u8>>,
        file: Vec<u8>,
        reason: &'static str,
    ) -> Self {
        Self {
            name: name.into(),
            reader,
            config: config.into(),
            file,
            reason,
        }
    }

    /// What reading it says: reason and message.
    fn read(&self) -> Result<(), (String, String)> {
        let told = |error: kmerge_merge::AdapterError| (error.reason().into(), error.to_string());
        let base = tiny_base();
        let decoded = match self.reader {
            Reader::Peft => decode(&self.config, &self.file, &base),
            Reader::Gguf => gguf::decode(&self.file, &base),
            Reader::Mlx => mlx::decode(&self.config, &self.file, &base),
            Reader::Slot => return decode_slot(&self.file).map(drop).map_err(told),
            Reader::Base => {
                let read = BaseModel::from_config_json(&self.config);
                return read
                    .map(drop)
                    .map_err(|error| (error.reason().into(), error.to_string()));
            }
            Reader::Packed => {
                let read = PackedSlot::read(&self.file);
                return read
                    .map(drop)
                    .map_err(|error| (error.reason().into(), error.to_string()));
            }
        };
        let decoded = decoded.map_err(told)?;
        let view = AdapterView {
            layout: &decoded.layout,
            source: &self.file,
        };
        check_values(view).map_err(told)
    }
}

fn all() -> Vec<Bad> {
    [
        headers::bad(),
        configurations::bad(),
        values::bad(),
        foreign::bad(),
        base_models::bad(),
        packed::bad(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn there_are_more_than_three_hundred() {
    let all = all();
    let mut counts = BTreeMap::<Reader, usize>::new();
    let mut contents = BTreeMap::new();
    let mut names = BTreeMap::new();
    for bad in &all {
        *counts.entry(bad.reader).or_default() += 1;
        let same = names.insert((bad.reader, &bad.name), ());
        assert!(same.is_none(), "two files are called {}", bad.name);
        let same = contents.insert((bad.reader, &bad.config, &bad.file), &bad.name);
        assert!(same.is_none(), "{} is the same as {same:?}", bad.name);
    }
    assert!(all.len() >= 300, "{} files: {counts:?}", all.len());
    assert!(counts.values().all(|&count| count >= 10), "{counts:?}");
}

#[test]
fn each_gets_its_own_error() {
    let mut wrong = Vec::new();
    for bad in all() {
        let place = format!("{:?}: {}", bad.reader, bad.name);
        let (reason, message) = match bad.read() {
            Ok(()) => {
                wrong.push(format!("{place}: accepted"));
                continue;
            }
            Err(told) => told,
        };
        if reason != bad.reason {
            let expected = bad.reason;
            wrong.push(format!(
                "{place}: expected {expected}, got {reason}: {message}"
            ));
        }
        if !(20..700).contains(&message.len()) || message.contains(char::is_control) {
            wrong.push(format!("{place}: nobody can read {message:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn the_good_ones_that_they_are_made_from_are_good() {
    for good in [
        Bad::tensors("safetensors", headers::good(), ""),
        Bad::new(Reader::Gguf, "GGUF", "", foreign::good_gguf().bytes(), ""),
        foreign::good_mlx(),
        Bad::new(
            Reader::Base,
            "a base model",
            base_models::good().to_string(),
            vec![],
            "",
        ),
        Bad::new(Reader::Packed, "a packed slot", "", packed::good(), ""),
    ] {
        assert_eq!(good.read(), Ok(()), "{}", good.name);
    }
}
