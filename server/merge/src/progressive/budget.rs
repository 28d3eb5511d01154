//! How the bytes of a slot are shared out among its members: plain arithmetic on ladders.
//!
//! All members stand at one common rung, or lower where they have no more layers. A rung is one
//! tolerated error per element relative to a task's own update, so the common rung is a water level:
//! nobody is cut further while somebody stands higher. What is left then buys single rungs, for the
//! member that is kept worst first. The result depends on the members, not on their order.

use super::member::Member;

/// The rungs that each member keeps, or the bytes that even one rung each would need.
pub(super) fn share_out(members: &[&Member], fixed: u64, budget: u64) -> Result<Vec<usize>, u64> {
    let at = |rung: u8| -> Vec<usize> {
        members
            .iter()
            .map(|member| rungs_at(member, rung))
            .collect()
    };
    let cost = |rungs: &[usize]| -> u64 {
        let costs = members.iter().zip(rungs);
        fixed
            + costs
                .map(|(member, &rungs)| member.cost(rungs))
                .sum::<u64>()
    };
    let lowest = cost(&at(0));
    if lowest > budget {
        return Err(lowest);
    }
    // Costs grow with the rung, so the highest rung that fits is found by halving.
    let (mut fits, mut beyond) = (0_u8, u8::MAX);
    while beyond - fits > 1 {
        let middle = fits + (beyond - fits) / 2;
        if cost(&at(middle)) <= budget {
            fits = middle;
        } else {
            beyond = middle;
        }
    }
    let mut rungs = at(fits);
    let mut left = budget - cost(&rungs);
    // Each round gives one rung to whoever can still pay for it, the worst kept first.
    loop {
        let mut order: Vec<usize> = (0..members.len())
            .filter(|&index| rungs[index] < members[index].height())
            .collect();
        order.sort_by(|&l, &r| {
            let retention = |index: usize| members[index].fidelity_at(rungs[index]).retention;
            retention(l)
                .total_cmp(&retention(r))
                .then_with(|| members[l].task.cmp(&members[r].task))
        });
        let before = left;
        for index in order {
            let (member, kept) = (members[index], rungs[index]);
            let more = member.cost(kept + 1) - member.cost(kept);
            if more <= left {
                left -= more;
                rungs[index] += 1;
            }
        }
        if left == before {
            return Ok(rungs);
        }
    }
}

/// How many rungs a member keeps where `rung` is the water level: at least one, at most all.
pub(super) fn rungs_at(member: &Member, rung: u8) -> usize {
    let above = usize::from(rung.saturating_sub(member.first)) + 1;
    above.min(member.height())
}

/// Bytes of the lowest water level at which every member keeps `floor`, or all it has where that
/// is less.
pub(super) fn bytes_at_floor(members: &[&Member], fixed: u64, floor: f64) -> u64 {
    let level = |member: &&Member| {
        let rungs = (1..member.height())
            .find(|&rungs| member.fidelity_at(rungs).retention >= floor)
            .unwrap_or(member.height());
        usize::from(member.first) + rungs - 1
    };
    let level = members.iter().map(level).max().unwrap_or(0);
    let level = u8::try_from(level).unwrap_or(u8::MAX);
    let costs = members.iter();
    fixed
        + costs
            .map(|member| member.cost(rungs_at(member, level)))
            .sum::<u64>()
}
