//! Reads a systemd unit as far as these tests need it: sections of keys and values.

/// A unit file. A key may come more than once, as systemd allows.
#[derive(Debug)]
pub(crate) struct Unit {
    /// (section, key, value), in the file's order.
    entries: Vec<(String, String, String)>,
}

impl Unit {
    /// # Panics
    /// If a line is neither a comment, a section nor `Key=value`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut section = String::new();
        let mut entries = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let header = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            if let Some(name) = header {
                name.clone_into(&mut section);
            } else if let Some((key, value)) = line.split_once('=') {
                assert!(!section.is_empty(), "{line} stands in no section");
                assert!(!value.ends_with('\\'), "{line}: one line says it all");
                entries.push((
                    section.clone(),
                    key.trim().to_owned(),
                    value.trim().to_owned(),
                ));
            } else {
                panic!("{line} is no line of a unit file");
            }
        }
        Self { entries }
    }

    /// All values of `key`.
    pub(crate) fn values(&self, section: &str, key: &str) -> Vec<&str> {
        self.entries
            .iter()
            .filter(|(in_section, name, _)| in_section == section && name == key)
            .map(|(_, _, value)| value.as_str())
            .collect()
    }

    /// The value of a key that must be there once.
    ///
    /// # Panics
    /// If it is not.
    pub(crate) fn value(&self, section: &str, key: &str) -> &str {
        let values = self.values(section, key);
        assert_eq!(values.len(), 1, "{key} must be in [{section}] once");
        values[0]
    }
}

#[test]
fn sections_comments_and_repeated_keys_are_told_apart() {
    let unit = Unit::parse("# c\n[A]\nk = 1\n; c\n[B]\nk=2\nk=\nx=a=b\n");
    assert_eq!(unit.value("A", "k"), "1");
    assert_eq!(unit.values("B", "k"), ["2", ""]);
    assert_eq!(unit.value("B", "x"), "a=b");
}

#[test]
#[should_panic(expected = "must be in [A] once")]
fn a_missing_key_is_no_empty_one() {
    Unit::parse("[A]\nk=1\n").value("A", "other");
}

#[test]
#[should_panic(expected = "no line of a unit file")]
fn a_line_without_a_value_is_refused() {
    Unit::parse("[A]\nType\n");
}
