//! Architectures: a page for each.

mod block;
mod mamba1;
mod mamba2;
mod rwkv4;
mod rwkv5;
mod rwkv6;
mod rwkv7;

pub(super) use block::{Block, Either};
pub(super) use mamba1::Mamba1;
pub(super) use mamba2::Mamba2;
pub(super) use rwkv4::Rwkv4;
pub(super) use rwkv5::Rwkv5;
pub(super) use rwkv6::Rwkv6;
pub(super) use rwkv7::Rwkv7;
