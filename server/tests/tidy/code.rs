//! Just enough of Rust's grammar to ask which paths a source file names.
//!
//! Comments and literals do not count, `use` trees are spelt out, and items under `#[cfg(test)]`
//! can be left out. What always holds: line numbers are those of the file.

/// A path as the code names it, `std::fs::File` as `["std", "fs", "File"]`, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

impl NamedPath {
    /// Whether this is `pattern` or something inside it.
    pub(crate) fn is_in(&self, pattern: &str) -> bool {
        let pattern: Vec<_> = pattern.split("::").collect();
        self.segments.len() >= pattern.len()
            && self
                .segments
                .iter()
                .zip(&pattern)
                .all(|(segment, wanted)| segment == wanted)
    }

    /// Whether `pattern` stands anywhere in this, as `thread::spawn` in `std::thread::spawn`.
    pub(crate) fn has(&self, pattern: &str) -> bool {
        let pattern: Vec<_> = pattern.split("::").collect();
        self.segments.windows(pattern.len()).any(|window| {
            window
                .iter()
                .zip(&pattern)
                .all(|(segment, wanted)| segment == wanted)
        })
    }

    pub(crate) fn text(&self) -> String {
        self.segments.join("::")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Separator,
    Sign(char),
}

/// The code of one file: words and signs, without comments and literals.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    tokens: Vec<(Token, usize)>,
}

impl Code {
    pub(crate) fn of(source: &str) -> Self {
        Self {
            tokens: tokens(source),
        }
    }

    /// The code that ships: without the items under `#[cfg(test)]`.
    pub(crate) fn shipped(&self) -> Self {
        let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
        let mut kept = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if attribute
                .iter()
                .enumerate()
                .all(|(offset, text)| self.is(at + offset, text))
            {
                at = self.end_of_item(at + attribute.len());
            } else {
                kept.push(self.tokens[at].clone());
                at += 1;
            }
        }
        Self { tokens: kept }
    }

    /// All paths that the code names, those of `use` trees in full.
    pub(crate) fn paths(&self) -> Vec<NamedPath> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if self.is(at, "use") {
                at = self.use_tree(at + 1, &[], &mut found);
            } else if self.is(at, "extern") && self.is(at + 1, "crate") {
                at = self.use_tree(at + 2, &[], &mut found);
            } else if matches!(self.tokens[at].0, Token::Word(_)) {
                at = self.plain_path(at, &mut found);
            } else {
                at += 1;
            }
        }
        found
    }

    fn is(&self, at: usize, text: &str) -> bool {
        match self.tokens.get(at) {
            Some((Token::Word(word), _)) => word == text,
            Some((Token::Sign(sign), _)) => text.chars().eq([*sign]),
            Some((Token::Separator, _)) => text == "::",
            None => false,
        }
    }

    /// After the item that begins at `at`: its closing brace, or its semicolon.
    fn end_of_item(&self, mut at: usize) -> usize {
        let mut depth = 0_usize;
        while at < self.tokens.len() {
            if self.is(at, "{") || self.is(at, "(") || self.is(at, "[") {
                depth += 1;
            } else if self.is(at, ")") || self.is(at, "]") {
                depth = depth.saturating_sub(1);
            } else if self.is(at, "}") {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            } else if self.is(at, ";") && depth == 0 {
                return at + 1;
            }
            at += 1;
        }
        at
    }

    /// Reads a path outside a `use`. A word by itself is a variable or a keyword, and no path.
    fn plain_path(&self, mut at: usize, found: &mut Vec<NamedPath>) -> usize {
        let line = self.tokens[at].1;
        let mut segments = Vec::new();
        while let Some((Token::Word(word), _)) = self.tokens.get(at) {
            segments.push(word.clone());
            at += 1;
            let goes_on =
                self.is(at, "::") && matches!(self.tokens.get(at + 1), Some((Token::Word(_), _)));
            if !goes_on {
                break;
            }
            at += 1;
        }
        if segments.len() > 1 {
            found.push(NamedPath { segments, line });
        }
        at
    }

    /// Reads one tree of a `use` below `prefix`; returns what comes after it.
    fn use_tree(&self, mut at: usize, prefix: &[String], found: &mut Vec<NamedPath>) -> usize {
        let mut segments = prefix.to_vec();
        let mut line = self.tokens.get(at).map_or(0, |(_, line)| *line);
        loop {
            match self.tokens.get(at) {
                Some((Token::Separator, _)) => at += 1,
                Some((Token::Word(word), _)) if word == "as" => at += 2,
                Some((Token::Word(word), here)) => {
                    // `self` in a group is the group itself.
                    if word != "self" || segments.is_empty() {
                        segments.push(word.clone());
                    }
                    line = *here;
                    at += 1;
                }
                Some((Token::Sign('*'), _)) => at += 1,
                Some((Token::Sign('{'), _)) => {
                    at += 1;
                    while at < self.tokens.len() && !self.is(at, "}") {
                        at = self.use_tree(at, &segments, found);
                        if self.is(at, ",") {
                            at += 1;
                        }
                    }
                    return at + 1;
                }
                Some((Token::Sign(_), _)) | None => {
                    found.push(NamedPath { segments, line });
                    // A sign that ends a tree belongs to whoever reads on; any other is skipped,
                    // so that reading always goes forward.
                    let ends = self.is(at, ",") || self.is(at, "}") || at >= self.tokens.len();
                    return if ends { at } else { at + 1 };
                }
            }
        }
    }
}

fn tokens(source: &str) -> Vec<(Token, usize)> {
    let letters: Vec<char> = source.chars().collect();
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < letters.len() {
        let rest = &letters[at..];
        if let Some(length) = skipped(rest) {
            line += rest[..length]
                .iter()
                .filter(|letter| **letter == '\n')
                .count();
            at += length;
        } else if is_word(rest[0]) {
            let length = rest.iter().take_while(|letter| is_word(**letter)).count();
            out.push((Token::Word(rest[..length].iter().collect()), line));
            at += length;
        } else if rest.starts_with(&[':', ':']) {
            out.push((Token::Separator, line));
            at += 2;
        } else {
            if !rest[0].is_whitespace() {
                out.push((Token::Sign(rest[0]), line));
            }
            line += usize::from(rest[0] == '\n');
            at += 1;
        }
    }
    out
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The length of the comment, the literal or the lifetime that `rest` begins with.
fn skipped(rest: &[char]) -> Option<usize> {
    match rest {
        ['/', '/', ..] => Some(rest.iter().take_while(|letter| **letter != '\n').count()),
        ['/', '*', ..] => Some(block_comment(rest)),
        ['"', ..] => Some(quoted(rest, '"')),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => Some(quoted(rest, '\'')),
        ['\'', ..] => Some(
            1 + rest[1..]
                .iter()
                .take_while(|letter| is_word(**letter))
                .count(),
        ),
        ['b' | 'c', '"', ..] => Some(1 + quoted(&rest[1..], '"')),
        ['b', '\'', ..] => Some(1 + quoted(&rest[1..], '\'')),
        ['b' | 'c', 'r', ..] => raw(&rest[2..]).map(|length| 2 + length),
        ['r', ..] => raw(&rest[1..]).map(|length| 1 + length),
        _ => None,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// A raw string after its `r`: `#"…"#`. Not one if no quote follows, as in `r#type`.
fn raw(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|letter| **letter == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return None;
    }
    let closing: Vec<char> = std::iter::once('"')
        .chain(std::iter::repeat_n('#', hashes))
        .collect();
    let body = &rest[hashes + 1..];
    let length = (0..body.len()).find(|at| body[*at..].starts_with(&closing));
    Some(length.map_or(rest.len(), |length| hashes + 1 + length + closing.len()))
}

fn named(source: &str) -> Vec<String> {
    Code::of(source)
        .paths()
        .iter()
        .map(NamedPath::text)
        .collect()
}

#[test]
fn comments_and_literals_name_nothing() {
    let source = r##"
// std::fs::read
/* std::fs /* nested std::fs */ std::fs */
let a = "std::fs \" std::fs"; let b = r#"std::fs " std::fs"#; let c = b"std::fs"; let d = '"';
let e: &'static str = 'x';
after::all(1)
"##;
    let paths = named(source);
    assert!(!paths.iter().any(|path| path.contains("fs")), "{paths:?}");
    assert!(paths.contains(&"after::all".to_owned()), "{paths:?}");
}

#[test]
fn use_trees_are_spelt_out() {
    let source = "use std::{fs::{self, File}, io as other, net::*};\nuse ::sled;\nextern crate tokio;\nx::y();";
    assert_eq!(
        named(source),
        [
            "std::fs",
            "std::fs::File",
            "std::io",
            "std::net",
            "sled",
            "tokio",
            "x::y"
        ]
    );
}

#[test]
fn paths_are_found_with_their_lines_in_odd_layouts() {
    let paths = Code::of("\nstd ::\n fs::read (\"x\");\nVec::<u8>::new();\nr#type::x").paths();
    assert_eq!(
        (paths[0].text().as_str(), paths[0].line),
        ("std::fs::read", 2)
    );
    assert!(
        paths
            .iter()
            .any(|path| path.text() == "type::x" && path.line == 5),
        "{paths:?}"
    );
    assert!(paths[0].is_in("std::fs") && !paths[0].is_in("std::f") && paths[0].has("fs::read"));
}

#[test]
fn test_items_can_be_left_out() {
    let source = "a::b();\n#[cfg(test)]\nmod tests { fn x() { c::d(); } }\n#[cfg(test)]\nmod more;\n\
                  #[cfg(test)]\nfn f(x: [u8; 4]) { e::f() }\ng::h();";
    let paths: Vec<_> = Code::of(source)
        .shipped()
        .paths()
        .iter()
        .map(NamedPath::text)
        .collect();
    assert_eq!(paths, ["a::b", "g::h"]);
}
