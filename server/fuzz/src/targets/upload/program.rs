//! What a fuzzer's bytes mean: which messages come on which stream, and how each stream ends.

use kmerge_proto::limits::MAX_CHUNK_BYTES;
use kmerge_proto::v1;
use kmerge_storage::Digest;

use crate::seeds;

/// The most instructions of one input.
const INSTRUCTIONS: usize = 48;

/// How many streams there are.
pub(super) const STREAMS: usize = 3;

/// One step of a client.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A header, and the file that it announces.
    Header(Box<v1::UploadHeader>, Vec<u8>),
    /// The next bytes of the announced file, at most so many.
    Next(usize),
    /// Bytes from anywhere in the announced file.
    From { offset: usize, length: usize },
    /// These bytes.
    Bytes(Vec<u8>),
    /// A message of nothing.
    Empty,
    /// No more messages.
    End,
    /// The connection breaks.
    Break,
    /// The call is dropped, as on a reset of its stream.
    Drop,
    /// Everybody gets on as far as they can.
    Wait,
}

/// A step and its stream.
#[derive(Debug, Clone)]
pub(super) struct Instruction {
    pub(super) stream: usize,
    pub(super) step: Step,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte().unwrap_or(0))
    }

    /// A length and as many bytes, or what is left of them.
    fn bytes(&mut self) -> &'a [u8] {
        let length = self.number().min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// Reads a program; any bytes are one.
pub(super) fn read(input: &[u8]) -> Vec<Instruction> {
    let mut reader = Reader(input);
    let mut program = Vec::new();
    while program.len() < INSTRUCTIONS
        && let Some(code) = reader.byte()
    {
        let stream = usize::from(code >> 4) % STREAMS;
        let step = match code & 15 {
            0 => header(&mut reader),
            1 => Step::Next(1 + reader.number()),
            2 => Step::Next(usize::MAX),
            3 => Step::From {
                offset: reader.number() * 4,
                length: reader.number(),
            },
            4 => Step::Bytes(Vec::new()),
            5 => Step::Bytes(vec![0; MAX_CHUNK_BYTES + 1]),
            6 => Step::Empty,
            7 => Step::End,
            8 => Step::Break,
            9 => Step::Drop,
            10 => Step::Bytes(reader.bytes().to_vec()),
            11 => foreign_header(&mut reader),
            12 => {
                // A whole upload, in two pieces.
                program.push(Instruction {
                    stream,
                    step: header(&mut reader),
                });
                program.push(Instruction {
                    stream,
                    step: Step::Next(100),
                });
                program.push(Instruction {
                    stream,
                    step: Step::Next(usize::MAX),
                });
                Step::End
            }
            _ => Step::Wait,
        };
        program.push(Instruction { stream, step });
    }
    program
}

/// A header that is right but for what single bits make wrong.
fn header(reader: &mut Reader<'_>) -> Step {
    let (which, how) = (reader.number(), reader.number());
    let (format, config, file) = match which & 3 {
        0 => (
            v1::AdapterFormat::Peft,
            seeds::config(),
            seeds::one_module(),
        ),
        1 => (v1::AdapterFormat::Gguf, Vec::new(), seeds::gguf()),
        2 => {
            let (config, file) = seeds::mlx();
            (v1::AdapterFormat::Mlx, config, file)
        }
        // Announced truthfully, and no adapter.
        _ => (
            v1::AdapterFormat::Peft,
            seeds::config(),
            reader.bytes().to_vec(),
        ),
    };
    let mut digest = Digest::of(&file).to_string();
    if how & 1 != 0 {
        digest = Digest::of(b"something else").to_string();
    }
    let size = file.len() as u64;
    let header = v1::UploadHeader {
        task: format!("task-{}", which >> 2 & 3),
        base_model: if how & 2 != 0 { "unknown" } else { "tiny" }.to_owned(),
        format: format.into(),
        config,
        size_bytes: match how >> 2 & 3 {
            0 | 1 => size,
            2 => size + 1,
            _ => size.saturating_sub(1),
        },
        sha256: digest,
        request_id: match how >> 4 & 3 {
            0 | 1 => String::new(),
            2 => "first".to_owned(),
            _ => "second".to_owned(),
        },
        validate_only: how & 64 != 0,
    };
    Step::Header(Box::new(header), file)
}

/// A header of a stranger's own words.
fn foreign_header(reader: &mut Reader<'_>) -> Step {
    let header = v1::UploadHeader {
        format: i32::from(reader.byte().unwrap_or(0)),
        validate_only: reader.number() & 1 != 0,
        size_bytes: match reader.number() {
            255 => u64::MAX,
            254 => 1 << 40,
            size => size as u64,
        },
        task: reader.text(),
        base_model: reader.text(),
        request_id: reader.text(),
        sha256: reader.text(),
        config: reader.bytes().to_vec(),
    };
    Step::Header(Box::new(header), reader.bytes().to_vec())
}
