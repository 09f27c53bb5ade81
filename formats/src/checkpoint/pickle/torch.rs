//! The names that a pickle of PyTorch may mention, and what calling them gives: views into
//! storages.
//!
//! Here: the whole list of them ([`Global`]), and REDUCE, BUILD and BINPERSID, which are all that a
//! pickle can do with them. Not here: the stack (`machine`), the storages' bytes (`torch_zip`).
//! Sources: torch/_utils.py `_rebuild_*`; torch/serialization.py `persistent_id`. Test: in the
//! module above.

use super::machine::Machine;
use super::object::{Global, Id, Node, Refusal, Storage, Tensor};
use crate::checkpoint::dtype::SourceDType;

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch.storage" | "torch", "UntypedStorage") => Self::Numbers(None),
            ("torch", _) => Self::Numbers(Some(SourceDType::from_torch(name)?)),
            _ => return None,
        })
    }
}

impl Machine<'_> {
    /// GLOBAL: a name, which must be one of the list.
    pub(super) fn global(&mut self, module: &str, name: &str) -> Result<(), Refusal> {
        match Global::named(module, name) {
            Some(global) => self.push(Node::Global(global)),
            None => self.refuse(
                "tensors, numbers, text and containers of them",
                format!("{module}.{name}"),
            ),
        }
    }

    /// The items of a tuple.
    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        // A tensor has few dimensions: the bound keeps shared long tuples from being copied over
        // and over.
        let items = self.tuple(id).filter(|items| items.len() <= 8)?;
        items.iter().map(|&id| self.size(id)).collect()
    }

    /// REDUCE: the call of one of the [`Global`]s, of which none does anything.
    pub(super) fn reduce(&mut self) -> Result<(), Refusal> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let Node::Global(global) = *self.node(callable) else {
            return self.refuse("a known function", "the call of something else".into());
        };
        let Some(arguments) = self.tuple(arguments) else {
            return self.refuse("a tuple of arguments", "something else".into());
        };
        match (global, arguments) {
            (Global::OrderedDict, []) => self.push(Node::Dict(Vec::new())),
            (Global::Size, &[items]) | (Global::RebuildParameter, &[items, ..]) => {
                self.push_known(items);
                Ok(())
            }
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                self.rebuild(storage, None, offset, shape, strides)
            }
            (Global::RebuildTensorV3, &[storage, offset, shape, strides, _, _, dtype, ..]) => {
                self.rebuild(storage, Some(dtype), offset, shape, strides)
            }
            _ => self.refuse(
                "the arguments that torch.save writes",
                format!("{} for {global:?}", arguments.len()),
            ),
        }
    }

    /// Pushes a tensor. Its numbers are those of its storage unless a dtype is given.
    fn rebuild(
        &mut self,
        storage: Id,
        dtype: Option<Id>,
        offset: Id,
        shape: Id,
        strides: Id,
    ) -> Result<(), Refusal> {
        let dtype = match (self.node(storage), dtype.map(|id| self.node(id))) {
            (Node::Storage(storage), None) => storage.dtype,
            (Node::Storage(_), Some(Node::Global(Global::Numbers(dtype)))) => *dtype,
            _ => None,
        };
        let view = (dtype, self.size(offset), self.sizes(shape), self.sizes(strides));
        let (Some(dtype), Some(offset), Some(shape), Some(strides)) = view else {
            return self.refuse(
                "a typed storage, an offset, a shape and strides",
                "other arguments".into(),
            );
        };
        self.push(Node::Tensor(Tensor { storage, dtype, offset, shape, strides }))
    }

    /// BUILD: attributes, such as a state dict's `_metadata`. They hold no tensors and are left
    /// out.
    pub(super) fn build(&mut self) -> Result<(), Refusal> {
        self.pop()?;
        let target = self.top()?;
        match self.node(target) {
            Node::Dict(_) | Node::Tensor(_) => Ok(()),
            _ => self.refuse("attributes of a dict or a tensor", "of something else".into()),
        }
    }

    /// BINPERSID: `("storage", class, key, device, length, …)`.
    pub(super) fn storage(&mut self) -> Result<(), Refusal> {
        let id = self.pop()?;
        let storage = match self.tuple(id) {
            Some(&[tag, class, key, _, len, ..]) => {
                match (self.node(tag), self.node(class), self.node(key), self.size(len)) {
                    (
                        Node::Text(tag),
                        Node::Global(Global::Numbers(dtype)),
                        Node::Text(_),
                        Some(len),
                    ) if tag == "storage" => Some(Storage { key, dtype: *dtype, len: len as u64 }),
                    _ => None,
                }
            }
            _ => None,
        };
        match storage {
            Some(storage) => self.push(Node::Storage(storage)),
            None => self.refuse("a storage of numbers", "another persistent object".into()),
        }
    }
}
