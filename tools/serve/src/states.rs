//! States that clients keep, by their ids: in memory, and in a folder where one was given.
//!
//! An id belongs to its key: another key's request for it finds nothing. Memory is bounded, each
//! key has its share of it, and the state that was not used for longest goes first; saved ones can
//! be loaded again. Ids have letters, digits, `-` and `_` alone, so that none is a path. Test:
//! below, `tests/serve/states.rs`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brooklet::{DType, Model, Snapshot};
use serde::Serialize;

use crate::auth::{Auth, Owner};
use crate::error::{ApiError, Result};
use crate::metrics::{Metrics, now};

/// The longest id.
const LONGEST: usize = 64;

/// The most states of a key.
const MOST: usize = 10_000;

/// A state that is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) snapshot: Snapshot,
    bytes: usize,
    /// Unix time, in seconds.
    created: u64,
}

/// What is told of a state.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    id: String,
    object: &'static str,
    created: u64,
    /// Tokens that it has read.
    tokens: u64,
    bytes: usize,
    saved: bool,
}

struct Entry {
    kept: Arc<Kept>,
    used: u64,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<(Owner, String), Entry>,
    clock: u64,
}

/// All states.
pub(crate) struct States {
    /// Bytes of one key's.
    most: usize,
    folder: Option<PathBuf>,
    inner: Mutex<Inner>,
    metrics: Arc<Metrics>,
}

/// Whether a client may name a state so.
fn check(id: &str) -> Result<()> {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    match (1..=LONGEST).contains(&id.len()) && id.bytes().all(is_plain) {
        true => Ok(()),
        false => Err(ApiError::field(
            "id",
            format!("id: expected 1 to {LONGEST} letters, digits, - or _"),
        )),
    }
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no state {id:?}")).code("state_not_found")
}

impl Kept {
    fn new(snapshot: Snapshot) -> Kept {
        let Snapshot { state, tail, logits, note, .. } = &snapshot;
        let tokens = usize::try_from(state.position()).unwrap_or(usize::MAX);
        let layout = state.layout();
        let own = layout.bytes().saturating_add(layout.growing_bytes(tokens));
        let bytes = own
            .saturating_add(size_of_val(&tail[..]) + size_of_val(&logits[..]))
            .saturating_add(note.len());
        Kept { bytes, created: now(), snapshot }
    }
}

impl States {
    pub(crate) fn new(
        bytes: usize,
        owners: usize,
        folder: Option<PathBuf>,
        metrics: Arc<Metrics>,
    ) -> States {
        States { most: bytes / owners.max(1), folder, inner: Mutex::default(), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a state of that name is saved, or would be.
    fn place(&self, auth: &Auth, owner: Owner, id: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.join(auth.folder(owner)).join(format!("{id}.brks")))
    }

    fn is_saved(&self, auth: &Auth, owner: Owner, id: &str) -> bool {
        self.place(auth, owner, id).is_some_and(|path| path.is_file())
    }

    /// Keeps a state under a name; one that had it is dropped.
    pub(crate) fn keep(&self, owner: Owner, id: &str, snapshot: Snapshot) -> Result<()> {
        check(id)?;
        let kept = Arc::new(Kept::new(snapshot));
        if kept.bytes > self.most {
            let message = format!(
                "a state of {} bytes: this server keeps {} of a key at most",
                kept.bytes, self.most
            );
            return Err(ApiError::field("keep_state", message).code("state_too_large"));
        }
        self.insert(owner, id, kept);
        Ok(())
    }

    fn insert(&self, owner: Owner, id: &str, kept: Arc<Kept>) {
        let mut inner = self.lock();
        inner.clock += 1;
        let used = inner.clock;
        inner.entries.insert((owner, id.to_owned()), Entry { kept, used });
        loop {
            let own = inner.entries.iter().filter(|((of, _), _)| *of == owner);
            let (mut bytes, mut count, mut oldest) = (0usize, 0, None);
            for (key, entry) in own {
                bytes = bytes.saturating_add(entry.kept.bytes);
                count += 1;
                if oldest.as_ref().is_none_or(|(used, _)| entry.used < *used) {
                    oldest = Some((entry.used, key.clone()));
                }
            }
            match oldest {
                Some((_, key)) if bytes > self.most || count > MOST => inner.entries.remove(&key),
                _ => break,
            };
        }
        let all = inner.entries.values().map(|entry| entry.kept.bytes).sum();
        self.metrics.state_bytes.store(all, Ordering::Relaxed);
    }

    /// A state, read from its file if need be.
    pub(crate) fn get(
        &self,
        (auth, owner): (&Auth, Owner),
        model: &Model,
        id: &str,
    ) -> Result<Arc<Kept>> {
        check(id)?;
        let mut inner = self.lock();
        inner.clock += 1;
        let used = inner.clock;
        if let Some(entry) = inner.entries.get_mut(&(owner, id.to_owned())) {
            entry.used = used;
            return Ok(entry.kept.clone());
        }
        drop(inner);
        let path = self.place(auth, owner, id).filter(|path| path.is_file());
        let path = path.ok_or_else(|| missing(id))?;
        let snapshot = Snapshot::load(model, &path).map_err(|error| {
            // The folder's name is nobody's business.
            let message = error.to_string().replace(&*path.to_string_lossy(), id);
            ApiError::field("id", message)
        })?;
        let kept = Arc::new(Kept::new(snapshot));
        if kept.bytes <= self.most {
            self.insert(owner, id, kept.clone());
        }
        Ok(kept)
    }

    /// Saves a state in the folder, whole or not at all.
    pub(crate) fn save(&self, (auth, owner): (&Auth, Owner), id: &str, kept: &Kept) -> Result<()> {
        let path = self.place(auth, owner, id).ok_or_else(|| {
            ApiError::field("id", "this server was started without a folder for states")
                .code("no_states_folder")
        })?;
        let failed = |why: String| {
            ApiError::internal(why.replace(&*path.to_string_lossy(), id)).code("not_saved")
        };
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        folder.map_err(|error| failed(format!("the folder for states: {}", error.kind())))?;
        kept.snapshot.save(&path, DType::F32).map_err(|error| failed(error.to_string()))
    }

    /// Forgets a state, its file included.
    pub(crate) fn remove(&self, (auth, owner): (&Auth, Owner), id: &str) -> Result<()> {
        check(id)?;
        let was_kept = self.lock().entries.remove(&(owner, id.to_owned())).is_some();
        let place = self.place(auth, owner, id);
        let was_saved = place.is_some_and(|path| std::fs::remove_file(path).is_ok());
        if was_kept || was_saved { Ok(()) } else { Err(missing(id)) }
    }

    /// What is told of a state.
    pub(crate) fn told(&self, (auth, owner): (&Auth, Owner), id: &str, kept: &Kept) -> Told {
        Told {
            id: id.to_owned(),
            object: "state",
            created: kept.created,
            tokens: kept.snapshot.state.position(),
            bytes: kept.bytes,
            saved: self.is_saved(auth, owner, id),
        }
    }

    /// The states of a key in memory, the newest first, and the names of those in its folder.
    pub(crate) fn list(&self, auth: &Auth, owner: Owner) -> (Vec<Told>, Vec<String>) {
        let inner = self.lock();
        let own = inner.entries.iter().filter(|((of, _), _)| *of == owner);
        let mut own: Vec<(u64, String, Arc<Kept>)> =
            own.map(|((_, id), entry)| (entry.used, id.clone(), entry.kept.clone())).collect();
        drop(inner);
        own.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let told: Vec<Told> =
            own.iter().map(|(_, id, kept)| self.told((auth, owner), id, kept)).collect();
        let folder = self.folder.as_ref().map(|folder| folder.join(auth.folder(owner)));
        let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
        let mut saved: Vec<String> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                entry.file_name().to_str()?.strip_suffix(".brks").map(str::to_owned)
            })
            .filter(|id| check(id).is_ok() && !own.iter().any(|(_, known, _)| known == id))
            .take(MOST)
            .collect();
        saved.sort();
        (told, saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_is_a_path() {
        let long = "x".repeat(LONGEST + 1);
        for id in ["", ".", "..", "a/b", "a\\b", "a.b", "é", "a b", "a\0", "C:", &long] {
            assert!(check(id).is_err(), "{id:?}");
        }
        assert!(check("st-0_A").is_ok());
    }
}
