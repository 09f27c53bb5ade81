//! [`Place`]: a checkpoint in one of an architecture's layouts: where its names stand.
//!
//! Not here: which names there are (`families`). Test: `tests/mamba_layouts.rs`,
//! `tests/rwkv_shapes.rs`.

use super::table::{Architecture, Layout};
use crate::FormatError;
use crate::checkpoint::{Checkpoint, CheckpointKind, SourceTensor};

/// A checkpoint, its layout, and what stands before all of its names.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) layout: &'static Layout,
    pub(super) prefix: &'a str,
}

impl<'a> Place<'a> {
    /// The checkpoint in the first layout of `architecture` that it has.
    pub(super) fn find(architecture: &Architecture, checkpoint: &'a Checkpoint) -> Option<Self> {
        let rwkv_cpp = checkpoint.kind() == CheckpointKind::RwkvCpp;
        let layouts = architecture.layouts.iter().filter(|layout| layout.rwkv_cpp == rwkv_cpp);
        layouts.into_iter().find_map(|layout| {
            let prefix = |mark: &&str| {
                let names: Vec<String> = mark.split(" & ").map(|name| layout.spell(name)).collect();
                let (first, others) = names.split_first()?;
                let before =
                    checkpoint.tensors().iter().filter_map(|t| t.name.strip_suffix(&**first));
                let mut before = before.filter(|prefix| prefix.is_empty() || prefix.ends_with('.'));
                let has_all = |prefix: &&str| {
                    others.iter().all(|name| checkpoint.get(&format!("{prefix}{name}")).is_some())
                };
                before.find(has_all)
            };
            let prefix = layout.marks.iter().find_map(prefix)?;
            let place = Place { checkpoint, layout, prefix };
            place.is_turned().then_some(place)
        })
    }

    /// Whether the matrices that tell the layout from others have its shapes, if there are such.
    fn is_turned(&self) -> bool {
        let Some((vector, matrices)) = self.layout.turned else { return true };
        let first = |name| self.checkpoint.get(&self.name(Some(0), name));
        let width = first(vector).map(SourceTensor::numel);
        matrices.iter().filter_map(|name| first(name)).any(|matrix| {
            let &[rows, cols] = &matrix.shape[..] else { return false };
            Some(cols) == width && rows != cols
        })
    }

    /// The whole name in the checkpoint of a name of the tables, of layer `i` or outside of the
    /// layers.
    pub(super) fn name(&self, layer: Option<usize>, name: &str) -> String {
        let Some(i) = layer else { return format!("{}{}", self.prefix, self.layout.spell(name)) };
        let whole = |below: &str| {
            let name = match self.layout.layers.split_once('*') {
                Some((before, behind)) => format!("{before}{below}{name}{behind}{i}"),
                None => format!("{}{i}.{below}{name}", self.layout.layers),
            };
            format!("{}{}", self.prefix, self.layout.spell(&name))
        };
        let (plain, nested) = (whole(""), self.layout.nested);
        let is_nested = !nested.is_empty() && self.checkpoint.get(&plain).is_none();
        Some(nested)
            .filter(|_| is_nested)
            .map(whole)
            .filter(|name| self.checkpoint.get(name).is_some())
            .unwrap_or(plain)
    }

    /// Number of layers: one more than the highest that a name mentions.
    pub(super) fn n_layer(&self) -> u64 {
        let (before, behind) = match self.layout.layers.split_once('*') {
            Some((before, behind)) => (before, Some(behind)),
            None => (self.layout.layers, None),
        };
        let before = format!("{}{}", self.prefix, self.layout.spell(before));
        let layer = |tensor: &SourceTensor| -> Option<u32> {
            let rest = tensor.name.strip_prefix(&before)?;
            let number = match behind {
                Some(behind) => rest.rsplit_once(behind).map(|(_, number)| number),
                None => rest.split('.').next(),
            };
            number?.parse().ok()
        };
        let highest = self.checkpoint.tensors().iter().filter_map(layer).max();
        highest.map_or(0, |n| u64::from(n) + 1)
    }

    /// The tensor of that whole name.
    pub(super) fn tensor(&self, name: &str) -> Result<&'a SourceTensor, FormatError> {
        self.checkpoint.get(name).ok_or_else(|| FormatError::MissingTensor {
            path: self.checkpoint.path().to_owned(),
            tensor: name.to_owned(),
        })
    }

    /// "This tensor has not the shape that the others ask for."
    pub(super) fn shape_error(&self, tensor: &SourceTensor, expected: String) -> FormatError {
        FormatError::Tensor {
            path: self.checkpoint.path().to_owned(),
            tensor: tensor.name.clone(),
            what: "the shape",
            expected,
            found: format!("{:?}", tensor.shape),
        }
    }

    /// "This hyper-parameter must be …".
    pub(super) fn field(&self, what: &'static str, expected: String, found: String) -> FormatError {
        FormatError::Field { path: self.checkpoint.path().to_owned(), what, expected, found }
    }
}

/// The first of some choices that is there. A choice may fail for want of a tensor, or give nothing
/// for want of a key; if all do, the first tensor wanted is the error, if there was one.
pub(super) fn first_found<C, T>(
    choices: impl IntoIterator<Item = C>,
    mut find: impl FnMut(C) -> Result<Option<T>, FormatError>,
) -> Result<Option<T>, FormatError> {
    let mut missing = None;
    for choice in choices {
        match find(choice) {
            Ok(None) => {}
            Err(error @ FormatError::MissingTensor { .. }) => missing = missing.or(Some(error)),
            found => return found,
        }
    }
    missing.map_or(Ok(None), Err)
}
