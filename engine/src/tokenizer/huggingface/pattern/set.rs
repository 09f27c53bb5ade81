//! Sets of characters in regular expressions: `[^\s\p{L}]` and what may stand in it.
//!
//! ASCII is answered from a bit mask, the rest from Unicode's general categories (the crate
//! `unicode-general-category`), its scripts (`unicode-script`) and the standard library. Perl's
//! classes mean what the crate `regex` gives them (Unicode TR 18, annex C). Not here: reading them
//! (`parse.rs`). Test: `../oracle.rs`, over all characters.

use unicode_general_category::GeneralCategory::{self, *};
use unicode_general_category::get_general_category;
use unicode_script::{Script, UnicodeScript};

/// The general categories by their short names, but for surrogates, which are no characters.
const CATEGORIES: [(&str, GeneralCategory); 29] = [
    ("Cc", Control),
    ("Cf", Format),
    ("Cn", Unassigned),
    ("Co", PrivateUse),
    ("Ll", LowercaseLetter),
    ("Lm", ModifierLetter),
    ("Lo", OtherLetter),
    ("Lt", TitlecaseLetter),
    ("Lu", UppercaseLetter),
    ("Mc", SpacingMark),
    ("Me", EnclosingMark),
    ("Mn", NonspacingMark),
    ("Nd", DecimalNumber),
    ("Nl", LetterNumber),
    ("No", OtherNumber),
    ("Pc", ConnectorPunctuation),
    ("Pd", DashPunctuation),
    ("Pe", ClosePunctuation),
    ("Pf", FinalPunctuation),
    ("Pi", InitialPunctuation),
    ("Po", OtherPunctuation),
    ("Ps", OpenPunctuation),
    ("Sc", CurrencySymbol),
    ("Sk", ModifierSymbol),
    ("Sm", MathSymbol),
    ("So", OtherSymbol),
    ("Zl", LineSeparator),
    ("Zp", ParagraphSeparator),
    ("Zs", SpaceSeparator),
];

const fn bit(category: GeneralCategory) -> u32 {
    1 << category as u32
}

/// A part of a set.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Range(char, char),
    /// Any of the general categories whose bits are set.
    Category(u32),
    /// `\s`
    Space,
    /// `\w`
    Word,
    /// `\p{Han}`: Chinese characters.
    Han,
    Not(Box<Item>),
    /// `[…&&[…]]`: in any of the first and in the other.
    Both(Vec<Item>, Box<Set>),
}

impl Item {
    /// `\d`
    pub(super) const DIGIT: Item = Item::Category(bit(DecimalNumber));

    /// `\p{name}`, for a general category, its first letter, or the one script that tokenizers ask
    /// for.
    pub(super) fn category(name: &str) -> Option<Item> {
        if name == "Han" {
            return Some(Item::Han);
        }
        let named = CATEGORIES
            .iter()
            .filter(|(short, _)| *short == name || (name.len() == 1 && short.starts_with(name)));
        let mask = named.fold(0, |mask, (_, category)| mask | bit(*category));
        (mask != 0).then_some(Item::Category(mask))
    }

    fn contains(&self, c: char) -> bool {
        match self {
            Item::Range(first, last) => (*first..=*last).contains(&c),
            Item::Category(mask) => mask & bit(get_general_category(c)) != 0,
            Item::Space => c.is_whitespace(),
            Item::Word => is_word(c),
            Item::Han => c.script() == Script::Han,
            Item::Both(items, other) => {
                items.iter().any(|item| item.contains(c)) && other.contains(c)
            }
            Item::Not(item) => !item.contains(c),
        }
    }
}

/// Whether a character is one of words: `\w`.
pub(in super::super) fn is_word(c: char) -> bool {
    const MARKS: u32 = bit(NonspacingMark) | bit(SpacingMark) | bit(EnclosingMark);
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    let category = get_general_category(c);
    // The standard library may know a later Unicode: letters that have no category here are none.
    (c.is_alphabetic() && category != Unassigned)
        || (MARKS | bit(DecimalNumber) | bit(ConnectorPunctuation)) & bit(category) != 0
        || matches!(c, '\u{200c}' | '\u{200d}')
}

/// Whether a character is punctuation: `\p{P}`.
pub(in super::super) fn is_punctuation(c: char) -> bool {
    const PUNCTUATION: u32 = bit(ConnectorPunctuation)
        | bit(DashPunctuation)
        | bit(OpenPunctuation)
        | bit(ClosePunctuation)
        | bit(InitialPunctuation)
        | bit(FinalPunctuation)
        | bit(OtherPunctuation);
    PUNCTUATION & bit(get_general_category(c)) != 0
}

/// A set of characters.
#[derive(Clone, Debug)]
pub(super) struct Set {
    /// The answer for each ASCII character.
    ascii: u128,
    items: Vec<Item>,
    negated: bool,
}

impl Set {
    pub(super) fn new(items: Vec<Item>, negated: bool) -> Self {
        let mut set = Set { ascii: 0, items, negated };
        for c in 0..128u8 {
            set.ascii |= u128::from(set.search(char::from(c))) << c;
        }
        set
    }

    /// Whether the set holds `c`.
    #[inline]
    pub(super) fn contains(&self, c: char) -> bool {
        if c.is_ascii() { self.ascii >> (c as u32) & 1 != 0 } else { self.search(c) }
    }

    fn search(&self, c: char) -> bool {
        self.items.iter().any(|item| item.contains(c)) != self.negated
    }
}
