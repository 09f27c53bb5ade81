//! The limits of the device that a model runs on: this processor's (`limits`), or a card's.
//!
//! A card's kernels and clock are the engine's (`brooklet::bench::CardProbe`); medians are here.
//! Test: `tests/cli/bench.rs`, and beside the kernels on a card.

#[cfg(feature = "cuda")]
use brooklet::bench::CardProbe;
use brooklet::{Device, Isa};
use brooklet_formats::DType;
use serde::Serialize;

use super::limits::{Limits, Probe};
#[cfg(feature = "cuda")]
use super::measure::median;
use crate::failure::Result;

/// Readings of a card at a time, each of a millisecond or two.
#[cfg(feature = "cuda")]
const READINGS: usize = 5;

/// Medians of a card's. `None` where it has no memory for the buffer, or no such instruction.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct CardLimits {
    /// Bytes read from its memory, GB/s.
    pub(super) read_gbps: Option<f64>,
    /// Products of 8-bit integers on tensor cores, 10^12 operations per second; a multiply-add is
    /// two.
    pub(super) int8_tops: Option<f64>,
}

/// Limits of where a model runs.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum DeviceLimits {
    Processor(Limits),
    #[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))]
    Card(CardLimits),
}

impl DeviceLimits {
    /// Bytes read from memory, GB/s.
    pub(super) fn read_gbps(&self) -> Option<f64> {
        match self {
            DeviceLimits::Processor(limits) => Some(limits.read_gbps),
            DeviceLimits::Card(limits) => limits.read_gbps,
        }
    }

    /// Multiply-adds of the instruction that weights of this format are multiplied with, billions
    /// per second.
    pub(super) fn gmacs(&self, dtype: DType) -> Option<f64> {
        let is_int8 =
            matches!(dtype, DType::Int8 | DType::Int4V1 | DType::Int4 | DType::Int5 | DType::Int6);
        match self {
            DeviceLimits::Card(limits) => {
                limits.int8_tops.filter(|_| is_int8).map(|tops| tops * 1e3 / 2.0)
            }
            DeviceLimits::Processor(limits) if is_int8 => limits.int8_gmacs,
            DeviceLimits::Processor(limits) => match dtype {
                DType::F16 | DType::F32 => limits.f32_gmacs,
                _ => limits.bf16_gmacs.or(limits.f32_gmacs),
            },
        }
    }
}

/// Takes readings of a device.
pub(super) enum DeviceProbe {
    Processor(Probe),
    #[cfg(feature = "cuda")]
    Card(CardReadings),
}

impl DeviceProbe {
    /// A probe of `device`; of a processor with this instruction set and so many threads.
    ///
    /// # Errors
    /// There is no memory, or no such card.
    pub(super) fn new(device: Device, isa: Isa, threads: usize) -> Result<DeviceProbe> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(number) => Ok(DeviceProbe::Card(CardReadings::new(number)?)),
            _ => Ok(DeviceProbe::Processor(Probe::new(isa, threads)?)),
        }
    }

    /// Takes readings of everything.
    ///
    /// # Errors
    /// The card failed.
    pub(super) fn take(&mut self) -> Result {
        match self {
            DeviceProbe::Processor(probe) => probe.take(),
            #[cfg(feature = "cuda")]
            DeviceProbe::Card(readings) => readings.take()?,
        }
        Ok(())
    }

    /// The medians so far.
    pub(super) fn limits(&self) -> DeviceLimits {
        match self {
            DeviceProbe::Processor(probe) => DeviceLimits::Processor(probe.limits()),
            #[cfg(feature = "cuda")]
            DeviceProbe::Card(readings) => DeviceLimits::Card(readings.limits()),
        }
    }
}

/// Readings of a card: bytes, operations per second.
#[cfg(feature = "cuda")]
pub(super) struct CardReadings {
    probe: CardProbe,
    read: Vec<f64>,
    int8: Vec<f64>,
}

#[cfg(feature = "cuda")]
impl CardReadings {
    fn new(number: usize) -> Result<CardReadings> {
        let probe = CardProbe::new(number)?;
        Ok(CardReadings { probe, read: Vec::new(), int8: Vec::new() })
    }

    fn take(&mut self) -> Result {
        for _ in 0..READINGS {
            self.read.extend(self.probe.read()?);
            self.int8.extend(self.probe.multiply()?);
        }
        Ok(())
    }

    fn limits(&self) -> CardLimits {
        CardLimits {
            read_gbps: median(&self.read).map(|rate| rate / 1e9),
            int8_tops: median(&self.int8).map(|rate| rate / 1e12),
        }
    }
}

/// A card's limits, for people.
pub(super) fn card_table(device: Device, limits: &DeviceLimits) -> String {
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
    let tops = limits.gmacs(DType::Int8).map(tops);
    let [read, int8] = [limits.read_gbps(), tops].map(rate);
    format!(
        "{device:<12} {:>12} {:>14}\n{:<12} {read:>12} {int8:>14}\n",
        "read GB/s", "int8 TOP/s", ""
    )
}

/// Billions of multiply-adds as 10^12 operations.
pub(super) fn tops(gmacs: f64) -> f64 {
    2.0 * gmacs / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_s_units() {
        let limits = CardLimits { read_gbps: Some(4600.0), int8_tops: Some(1200.0) };
        let limits = DeviceLimits::Card(limits);
        assert_eq!(limits.read_gbps(), Some(4600.0));
        assert_eq!(limits.gmacs(DType::Int4), Some(600_000.0));
        assert_eq!(limits.gmacs(DType::Int4).map(tops), Some(1200.0));
        // No figure rather than another instruction's.
        assert_eq!(limits.gmacs(DType::F16), None);
        let json = serde_json::to_value(limits).unwrap();
        assert_eq!((&json["read_gbps"], &json["int8_tops"]), (&4600.0.into(), &1200.0.into()));
        let table = card_table(Device::Cpu, &limits);
        assert!(table.contains("read GB/s     int8 TOP/s\n"), "{table}");
        assert!(table.ends_with("4600.0         1200.0\n"), "{table}");
        let none = DeviceLimits::Card(CardLimits { read_gbps: None, int8_tops: None });
        assert!(card_table(Device::Cpu, &none).ends_with("-              -\n"));
    }
}
