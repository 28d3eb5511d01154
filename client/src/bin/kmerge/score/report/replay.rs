//! The page of `replay`: S against bytes, how alike the adapters are, who went where, all figures.

use super::axes::{self, Point};
use super::{grid, page};
use crate::commands::replay::membership::Membership;
use crate::commands::replay::summary::Row;
use crate::output::text;
use crate::score::compare::Similarities;

/// Everything that the page shows.
pub(crate) struct Replayed<'a> {
    pub(crate) folder: &'a str,
    pub(crate) rows: &'a [Row],
    pub(crate) alike: Option<&'a Similarities>,
    pub(crate) memberships: &'a [Membership],
}

/// The page of `replay`.
pub(crate) fn replays(replayed: &Replayed<'_>) -> String {
    let rows = replayed.rows;
    let mut operators: Vec<&str> = Vec::new();
    for row in rows {
        if !operators.contains(&row.operator.as_str()) {
            operators.push(&row.operator);
        }
    }
    let series = |name: &str| {
        let of = operators.iter().position(|known| *known == name);
        1 + of.unwrap_or(0)
    };
    let legend = page::legend(operators.iter().map(|name| (series(name), *name)));
    let mut body = String::new();
    for (figure, heading) in ["S loss", "S exact match", "S accuracy"]
        .into_iter()
        .zip([1, 2, 0])
        .map(|(heading, figure)| (figure, heading))
    {
        let points: Vec<Point> = rows
            .iter()
            .filter_map(|row| {
                let spread = row.kept.as_ref()?[figure];
                Some(Point {
                    series: series(&row.operator),
                    x: row.stored.mean,
                    y: spread.mean,
                    low: spread.least,
                    high: spread.most,
                    label: format!("{}, K = {}, {}", row.operator, row.slots, spread.text()),
                })
            })
            .collect();
        if !points.is_empty() {
            let chart = axes::points(&points, "bytes of all slots together", size);
            body += &page::section(heading, &format!("{legend}{chart}"));
        }
    }
    body += &replayed.alike.map_or_else(String::new, similarities);
    if !replayed.memberships.is_empty() {
        let charts = replayed.memberships.iter().map(membership);
        let said = "The number and the colour are the slot; × is a task that was refused. \
                    Numbers are given as slots are opened, so they differ between orders.";
        let content = page::paragraph(said) + &charts.collect::<String>();
        body += &page::section("Which task went to which slot", &content);
    }
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells().into()).collect();
    body += &page::section("All combinations", &page::table(&Row::HEAD, &cells));
    let introduction = format!(
        "{}: means over orders of arrival; a line goes from the least to the most",
        replayed.folder
    );
    page::page("Operators and sizes compared", &introduction, &body)
}

/// Tasks against tasks. An adapter against itself is left out, so that the rest has the colours.
fn similarities(alike: &Similarities) -> String {
    let rows: Vec<(String, Vec<Option<f64>>)> = (0..)
        .zip(&alike.tasks)
        .zip(&alike.values)
        .map(|((row, task), values)| {
            let others = (0..).zip(values);
            let others = others.map(|(column, value)| (row != column).then_some(*value));
            (task.clone(), others.collect())
        })
        .collect();
    let all = rows.iter().flat_map(|(_, values)| values.iter().flatten());
    let most = all.copied().fold(0.0, f64::max);
    let heading = "Similarity of the adapters, as they were trained";
    page::section(heading, &grid::heat(&rows, &alike.tasks, most))
}

/// A row for each order, a column for each task.
fn membership(membership: &Membership) -> String {
    let columns: Vec<String> = membership.orders.first().map_or_else(Vec::new, |order| {
        let tasks = order.tasks.iter().map(|arrival| arrival.task.clone());
        tasks.collect()
    });
    let rows: Vec<(String, Vec<grid::Cell>)> = membership
        .orders
        .iter()
        .map(|order| {
            let cells = order.tasks.iter().map(|arrival| {
                let went = match arrival.slot {
                    Some(slot) => format!("went to slot {slot}"),
                    None => "was refused".to_owned(),
                };
                grid::Cell {
                    text: arrival
                        .slot
                        .map_or_else(|| "×".to_owned(), |slot| slot.to_string()),
                    title: format!("{}, arrival {}, {went}", arrival.task, arrival.place),
                    series: arrival.slot.and_then(|slot| usize::try_from(slot).ok()),
                }
            });
            (order.order.clone(), cells.collect())
        })
        .collect();
    let mut html = page::caption(&membership.combinations);
    html += &grid::labels(&rows, &columns);
    html
}

/// A number of bytes on an axis.
fn size(bytes: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an axis shows whole bytes, and casts saturate"
    )]
    text::bytes(bytes as u64)
}
