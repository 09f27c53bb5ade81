//! Collects the inputs of a layer's matrices, and adds up their moments.
//!
//! A [`Collector`] is the engine's observer: it copies the columns of the matrices that are wanted.
//! Between two texts they are added to the moments ([`Collector::flush`]), of the texts that
//! calibrate and of those held out apart. Test: `tests/`.

use std::collections::HashMap;
use std::sync::Mutex;

use brooklet::layerwise::{Inputs, Observer};

use crate::gram::Gram;

/// A matrix, or one of several that stand below each other in a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    /// The tensor.
    pub(crate) name: String,
    /// Its first row there.
    pub(crate) first_row: usize,
}

/// The moments of the inputs of a part.
pub(crate) struct Moments {
    /// On the texts that calibrate.
    pub(crate) gram: Gram,
    /// On the texts held out.
    pub(crate) held_out: Gram,
    /// Columns of the texts that calibrate.
    pub(crate) n: usize,
}

/// The parts that are wanted, and their columns since the last flush.
pub(crate) struct Collector {
    parts: HashMap<String, HashMap<usize, Collected>>,
}

struct Collected {
    k: usize,
    columns: Mutex<Vec<f32>>,
    moments: Mutex<Moments>,
}

impl Collector {
    /// For these parts, each with the length of its inputs.
    pub(crate) fn new(parts: impl IntoIterator<Item = (Part, usize)>) -> Collector {
        let mut by_name: HashMap<String, HashMap<usize, Collected>> = HashMap::new();
        for (Part { name, first_row }, k) in parts {
            let moments = Moments { gram: Gram::new(k), held_out: Gram::new(k), n: 0 };
            let (columns, moments) = (Mutex::default(), Mutex::new(moments));
            let collected = Collected { k, columns, moments };
            by_name.entry(name).or_default().insert(first_row, collected);
        }
        Collector { parts: by_name }
    }

    /// Adds what came since the last time to the moments.
    pub(crate) fn flush(&self, held_out: bool) {
        // One part after the other: threads share each.
        for Collected { k, columns, moments } in self.parts.values().flat_map(HashMap::values) {
            let mut columns = locked(columns);
            let mut moments = locked(moments);
            match held_out {
                true => moments.held_out.add(&columns),
                false => {
                    moments.gram.add(&columns);
                    moments.n += columns.len() / k;
                }
            }
            columns.clear();
        }
    }

    /// The moments of a part that was wanted, once.
    pub(crate) fn take(&self, part: &Part) -> Option<Moments> {
        let Collected { k: _, moments, .. } = self.parts.get(&part.name)?.get(&part.first_row)?;
        let nothing = Moments { gram: Gram::new(0), held_out: Gram::new(0), n: 0 };
        Some(std::mem::replace(&mut *locked(moments), nothing))
    }
}

impl Observer for Collector {
    fn product(&self, name: &str, first_row: usize, x: &Inputs<'_>) {
        let part = self.parts.get(name).and_then(|parts| parts.get(&first_row));
        let Some(Collected { columns, .. }) = part else { return };
        let mut columns = locked(columns);
        x.columns().for_each(|x| columns.extend_from_slice(x));
    }
}

/// A lock whose holder cannot have left things half-done.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
