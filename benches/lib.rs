//! Shared parts of the benchmarks.

use std::path::{Path, PathBuf};

/// The demo model: a real one that every clone has.
pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk")
}
