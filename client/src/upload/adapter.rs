//! An adapter that can be uploaded: its configuration, and tensors whose size and SHA-256 are
//! known.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kmerge_proto::limits;
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, NotAnAdapter};
use crate::files;
use crate::hex::hex;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";

/// An adapter that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Adapter {
    config: Vec<u8>,
    tensors: Tensors,
    size_bytes: u64,
    sha256: String,
}

/// Where the tensor bytes are.
#[derive(Debug, Clone)]
pub(super) enum Tensors {
    File {
        file: Arc<File>,
        /// The adapter's directory, for messages.
        directory: Arc<Path>,
    },
    Memory(Bytes),
}

impl Adapter {
    /// Opens a PEFT directory, as `save_pretrained` writes it, and hashes its tensors.
    ///
    /// # Errors
    /// [`Error::NotAnAdapter`] says what is missing; [`Error::File`] if a file cannot be read.
    pub async fn open(directory: impl Into<PathBuf>) -> Result<Self, Error> {
        let directory = directory.into();
        tokio::task::spawn_blocking(move || Self::open_blocking(&directory))
            .await
            .expect("opening an adapter does not panic")
    }

    /// An adapter from its two files' contents.
    #[must_use]
    pub fn from_bytes(config: Vec<u8>, tensors: Bytes) -> Self {
        let size_bytes = u64::try_from(tensors.len()).expect("memory is less than 2^64 bytes");
        let sha256 = hex(Sha256::digest(&tensors));
        Self {
            config,
            tensors: Tensors::Memory(tensors),
            size_bytes,
            sha256,
        }
    }

    /// The adapter_config.json.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// Size of the tensor file in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// SHA-256 of the tensor file, 64 lowercase hexadecimal digits.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    pub(super) fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    fn open_blocking(directory: &Path) -> Result<Self, Error> {
        let not_an_adapter = |why| Error::NotAnAdapter {
            path: directory.to_owned(),
            why,
        };
        let metadata = directory
            .metadata()
            .map_err(Error::file("open", directory))?;
        if !metadata.is_dir() {
            return Err(not_an_adapter(NotAnAdapter::NotADirectory));
        }
        let config = read_config(directory)?;
        let path = directory.join(TENSORS);
        if !path.exists() && directory.join(PICKLE).exists() {
            return Err(not_an_adapter(NotAnAdapter::OnlyPickle));
        }
        let file = open_part(directory, TENSORS)?;
        let size_bytes = file.metadata().map_err(Error::file("read", &path))?.len();
        let sha256 = hash(&file, size_bytes).map_err(Error::file("read", &path))?;
        let tensors = Tensors::File {
            file: Arc::new(file),
            directory: directory.into(),
        };
        Ok(Self {
            config,
            tensors,
            size_bytes,
            sha256,
        })
    }
}

impl Tensors {
    /// The bytes from `offset`, `length` of them. `None` if the file has become shorter.
    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Memory(bytes) => Ok(usize::try_from(offset)
                .ok()
                .and_then(|start| Some(start..start.checked_add(length)?))
                .filter(|range| range.end <= bytes.len())
                .map(|range| bytes.slice(range))),
            Self::File { file, directory } => {
                let mut chunk = vec![0; length];
                match file.read_exact_at(&mut chunk, offset) {
                    Ok(()) => Ok(Some(chunk.into())),
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
                    Err(error) => Err(Error::file("read", &directory.join(TENSORS))(error)),
                }
            }
        }
    }

    /// What to say when the file has become shorter.
    pub(super) fn shrunk(&self) -> Error {
        let path = match self {
            Self::File { directory, .. } => directory.to_path_buf(),
            Self::Memory(_) => PathBuf::new(),
        };
        Error::NotAnAdapter {
            path,
            why: NotAnAdapter::Shrunk,
        }
    }
}

/// Opens one of the directory's files. What it is is looked at first: opening a pipe would wait.
fn open_part(directory: &Path, name: &'static str) -> Result<File, Error> {
    let path = directory.join(name);
    let why = match path.metadata() {
        Ok(metadata) if metadata.is_file() => return files::open(&path),
        Ok(_) => NotAnAdapter::NotAFile(name),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => NotAnAdapter::Missing(name),
        Err(error) => return Err(Error::file("open", &path)(error)),
    };
    Err(Error::NotAnAdapter {
        path: directory.to_owned(),
        why,
    })
}

fn read_config(directory: &Path) -> Result<Vec<u8>, Error> {
    let limit = u64::try_from(limits::MAX_CONFIG_BYTES).expect("the limit is small");
    let path = directory.join(CONFIG);
    let file = open_part(directory, CONFIG)?;
    let bytes = file.metadata().map_err(Error::file("read", &path))?.len();
    let mut config = Vec::new();
    // The file may have grown since: what is read is what counts.
    file.take(limit + 1)
        .read_to_end(&mut config)
        .map_err(Error::file("read", &path))?;
    if config.len() > limits::MAX_CONFIG_BYTES {
        let why = NotAnAdapter::LargeConfig {
            bytes: bytes.max(limit + 1),
            limit,
        };
        return Err(Error::NotAnAdapter {
            path: directory.to_owned(),
            why,
        });
    }
    Ok(config)
}

/// SHA-256 of the first `size` bytes, or of fewer if the file ends earlier: the upload will then
/// notice.
fn hash(file: &File, size: u64) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; limits::CHUNK_BYTES];
    let mut offset = 0;
    while offset < size {
        let read = match file.read_at(&mut buffer, offset) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
        let bytes = &buffer[..read.min(left)];
        hasher.update(bytes);
        offset += u64::try_from(bytes.len()).expect("a buffer is small");
    }
    Ok(hex(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_within_its_bounds() {
        let adapter = Adapter::from_bytes(b"{}".to_vec(), Bytes::from_static(b"abcdef"));
        assert_eq!(adapter.size_bytes(), 6);
        assert_eq!(
            adapter.sha256(),
            "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"
        );
        let read = |offset, length| adapter.tensors().read(offset, length).unwrap();
        assert_eq!(read(0, 4).unwrap(), "abcd");
        assert_eq!(read(4, 2).unwrap(), "ef");
        assert_eq!(read(4, 3), None);
        assert_eq!(read(u64::MAX, 1), None);
    }
}
