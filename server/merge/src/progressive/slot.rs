//! The file of a packed slot: a head that says everything but the layers, then the layers.
//!
//! ```text
//! "KMPROG03"                    magic and version
//! u32, little-endian            length of the rest of the head
//! u64, little-endian            budget: bytes that the file may take, for good
//! table                         the modules' paths and shapes
//! members                       count, then each member's head (see `member`)
//! layers                        by member, by segment, from the first rung on
//! ```
//!
//! Numbers are LEB128 where nothing else is said. The file is read by a head and ranges, so a slot
//! need not fit into memory.

use super::bytes::{Cursor, push_count};
use super::coder::Decoder;
use super::member::{Fidelity, Member};
use super::segment::{Segment, segments};
use super::table::Table;
use crate::{MergeError, TensorSink, TensorSource};

const MAGIC: &[u8; 8] = b"KMPROG03";
/// Magic and length.
const PREFIX: u64 = 12;
/// The budget: of one length whatever it is, so that a slot fits exactly the bytes it asks for.
const BUDGET: u64 = 8;
/// No head is longer: a thousand members of a model with a thousand modules take two megabytes.
const LONGEST_HEAD: u32 = 64 << 20;

/// A packed slot without its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedSlot {
    /// Bytes that the file may take.
    pub budget: u64,
    pub(super) table: Table,
    /// In order of arrival.
    pub members: Vec<Member>,
    /// Where each member's layers start.
    starts: Vec<u64>,
    bytes: u64,
}

impl PackedSlot {
    /// A slot without members.
    pub(super) fn empty(budget: u64) -> Self {
        Self::lay_out(budget, Table::default(), Vec::new())
    }

    /// Lays out a file.
    pub(super) fn lay_out(budget: u64, table: Table, members: Vec<Member>) -> Self {
        let mut slot = Self {
            budget,
            table,
            members,
            starts: Vec::new(),
            bytes: 0,
        };
        slot.place(u64::try_from(slot.head().len()).unwrap_or(u64::MAX));
        slot
    }

    fn place(&mut self, head: u64) {
        let mut next = head;
        self.starts = self
            .members
            .iter()
            .map(|member| {
                let start = next;
                next += member.payload();
                start
            })
            .collect();
        self.bytes = next;
    }

    /// Length of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Target modules of all members together.
    #[must_use]
    pub fn modules(&self) -> usize {
        self.table.len()
    }

    /// The largest rank that any member is served with.
    #[must_use]
    pub fn rank(&self) -> usize {
        let ranks = self.members.iter().map(|member| member.fidelity().rank);
        ranks.max().unwrap_or(0)
    }

    /// What each member keeps, in order of arrival.
    pub fn fidelities(&self) -> impl Iterator<Item = (&str, Fidelity)> {
        self.members
            .iter()
            .map(|member| (member.task.as_str(), member.fidelity()))
    }

    /// Bytes of the file beside what its members cost.
    pub(super) fn fixed_bytes(table: &Table, members: usize) -> u64 {
        let mut head = Vec::new();
        table.write(&mut head);
        push_count(&mut head, members);
        PREFIX + BUDGET + u64::try_from(head.len()).unwrap_or(u64::MAX)
    }

    /// Everything before the layers.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut rest = Vec::new();
        rest.extend_from_slice(&self.budget.to_le_bytes());
        self.table.write(&mut rest);
        push_count(&mut rest, self.members.len());
        for member in &self.members {
            member.write_head(member.height(), &mut rest);
        }
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&u32::try_from(rest.len()).unwrap_or(u32::MAX).to_le_bytes());
        head.append(&mut rest);
        head
    }

    /// Reads the head of a file.
    ///
    /// # Errors
    ///
    /// [`MergeError::Source`] when it cannot be read, [`MergeError::DamagedSlot`] when it is not
    /// one that was written here.
    pub fn read(source: &dyn TensorSource) -> Result<Self, MergeError> {
        let damaged = |what| MergeError::DamagedSlot { what };
        let mut prefix = [0; 12];
        if source.len() < PREFIX {
            return Err(damaged("it is shorter than any head"));
        }
        source.read_at(0, &mut prefix).map_err(MergeError::Source)?;
        let (magic, length) = prefix.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(damaged("it does not begin as a packed slot does"));
        }
        let length = length.try_into().map_or(u32::MAX, u32::from_le_bytes);
        if length > LONGEST_HEAD || PREFIX + u64::from(length) > source.len() {
            return Err(damaged("its head is longer than the file"));
        }
        let mut head = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        source
            .read_at(PREFIX, &mut head)
            .map_err(MergeError::Source)?;
        let mut slot = Self::read_head(&head).ok_or(damaged("its head makes no sense"))?;
        slot.place(PREFIX + u64::from(length));
        if slot.bytes == source.len() {
            Ok(slot)
        } else {
            Err(damaged("its length is not the one that its head announces"))
        }
    }

    fn read_head(head: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(head);
        let budget = u64::from_le_bytes(cursor.array()?);
        let table = Table::read(&mut cursor)?;
        let count = cursor.count()?;
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(Member::read_head(&mut cursor, &table)?);
        }
        cursor.0.is_empty().then_some(Self {
            budget,
            table,
            members,
            starts: Vec::new(),
            bytes: 0,
        })
    }

    /// Copies the first layers of a member, as many as `kept` has, to the end of a file.
    pub(super) fn copy_layers(
        &self,
        source: &dyn TensorSource,
        member: usize,
        kept: &Member,
        sink: &mut dyn TensorSink,
    ) -> Result<(), MergeError> {
        const PIECE: usize = 1 << 20;
        let mut next = self.starts[member];
        let mut buffer = Vec::new();
        for (all, kept) in self.members[member].layers.iter().zip(&kept.layers) {
            let sum =
                |lengths: &[u32]| lengths.iter().map(|&length| u64::from(length)).sum::<u64>();
            let (mut offset, mut rest) = (next, sum(kept));
            next += sum(all);
            while rest > 0 {
                let piece = usize::try_from(rest).unwrap_or(PIECE).min(PIECE);
                buffer.resize(piece, 0);
                source
                    .read_at(offset, &mut buffer)
                    .map_err(MergeError::Source)?;
                sink.write(&buffer).map_err(MergeError::Sink)?;
                let piece = u64::try_from(piece).unwrap_or(u64::MAX);
                offset += piece;
                rest -= piece;
            }
        }
        Ok(())
    }

    /// How many segments a member has.
    pub(super) fn segments(&self, member: usize) -> usize {
        self.members[member].layers.len()
    }

    /// Decodes one segment of a member, up to its first `rungs` rungs. Gives it with the places of
    /// its modules in the table.
    pub(super) fn decode(
        &self,
        source: &dyn TensorSource,
        member: usize,
        segment: usize,
        rungs: usize,
    ) -> Result<(Segment, Vec<usize>), MergeError> {
        let owner = &self.members[member];
        let sum = |lengths: &[u32]| lengths.iter().map(|&length| u64::from(length)).sum::<u64>();
        let before: u64 = owner.layers[..segment]
            .iter()
            .map(|layers| sum(layers))
            .sum();
        let lengths = &owner.layers[segment][..rungs.min(owner.height())];
        let mut bytes = vec![0; usize::try_from(sum(lengths)).unwrap_or(usize::MAX)];
        source
            .read_at(self.starts[member] + before, &mut bytes)
            .map_err(MergeError::Source)?;

        let present = owner.present();
        let places: Vec<usize> = (0..owner.modules.len())
            .filter(|&place| owner.modules[place].is_some())
            .collect();
        let runs = segments(&present);
        let start: usize = runs[..segment].iter().sum();
        let range = start..start + runs[segment];
        let mut decoded = Segment::new(&present[range.clone()], owner.fidelity().rank);
        let mut rest = bytes.as_slice();
        // Rungs before the first have empty layers, which decode to nothing but learnt chances.
        let empty = std::iter::repeat_n(&0_u32, usize::from(owner.first));
        for (rung, &length) in (0_u8..).zip(empty.chain(lengths)) {
            let (layer, after) = rest.split_at(usize::try_from(length).unwrap_or(usize::MAX));
            rest = after;
            if !decoded.layer(rung, None, &mut Decoder::new(layer)) {
                return Err(MergeError::DamagedSlot {
                    what: "a layer of it makes no sense",
                });
            }
        }
        Ok((decoded, places[range].to_vec()))
    }
}
