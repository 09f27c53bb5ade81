//! Keys: who asks.
//!
//! Hashes are compared, each with every key in constant time, so that neither the time nor a key's
//! length tells how much of a guess was right. Test: below, `tests/serve/keys.rs`.

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::options::Keys;

/// Whose request it is, by the place of the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Owner(pub(crate) usize);

/// The keys of a server, as their hashes.
pub(crate) struct Auth {
    hashes: Vec<[u8; 32]>,
}

fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

impl Auth {
    pub(crate) fn new(keys: &Keys) -> Auth {
        Auth { hashes: keys.0.iter().map(|key| hash(key.as_bytes())).collect() }
    }

    /// Whether a key is needed.
    pub(crate) fn is_on(&self) -> bool {
        !self.hashes.is_empty()
    }

    /// How many owners there are.
    pub(crate) fn owners(&self) -> usize {
        self.hashes.len().max(1)
    }

    /// Whose key it is; without keys everybody is the same.
    pub(crate) fn owner(&self, key: Option<&[u8]>) -> Option<Owner> {
        if !self.is_on() {
            return Some(Owner(0));
        }
        let given = hash(key?);
        let (mut found, mut is_known) = (0u64, Choice::from(0));
        for (i, hash) in (0u64..).zip(&self.hashes) {
            let is_it = hash.ct_eq(&given);
            found.conditional_assign(&i, is_it);
            is_known |= is_it;
        }
        bool::from(is_known).then_some(Owner(found as usize))
    }

    /// The name of an owner's folder: nothing that tells the key.
    pub(crate) fn folder(&self, owner: Owner) -> String {
        match self.hashes.get(owner.0) {
            None => "open".to_owned(),
            Some(hash) => {
                let again = Sha256::digest([b"brooklet folder of ", &hash[..]].concat());
                again.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart() {
        let auth = Auth::new(&Keys::new(["one", "two", "one"].map(str::to_owned)));
        assert_eq!((auth.owners(), auth.is_on()), (2, true));
        assert_eq!(auth.owner(Some(b"one")), Some(Owner(0)));
        assert_eq!(auth.owner(Some(b"two")), Some(Owner(1)));
        for wrong in [&b"on"[..], b"one ", b"", b"ONE"] {
            assert_eq!(auth.owner(Some(wrong)), None);
        }
        assert_eq!(auth.owner(None), None);
        assert_ne!(auth.folder(Owner(0)), auth.folder(Owner(1)));
        let open = Auth::new(&Keys::default());
        assert_eq!((open.owner(None), open.owner(Some(b"x"))), (Some(Owner(0)), Some(Owner(0))));
    }
}
