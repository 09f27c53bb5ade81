//! The byte vocabulary: 256 tokens, id = byte. No table, no state; nothing can fail.
//!
//! For byte-level models (MambaByte, Wang et al. 2024, arXiv 2401.13660). Tests: the properties in
//! `tests.rs`.

/// Number of tokens.
pub(super) const N_VOCAB: usize = 256;

static BYTES: [u8; N_VOCAB] = {
    let mut bytes = [0; N_VOCAB];
    let mut i = 0;
    while i < N_VOCAB {
        bytes[i] = i as u8;
        i += 1;
    }
    bytes
};

/// Appends one id per byte.
pub(super) fn encode(text: &[u8], ids: &mut Vec<u32>) {
    ids.extend(text.iter().map(|&byte| u32::from(byte)));
}

/// The byte of an id.
pub(super) fn token_bytes(id: u32) -> Option<&'static [u8]> {
    let id = id as usize;
    BYTES.get(id..id + 1)
}
