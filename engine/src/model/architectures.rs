//! The table of architectures: a new one is a page in `arch`, made of `parts`, and a row here.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use brooklet_formats::DType;

use super::arch::{self, Ahead, Beside, Block, Cells, Either, GRU, LSTM, Single};
use super::config::Config;
use super::layer::{Stack, load};
use super::norm::Norm;
use super::parts::{
    Attention, CONSTANT, Convolved, DeltaHeads, Experts, GatedMlp, Hgrn, LatentAttention,
    LinearHeads, Mamba1, Mamba2, Mamba3, Memories, MesaHeads, Mlstm, OWN, RUNNING, ReluMlp, RgLru,
    Rodimus, Scaled, ShortConv, SlotHeads, TIED, Windowed,
};
use super::trunk::Trunk;
use crate::state::StateLayout;
use crate::tensor::Loader;
use crate::{EngineError, Result};

/// Reads some layers of a model.
type Load = fn(&Loader<'_>, &Config, &RefCell<StateLayout>, Range<usize>) -> Result<Box<dyn Stack>>;

/// A row of the table of architectures.
pub(super) struct Architecture {
    /// Its name in the file.
    pub(super) name: &'static str,
    /// Reads the layers from the file, and describes their state.
    pub(super) layers: Load,
    /// The final norm.
    norm: fn(&Loader<'_>, &Config) -> Result<Norm>,
}

/// Every architecture that runs.
const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "rwkv4", layers: load::<arch::Rwkv4>, norm: Trunk::ln_out },
    Architecture { name: "rwkv5", layers: load::<arch::Rwkv5>, norm: Trunk::ln_out },
    Architecture { name: "rwkv6", layers: load::<arch::Rwkv6>, norm: Trunk::ln_out },
    Architecture { name: "rwkv7", layers: load::<arch::Rwkv7>, norm: Trunk::ln_out },
    Architecture { name: "lstm", layers: load::<Cells<LSTM>>, norm: Trunk::unnormed },
    Architecture { name: "gru", layers: load::<Cells<GRU>>, norm: Trunk::unnormed },
    Architecture { name: "mamba1", layers: load::<Single<Mamba1>>, norm: Trunk::norm_f },
    Architecture { name: "mamba2", layers: load::<Single<Mamba2>>, norm: Trunk::norm_f },
    Architecture {
        name: "log_linear_mamba2",
        layers: load::<Block<Mamba2, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture { name: "mamba3", layers: load::<Single<Mamba3>>, norm: Trunk::norm_f },
    Architecture { name: "xlstm", layers: load::<Block<Mlstm, GatedMlp>>, norm: Trunk::norm_f },
    Architecture { name: "rodimus", layers: load::<Single<Rodimus>>, norm: Trunk::norm_f },
    Architecture {
        name: "rodimus_plus",
        layers: load::<Block<Rodimus, Ahead<Attention, GatedMlp>>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "deltanet",
        layers: load::<Block<DeltaHeads<false>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "gated_deltanet",
        layers: load::<Block<DeltaHeads<true>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "gated_deltaproduct",
        layers: load::<Block<DeltaHeads<true>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "kda",
        layers: load::<Block<DeltaHeads<true>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "kimi_linear",
        layers: load::<Block<Either<DeltaHeads<true>, LatentAttention>, Either<GatedMlp, Experts>>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "bailing_hybrid",
        layers: load::<Block<Either<DeltaHeads<true>, LatentAttention>, Either<GatedMlp, Experts>>>,
        norm: Trunk::norm_f,
    },
    Architecture { name: "mom", layers: load::<Block<Memories, GatedMlp>>, norm: Trunk::norm_f },
    Architecture {
        name: "mesa_net",
        layers: load::<Block<MesaHeads, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "comba",
        layers: load::<Block<DeltaHeads<true>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "gla",
        layers: load::<Block<LinearHeads<OWN>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "hgrn2",
        layers: load::<Block<LinearHeads<TIED>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "retnet",
        layers: load::<Block<LinearHeads<CONSTANT>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "minimax",
        layers: load::<Block<Either<LinearHeads<CONSTANT>, Attention>, Experts>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "lightnet",
        layers: load::<Block<LinearHeads<RUNNING>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture { name: "hgrn", layers: load::<Block<Hgrn, GatedMlp>>, norm: Trunk::norm_f },
    Architecture { name: "gsa", layers: load::<Block<SlotHeads, GatedMlp>>, norm: Trunk::norm_f },
    Architecture {
        name: "granitemoehybrid",
        layers: load::<Block<Either<Mamba2, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "granitemoehybrid_moe",
        layers: load::<Block<Either<Mamba2, Attention>, Experts>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "bamba",
        layers: load::<Block<Either<Mamba2, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "falcon_h1",
        layers: load::<Block<Beside<Mamba2, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "zaya",
        layers: load::<Block<Scaled<Attention>, Scaled<Experts>>>,
        norm: Trunk::norm_f,
    },
    Architecture { name: "zamba", layers: load::<arch::Zamba<Mamba1>>, norm: Trunk::norm_f },
    Architecture { name: "zamba2", layers: load::<arch::Zamba<Mamba2>>, norm: Trunk::norm_f },
    Architecture {
        name: "olmo_hybrid",
        layers: load::<Block<Either<DeltaHeads<true>, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "nemotron_h",
        layers: load::<Single<Either<Mamba2, Either<Attention, Either<ReluMlp, Experts>>>>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "jamba",
        layers: load::<Block<Either<Mamba1, Attention>, Either<GatedMlp, Experts>>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "lfm2",
        layers: load::<Block<Either<ShortConv, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "lfm3",
        layers: load::<Block<Either<ShortConv, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "recurrent_gemma",
        layers: load::<Block<Either<RgLru, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "samba",
        layers: load::<Block<Either<Mamba1, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "lfm2_moe",
        layers: load::<Block<Either<ShortConv, Attention>, Either<GatedMlp, Experts>>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "qwen3_5",
        layers: load::<Block<Either<DeltaHeads<true>, Attention>, GatedMlp>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "qwen3_5_moe",
        layers: load::<Block<Either<DeltaHeads<true>, Attention>, Experts>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "lara_mini",
        layers: load::<Block<Either<DeltaHeads<true>, Attention>, Experts>>,
        norm: Trunk::norm_f,
    },
    Architecture {
        name: "inkling",
        layers: load::<
            Block<Convolved<Either<Windowed, Attention>>, Convolved<Either<GatedMlp, Experts>>>,
        >,
        norm: Trunk::norm_f,
    },
    Architecture { name: "qwen4_exp", layers: load::<arch::Qwen4>, norm: Trunk::unnormed },
    Architecture {
        name: "qwen3_next",
        layers: load::<Block<Either<DeltaHeads<true>, Attention>, Either<GatedMlp, Experts>>>,
        norm: Trunk::norm_f,
    },
];

impl Architecture {
    /// The one that `file` names.
    pub(super) fn named(name: &str, file: &Path) -> Result<&'static Architecture> {
        ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| EngineError::Architecture {
            file: file.to_owned(),
            found: name.to_owned(),
            known: ARCHITECTURES.iter().map(|a| a.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Takes everything out of `loader`.
    pub(super) fn load(
        &self,
        loader: &Loader<'_>,
        config: &Config,
        (state, window): (DType, Option<usize>),
    ) -> Result<(Box<dyn Stack>, Trunk, StateLayout)> {
        let layout = RefCell::new(StateLayout::new(self.name, state).with_window(window));
        let stack = (self.layers)(loader, config, &layout, 0..config.n_layer)?;
        let d_embed = stack.input().unwrap_or(config.d_model);
        let trunk = Trunk::load(loader, config, d_embed, (self.norm)(loader, config)?)?;
        Ok((stack, trunk, layout.into_inner()))
    }
}
