//! Fewer slots, or fewer bytes, for slots that are averages: the most similar two become one, as
//! often as it takes, and a slot beyond the last number takes a free one.

use std::collections::BTreeMap;

use kmerge_merge::{
    AdapterLayout, AdapterView, History, MergeError, ModuleNorms, Policy, SlotView, decode_slot,
    execute, similarity, unite,
};
use kmerge_storage::{
    BaseModelState, Generation, GenerationRecord, PlacedMember, SlotIndex, StoredTensor,
};

use super::super::{Report, Tools};
use super::{Content, Work};
use crate::error::ServerError;
use crate::facts::{self, GenerationFacts};
use crate::progress::Stage;
use crate::serving;
use crate::tensors::{FileSink, FileSource};

/// A slot as it is, or as it has become.
struct Group<'a> {
    slot: u32,
    expected: Generation,
    record: &'a GenerationRecord,
    bytes: u64,
    source: FileSource,
    layout: AdapterLayout,
    members: Vec<PlacedMember>,
    /// There once it is no longer what is stored.
    united: Option<(StoredTensor, GenerationFacts)>,
}

impl Group<'_> {
    fn adapter(&self) -> AdapterView<'_> {
        AdapterView {
            layout: &self.layout,
            source: &self.source,
        }
    }

    fn view(&self) -> SlotView<'_> {
        SlotView {
            slot: self.slot,
            generation: self.expected.0,
            members: facts::saturate(self.members.len()),
            adapter: self.adapter(),
            norms: None,
        }
    }

    fn member_norms(&self) -> Result<Option<ModuleNorms>, ServerError> {
        Ok(match &self.united {
            Some((_, facts)) => facts.member_norms(),
            None => facts::generation(self.record)?.member_norms(),
        })
    }
}

/// What is to be done with each slot so that they fit the policy. Unions are written on the way:
/// the next one may be made of them.
pub(super) fn decide(
    policy: &Policy,
    base_model: &BaseModelState,
    tools: &Tools,
    report: Report<'_>,
) -> Result<Vec<Work>, ServerError> {
    let mut groups = open(base_model, tools)?;
    let wanted = usize::try_from(policy.slots).unwrap_or(usize::MAX);
    let at_first = groups.len();
    let mut similarities = BTreeMap::new();
    let mut gone = Vec::new();
    loop {
        let bytes: u64 = groups.iter().map(|group| group.bytes).sum();
        let over = over_budget(policy, bytes);
        if groups.len() <= wanted && over.is_none() {
            break;
        }
        let Some((into, from)) = most_similar(policy, &groups, &mut similarities)? else {
            let slots = policy.slots;
            return Err(over.unwrap_or(MergeError::AllPinned { slots }).into());
        };
        let from = groups.remove(from);
        similarities.retain(|&(one, other), _| {
            let touched = [from.slot, groups[into].slot];
            !touched.contains(&one) && !touched.contains(&other)
        });
        let united = join(policy, &groups[into], &from, tools)?;
        groups[into] = united;
        gone.push(Work {
            slot: SlotIndex(from.slot),
            expected: Some(from.expected),
            content: Content::Nothing,
        });
        #[expect(clippy::cast_precision_loss, reason = "a figure for a progress bar")]
        let share = gone.len() as f32 / at_first as f32;
        report(Stage::Merge, share);
    }
    let mut work = renumbered(policy, groups, &mut gone)?;
    work.append(&mut gone);
    work.sort_by_key(|work| work.slot);
    Ok(work)
}

fn open<'a>(base_model: &'a BaseModelState, tools: &Tools) -> Result<Vec<Group<'a>>, ServerError> {
    let groups = base_model.slots.values().map(|state| {
        let record = state.current();
        let source = FileSource(tools.reader.tensor(record)?);
        let layout = decode_slot(&source).map_err(ServerError::StoredAdapter)?;
        let members = serving::members(state, usize::MAX).into_iter();
        Ok(Group {
            slot: record.slot.0,
            expected: record.generation,
            record,
            bytes: record.bytes,
            source,
            layout,
            members: members
                .map(|(task, weight)| PlacedMember { task, weight })
                .collect(),
            united: None,
        })
    });
    groups.collect()
}

/// Why that many bytes are too many, if they are.
fn over_budget(policy: &Policy, needed: u64) -> Option<MergeError> {
    let allowed = policy.max_bytes?;
    (needed > allowed).then_some(MergeError::OverBudget { needed, allowed })
}

/// The two that are most alike, the lower number first; pinned slots take and give nothing.
fn most_similar(
    policy: &Policy,
    groups: &[Group<'_>],
    known: &mut BTreeMap<(u32, u32), f64>,
) -> Result<Option<(usize, usize)>, ServerError> {
    let mut best: Option<(f64, usize, usize)> = None;
    let open = |group: &Group<'_>| !policy.pinned.contains(&group.slot);
    for (index, one) in groups.iter().enumerate() {
        for (offset, other) in groups[index + 1..].iter().enumerate() {
            if !open(one) || !open(other) {
                continue;
            }
            let pair = (one.slot, other.slot);
            let found = match known.get(&pair) {
                Some(&found) => found,
                None => {
                    let found = similarity(one.adapter(), other.adapter())?;
                    known.insert(pair, found);
                    found
                }
            };
            if best.is_none_or(|(best, ..)| found > best) {
                best = Some((found, index, index + 1 + offset));
            }
        }
    }
    Ok(best.map(|(_, one, other)| (one, other)))
}

fn join<'a>(
    policy: &Policy,
    into: &Group<'a>,
    from: &Group<'_>,
    tools: &Tools,
) -> Result<Group<'a>, ServerError> {
    let target = into.view();
    let norms = [into, from].map(|group| Ok((group.slot, group.member_norms()?)));
    let norms = norms.into_iter().collect::<Result<Vec<_>, ServerError>>()?;
    let known = norms.iter();
    let history = History {
        member_norms: known
            .filter_map(|(slot, norms)| Some((*slot, norms.as_ref()?)))
            .collect(),
        ..History::default()
    };
    let plan = unite(policy, &target, &from.view(), &history)?;
    let mut writer = tools.reader.new_tensor()?;
    let mut sink = FileSink(&mut writer);
    let outcome = execute(&plan, &[target], from.adapter(), &mut sink, &|_| {})?;
    let tensor = writer.finish()?;
    let facts = GenerationFacts::new(&plan, &outcome, policy);
    let scaled = |members: &[PlacedMember], share: f64| -> Vec<PlacedMember> {
        let scaled = members.iter().cloned().map(|member| PlacedMember {
            weight: member.weight * share,
            ..member
        });
        scaled.collect()
    };
    let mut members = scaled(&into.members, 1.0 - plan.newcomer_weight);
    members.append(&mut scaled(&from.members, plan.newcomer_weight));
    Ok(Group {
        slot: into.slot,
        expected: into.expected,
        record: into.record,
        bytes: tensor.bytes,
        source: FileSource(tools.reader.stored(&tensor)?),
        layout: outcome.layout,
        members,
        united: Some((tensor, facts)),
    })
}

/// What has changed. A slot whose number is beyond the last takes the lowest that is free.
fn renumbered(
    policy: &Policy,
    groups: Vec<Group<'_>>,
    gone: &mut Vec<Work>,
) -> Result<Vec<Work>, ServerError> {
    let mut taken: Vec<u32> = groups.iter().map(|group| group.slot).collect();
    let mut work = Vec::new();
    for group in groups {
        let stays = group.slot < policy.slots;
        if stays && group.united.is_none() {
            continue;
        }
        let (slot, expected) = if stays {
            (group.slot, Some(group.expected))
        } else {
            let slot = group.slot;
            if policy.pinned.contains(&slot) {
                return Err(MergeError::Pinned { slot }.into());
            }
            let free = (0..policy.slots).find(|slot| !taken.contains(slot));
            let free = free.ok_or(MergeError::AllPinned {
                slots: policy.slots,
            })?;
            taken.push(free);
            gone.push(Work {
                slot: SlotIndex(slot),
                expected: Some(group.expected),
                content: Content::Nothing,
            });
            // A number that was given up on the way is emptied no more, but written.
            let freed = gone.iter().position(|work| work.slot == SlotIndex(free));
            let expected = freed.and_then(|freed| gone.remove(freed).expected);
            (free, expected)
        };
        let content = match group.united {
            Some((tensor, facts)) => Content::Average {
                tensor,
                facts,
                members: group.members,
            },
            None => Content::Same {
                of: group.record.clone(),
                members: group.members,
            },
        };
        work.push(Work {
            slot: SlotIndex(slot),
            expected,
            content,
        });
    }
    Ok(work)
}
