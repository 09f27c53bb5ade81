//! Arguments that several subcommands share.
//!
//! Not here: what one subcommand alone takes. Test: `tests/`.

use std::path::Path;

use brooklet::{DEFAULT_CHUNK, Device, Engine, EngineError, EngineOptions, Model, ModelOptions};
use brooklet_formats::DType;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::cache;
use crate::devices::{self, Choice, NO_CARD};
use crate::failure::{Failure, Result};
use crate::{memory, output, units};

/// How the forward pass is cut and spread.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Threads [default: one per processor]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Tokens per forward pass while reading a prompt; more is faster up to a point, and takes more
    /// memory
    #[arg(long, value_name = "C", default_value_t = DEFAULT_CHUNK as u32,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) chunk: u32,
    /// Read the model file into memory (huge pages where the system has them) instead of mapping it
    #[arg(long)]
    pub(crate) no_mmap: bool,
    /// Leave a mapped model in the small pages that it may lie in: huge pages are read faster, and
    /// take as much memory again (Linux; small models stay, and all where memory is short)
    #[arg(long)]
    pub(crate) small_pages: bool,
    /// Run a model whose state is larger than its file, and larger than 256 MB
    #[arg(long)]
    pub(crate) allow_large_state: bool,
    /// Number format of states while the model runs: f16 takes half the memory and half the traffic
    /// of f32 and moves logits a little (RWKV-4 has nothing to keep so); int8 is for models with
    /// attention and keeps their keys and values in a quarter, the rest as f16
    #[arg(long, value_name = "FORMAT", default_value = "f32",
          value_parser = PossibleValuesParser::new(["f32", "f16", "int8"])
              .try_map(|name| dtype(&name)))]
    pub(crate) live_state: DType,

    /// Where the model runs: cpu, cuda (the first card), cuda:N, or auto (a card that runs it, if
    /// there is one, else cpu: a note says which, and why no card); see `brooklet devices`
    /// [default: auto, which says nothing where there is no card]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<Choice>,
    /// Use a card at once: otherwise it reads some tokens first, as this processor does, and is
    /// left alone if any bit of what it computes differs (once for each file, card and driver: the
    /// cache folder remembers it)
    #[arg(long)]
    pub(crate) trust_device: bool,

    /// The most tokens of a text, for models with attention, whose states grow with every token
    /// [default: what the model was made for]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<std::num::NonZeroUsize>,

    /// Let layers that attend to every token attend to the last TOKENS alone, and to the first 4
    /// (StreamingLLM; keys keep the positions that they have in the text): an approximation, which
    /// makes a text of any length possible in constant memory; `eval --by-position` shows its cost
    #[arg(long, value_name = "TOKENS")]
    pub(crate) window: Option<std::num::NonZeroUsize>,
}

/// A state of this many bytes is large.
const LARGE_STATE: u64 = 256 << 20;

impl EngineArgs {
    /// Opens a model.
    pub(crate) fn open(&self, path: &Path, quiet: bool) -> Result<Model> {
        self.on_a_device(|options| Model::open_with(path, options), quiet)
    }

    /// A model as `open` gives it, on the device that was asked for; of `auto` on the first that
    /// takes it, which a note names.
    pub(crate) fn on_a_device(
        &self,
        open: impl Fn(&ModelOptions) -> Result<Model, EngineError>,
        quiet: bool,
    ) -> Result<Model> {
        let open = |device| {
            let model = open(&self.model_options(device))?;
            if !self.trust_device {
                cache::once("verified", Engine::verified_as(&model), || Engine::verify(&model))?;
            }
            Ok(model)
        };
        let model = match self.device.unwrap_or(Choice::Auto).device()? {
            Some(device) => open(device)?,
            None => {
                let (model, line) = match devices::first_card(open) {
                    Ok(Some((model, card))) => (model, Some(card)),
                    // Whoever asks for nothing hears nothing of cards that are not there.
                    Ok(None) => {
                        (open(Device::Cpu)?, self.device.map(|_| format!("cpu, since {NO_CARD}")))
                    }
                    Err(why_not) => (open(Device::Cpu)?, Some(format!("cpu, since {why_not}"))),
                };
                if let Some(line) = line.filter(|_| !quiet) {
                    output::note(&format!("device: {line}"));
                }
                model
            }
        };
        self.check_state(&model)?;
        Ok(model)
    }

    /// Refuses a model whose state is large, and larger than the model: a small file that asks for
    /// much memory is a mistake or an attack.
    fn check_state(&self, model: &Model) -> Result {
        let (state, file) = (model.state_layout().bytes() as u64, model.file().file_len());
        if self.allow_large_state || state < LARGE_STATE || state < file {
            return Ok(());
        }
        Err(Failure::with(
            format!(
                "{}: its state takes {}, though the file has only {}",
                model.file().path().display(),
                units::bytes(state),
                units::bytes(file)
            ),
            "if the model is meant to be so, say --allow-large-state",
        ))
    }

    /// How a model is opened for a device.
    fn model_options(&self, device: Device) -> ModelOptions {
        ModelOptions::new()
            .mmap(!self.no_mmap)
            .huge_pages(!self.small_pages)
            .state(self.live_state)
            .context(self.context.map(usize::from))
            .window(self.window.map(usize::from))
            .device(device)
    }

    /// Options of an engine of `model` that computes up to `logits` rows of logits per pass, if
    /// such an engine and a state fit into memory.
    pub(crate) fn options(&self, model: &Model, logits: usize) -> Result<EngineOptions> {
        let threads = self.threads.map_or(0, usize::from);
        let options =
            EngineOptions::new().threads(threads).chunk(self.chunk as usize).logits(logits);
        devices::check_card(model, &options)?;
        let needed =
            Engine::memory(model, &options).saturating_add(model.state_layout().bytes()) as u64;
        match memory::available() {
            Some(available) if needed > available => Err(Failure::with(
                format!(
                    "{}: running it takes {} of memory, {} are free",
                    model.file().path().display(),
                    units::bytes(needed),
                    units::bytes(available)
                ),
                "give a smaller --chunk, or take a smaller model",
            )),
            _ => Ok(options),
        }
    }
}

/// Checks a group against the format that is to have it.
pub(crate) fn check_group(dtype: DType, group: Option<usize>) -> Result {
    match group {
        None => Ok(()),
        Some(_) if !dtype.has_scales() => {
            Err(Failure::usage(format!("{dtype} has no scales to share"), "leave --group away"))
        }
        Some(group) if dtype.groups().contains(&group) => Ok(()),
        Some(group) => {
            let groups = if dtype.has_steps() { "32" } else { "32, 64 or 128" };
            Err(Failure::usage(
                format!("a group of {group} columns of {dtype}"),
                format!("give {groups}, or leave --group away"),
            ))
        }
    }
}

/// The names of all number formats, for help texts.
pub(crate) fn dtype(name: &str) -> Result<DType, String> {
    name.parse::<DType>().map_err(|error| error.to_string())
}

/// Writing a file.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct OutputArgs {
    /// Replace what stands at the output though it is no file of this kind (what the command reads
    /// is never replaced)
    #[arg(long)]
    pub(crate) force: bool,
}
