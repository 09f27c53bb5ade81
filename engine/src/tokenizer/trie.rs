//! Longest match over a set of byte strings: the search behind the World tokenizer.
//!
//! A trie in breadth-first order, three flat arrays and no pointers: the children of a node stand
//! side by side, in byte order, and begin where its elder sibling's children end. Built in one pass
//! over the sorted strings. Not here: what the strings mean; see `world.rs`, whose tests also
//! cover this file through real vocabularies.

/// Nodes with more children than this are searched by halving, the others by walking.
const WALK: usize = 8;

/// A set of non-empty byte strings, each with its id.
#[derive(Debug)]
pub(crate) struct Trie {
    /// Byte on the edge into each node. `(n_node)`
    label: Vec<u8>,
    /// Where each node's children begin; they end where the next node's begin. `(n_node + 1)`
    first_child: Vec<u32>,
    /// 1 + id of the string that ends in this node, 0 where none does. `(n_node)`
    id_plus_1: Vec<u32>,
    /// Node of each first byte, 0 (the root) where no string begins with it.
    first: [u32; 256],
}

/// A string with its id, in front its first eight bytes as a big-endian number, which decide most
/// comparisons.
type Entry<'a> = (u64, &'a [u8], u32);

impl Trie {
    /// Builds the trie of non-empty strings; of equal ones the last id counts.
    ///
    /// Fastest where the strings come in long sorted runs, which are then only merged.
    pub(crate) fn new<'a>(strings: impl Iterator<Item = (&'a [u8], u32)>) -> Self {
        let head = |string: &[u8]| {
            let mut head = [0; 8];
            let n = string.len().min(8);
            head[..n].copy_from_slice(&string[..n]);
            u64::from_be_bytes(head)
        };
        let mut strings: Vec<Entry<'_>> =
            strings.map(|(string, id)| (head(string), string, id)).collect();
        strings.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        strings.dedup_by(|later, kept| {
            let equal = later.1 == kept.1;
            if equal {
                kept.2 = later.2;
            }
            equal
        });
        Self::from_sorted(&strings)
    }

    fn from_sorted(strings: &[Entry<'_>]) -> Self {
        let mut trie =
            Trie { label: vec![0], first_child: vec![], id_plus_1: vec![0], first: [0; 256] };
        // Ranges of `strings` below each node of the level in work, and of the next one.
        let mut level = vec![(0, strings.len())];
        let mut next_level = Vec::new();
        let mut depth = 0;
        while !level.is_empty() {
            for &(start, end) in &level {
                trie.first_child.push(trie.label.len() as u32);
                let mut at = start;
                // The string that ends in the node itself sorts before all longer ones.
                if at < end && strings[at].1.len() == depth {
                    at += 1;
                }
                while at < end {
                    let byte = strings[at].1[depth];
                    let below = at;
                    while at < end && strings[at].1[depth] == byte {
                        at += 1;
                    }
                    let (_, string, id) = strings[below];
                    trie.label.push(byte);
                    trie.id_plus_1.push(if string.len() == depth + 1 { id + 1 } else { 0 });
                    next_level.push((below, at));
                }
            }
            std::mem::swap(&mut level, &mut next_level);
            next_level.clear();
            depth += 1;
        }
        trie.first_child.push(trie.label.len() as u32);
        for child in trie.children(0) {
            trie.first[trie.label[child] as usize] = child as u32;
        }
        trie
    }

    /// The longest string of the set that `text` begins with: its id and length in bytes.
    pub(crate) fn longest(&self, text: &[u8]) -> Option<(u32, usize)> {
        let mut found = None;
        self.each_prefix(text, |id, len| found = Some((id, len)));
        found
    }

    /// Calls `found` with the id and length of every string of the set that `text` begins with, the
    /// shortest first.
    #[inline]
    pub(super) fn each_prefix(&self, text: &[u8], mut found: impl FnMut(u32, usize)) {
        let Some(&first) = text.first() else { return };
        let mut node = self.first[first as usize] as usize;
        let mut len = 1;
        while node != 0 {
            if self.id_plus_1[node] != 0 {
                found(self.id_plus_1[node] - 1, len);
            }
            let Some(&byte) = text.get(len) else { break };
            node = self.child(node, byte);
            len += 1;
        }
    }

    fn children(&self, node: usize) -> std::ops::Range<usize> {
        self.first_child[node] as usize..self.first_child[node + 1] as usize
    }

    /// The child of `node` along `byte`, 0 where there is none.
    fn child(&self, node: usize, byte: u8) -> usize {
        let children = self.children(node);
        let labels = &self.label[children.clone()];
        let at = if labels.len() <= WALK {
            labels.iter().position(|&label| label == byte)
        } else {
            labels.binary_search(&byte).ok()
        };
        at.map_or(0, |at| children.start + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_longest() {
        let strings: Vec<(&[u8], u32)> =
            vec![(b"b", 1), (b"ab", 8), (b"abcd", 0), (b"a", 7), (b"ab", 3), (b"\xff\xff", 9)];
        let trie = Trie::new(strings.into_iter());
        assert_eq!(trie.longest(b"abcx"), Some((3, 2)));
        assert_eq!(trie.longest(b"abcd"), Some((0, 4)));
        assert_eq!(trie.longest(b"ab"), Some((3, 2)));
        assert_eq!(trie.longest(b"ba"), Some((1, 1)));
        assert_eq!(trie.longest(b"\xff"), None);
        assert_eq!(trie.longest(b"\xff\xff\xff"), Some((9, 2)));
        assert_eq!(trie.longest(b"c"), None);
        assert_eq!(trie.longest(b""), None);
        assert_eq!(Trie::new(std::iter::empty()).longest(b"a"), None);
    }

    #[test]
    fn wide_nodes_are_searched_whole() {
        let bytes: Vec<[u8; 2]> = (0..=255).map(|b| [b'x', b]).collect();
        let strings: Vec<(&[u8], u32)> =
            bytes.iter().zip(0..).map(|(b, id)| (&b[..], id)).collect();
        let trie = Trie::new(strings.into_iter());
        for byte in 0..=255 {
            assert_eq!(trie.longest(&[b'x', byte]), Some((u32::from(byte), 2)));
        }
    }
}
