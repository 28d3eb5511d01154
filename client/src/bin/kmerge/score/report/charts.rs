//! Pictures as inline SVG: what all have in common, and bars. Plain text in, SVG out.

use std::fmt::Write as _;

use super::page::{color, escape};

/// A group of bars with a name: one value for each series.
pub(super) struct Bars {
    pub(super) name: String,
    pub(super) values: Vec<Option<f64>>,
}

/// Width of every picture, in its own units.
pub(super) const WIDTH: f64 = 760.0;
/// Room for names on the left.
pub(super) const NAMES: f64 = 150.0;

/// A count to calculate with.
pub(super) fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A picture of a height.
pub(super) fn svg(height: f64, content: &str) -> String {
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
    }
}
