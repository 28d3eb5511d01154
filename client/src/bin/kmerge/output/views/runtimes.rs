//! What people see of runtimes.

use std::time::SystemTime;

use kmerge_client::v1;
use owo_colors::OwoColorize as _;

use crate::output::record::Record;
use crate::output::table::{Column, Table};
use crate::output::text;

/// The most of a failure's words in a table.
const NOTE: usize = 60;

/// The runtimes.
pub(crate) fn runtimes(runtimes: &[v1::Runtime], now: SystemTime) -> String {
    if runtimes.is_empty() {
        return "no runtime is configured".into();
    }
    let mut table = Table::new(&[
        Column::Left("RUNTIME"),
        Column::Left("KIND"),
        Column::Left("BASE"),
        Column::Left("STATE"),
        Column::Right("ADAPTERS"),
        Column::Right("DRAINING"),
        Column::Left("ANSWERED"),
        Column::Left("NOTE"),
    ]);
    for runtime in runtimes {
        table.row([
            runtime.name.bold().to_string(),
            runtime.kind.clone(),
            runtime.base_model.clone(),
            condition(runtime.condition()),
            format!("{}/{}", up_to_date(runtime), runtime.adapters.len()),
            runtime.draining.len().to_string(),
            text::ago(runtime.answer_time.as_ref(), now),
            text::shorten(&note(runtime), NOTE),
        ]);
    }
    table.render()
}

/// One runtime with its adapters.
pub(crate) fn runtime(runtime: &v1::Runtime, now: SystemTime) -> String {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let facts = Record::new()
        .fact(
            "runtime",
            format!("{} ({})", runtime.name.bold(), runtime.kind),
        )
        .maybe("address", some(&runtime.address))
        .fact("base", &runtime.base_model)
        .fact("state", condition(runtime.condition()))
        .fact("answered", text::ago(runtime.answer_time.as_ref(), now))
        .fact("directory", &runtime.directory)
        .maybe("draining", some(&runtime.draining.join("\n")))
        .maybe("note", some(&note(runtime)))
        .render();
    if runtime.adapters.is_empty() {
        return facts;
    }
    let mut table = Table::new(&[
        Column::Left("ALIAS"),
        Column::Left("TASKS"),
        Column::Right("SLOT"),
        Column::Right("GENERATION"),
        Column::Left("SERVES"),
        Column::Left("NOTE"),
    ]);
    for adapter in &runtime.adapters {
        let trouble = adapter.trouble.as_ref();
        table.row([
            adapter.alias.bold().to_string(),
            text::shorten(&adapter.tasks.join(" "), NOTE),
            adapter.slot.to_string(),
            adapter.generation.to_string(),
            if adapter.serving.is_empty() {
                "-".to_owned()
            } else {
                adapter.serving.clone()
            },
            trouble.map_or_else(String::new, |trouble| text::shorten(&trouble.message, NOTE)),
        ]);
    }
    format!("{facts}\n{}", table.render())
}

/// One change of a runtime, as a line.
pub(crate) fn runtime_change(runtime: &v1::Runtime) -> String {
    let serving: Vec<_> = runtime
        .adapters
        .iter()
        .map(|adapter| adapter.serving.as_str())
        .filter(|name| !name.is_empty())
        .collect();
    let mut parts = vec![
        runtime.name.bold().to_string(),
        condition(runtime.condition()),
        format!("{}/{}", up_to_date(runtime), runtime.adapters.len()),
        serving.join(" "),
        note(runtime).dimmed().to_string(),
    ];
    parts.retain(|part| !anstream::adapter::strip_str(part).to_string().is_empty());
    parts.join(" ")
}

/// The runtimes in `kmerge status`, a line each.
pub(crate) fn runtime_summaries(summaries: &[v1::RuntimeSummary]) -> Option<String> {
    let line = |summary: &v1::RuntimeSummary| {
        let counted = format!("{} of {} up to date", summary.up_to_date, summary.adapters);
        let mut line = format!(
            "{} ({}): {}, {counted}",
            summary.name,
            summary.kind,
            condition(summary.condition())
        );
        if !summary.message.is_empty() {
            line = format!("{line}; {}", summary.message);
        }
        line
    };
    let lines: Vec<_> = summaries.iter().map(line).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn up_to_date(runtime: &v1::Runtime) -> usize {
    let newest = |adapter: &&v1::RuntimeAdapter| adapter.serving == adapter.name;
    runtime.adapters.iter().filter(newest).count()
}

/// What is in the way, or left out.
fn note(runtime: &v1::Runtime) -> String {
    let trouble = runtime.trouble.as_ref();
    let mut notes: Vec<_> = trouble
        .map(|trouble| trouble.message.clone())
        .into_iter()
        .collect();
    if runtime.left_out > 0 {
        notes.push(format!("{} beyond max_adapters", runtime.left_out));
    }
    notes.join("; ")
}

fn condition(condition: v1::RuntimeCondition) -> String {
    let word = super::word(condition);
    match condition {
        v1::RuntimeCondition::Ready => word.green().to_string(),
        v1::RuntimeCondition::Troubled | v1::RuntimeCondition::Unreachable => {
            word.red().to_string()
        }
        v1::RuntimeCondition::Unspecified
        | v1::RuntimeCondition::Starting
        | v1::RuntimeCondition::Working => word.yellow().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu() -> v1::Runtime {
        let adapter = |alias: &str, generation: u64, serving: &str| v1::RuntimeAdapter {
            alias: alias.into(),
            tasks: vec![alias.trim_start_matches("tiny-").into()],
            slot: 1,
            generation,
            name: format!("{alias}.g{generation}.0123abcd"),
            serving: serving.into(),
            trouble: serving.is_empty().then(|| v1::RuntimeTrouble {
                message: "answered 500: rank 64 is greater than max_lora_rank 16".into(),
                failures: 2,
                ..v1::RuntimeTrouble::default()
            }),
        };
        let mail = adapter("tiny-mail", 2, "tiny-mail.g2.0123abcd");
        let notes = adapter("tiny-notes", 3, "");
        v1::Runtime {
            name: "gpu".into(),
            kind: "vllm".into(),
            address: "http://127.0.0.1:8000".into(),
            base_model: "tiny".into(),
            condition: v1::RuntimeCondition::Troubled.into(),
            trouble: notes.trouble.clone(),
            adapters: vec![mail, notes],
            draining: vec!["tiny-mail.g1.4567cdef".into()],
            left_out: 3,
            directory: "/var/lib/kmerge/runtimes/gpu".into(),
            ..v1::Runtime::default()
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn runtimes_as_a_table_and_one_by_one() {
        let hook = v1::Runtime {
            name: "hook".into(),
            kind: "exec".into(),
            base_model: "tiny".into(),
            condition: v1::RuntimeCondition::Ready.into(),
            ..v1::Runtime::default()
        };
        let now = SystemTime::UNIX_EPOCH;
        let all = [
            runtimes(&[gpu(), hook.clone()], now),
            runtime(&gpu(), now),
            runtime(&hook, now),
            runtime_change(&gpu()),
            runtimes(&[], now),
        ];
        insta::assert_snapshot!(plain(&all.join("\n")));
    }
}
