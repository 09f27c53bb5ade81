//! `brooklet devices`: where models can run here; and `--device`, which says where one shall.
//!
//! Test: `tests/cli/devices.rs`.

use std::str::FromStr;

#[cfg(feature = "cuda")]
use brooklet::Engine;
use brooklet::{Device, EngineError, EngineOptions, Isa, Model};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::output;
#[cfg(feature = "cuda")]
use crate::units;

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
    /// The device; none where it is to be found.
    ///
    /// # Errors
    /// This program was built without cards.
    pub(crate) fn device(self) -> Result<Option<Device>> {
        match self {
            Choice::Cpu => Ok(Some(Device::Cpu)),
            #[cfg(feature = "cuda")]
            Choice::Cuda(number) => Ok(Some(Device::Cuda(number))),
            #[cfg(not(feature = "cuda"))]
            Choice::Cuda(_) => Err(Failure::with("this brooklet knows no cards", WITHOUT)),
            Choice::Auto => Ok(None),
        }
    }
}

#[cfg(not(feature = "cuda"))]
const WITHOUT: &str = "build it with the feature cuda, or leave --device away";

/// A model on the first card that takes it, and that card in words; none where there is no card;
/// else why none takes it.
#[cfg(feature = "cuda")]
pub(crate) fn first_card(
    open: impl Fn(Device) -> Result<Model, EngineError>,
) -> Result<Option<(Model, String)>, String> {
    let cards = brooklet::cards().map_err(|error| error.to_string())?;
    let mut why_not = None;
    for card in cards {
        let device = Device::Cuda(card.number);
        match open(device) {
            Ok(model) => return Ok(Some((model, format!("{device}, {}", card.name)))),
            Err(error) => why_not = Some(format!("of {device}: {error}")),
        }
    }
    why_not.map_or(Ok(None), Err)
}

/// The same, as this program was built.
#[cfg(not(feature = "cuda"))]
pub(crate) fn first_card(
    _: impl Fn(Device) -> Result<Model, EngineError>,
) -> Result<Option<(Model, String)>, String> {
    Ok(None)
}

/// Whether an engine and a state fit the card that a model runs on.
///
/// # Errors
/// They do not, or the card does not say.
#[cfg(feature = "cuda")]
pub(crate) fn check_card(model: &Model, options: &EngineOptions) -> Result {
    let Some(free) = Engine::card_free(model)? else { return Ok(()) };
    let plan = Engine::card_plan(model, options)?;
    let needed = plan.total(1) - plan.weights;
    if needed <= free {
        return Ok(());
    }
    Err(Failure::with(
        format!(
            "{}: running it takes {} of the memory of {} beside its weights, {} are free",
            model.file().path().display(),
            units::bytes(needed as u64),
            model.device(),
            units::bytes(free as u64)
        ),
        "give a smaller --chunk, take a smaller model, or --device cpu",
    ))
}

/// Nothing to check, as this program was built.
#[cfg(not(feature = "cuda"))]
pub(crate) fn check_card(_: &Model, _: &EngineOptions) -> Result {
    Ok(())
}

/// Bytes that an engine with so many sequences takes of the card that its model runs on; none where
/// it runs elsewhere.
#[cfg(feature = "cuda")]
pub(crate) fn card_bytes(
    model: &Model,
    options: &EngineOptions,
    sequences: usize,
) -> Result<Option<u64>> {
    if model.device() == Device::Cpu {
        return Ok(None);
    }
    Ok(Some(Engine::card_plan(model, options)?.total(sequences) as u64))
}

/// None, as this program was built.
#[cfg(not(feature = "cuda"))]
pub(crate) fn card_bytes(_: &Model, _: &EngineOptions, _: usize) -> Result<Option<u64>> {
    Ok(None)
}

/// Why there is no card.
#[cfg(feature = "cuda")]
pub(crate) const NO_CARD: &str = "there is no NVIDIA driver, or it sees no card";
#[cfg(not(feature = "cuda"))]
pub(crate) const NO_CARD: &str = "this brooklet knows no cards";

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
        output::note(&format!("no card: {NO_CARD}"));
    }
    let lines = cards.into_iter().map(|card| Line {
        device: Device::Cuda(card.number).to_string(),
        name: card.describe(),
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
