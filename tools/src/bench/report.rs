//! The report of `bench`: rates, their meaning in bytes and multiplications, and their share of the
//! machine's limits.
//!
//! The JSON object and the table for people say the same. Not here: measuring. Test:
//! `tests/cli/bench.rs`.

use std::path::Path;
use std::time::Duration;

use brooklet::Model;
use brooklet_formats::DType;
use brooklet_formats::brk::TensorInfo;
use serde::Serialize;

use super::device::{DeviceLimits, tops};
use super::limits::Limits;
use super::measure::{Plan, Rate, Rates};
use crate::inspect::touched_per_token;
use crate::memory::Resident;
use crate::units;

/// The object that `--json` prints. Figures that were not asked for, or have no limit on this
/// instruction set, are null.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    model: String,
    architecture: String,
    device: String,
    /// Of the processor.
    isa: &'static str,
    threads: usize,
    chunk: usize,
    sequences: usize,
    prompt: usize,
    decode: usize,
    depth: usize,
    repeat: usize,
    /// Medians, tokens per second; decoding counts all sequences together.
    prefill_tps: Option<f64>,
    decode_tps: Option<f64>,
    prefill_tps_all: Vec<f64>,
    decode_tps_all: Vec<f64>,
    /// Bytes of weights, twice the states, and keys and values per decoding step, over its time.
    decode_gbps: Option<f64>,
    read_limit_gbps: Option<f64>,
    decode_of_limit: Option<f64>,
    /// Multiply-adds of all matrices but the head, over the prompt's time.
    prefill_gmacs: Option<f64>,
    /// Of the instruction that most of the weights are multiplied with.
    mac_limit_gmacs: Option<f64>,
    prefill_of_limit: Option<f64>,
    /// Share of weights that decoding left out because their input was zero.
    skipped_share: f64,
    /// A processor's or a card's.
    limits: DeviceLimits,
    weights_mb: f64,
    state_mb: f64,
    /// Keys and values that a step of one sequence reads, in the middle of those decoded.
    attended_mb: f64,
    /// Number format of the matrix states.
    state: &'static str,
    file_mb: f64,
    /// Pages of the mapped file included.
    peak_rss_mb: f64,
    /// Without the file's pages, at the end.
    private_mb: Option<f64>,
    /// Share of the resident bytes that huge pages map, at the end.
    huge_share: Option<f64>,
    /// The card's memory: weights, buffers, the states of all sequences.
    card_mb: Option<f64>,
    /// Opening the file.
    open_ms: f64,
    /// From the start of opening to the logits after one token.
    first_token_ms: f64,
}

/// The plan that was run, and observations on the way.
pub(super) struct Setting<'a> {
    pub(super) path: &'a Path,
    pub(super) plan: Plan,
    pub(super) threads: usize,
    pub(super) chunk: usize,
    pub(super) open: Duration,
    pub(super) first_token: Duration,
    /// Resident bytes at most.
    pub(super) peak: u64,
    /// At the end.
    pub(super) resident: Option<Resident>,
    /// Bytes of the card's memory.
    pub(super) card: Option<u64>,
}

/// The cost of one token.
struct Cost {
    /// Bytes of tensors that a step reads.
    weight_bytes: u64,
    state_bytes: u64,
    /// Bytes of keys and values that a token leaves for all that follow.
    token_bytes: u64,
    /// Multiply-adds per token of a prompt.
    macs: u64,
    /// The format of most of them.
    dtype: DType,
}

impl Cost {
    fn of(model: &Model) -> Cost {
        let tensors = model.file().tensors();
        let body = |tensor: &&TensorInfo| {
            tensor.is_matrix() && tensor.name != "head" && tensor.name != "embed"
        };
        let macs = |wanted: Option<DType>| -> u64 {
            let counted =
                tensors.iter().filter(body).filter(|t| wanted.is_none_or(|dtype| dtype == t.dtype));
            counted.map(TensorInfo::n_elements).sum()
        };
        Cost {
            weight_bytes: touched_per_token(tensors),
            state_bytes: model.state_layout().bytes() as u64,
            token_bytes: model.state_layout().bytes_per_token() as u64,
            macs: macs(None),
            dtype: DType::ALL
                .into_iter()
                .max_by_key(|dtype| macs(Some(*dtype)))
                .unwrap_or(DType::F32),
        }
    }
}

impl Report {
    /// Puts the figures together.
    pub(super) fn new(
        model: &Model,
        setting: &Setting<'_>,
        rates: Rates,
        limits: DeviceLimits,
    ) -> Report {
        let cost = Cost::of(model);
        let Plan { prompt, decode, depth, sequences, repeat } = setting.plan;
        let median = |rate: &Option<Rate>| rate.as_ref().map(|rate| rate.median);
        let (prefill_tps, decode_tps) = (median(&rates.prefill), median(&rates.decode));
        let attended = (depth as f64 + decode as f64 / 2.0) * cost.token_bytes as f64;
        let sequence_bytes = 2.0 * cost.state_bytes as f64 + attended;
        let step_bytes = cost.weight_bytes as f64 + sequence_bytes * sequences as f64;
        let decode_gbps = decode_tps.map(|tps| tps / sequences as f64 * step_bytes / 1e9);
        let prefill_gmacs = prefill_tps.map(|tps| tps * cost.macs as f64 / 1e9);
        let mac_limit_gmacs = limits.gmacs(cost.dtype);
        let all = |rate: Option<Rate>| rate.map_or(Vec::new(), |rate| rate.all);
        Report {
            model: setting
                .path
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            architecture: model.meta().architecture.clone(),
            device: model.device().to_string(),
            isa: model.isa().name(),
            threads: setting.threads,
            chunk: setting.chunk,
            sequences,
            prompt,
            decode,
            depth,
            repeat,
            prefill_tps,
            decode_tps,
            prefill_tps_all: all(rates.prefill),
            decode_tps_all: all(rates.decode),
            decode_gbps,
            read_limit_gbps: limits.read_gbps(),
            decode_of_limit: decode_gbps.zip(limits.read_gbps()).map(|(gbps, limit)| gbps / limit),
            prefill_gmacs,
            mac_limit_gmacs,
            prefill_of_limit: prefill_gmacs
                .zip(mac_limit_gmacs)
                .map(|(gmacs, limit)| gmacs / limit),
            skipped_share: 0.0,
            limits,
            weights_mb: mb(cost.weight_bytes),
            state_mb: mb(cost.state_bytes),
            attended_mb: attended / 1e6,
            state: model.state_layout().dtype().name(),
            file_mb: mb(model.file().file_len()),
            peak_rss_mb: mb(setting.peak),
            private_mb: setting.resident.map(|resident| mb(resident.private)),
            huge_share: setting.resident.map(|resident| resident.huge),
            card_mb: setting.card.map(mb),
            open_ms: ms(setting.open),
            first_token_ms: ms(setting.first_token),
        }
    }

    /// The report for people.
    pub(super) fn table(&self) -> String {
        let is_card = matches!(self.limits, DeviceLimits::Card(_));
        let place = match is_card {
            true => self.device.clone(),
            false => format!("{}, {}", self.isa, threads(self.threads)),
        };
        let Report { model, architecture, chunk, .. } = self;
        let mut lines = vec![format!("{model}: {architecture}, {place}, chunk {chunk}")];
        let of = |share: Option<f64>, limit: Option<f64>, unit: &str| match (share, limit) {
            (Some(share), Some(limit)) => format!(", {:.0} % of {limit:.1} {unit}", 100.0 * share),
            _ => String::new(),
        };
        if let (Some(tps), Some(gmacs)) = (self.prefill_tps, self.prefill_gmacs) {
            let (rate, limit, unit) = match is_card {
                true => (tops(gmacs), self.mac_limit_gmacs.map(tops), "TOP/s"),
                false => (gmacs, self.mac_limit_gmacs, "GMAC/s"),
            };
            let of = of(self.prefill_of_limit, limit, unit);
            lines.push(format!(
                "prefill {:<6} {tps:>9.1} tokens/s   {rate:.1} {unit}{of}",
                self.prompt
            ));
        }
        if let (Some(tps), Some(gbps)) = (self.decode_tps, self.decode_gbps) {
            let of = of(self.decode_of_limit, self.read_limit_gbps, "GB/s");
            lines.push(format!(
                "decode  {:<6} {tps:>9.1} tokens/s   {gbps:.1} GB/s{of}",
                self.decode
            ));
            let times =
                if self.sequences == 1 { String::new() } else { format!(" × {}", self.sequences) };
            let attended = match (self.attended_mb * 1e6) as u64 {
                0 => String::new(),
                bytes => format!(" and {} of keys and values{times}", units::bytes(bytes)),
            };
            lines.push(format!(
                "a step reads   {:>9} of weights, 2 × {} of {} state{times}{attended}",
                units::bytes((self.weights_mb * 1e6) as u64),
                units::bytes((self.state_mb * 1e6) as u64),
                self.state
            ));
        }
        let peak = units::bytes((self.peak_rss_mb * 1e6) as u64);
        let pages = match (self.private_mb, self.huge_share) {
            (Some(mb), Some(share)) => {
                format!(" ({mb:.1} MB not of the file; {:.0} % in huge pages)", 100.0 * share)
            }
            _ => String::new(),
        };
        lines.push(format!("peak memory    {peak:>9}, file {:.1} MB{pages}", self.file_mb));
        if let Some(mb) = self.card_mb {
            let bytes = units::bytes((mb * 1e6) as u64);
            lines.push(format!("of the card    {bytes:>9} of memory"));
        }
        lines.push(format!("open           {:>9.2} ms", self.open_ms));
        lines.push(format!("first token    {:>9.2} ms", self.first_token_ms));
        lines.join("\n") + "\n"
    }
}

/// The machine's limits, for people.
pub(super) fn limits_table(isa: &str, all: &[Limits]) -> String {
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
    let mut text = format!(
        "{isa:<12} {:>12} {:>14} {:>14} {:>14}\n",
        "read GB/s", "int8 GMAC/s", "bf16 GMAC/s", "f32 GMAC/s"
    );
    for limits in all {
        let Limits { read_gbps, int8_gmacs, bf16_gmacs, f32_gmacs, .. } = *limits;
        let [int8, bf16, f32] = [int8_gmacs, bf16_gmacs, f32_gmacs].map(rate);
        text += &format!(
            "{:<12} {read_gbps:>12.1} {int8:>14} {bf16:>14} {f32:>14}\n",
            threads(limits.threads)
        );
    }
    text
}

fn threads(n: usize) -> String {
    format!("{n} thread{}", if n == 1 { "" } else { "s" })
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
