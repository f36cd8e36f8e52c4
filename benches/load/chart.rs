//! A chart of bars with a dot for each measurement, as one SVG that is readable on light and on dark ground.
//!
//! Place on the map: pure; drawn for `side_by_side` and `floors`.

use maud::{Markup, PreEscaped, html};

/// Bars that share a scale.
pub(crate) struct Panel {
    /// What is shown, with its unit.
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
}

/// One bar.
pub(crate) struct Row {
    pub(crate) name: String,
    /// How long the bar is.
    pub(crate) middle: f64,
    /// Each measurement, a dot.
    pub(crate) values: Vec<f64>,
}

const WIDTH: u32 = 760;
const MARGIN: u32 = 16;
/// Where bars begin; names stand before it.
const BARS_FROM: u32 = 260;
/// The longest bar; its value stands behind it.
const BAR_MAX: u32 = 400;
const ROW: u32 = 24;
const TITLE: u32 = 34;

const STYLE: &str = "\
svg{background:#fff;font:13px system-ui,sans-serif;fill:#1f2328}\
.quiet{fill:#59636e}.a{fill:#0969da}.b{fill:#bf8700}.dot{fill:#1f2328}\
h1,.title{font-weight:600}\
@media(prefers-color-scheme:dark){svg{background:#0d1117;fill:#f0f6fc}\
.quiet{fill:#9198a1}.a{fill:#4493f8}.b{fill:#d29922}.dot{fill:#f0f6fc}}";

/// The chart as the text of a file. Rows of a panel take two colours in turn.
pub(crate) fn svg(title: &str, panels: &[Panel]) -> String {
    let heights: Vec<u32> = panels.iter().map(|panel| TITLE + ROW * panel.rows.len() as u32).collect();
    let height = 2 * MARGIN + 24 + heights.iter().sum::<u32>();
    let tops = heights.iter().scan(MARGIN + 24, |next, height| {
        let top = *next;
        *next += height;
        Some(top)
    });
    let drawn = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(WIDTH) height=(height) viewBox={ "0 0 " (WIDTH) " " (height) } role="img" {
            title { (title) }
            style { (PreEscaped(STYLE)) }
            text.title x=(MARGIN) y=(MARGIN + 10) { (title) }
            @for (panel, top) in panels.iter().zip(tops) { (draw(panel, top)) }
        }
    };
    drawn.into_string() + "\n"
}

fn draw(panel: &Panel, top: u32) -> Markup {
    let values = panel.rows.iter().flat_map(|row| row.values.iter().chain([&row.middle]));
    let longest = values.copied().filter(|value| value.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
    let length = |value: f64| (value / longest * f64::from(BAR_MAX)).clamp(0.0, f64::from(BAR_MAX));
    html! {
        text.quiet x=(MARGIN) y=(top + 22) { (panel.title) }
        @for (n, row) in (0_u32..).zip(&panel.rows) {
            @let y = top + TITLE + ROW * n;
            text x=(MARGIN) y=(y + 12) { (row.name) }
            @if row.middle.is_finite() {
                rect.a[n % 2 == 0].b[n % 2 == 1] x=(BARS_FROM) y=(y) width=(pixels(length(row.middle).max(1.0))) height="16" rx="2" {}
                @for value in row.values.iter().filter(|value| value.is_finite()) {
                    circle.dot cx=(pixels(f64::from(BARS_FROM) + length(*value))) cy=(y + 8) r="2.5" {}
                }
                text x=(BARS_FROM + BAR_MAX + 12) y=(y + 12) { (figure(row.middle)) }
            } @else {
                text.quiet x=(BARS_FROM) y=(y + 12) { "not measured" }
            }
        }
    }
}

fn pixels(length: f64) -> String {
    format!("{length:.1}")
}

/// Three digits are what such a measurement is good for.
fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => {
            let digits = format!("{value:.0}");
            let (head, tail) = digits.split_at(digits.len() - 3);
            format!("{head},{tail}")
        }
        middle if middle >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_finite_stays_out() {
        let row = |name: &str, middle| Row { name: name.into(), middle, values: vec![middle, f64::NAN, 7.0] };
        let panels = [Panel { title: "µs".into(), rows: vec![row("a<b", 3.0), row("gone", f64::NAN)] }];
        let drawn = svg("A & B", &panels);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        assert!(drawn.contains("not measured") && drawn.contains("a&lt;b") && drawn.contains("A &amp; B"));
    }

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in [(12_345.6, "12,346"), (999.4, "999"), (42.04, "42.0"), (0.254, "0.25")] {
            assert_eq!(figure(value), text);
        }
    }
}
