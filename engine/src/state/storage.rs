//! Where the cache lines of a state stand: here or, while a model runs on a device, there.
//!
//! Whoever reads them here gets what is newest, copied from the device where that is needed;
//! whoever writes them here makes these the newest. So a state that a card has moved on can be
//! saved, forked and carried on by the processor. Where a device fails its lines are *lost*: they
//! are no numbers, and [`Storage::fetch`] says why.

// Nothing but a card keeps lines elsewhere.
#![cfg_attr(not(feature = "cuda"), allow(dead_code))]

use std::sync::OnceLock;

use brooklet_formats::zeroed::Zeroed;

use crate::kernels::lanes::Lanes;
use crate::{EngineError, Result};

/// The lines of a state on a device.
pub(crate) trait Remote: Send + Sync + std::fmt::Debug {
    /// The device's number, and where the lines begin there.
    fn place(&self) -> (usize, u64);

    /// Makes them all zero.
    ///
    /// # Errors
    /// The device failed.
    fn clear(&mut self) -> Result<()>;

    /// Overwrites them.
    ///
    /// # Errors
    /// The device failed.
    fn upload(&mut self, lines: &[Lanes]) -> Result<()>;

    /// Copies them.
    ///
    /// # Errors
    /// The device failed.
    fn download(&self, lines: &mut [Lanes]) -> Result<()>;
}

/// Lines here, and maybe on a device.
#[derive(Debug)]
pub(super) struct Storage {
    lines: Zeroed<Lanes>,
    /// Nobody has written to the lines here: they are zero, and need not be copied.
    is_blank: bool,
    there: Option<There>,
    /// Why they are no state any more.
    lost: OnceLock<Box<str>>,
}

/// Lines on a device.
#[derive(Debug)]
struct There {
    lines: Box<dyn Remote>,
    /// They are newer than those here.
    is_newer: bool,
    /// A copy of them here, once somebody has asked.
    read: OnceLock<Zeroed<Lanes>>,
}

impl Storage {
    pub(super) fn new(n: usize) -> Storage {
        Storage::of(Zeroed::new(n))
    }

    /// So many lines, all zero.
    ///
    /// # Errors
    /// There is no memory for them.
    pub(super) fn try_new(n: usize) -> Result<Storage> {
        let bytes = n.saturating_mul(size_of::<Lanes>());
        Zeroed::try_new(n).map(Storage::of).map_err(|_| EngineError::NoMemory { bytes })
    }

    fn of(lines: Zeroed<Lanes>) -> Storage {
        Storage { lines, is_blank: true, there: None, lost: OnceLock::new() }
    }

    /// Where the lines stand here, newest or not, and their bytes.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.lines.as_ptr().addr(), size_of_val::<[Lanes]>(&self.lines))
    }

    /// Where the newest lines stand on device `number`, for reading; none if they are not there.
    #[cfg(feature = "cuda")]
    pub(super) fn stands(&self, number: usize) -> Option<u64> {
        let (device, first) = self.newer()?.lines.place();
        (device == number).then_some(first)
    }

    /// A copy of the newer lines.
    fn read<'a>(&self, there: &'a There) -> &'a Zeroed<Lanes> {
        there.read.get_or_init(|| {
            let mut lines = Zeroed::new(self.lines.len());
            if let Err(error) = there.lines.download(&mut lines) {
                self.lost.get_or_init(|| error.to_string().into());
                // Nobody shall take them for a state.
                lines.fill(Lanes([f32::NAN; 16]));
            }
            lines
        })
    }

    /// Copies the newest lines here, where they are not, so that reading them cannot fail.
    ///
    /// # Errors
    /// They are lost.
    pub(super) fn fetch(&self) -> Result<()> {
        if let Some(there) = self.newer() {
            self.read(there);
        }
        self.check()
    }

    /// The same without a copy.
    ///
    /// # Errors
    /// They are known to be lost.
    pub(super) fn check(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(reason) => Err(EngineError::LostState { reason: reason.to_string() }),
        }
    }

    /// A device has failed while it moved them on.
    pub(super) fn lose(&mut self, error: &EngineError) {
        self.lost.get_or_init(|| error.to_string().into());
    }

    fn newer(&self) -> Option<&There> {
        self.there.as_ref().filter(|there| there.is_newer)
    }

    /// The newest lines.
    pub(super) fn lines(&self) -> &[Lanes] {
        match self.newer() {
            Some(there) => self.read(there),
            None => &self.lines,
        }
    }

    /// The newest lines, to write to.
    pub(super) fn lines_mut(&mut self) -> &mut [Lanes] {
        if let Some(there) = self.newer() {
            self.lines = self.read(there).clone();
        }
        self.own()
    }

    /// The lines, all of which will be overwritten.
    pub(super) fn fresh(&mut self) -> &mut [Lanes] {
        self.lost = OnceLock::new();
        self.own()
    }

    /// Makes the newest lines zero.
    pub(super) fn clear(&mut self) {
        let was_blank = self.is_blank;
        let lines = self.fresh();
        if !was_blank {
            lines.fill(Lanes::ZERO);
        }
        self.is_blank = true;
    }

    /// The lines here, which are the newest from now on, to write to.
    fn own(&mut self) -> &mut [Lanes] {
        self.is_blank = false;
        if let Some(there) = &mut self.there {
            there.is_newer = false;
        }
        &mut self.lines
    }

    /// Where the newest lines stand on device `number`; `make` takes memory there, if there is none
    /// yet. Whoever asks moves them on there.
    ///
    /// # Errors
    /// The device failed, or has no memory for them; or they are lost.
    #[cfg(feature = "cuda")]
    pub(super) fn moved(
        &mut self,
        number: usize,
        make: impl FnOnce(usize) -> Result<Box<dyn Remote>>,
    ) -> Result<u64> {
        self.check()?;
        let is_there = |there: &&mut There| there.lines.place().0 == number;
        if let Some(there) = self.there.as_mut().filter(is_there).filter(|there| there.is_newer) {
            there.read = OnceLock::new();
            return Ok(there.lines.place().1);
        }
        if self.newer().is_some() {
            self.fetch()?;
            self.lines_mut();
        }
        if self.there.as_mut().filter(is_there).is_none() {
            let lines = make(self.lines.len())?;
            self.there = Some(There { lines, is_newer: false, read: OnceLock::new() });
        }
        let there = self.there.as_mut().expect("made above");
        match self.is_blank {
            true => there.lines.clear()?,
            false => there.lines.upload(&self.lines)?,
        }
        (there.is_newer, there.read) = (true, OnceLock::new());
        Ok(there.lines.place().1)
    }
}

impl Clone for Storage {
    /// The newest lines, here.
    fn clone(&self) -> Storage {
        let (lines, is_blank) = match self.newer() {
            Some(there) => (self.read(there).clone(), false),
            None if self.is_blank => (Zeroed::new(self.lines.len()), true),
            None => (self.lines.clone(), false),
        };
        Storage { lines, is_blank, there: None, lost: self.lost.clone() }
    }

    fn clone_from(&mut self, source: &Storage) {
        let lines = source.lines();
        if self.lines.len() == lines.len() {
            self.fresh().copy_from_slice(lines);
            self.lost = source.lost.clone();
        } else {
            *self = source.clone();
        }
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A device made of memory.
    #[derive(Debug)]
    struct Memory(usize, Mutex<Vec<Lanes>>);

    impl Remote for Memory {
        fn place(&self) -> (usize, u64) {
            (self.0, 7)
        }
        fn clear(&mut self) -> Result<()> {
            self.1.lock().expect("no panic").fill(Lanes::ZERO);
            Ok(())
        }
        fn upload(&mut self, lines: &[Lanes]) -> Result<()> {
            *self.1.lock().expect("no panic") = lines.to_vec();
            Ok(())
        }
        fn download(&self, lines: &mut [Lanes]) -> Result<()> {
            lines.copy_from_slice(&self.1.lock().expect("no panic"));
            Ok(())
        }
    }

    #[test]
    fn whoever_reads_gets_the_newest() {
        let make = |number| {
            move |n| {
                let lines = Mutex::new(vec![Lanes([3.0; 16]); n]);
                Ok(Box::new(Memory(number, lines)) as Box<dyn Remote>)
            }
        };
        let mut storage = Storage::new(2);
        storage.lines_mut()[1].0[5] = 1.0;
        assert_eq!(storage.moved(0, make(0)).expect("no error"), 7);
        assert_eq!(storage.lines()[1].0[5], 1.0, "uploaded");
        let fork = storage.clone();
        storage.lines_mut()[1].0[5] = 2.0;
        assert_eq!((fork.lines()[1].0[5], storage.lines()[1].0[5]), (1.0, 2.0));
        // Another device gets what the first had.
        storage.moved(0, make(0)).expect("no error");
        storage.moved(1, make(1)).expect("no error");
        assert_eq!(storage.lines()[1].0[5], 2.0);
        storage.fresh().fill(Lanes::ZERO);
        assert_eq!(storage.lines()[1].0[5], 0.0);
        // Lines that nobody has written are cleared there, too, not only here.
        storage.clear();
        storage.moved(0, make(0)).expect("no error");
        assert_eq!((storage.lines()[1].0[5], storage.clone().lines()[0].0[0]), (0.0, 0.0));
        storage.lines_mut()[1].0[5] = 4.0;
        storage.moved(0, make(0)).expect("no error");
        storage.clear();
        assert_eq!((storage.lines()[1].0[5], storage.clone().lines()[1].0[5]), (0.0, 0.0));
    }

    /// A device that takes lines and gives none back.
    #[derive(Debug)]
    struct Broken;

    impl Remote for Broken {
        fn place(&self) -> (usize, u64) {
            (0, 7)
        }
        fn clear(&mut self) -> Result<()> {
            Ok(())
        }
        fn upload(&mut self, _: &[Lanes]) -> Result<()> {
            Ok(())
        }
        fn download(&self, _: &mut [Lanes]) -> Result<()> {
            Err(EngineError::NoDriver)
        }
    }

    #[test]
    fn what_a_device_has_lost_is_no_state_until_all_of_it_is_written() {
        let mut storage = Storage::new(2);
        storage.moved(0, |_| Ok(Box::new(Broken))).expect("it takes them");
        storage.check().expect("nobody has asked");
        // A fork knows it, without having asked.
        let fork = storage.clone();
        let is_lost = |of: Result<()>| {
            matches!(of, Err(EngineError::LostState { reason })
            if reason == EngineError::NoDriver.to_string())
        };
        assert!(is_lost(storage.fetch()) && is_lost(fork.check()));
        assert!(storage.lines()[1].0[5].is_nan());
        let mut copy = Storage::new(2);
        copy.clone_from(&storage);
        // A line alone makes no state of it.
        copy.lines_mut()[0] = Lanes::ZERO;
        assert!(is_lost(copy.moved(0, |_| Ok(Box::new(Broken))).map(drop)));
        copy.fresh().fill(Lanes::ZERO);
        copy.fetch().expect("a state again");
        copy.lose(&EngineError::NoDriver);
        assert!(is_lost(copy.fetch()));
    }
}
