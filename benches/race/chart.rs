//! The report as a picture: an SVG with bars for wall time, CPU time and peak memory, and whiskers for the spread.
//!
//! It brings its own background, dark where the reader's system is: an image knows nothing of the page around it.

use std::fmt::Write;

use crate::report::{Measure, Report, Row, Spread};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
const LABELS: f64 = 150.0;
const GAP: f64 = 28.0;
/// Behind the longest bar, for its number.
const NUMBER: f64 = 62.0;
const TOP: f64 = 112.0;
const ROW: f64 = 38.0;
const BAR: f64 = 20.0;
const BOTTOM: f64 = 72.0;

const STYLE: &str = "
text { font: 14px system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 } .head { font-weight: 600 } .ours { font-weight: 600 }
.small { font-size: 12px; fill: #59636e } .failed { fill: #b3261e }
.page { fill: #ffffff; stroke: #d1d9e0 } .axis { stroke: #818b98 } .other { fill: #a8b3bf } .rope { fill: #1a7f5a }
.whisker { stroke: #1f2328; stroke-width: 1.5; fill: none } .ideal { stroke: #9a6700; stroke-width: 1.5; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .small { fill: #9ea7b3 } .failed { fill: #ff8a80 }
.page { fill: #0d1117; stroke: #3d444d } .axis { stroke: #656c76 } .other { fill: #5d6773 } .rope { fill: #2ea67a }
.whisker { stroke: #f0f6fc } .ideal { stroke: #e3b341 }
}
";

/// Draws the report.
pub(crate) fn svg(report: &Report<'_>) -> String {
    let height = TOP + ROW * report.rows.len() as f64 + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-labelledby=\"title\">\n<title id=\"title\">{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n",
        escape(&report.heading),
        WIDTH - 1.0,
        height - 1.0
    );
    text(&mut svg, (MARGIN, 34.0), "title", &report.heading);
    text(&mut svg, (MARGIN, 56.0), "small", &format!("{}. Less is better.", report.args.how()));
    for (at, row) in report.rows.iter().enumerate() {
        let class = if is_ours(row) { "ours" } else { "" };
        text(&mut svg, (MARGIN, middle(at) + 5.0), class, &row.label);
        if row.wall.is_some() && !row.flawless() {
            text(&mut svg, (MARGIN, middle(at) + 18.0), "small failed", &row.failures());
        }
    }
    let ideal = (report.args.rate > 0.0).then(|| report.args.ideal());
    let panels: [Panel; 3] = [
        Panel { head: "wall time, s", digits: 2, of: |row| row.wall, ideal },
        Panel { head: "CPU time, s per GiB", digits: 2, of: |row| row.cpu, ideal: None },
        Panel { head: "peak memory, MiB", digits: 0, of: |row| row.peak_mib, ideal: None },
    ];
    let width = (WIDTH - 2.0 * MARGIN - LABELS - 2.0 * GAP) / panels.len() as f64;
    for (at, panel) in panels.iter().enumerate() {
        panel.draw(&mut svg, &report.rows, (MARGIN + LABELS + (width + GAP) * at as f64, width));
    }
    // The failed have nothing to draw but that they did.
    for (at, row) in report.rows.iter().enumerate().filter(|(_, row)| row.wall.is_none()) {
        text(&mut svg, (MARGIN + LABELS + 8.0, middle(at) + 5.0), "failed", &row.failures());
    }
    text(&mut svg, (MARGIN, height - 22.0), "small", &report.machine.describe());
    svg + "</svg>\n"
}

/// One measure, a bar for each client.
struct Panel {
    head: &'static str,
    digits: usize,
    of: Measure,
    /// What would be possible.
    ideal: Option<f64>,
}

impl Panel {
    fn draw(&self, svg: &mut String, rows: &[Row], (left, width): (f64, f64)) {
        let spreads = rows.iter().filter_map(self.of);
        let most = spreads.map(|spread| spread.high).chain(self.ideal).fold(f64::MIN_POSITIVE, f64::max);
        let x = |value: f64| left + value / most * (width - NUMBER);
        text(svg, (left, TOP - 14.0), "head", self.head);
        let bottom = TOP + ROW * rows.len() as f64;
        add(svg, format_args!("<path class=\"axis\" d=\"M{left:.1} {TOP}V{bottom:.1}\"/>\n"));
        for (at, row) in rows.iter().enumerate() {
            let Some(Spread { median, low, high }) = (self.of)(row) else { continue };
            let (y, class) = (middle(at), if is_ours(row) { "rope" } else { "other" });
            let (top, length) = (y - BAR / 2.0, x(median) - left);
            add(
                svg,
                format_args!(
                    "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{BAR}\"/>\n"
                ),
            );
            // A shorter one is but a blot.
            if x(high) - x(low) > 3.0 {
                let (from, to, up, down) = (x(low), x(high), y - 4.0, y + 4.0);
                add(
                    svg,
                    format_args!(
                        "<path class=\"whisker\" d=\"M{from:.1} {y}H{to:.1}M{from:.1} {up}V{down}M{to:.1} {up}V{down}\"/>\n"
                    ),
                );
            }
            let number = format!("{median:.*}", self.digits);
            text(svg, (x(high.max(median)) + 8.0, y + 5.0), if is_ours(row) { "ours" } else { "" }, &number);
        }
        if let Some(ideal) = self.ideal {
            let at = x(ideal);
            let end = TOP + ROW * rows.iter().filter(|row| row.wall.is_some()).count() as f64;
            add(svg, format_args!("<path class=\"ideal\" d=\"M{at:.1} {TOP}V{end:.1}\"/>\n"));
            text(svg, (left, bottom + 18.0), "small", &format!("dashed: the link alone, {ideal:.2} s"));
        }
    }
}

fn is_ours(row: &Row) -> bool {
    row.label.starts_with("ropewalk")
}

/// The middle of a row.
fn middle(at: usize) -> f64 {
    TOP + ROW * (at as f64 + 0.5)
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, text: &str) {
    add(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>\n", escape(text)));
}

fn add(svg: &mut String, what: std::fmt::Arguments<'_>) {
    svg.write_fmt(what).expect("a String takes all");
}

/// What names and words may hold, as XML takes it.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            // XML has no way to write these.
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
