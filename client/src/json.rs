//! Any message of the contract as JSON, generically, from the contract's own descriptors.
//!
//! | proto | JSON |
//! |---|---|
//! | field | its snake_case name; every field is there, a default value too |
//! | absent message, optional or oneof field | `null` |
//! | integer | a number, 64-bit ones too |
//! | enum | its word in lower case without the prefix (`ASSIGNMENT_OPENED` → `"opened"`); unspecified → `null`; a value newer than this client → its number |
//! | `…_PLUS_PLUS` | `"…++"` |
//! | Timestamp | RFC 3339 |
//! | NaN, infinity | `null` |
//! | bytes | lowercase hexadecimal (no answer has any but an export's data) |

use std::sync::LazyLock;

use crate::hex::hex;
use kmerge_proto::v1;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, MapKey, ReflectMessage as _,
    Value,
};
use serde_json::{Map, Value as Json};

static CONTRACT: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(kmerge_proto::FILE_DESCRIPTOR_SET)
        .expect("the contract's descriptors were compiled together with this program")
});

const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// A message of `kmerge.v1`, which has a name in the contract.
pub trait Described: Message {
    /// Its full name.
    const FULL_NAME: &'static str;
}

macro_rules! described {
    ($($message:ident)*) => {
        $(impl Described for v1::$message {
            const FULL_NAME: &'static str = concat!("kmerge.v1.", stringify!($message));
        })*

        #[cfg(test)]
        const DESCRIBED: &[&str] = &[$(concat!("kmerge.v1.", stringify!($message))),*];
    };
}

described! {
    Adapter BackupContents BaseModel Change Damage Decision DiskUsage EmptiedSlot ExportFile ExportHeader Fidelity
    GetStatusResponse Job JobError Member MemberCost MergePolicy RecoveryReport ResolveTaskResponse
    Runtime RuntimeAdapter RuntimeSummary RuntimeTrouble ScrubState Slot Scrubbed SlotChange SlotSimilarity
    UploadAdapterResponse WatchSlotsResponse
}

/// A message as JSON.
#[must_use]
pub fn message<M: Described>(message: &M) -> Json {
    let descriptor = CONTRACT
        .get_message_by_name(M::FULL_NAME)
        .expect("the message is one of the contract's");
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("a message that was encoded can be decoded");
    object(&dynamic)
}

/// Messages as a JSON array.
#[must_use]
pub fn messages<'a, M: Described + 'a>(items: impl IntoIterator<Item = &'a M>) -> Json {
    Json::Array(items.into_iter().map(message).collect())
}

fn object(message: &DynamicMessage) -> Json {
    let descriptor = message.descriptor();
    let fields = descriptor.fields().map(|field| {
        let absent = field.supports_presence() && !message.has_field(&field);
        let value = if absent {
            Json::Null
        } else {
            value(&message.get_field(&field), &field)
        };
        (field.name().to_owned(), value)
    });
    Json::Object(fields.collect::<Map<_, _>>())
}

fn value(value: &Value, field: &FieldDescriptor) -> Json {
    if let Value::List(items) = value {
        return Json::Array(items.iter().map(|item| single(item, field)).collect());
    }
    if let Value::Map(entries) = value {
        let kind = field.kind();
        let item = kind
            .as_message()
            .and_then(|entry| entry.get_field_by_name("value"));
        let item = item.as_ref().unwrap_or(field);
        let entries = entries
            .iter()
            .map(|(key, value)| (map_key(key), single(value, item)));
        return Json::Object(entries.collect());
    }
    single(value, field)
}

fn single(value: &Value, field: &FieldDescriptor) -> Json {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::I32(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        Value::F32(value) => f64::from(*value).into(),
        Value::F64(value) => (*value).into(),
        Value::String(value) => value.as_str().into(),
        Value::Bytes(value) => hex(value).into(),
        Value::EnumNumber(number) => match field.kind().as_enum() {
            Some(descriptor) => word(descriptor, *number),
            None => (*number).into(),
        },
        Value::Message(message) if message.descriptor().full_name() == TIMESTAMP => time(message),
        Value::Message(message) => object(message),
        // Lists and maps do not nest.
        Value::List(_) | Value::Map(_) => Json::Null,
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn time(message: &DynamicMessage) -> Json {
    match message.transcode_to::<prost_types::Timestamp>() {
        Ok(timestamp) => timestamp.to_string().into(),
        Err(_) => Json::Null,
    }
}

fn word(descriptor: &EnumDescriptor, number: i32) -> Json {
    match descriptor.get_value(number) {
        Some(_) if number == 0 => Json::Null,
        Some(value) => enum_word(descriptor.name(), value.name()).into(),
        None => number.into(),
    }
}

/// An enum value's word: `ASSIGNMENT_RULE_KMERGE_PLUS_PLUS` of `AssignmentRule` is `kmerge++`.
fn enum_word(enum_name: &str, value_name: &str) -> String {
    let mut prefix = String::new();
    for letter in enum_name.chars() {
        if letter.is_ascii_uppercase() && !prefix.is_empty() {
            prefix.push('_');
        }
        prefix.push(letter.to_ascii_uppercase());
    }
    prefix.push('_');
    let word = value_name
        .strip_prefix(&prefix)
        .unwrap_or(value_name)
        .to_ascii_lowercase();
    match word.strip_suffix("_plus_plus") {
        Some(stem) => format!("{stem}++"),
        None => word.replace('_', "-"),
    }
}

/// The word of an enum value in the contract: what [`message`] writes for it. `None` for
/// unspecified and for values that this client does not know.
#[must_use]
pub fn word_of<E: Words>(value: E) -> Option<String> {
    let descriptor = CONTRACT.get_enum_by_name(E::FULL_NAME)?;
    word(&descriptor, value.into()).as_str().map(str::to_owned)
}

/// An enum of the contract.
pub trait Words: Into<i32> {
    /// Its full name.
    const FULL_NAME: &'static str;
}

macro_rules! words {
    ($($name:ident)*) => {
        $(impl Words for v1::$name {
            const FULL_NAME: &'static str = concat!("kmerge.v1.", stringify!($name));
        })*
    };
}

words! {
    AdapterFormat Assignment AssignmentRule Dtype JobKind JobStage JobState Operator
    RuntimeCondition SlotDtype Weighting
}

#[cfg(test)]
mod tests;
