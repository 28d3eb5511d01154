//! Pictures as inline SVG: bars, a heat map, points in a plane. Plain text in, SVG out.

use std::fmt::Write as _;

use super::page::{color, escape};

/// A group of bars with a name: one value for each series.
pub(super) struct Bars {
    pub(super) name: String,
    pub(super) values: Vec<Option<f64>>,
}

/// Width of every picture, in its own units.
const WIDTH: f64 = 760.0;
/// Room for names on the left.
const NAMES: f64 = 150.0;

fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn svg(height: f64, content: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">\n{content}</svg>\n")
}

/// Horizontal bars from 0 to `most`, a group for each name.
pub(super) fn bars(groups: &[Bars], most: f64) -> String {
    let (thick, gap) = (9.0, 12.0);
    let mut content = String::new();
    let mut top = 4.0;
    let scale = (WIDTH - NAMES - 50.0) / if most > 0.0 { most } else { 1.0 };
    for group in groups {
        let middle = top + thick * real(group.values.len()) / 2.0 + 4.0;
        let _ = writeln!(
            content,
            "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
            NAMES - 10.0,
            escape(&group.name)
        );
        for (series, value) in group.values.iter().enumerate() {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                let width = (value * scale).max(0.5);
                let _ = writeln!(
                    content,
                    "<rect x=\"{NAMES}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{}\" \
                     rx=\"1.5\" fill=\"{}\"/><text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\">{value:.3}</text>",
                    thick - 1.5,
                    color(series),
                    NAMES + width + 5.0,
                    top + thick - 1.5,
                );
            }
            top += thick;
        }
        top += gap;
    }
    svg(top, &content)
}

/// A cell for each row and column, the darker the nearer to `most`.
pub(super) fn heat(rows: &[(String, Vec<Option<f64>>)], columns: &[String], most: f64) -> String {
    let height = 24.0;
    let width = ((WIDTH - NAMES) / real(columns.len().max(1))).min(90.0);
    let mut content = String::new();
    for (index, column) in columns.iter().enumerate() {
        let x = NAMES + width * (real(index) + 0.5);
        let _ = writeln!(
            content,
            "<text class=\"soft\" x=\"{x:.1}\" y=\"14\" text-anchor=\"middle\">{}</text>",
            escape(column)
        );
    }
    for (index, (name, values)) in rows.iter().enumerate() {
        let y = 22.0 + height * real(index);
        let _ = writeln!(
            content,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            NAMES - 10.0,
            y + 15.0,
            escape(name)
        );
        for (index, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let x = NAMES + width * real(index);
            let strength = (value / if most > 0.0 { most } else { 1.0 }).clamp(0.0, 1.0);
            let _ = writeln!(
                content,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{}\" rx=\"3\" \
                 fill=\"{}\" fill-opacity=\"{:.2}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{value:.3}</text>",
                x + 1.0,
                y,
                width - 2.0,
                height - 2.0,
                color(1),
                0.05 + 0.6 * strength,
                x + width / 2.0,
                y + 15.0,
            );
        }
    }
    svg(26.0 + height * real(rows.len()), &content)
}

/// A point of a series, with its range upwards and downwards and what it stands for.
pub(super) struct Point {
    pub(super) series: usize,
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) label: String,
}

/// Points over a logarithmic axis, from 0 to 1 or as far as they go.
pub(super) fn points(points: &[Point], across: &str, unit: impl Fn(f64) -> String) -> String {
    let (left, right, top, bottom) = (50.0, WIDTH - 20.0, 10.0, 260.0);
    let shown: Vec<&Point> = points
        .iter()
        .filter(|point| point.x > 0.0 && point.y.is_finite())
        .collect();
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    };
    let (least, most) = ends(&mut shown.iter().map(|point| point.x.ln()));
    let spread = (most - least).max(0.1);
    let (least, spread) = (least - spread * 0.06, spread * 1.12);
    let (_, highest) = ends(&mut shown.iter().map(|point| point.high));
    let ceiling = if highest > 1.0 { highest * 1.03 } else { 1.03 };
    let at_x = |value: f64| left + (right - left) * (value.ln() - least) / spread;
    let at_y = |value: f64| bottom - (bottom - top) * value / ceiling;
    let mut content = String::new();
    for fifth in 0..=5_u8 {
        let value = f64::from(fifth) / 5.0;
        let y = at_y(value);
        let _ = writeln!(
            content,
            "<line class=\"line\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}</text>",
            left - 8.0,
            y + 4.0
        );
    }
    if !shown.is_empty() {
        for third in 0..=3_u8 {
            let value = (least + spread * (0.05 + 0.3 * f64::from(third))).exp();
            let _ = writeln!(
                content,
                "<text class=\"soft\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                at_x(value),
                bottom + 16.0,
                escape(&unit(value))
            );
        }
    }
    let _ = writeln!(
        content,
        "<text class=\"soft\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        f64::midpoint(left, right),
        bottom + 34.0,
        escape(across)
    );
    for point in shown {
        let (x, y, paint) = (at_x(point.x), at_y(point.y), color(point.series));
        let _ = writeln!(
            content,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{paint}\" \
             stroke-width=\"1.5\"/><circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{paint}\">\
             <title>{}</title></circle>",
            at_y(point.low),
            at_y(point.high),
            escape(&point.label)
        );
    }
    svg(bottom + 42.0, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_missing_values_left_out() {
        let groups = [Bars {
            name: "a<b".into(),
            values: vec![Some(0.5), None, Some(f64::NAN)],
        }];
        let svg = bars(&groups, 1.0);
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN"));
        assert_eq!(svg.matches("<rect").count(), 1);
        let svg = heat(
            &[("<x>".into(), vec![None, Some(0.02)])],
            &["<c>".into()],
            0.1,
        );
        assert!(!svg.contains("<x>") && !svg.contains("<c>"));
        assert_eq!(svg.matches("<rect").count(), 1);
    }

    #[test]
    fn points_stay_inside_whatever_they_are() {
        let point = |x, y| Point {
            series: 1,
            x,
            y,
            low: y,
            high: y,
            label: "<p>".into(),
        };
        let svg = points(
            &[point(1e3, 0.5), point(0.0, 0.5), point(9.0, f64::NAN)],
            "b",
            |_| "u".into(),
        );
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<p>"));
        assert!(!points(&[], "b", |_| "u".into()).contains("NaN"));
    }
}
