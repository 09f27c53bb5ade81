//! A card of NVIDIA's: the list of operations on it.
//!
//! The driver is looked for when a card is first asked for; nothing is linked, and a build with
//! this feature starts where there is none. Kernels are CUDA C++ beside this file, compiled ahead
//! to `*.ptx` (`build.py`), which the driver translates for its card once and then keeps.
//!
//! Here: the card ([`Card`]), weights on it ([`Loaded`]), a program with its buffers ([`Program`]),
//! states ([`CardLines`]), what all this takes ([`CardPlan`]). Not here: what is computed (`ops`),
//! the choice of the device (`model`). Test: `tests/operations.rs`, which skips, visibly, where
//! there is no card.

mod alone;
mod card;
mod loaded;
mod memory;
#[cfg(feature = "bench")]
mod probe;
mod program;
mod program_attention;
mod program_cells;
mod program_chosen;
mod program_experts;
mod program_past;
mod program_states;
mod run;
mod structs;
mod token;
mod token_heads;
mod token_moves;
mod token_other;
mod token_plan;
mod token_projects;
mod token_words;

pub(crate) use card::{Card, CardLines};
pub use card::{CardInfo, cards};
pub(crate) use loaded::Loaded;
pub use memory::CardPlan;
pub(crate) use memory::{Size, pass_bytes, plan};
#[cfg(feature = "bench")]
pub use probe::CardProbe;
pub(crate) use run::{Places, Program};
