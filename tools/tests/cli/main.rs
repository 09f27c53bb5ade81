//! The command line by its real binary: what it prints, its exit codes, its errors, what it leaves
//! behind.
//!
//! One module per subject, all in one test program (linking is what takes time). Models are tiny
//! and made here (`support`); nothing is read from outside the checkout.

mod batch;
mod bench;
mod budget;
mod chat;
mod chat_commands;
#[cfg(unix)]
mod chat_terminal;
mod check;
mod checkpoints;
mod compress;
mod convert;
#[cfg(feature = "demo")]
mod demo;
mod devices;
mod errors;
mod eval;
mod guesses;
mod horizon;
mod imatrix;
mod inspect;
mod logits;
#[cfg(target_os = "linux")]
mod memory;
mod overwriting;
#[cfg(unix)]
mod places;
mod readme;
mod requantize;
mod run;
mod samples;
mod sampling;
mod score;
#[cfg(all(feature = "serve", unix))]
mod serve;
#[cfg(unix)]
mod signals;
mod state;
mod sums;
mod support;
#[cfg(unix)]
mod terminal;
mod tokenize;
mod tokenizers;
mod usage;
