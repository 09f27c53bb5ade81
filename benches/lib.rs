//! Shared parts of the criterion benchmarks (`products`: kernels and formats, `sessions`: a real
//! model end to end).
//!
//! Not here: whole models of real sizes, which `brooklet bench` measures, and the comparison with
//! another engine on the same machine, which `peers/compare.py` runs.

use std::path::{Path, PathBuf};

/// The demo model: a real one that every clone has.
pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk")
}
