//! The objects of a pickle: numbers, text, containers, and what PyTorch's names give.

use crate::checkpoint::dtype::SourceDType;

/// Most objects in one pickle, on its stack and in its memo: enough for 70 000 tensors.
pub(super) const NODES_MAX: usize = 1 << 20;

/// Index of an object.
pub(in crate::checkpoint) type Id = u32;

/// An object of the pickle.
#[derive(Debug)]
pub(in crate::checkpoint) enum Node {
    Int(i64),
    Bool(bool),
    /// None, a float, bytes, or what an unknown function would give: nothing here needs it, so only
    /// its place is kept.
    Opaque,
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// A `dict` or an `OrderedDict`, in order of insertion; a later equal key wins. An object of an
    /// unknown class is one too, with the items that the pickle puts into it, for it may be a
    /// subclass of `dict`; its attributes are left out.
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(Tensor),
}

/// Why a pickle was refused.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::checkpoint) struct Refusal {
    /// Byte offset of the opcode.
    pub(in crate::checkpoint) at: usize,
    pub(in crate::checkpoint) expected: &'static str,
    pub(in crate::checkpoint) found: String,
}

/// The objects of a pickle.
#[derive(Debug)]
pub(in crate::checkpoint) struct Pickle {
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
    /// Byte behind STOP.
    pub(in crate::checkpoint) end: usize,
}

impl Pickle {
    /// Every storage that is mentioned.
    pub(in crate::checkpoint) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    pub(in crate::checkpoint) fn root(&self) -> &Node {
        self.node(self.root)
    }

    /// The object of that index. Indices come from this pickle's own nodes.
    pub(in crate::checkpoint) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }
}

/// The callables and classes that may be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    /// `torch.Size`: a tuple.
    Size,
    /// `_rebuild_tensor(storage, offset, size, stride)`, and `_v2` with more after these.
    RebuildTensor,
    /// `_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, …)`.
    RebuildTensorV3,
    /// `_rebuild_parameter(tensor, …)`.
    RebuildParameter,
    /// A storage class or a torch dtype; `None` is `UntypedStorage`, whose length is in bytes.
    Numbers(Option<SourceDType>),
    /// `_rebuild_from_type_v2(function, class, arguments, attributes)`: a tensor of a class of its
    /// own, or one with attributes.
    RebuildFromType,
    /// Any other name: what it gives is not looked at.
    Other,
}

/// A storage, named by its key in the archive.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    /// A [`Node::Text`]: the entry `data/KEY` of the archive.
    pub(crate) key: Id,
    /// `None`: untyped.
    pub(crate) dtype: Option<SourceDType>,
    /// Number of elements (bytes when untyped).
    pub(crate) len: u64,
}

/// A tensor: a strided view into a storage.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) storage: Id,
    pub(crate) dtype: SourceDType,
    /// In elements.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    /// In elements.
    pub(crate) strides: Vec<usize>,
}
