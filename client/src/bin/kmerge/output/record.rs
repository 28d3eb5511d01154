//! One thing's facts: a name and a value a line.

use owo_colors::OwoColorize as _;

use super::table::Table;

/// Facts under way.
#[derive(Debug)]
pub(crate) struct Record {
    table: Table,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            table: Table::pairs(),
        }
    }

    /// Adds a fact.
    pub(crate) fn fact(mut self, name: &str, value: impl Into<String>) -> Self {
        self.table.row([name.dimmed().to_string(), value.into()]);
        self
    }

    /// Adds a fact if there is one.
    pub(crate) fn maybe(self, name: &str, value: Option<String>) -> Self {
        match value {
            Some(value) => self.fact(name, value),
            None => self,
        }
    }

    /// Adds facts in their order.
    pub(crate) fn facts<const N: usize>(self, facts: [(&str, Option<String>); N]) -> Self {
        facts
            .into_iter()
            .fold(self, |record, (name, value)| record.maybe(name, value))
    }

    pub(crate) fn render(self) -> String {
        self.table.render()
    }
}
