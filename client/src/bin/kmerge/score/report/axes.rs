//! Points and lines over a logarithmic axis, as inline SVG.

use std::fmt::Write as _;

use super::charts::{WIDTH, real, svg};
use super::page::{color, escape};

/// Edges of the plane.
const LEFT: f64 = 50.0;
const RIGHT: f64 = WIDTH - 20.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 290.0;
/// Room for a number under the axis.
const NUMBER: f64 = 66.0;
/// How far series stand beside each other, that their ranges are not hidden.
const BESIDE: f64 = 3.5;

/// A point of a series, with its range upwards and downwards and what it stands for.
pub(super) struct Point {
    pub(super) series: usize,
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) label: String,
}

/// Where values are.
struct Plane {
    least: f64,
    spread: f64,
    ceiling: f64,
    /// The middle of the series, which stands where its values are.
    middle: f64,
}

impl Plane {
    fn of(points: &[&Point]) -> Self {
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        };
        let (least, most) = ends(&mut points.iter().map(|point| point.x.ln()));
        let spread = (most - least).max(0.1);
        let (_, highest) = ends(&mut points.iter().map(|point| point.high));
        let (first, last) = ends(&mut points.iter().map(|point| real(point.series)));
        Self {
            least: least - spread * 0.06,
            spread: spread * 1.12,
            ceiling: if highest > 1.0 { highest * 1.03 } else { 1.03 },
            middle: f64::midpoint(first, last),
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (value.ln() - self.least) / self.spread
    }

    fn x_of(&self, point: &Point) -> f64 {
        self.x(point.x) + BESIDE * (real(point.series) - self.middle)
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * value / self.ceiling
    }
}

/// Points, those of a series joined in the order of x. Upwards from 0 to 1, or as far as they go.
pub(super) fn points(points: &[Point], across: &str, unit: impl Fn(f64) -> String) -> String {
    let mut shown: Vec<&Point> = points
        .iter()
        .filter(|point| point.x > 0.0 && point.y.is_finite())
        .collect();
    shown.sort_by(|a, b| a.series.cmp(&b.series).then(a.x.total_cmp(&b.x)));
    let plane = Plane::of(&shown);
    let mut content = scales(&plane, &shown, across, unit);
    for line in shown.chunk_by(|a, b| a.series == b.series) {
        let way: Vec<String> = line
            .iter()
            .map(|point| format!("{:.1},{:.1}", plane.x_of(point), plane.y(point.y)))
            .collect();
        let paint = line.first().map_or_else(String::new, |p| color(p.series));
        let _ = writeln!(
            content,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{paint}\" stroke-opacity=\"0.5\" \
             stroke-width=\"1.5\"/>",
            way.join(" ")
        );
    }
    for point in shown {
        let (x, y, paint) = (plane.x_of(point), plane.y(point.y), color(point.series));
        let _ = writeln!(
            content,
            "<g><title>{}</title><line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" \
             stroke=\"{paint}\" stroke-width=\"1.5\"/><circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" \
             fill=\"{paint}\"/></g>",
            escape(&point.label),
            plane.y(point.low),
            plane.y(point.high),
        );
    }
    svg(BOTTOM + 42.0, &content)
}

/// Lines for every fifth, and numbers where points are, as far as there is room.
fn scales(plane: &Plane, shown: &[&Point], across: &str, unit: impl Fn(f64) -> String) -> String {
    let mut content = String::new();
    for fifth in 0..=5_u8 {
        let value = f64::from(fifth) / 5.0;
        let y = plane.y(value);
        let _ = writeln!(
            content,
            "<line class=\"line\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}</text>",
            LEFT - 8.0,
            y + 4.0
        );
    }
    let mut values: Vec<f64> = shown.iter().map(|point| point.x).collect();
    values.sort_by(f64::total_cmp);
    let mut last = f64::NEG_INFINITY;
    for value in values {
        let x = plane.x(value);
        if x < last + NUMBER {
            continue;
        }
        last = x;
        let _ = writeln!(
            content,
            "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{BOTTOM}\" y2=\"{}\"/>\
             <text class=\"soft\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            BOTTOM + 4.0,
            BOTTOM + 17.0,
            escape(&unit(value))
        );
    }
    let _ = writeln!(
        content,
        "<text class=\"soft\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 35.0,
        escape(across)
    );
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(series: usize, x: f64, y: f64) -> Point {
        Point {
            series,
            x,
            y,
            low: y,
            high: y,
            label: "<p>".into(),
        }
    }

    #[test]
    fn points_stay_inside_whatever_they_are() {
        let nasty = [
            point(1, 1e3, 0.5),
            point(1, 0.0, 0.5),
            point(1, 9.0, f64::NAN),
        ];
        let svg = points(&nasty, "b", |_| "u".into());
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<p>"));
        let svg = points(&[], "b", |_| "u".into());
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_series_is_one_line_and_numbers_keep_apart() {
        let all = [
            point(2, 4e6, 0.9),
            point(1, 1e6, 0.5),
            point(2, 1e6, 0.7),
            point(2, 1.01e6, 0.7),
        ];
        let svg = points(&all, "b", |value| format!("<{value:.0}>"));
        assert_eq!(svg.matches("<polyline").count(), 2);
        let numbers = ["&lt;1000000&gt;", "&lt;1010000&gt;", "&lt;4000000&gt;"];
        let counts = numbers.map(|number| svg.matches(number).count());
        assert_eq!(counts, [1, 0, 1]);
    }
}
