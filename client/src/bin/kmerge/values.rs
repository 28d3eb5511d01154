//! Arguments from text to value.

use clap::ValueEnum;
use kmerge_client::v1;
use kmerge_proto::limits;

/// Which slot a newcomer goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Assignment {
    /// Fill all slots first, then the most similar one
    Kmerge,
    /// Open a slot only for a newcomer less similar to every slot than --threshold, or than what
    /// the similarities so far tell apart
    #[value(name = "kmerge++")]
    KmergePlusPlus,
    /// For progressive: the slot in which the worst kept member stays best
    Roomiest,
    /// For kmerge-linear, exact, svd: fill all slots first, then join the two closest of all slots
    /// and the newcomer
    BestPair,
}

impl From<Assignment> for v1::AssignmentRule {
    fn from(assignment: Assignment) -> Self {
        match assignment {
            Assignment::Kmerge => Self::Kmerge,
            Assignment::KmergePlusPlus => Self::KmergePlusPlus,
            Assignment::Roomiest => Self::Roomiest,
            Assignment::BestPair => Self::BestPair,
        }
    }
}

/// How a newcomer and a slot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operator {
    /// The running mean of the factors, as K-Merge does it
    KmergeLinear,
    /// The factors mixed half and half: the control
    Linear,
    /// The best approximation of the running mean of the updates at the slot's rank
    Exact,
    /// No mean: each member keeps its own strongest directions, as the slot's bytes allow
    Progressive,
    /// TIES-Merging of the factors: trim, elect signs, mean of those that agree
    Ties,
    /// Factors with seeded random drops and rescaling, then summed
    DareLinear,
    /// Seeded random drops, then TIES
    DareTies,
    /// Continual merging of the updates by orthogonal projection
    Opcm,
    /// The weighted sum of the updates, cut off at the slot's rank
    Svd,
}

impl From<Operator> for v1::Operator {
    fn from(operator: Operator) -> Self {
        match operator {
            Operator::KmergeLinear => Self::KmergeLinear,
            Operator::Linear => Self::Linear,
            Operator::Exact => Self::Exact,
            Operator::Progressive => Self::Progressive,
            Operator::Ties => Self::Ties,
            Operator::DareLinear => Self::DareLinear,
            Operator::DareTies => Self::DareTies,
            Operator::Opcm => Self::Opcm,
            Operator::Svd => Self::Svd,
        }
    }
}

/// The weights of the slot and of the newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weighting {
    /// Every member of a slot counts the same
    Running,
    /// As in the code released with K-Merge
    Released,
}

impl From<Weighting> for v1::Weighting {
    fn from(weighting: Weighting) -> Self {
        match weighting {
            Weighting::Running => Self::Running,
            Weighting::Released => Self::Released,
        }
    }
}

/// In which type a slot keeps its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// The widest type of the slot's members
    Widest,
    /// 32-bit floats
    F32,
    /// 16-bit floats
    F16,
    /// bfloat16
    Bf16,
}

impl From<Dtype> for v1::SlotDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Widest => Self::Widest,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// A job's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// Waits for its turn
    Queued,
    /// Is being merged
    Running,
    /// Is in its slot
    Done,
    /// Could not be merged
    Failed,
    /// Was taken back
    Cancelled,
}

impl From<State> for v1::JobState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Done => Self::Done,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

/// The formats that an export can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// A directory that PEFT, vLLM and SGLang load as it is
    Peft,
    /// One file for llama.cpp and what is built on it: adapter.gguf
    Gguf,
    /// A directory that mlx-lm loads as it is
    Mlx,
    /// The whole model, with the adapter worked into a copy of --base-weights
    Model,
}

impl From<ExportFormat> for v1::AdapterFormat {
    fn from(format: ExportFormat) -> Self {
        match format {
            // The model is made here, from what PEFT would get.
            ExportFormat::Peft | ExportFormat::Model => Self::Peft,
            ExportFormat::Gguf => Self::Gguf,
            ExportFormat::Mlx => Self::Mlx,
        }
    }
}

/// A slot by number, or a task by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SlotOrTask {
    Slot(u32),
    Task(String),
}

/// Reads a slot, which is all digits, or else a task.
pub(crate) fn slot_or_task(text: &str) -> Result<SlotOrTask, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .map(SlotOrTask::Slot)
            .map_err(|_| "there are never that many slots".to_owned());
    }
    name(text).map(SlotOrTask::Task)
}

/// Reads the name of a task or base model.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let other = |byte: u8| first(byte) || matches!(byte, b'.' | b'_' | b'-');
    let good = text.len() <= limits::MAX_NAME_BYTES
        && text.bytes().next().is_some_and(first)
        && text.bytes().all(other);
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a name starts with a lowercase letter or a digit, goes on with those and . _ -, \
             and has at most {} characters",
            limits::MAX_NAME_BYTES
        ))
    }
}

/// Reads a request id.
pub(crate) fn request_id(text: &str) -> Result<String, String> {
    if (1..=limits::MAX_REQUEST_ID_BYTES).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a request id has 1 to {} bytes",
            limits::MAX_REQUEST_ID_BYTES
        ))
    }
}

/// Units of sizes, in lower case, with their bytes.
const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Reads a size in bytes: a whole number or a decimal, and a unit. `0` means no limit.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!(
            "{unit:?} is no unit; B, kB, MB, GB, TB (thousands) and KiB, MiB, GiB, TiB (1,024) are"
        ));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole
        .parse()
        .map_err(|_| format!("{number:?} is no number of bytes"))?;
    let fraction = if fraction.is_empty() {
        0
    } else {
        let digits = u32::try_from(fraction.len())
            .ok()
            .filter(|digits| *digits <= 6);
        let digits = digits.ok_or("at most six digits after the point are read")?;
        let part: u64 = fraction
            .parse()
            .map_err(|_| format!("{number:?} is no number of bytes"))?;
        part * factor / 10_u64.pow(digits)
    };
    whole
        .checked_mul(*factor)
        .and_then(|bytes| bytes.checked_add(fraction))
        .ok_or_else(|| "that is more than 2^64 bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_all_units() {
        let cases = [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("1GB", 1_000_000_000),
            ("1.5GiB", 3 << 29),
            ("0.25kB", 250),
            ("2TiB", 2 << 40),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn sizes_that_are_none() {
        for text in [
            "",
            "MiB",
            "-1",
            "1K",
            "1M",
            "1,5GB",
            "1.2.3MB",
            "99999999999TB",
            "1e9",
            ".",
        ] {
            assert!(bytes(text).is_err(), "{text} was read as {:?}", bytes(text));
        }
    }

    #[test]
    fn names_are_the_contracts() {
        let long = "a".repeat(128);
        for good in ["a", "0", "slug-en", "smollm2-135m", "a.b_c-d", &long] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        let too_long = "a".repeat(129);
        for bad in ["", "-a", ".a", "A", "a b", "a/b", "ä", &too_long] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn digits_are_a_slot_and_the_rest_a_task() {
        assert_eq!(slot_or_task("12"), Ok(SlotOrTask::Slot(12)));
        assert_eq!(slot_or_task("12a"), Ok(SlotOrTask::Task("12a".into())));
        assert!(slot_or_task("99999999999").is_err());
        assert!(slot_or_task("").is_err());
    }

    #[test]
    fn words_are_those_of_the_json() {
        use kmerge_client::json::word_of;
        fn check<T: ValueEnum + Copy + Into<E>, E: kmerge_client::json::Words>() {
            for value in T::value_variants() {
                let word = value
                    .to_possible_value()
                    .map(|value| value.get_name().to_owned());
                assert_eq!(word, word_of((*value).into()));
            }
        }
        check::<Assignment, v1::AssignmentRule>();
        check::<Operator, v1::Operator>();
        check::<Dtype, v1::SlotDtype>();
        check::<Weighting, v1::Weighting>();
        check::<State, v1::JobState>();
    }
}
