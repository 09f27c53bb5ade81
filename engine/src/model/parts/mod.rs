//! Parts: pieces of layers that pages are made of.
//!
//! Each has `load`, which reads its weights and describes its state; a scratch made from the layers
//! that use it, where it needs one; and `forward`, or what it adds to a stage.

mod attention;
mod bonus_heads;
mod channel_mix;
mod conv;
mod delta_heads;
mod gated_mlp;
mod heads;
mod input;
mod low_rank;
mod output;
mod token_shift;

pub(super) use attention::{Attention, Scratch as AttentionScratch};
pub(super) use bonus_heads::{BonusHeads, Scratch as BonusScratch};
pub(super) use channel_mix::{ChannelMix, Scratch as ChannelMixScratch};
pub(super) use conv::{Bias, CausalConv, MAX_CONV, gate, padded};
pub(super) use delta_heads::{DeltaHeads, Scratch as DeltaScratch};
pub(super) use gated_mlp::{GatedMlp, Scratch as GatedMlpScratch};
pub(super) use heads::{Head, Heads};
pub(super) use input::{Input, Scratch as InputScratch};
pub(super) use low_rank::{LowRank, Scratch as LowRankScratch};
pub(super) use output::Output;
pub(super) use token_shift::{TokenShift, Weighs};
