//! Pictures of rows and columns as inline SVG: a heat map, and cells with a label and a colour.

use std::fmt::Write as _;

use super::charts::{NAMES, WIDTH, real, svg};
use super::page::{color, escape};
use crate::output::text::shorten;

/// Height of a row.
const ROW: f64 = 24.0;
/// About the width of a letter.
const LETTER: f64 = 6.2;
/// The narrowest column that a figure of three digits fits into.
const FIGURE: f64 = 34.0;
/// Characters of a name that are shown.
const SHOWN: usize = 21;

/// A cell with a colour.
pub(super) struct Cell {
    pub(super) text: String,
    /// What is told to who points at it.
    pub(super) title: String,
    /// The number of its colour; none: no colour.
    pub(super) series: Option<usize>,
}

/// Where everything is: as wide as columns fit, names turned where they would not.
struct Frame {
    left: f64,
    column: f64,
    top: f64,
    turned: bool,
}

impl Frame {
    fn new(columns: &[String]) -> Self {
        let letters = |name: &String| name.chars().count().min(SHOWN);
        let longest = LETTER * real(columns.iter().map(letters).max().unwrap_or(0));
        let column = ((WIDTH - NAMES) / real(columns.len().max(1))).min(90.0);
        let turned = longest + 4.0 > column;
        let top = if turned { longest * 0.58 + 16.0 } else { 22.0 };
        Self {
            left: NAMES,
            column,
            top,
            turned,
        }
    }

    /// The left edge of a column and the upper one of a row.
    fn at(&self, row: usize, column: usize) -> (f64, f64) {
        let x = self.left + self.column * real(column);
        (x, self.top + ROW * real(row))
    }

    fn heads(&self, columns: &[String]) -> String {
        let mut content = String::new();
        for (index, column) in columns.iter().enumerate() {
            let x = self.left + self.column * (real(index) + 0.5);
            let y = self.top - 8.0;
            let place = if self.turned {
                format!("transform=\"translate({x:.1} {y:.1}) rotate(-35)\"")
            } else {
                format!("x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\"")
            };
            let name = escape(&shorten(column, SHOWN));
            let _ = writeln!(content, "<text class=\"soft\" {place}>{name}</text>");
        }
        content
    }

    fn name(&self, row: usize, name: &str) -> String {
        let (x, y) = self.at(row, 0);
        format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            x - 10.0,
            y + 15.0,
            escape(&shorten(name, SHOWN))
        )
    }

    /// A coloured cell; `text` and `title` are plain.
    fn cell(&self, (row, column): (usize, usize), fill: &str, text: &str, title: &str) -> String {
        let (x, y) = self.at(row, column);
        format!(
            "<g><title>{}</title><rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" \
             rx=\"3\" {fill}/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text></g>\n",
            escape(title),
            x + 1.0,
            (self.column - 2.0).max(1.0),
            ROW - 2.0,
            x + self.column / 2.0,
            y + 15.0,
            escape(text),
        )
    }

    fn height(&self, rows: usize) -> f64 {
        self.top + ROW * real(rows) + 4.0
    }
}

/// A cell for each row and column, the darker the nearer to `most`.
pub(super) fn heat(rows: &[(String, Vec<Option<f64>>)], columns: &[String], most: f64) -> String {
    let frame = Frame::new(columns);
    let mut content = frame.heads(columns);
    for (row, (name, values)) in rows.iter().enumerate() {
        content += &frame.name(row, name);
        for (column, value) in values.iter().enumerate() {
            let Some(value) = value.filter(|value| value.is_finite()) else {
                continue;
            };
            let strength = (value / if most > 0.0 { most } else { 1.0 }).clamp(0.0, 1.0);
            let opacity = 0.05 + 0.6 * strength;
            let fill = format!("fill=\"{}\" fill-opacity=\"{opacity:.2}\"", color(1));
            let figure = format!("{value:.3}");
            let shown = if frame.column < FIGURE { "" } else { &figure };
            let other = columns.get(column).map_or("", String::as_str);
            let title = format!("{name}, {other}: {value:.4}");
            content += &frame.cell((row, column), &fill, shown, &title);
        }
    }
    svg(frame.height(rows.len()), &content)
}

/// A label for each row and column.
pub(super) fn labels(rows: &[(String, Vec<Cell>)], columns: &[String]) -> String {
    let frame = Frame::new(columns);
    let mut content = frame.heads(columns);
    for (row, (name, cells)) in rows.iter().enumerate() {
        content += &frame.name(row, name);
        for (column, cell) in cells.iter().enumerate() {
            let fill = match cell.series {
                Some(series) => format!("fill=\"{}\" fill-opacity=\"0.45\"", color(series + 1)),
                None => "fill=\"none\" class=\"line\"".to_owned(),
            };
            content += &frame.cell((row, column), &fill, &cell.text, &cell.title);
        }
    }
    svg(frame.height(rows.len()), &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_missing_values_left_out() {
        let rows = [("<x>".into(), vec![None, Some(0.02), Some(f64::NAN)])];
        let columns = ["<c>".into(), "<d>".into(), "<e>".into()];
        let svg = heat(&rows, &columns, 0.1);
        for name in ["<x>", "<c>", "<d>", "<e>", "NaN"] {
            assert!(!svg.contains(name), "{name}");
        }
        assert_eq!(svg.matches("<rect").count(), 1);
        assert!(svg.contains(">0.020<"));
    }

    #[test]
    fn names_turn_where_they_do_not_fit_and_figures_go_where_they_do_not() {
        let columns = |count: usize| vec!["correction-de".to_owned(); count];
        let row = |count| [("row".to_owned(), vec![Some(0.5); count])];
        assert!(!heat(&row(2), &columns(2), 1.0).contains("rotate"));
        let svg = heat(&row(8), &columns(8), 1.0);
        assert!(svg.contains("rotate") && svg.contains(">0.500<"));
        let svg = heat(&row(40), &columns(40), 1.0);
        assert!(!svg.contains(">0.500<") && svg.contains("correction-de: 0.5000"));
    }

    #[test]
    fn labels_have_the_colours_of_their_series() {
        let cell = |text: &str, series| Cell {
            text: text.into(),
            title: "<t>".into(),
            series,
        };
        let cells = vec![cell("0", Some(0)), cell("1", Some(1)), cell("×", None)];
        let columns = ["a".into(), "b".into(), "c".into()];
        let svg = labels(&[("shuffle 1".into(), cells)], &columns);
        assert!(svg.contains("var(--c1)") && svg.contains("var(--c2)"));
        assert_eq!(svg.matches("fill=\"none\"").count(), 1);
        assert!(!svg.contains("<t>") && svg.contains("&lt;t&gt;"));
    }
}
