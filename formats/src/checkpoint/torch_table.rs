//! The model in a pickle of PyTorch: which container has its weights, and where their numbers are.
//!
//! Here: state dicts as they are and as training scripts wrap them, beside optimizers and options.
//! Not here: the pickle's opcodes (`pickle`), the files around it (`torch_zip`, `torch_legacy`).
//! Bounds: the depth and the number of containers, and the numbers of all tensors together: views
//! may share a storage, expanded ones repeat it, and neither may ask for much more work than the
//! file's own length says. Test: `torch_zip`, `torch_legacy`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::meta::MetaValue;
use super::pickle::{Id, Node, Pickle, Tensor};
use super::source::{Blob, SourceFile};
use super::table::Table;
use super::tensor::SourceTensor;
use crate::FormatError;

/// Keys under which training scripts wrap the state dict, in the order in which they are tried.
const WRAPPERS: [&str; 9] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "network",
    "net",
    "weights",
    "params",
];

/// Bounds of the walk through the containers: depth, entries visited, bytes of a dotted name.
const DEPTH_MAX: usize = 16;
const VISITS_MAX: usize = 1 << 18;
const NAME_MAX: usize = 512;

/// All tensors together may have so many times the bytes of their storages, and so many more; tied
/// weights have twice as many.
const SHARED_MAX: u64 = 16;
const SHARED_LEAST: u64 = 1 << 20;

/// Key of the table's metadata for a text or number that stands among the tensors under a name of
/// its own.
pub(crate) const BESIDE: &str = "torch.";

/// The tensors of `pickle`; `blob` finds a storage by its key.
pub(super) fn table<'p>(
    file: &Arc<SourceFile>,
    pickle: &'p Pickle,
    mut blob: impl FnMut(&'p str) -> Result<Blob, FormatError>,
) -> Result<Table, FormatError> {
    let mut found = Vec::new();
    let mut visits = 0;
    let dict = state_dict(pickle);
    collect(pickle, dict, String::new(), 0, &mut visits, &mut found)
        .map_err(|(expected, found)| file.field("the pickle", expected, found))?;
    let mut blobs: HashMap<&str, Blob> = HashMap::new();
    let (mut stored, mut wanted) = (0u64, 0u64);
    let mut table = Table { metadata: beside(pickle, dict), ..Table::default() };
    for (name, tensor) in found {
        let Node::Storage(storage) = pickle.node(tensor.storage) else { continue };
        let Node::Text(key) = pickle.node(storage.key) else { continue };
        let blob = match blobs.get(key.as_str()) {
            Some(blob) => Blob::clone(blob),
            None => {
                let blob = blob(key)?;
                stored = stored.saturating_add(blob.len());
                blobs.insert(key, blob.clone());
                blob
            }
        };
        let size = storage.dtype.map_or(1, |dtype| dtype.block_bytes() as u64);
        if storage.len.checked_mul(size).is_none_or(|len| len > blob.len()) {
            let expected = format!("{} elements of {size} bytes", storage.len);
            let found = format!("{} bytes", blob.len());
            return Err(file.tensor(&name, "storage", expected, found));
        }
        let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
        let (dtype, offset) = (tensor.dtype, tensor.offset);
        let tensor = SourceTensor::strided(name, shape, dtype, blob, offset, strides)?;
        let bytes = dtype.bytes_of(tensor.numel()).unwrap_or(u64::MAX);
        wanted = wanted.saturating_add(bytes);
        table.tensors.push(tensor);
    }
    let most = stored.saturating_mul(SHARED_MAX).saturating_add(SHARED_LEAST);
    if wanted > most {
        let expected = format!("at most {most} bytes, for its storages have {stored}");
        return Err(file.field("the size of all tensors together", expected, wanted));
    }
    Ok(table)
}

/// The texts and numbers that stand beside the tensors, where what made the file left a sign of
/// itself.
fn beside(pickle: &Pickle, dict: &Node) -> std::collections::BTreeMap<String, MetaValue> {
    let Node::Dict(items) = dict else { return Default::default() };
    let entry = |(key, value): &(Id, Id)| {
        let Node::Text(key) = pickle.node(*key) else { return None };
        let value = match pickle.node(*value) {
            Node::Text(text) if text.len() <= NAME_MAX => MetaValue::Text(text.clone()),
            Node::Int(value) => MetaValue::Signed(*value),
            _ => return None,
        };
        (key.len() <= NAME_MAX).then(|| (format!("{BESIDE}{key}"), value))
    };
    items.iter().filter_map(entry).collect()
}

/// The container that holds the model's tensors: the root, or what a training script put into it.
fn state_dict(pickle: &Pickle) -> &Node {
    let mut node = pickle.root();
    for _ in 0..DEPTH_MAX {
        let Node::Dict(items) = node else { break };
        let inner = WRAPPERS.iter().find_map(|wrapper| {
            let named = |key: Id| matches!(pickle.node(key), Node::Text(key) if key == wrapper);
            let (_, value) = items.iter().rev().find(|(key, _)| named(*key))?;
            let value = pickle.node(*value);
            // A tensor or two may stand beside the wrapper: a step, a loss.
            let (outside, inside) = (n_tensors(pickle, node), n_tensors(pickle, value));
            let has_more = inside > outside || outside == 0;
            Some(value).filter(|value| matches!(value, Node::Dict(_)) && has_more)
        });
        match inner {
            Some(inner) => node = inner,
            None => break,
        }
    }
    node
}

/// Tensors that stand in a container themselves.
fn n_tensors(pickle: &Pickle, node: &Node) -> usize {
    let Node::Dict(items) = node else { return 0 };
    items.iter().filter(|(_, value)| matches!(pickle.node(*value), Node::Tensor(_))).count()
}

/// Collects the tensors below `node` under their dotted names. Values that are neither tensors nor
/// containers are left out. Fails with (expected, found) on nesting or sharing that no checkpoint
/// has.
fn collect<'a>(
    pickle: &'a Pickle,
    node: &'a Node,
    name: String,
    depth: usize,
    visits: &mut usize,
    found: &mut Vec<(String, &'a Tensor)>,
) -> Result<(), (&'static str, &'static str)> {
    *visits += 1;
    if depth > DEPTH_MAX || *visits > VISITS_MAX || name.len() > NAME_MAX {
        return Err(("a table of tensors", "containers nested without end"));
    }
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match node {
        Node::Tensor(tensor) => found.push((name, tensor)),
        Node::Dict(items) => {
            // A later equal key wins, as in Python; the order of the others stays.
            let mut seen = HashSet::new();
            let mut kept: Vec<_> = items
                .iter()
                .rev()
                .filter_map(|(key, value)| match pickle.node(*key) {
                    Node::Text(key) if seen.insert(key.as_str()) => Some((key, value)),
                    _ => None,
                })
                .collect();
            kept.reverse();
            for (key, value) in kept {
                collect(pickle, pickle.node(*value), below(key), depth + 1, visits, found)?;
            }
        }
        Node::List(items) | Node::Tuple(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(
                    pickle,
                    pickle.node(*item),
                    below(&i.to_string()),
                    depth + 1,
                    visits,
                    found,
                )?;
            }
        }
        _ => {}
    }
    Ok(())
}
