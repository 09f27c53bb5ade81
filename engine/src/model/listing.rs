//! A model's forward pass as a list of operations, for devices and for people.
//!
//! Not here: operations (`ops`), and how layers write theirs (`layer`, `parts`). Test:
//! `tests/operations.rs`.

use std::collections::HashMap;

use super::Model;
use crate::ops::{List, Listing, Names};
use crate::state::{SlotRef, StateLayout};
use crate::{EngineError, Result};

impl Model {
    /// A forward pass as operations.
    ///
    /// # Errors
    /// Its layers have sizes that operations do not take.
    pub(crate) fn list(&self) -> Result<List<'_>> {
        let mut list = List::default();
        self.trunk().list_embed(&mut list, self.width());
        self.0.stack.list(&mut list);
        self.trunk().list_logits(&mut list);
        if let Err(misfit) = list.check() {
            log::debug!("{}: {misfit:?}", self.meta().architecture);
            let (file, part) = (self.file().path().to_owned(), "layers of these sizes");
            return Err(EngineError::NotListed { file, part });
        }
        Ok(list)
    }

    /// A forward pass as operations, for people: one a line, in stages for a device with so many
    /// blocks (multiprocessors of a card).
    ///
    /// ```
    /// let model = brooklet::Model::open("../models/rwkv7-nano-int8.brk")?;
    /// assert!(model.operations(132)?.contains("sum of 64 each"));
    /// # Ok::<(), brooklet::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// Its layers have sizes that operations do not take: they run on the processor alone.
    pub fn operations(&self, blocks: usize) -> Result<String> {
        let names = FileNames::new(self);
        Ok(Listing { list: &self.list()?, names: &names, blocks: blocks.max(1) }.to_string())
    }
}

/// The names that a model's file and its states have for what a list refers to.
struct FileNames<'a> {
    tensors: HashMap<*const u8, &'a str>,
    layout: &'a StateLayout,
}

impl FileNames<'_> {
    fn new(model: &Model) -> FileNames<'_> {
        let tensors = model.file().tensors().iter().filter_map(|info| {
            let tensor = model.file().tensor(&info.name)?;
            Some((tensor.bytes.as_ptr(), &*info.name))
        });
        FileNames { tensors: tensors.collect(), layout: model.state_layout() }
    }
}

impl Names for FileNames<'_> {
    fn tensor(&self, first: *const u8) -> &str {
        self.tensors.get(&first).copied().unwrap_or("part of a tensor")
    }

    fn slot(&self, slot: SlotRef) -> String {
        let place = |line: usize| self.layout.slots().iter().find(|slot| slot.starts_at(line));
        let slot = place(slot.lines().start);
        slot.map_or(String::new(), |slot| format!("state {}.{}", slot.layer, slot.name))
    }
}
