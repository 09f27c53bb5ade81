//! Scores by position, as comma-separated values and as a drawing.

use std::fmt::Write as _;
use std::path::Path;

use brooklet_formats::atomic::{AtomicFile, Kind, NO_INPUTS, Target};

use super::Args;
use super::report::Report;
use crate::failure::Result;

const CSV: Kind = Kind { name: ".csv", magic: b"model,from,to," };
const SVG: Kind = Kind { name: ".svg", magic: b"<svg " };

/// Width and height of the drawing, and what its axes leave of it.
const SIZE: (f64, f64) = (760.0, 420.0);
const LEFT: f64 = 80.0;
const RIGHT: f64 = 740.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 370.0;

/// Colours of the lines, told apart by most eyes (Okabe and Ito 2008).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// The files that were asked for.
pub(super) struct Targets {
    csv: Option<Target>,
    svg: Option<Target>,
}

impl Targets {
    /// Fails where one could not be written.
    pub(super) fn check(args: &Args) -> Result<Targets> {
        let target = |path: &Option<_>, kind: Kind| -> Result<Option<Target>> {
            let target = path.as_deref().map(|path: &Path| Target::new(path, kind, NO_INPUTS));
            let target = target.map(|target| target.force(args.force));
            target.iter().try_for_each(Target::check)?;
            Ok(target)
        };
        Ok(Targets { csv: target(&args.csv, CSV)?, svg: target(&args.svg, SVG)? })
    }

    /// Writes them.
    pub(super) fn write(&self, reports: &[Report]) -> Result {
        for (target, text) in [(&self.csv, csv(reports)), (&self.svg, svg(reports))] {
            if let Some(target) = target {
                let mut file = AtomicFile::create(target)?;
                file.write(text.as_bytes())?;
                file.publish(&[])?;
            }
        }
        Ok(())
    }
}

/// A line per model and bucket.
fn csv(reports: &[Report]) -> String {
    let mut text = String::from("model,from,to,scored_tokens,nats_per_token,perplexity,kl_mean\n");
    for report in reports {
        let model = report.model.replace('"', "\"\"");
        for bucket in &report.by_position {
            let kl = bucket.kl_mean.map(|kl| kl.to_string()).unwrap_or_default();
            let _ = writeln!(
                text,
                "\"{model}\",{},{},{},{},{},{kl}",
                bucket.from,
                bucket.to,
                bucket.scored_tokens,
                bucket.nats_per_token,
                bucket.perplexity
            );
        }
    }
    text
}

/// A line through the buckets of each model: positions and values on logarithmic axes.
fn svg(reports: &[Report]) -> String {
    let is_kl = reports.iter().flat_map(|r| &r.by_position).any(|b| b.kl_mean.is_some());
    let lines: Vec<Vec<(f64, f64)>> = reports
        .iter()
        .map(|report| {
            let points = report.by_position.iter().map(|bucket| {
                let value = if is_kl { bucket.kl_mean.unwrap_or(0.0) } else { bucket.perplexity };
                (bucket.from as f64, value)
            });
            points.filter(|(_, value)| *value > 0.0 && value.is_finite()).collect()
        })
        .collect();
    let all = || lines.iter().flatten();
    let largest = all().map(|p| p.0).fold(2.0, f64::max).log2();
    // Whole powers of ten around the values.
    let low = all().map(|p| p.1).fold(f64::INFINITY, f64::min).log10().floor();
    let high = all().map(|p| p.1).fold(0.0, f64::max).log10().ceil();
    let (low, high) = if low.is_finite() { (low, high.max(low + 1.0)) } else { (0.0, 1.0) };
    let x = |position: f64| LEFT + (RIGHT - LEFT) * position.log2() / largest;
    let y = |value: f64| BOTTOM - (BOTTOM - TOP) * (value.log10() - low) / (high - low);

    let (width, height) = SIZE;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for power in low as i32..=high as i32 {
        let (value, at) = (10f64.powi(power), y(10f64.powi(power)));
        let _ = writeln!(
            text,
            "<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#ccc\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    for power in 0..=largest as i32 {
        let position = 2f64.powi(power);
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{position}</text>",
            x(position),
            BOTTOM + 18.0
        );
    }
    let what = if is_kl { "mean KL, nats" } else { "perplexity" };
    let _ = writeln!(
        text,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">tokens read before</text>\n\
         <text transform=\"translate(16 {:.1})rotate(-90)\" text-anchor=\"middle\">{what}</text>",
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 38.0,
        (TOP + BOTTOM) / 2.0
    );
    for (i, (report, points)) in reports.iter().zip(&lines).enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|(p, v)| format!("{:.1} {:.1}", x(*p), y(*v))).collect();
        if !path.is_empty() {
            let _ = writeln!(
                text,
                "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join("L")
            );
        }
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" text-anchor=\"end\">{}</text>",
            RIGHT - 4.0,
            TOP + 14.0 + 16.0 * i as f64,
            escaped(&report.model)
        );
    }
    text + "</svg>\n"
}

/// A name as text of an element.
fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
