//! GGUF files made in memory byte by byte, right or wrong.

/// A key with a value: type number and bytes.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u32,
    pub(crate) value: Vec<u8>,
}

/// A tensor: ggml's order of dimensions, type number, where it is and what is there.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: Vec<u8>,
    pub(crate) dimensions: Vec<u64>,
    pub(crate) kind: u32,
    /// Counted from the start of the data; none: behind the tensor before.
    pub(crate) offset: Option<u64>,
    pub(crate) data: Vec<u8>,
}

/// A file before it is written.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) keys: Vec<Key>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) alignment: usize,
    /// What the header says instead of the numbers of tensors and keys.
    pub(crate) counts: Option<[u64; 2]>,
}

pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u64::try_from(bytes.len()).unwrap();
    [&length.to_le_bytes()[..], bytes].concat()
}

pub(crate) fn key(name: &str, kind: u32, value: &[u8]) -> Key {
    Key {
        name: name.into(),
        kind,
        value: value.to_vec(),
    }
}

pub(crate) fn text(name: &str, value: &str) -> Key {
    key(name, 8, &sized(value.as_bytes()))
}

pub(crate) fn float(name: &str, value: f32) -> Key {
    key(name, 6, &value.to_le_bytes())
}

/// A matrix of F32 in torch's shape.
pub(crate) fn matrix(name: &str, [rows, columns]: [usize; 2], values: &[f32]) -> Tensor {
    assert_eq!(values.len(), rows * columns);
    Tensor {
        name: name.into(),
        dimensions: vec![columns.try_into().unwrap(), rows.try_into().unwrap()],
        kind: 0,
        offset: None,
        data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    }
}

impl File {
    /// The keys of a LoRA for Llama, and these tensors.
    pub(crate) fn lora(alpha: f32, tensors: Vec<Tensor>) -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            keys: vec![
                text("general.type", "adapter"),
                text("general.architecture", "llama"),
                text("adapter.type", "lora"),
                float("adapter.lora.alpha", alpha),
            ],
            tensors,
            alignment: 32,
            counts: None,
        }
    }

    /// The file with one key replaced, or added.
    pub(crate) fn with(mut self, new: Key) -> Self {
        match self.keys.iter_mut().find(|key| key.name == new.name) {
            Some(key) => *key = new,
            None => self.keys.push(new),
        }
        self
    }

    /// The file without one key.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.keys.retain(|key| key.name != name.as_bytes());
        self
    }

    /// The file with a change to one tensor.
    pub(crate) fn tensor(mut self, index: usize, change: impl FnOnce(&mut Tensor)) -> Self {
        change(&mut self.tensors[index]);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        let counts = self.counts.unwrap_or_else(|| {
            [self.tensors.len(), self.keys.len()].map(|count| count.try_into().unwrap())
        });
        bytes.extend(counts.map(u64::to_le_bytes).concat());
        for key in &self.keys {
            bytes.extend(sized(&key.name));
            bytes.extend(key.kind.to_le_bytes());
            bytes.extend(&key.value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            bytes.extend(sized(&tensor.name));
            bytes.extend(
                u32::try_from(tensor.dimensions.len())
                    .unwrap()
                    .to_le_bytes(),
            );
            for dimension in &tensor.dimensions {
                bytes.extend(dimension.to_le_bytes());
            }
            bytes.extend(tensor.kind.to_le_bytes());
            let offset = tensor.offset.unwrap_or(data.len().try_into().unwrap());
            bytes.extend(offset.to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(data);
        bytes
    }
}

/// What a file has, read without a check: a second opinion on the reader under test.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Type number and bytes of each key that is no array.
    pub(crate) keys: std::collections::BTreeMap<String, (u32, Vec<u8>)>,
    /// Dimensions, type number and bytes of each tensor.
    pub(crate) tensors: std::collections::BTreeMap<String, (Vec<u64>, u32, Vec<u8>)>,
}

pub(crate) fn read(file: &[u8]) -> Contents {
    let mut rest = file;
    fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (now, later) = rest.split_at(count);
        *rest = later;
        now
    }
    let four = |rest: &mut &[u8]| u32::from_le_bytes(take(rest, 4).try_into().unwrap());
    let eight = |rest: &mut &[u8]| u64::from_le_bytes(take(rest, 8).try_into().unwrap());
    let text = |rest: &mut &[u8]| {
        let length = eight(rest).try_into().unwrap();
        String::from_utf8(take(rest, length).to_vec()).unwrap()
    };
    assert_eq!(take(&mut rest, 4), b"GGUF");
    assert_eq!(four(&mut rest), 3);
    let (tensors, keys) = (eight(&mut rest), eight(&mut rest));
    let mut contents = Contents::default();
    for _ in 0..keys {
        let name = text(&mut rest);
        let kind = four(&mut rest);
        let value = match kind {
            4 | 6 => take(&mut rest, 4).to_vec(),
            8 => text(&mut rest).into_bytes(),
            other => panic!("{name} has type {other}"),
        };
        contents.keys.insert(name, (kind, value));
    }
    let mut described = Vec::new();
    for _ in 0..tensors {
        let name = text(&mut rest);
        let count = four(&mut rest);
        let dimensions: Vec<u64> = (0..count).map(|_| eight(&mut rest)).collect();
        described.push((name, dimensions, four(&mut rest), eight(&mut rest)));
    }
    let start = (file.len() - rest.len()).next_multiple_of(32);
    for (name, dimensions, kind, offset) in described {
        let size: usize = if kind == 0 { 4 } else { 2 };
        let elements: u64 = dimensions.iter().product();
        let from = start + usize::try_from(offset).unwrap();
        let bytes = file[from..from + size * usize::try_from(elements).unwrap()].to_vec();
        contents.tensors.insert(name, (dimensions, kind, bytes));
    }
    contents
}
