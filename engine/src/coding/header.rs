//! What stands before a code.
//!
//! ```text
//! 0   89 'B' 'R' 'K' 'Z' 0d 0a 1a   so that no text is taken for one
//! 8   u32  version, 1               u32  format of the states: its id as in .brk files
//! 16  u64  the model's fingerprint  u64  tokens that attention sees; 0 is all
//! 32  u64  tokens to a fresh state  u32  the token before the first, u32 0
//! 48  u64  tokens                   u64  bytes of the text
//! 64  u64  XXH3-64 of the text      u64  XXH3-64 of the header before
//! 80  the code
//! ```
//!
//! All little-endian. Test: `tests/coding.rs`.

use brooklet_formats::DType;
use xxhash_rust::xxh3::xxh3_64;

use crate::model::Model;
use crate::{EngineError, Result};

/// The first bytes of a packed text.
pub const MAGIC: [u8; 8] = *b"\x89BRKZ\r\n\x1a";
const VERSION: u32 = 1;
const LENGTH: usize = 80;

/// What a packed text says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveInfo {
    /// The fingerprint of the model.
    pub fingerprint: u64,
    /// The number format of its states.
    pub state: DType,
    /// The tokens that attention sees; 0 is all.
    pub window: u64,
    /// The token before the first.
    pub start: u32,
    /// Tokens from one empty state to the next; 0 is all.
    pub clear_every: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes of the text.
    pub length: u64,
    /// Its XXH3-64.
    pub checksum: u64,
}

impl ArchiveInfo {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(u32::from(self.state.id()).to_le_bytes());
        for number in [self.fingerprint, self.window, self.clear_every, u64::from(self.start)] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [self.tokens, self.length, self.checksum] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the beginning of a packed text; gives what follows it, too.
    ///
    /// # Errors
    /// It is none, of another version, or damaged.
    pub fn read(bytes: &[u8]) -> Result<(ArchiveInfo, &[u8])> {
        if !bytes.starts_with(&MAGIC) {
            return Err(EngineError::NoArchive);
        }
        let Some((header, code)) = bytes.split_at_checked(LENGTH) else {
            return Err(EngineError::DamagedArchive);
        };
        let u64_at = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let [version, state] = [u64_at(8) as u32, (u64_at(8) >> 32) as u32];
        if version != VERSION {
            return Err(EngineError::ArchiveVersion { found: version, known: VERSION });
        }
        let state = u8::try_from(state).ok().and_then(DType::from_id);
        let (Some(state), true) = (state, xxh3_64(&header[..72]) == u64_at(72)) else {
            return Err(EngineError::DamagedArchive);
        };
        let [fingerprint, window, clear_every] = [16, 24, 32].map(u64_at);
        let [tokens, length, checksum] = [48, 56, 64].map(u64_at);
        let start = u64_at(40) as u32;
        // A token stands for a byte at least.
        if tokens > length {
            return Err(EngineError::DamagedArchive);
        }
        let info = ArchiveInfo {
            fingerprint,
            state,
            window,
            start,
            clear_every,
            tokens,
            length,
            checksum,
        };
        Ok((info, code))
    }

    /// Whether `model` gives the distributions that it was packed with.
    pub(super) fn check(&self, model: &Model) -> Result<()> {
        let (model_print, archive) = (model.fingerprint(), self.fingerprint);
        if model_print != archive {
            return Err(EngineError::ForeignArchive { model: model_print, archive });
        }
        let layout = model.state_layout();
        if layout.dtype() != self.state {
            let (model, archive) = (layout.dtype(), self.state);
            return Err(EngineError::ArchiveStates { model, archive });
        }
        let window = |n: u64| usize::try_from(n).ok().filter(|n| *n > 0);
        if layout.window() != window(self.window) {
            let (model, archive) = (layout.window(), window(self.window));
            return Err(EngineError::ArchiveWindow { model, archive });
        }
        Ok(())
    }
}
