//! Where the model stood: states behind texts that it has read, so that undoing, trying again and
//! other branches cost only what is behind the change.
//!
//! A state is of constant size, and copying it costs less than a token. They are found by the text
//! that they have read, so that it does not matter which command leads back. Together they take at
//! most [`BUDGET`] bytes, the one that was used longest ago goes first. Not here: reading
//! (`speaker`). Test: `tests/cli/chat_commands.rs`.

use brooklet::chat::Rendered;
use brooklet::sampler::SamplerState;
use brooklet::{Session, Snapshot};

/// Bytes of all states together at most.
const BUDGET: usize = 256 << 20;

/// A text, and the tokens at its end that the state has not read yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read {
    /// The text, with that of `pending` at its end.
    pub(crate) text: Vec<u8>,
    /// Where special tokens are only spelled out in it.
    pub(crate) spelled: Vec<usize>,
    /// The tokens that are still to be read: the last of an answer, usually.
    pub(crate) pending: Vec<u32>,
    /// The tokens that the state has read, as far as they are known: guesses are made of them.
    pub(crate) tokens: Vec<u32>,
}

impl Read {
    /// Whether a conversation goes on from here.
    pub(crate) fn begins(&self, whole: &Rendered) -> bool {
        whole.goes_on_from(&self.text, &self.spelled)
    }
}

/// A place to go back to.
pub(crate) struct Mark {
    pub(crate) read: Read,
    /// The state, its logits where nothing is pending, and the sampler's memory.
    pub(crate) snapshot: Snapshot,
    bytes: usize,
    /// When it was used last.
    used: u64,
}

/// Places to go back to.
#[derive(Default)]
pub(crate) struct Marks {
    marks: Vec<Mark>,
    clock: u64,
}

impl Marks {
    /// Keeps the place where a session stands, in place of one with the same text.
    pub(crate) fn keep(&mut self, read: &Read, session: &Session, sampler: SamplerState) {
        let (state, layout) = (session.state(), session.model().state_layout());
        let tokens = usize::try_from(state.position()).unwrap_or(usize::MAX);
        let bytes = layout
            .bytes()
            .saturating_add(layout.growing_bytes(tokens))
            .saturating_add(size_of_val(session.logits()))
            .saturating_add(read.text.len() + size_of_val(read.tokens.as_slice()));
        if bytes > BUDGET {
            return;
        }
        let snapshot = Snapshot { sampler: Some(sampler), ..session.snapshot() };
        self.clock += 1;
        self.marks
            .retain(|mark| (&mark.read.text, &mark.read.spelled) != (&read.text, &read.spelled));
        self.marks.push(Mark { read: read.clone(), snapshot, bytes, used: self.clock });
        while self.bytes() > BUDGET {
            let oldest = self.marks.iter().enumerate().min_by_key(|(_, mark)| mark.used);
            let Some((oldest, _)) = oldest else { break };
            self.marks.remove(oldest);
        }
    }

    /// The place from which the least of a conversation is left to read.
    pub(crate) fn nearest(&mut self, whole: &Rendered) -> Option<&Mark> {
        let begins = self.marks.iter_mut().filter(|mark| mark.read.begins(whole));
        let nearest = begins.max_by_key(|mark| mark.read.text.len())?;
        self.clock += 1;
        nearest.used = self.clock;
        Some(nearest)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    /// The bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.marks.iter().map(|mark| mark.bytes).sum()
    }
}
