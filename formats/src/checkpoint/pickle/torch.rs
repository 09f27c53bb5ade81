//! The names that a pickle of PyTorch may mention, and what calling them gives: views into
//! storages.
//!
//! Here: the list of those that matter ([`Global`]; any other is passed over, never called), and
//! REDUCE, BUILD and BINPERSID, which are all that a pickle can do with them. Not here: the stack
//! (`machine`), the storages' bytes (`torch_zip`). Sources: torch/_utils.py `_rebuild_*`;
//! torch/serialization.py `persistent_id`. Test: in the module above.

use super::machine::Machine;
use super::object::{Global, Id, Node, Refusal, Storage, Tensor};
use crate::checkpoint::dtype::SourceDType;

/// Modules whose functions no checkpoint needs and attacks use, and functions elsewhere of which
/// this is true. They would not be called either, but a file that names one is no checkpoint.
const HOSTILE_MODULES: [&str; 12] = [
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "runpy",
    "pty",
    "socket",
    "shutil",
    "importlib",
    "ctypes",
    "webbrowser",
];
const HOSTILE: [&str; 12] = [
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "builtins.compile",
    "builtins.__import__",
    "builtins.breakpoint",
    "torch.load",
    "torch.hub.load",
    "numpy.load",
    "pickle.loads",
    "pickle.load",
    "torch.jit.load",
];

fn is_hostile(module: &str, name: &str) -> bool {
    let first = module.split('.').next().unwrap_or_default();
    let module = if module == "__builtin__" { "builtins" } else { module };
    HOSTILE_MODULES.contains(&first) || HOSTILE.contains(&&*format!("{module}.{name}"))
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            _ if is_hostile(module, name) => return None,
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch.storage" | "torch", "UntypedStorage") => Self::Numbers(None),
            ("torch", _) => match SourceDType::from_torch(name) {
                Some(dtype) => Self::Numbers(Some(dtype)),
                None => Self::Other,
            },
            _ => Self::Other,
        })
    }
}

impl Machine<'_> {
    /// GLOBAL: a name.
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
            // The result of another unknown call.
            return self.push(Node::Dict(Vec::new()));
        };
        if global == Global::Other {
            return self.push(Node::Dict(Vec::new()));
        }
        let Some(items) = self.tuple(arguments) else {
            return self.refuse("a tuple of arguments", "something else".into());
        };
        match (global, items) {
            // With pairs: as Python 2 wrote it.
            (Global::OrderedDict, []) => self.push(Node::Dict(Vec::new())),
            (Global::OrderedDict, &[pairs]) => self.pairs(pairs),
            (Global::RebuildFromType, &[function, _, arguments, ..]) => {
                // One step down: the function is a known one, and this is none of those.
                if matches!(*self.node(function), Node::Global(Global::RebuildFromType)) {
                    return self.push(Node::Opaque);
                }
                self.push_known(function);
                self.push_known(arguments);
                self.reduce()
            }
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
                format!("{} for {global:?}", items.len()),
            ),
        }
    }

    /// A dict of a list of pairs.
    fn pairs(&mut self, list: Id) -> Result<(), Refusal> {
        let Node::List(items) = self.node(list) else {
            return self.refuse("a list of pairs", "something else".into());
        };
        let pair = |item: &Id| match self.node(*item) {
            Node::Tuple(pair) | Node::List(pair) => <[Id; 2]>::try_from(&pair[..]).ok(),
            _ => None,
        };
        match items.iter().map(|item| pair(item).map(|[key, value]| (key, value))).collect() {
            Some(pairs) => self.push(Node::Dict(pairs)),
            None => self.refuse("a list of pairs", "something else".into()),
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
        if matches!(self.node(storage), Node::Opaque) {
            return self.push(Node::Opaque);
        }
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

    /// BUILD: attributes, such as a state dict's `_metadata` or all that a Namespace has. They are
    /// left out.
    pub(super) fn build(&mut self) -> Result<(), Refusal> {
        self.pop()?;
        self.top().map(drop)
    }

    /// BINPERSID: `("storage", class, key, device, length, …)`; a view of another storage, which
    /// the oldest files know, is not read.
    pub(super) fn storage(&mut self) -> Result<(), Refusal> {
        let id = self.pop()?;
        let storage = match self.tuple(id) {
            Some(&[_, _, _, _, _, view, ..]) if self.tuple(view).is_some() => None,
            // Numbers of a kind that no weight is stored in.
            Some(&[_, class, ..]) if matches!(self.node(class), Node::Global(Global::Other)) => {
                return self.push(Node::Opaque);
            }
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
