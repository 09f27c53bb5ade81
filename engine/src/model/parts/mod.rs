//! Parts: pieces of layers that pages are made of.
//!
//! Each has `load`, which reads its weights and describes its state; a scratch made from the layers
//! that use it, where it needs one; and `forward`, or what it adds to a stage.

mod attention;
mod bonus_heads;
mod branch;
mod channel_mix;
mod compressed;
mod conv;
mod convolved;
mod delta_heads;
mod experts;
mod forget;
mod gated_mlp;
mod head_gate;
mod heads;
mod hgrn;
mod hyper;
mod index;
mod input;
mod latent_attention;
mod levels;
mod linear_heads;
mod low_rank;
mod mamba1;
mod mamba2;
mod mamba3;
mod memories;
mod mesa_heads;
mod mlstm;
mod ngrams;
mod output;
mod projections;
mod qk_norm;
mod relative;
mod relu_mlp;
mod rg_lru;
mod rodimus;
mod rope;
mod router;
mod router_network;
mod scaled;
mod short_conv;
mod slot_heads;
mod token_shift;
mod wide_norm;
mod windowed;

use crate::Result;
use crate::buffers::Workspace;
use crate::model::{Pass, Source};
use crate::ops::List;

pub(super) use attention::Attention;
pub(super) use bonus_heads::{BonusHeads, Scratch as BonusScratch};
pub(super) use branch::{Branch, Scratch as BranchScratch};
pub(super) use channel_mix::{ChannelMix, Scratch as ChannelMixScratch};
pub(super) use compressed::{Compressed, Scratch as CompressedScratch};
pub(super) use conv::{Bias, CausalConv, MAX_CONV, gate, padded};
pub(super) use convolved::Convolved;
pub(super) use delta_heads::DeltaHeads;
pub(super) use experts::Experts;
pub(super) use forget::{Forget, nothing};
pub(super) use gated_mlp::GatedMlp;
pub(super) use head_gate::HeadGate;
pub(super) use heads::{Head, Heads};
pub(super) use hgrn::Hgrn;
pub(super) use hyper::{HyperConnection, Scratch as HyperScratch};
pub(super) use index::{Index, Scratch as IndexScratch};
pub(super) use input::{Input, Scratch as InputScratch};
pub(super) use latent_attention::LatentAttention;
pub(super) use levels::LevelWeights;
pub(super) use linear_heads::{CONSTANT, LinearHeads, OWN, RUNNING, TIED};
pub(super) use low_rank::{LowRank, Scratch as LowRankScratch};
pub(super) use mamba1::Mamba1;
pub(super) use mamba2::Mamba2;
pub(super) use mamba3::Mamba3;
pub(super) use memories::Memories;
pub(super) use mesa_heads::MesaHeads;
pub(super) use mlstm::Mlstm;
pub(super) use ngrams::{Ngrams, Scratch as NgramsScratch};
pub(super) use output::Output;
pub(super) use projections::{Projections, Wanted};
pub(super) use relative::Relative;
pub(super) use relu_mlp::ReluMlp;
pub(super) use rg_lru::RgLru;
pub(super) use rodimus::Rodimus;
pub(super) use rope::Rope;
pub(super) use router_network::RouterNetwork;
pub(super) use scaled::Scaled;
pub(super) use short_conv::ShortConv;
pub(super) use slot_heads::SlotHeads;
pub(super) use token_shift::{TokenShift, Weighs};
pub(super) use wide_norm::WideNorm;
pub(super) use windowed::Windowed;

/// A part that takes the residual stream and adds to it: half of a layer.
pub(crate) trait Part: Send + Sync + Sized + 'static {
    /// Its name where a file chooses among parts.
    const WORD: &'static str;
    /// The list of a file that chooses it for a layer, by its word.
    const LIST: &'static str = "layer_types";
    /// Buffers for the columns of a forward pass, shared by all layers.
    type Scratch: Send + 'static;

    /// Whether that list calls it so.
    fn is_called(word: &str) -> bool {
        word == Self::WORD
    }

    /// Reads the part of a layer and describes its state.
    fn load(source: &Source<'_>) -> Result<Self>;

    /// Makes the buffers for the columns of `workspace`.
    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Self::Scratch;

    /// Values of the second stream through the layers: see [`crate::model::Streams`].
    fn second(&self) -> usize {
        0
    }

    /// Takes its input from the residual stream: norm(x).
    fn read(&self, pass: &mut Pass<'_>, scratch: &mut Self::Scratch);

    /// Adds what it computes from that to the residual stream, and advances its part of every run's
    /// state.
    fn add(&self, pass: &mut Pass<'_>, scratch: &mut Self::Scratch);

    /// Writes itself down as operations: the same as `forward`.
    fn list<'m>(&'m self, list: &mut List<'m>);

    /// Both.
    fn forward(&self, pass: &mut Pass<'_>, scratch: &mut Self::Scratch) {
        self.read(pass, scratch);
        self.add(pass, scratch);
    }
}
