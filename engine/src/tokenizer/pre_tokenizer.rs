//! The pre-tokenizers of a `tokenizer.json`: the crate's own, but for GPT-2's ByteLevel, which is restated here.
//!
//! The crate's ByteLevel keeps its tables in statics for the life of the process, which leak checkers report in programs that
//! link us as a library; here they go with the tokenizer. Source: `tokenizers`, `pre_tokenizers/byte_level.rs`, and GPT-2's
//! encoder.py. Tests: below against the crate, and every case of `fixtures/tokenizer-gpt-neox-20b` in `tests.rs`.

use std::sync::Arc;

use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Result, SplitDelimiterBehavior};

use super::pieces::byte_alphabet;

/// What ByteLevel cuts a text into: words, numbers, other signs, white space.
const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What cuts a text before the model sees it.
#[derive(Clone, Debug)]
pub(super) enum Pre {
    ByteLevel(Arc<ByteLevel>),
    Sequence(Vec<Pre>),
    Other(PreTokenizerWrapper),
}

/// Names bytes by characters that print, after cutting the text into words.
#[derive(Debug)]
pub(super) struct ByteLevel {
    /// Put a space before text that does not begin with one.
    add_prefix_space: bool,
    words: Option<Split>,
    /// The name of each byte.
    names: [char; 256],
}

impl Pre {
    /// The same pre-tokenizer as the crate's.
    pub(super) fn new(own: &PreTokenizerWrapper) -> Result<Pre> {
        Ok(match own {
            PreTokenizerWrapper::ByteLevel(own) => {
                let words = || {
                    Split::new(
                        SplitPattern::Regex(GPT2_WORDS.into()),
                        SplitDelimiterBehavior::Isolated,
                        false,
                    )
                };
                let words = own.use_regex.then(words).transpose()?;
                let mut names = ['\0'; 256];
                byte_alphabet().into_iter().for_each(|(name, byte)| names[usize::from(byte)] = name);
                Pre::ByteLevel(Arc::new(ByteLevel { add_prefix_space: own.add_prefix_space, words, names }))
            }
            PreTokenizerWrapper::Sequence(own) => {
                Pre::Sequence(own.as_ref().iter().map(Pre::new).collect::<Result<_>>()?)
            }
            other => Pre::Other(other.clone()),
        })
    }
}

impl PreTokenizer for Pre {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        match self {
            Pre::ByteLevel(own) => own.pre_tokenize(text),
            Pre::Sequence(steps) => steps.iter().try_for_each(|step| step.pre_tokenize(text)),
            Pre::Other(own) => own.pre_tokenize(text),
        }
    }
}

impl ByteLevel {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        text.split(|_, mut part| {
            if self.add_prefix_space && !part.get().starts_with(' ') {
                part.prepend(" ");
            }
            Ok(vec![part])
        })?;
        if let Some(words) = &self.words {
            words.pre_tokenize(text)?;
        }
        text.normalize(|part| {
            let mut named = Vec::with_capacity(part.get().len());
            for c in part.get().chars() {
                // The first byte's name stands for the character, the others are new.
                for (i, byte) in c.encode_utf8(&mut [0; 4]).bytes().enumerate() {
                    named.push((self.names[usize::from(byte)], isize::from(i > 0)));
                }
            }
            part.transform(named, 0);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::sequence::Sequence;
    use tokenizers::pre_tokenizers::{byte_level, digits::Digits};
    use tokenizers::{OffsetReferential, OffsetType};

    use super::*;

    /// The pieces that a pre-tokenizer makes of a text.
    fn pieces(own: &impl PreTokenizer, text: &str) -> Vec<String> {
        let mut cut = PreTokenizedString::from(text);
        own.pre_tokenize(&mut cut).unwrap();
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(piece, _, _)| piece.to_owned()).collect()
    }

    #[test]
    fn byte_level_is_the_crate_s() {
        let texts = [
            "",
            " ",
            "Hello,  it's “naïve”\n\n\t  don't 12x34 ",
            "  leading, and 😀\u{1f3fd} 漢字かな\u{a0}x",
            "a\u{301}\u{0}\u{7f}\u{ad}é",
        ];
        for (prefix, regex) in [(false, true), (true, true), (false, false), (true, false)] {
            let level = PreTokenizerWrapper::ByteLevel(byte_level::ByteLevel::new(prefix, true, regex));
            let digits = PreTokenizerWrapper::Digits(Digits::new(true));
            let both = PreTokenizerWrapper::Sequence(Sequence::new(vec![digits, level.clone()]));
            for theirs in [level, both] {
                let ours = Pre::new(&theirs).unwrap();
                for text in texts {
                    assert_eq!(pieces(&ours, text), pieces(&theirs, text), "{text:?} {prefix} {regex}");
                }
            }
        }
        let all: String = (0..0x3000).filter_map(char::from_u32).collect();
        let level = PreTokenizerWrapper::ByteLevel(byte_level::ByteLevel::new(false, true, true));
        assert_eq!(pieces(&Pre::new(&level).unwrap(), &all), pieces(&level, &all));
    }
}
