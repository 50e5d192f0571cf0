//! The roofline picture: an SVG with memory and compute roofs and a dot for each layer.
//!
//! Written by hand: a few lines, circles and texts, with a tooltip for each dot, which plotting libraries do not make. Both axes are logarithmic. The area
//! of a dot is the layer's part of the time; red dots are below 60 % of their own roof, which knows which bytes are weights and is not one of the lines.

use std::fmt::Write;

use super::table::{bytes, cut};
use super::{GOOD_SHARE, Report, Timed, intensity};

const WIDTH: f64 = 1000.0;
/// Edges of the plot: left, right, top, bottom.
const PLOT: (f64, f64, f64, f64) = (76.0, 976.0, 56.0, 536.0);
/// How many of the layers that lose most are named.
const NAMED: usize = 8;
/// Area of all dots together, and the smallest and largest radius.
const AREA: f64 = 24_000.0;
const RADIUS: (f64, f64) = (2.5, 40.0);

/// From data to picture.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn x(&self, intensity: f64) -> f64 {
        PLOT.0 + (intensity.log2() - self.x.0) / (self.x.1 - self.x.0) * (PLOT.1 - PLOT.0)
    }

    fn y(&self, gops: f64) -> f64 {
        PLOT.3 - (gops.log10() - self.y.0) / (self.y.1 - self.y.0) * (PLOT.3 - PLOT.2)
    }

    /// That hold all dots and where the roofs meet.
    fn around(dots: &[&Timed], roofs: &[(String, f64)], slopes: &[(String, f64)]) -> Axes {
        let (mut x, mut y) = ((1.0f64, 1.0f64), (f64::MAX, 1.0f64));
        let mut extend_x = |v: f64| x = (x.0.min(v), x.1.max(v));
        for (_, peak) in roofs {
            slopes.iter().for_each(|(_, slope)| extend_x(peak / slope));
            y = (y.0.min(peak / 100.0), y.1.max(*peak));
        }
        for l in dots {
            extend_x(intensity(&l.layer.work.ops, &l.layer.traffic));
            y = (y.0.min(l.gops()), y.1.max(l.gops()));
        }
        Axes { x: (x.0.log2().floor(), x.1.log2().ceil() + 1.0), y: (y.0.log10().floor(), (y.1 * 1.5).log10()) }
    }
}

/// The picture. `title` says what was measured.
pub fn svg(title: &str, report: &Report) -> String {
    let dots: Vec<&Timed> = report.ran().filter(|l| l.gops() > 0.0 && l.layer.traffic.bytes() > 0).collect();
    let (roofs, slopes) = lines(report, &dots);
    let axes = Axes::around(&dots, &roofs, &slopes);
    let named: Vec<&Timed> = report.weak().into_iter().take(NAMED).collect();
    let height = PLOT.3 + 84.0 + 18.0 * (named.len() + 1) as f64;
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{}\" y=\"24\" font-size=\"17\">{}</text>\n",
        PLOT.0,
        escape(title)
    );
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"42\" fill=\"#666\">{} layers, {:.4} ms; area: time; red: below {:.0} % of its roof</text>",
        PLOT.0,
        report.ran().count(),
        report.sum_ms(),
        GOOD_SHARE * 100.0
    );
    grid(&mut out, &axes);
    draw_roofs(&mut out, &axes, &roofs, &slopes);
    draw_dots(&mut out, &axes, &dots, &named, report.sum_ms());
    legend(&mut out, &named, report);
    out + "</svg>\n"
}

type Lines = Vec<(String, f64)>;

/// Compute roofs in billions of operations a second, memory roofs in billions of bytes.
fn lines(report: &Report, dots: &[&Timed]) -> (Lines, Lines) {
    let r = &report.roofs;
    let mut roofs = vec![(format!("f32 {:.0} GFLOP/s", r.flops * 1e-9), r.flops * 1e-9)];
    if dots.iter().any(|l| l.layer.work.ops.dots > 0) {
        roofs.push((format!("int8 {:.0} GOP/s", r.int8_ops * 1e-9), r.int8_ops * 1e-9));
    }
    let mut sizes: Vec<u64> = r.read.first().into_iter().chain(r.read.last()).map(|p| p.0).collect();
    sizes.insert(sizes.len().min(1), report.touched);
    sizes.sort_unstable();
    sizes.dedup();
    let slope = |n: u64| {
        let rate = r.read_bandwidth(n) * 1e-9;
        (format!("{} read at {rate:.0} GB/s", bytes(n)), rate)
    };
    (roofs, sizes.into_iter().map(slope).filter(|s| s.1 > 0.0).collect())
}

fn grid(out: &mut String, axes: &Axes) {
    let (left, right, top, bottom) = PLOT;
    let _ = writeln!(out, "<g stroke=\"#e4e4e4\" fill=\"#555\">");
    for i in axes.x.0 as i32..=axes.x.1 as i32 {
        let x = axes.x(f64::from(i).exp2());
        let label = if i >= 0 { format!("{}", 1u64 << i) } else { format!("1/{}", 1u64 << -i) };
        let _ = writeln!(out, "<path d=\"M{x:.1} {top}V{bottom}\"/>");
        let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" stroke=\"none\">{label}</text>", bottom + 16.0);
    }
    for i in axes.y.0 as i32..=axes.y.1.floor() as i32 {
        let y = axes.y(10f64.powi(i));
        let _ = writeln!(out, "<path d=\"M{left} {y:.1}H{right}\"/>");
        let label = if i >= 0 { format!("{:.0}", 10f64.powi(i)) } else { format!("{}", 10f64.powi(i)) };
        let _ =
            writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" stroke=\"none\">{label}</text>", left - 6.0, y + 4.0);
    }
    let middle = (left + right) / 2.0;
    let _ = writeln!(
        out,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" stroke=\"none\">operations per byte</text>",
        bottom + 34.0
    );
    let at = (top + bottom) / 2.0;
    let _ = writeln!(
        out,
        "<text transform=\"translate(20 {at}) rotate(-90)\" text-anchor=\"middle\" stroke=\"none\">10⁹ operations per second</text>\n</g>"
    );
}

fn draw_roofs(out: &mut String, axes: &Axes, roofs: &[(String, f64)], slopes: &[(String, f64)]) {
    let top = roofs.iter().map(|r| r.1).fold(0.0, f64::max);
    let steepest = slopes.iter().map(|s| s.1).fold(f64::MIN_POSITIVE, f64::max);
    let _ = writeln!(out, "<g fill=\"none\" stroke=\"#444\" stroke-width=\"1.5\">");
    for (_, peak) in roofs {
        let (x, y) = (axes.x(peak / steepest), axes.y(*peak));
        let _ = writeln!(out, "<path d=\"M{x:.1} {y:.1}H{}\"/>", PLOT.1);
    }
    // A slope begins at the left or the lower edge, whichever it meets first.
    let begin = |slope: f64| axes.x.0.exp2().max(10f64.powf(axes.y.0) / slope);
    for (_, slope) in slopes {
        let (x0, x1) = (begin(*slope), top / slope);
        let (from, to) = ((axes.x(x0), axes.y(slope * x0)), (axes.x(x1), axes.y(top)));
        let _ = writeln!(out, "<path stroke-dasharray=\"5 3\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>", from.0, from.1, to.0, to.1);
    }
    let _ = writeln!(out, "</g>\n<g fill=\"#444\">");
    for (name, peak) in roofs {
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>", PLOT.1 - 4.0, axes.y(*peak) - 5.0);
    }
    for (i, (name, slope)) in slopes.iter().enumerate() {
        let x0 = begin(*slope);
        // One above the other, so that slopes that lie close keep their labels apart.
        let x = x0 * (top / slope / x0).powf(0.12 + 0.16 * i as f64);
        let (px, py) = (axes.x(x), axes.y(slope * x));
        let (dx, dy) = (axes.x(2.0 * x) - px, axes.y(2.0 * slope * x) - py);
        let angle = dy.atan2(dx).to_degrees();
        let _ = writeln!(out, "<text transform=\"translate({px:.1} {py:.1}) rotate({angle:.1})\" y=\"-5\">{name}</text>");
    }
    let _ = writeln!(out, "</g>");
}

fn draw_dots(out: &mut String, axes: &Axes, dots: &[&Timed], named: &[&Timed], total: f64) {
    // Large dots first, so that small ones lie on them.
    let mut order = dots.to_vec();
    order.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let (mut numbers, mut placed) = (String::new(), Vec::<(f64, f64)>::new());
    let _ = writeln!(out, "<g stroke=\"#fff\" stroke-width=\"0.7\" fill-opacity=\"0.7\">");
    for l in order {
        let (x, y) = (axes.x(intensity(&l.layer.work.ops, &l.layer.traffic)), axes.y(l.gops()));
        let radius = (AREA * l.ms / total.max(f64::MIN_POSITIVE) / std::f64::consts::PI).sqrt().clamp(RADIUS.0, RADIUS.1);
        let color = if l.share() < GOOD_SHARE { "#d0342c" } else { "#2a6fb5" };
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{color}\"><title>{}</title></circle>",
            escape(&tooltip(l))
        );
        if let Some(n) = named.iter().position(|n| std::ptr::eq(*n, l)) {
            let (mut x, y) = (x + radius * 0.7 + 2.0, y - radius * 0.7 - 1.0);
            // Beside the numbers that are there already.
            while placed.iter().any(|p| (p.0 - x).abs() < 14.0 && (p.1 - y).abs() < 12.0) {
                x += 7.0;
            }
            placed.push((x, y));
            let _ = writeln!(numbers, "<text x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", n + 1);
        }
    }
    let _ =
        writeln!(out, "</g>\n<g font-weight=\"bold\" stroke=\"#fff\" stroke-width=\"3\" paint-order=\"stroke\">\n{numbers}</g>");
}

fn tooltip(l: &Timed) -> String {
    let t = &l.layer.traffic;
    let about = if l.layer.work.exact { "" } else { "~" };
    format!(
        "{}: {}\n{:.4} ms, {about}{:.2} billion operations a second, {:.0} % of its {} roof\n{} weights, {} in, {} out, {about}{:.2} operations per byte\n{}",
        l.layer.op,
        l.layer.nodes(),
        l.ms,
        l.gops(),
        l.share() * 100.0,
        l.limit(),
        bytes(t.weights),
        bytes(t.read),
        bytes(t.written),
        intensity(&l.layer.work.ops, t),
        l.layer.kernel
    )
}

/// Names of the numbered dots, and what has no place in the plot.
fn legend(out: &mut String, named: &[&Timed], report: &Report) {
    let mut y = PLOT.3 + 62.0;
    for (i, l) in named.iter().enumerate() {
        let (share, lost) = (l.share() * 100.0, l.lost());
        let text = format!(
            "{}  {:.4} ms, {share:.0} %, {lost:.4} lost: {}, {} {}",
            i + 1,
            l.ms,
            l.layer.kernel,
            l.layer.op,
            cut(&l.layer.nodes())
        );
        let _ = writeln!(out, "<text x=\"{}\" y=\"{y}\">{}</text>", PLOT.0, escape(&text));
        y += 18.0;
    }
    let moves: Vec<&Timed> = report.ran().filter(|l| l.gops() <= 0.0).collect();
    if !moves.is_empty() {
        let ms: f64 = moves.iter().map(|l| l.ms).sum();
        let text = format!("{} layers without arithmetic, {ms:.4} ms, have no dot", moves.len());
        let _ = writeln!(out, "<text x=\"{}\" y=\"{y}\" fill=\"#666\">{text}</text>", PLOT.0);
    }
}

/// Text for XML: its special characters, and those that it cannot have, which names in a model may contain.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' | '\t' => out.push(c),
            c if (c as u32) < 0x20 || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
