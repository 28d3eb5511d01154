//! The headers of a POSIX tar archive (ustar), of plain files only.
//!
//! Pure. What holds: for each name, length and time there is exactly one header, and no other is
//! accepted: no links, no directories, no owners, no other modes, no second spelling of a number.

/// Everything in an archive comes in blocks of so many bytes.
pub(crate) const BLOCK: usize = 512;

/// A block.
pub(crate) type Block = [u8; BLOCK];

/// The longest file, in bytes: eleven octal digits.
pub(crate) const LENGTH_LIMIT: u64 = (1 << 33) - 1;

/// What is said of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Its path in the archive.
    pub(crate) name: String,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// Seconds since 1970.
    pub(crate) seconds: u64,
}

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const LENGTH: std::ops::Range<usize> = 124..136;
const TIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;
const MAGIC: std::ops::Range<usize> = 257..265;
const PREFIX: std::ops::Range<usize> = 345..500;

impl Header {
    /// The header's block; none if the name or a number does not fit.
    pub(crate) fn block(&self) -> Option<Block> {
        let (prefix, name) = split(&self.name)?;
        if self.length > LENGTH_LIMIT || self.seconds > LENGTH_LIMIT {
            return None;
        }
        let mut block = [0; BLOCK];
        let mut put = |range: std::ops::Range<usize>, bytes: &[u8]| {
            block[range.start..range.start + bytes.len()].copy_from_slice(bytes);
        };
        put(NAME, name.as_bytes());
        put(MODE, b"0000600\0");
        put(UID, b"0000000\0");
        put(GID, b"0000000\0");
        put(LENGTH, format!("{:011o}\0", self.length).as_bytes());
        put(TIME, format!("{:011o}\0", self.seconds).as_bytes());
        put(CHECKSUM, b"        ");
        put(KIND..KIND + 1, b"0");
        put(MAGIC, b"ustar\x0000");
        put(PREFIX, prefix.as_bytes());
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Some(block)
    }

    /// What a block says, if it is the header of a plain file as [`Header::block`] writes it.
    pub(crate) fn parse(block: &Block) -> Option<Self> {
        let text = |range: std::ops::Range<usize>| {
            let bytes = &block[range];
            let end = bytes.iter().position(|&byte| byte == 0);
            std::str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).ok()
        };
        let number = |range| u64::from_str_radix(text(range)?, 8).ok();
        let (prefix, name) = (text(PREFIX)?, text(NAME)?);
        let header = Self {
            name: match prefix {
                "" => name.to_owned(),
                prefix => format!("{prefix}/{name}"),
            },
            length: number(LENGTH)?,
            seconds: number(TIME)?,
        };
        (header.block()? == *block).then_some(header)
    }
}

/// The two fields that a path is written to.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.is_empty() || path.contains('\0') {
        return None;
    }
    if path.len() <= NAME.len() {
        return Some(("", path));
    }
    let slashes = path.match_indices('/').map(|(at, _)| at);
    let mut cuts = slashes.filter(|&at| path.len() - at - 1 <= NAME.len());
    let at = cuts.next().filter(|&at| at <= PREFIX.len())?;
    let (prefix, name) = (&path[..at], &path[at + 1..]);
    (!prefix.is_empty() && !name.is_empty()).then_some((prefix, name))
}

/// How many zeros follow a file of that length, up to the next block.
pub(crate) fn padding(length: u64) -> usize {
    let rest = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    (BLOCK - rest) % BLOCK
}

/// What a file of that length takes in an archive.
pub(crate) fn room(length: u64) -> u64 {
    BLOCK as u64 + length + padding(length) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, length: u64) -> Header {
        Header {
            name: name.to_owned(),
            length,
            seconds: 1_790_000_000,
        }
    }

    #[test]
    fn headers_come_back() {
        let long = format!(
            "manifests/{}/4294967295/18446744073709551615.json",
            "a".repeat(128)
        );
        for name in ["catalog.jsonl", &"n".repeat(100), &long] {
            for length in [0, 1, 511, 512, LENGTH_LIMIT] {
                let header = header(name, length);
                assert_eq!(Header::parse(&header.block().unwrap()), Some(header));
            }
        }
        assert_eq!(header("a", LENGTH_LIMIT + 1).block(), None);
        assert_eq!(header(&"n".repeat(101), 1).block(), None);
        assert_eq!(header("", 1).block(), None);
    }

    #[test]
    fn a_block_that_says_the_same_otherwise_is_refused() {
        let block = header("tensors/ab/cd", 77).block().unwrap();
        for at in 0..BLOCK {
            for bit in 0..8 {
                let mut other = block;
                other[at] ^= 1 << bit;
                let said = Header::parse(&other);
                // Two flips are needed to change a field and the checksum with it.
                assert_eq!(said, None, "{at}.{bit}");
            }
        }
    }

    #[test]
    fn links_and_directories_are_refused_even_with_a_right_checksum() {
        for kind in b"\x001234567gx" {
            let mut block = header("tensors/ab/cd", 0).block().unwrap();
            block[KIND] = *kind;
            block[CHECKSUM].copy_from_slice(b"        ");
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert_eq!(Header::parse(&block), None, "{kind}");
        }
    }

    #[test]
    fn rooms_are_whole_blocks() {
        for (length, room_of) in [(0, 512), (1, 1024), (512, 1024), (513, 1536)] {
            assert_eq!(room(length), room_of);
        }
    }
}
