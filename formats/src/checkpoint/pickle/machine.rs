//! The stack machine that a pickle is a program for.
//!
//! Here: the opcodes, each with its bounds. Not here: what a name or a call means (`torch`). The
//! machine knows no other objects than [`Node`]s, so there is nothing that it could execute.
//! Source: CPython Lib/pickletools.py, `opcodes`. Test: in the module above.

use std::collections::HashMap;

use super::object::{Id, NODES_MAX, Node, Pickle, Refusal};

/// A pickle being run.
pub(super) struct Machine<'a> {
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

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            opcode_at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Runs to STOP.
    pub(super) fn run(mut self) -> Result<Pickle, Refusal> {
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
                    return Ok(Pickle { nodes: self.nodes, root, end: self.at });
                }

                b'N' => self.push(Node::Opaque)?,
                0x88 | 0x89 => self.push(Node::Bool(opcode == 0x88))?,
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
                0x8a => {
                    let [len] = self.take()?;
                    self.long(len.into())?;
                }
                0x8b => {
                    let len = u32::from_le_bytes(self.take()?);
                    self.long(len.into())?;
                }
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
                b'B' | b'T' => {
                    let len = u32::from_le_bytes(self.take()?);
                    self.opaque(len.into())?;
                }
                0x8e | 0x96 => {
                    let len = u64::from_le_bytes(self.take()?);
                    self.opaque(len)?;
                }

                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b')' => self.push(Node::Tuple(Vec::new()))?,
                // A set is a list here: nobody asks for its order.
                b']' | 0x8f => self.push(Node::List(Vec::new()))?,
                0x91 => {
                    let items = self.pop_mark()?;
                    self.push(Node::List(items))?;
                }
                b'}' => self.push(Node::Dict(Vec::new()))?,
                0x85..=0x87 => {
                    let mut items = [
                        self.pop_if(opcode >= 0x87)?,
                        self.pop_if(opcode >= 0x86)?,
                        Some(self.pop()?),
                    ];
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
                b'e' | 0x90 => {
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
                    let (Node::Text(module), Node::Text(name)) =
                        (self.node(module), self.node(name))
                    else {
                        return self.refuse("a name", "something else".into());
                    };
                    let (module, name) = (module.clone(), name.clone());
                    self.global(&module, &name)?;
                }
                b'R' | 0x81 => self.reduce()?,
                0x92 => {
                    // Named arguments: no tensor is built with any.
                    self.pop()?;
                    self.reduce()?;
                }
                b'b' => self.build()?,
                b'Q' => self.storage()?,
                _ => {
                    let found = format!("opcode 0x{opcode:02x}");
                    return self.refuse("tensors, numbers, text and containers of them", found);
                }
            }
        }
    }

    pub(super) fn refuse<T>(&self, expected: &'static str, found: String) -> Result<T, Refusal> {
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
        // Names are short; looking no further keeps a file of unended lines from costing quadratic
        // time.
        match rest.iter().take(256).position(|&b| b == b'\n') {
            Some(len) => {
                self.at += len + 1;
                Ok(String::from_utf8_lossy(&rest[..len]).into_owned())
            }
            None => self.refuse("a name", "a line without an end".into()),
        }
    }

    /// LONG1, LONG4: a little-endian two's complement number; nobody asks for one that does not fit
    /// into eight bytes.
    fn long(&mut self, len: u64) -> Result<(), Refusal> {
        let bytes = self.take_slice(len)?;
        if bytes.len() > 8 {
            return self.push(Node::Opaque);
        }
        let fill = if bytes.last().is_some_and(|&b| b >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    pub(super) fn push(&mut self, node: Node) -> Result<(), Refusal> {
        if self.nodes.len() >= NODES_MAX {
            return self.refuse("fewer objects", format!("more than {NODES_MAX}"));
        }
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
        Ok(())
    }

    /// Puts an object that exists already on the stack.
    pub(super) fn push_known(&mut self, id: Id) {
        self.stack.push(id);
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// Lowest stack height that the running opcode may reach: the innermost MARK.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn top(&self) -> Result<Id, Refusal> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => self.refuse("an object on the stack", "none".into()),
        }
    }

    pub(super) fn pop(&mut self) -> Result<Id, Refusal> {
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
            // A list of an unknown class.
            Node::Dict(_) | Node::Opaque => {}
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
            Node::Opaque if rest.is_empty() => {}
            _ => return self.refuse("a dict and pairs to put into it", "something else".into()),
        }
        Ok(())
    }
}
