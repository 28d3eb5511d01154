//! A file system in memory that knows what a medium has, and what only the kernel has.
//!
//! Files and directories are objects, names lead to them. What holds: the content of a file is safe
//! as of its last flush; a name is safe once the directory that it is in was flushed after it was
//! given, and no flush of a file makes its name safe. A rename or an exchange is one step, and is
//! safe when every directory that got a name by it was flushed. Whatever is not safe, the kernel may
//! or may not have written on its own, each step for itself, and a write sector by sector.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::common::{make_directories, read_file, write_file};
use crate::random::Random;
use crate::record::Record;

type Id = usize;

/// A change of a file's content.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

/// What a name leads to.
#[derive(Debug, Clone)]
enum Object {
    File {
        safe: Vec<u8>,
        pending: Vec<(usize, Change)>,
    },
    Directory {
        names: BTreeMap<String, Id>,
    },
    Symlink {
        target: String,
    },
}

/// A place in a directory.
type Place = (Id, String);

/// A change of names: one step.
#[derive(Debug, Clone)]
struct Naming {
    at: usize,
    takes: Vec<(Place, Id)>,
    gives: Vec<(Place, Id)>,
    /// The directories that must be flushed until it is safe.
    open: Vec<Id>,
}

/// The state of everything after some records.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    objects: Vec<Object>,
    inodes: HashMap<u64, Id>,
    namings: Vec<Naming>,
    at: usize,
}

/// What of the steps that are not safe is on the medium all the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kept {
    None,
    All,
    /// Those until some moment, as a journal of the file system would.
    Until(usize),
    /// Each with this probability.
    Some(f64),
}

impl Kept {
    fn keeps(self, at: usize, random: &mut Random) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Until(end) => at <= end,
            Self::Some(chance) => random.chance(chance),
        }
    }
}

const ROOT: Id = 0;

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            objects: vec![Object::Directory {
                names: BTreeMap::new(),
            }],
            inodes: HashMap::new(),
            namings: Vec::new(),
            at: 0,
        }
    }

    /// What lies below `path`, all of it safe.
    pub(crate) fn of(path: &Path) -> Self {
        let mut disk = Self::new();
        disk.take_in(path, "");
        for object in &mut disk.objects {
            if let Object::File { safe, pending } = object {
                for (_, change) in std::mem::take(pending) {
                    whole(safe, &change);
                }
            }
        }
        for naming in &mut disk.namings {
            naming.open.clear();
        }
        disk
    }

    fn take_in(&mut self, directory: &Path, prefix: &str) {
        let mut entries: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        for entry in entries {
            let name = entry.file_name().unwrap().to_str().unwrap();
            let path = format!("{prefix}{name}");
            let metadata = std::fs::symlink_metadata(&entry).unwrap();
            let inode = metadata.ino();
            if metadata.is_symlink() {
                let target = std::fs::read_link(&entry).unwrap();
                let target = target.to_str().unwrap().to_owned();
                self.follow(&Record::Symlink { path, target });
            } else if metadata.is_dir() {
                let below = format!("{path}/");
                self.follow(&Record::MakeDirectory { inode, path });
                self.take_in(&entry, &below);
            } else {
                self.follow(&Record::Create { inode, path });
                let (offset, bytes) = (0, read_file(&entry));
                self.follow(&Record::Write {
                    inode,
                    offset,
                    bytes,
                });
            }
        }
    }

    /// Follows one more record.
    pub(crate) fn follow(&mut self, record: &Record) {
        self.at += 1;
        match record {
            Record::Root(inode) => drop(self.inodes.insert(*inode, ROOT)),
            Record::Create { inode, path } => {
                let file = Object::File {
                    safe: Vec::new(),
                    pending: Vec::new(),
                };
                let id = self.add(file, path);
                self.inodes.insert(*inode, id);
            }
            Record::MakeDirectory { inode, path } => {
                let names = BTreeMap::new();
                let id = self.add(Object::Directory { names }, path);
                self.inodes.insert(*inode, id);
            }
            Record::Symlink { path, target } => {
                let target = target.clone();
                self.add(Object::Symlink { target }, path);
            }
            Record::Link { from, to } => {
                let (_, id) = self.find(from);
                let place = self.place(to);
                self.name(Vec::new(), vec![(place, id)]);
            }
            Record::Rename { from, to } => {
                let (old, id) = self.find(from);
                let new = self.place(to);
                let replaced = self.at_place(&new).map(|id| (new.clone(), id));
                let takes = [(old, id)].into_iter().chain(replaced).collect();
                self.name(takes, vec![(new, id)]);
            }
            Record::Exchange { one, other } => {
                let (a, b) = (self.find(one), self.find(other));
                let gives = vec![(a.0.clone(), b.1), (b.0.clone(), a.1)];
                self.name(vec![a, b], gives);
            }
            Record::Remove { path } => {
                let found = self.find(path);
                self.name(vec![found], Vec::new());
            }
            Record::Write {
                inode,
                offset,
                bytes,
            } => {
                let (offset, bytes) = (*offset, bytes.clone());
                self.change(*inode, Change::Write { offset, bytes });
            }
            Record::Truncate { inode, length } => {
                let length = *length;
                self.change(*inode, Change::Truncate { length });
            }
            Record::Sync(inode) => self.sync(*inode),
            Record::HalfSync | Record::Promise(_) => {}
        }
    }

    fn add(&mut self, object: Object, path: &str) -> Id {
        let id = self.objects.len();
        self.objects.push(object);
        let place = self.place(path);
        self.name(Vec::new(), vec![(place, id)]);
        id
    }

    /// The directory and the name that a path ends with.
    fn place(&self, path: &str) -> Place {
        let mut directory = ROOT;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return (directory, part.to_owned());
            }
            let place = (directory, part.to_owned());
            directory = self.at_place(&place).unwrap_or_else(|| panic!("no {path}"));
        }
        panic!("a path has a part")
    }

    fn at_place(&self, (directory, name): &Place) -> Option<Id> {
        match &self.objects[*directory] {
            Object::Directory { names } => names.get(name).copied(),
            Object::File { .. } | Object::Symlink { .. } => None,
        }
    }

    fn find(&self, path: &str) -> (Place, Id) {
        let place = self.place(path);
        let id = self.at_place(&place);
        (place, id.unwrap_or_else(|| panic!("no {path}")))
    }

    fn name(&mut self, takes: Vec<(Place, Id)>, gives: Vec<(Place, Id)>) {
        let directories = if gives.is_empty() { &takes } else { &gives };
        let open = directories.iter().map(|((id, _), _)| *id).collect();
        let naming = Naming {
            at: self.at,
            takes,
            gives,
            open,
        };
        apply(&mut self.objects, &naming);
        self.namings.push(naming);
    }

    fn change(&mut self, inode: u64, change: Change) {
        let id = self.inodes[&inode];
        if let Object::File { pending, .. } = &mut self.objects[id] {
            pending.push((self.at, change));
        }
    }

    fn sync(&mut self, inode: u64) {
        let id = self.inodes[&inode];
        match &mut self.objects[id] {
            Object::File { safe, pending } => {
                for (_, change) in std::mem::take(pending) {
                    whole(safe, &change);
                }
            }
            Object::Directory { .. } => {
                for naming in &mut self.namings {
                    naming.open.retain(|open| *open != id);
                }
            }
            Object::Symlink { .. } => {}
        }
    }

    /// Writes what is on the medium after a power cut to `path`. Gives how many writes are torn.
    pub(crate) fn cut(&self, path: &Path, names: Kept, data: Kept, random: &mut Random) -> usize {
        let mut objects = self.objects.clone();
        for object in &mut objects {
            if let Object::Directory { names } = object {
                names.clear();
            }
        }
        for naming in &self.namings {
            if naming.open.is_empty() || names.keeps(naming.at, random) {
                apply(&mut objects, naming);
            }
        }
        let mut torn = 0;
        write_out(&objects, ROOT, path, &mut |safe, pending| {
            let mut content = safe.to_vec();
            for (at, change) in pending {
                if data.keeps(*at, random) {
                    torn += usize::from(partly(&mut content, change, data, random));
                }
            }
            content
        });
        torn
    }
}

fn apply(objects: &mut [Object], naming: &Naming) {
    for ((directory, name), id) in &naming.takes {
        if let Object::Directory { names } = &mut objects[*directory]
            && names.get(name) == Some(id)
        {
            names.remove(name);
        }
    }
    for ((directory, name), id) in &naming.gives {
        if matches!(objects[*id], Object::Directory { .. }) {
            // Whatever was lost, a directory is never in two places.
            for object in &mut *objects {
                if let Object::Directory { names } = object {
                    names.retain(|_, found| found != id);
                }
            }
        }
        if let Object::Directory { names } = &mut objects[*directory] {
            names.insert(name.clone(), *id);
        }
    }
}

fn whole(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Truncate { length } => content.resize(*length, 0),
        Change::Write { offset, bytes } => {
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(bytes);
        }
    }
}

/// Does a change, or some sectors of it; says whether it was torn.
fn partly(content: &mut Vec<u8>, change: &Change, data: Kept, random: &mut Random) -> bool {
    let Change::Write { offset, bytes } = change else {
        whole(content, change);
        return false;
    };
    let tears = matches!(data, Kept::Some(_)) && random.chance(0.5);
    if !tears {
        whole(content, change);
        return false;
    }
    let sector = if random.chance(0.5) { 512 } else { 4096 };
    // In their order until some moment, or any of them.
    let end = random
        .chance(0.5)
        .then(|| random.below(offset + bytes.len() + 1));
    let mut torn = false;
    let mut at = *offset;
    while at < offset + bytes.len() {
        let next = ((at / sector + 1) * sector).min(offset + bytes.len());
        let is_there = match end {
            Some(end) => next <= end,
            None => random.chance(0.5),
        };
        if is_there {
            let part = Change::Write {
                offset: at,
                bytes: bytes[at - offset..next - offset].to_vec(),
            };
            whole(content, &part);
        }
        torn |= !is_there;
        at = next;
    }
    // The length may be that of the whole write, with nothing in it.
    if torn && random.chance(0.5) && content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    torn
}

/// What a file holds, by what is safe and what is not.
type Content<'a> = dyn FnMut(&[u8], &[(usize, Change)]) -> Vec<u8> + 'a;

fn write_out(objects: &[Object], id: Id, path: &Path, content: &mut Content<'_>) {
    match &objects[id] {
        Object::File { safe, pending } => write_file(path, &content(safe, pending)),
        Object::Symlink { target } => std::os::unix::fs::symlink(target, path).unwrap(),
        Object::Directory { names } => {
            make_directories(path);
            for (name, id) in names {
                write_out(objects, *id, &path.join(name), content);
            }
        }
    }
}
