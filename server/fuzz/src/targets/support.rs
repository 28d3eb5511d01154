//! What several targets need: the base model, splitting an input, and what holds of any adapter
//! that was accepted.

use std::sync::LazyLock;

use kmerge_merge::{
    AdapterError, AdapterLayout, AdapterView, AssignmentRule, BaseModel, Operator, Policy,
    SlotDtype, TensorSource, check_values, decode, decode_slot, execute, export_config, plan,
};

/// A small Llama, the base model of every adapter: 4 layers, hidden 12, 3 heads of 4 and one
/// key-value head, intermediate 20.
pub(crate) const BASE: &str = r#"{"architectures":["LlamaForCausalLM"],"hidden_size":12,"intermediate_size":20,"num_hidden_layers":4,"num_attention_heads":3,"num_key_value_heads":1,"_name_or_path":"tiny"}"#;

/// The same, read.
pub(crate) fn base() -> &'static BaseModel {
    static READ: LazyLock<BaseModel> = LazyLock::new(|| {
        BaseModel::from_config_json(BASE.as_bytes()).expect("the base model is a good one")
    });
    &READ
}

/// Largest adapter that is merged and written again; larger ones would only be slower.
const MERGED_BYTES: u64 = 1 << 14;

/// Text up to the first NUL, which no JSON text has, and the bytes behind it.
pub(crate) fn split(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|&byte| byte == 0) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}

/// What holds of every refusal: a person can read it.
pub(crate) fn refused(error: &AdapterError) {
    let message = error.to_string();
    assert!(
        !message.is_empty() && message.len() < 2048 && !message.contains(char::is_control),
        "an error that nobody can read: {message:?}"
    );
    let reason = error.reason();
    assert!(
        !reason.is_empty()
            && reason
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    );
    let _ = (error.kind(), error.field());
}

/// What holds of every layout: its factors lie in the file, as long as their shapes say, and apart.
pub(crate) fn layout(layout: &AdapterLayout, file: u64) {
    let mut ranges = Vec::new();
    for module in &layout.modules {
        assert!(module.rank > 0 && module.in_features > 0 && module.out_features > 0);
        assert!(module.scaling.is_finite());
        for (range, rows, columns) in [
            (&module.a, module.rank, module.in_features),
            (&module.b, module.out_features, module.rank),
        ] {
            let elements = rows.checked_mul(columns).expect("a shape overflows");
            let bytes = elements.checked_mul(range.dtype.size_bytes());
            assert_eq!(bytes.map(|bytes| bytes as u64), Some(range.bytes));
            let end = range
                .offset
                .checked_add(range.bytes)
                .expect("a range overflows");
            assert!(end <= file, "a factor ends behind the file");
            ranges.push((range.offset, end));
        }
    }
    ranges.sort_unstable();
    assert!(
        ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "factors overlap"
    );
}

/// Merges an adapter into a slot of its own if its values are good ones, and holds that the slot is
/// read again as it was written, alone and as the PEFT adapter that it is. Gives the slot.
pub(crate) fn merged(view: AdapterView<'_>, base: &BaseModel) -> Option<(AdapterLayout, Vec<u8>)> {
    if view.layout.tensor_bytes() > MERGED_BYTES || check_values(view).is_err() {
        return None;
    }
    let policy = Policy {
        slots: 1,
        max_bytes: None,
        assignment: AssignmentRule::KMerge,
        operator: Operator::KMergeLinear,
        dtype: SlotDtype::Widest,
        ..Policy::default()
    };
    let plan = plan(&policy, &[], view, &|_| ()).ok()?;
    let mut slot = Vec::new();
    // Values may not fit once they are scaled.
    let outcome = execute(&plan, &[], view, &mut slot, &|_| ()).ok()?;
    assert_eq!(slot.len() as u64, plan.bytes, "a plan lies");
    let read = decode_slot(&slot).expect("a slot that was written is read");
    assert_eq!(read, outcome.layout);
    layout(&read, TensorSource::len(&slot));
    let config = export_config(&read, "tiny");
    let decoded = decode(&config, &slot, base).expect("an export is read");
    assert_eq!(decoded.layout.modules.len(), read.modules.len());
    for (decoded, read) in decoded.layout.modules.iter().zip(&read.modules) {
        assert_eq!(
            (&decoded.path, decoded.rank, decoded.scaling),
            (&read.path, read.rank, 1.0)
        );
        assert_eq!((decoded.a, decoded.b), (read.a, read.b));
    }
    Some((read, slot))
}

/// The bytes of a factor.
pub(crate) fn bytes_of<'a>(file: &'a [u8], range: &kmerge_merge::TensorRange) -> &'a [u8] {
    let start = usize::try_from(range.offset).expect("checked before");
    let length = usize::try_from(range.bytes).expect("checked before");
    &file[start..start + length]
}
