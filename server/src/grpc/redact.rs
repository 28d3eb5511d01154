//! Keeps the machine's directories out of what strangers are told.
//!
//! Sentences of errors never have absolute paths in them, whoever asks: the log has them. Answers
//! whose purpose is a path are told to users of this machine, the daemon's own to its owner.

use kmerge_proto::v1;

use super::caller::Trust;

/// What stands in a sentence where a path was.
const PLACE: &str = "(path)";

/// A text without its absolute paths. A path begins with `/` where a word can begin and ends where
/// it does.
pub(super) fn without_paths(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = None;
    while let Some(letter) = rest.chars().next() {
        let begins = before.is_none_or(|before: char| !is_in_word(before));
        // "http://host", but not "file:///etc".
        let is_scheme = before == Some(':') && rest.starts_with("//") && !rest.starts_with("///");
        let length = if letter == '/' && begins && !is_scheme {
            path_length(rest)
        } else {
            0
        };
        if length > 1 {
            out.push_str(PLACE);
            before = rest[..length].chars().next_back();
            rest = &rest[length..];
        } else {
            out.push(letter);
            before = Some(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    out
}

fn is_in_word(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '/' | '.' | '_' | '-' | ')' | ']')
}

/// The length of the path at the beginning, in bytes, without a full stop or colon that ends it.
fn path_length(text: &str) -> usize {
    let ends = |letter: char| {
        letter.is_whitespace() || matches!(letter, '"' | '\'' | '`' | ',' | ';' | ')' | ']' | '>')
    };
    let word = text.find(ends).map_or(text, |end| &text[..end]);
    word.trim_end_matches(['.', ':', '!', '?']).len()
}

/// A message that tells paths.
pub(super) trait Paths {
    /// Who may see them.
    const FOR: Trust;
    /// Takes them out.
    fn remove_paths(&mut self);
}

impl Paths for v1::GetStatusResponse {
    const FOR: Trust = Trust::Owner;
    fn remove_paths(&mut self) {
        self.state_directory.clear();
        self.socket.clear();
        self.state = without_paths(&self.state);
        if let Some(recovery) = &mut self.recovery {
            recovery.quarantined.clear();
            for note in &mut recovery.notes {
                *note = without_paths(note);
            }
        }
        for runtime in &mut self.runtimes {
            runtime.message = without_paths(&runtime.message);
        }
    }
}

impl Paths for v1::Runtime {
    const FOR: Trust = Trust::Owner;
    fn remove_paths(&mut self) {
        self.directory.clear();
        self.address = without_paths(&self.address);
        let of_adapters = self.adapters.iter_mut().map(|adapter| &mut adapter.trouble);
        for trouble in of_adapters.chain([&mut self.trouble]).flatten() {
            trouble.message = without_paths(&trouble.message);
        }
    }
}

impl Paths for v1::Slot {
    const FOR: Trust = Trust::User;
    fn remove_paths(&mut self) {
        self.path.clear();
    }
}

impl Paths for v1::WatchSlotsResponse {
    const FOR: Trust = v1::Slot::FOR;
    fn remove_paths(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.remove_paths();
        }
    }
}

impl Paths for v1::ResolveTaskResponse {
    const FOR: Trust = Trust::User;
    fn remove_paths(&mut self) {
        self.path.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_leave_a_sentence() {
        for (text, expected) in [
            (
                "could not open /var/lib/kmerge/x: no such file",
                "could not open (path): no such file",
            ),
            ("\"/a b\" is", "\"(path) b\" is"),
            ("see (/a/b), then /c.", "see ((path)), then (path)."),
            ("/only", "(path)"),
            ("unix:/run/x.sock", "unix:(path)"),
            ("file:///etc/passwd", "file:(path)"),
            ("path=/x/é/ü!", "path=(path)!"),
        ] {
            assert_eq!(without_paths(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_path_stays() {
        for text in [
            "",
            "/",
            "a / b",
            "and/or",
            "base/task@3",
            "application/grpc",
            "1/n",
            "http://127.0.0.1:8000 said 500",
            "tensors/ab/cd is damaged",
        ] {
            assert_eq!(without_paths(text), text);
        }
    }

    #[test]
    fn hostile_texts_end() {
        for text in ["//////", "/\u{301}", "é/é/", "/ / /", "'/'/'/'"] {
            without_paths(text);
        }
    }
}
