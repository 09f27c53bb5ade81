//! What an engine thread begins with: caches, and whoever guesses.

use brooklet::prefix::PrefixCache;
use brooklet::speculate::{Draft, DraftModel, Lookup};
use brooklet::{EngineError, Model};

use crate::auth::{Auth, Owner};
use crate::options::Options;

/// Tokens of a text that a smaller model reads before its first guess: everybody waits for it.
const RECALL: usize = 256;

/// Names what texts depend on beside a request: the program and the model.
pub(crate) fn fingerprint(model: &Model) -> String {
    format!("brooklet-{}-{:016x}", env!("CARGO_PKG_VERSION"), model.fingerprint())
}

/// One cache for each key, with its share of the memory.
pub(crate) fn caches(
    model: &Model,
    options: &Options,
    auth: &Auth,
) -> Result<Vec<PrefixCache>, EngineError> {
    let bytes = options.prefix.bytes / auth.owners();
    let one = |owner: usize| {
        let cache = PrefixCache::new(model, bytes);
        match &options.prefix.folder {
            None => Ok(cache),
            Some(folder) => {
                let folder = folder.join(auth.folder(Owner(owner)));
                cache.with_folder(model, &folder, bytes as u64)
            }
        }
    };
    (0..auth.owners()).map(one).collect()
}

/// Whoever guesses.
pub(crate) fn drafts(model: &Model, options: &Options) -> Result<Vec<Box<dyn Draft>>, EngineError> {
    let mut drafts: Vec<Box<dyn Draft>> = Vec::new();
    if options.guesses.lookup {
        drafts.push(Box::new(Lookup::new()));
    }
    for draft in &options.guesses.drafts {
        let engine = options.engine.clone().logits(1);
        let draft = DraftModel::new(draft, model, &engine)?;
        drafts.push(Box::new(draft.recall(RECALL)));
    }
    Ok(drafts)
}
