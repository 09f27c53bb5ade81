//! PyTorch's files from before version 1.6: five pickles one after the other, then the storages.
//!
//! Here: the order of the parts. The pickles are a magic number, a version, the writer's integers,
//! the object, and the keys of the storages, which follow in this order, each with its length. Not
//! here: the pickle (`pickle`), and which of its tensors are the model's (`torch_table`). Source:
//! torch/serialization.py `_legacy_save`. Test: at the end of this file, and `tests` on a file that
//! PyTorch wrote.

use std::collections::HashMap;
use std::sync::Arc;

use super::pickle::{Node, PICKLE_MAX, Pickle};
use super::source::{Blob, SourceFile};
use super::table::Table;
use super::torch_table;
use crate::FormatError;

/// The version of all such files.
const VERSION: i64 = 1001;

/// Bytes before a storage: its length in elements.
const LENGTH: u64 = 8;

/// Reads the table of tensors of `file`.
pub(super) fn read(file: &Arc<SourceFile>) -> Result<Table, FormatError> {
    let head = file.head(PICKLE_MAX as usize)?;
    let mut at = 0;
    let mut next = || {
        let pickle = Pickle::parse(&head[at..]).map_err(|refusal| {
            let found = format!("{} (byte {})", refusal.found, at + refusal.at);
            file.field("the pickle", refusal.expected, found)
        })?;
        at += pickle.end;
        Ok::<_, FormatError>(pickle)
    };
    next()?;
    match next()?.root() {
        Node::Int(VERSION) => {}
        found => return Err(file.field("the version", VERSION, format_args!("{found:?}"))),
    }
    let writer = next()?;
    if let Node::Dict(items) = writer.root() {
        let is = |id, wanted: &str| matches!(writer.node(id), Node::Text(key) if key == wanted);
        let order = items.iter().find(|(key, _)| is(*key, "little_endian"));
        if order.is_some_and(|(_, value)| matches!(writer.node(*value), Node::Bool(false))) {
            return Err(file.field("the byte order", "little", "big"));
        }
    }
    let object = next()?;
    let keys = next()?;
    let blobs = storages(file, &object, &keys, at as u64)?;
    torch_table::table(file, &object, |key| {
        let missing = || file.field("the storages", "complete", format_args!("{key}: missing"));
        blobs.get(key).cloned().ok_or_else(missing)
    })
}

/// The storages from byte `at` on, in the order of `keys`, with the number formats that `object`
/// gives them.
fn storages<'p>(
    file: &Arc<SourceFile>,
    object: &Pickle,
    keys: &'p Pickle,
    mut at: u64,
) -> Result<HashMap<&'p str, Blob>, FormatError> {
    let mut sizes = HashMap::new();
    for storage in object.storages() {
        if let Node::Text(key) = object.node(storage.key) {
            let size = storage.dtype.map_or(1, |dtype| dtype.block_bytes() as u64);
            sizes.insert(key.as_str(), size);
        }
    }
    let Node::List(list) = keys.root() else {
        return Err(file.field("the keys of the storages", "a list", "something else"));
    };
    let mut blobs = HashMap::new();
    for key in list {
        let Node::Text(key) = keys.node(*key) else {
            return Err(file.field("the keys of the storages", "texts", "something else"));
        };
        let mut len = [0; LENGTH as usize];
        file.read_at(at, &mut len, "the length of a storage")?;
        at += LENGTH;
        // Numbers of a kind that is not known have no size: what follows cannot be found.
        let Some(size) = sizes.get(key.as_str()) else {
            let found = format!("{key}: of another kind");
            return Err(file.field("the storages", "of numbers", found));
        };
        let len = u64::from_le_bytes(len).saturating_mul(*size);
        file.check(at, len, "a storage")?;
        blobs.insert(key.as_str(), Blob::Plain { file: Arc::clone(file), offset: at, len });
        at += len;
    }
    Ok(blobs)
}
