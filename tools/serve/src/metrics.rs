//! Counters, as Prometheus reads them.
//!
//! Text format 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Nothing in
//! it tells what was asked. Test: `tests/serve/openai.rs`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bounds of the histograms, in seconds.
const BOUNDS: [f64; 12] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 10.0, 60.0];

/// Durations, counted by size.
#[derive(Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    pub(crate) fn add(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut sum = 0;
        for (count, bound) in self.counts.iter().zip(BOUNDS) {
            sum += count.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        sum += self.counts[BOUNDS.len()].load(Ordering::Relaxed);
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {sum}");
        let _ = writeln!(out, "{name}_sum {seconds}\n{name}_count {sum}");
    }
}

/// What a server has done.
#[derive(Default)]
pub(crate) struct Metrics {
    /// By what was asked and the answer's status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    pub(crate) read: AtomicU64,
    pub(crate) replayed: AtomicU64,
    pub(crate) reused: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) passes: AtomicU64,
    pub(crate) guesses: AtomicU64,
    pub(crate) right: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) running: AtomicUsize,
    pub(crate) waiting: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    pub(crate) cache_bytes: AtomicUsize,
    pub(crate) state_bytes: AtomicUsize,
    pub(crate) first: Histogram,
    pub(crate) gap: Histogram,
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn answered(&self, what: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((what, status)).or_default() += 1;
    }

    /// All of them as text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::from(
            "# HELP brooklet_requests_total Answers, by what was asked and their status.\n\
             # TYPE brooklet_requests_total counter\n",
        );
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((what, status), count) in requests.iter() {
            let labels = format!("{{path=\"{what}\",status=\"{status}\"}}");
            let _ = writeln!(out, "brooklet_requests_total{labels} {count}");
        }
        drop(requests);
        let counters = [
            ("prompt_tokens_total", "Tokens of prompts that were computed.", &self.read),
            ("prompt_tokens_replayed_total", "Of those, known ones.", &self.replayed),
            ("prompt_tokens_cached_total", "Tokens that a kept state had read.", &self.reused),
            ("generated_tokens_total", "Tokens written.", &self.written),
            ("passes_total", "Forward passes.", &self.passes),
            (
                "guessed_tokens_total",
                "Tokens that were guessed (--lookup, --draft).",
                &self.guesses,
            ),
            ("guessed_tokens_right_total", "Of those, the ones that were right.", &self.right),
            ("cancelled_total", "Requests whose client left or did not read.", &self.cancelled),
        ];
        for (name, help, counter) in counters {
            let value = counter.load(Ordering::Relaxed);
            let head = format!("# HELP brooklet_{name} {help}\n# TYPE brooklet_{name} counter");
            let _ = writeln!(out, "{head}\nbrooklet_{name} {value}");
        }
        let gauges = [
            ("texts_running", "Texts in the passes.", &self.running),
            ("texts_waiting", "Texts that wait for room.", &self.waiting),
            ("connections", "Open connections.", &self.connections),
            ("prefix_cache_bytes", "Memory of the prefix caches.", &self.cache_bytes),
            ("states_bytes", "Memory of kept states.", &self.state_bytes),
        ];
        for (name, help, gauge) in gauges {
            let value = gauge.load(Ordering::Relaxed);
            let head = format!("# HELP brooklet_{name} {help}\n# TYPE brooklet_{name} gauge");
            let _ = writeln!(out, "{head}\nbrooklet_{name} {value}");
        }
        let help = "From a request's arrival to its first token.";
        self.first.write(&mut out, "brooklet_first_token_seconds", help);
        self.gap.write(&mut out, "brooklet_token_gap_seconds", "Between two tokens of a text.");
        out
    }
}

/// Unix time, in seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
