//! [`DraftModel`]: guesses what a smaller model with the same vocabulary would write.
//!
//! It chooses as the text's sampler would, with a copy of it: greedy where that is greedy, else
//! with the same random numbers, so that two distributions that are alike mostly give the same
//! token. Where its guesses were wrong it goes back, exactly ([`Session::rollback`]). Test:
//! `tests/speculate.rs`.

use super::{Draft, MAX_GUESSES};
use crate::model::Model;
use crate::sampler::Sampler;
use crate::session::Session;
use crate::{EngineError, EngineOptions, Result};

/// A smaller model that guesses.
pub struct DraftModel {
    session: Session,
    /// Where in the text it began to read.
    begin: usize,
    /// The tokens that it has read from there on.
    read: Vec<u32>,
    /// Tokens of a new text that it reads at most.
    recall: usize,
    sampler: Option<Sampler>,
}

impl DraftModel {
    /// Guesses by `draft` for texts of `model`.
    ///
    /// # Errors
    /// Their vocabularies have different sizes.
    pub fn new(draft: &Model, model: &Model, options: &EngineOptions) -> Result<DraftModel> {
        let [draft_vocab, n_vocab] = [draft, model].map(Model::n_vocab);
        if draft_vocab != n_vocab {
            return Err(EngineError::DraftVocabulary { draft: draft_vocab, model: n_vocab });
        }
        let mut session = Session::new(draft, options);
        session.keep_rollback(MAX_GUESSES + 1);
        let (read, recall) = (Vec::new(), usize::MAX);
        Ok(DraftModel { session, begin: 0, read, recall, sampler: None })
    }

    /// Reads no more than the last `tokens` tokens of a text that is new to it, one at least: its
    /// first guess does not take longer where texts are long, and may be worse. Default all.
    pub fn recall(self, tokens: usize) -> DraftModel {
        DraftModel { recall: tokens.max(1), ..self }
    }

    /// Reads `text`, from as far back as it is another one than what was read.
    fn follow(&mut self, text: &[u32]) -> Result<()> {
        let own = text.get(self.begin..).unwrap_or_default();
        let same = self.read.iter().zip(own).take_while(|(a, b)| a == b).count();
        // The last token is read again, so that its logits are there.
        let same = same.min(own.len().saturating_sub(1));
        let back = self.read.len() - same;
        let is_new = own.is_empty() || own.len() - same > self.recall;
        if is_new || back > self.session.rollback_reach() {
            self.session.reset();
            self.read.clear();
            self.begin = text.len().saturating_sub(self.recall);
        } else {
            self.session.rollback(back)?;
            self.read.truncate(same);
        }
        let new = &text[self.begin + self.read.len()..];
        self.session.prefill(new)?;
        self.read.extend_from_slice(new);
        Ok(())
    }
}

impl Draft for DraftModel {
    fn guess(
        &mut self,
        text: &[u32],
        sampler: &Sampler,
        most: usize,
        guesses: &mut Vec<u32>,
    ) -> Result<()> {
        let followed = self.follow(text);
        if followed.is_err() {
            // Whatever it was, it begins anew the next time.
            self.session.reset();
            self.read.clear();
        }
        followed?;
        let chooser = self.sampler.get_or_insert_with(|| sampler.clone());
        chooser.clone_from(sampler);
        for i in 0..most {
            if chooser.is_over() {
                break;
            }
            let token = chooser.sample(self.session.logits());
            chooser.accept(token);
            guesses.push(token);
            if i + 1 < most {
                self.session.step(token)?;
                self.read.push(token);
            }
        }
        Ok(())
    }
}
