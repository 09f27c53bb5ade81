//! `brooklet devices`: where models can run here; and `--device`, which says where one shall.
//!
//! Test: `tests/cli/devices.rs`.

use std::str::FromStr;

use brooklet::{Device, Isa};
use serde::Serialize;

#[cfg(not(feature = "cuda"))]
use crate::failure::Failure;
use crate::failure::Result;
use crate::output;

/// Lists where models can run on this machine.
///
/// The processor always can. A card of NVIDIA's can where its driver is installed; nothing else is
/// needed. Names in the first column are those that --device takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet devices
  brooklet run model.brk -p \"The captain\" --device cuda:0")]
pub(crate) struct Args {
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

/// A word that `--device` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Cpu,
    /// A card, if there is one that runs the model; else the processor.
    Auto,
    /// This card.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        let number = |text: &str| text.strip_prefix("cuda:")?.parse().ok();
        match text {
            "cpu" => Ok(Choice::Cpu),
            "auto" => Ok(Choice::Auto),
            "cuda" => Ok(Choice::Cuda(0)),
            _ => match number(text) {
                Some(number) => Ok(Choice::Cuda(number)),
                None => Err("expected cpu, auto, cuda, or cuda: and a card's number".to_owned()),
            },
        }
    }
}

impl Choice {
    /// The devices to try, in this order.
    ///
    /// # Errors
    /// This program was built without cards.
    pub(crate) fn devices(self) -> Result<Vec<Device>> {
        match self {
            Choice::Cpu => Ok(vec![Device::Cpu]),
            #[cfg(feature = "cuda")]
            Choice::Cuda(number) => Ok(vec![Device::Cuda(number)]),
            #[cfg(not(feature = "cuda"))]
            Choice::Cuda(_) => Err(Failure::with("this brooklet knows no cards", WITHOUT)),
            Choice::Auto => {
                #[cfg(feature = "cuda")]
                let cards = brooklet::cards().unwrap_or_default().into_iter();
                #[cfg(not(feature = "cuda"))]
                let cards = std::iter::empty();
                Ok(cards.map(|card| number_of(&card)).chain([Device::Cpu]).collect())
            }
        }
    }
}

#[cfg(not(feature = "cuda"))]
const WITHOUT: &str = "build it with the feature cuda, or leave --device away";

#[cfg(feature = "cuda")]
fn number_of(card: &brooklet::CardInfo) -> Device {
    Device::Cuda(card.number)
}

#[cfg(not(feature = "cuda"))]
fn number_of(device: &Device) -> Device {
    *device
}

/// A line of the list.
#[derive(Serialize)]
struct Line {
    device: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<usize>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let isa = Isa::from_env().map_err(brooklet::EngineError::from)?;
    let name = format!("this processor, with {} kernels", isa.name());
    let own = Line { device: "cpu".to_owned(), name, memory_bytes: None, free_bytes: None };
    let lines: Vec<Line> = std::iter::once(own).chain(cards(quiet)?).collect();
    if args.json {
        return output::json(&lines);
    }
    let mut text = String::new();
    for Line { device, name, memory_bytes, free_bytes } in &lines {
        text += &format!("{device:<8}{name}");
        if let (Some(memory), Some(free)) = (memory_bytes, free_bytes) {
            let (free, memory) =
                (crate::units::bytes(*free as u64), crate::units::bytes(*memory as u64));
            text += &format!(", {free} of {memory} free");
        }
        text.push('\n');
    }
    output::text(&text)
}

/// The cards there are; a note says if there is none.
#[cfg(feature = "cuda")]
fn cards(quiet: bool) -> Result<Vec<Line>> {
    let cards = brooklet::cards()?;
    if cards.is_empty() && !quiet {
        output::note("no card: there is no NVIDIA driver, or it sees none");
    }
    let lines = cards.into_iter().map(|card| Line {
        device: number_of(&card).to_string(),
        name: format!(
            "{}, {} multiprocessors, compute capability {}.{}",
            card.name, card.multiprocessors, card.capability.0, card.capability.1
        ),
        memory_bytes: Some(card.memory),
        free_bytes: Some(card.free),
    });
    Ok(lines.collect())
}

/// None, as this program was built.
#[cfg(not(feature = "cuda"))]
fn cards(quiet: bool) -> Result<Vec<Line>> {
    if !quiet {
        output::note("this brooklet knows no cards: it was built without them");
    }
    Ok(Vec::new())
}
