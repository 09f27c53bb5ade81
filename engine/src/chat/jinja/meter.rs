//! The bounds of a rendering: work, memory, depth. Everything a template does pays here first.
//!
//! Work is counted in units of a few nanoseconds (a step, or 32 bytes of text handled), memory in
//! bytes of the values alive. Depth is that of the evaluator's own calls, so that no template
//! exhausts the stack. Nothing is measured with a clock: the same template with the same
//! conversation ends the same way everywhere. Test: `attacks` beside this file.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use super::value::{Dict, Seq, Value};
use super::{Fault, Limits};

/// Result of everything inside.
pub(super) type Result<T = (), E = Fault> = std::result::Result<T, E>;

/// Bytes that a value takes beside its content: counts, sizes, the allocator's own.
const OVERHEAD: usize = 64;

/// Containers within containers, at most: comparing, printing and dropping them recurse.
const NESTING: usize = 64;

/// The bytes that values hold.
#[derive(Debug)]
struct Ledger {
    held: Cell<usize>,
    limit: usize,
}

impl Ledger {
    fn take(&self, bytes: usize) -> Result {
        let held = self.held.get().saturating_add(bytes);
        if held > self.limit {
            return fault!("it takes more than {} MB of memory", self.limit >> 20);
        }
        self.held.set(held);
        Ok(())
    }

    fn give(&self, bytes: usize) {
        self.held.set(self.held.get() - bytes);
    }
}

/// A reserve in the ledger, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    bytes: Cell<usize>,
    ledger: Rc<Ledger>,
}

impl Claim {
    /// Makes it larger.
    pub(super) fn grow(&self, bytes: usize) -> Result {
        self.ledger.take(bytes)?;
        self.bytes.set(self.bytes.get() + bytes);
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ledger.give(self.bytes.get());
    }
}

/// A value with what it takes.
#[derive(Debug)]
pub(super) struct Held<T> {
    value: T,
    _claim: Claim,
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Counts one rendering.
pub(super) struct Meter<'a> {
    ledger: Rc<Ledger>,
    limits: Limits,
    work: Cell<u64>,
    depth: Cell<usize>,
    stop: &'a dyn Fn() -> bool,
}

impl<'a> Meter<'a> {
    pub(super) fn new(limits: Limits, stop: &'a dyn Fn() -> bool) -> Meter<'a> {
        let ledger = Rc::new(Ledger { held: Cell::new(0), limit: limits.memory });
        Meter { ledger, limits, work: Cell::new(0), depth: Cell::new(0), stop }
    }

    /// Pays for work, before it is done.
    pub(super) fn work(&self, units: usize) -> Result {
        const ASK: u64 = 1 << 12;
        let before = self.work.get();
        let after = before.saturating_add(units as u64);
        if after > self.limits.work {
            return fault!("it does not come to an end");
        }
        self.work.set(after);
        if before / ASK != after / ASK && (self.stop)() { Err(Fault::Stopped) } else { Ok(()) }
    }

    /// Pays for handling so many bytes of text.
    pub(super) fn bytes(&self, bytes: usize) -> Result {
        self.work(1 + bytes / 32)
    }

    /// One level deeper, until what is returned is dropped.
    pub(super) fn enter(&self) -> Result<Level<'_>> {
        if self.depth.get() >= self.limits.depth {
            return fault!("it calls itself, or nests, too deeply");
        }
        self.depth.set(self.depth.get() + 1);
        Ok(Level(&self.depth))
    }

    /// An empty reserve.
    pub(super) fn claim(&self) -> Claim {
        Claim { bytes: Cell::new(0), ledger: Rc::clone(&self.ledger) }
    }

    /// An error if so many values, or so many bytes, have no room.
    pub(super) fn room(&self, values: usize, bytes: usize) -> Result {
        let bytes = values.saturating_mul(size_of::<Value>()).saturating_add(bytes);
        self.claim().grow(bytes)
    }

    fn hold<T>(&self, value: T, bytes: usize) -> Result<Rc<Held<T>>> {
        let claim = self.claim();
        claim.grow(bytes.saturating_add(OVERHEAD))?;
        Ok(Rc::new(Held { value, _claim: claim }))
    }

    /// A text value.
    pub(super) fn text(&self, text: impl Into<Box<str>>) -> Result<Value> {
        let text = text.into();
        let bytes = text.len();
        self.bytes(bytes)?;
        Ok(Value::Str(self.hold(text, bytes)?))
    }

    /// A list value.
    pub(super) fn list(&self, items: Vec<Value>) -> Result<Value> {
        Ok(Value::List(self.seq(items)?))
    }

    /// A tuple value.
    pub(super) fn tuple(&self, items: Vec<Value>) -> Result<Value> {
        Ok(Value::Tuple(self.seq(items)?))
    }

    fn seq(&self, items: Vec<Value>) -> Result<Rc<Held<Seq>>> {
        self.work(1 + items.len() / 4)?;
        let depth = nesting(items.iter())?;
        let bytes = items.capacity() * size_of::<Value>();
        self.hold(Seq { items, depth }, bytes)
    }

    /// A dict value; of equal keys the last value counts.
    pub(super) fn dict(&self, pairs: Vec<(Value, Value)>) -> Result<Value> {
        let depth = nesting(pairs.iter().flat_map(|(key, value)| [key, value]))?;
        let mut entries: Vec<(Value, Value)> = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            if !key.hashable() {
                return fault!("unhashable type: '{}'", key.type_name());
            }
            self.work(1 + entries.len() / 4)?;
            match entries.iter_mut().find(|(known, _)| known.same_key(&key)) {
                Some((_, old)) => *old = value,
                None => entries.push((key, value)),
            }
        }
        let bytes = entries.capacity() * 2 * size_of::<Value>();
        Ok(Value::Dict(self.hold(Dict { entries, depth }, bytes)?))
    }

    /// A text under construction.
    pub(super) fn draft(&self) -> Draft<'_> {
        self.draft_of(usize::MAX)
    }

    /// The text that the template writes.
    pub(super) fn output(&self) -> Draft<'_> {
        self.draft_of(self.limits.output)
    }

    fn draft_of(&self, limit: usize) -> Draft<'_> {
        Draft { text: String::new(), claim: self.claim(), limit, meter: self }
    }
}

/// Depth of a container with these items.
fn nesting<'v>(items: impl Iterator<Item = &'v Value>) -> Result<usize> {
    let depth = 1 + items.map(Value::depth).max().unwrap_or(0);
    if depth > NESTING { fault!("it nests lists too deeply") } else { Ok(depth) }
}

/// One level of depth.
pub(super) struct Level<'m>(&'m Cell<usize>);

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A text that pays as it grows.
pub(super) struct Draft<'m> {
    text: String,
    claim: Claim,
    limit: usize,
    meter: &'m Meter<'m>,
}

impl Draft<'_> {
    /// Adds text.
    pub(super) fn push(&mut self, text: &str) -> Result {
        self.pay(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// Adds a character `n` times.
    pub(super) fn fill(&mut self, c: char, n: usize) -> Result {
        self.pay(n.saturating_mul(c.len_utf8()))?;
        self.text.extend(std::iter::repeat_n(c, n));
        Ok(())
    }

    fn pay(&mut self, bytes: usize) -> Result {
        self.claim.grow(bytes)?;
        self.meter.bytes(bytes)?;
        if self.text.len() + bytes > self.limit {
            return fault!("it writes more than {} KB", self.limit >> 10);
        }
        Ok(())
    }

    /// The text so far.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The text, which nobody counts any more.
    pub(super) fn into_string(self) -> String {
        self.text
    }

    /// The text as a value.
    pub(super) fn into_value(self) -> Result<Value> {
        self.claim.grow(OVERHEAD)?;
        let held = Held { value: self.text.into_boxed_str(), _claim: self.claim };
        Ok(Value::Str(Rc::new(held)))
    }
}
