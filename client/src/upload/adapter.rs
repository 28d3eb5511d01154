//! An adapter that can be uploaded: its configuration, and tensors whose size and SHA-256 are
//! known.
//!
//! Formats are told apart by content: a GGUF file by its first bytes, the directories of PEFT and
//! mlx-lm by what their configuration says. A directory without one may hold a single GGUF file.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kmerge_proto::{limits, v1};
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, NotAnAdapter};
use crate::files;
use crate::hex::hex;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";
/// What mlx-lm calls them.
const MLX_TENSORS: &str = "adapters.safetensors";
/// How every GGUF file begins.
const GGUF_MAGIC: [u8; 4] = *b"GGUF";
/// How the names of GGUF files end.
const GGUF_EXTENSION: &str = "gguf";
/// What only mlx-lm's configuration has.
const MLX_FIELDS: [&str; 2] = ["lora_parameters", "fine_tune_type"];

/// An adapter that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Adapter {
    format: v1::AdapterFormat,
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
        /// Where it is, for messages.
        path: Arc<Path>,
    },
    Memory(Bytes),
}

impl Adapter {
    /// Opens a PEFT directory, a GGUF file or a directory of mlx-lm, and hashes its tensors.
    ///
    /// # Errors
    /// [`Error::NotAnAdapter`] says what is missing; [`Error::File`] if a file cannot be read.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        tokio::task::spawn_blocking(move || Self::open_blocking(&path))
            .await
            .expect("opening an adapter does not panic")
    }

    /// A PEFT adapter from its two files' contents.
    #[must_use]
    pub fn from_bytes(config: Vec<u8>, tensors: Bytes) -> Self {
        let size_bytes = u64::try_from(tensors.len()).expect("memory is less than 2^64 bytes");
        let sha256 = hex(Sha256::digest(&tensors));
        Self {
            format: v1::AdapterFormat::Peft,
            config,
            tensors: Tensors::Memory(tensors),
            size_bytes,
            sha256,
        }
    }

    /// How it is written.
    #[must_use]
    pub fn format(&self) -> v1::AdapterFormat {
        self.format
    }

    /// The adapter_config.json; empty for GGUF.
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

    fn open_blocking(path: &Path) -> Result<Self, Error> {
        let not_an_adapter = |why| Error::NotAnAdapter {
            path: path.to_owned(),
            why,
        };
        let metadata = path.metadata().map_err(Error::file("open", path))?;
        if !metadata.is_dir() {
            return match open_gguf(path, metadata.is_file())? {
                Some(file) => Self::new(v1::AdapterFormat::Gguf, Vec::new(), file, path),
                None => Err(not_an_adapter(NotAnAdapter::NotADirectory)),
            };
        }
        if !path.join(CONFIG).exists()
            && let Some(found) = only_gguf(path)?
            && let Some(file) = open_gguf(&found, true)?
        {
            return Self::new(v1::AdapterFormat::Gguf, Vec::new(), file, &found);
        }
        let config = read_config(path)?;
        let (format, name) = if is_of_mlx(&config) {
            (v1::AdapterFormat::Mlx, MLX_TENSORS)
        } else {
            (v1::AdapterFormat::Peft, TENSORS)
        };
        if !path.join(name).exists() && path.join(PICKLE).exists() {
            return Err(not_an_adapter(NotAnAdapter::OnlyPickle));
        }
        let file = open_part(path, name)?;
        Self::new(format, config, file, &path.join(name))
    }

    /// The adapter whose tensors are in `file`, which was opened at `path`.
    fn new(
        format: v1::AdapterFormat,
        config: Vec<u8>,
        file: File,
        path: &Path,
    ) -> Result<Self, Error> {
        let size_bytes = file.metadata().map_err(Error::file("read", path))?.len();
        let sha256 = hash(&file, size_bytes).map_err(Error::file("read", path))?;
        let tensors = Tensors::File {
            file: Arc::new(file),
            path: path.into(),
        };
        Ok(Self {
            format,
            config,
            tensors,
            size_bytes,
            sha256,
        })
    }
}

/// Opens a file if it is a GGUF. One that is not regular is not opened: a pipe would wait.
fn open_gguf(path: &Path, is_file: bool) -> Result<Option<File>, Error> {
    if !is_file {
        return Ok(None);
    }
    let file = files::open(path)?;
    let mut magic = [0; GGUF_MAGIC.len()];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == GGUF_MAGIC => Ok(Some(file)),
        Ok(()) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

/// The only file in a directory whose name is that of a GGUF.
fn only_gguf(directory: &Path) -> Result<Option<PathBuf>, Error> {
    let listing = directory
        .read_dir()
        .map_err(Error::file("list", directory))?;
    let mut found = None;
    for entry in listing {
        let path = entry.map_err(Error::file("list", directory))?.path();
        let is_gguf = path.extension().is_some_and(|end| end == GGUF_EXTENSION) && path.is_file();
        if is_gguf && found.replace(path).is_some() {
            return Err(Error::NotAnAdapter {
                path: directory.to_owned(),
                why: NotAnAdapter::SeveralGguf,
            });
        }
    }
    Ok(found)
}

/// Whether a configuration is mlx-lm's. One that is not even JSON is sent as PEFT's, and the daemon
/// says what is wrong with it.
fn is_of_mlx(config: &[u8]) -> bool {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(config).ok();
    parsed.is_some_and(|config| {
        config.get("peft_type").is_none()
            && MLX_FIELDS.iter().any(|field| config.get(field).is_some())
    })
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
            Self::File { file, path } => {
                let mut chunk = vec![0; length];
                match file.read_exact_at(&mut chunk, offset) {
                    Ok(()) => Ok(Some(chunk.into())),
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
                    Err(error) => Err(Error::file("read", path)(error)),
                }
            }
        }
    }

    /// What to say when the file has become shorter.
    pub(super) fn shrunk(&self) -> Error {
        let path = match self {
            Self::File { path, .. } => path.to_path_buf(),
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
