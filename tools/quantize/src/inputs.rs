//! Collects the inputs of a layer's matrices, and adds up their moments.
//!
//! A [`Collector`] is the engine's observer: it copies the columns of the matrices that are wanted.
//! Between two texts they are added to the moments ([`Collector::flush`]), of the texts that
//! calibrate and of those held out apart. Matrices that read the same (queries, keys, values; gate
//! and up) have their moments computed once: parts are one class until their columns differ. Test:
//! below.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

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
#[derive(Clone)]
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
    /// By tensor and first row, the number of a part.
    parts: HashMap<String, HashMap<usize, usize>>,
    /// By part.
    columns: Vec<Mutex<Vec<f32>>>,
    classes: Mutex<Vec<Class>>,
}

/// Parts whose inputs have been the same so far.
struct Class {
    /// At least one.
    members: Vec<usize>,
    k: usize,
    moments: Moments,
}

impl Collector {
    /// For these parts, each with the length of its inputs.
    pub(crate) fn new(parts: impl IntoIterator<Item = (Part, usize)>) -> Collector {
        let mut by_name: HashMap<String, HashMap<usize, usize>> = HashMap::new();
        let (mut columns, mut classes) = (Vec::new(), Vec::<Class>::new());
        for (part, (Part { name, first_row }, k)) in parts.into_iter().enumerate() {
            by_name.entry(name).or_default().insert(first_row, part);
            columns.push(Mutex::default());
            match classes.iter_mut().find(|class| class.k == k) {
                Some(class) => class.members.push(part),
                None => {
                    let moments = Moments { gram: Gram::new(k), held_out: Gram::new(k), n: 0 };
                    classes.push(Class { members: vec![part], k, moments });
                }
            }
        }
        Collector { parts: by_name, columns, classes: Mutex::new(classes) }
    }

    /// Adds what came since the last time to the moments.
    pub(crate) fn flush(&self, held_out: bool) {
        let mut columns: Vec<_> = self.columns.iter().map(locked).collect();
        let mut classes = locked(&self.classes);
        *classes = classes.drain(..).flat_map(|class| class.refined(&columns)).collect();
        // One class after the other: threads share each.
        for Class { members, k, moments } in &mut *classes {
            let columns = &columns[members[0]];
            match held_out {
                true => moments.held_out.add(columns),
                false => {
                    moments.gram.add(columns);
                    moments.n += columns.len() / *k;
                }
            }
        }
        columns.iter_mut().for_each(|columns| columns.clear());
    }

    /// The moments of a part that was wanted, once.
    pub(crate) fn take(&self, part: &Part) -> Option<Moments> {
        let part = self.parts.get(&part.name)?.get(&part.first_row)?;
        let mut classes = locked(&self.classes);
        let at = classes.iter().position(|class| class.members.contains(part))?;
        if classes[at].members.len() == 1 {
            return Some(classes.swap_remove(at).moments);
        }
        classes[at].members.retain(|member| member != part);
        Some(classes[at].moments.clone())
    }
}

impl Class {
    /// The classes that its members are after these columns.
    fn refined(self, columns: &[MutexGuard<'_, Vec<f32>>]) -> Vec<Class> {
        let Class { members, k, moments } = self;
        let mut refined: Vec<Vec<usize>> = Vec::new();
        for part in members {
            // Bits, as NaN is no reason to differ.
            let is_same = |class: &&mut Vec<usize>| {
                let [ours, theirs] = [part, class[0]].map(|part| &**columns[part]);
                bytemuck::cast_slice::<f32, u32>(ours) == bytemuck::cast_slice::<f32, u32>(theirs)
            };
            match refined.iter_mut().find(is_same) {
                Some(class) => class.push(part),
                None => refined.push(vec![part]),
            }
        }
        let n = refined.len();
        let moments = std::iter::repeat_n(moments, n);
        let classes = refined.into_iter().zip(moments);
        classes.map(|(members, moments)| Class { members, k, moments }).collect()
    }
}

impl Observer for Collector {
    fn product(&self, name: &str, first_row: usize, x: &Inputs<'_>) {
        let part = self.parts.get(name).and_then(|parts| parts.get(&first_row));
        let Some(&part) = part else { return };
        let mut columns = locked(&self.columns[part]);
        x.columns().for_each(|x| columns.extend_from_slice(x));
    }
}

/// A lock whose holder cannot have left things half-done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_read_the_same_share_moments_until_they_do_not() {
        let part = |name: &str| Part { name: name.to_owned(), first_row: 0 };
        let collector = Collector::new([(part("a"), 2), (part("b"), 2), (part("c"), 2)]);
        let n_classes = || locked(&collector.classes).len();
        let give = |columns: [&[f32]; 3]| {
            for (own, columns) in collector.columns.iter().zip(columns) {
                locked(own).extend_from_slice(columns);
            }
        };
        give([&[], &[], &[]]);
        collector.flush(false);
        assert_eq!(n_classes(), 1);
        give([&[1.0, 2.0], &[1.0, 2.0], &[3.0, f32::NAN]]);
        collector.flush(false);
        assert_eq!(n_classes(), 2);
        give([&[1.0, 0.0], &[2.0, 0.0, 1.0, 1.0], &[1.0, 0.0]]);
        collector.flush(false);
        give([&[5.0, 0.0], &[5.0, 0.0], &[]]);
        collector.flush(true);
        assert_eq!(n_classes(), 3);
        let a = collector.take(&part("a")).expect("moments");
        assert_eq!((a.gram.diagonal(), a.n), (vec![2.0, 4.0], 2));
        let b = collector.take(&part("b")).expect("moments");
        assert_eq!((b.gram.diagonal(), b.n), (vec![6.0, 5.0], 3));
        assert_eq!(b.held_out.diagonal(), [25.0, 0.0]);
        assert!(collector.take(&part("b")).is_none());
    }
}
