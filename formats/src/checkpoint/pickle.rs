//! The pickle inside a PyTorch archive: tensors and containers, nothing else, and nothing is executed.
//!
//! Here: a machine for the opcodes that `torch.save` writes (protocols 2 to 5), whose only objects are the
//! [`Node`]s below; a name outside [`Global`] is an error that says it. Not here: the zip archive (`torch_zip`).
//! Bounds: [`PICKLE_MAX`] bytes, [`NODES_MAX`] objects; every opcode adds at most one object, copies nothing,
//! and no step recurses, so that a hostile file costs memory in proportion to its length.
//! Sources: CPython Lib/pickletools.py; torch/_utils.py, torch/_weights_only_unpickler.py. Test: at the end of
//! this file, and `torch_zip`.

use std::collections::HashMap;

use super::dtype::SourceDType;

/// The longest pickle that is read. Those of the largest RWKV models take a quarter of a megabyte.
pub(super) const PICKLE_MAX: u64 = 16 << 20;

/// Most objects in one pickle, on its stack and in its memo: enough for 70 000 tensors.
const NODES_MAX: usize = 1 << 20;

/// Index of an object.
pub(super) type Id = u32;

/// An object of the pickle.
#[derive(Debug)]
pub(super) enum Node {
    Int(i64),
    /// None, a truth value, a float or bytes: nothing here needs it, so only its place is kept.
    Opaque,
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// A `dict` or an `OrderedDict`, in order of insertion; a later equal key wins.
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(Tensor),
}

/// The callables and classes that may be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
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
}

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

/// A storage, named by its key in the archive.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    /// A [`Node::Text`]: the entry `data/KEY` of the archive.
    pub(super) key: Id,
    /// `None`: untyped.
    pub(super) dtype: Option<SourceDType>,
    /// Number of elements (bytes when untyped).
    pub(super) len: u64,
}

/// A tensor: a strided view into a storage.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) storage: Id,
    pub(super) dtype: SourceDType,
    /// In elements.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In elements.
    pub(super) strides: Vec<usize>,
}

/// Why a pickle was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Byte offset of the opcode.
    pub(super) at: usize,
    pub(super) expected: &'static str,
    pub(super) found: String,
}

/// The objects of a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    /// Runs the pickle `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        Machine {
            bytes,
            at: 0,
            opcode_at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
        .run()
    }

    pub(super) fn root(&self) -> &Node {
        self.node(self.root)
    }

    /// The object of that index. Indices come from this pickle's own nodes.
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    /// Offset of the next byte.
    at: usize,
    opcode_at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Stack heights at the open MARKs.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    fn run(mut self) -> Result<Pickle, Refusal> {
        loop {
            self.opcode_at = self.at;
            if self.stack.len().max(self.marks.len()) >= NODES_MAX {
                return self.refuse("fewer objects", format!("more than {NODES_MAX}"));
            }
            let [opcode] = self.take()?;
            match opcode {
                0x80 => {
                    let [protocol] = self.take()?;
                    if !(2..=5).contains(&protocol) {
                        return self.refuse("protocol 2 to 5", format!("protocol {protocol}"));
                    }
                }
                0x95 => drop(self.take::<8>()?), // FRAME: its length is of no use here
                b'.' => {
                    let root = self.pop()?;
                    return Ok(Pickle { nodes: self.nodes, root });
                }

                b'N' | 0x88 | 0x89 => self.push(Node::Opaque)?,
                b'J' => {
                    let value = i32::from_le_bytes(self.take()?);
                    self.push(Node::Int(value.into()))?;
                }
                b'K' => {
                    let [value] = self.take()?;
                    self.push(Node::Int(value.into()))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.take()?);
                    self.push(Node::Int(value.into()))?;
                }
                0x8a => self.long()?,
                b'G' => {
                    self.take::<8>()?;
                    self.push(Node::Opaque)?;
                }
                b'X' => {
                    let len = u32::from_le_bytes(self.take()?);
                    self.text(len.into())?;
                }
                0x8c | b'U' => {
                    let [len] = self.take()?;
                    self.text(len.into())?;
                }
                0x8d => {
                    let len = u64::from_le_bytes(self.take()?);
                    self.text(len)?;
                }
                b'C' => {
                    let [len] = self.take()?;
                    self.opaque(len.into())?;
                }
                b'B' => {
                    let len = u32::from_le_bytes(self.take()?);
                    self.opaque(len.into())?;
                }

                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b')' => self.push(Node::Tuple(Vec::new()))?,
                b']' => self.push(Node::List(Vec::new()))?,
                b'}' => self.push(Node::Dict(Vec::new()))?,
                0x85..=0x87 => {
                    let mut items =
                        [self.pop_if(opcode >= 0x87)?, self.pop_if(opcode >= 0x86)?, Some(self.pop()?)];
                    items.reverse();
                    self.push(Node::Tuple(items.into_iter().flatten().collect()))?;
                }
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(Node::Tuple(items))?;
                }
                b'l' => {
                    let items = self.pop_mark()?;
                    self.push(Node::List(items))?;
                }
                b'd' => {
                    self.push(Node::Dict(Vec::new()))?;
                    // The new dict goes below the items.
                    let dict = self.pop()?;
                    let items = self.pop_mark()?;
                    self.stack.push(dict);
                    self.set_items(&items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set_items(&items)?;
                }

                b'q' => {
                    let [key] = self.take()?;
                    self.remember(key.into())?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.take()?);
                    self.remember(key)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let [key] = self.take()?;
                    self.recall(key.into())?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.take()?);
                    self.recall(key)?;
                }

                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Node::Text(module), Node::Text(name)) = (self.node(module), self.node(name)) else {
                        return self.refuse("a name", "something else".into());
                    };
                    let (module, name) = (module.clone(), name.clone());
                    self.global(&module, &name)?;
                }
                b'R' | 0x81 => self.reduce()?,
                b'b' => self.build()?,
                b'Q' => self.storage()?,
                _ => {
                    let found = format!("opcode 0x{opcode:02x}");
                    return self.refuse("tensors, numbers, text and containers of them", found);
                }
            }
        }
    }

    fn refuse<T>(&self, expected: &'static str, found: String) -> Result<T, Refusal> {
        Err(Refusal { at: self.opcode_at, expected, found })
    }

    /// The next `N` bytes.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        match self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => self.refuse("more bytes", "the end of the pickle".into()),
        }
    }

    fn take_slice(&mut self, len: u64) -> Result<&[u8], Refusal> {
        let rest = self.bytes.len() - self.at;
        if len > rest as u64 {
            return self.refuse("more bytes", "the end of the pickle".into());
        }
        let slice = &self.bytes[self.at..self.at + len as usize];
        self.at += len as usize;
        Ok(slice)
    }

    fn text(&mut self, len: u64) -> Result<(), Refusal> {
        let text = String::from_utf8_lossy(self.take_slice(len)?).into_owned();
        self.push(Node::Text(text))
    }

    fn opaque(&mut self, len: u64) -> Result<(), Refusal> {
        self.take_slice(len)?;
        self.push(Node::Opaque)
    }

    /// Text up to a line feed, as GLOBAL has it.
    fn line(&mut self) -> Result<String, Refusal> {
        let rest = &self.bytes[self.at..];
        // Names are short; looking no further keeps a file of unended lines from costing quadratic time.
        match rest.iter().take(256).position(|&b| b == b'\n') {
            Some(len) => {
                self.at += len + 1;
                Ok(String::from_utf8_lossy(&rest[..len]).into_owned())
            }
            None => self.refuse("a name", "a line without an end".into()),
        }
    }

    /// LONG1: a little-endian two's complement number of up to 255 bytes, of which we take eight.
    fn long(&mut self) -> Result<(), Refusal> {
        let [len] = self.take()?;
        let bytes = self.take_slice(len.into())?;
        if bytes.len() > 8 {
            return self.refuse("an integer of at most 64 bits", format!("{len} bytes"));
        }
        let fill = if bytes.last().is_some_and(|&b| b >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    fn push(&mut self, node: Node) -> Result<(), Refusal> {
        if self.nodes.len() >= NODES_MAX {
            return self.refuse("fewer objects", format!("more than {NODES_MAX}"));
        }
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
        Ok(())
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// Lowest stack height that the running opcode may reach: the innermost MARK.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, Refusal> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => self.refuse("an object on the stack", "none".into()),
        }
    }

    fn pop(&mut self) -> Result<Id, Refusal> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_if(&mut self, wanted: bool) -> Result<Option<Id>, Refusal> {
        wanted.then(|| self.pop()).transpose()
    }

    /// The objects above the innermost MARK, which goes too.
    fn pop_mark(&mut self) -> Result<Vec<Id>, Refusal> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => self.refuse("a mark on the stack", "none".into()),
        }
    }

    fn remember(&mut self, key: u32) -> Result<(), Refusal> {
        let top = self.top()?;
        if self.memo.len() >= NODES_MAX {
            return self.refuse("fewer objects", format!("more than {NODES_MAX}"));
        }
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Refusal> {
        match self.memo.get(&key) {
            Some(&id) => {
                self.stack.push(id);
                Ok(())
            }
            None => self.refuse("an object seen before", format!("number {key}")),
        }
    }

    fn append(&mut self, items: &[Id]) -> Result<(), Refusal> {
        let target = self.top()?;
        match &mut self.nodes[target as usize] {
            Node::List(list) => list.extend_from_slice(items),
            _ => return self.refuse("a list to append to", "something else".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), Refusal> {
        let target = self.top()?;
        let (pairs, rest) = items.as_chunks();
        match &mut self.nodes[target as usize] {
            Node::Dict(dict) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)))
            }
            _ => return self.refuse("a dict and pairs to put into it", "something else".into()),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Refusal> {
        match Global::named(module, name) {
            Some(global) => self.push(Node::Global(global)),
            None => self.refuse("tensors, numbers, text and containers of them", format!("{module}.{name}")),
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
        // A tensor has few dimensions: the bound keeps shared long tuples from being copied over and over.
        let items = self.tuple(id).filter(|items| items.len() <= 8)?;
        items.iter().map(|&id| self.size(id)).collect()
    }

    /// REDUCE: the call of one of the [`Global`]s, of which none does anything.
    fn reduce(&mut self) -> Result<(), Refusal> {
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
                self.stack.push(items);
                Ok(())
            }
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..])
            | (Global::RebuildTensorV3, &[storage, offset, shape, strides, _, _, _, ..]) => {
                let named = match (global, self.node(*arguments.get(6).unwrap_or(&storage))) {
                    (Global::RebuildTensorV3, Node::Global(Global::Numbers(dtype))) => *dtype,
                    _ => None,
                };
                let dtype = match self.node(storage) {
                    Node::Storage(storage) => named.or(storage.dtype),
                    _ => None,
                };
                let (offset, shape, strides) = (self.size(offset), self.sizes(shape), self.sizes(strides));
                let (Some(dtype), Some(offset), Some(shape), Some(strides)) = (dtype, offset, shape, strides)
                else {
                    return self
                        .refuse("a storage, an offset, a shape and strides", "other arguments".into());
                };
                self.push(Node::Tensor(Tensor { storage, dtype, offset, shape, strides }))
            }
            _ => self.refuse(
                "the arguments that torch.save writes",
                format!("{} for {global:?}", arguments.len()),
            ),
        }
    }

    /// BUILD: attributes, such as a state dict's `_metadata`. They hold no tensors and are left out.
    fn build(&mut self) -> Result<(), Refusal> {
        self.pop()?;
        let target = self.top()?;
        match self.node(target) {
            Node::Dict(_) | Node::Tensor(_) => Ok(()),
            _ => self.refuse("attributes of a dict or a tensor", "of something else".into()),
        }
    }

    /// BINPERSID: `("storage", class, key, device, length, …)`.
    fn storage(&mut self) -> Result<(), Refusal> {
        let id = self.pop()?;
        let storage = match self.tuple(id) {
            Some(&[tag, class, key, _, len, ..]) => {
                match (self.node(tag), self.node(class), self.node(key), self.size(len)) {
                    (Node::Text(tag), Node::Global(Global::Numbers(dtype)), Node::Text(_), Some(len))
                        if tag == "storage" =>
                    {
                        Some(Storage { key, dtype: *dtype, len: len as u64 })
                    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        Pickle::parse(bytes).unwrap_err().found
    }

    #[test]
    fn containers_and_numbers() {
        // {"a": (1, -2, 2**40), "b": [None, True, 1.5]}
        let bytes =
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01J\xfe\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01\x87\
                      X\x01\x00\x00\x00b](N\x88G?\xf8\x00\x00\x00\x00\x00\x00eu.";
        let pickle = Pickle::parse(bytes).unwrap();
        let Node::Dict(items) = pickle.root() else { panic!("{pickle:?}") };
        let Node::Tuple(numbers) = pickle.node(items[0].1) else { panic!("{pickle:?}") };
        let numbers: Vec<_> = numbers.iter().map(|&id| format!("{:?}", pickle.node(id))).collect();
        assert_eq!(numbers, ["Int(1)", "Int(-2)", "Int(1099511627776)"]);
        assert!(matches!(pickle.node(items[1].1), Node::List(list) if list.len() == 3));
    }

    #[test]
    fn nothing_is_called() {
        assert_eq!(refused(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."), "os.system");
        assert_eq!(refused(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."), "builtins.eval");
        assert_eq!(refused(b"\x80\x02c__builtin__\ngetattr\n."), "__builtin__.getattr");
        assert_eq!(refused(b"\x80\x02ctorch\nload\n."), "torch.load");
        assert_eq!(refused(b"\x80\x02(iposix\nsystem\n."), "opcode 0x69");
        assert_eq!(refused(b"\x80\x02\x82\x01."), "opcode 0x82");
    }

    #[test]
    fn broken_stacks_and_ends() {
        for bytes in [
            &b""[..],
            b"\x80",
            b"\x80\x02",
            b"\x80\x02.",
            b"\x80\x02t.",
            b"\x80\x02N(\x85.",
            b"\x80\x02h\x05.",
            b"\x80\x02X\xff\xff\xff\xffa.",
            b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
            b"\x80\x02NNs.",
            b"\x80\x02N(NNu.",
            b"\x80\x02}(Nu.",
            b"\x80\x02NQ.",
            b"\x80\x02N)R.",
            b"\x80\x02ccollections\nOrderedDict\nN\x85R.",
            b"\x80\x02\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.",
            b"\x80\x09N.",
            b"\x80\x02ccollections",
        ] {
            Pickle::parse(bytes).unwrap_err();
        }
    }

    #[test]
    fn a_flood_of_objects_is_refused() {
        let flood = [&[0x80, 2][..], &vec![b'}'; NODES_MAX + 1]].concat();
        assert!(refused(&flood).contains("more than"));
        for opcodes in [b"(", b"2", b"\x94"] {
            let flood = [&[0x80, 2, b'N'][..], &opcodes.repeat(NODES_MAX + 1), b"."].concat();
            let _ = Pickle::parse(&flood);
        }
    }
}
