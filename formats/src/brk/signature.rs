//! How a `.brk` file is told from others: its first bytes, and the version of what follows.

/// The first eight bytes: a byte above ASCII, a name, and line ends that text-mode copies would
/// change.
pub const MAGIC: [u8; 8] = *b"\x89BRK\r\n\x1a\n";
/// The version that this crate writes, and the only one that it reads.
pub const VERSION: u32 = 1;
