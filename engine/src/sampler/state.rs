//! A sampler's memory as a value: generator, histories, mirostat's bound, and where a text stands
//! in its grammar, to be saved with a conversation.
//!
//! The bytes, little-endian: `"brksampl"`, u32 version, u64 seed, 4 × u64 generator, u32 kind
//! of history (0 none, 1 the last tokens, 2 totals), u32 number of entries, then per entry a u32
//! token and for totals its f32 count. Version 1 ends here. Version 2, which is written where one
//! of them is on, has u32 flags (1 DRY, 2 mirostat, 4 grammar), for mirostat the f64 bound, for DRY
//! a u32 number of tokens and each of them as u32, for a grammar the u64 hash of its source, then
//! the tokens of its text like DRY's. Options are not in it: the one who resumes says what to
//! sample with. Tests: below, and in `tests.rs`.

use super::penalty::SavedHistory;
use super::rng::Rng;
use crate::error::{EngineError, Result};

const MAGIC: &[u8; 8] = b"brksampl";
/// Without DRY, mirostat and grammar, and with one of them.
const VERSIONS: [u32; 2] = [1, 2];
/// Flags of version 2.
const DRY: u32 = 1;
const MIROSTAT: u32 = 2;
const GRAMMAR: u32 = 4;

/// A sampler's memory: [`super::Sampler::state`] saves it, [`super::Sampler::restore`] takes it
/// over.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerState {
    pub(super) seed: u64,
    pub(super) rng: Rng,
    pub(super) history: SavedHistory,
    /// DRY's last tokens, the newest last; `None` where it was off.
    pub(super) dry: Option<Vec<u32>>,
    /// Mirostat's bound in bits; `None` where it was off.
    pub(super) bound: Option<f64>,
    /// The hash of the grammar's source and the tokens of its text; `None` where there was none.
    pub(super) grammar: Option<(u64, Vec<u32>)>,
}

impl SamplerState {
    /// The seed that the generator started from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What this one remembers for penalties, beside the random numbers of `other`: a conversation
    /// that goes back forgets what was said since, but does not repeat itself.
    #[must_use]
    pub fn with_generator_of(&self, other: &SamplerState) -> SamplerState {
        SamplerState { seed: other.seed, rng: other.rng.clone(), ..self.clone() }
    }

    /// The state as bytes, the same on every machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let flags = self.dry.as_ref().map_or(0, |_| DRY)
            | self.bound.map_or(0, |_| MIROSTAT)
            | self.grammar.as_ref().map_or(0, |_| GRAMMAR);
        bytes.extend(VERSIONS[usize::from(flags != 0)].to_le_bytes());
        bytes.extend(self.seed.to_le_bytes());
        self.rng.state().iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        let (kind, entries) = match &self.history {
            SavedHistory::Off => (0u32, 0),
            SavedHistory::Window(tokens) => (1, tokens.len()),
            SavedHistory::All(counts) => (2, counts.len()),
        };
        bytes.extend(kind.to_le_bytes());
        bytes.extend((entries as u32).to_le_bytes());
        match &self.history {
            SavedHistory::Off => {}
            SavedHistory::Window(tokens) => {
                tokens.iter().for_each(|token| bytes.extend(token.to_le_bytes()))
            }
            SavedHistory::All(counts) => counts.iter().for_each(|(token, count)| {
                bytes.extend(token.to_le_bytes());
                bytes.extend(count.to_le_bytes());
            }),
        }
        if flags != 0 {
            bytes.extend(flags.to_le_bytes());
        }
        if let Some(bound) = self.bound {
            bytes.extend(bound.to_le_bytes());
        }
        let list = |bytes: &mut Vec<u8>, tokens: &[u32]| {
            bytes.extend((tokens.len() as u32).to_le_bytes());
            tokens.iter().for_each(|token| bytes.extend(token.to_le_bytes()));
        };
        if let Some(tokens) = &self.dry {
            list(&mut bytes, tokens);
        }
        if let Some((print, tokens)) = &self.grammar {
            bytes.extend(print.to_le_bytes());
            list(&mut bytes, tokens);
        }
        bytes
    }

    /// Reads what [`SamplerState::to_bytes`] wrote.
    ///
    /// # Errors
    /// Another version, bytes missing or left over, numbers that no sampler writes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { rest: bytes, len: bytes.len() };
        if reader.take::<8>()? != *MAGIC {
            return Err(bad(
                "\"brksampl\" at the start",
                format!("{:?}", bytes[..8].escape_ascii().to_string()),
            ));
        }
        let version = reader.u32()?;
        if !VERSIONS.contains(&version) {
            return Err(bad("version 1 or 2", format!("version {version}")));
        }
        let seed = reader.u64()?;
        let words = [reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?];
        let rng = Rng::from_state(words)
            .ok_or_else(|| bad("a generator that runs", "zeros".to_owned()))?;
        let (kind, n) = (reader.u32()?, reader.u32()? as usize);
        let entry = [0, 4, 8].get(kind as usize).copied();
        let entry =
            entry.ok_or_else(|| bad("a history of kind 0, 1 or 2", format!("kind {kind}")))?;
        reader.has(n, entry)?;
        let history = match kind {
            1 => SavedHistory::Window(reader.tokens(n)?),
            2 => SavedHistory::All((0..n).map(|_| reader.count()).collect::<Result<_>>()?),
            0 if n > 0 => return Err(bad("no history", format!("one of {n} entries"))),
            _ => SavedHistory::Off,
        };
        let flags = if version == VERSIONS[1] { reader.u32()? } else { 0 };
        if version == VERSIONS[1] && !(1..=DRY | MIROSTAT | GRAMMAR).contains(&flags) {
            return Err(bad("flags from 1 to 7", flags.to_string()));
        }
        let bound = if flags & MIROSTAT != 0 { Some(reader.bound()?) } else { None };
        let dry = if flags & DRY != 0 { Some(reader.list()?) } else { None };
        let grammar =
            if flags & GRAMMAR != 0 { Some((reader.u64()?, reader.list()?)) } else { None };
        match reader.rest.len() {
            0 => Ok(SamplerState { seed, rng, history, dry, bound, grammar }),
            left => Err(bad("the end of the state", format!("{left} more bytes"))),
        }
    }
}

/// Takes fields from the front.
struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| bad("a whole state", format!("only {} bytes", self.len)))?;
        self.rest = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// Refuses a number of entries that are not there, before anything of that size is made.
    fn has(&self, n: usize, entry: usize) -> Result<()> {
        match n.checked_mul(entry) {
            Some(bytes) if bytes <= self.rest.len() => Ok(()),
            _ => Err(bad(
                &format!("{n} entries of {entry} bytes"),
                format!("{} bytes", self.rest.len()),
            )),
        }
    }

    fn tokens(&mut self, n: usize) -> Result<Vec<u32>> {
        self.has(n, 4)?;
        (0..n).map(|_| self.u32()).collect()
    }

    fn list(&mut self) -> Result<Vec<u32>> {
        let n = self.u32()? as usize;
        self.tokens(n)
    }

    fn bound(&mut self) -> Result<f64> {
        let bound = self.take().map(f64::from_le_bytes)?;
        if bound.is_finite() {
            Ok(bound)
        } else {
            Err(bad("a finite bound of mirostat", bound.to_string()))
        }
    }

    fn count(&mut self) -> Result<(u32, f32)> {
        let (token, count) = (self.u32()?, self.take().map(f32::from_le_bytes)?);
        if count.is_normal() && count > 0.0 {
            Ok((token, count))
        } else {
            Err(bad("counts above 0", format!("{count} for token {token}")))
        }
    }
}

pub(super) fn bad(expected: &str, found: String) -> EngineError {
    EngineError::SamplerState { expected: expected.to_owned(), found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_damage_is_refused() {
        let histories = [
            SavedHistory::Off,
            SavedHistory::Window(vec![3, 1, 4, 1, 5]),
            SavedHistory::All(vec![(3, 1.5), (0, f32::MIN_POSITIVE)]),
        ];
        let others = [
            (None, None, None),
            (Some(vec![2, 7, 1]), None, None),
            (None, Some(6.5), Some((7, vec![3]))),
            (Some(vec![]), Some(-1.0), None),
            (Some(vec![1]), None, Some((u64::MAX, vec![]))),
        ];
        for (history, (dry, bound, grammar)) in
            histories.iter().flat_map(|history| others.iter().map(move |other| (history, other)))
        {
            let (history, rng) = (history.clone(), Rng::from_seed(1));
            let (dry, bound, grammar) = (dry.clone(), *bound, grammar.clone());
            let state = SamplerState { seed: 42, rng, history, dry, bound, grammar };
            let bytes = state.to_bytes();
            assert_eq!(SamplerState::from_bytes(&bytes).unwrap(), state);
            for cut in 0..bytes.len() {
                assert!(SamplerState::from_bytes(&bytes[..cut]).is_err(), "{cut}");
            }
            // Other values anywhere: an error, or a state that is written alike.
            for at in 0..bytes.len() {
                for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                    let mut other = bytes.clone();
                    other[at] = value;
                    if let Ok(state) = SamplerState::from_bytes(&other) {
                        assert_eq!(state.to_bytes(), other);
                    }
                }
            }
        }
    }
}
