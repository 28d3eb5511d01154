//! The progressive operator: a slot keeps its members apart, each as well as its bytes allow.
//!
//! An average of n nearly orthogonal updates keeps 1/√n of each. The same bytes can keep nearly all
//! of each, since an update has most of its energy in a few of its directions, and those need not be
//! known precisely. So a slot is a budget of bytes, and its members are codes that can be cut off
//! anywhere:
//!
//! 1. **Spectrum.** A newcomer's update is taken apart into its singular directions, from the
//!    factors (`spectrum`).
//! 2. **Ladder.** Directions are quantised in nested planes and entropy-coded in layers, coarse to
//!    fine (`scale`, `vector`, `coder`, `segment`). Every rung of the ladder is a whole code, and
//!    its error is measured against the update itself when the task arrives (`encode`, `figures`).
//! 3. **Budget.** When the bytes run out, all members climb down to one common water level
//!    (`budget`): tails are cut off, nothing is coded again. What a member is then is what it would
//!    be had it been coded for that level at once, so it does not matter in which order tasks came,
//!    and its certified error stays certified.
//! 4. **Serving.** Each task gets an ordinary adapter, unbiased: every direction is stretched by
//!    what its quantised vectors lack, every module by what its missing directions would have added
//!    (`serve`).
//!
//! Quantisation with a double zero bin in nested planes and layers cut by rate and distortion are
//! those of embedded image coders (Shapiro 1993; Taubman 2000); that Gaussian sources lose nothing
//! by it is Equitz and Cover 1991. Keeping one's own low-rank directions per task is
//! Compress-then-Serve (2407.00066) with its shared basis left out, Compress-then-Merge (2606.03723)
//! with its cores left apart. New here: ladders for adapters, hence budgets that hold online without
//! the originals; certificates per rung; and serving without bias in place of least squares.
//!
//! Directions are not shared between members: the best shared basis saves less on measured adapters
//! than its own bytes cost (DESIGN.md), and a member that stands alone can be forgotten truly.

mod budget;
mod bytes;
mod coder;
mod encode;
mod figures;
mod likeness;
mod member;
mod place;
mod repack;
mod scale;
mod segment;
mod serve;
mod slot;
mod spectrum;
mod table;
mod vector;

pub use member::{Fidelity, Member};
pub use place::{Beside, MemberCost, Newcomer, PackedView, Placement, place};
pub use repack::{Packing, Repacking, repack, without};
pub use slot::PackedSlot;
