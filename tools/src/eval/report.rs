//! What `eval` says: one report per model, as JSON or for people.

use brooklet::Model;
use serde::Serialize;

use super::reader::{Divergences, LIKELIEST, Reader};
use super::{Args, name};
use brooklet_quantize::score::{Mean, half_width, percentile};

/// The object that `--json` prints.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    /// Number format of its matrix states.
    state: &'static str,
    text: String,
    tokens: usize,
    scored_tokens: u64,
    scored_bytes: usize,
    nats_per_token: f64,
    perplexity: f64,
    bits_per_byte: f64,
    /// Of all models that read the text.
    seconds: f64,
    tokens_per_second: f64,
    /// The window that was asked for.
    window: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) by_position: Vec<Bucket>,
    #[serde(flatten)]
    comparison: Option<Comparison>,
}

/// The tokens after so many others.
#[derive(Serialize)]
pub(super) struct Bucket {
    /// The first position, counted from 0, and the first behind the last.
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) scored_tokens: u64,
    pub(super) nats_per_token: f64,
    pub(super) perplexity: f64,
    /// Mean distance from the reference after so many tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kl_mean: Option<f64>,
}

/// How a model stands to the reference.
#[derive(Serialize)]
struct Comparison {
    reference: String,
    reference_nats_per_token: f64,
    kl_mean: f64,
    /// Half the width of the 95 % confidence interval of `kl_mean`.
    kl_interval: f64,
    kl_p99: f64,
    kl_max: f64,
    top1_agreement: f64,
    top5_agreement: f64,
    compared_positions: usize,
}

/// What was read, and how long it took.
pub(super) struct Times {
    pub(super) tokens: usize,
    pub(super) scored_bytes: usize,
    pub(super) seconds: f64,
}

impl Report {
    /// `against` is the reference's name and nats per token.
    pub(super) fn new(
        args: &Args,
        times: &Times,
        (name_of_model, model): (String, &Model),
        (reader, divergences): (&Reader, Divergences),
        against: Option<&(String, f64)>,
    ) -> Report {
        let nats = reader.nats;
        let by_position = if args.by_position || args.csv.is_some() || args.svg.is_some() {
            let kl = |i: usize| Some(divergences.by_position.get(i)?.mean());
            let buckets = reader.by_position.iter().enumerate();
            buckets.map(|(i, nats)| Bucket::new(i, nats, kl(i))).collect()
        } else {
            Vec::new()
        };
        Report {
            model: name_of_model,
            state: model.state_layout().dtype().name(),
            text: name(&args.text),
            tokens: times.tokens,
            scored_tokens: nats.count,
            scored_bytes: times.scored_bytes,
            nats_per_token: nats.mean(),
            perplexity: nats.mean().exp(),
            bits_per_byte: nats.sum / std::f64::consts::LN_2 / times.scored_bytes as f64,
            seconds: times.seconds,
            tokens_per_second: times.tokens as f64 / times.seconds,
            window: model.state_layout().window(),
            by_position,
            comparison: against.map(|(name, nats)| Comparison::new(divergences, name, *nats)),
        }
    }
}

impl Bucket {
    /// That of the positions from 2ⁱ on.
    fn new(i: usize, nats: &Mean, kl_mean: Option<f64>) -> Bucket {
        let (from, to) = (1 << i, 2 << i);
        let (scored_tokens, nats_per_token) = (nats.count, nats.mean());
        let perplexity = nats_per_token.exp();
        Bucket { from, to, scored_tokens, nats_per_token, perplexity, kl_mean }
    }
}

impl Comparison {
    fn new(divergences: Divergences, reference: &str, reference_nats_per_token: f64) -> Comparison {
        let Divergences { mut nats, agreed, shared, .. } = divergences;
        let positions = nats.len();
        let kl_interval = half_width(&nats);
        nats.sort_by(f64::total_cmp);
        Comparison {
            reference: reference.to_owned(),
            reference_nats_per_token,
            kl_mean: nats.iter().sum::<f64>() / positions as f64,
            kl_interval,
            kl_p99: percentile(&nats, 99.0),
            kl_max: percentile(&nats, 100.0),
            top1_agreement: agreed as f64 / positions as f64,
            top5_agreement: shared as f64 / (LIKELIEST * positions) as f64,
            compared_positions: positions,
        }
    }
}

/// The reports for people: one at length, several as lines of a table.
pub(super) fn text(reports: &[Report], by_position: bool) -> String {
    match reports {
        [report] => table(report, by_position),
        reports => lines(reports),
    }
}

/// A line per model.
fn lines(reports: &[Report]) -> String {
    let width = reports.iter().map(|report| report.model.chars().count()).max().unwrap_or(0);
    let first = &reports[0];
    let mut text = format!("on {}: {} tokens scored", first.text, first.scored_tokens);
    if let Some(comparison) = &first.comparison {
        text += &format!(
            ", against {} with {:.4} nats/token",
            comparison.reference, comparison.reference_nats_per_token
        );
    }
    text += &format!("\n{:<width$}  nats/token  perplexity", "");
    if first.comparison.is_some() {
        text += "    mean KL  ± 95 %       p99 KL   top-1 %  top-5 %";
    }
    text.push('\n');
    for report in reports {
        text += &format!(
            "{:<width$} {:>11.4} {:>11.3}",
            report.model, report.nats_per_token, report.perplexity
        );
        if let Some(comparison) = &report.comparison {
            text += &format!(
                " {:>10.6} {:>8.6} {:>12.6} {:>9.2} {:>8.2}",
                comparison.kl_mean,
                comparison.kl_interval,
                comparison.kl_p99,
                100.0 * comparison.top1_agreement,
                100.0 * comparison.top5_agreement
            );
        }
        text.push('\n');
    }
    text
}

/// One report.
fn table(report: &Report, by_position: bool) -> String {
    let mut text = format!(
        "{} with {} states on {}: {} tokens scored, {} bytes, {:.0} tokens/s\n",
        report.model,
        report.state,
        report.text,
        report.scored_tokens,
        report.scored_bytes,
        report.tokens_per_second
    );
    text += &format!("nats per token   {:>9.4}\n", report.nats_per_token);
    text += &format!("perplexity       {:>9.3}\n", report.perplexity);
    text += &format!("bits per byte    {:>9.4}\n", report.bits_per_byte);
    if by_position {
        let kl = if report.comparison.is_some() { "     mean KL" } else { "" };
        text += &format!("by position        perplexity{kl}\n");
        for bucket in &report.by_position {
            let positions = format!("{}-{}", bucket.from, bucket.to - 1);
            let kl = bucket.kl_mean.map(|kl| format!(" {kl:>11.6}")).unwrap_or_default();
            text += &format!("{positions:<16} {:>12.3}{kl}\n", bucket.perplexity);
        }
    }
    if let Some(comparison) = &report.comparison {
        text += &format!(
            "against {}, {} positions:\n",
            comparison.reference, comparison.compared_positions
        );
        text += &format!("its nats/token   {:>9.4}\n", comparison.reference_nats_per_token);
        text += &format!(
            "mean KL          {:>9.6} ± {:.6} nats (95 %)\n",
            comparison.kl_mean, comparison.kl_interval
        );
        text += &format!("99th percentile  {:>9.6} nats\n", comparison.kl_p99);
        text += &format!("top-1 agreement  {:>8.2} %\n", 100.0 * comparison.top1_agreement);
        text += &format!("top-5 agreement  {:>8.2} %\n", 100.0 * comparison.top5_agreement);
    }
    text
}
