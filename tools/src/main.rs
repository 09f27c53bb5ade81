//! The brooklet command line.
fn main() {}
