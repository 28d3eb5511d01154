//! What the shim wrote down, read.

/// Something that a process did, in the order of the effects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// The directory itself has that inode.
    Root(u64),
    Create {
        inode: u64,
        path: String,
    },
    MakeDirectory {
        inode: u64,
        path: String,
    },
    Symlink {
        path: String,
        target: String,
    },
    Link {
        from: String,
        to: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Exchange {
        one: String,
        other: String,
    },
    /// A name goes, of whatever kind.
    Remove {
        path: String,
    },
    Write {
        inode: u64,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        inode: u64,
        length: usize,
    },
    /// A flush to the medium, of a file or a directory.
    Sync(u64),
    /// A flush that promises nothing.
    HalfSync,
    /// A line of the journal of promises.
    Promise(String),
}

/// Reads all records; the last one may be unfinished, when the process was killed.
pub(crate) fn read(bytes: &[u8]) -> Vec<Record> {
    let mut rest = bytes;
    std::iter::from_fn(|| next(&mut rest)).collect()
}

fn next(rest: &mut &[u8]) -> Option<Record> {
    let mut ahead = *rest;
    let kind = take(&mut ahead, 1)?[0];
    let inode = number(&mut ahead)?;
    let number_of = number(&mut ahead)?;
    let path = text(&mut ahead)?;
    let second = text(&mut ahead)?;
    let data = piece(&mut ahead)?.to_vec();
    *rest = ahead;
    let number = usize::try_from(number_of).unwrap();
    Some(match kind {
        1 => Record::Create { inode, path },
        2 => Record::MakeDirectory { inode, path },
        3 => Record::Symlink {
            path,
            target: second,
        },
        4 => Record::Link {
            from: path,
            to: second,
        },
        5 => Record::Rename {
            from: path,
            to: second,
        },
        6 => Record::Exchange {
            one: path,
            other: second,
        },
        7 | 8 => Record::Remove { path },
        9 => Record::Write {
            inode,
            offset: number,
            bytes: data,
        },
        10 => Record::Truncate {
            inode,
            length: number,
        },
        11 => Record::Sync(inode),
        12 => Record::Promise(String::from_utf8(data).unwrap().trim_end().to_owned()),
        13 => Record::HalfSync,
        14 => Record::Root(inode),
        other => panic!("no record is of kind {other}"),
    })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(rest, 8)?.try_into().unwrap()))
}

fn piece<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(rest, 4)?.try_into().unwrap());
    take(rest, usize::try_from(length).unwrap())
}

fn text(rest: &mut &[u8]) -> Option<String> {
    Some(String::from_utf8(piece(rest)?.to_vec()).unwrap())
}
