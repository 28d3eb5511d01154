//! Tables without borders: a dim header, columns apart by two spaces, numbers to the right.
//!
//! On a terminal long cells wrap to its width; in a pipe every row is one line.

use std::io::IsTerminal as _;

use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};
use owo_colors::OwoColorize as _;

/// The narrowest terminal, in columns, that cells are wrapped for. Below it, and where a terminal
/// does not tell its width, wrapping makes a table worse.
const NARROWEST: u16 = 40;

/// A table under way.
#[derive(Debug)]
pub(crate) struct Table {
    grid: Grid,
}

/// A column's title, and to which side its cells go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) => title,
        }
    }

    fn alignment(self) -> CellAlignment {
        match self {
            Self::Left(_) => CellAlignment::Left,
            Self::Right(_) => CellAlignment::Right,
        }
    }
}

impl Table {
    /// An empty table with a header.
    pub(crate) fn new(columns: &[Column]) -> Self {
        let mut table = Self::bare();
        table
            .grid
            .set_header(columns.iter().map(|column| match column.title() {
                // Styled, an empty title would leave space at the end of its line.
                "" => String::new(),
                title => title.dimmed().to_string(),
            }));
        table.align(columns.iter().map(|column| column.alignment()));
        table
    }

    /// An empty table of names and values, without a header.
    pub(crate) fn pairs() -> Self {
        Self::bare()
    }

    fn bare() -> Self {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        let wraps = std::io::stdout().is_terminal() && !cfg!(test);
        if wraps && grid.width().is_some_and(|width| width >= NARROWEST) {
            grid.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            grid.force_no_tty();
        }
        Self { grid }
    }

    fn align(&mut self, alignments: impl Iterator<Item = CellAlignment>) {
        for (column, alignment) in self.grid.column_iter_mut().zip(alignments) {
            column.set_cell_alignment(alignment);
        }
    }

    /// Adds a row: one cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.grid.add_row(cells);
    }

    /// The table as text, a line for each row, without space at the ends of lines.
    pub(crate) fn render(mut self) -> String {
        for column in self.grid.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines = self
            .grid
            .lines()
            .map(|line| line.trim_end().to_owned() + "\n");
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_right_and_styles_take_no_room() {
        let mut table = Table::new(&[
            Column::Left("TASK"),
            Column::Right("SIZE"),
            Column::Left("STATE"),
        ]);
        table.row(["slug-en".into(), "9".into(), "done".green().to_string()]);
        table.row(["a".into(), "1000".into(), "failed".red().to_string()]);
        let plain = anstream::adapter::strip_str(&table.render()).to_string();
        assert_eq!(
            plain,
            "TASK     SIZE  STATE\n\
             slug-en     9  done\n\
             a        1000  failed\n"
        );
    }
}
