//! Architectures: a page for each; one for all whose layers are made of parts.

mod block;
mod cells;
mod qwen4;
mod rwkv4;
mod rwkv5;
mod rwkv6;
mod rwkv7;
mod zamba;

pub(super) use block::{Ahead, Beside, Block, Either, Single};
pub(super) use cells::{Cells, GRU, LSTM};
pub(super) use qwen4::Qwen4;
pub(super) use rwkv4::Rwkv4;
pub(super) use rwkv5::Rwkv5;
pub(super) use rwkv6::Rwkv6;
pub(super) use rwkv7::Rwkv7;
pub(super) use zamba::Zamba;
