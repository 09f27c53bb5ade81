//! The texts that were read as a tree, and copies of the state along them.
//!
//! An edge has the tokens that all texts behind it share (a radix tree), so that tokens themselves
//! are compared, and no hash is trusted. Memory is counted by what goes away with a copy: pages of
//! attention are shared between copies, and counted once. Not here: who reads on (`prefix`).

use std::collections::{BTreeMap, HashMap};

use crate::snapshot::Snapshot;
use crate::state::State;

/// Memory of a node beside its tokens and its copy, about.
const NODE: usize = 128;

/// Number of a node; 0 is the root.
pub(super) type Id = usize;

/// Texts, and copies along them.
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// Numbers that are free again.
    free: Vec<Id>,
    most: usize,
    bytes: usize,
    /// How many copies have each page.
    pages: HashMap<usize, usize>,
    clock: u64,
}

/// The end of an edge.
#[derive(Default)]
struct Node {
    parent: Id,
    /// The tokens of the edge to it.
    tokens: Vec<u32>,
    /// By their first token.
    children: BTreeMap<u32, Id>,
    copy: Option<Copy>,
}

/// A state, and the logits behind it; none where they are not known.
struct Copy {
    state: State,
    logits: Vec<f32>,
    /// At the end of a text, or where texts parted.
    is_end: bool,
    used: u64,
}

/// What is known of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The node with the deepest copy.
    pub(super) node: Option<Id>,
    /// Its tokens.
    pub(super) reused: usize,
    /// Tokens that it has in common with what was read before.
    pub(super) common: usize,
}

impl Tree {
    /// Copies of up to `most` bytes.
    pub(super) fn new(most: usize) -> Tree {
        let (nodes, free) = (vec![Node::default()], Vec::new());
        Tree { nodes, free, most, bytes: 0, pages: HashMap::new(), clock: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        *self = Tree::new(self.most);
    }

    /// The way along `tokens`: every node on it with the tokens up to it, and how far the tokens
    /// themselves go.
    fn way(&self, tokens: &[u32]) -> (Vec<(Id, usize)>, usize) {
        let (mut node, mut at, mut way) = (0, 0, Vec::new());
        while let Some(&child) = tokens.get(at).and_then(|next| self.nodes[node].children.get(next))
        {
            let same = common(&self.nodes[child].tokens, &tokens[at..]);
            at += same;
            if same < self.nodes[child].tokens.len() {
                break;
            }
            way.push((child, at));
            node = child;
        }
        (way, at)
    }

    /// The deepest copy along `tokens`; one at their end counts only with its logits.
    pub(super) fn find(&self, tokens: &[u32]) -> Found {
        let (way, common) = self.way(tokens);
        let is_useful = |(id, n): &&(Id, usize)| {
            let copy = self.nodes[*id].copy.as_ref();
            copy.is_some_and(|copy| *n < tokens.len() || !copy.logits.is_empty())
        };
        let deepest = way.iter().rev().find(is_useful);
        let (node, reused) = deepest.map_or((None, 0), |(id, n)| (Some(*id), *n));
        Found { node, reused, common }
    }

    /// The copy at a node, which is used now, as are the ends before it.
    pub(super) fn take(&mut self, node: Id) -> Option<Snapshot> {
        self.clock += 1;
        let mut on = node;
        while on != 0 {
            let Node { copy, parent, .. } = &mut self.nodes[on];
            if let Some(copy) = copy.as_mut().filter(|copy| copy.is_end || on == node) {
                copy.used = self.clock;
            }
            on = *parent;
        }
        let copy = self.nodes[node].copy.as_ref()?;
        let logits = copy.logits.clone();
        Some(Snapshot { logits, ..Snapshot::new(copy.state.clone()) })
    }

    /// Keeps a copy behind `tokens`, unless it is larger than all that may be kept.
    pub(super) fn insert(&mut self, tokens: &[u32], snapshot: &Snapshot, is_end: bool) {
        let state = &snapshot.state;
        let pages: usize = state.pages().map(|(_, bytes)| bytes).sum();
        if fixed(state, &snapshot.logits).saturating_add(pages) > self.most {
            return;
        }
        let node = self.node(tokens);
        self.clock += 1;
        let before = self.drop_copy(node);
        let logits = match &before {
            Some(copy) if snapshot.logits.is_empty() => copy.logits.clone(),
            _ => snapshot.logits.clone(),
        };
        let is_end = is_end || before.is_some_and(|copy| copy.is_end);
        let copy = Copy { state: state.clone(), logits, is_end, used: self.clock };
        self.bytes += fixed(&copy.state, &copy.logits);
        for (page, bytes) in copy.state.pages() {
            let count = self.pages.entry(page).or_default();
            *count += 1;
            if *count == 1 {
                self.bytes += bytes;
            }
        }
        self.nodes[node].copy = Some(copy);
        self.shrink();
    }

    /// The node behind `tokens`, made if need be.
    fn node(&mut self, tokens: &[u32]) -> Id {
        let (way, at) = self.way(tokens);
        let (mut parent, begin) = way.last().copied().unwrap_or((0, 0));
        // The way ends inside of an edge: a node between its two parts.
        if at > begin
            && let Some(&child) = self.nodes[parent].children.get(&tokens[begin])
        {
            let rest = self.nodes[child].tokens.split_off(at - begin);
            let edge = std::mem::replace(&mut self.nodes[child].tokens, rest);
            let middle = self.add(Node { parent, tokens: edge, ..Node::default() });
            let first = self.nodes[child].tokens[0];
            self.nodes[middle].children.insert(first, child);
            self.nodes[child].parent = middle;
            self.nodes[parent].children.insert(tokens[begin], middle);
            parent = middle;
        }
        if at == tokens.len() {
            return parent;
        }
        let edge = tokens[at..].to_vec();
        self.bytes += edge.len() * size_of::<u32>();
        let node = self.add(Node { parent, tokens: edge, ..Node::default() });
        self.nodes[parent].children.insert(tokens[at], node);
        node
    }

    fn add(&mut self, node: Node) -> Id {
        self.bytes += NODE;
        match self.free.pop() {
            Some(id) => {
                self.nodes[id] = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// Drops copies until all fit: those between ends first, then the one that was not used for
    /// longest.
    fn shrink(&mut self) {
        while self.bytes > self.most {
            let copies = self.nodes.iter().enumerate();
            let copies = copies.filter_map(|(id, node)| Some((id, node.copy.as_ref()?)));
            let Some((node, _)) = copies.min_by_key(|(_, copy)| (copy.is_end, copy.used)) else {
                return;
            };
            self.drop_copy(node);
            self.prune(node);
        }
    }

    fn drop_copy(&mut self, node: Id) -> Option<Copy> {
        let copy = self.nodes[node].copy.take()?;
        self.bytes -= fixed(&copy.state, &copy.logits);
        for (page, bytes) in copy.state.pages() {
            if let Some(count) = self.pages.get_mut(&page) {
                *count -= 1;
                if *count == 0 {
                    self.pages.remove(&page);
                    self.bytes -= bytes;
                }
            }
        }
        Some(copy)
    }

    /// Takes nodes away that nothing hangs on.
    fn prune(&mut self, mut node: Id) {
        while node != 0 && self.nodes[node].copy.is_none() && self.nodes[node].children.is_empty() {
            let Node { parent, tokens, .. } = std::mem::take(&mut self.nodes[node]);
            self.bytes -= NODE + tokens.len() * size_of::<u32>();
            self.nodes[parent].children.remove(&tokens[0]);
            self.free.push(node);
            node = parent;
        }
    }
}

/// Bytes of a copy, but for its pages.
fn fixed(state: &State, logits: &[f32]) -> usize {
    state.fixed_bytes() + size_of_val(logits)
}

/// How many tokens two texts begin with alike.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use brooklet_formats::DType;

    use super::*;
    use crate::state::StateLayout;

    /// A copy of 64 bytes, with logits or not.
    fn copy(mark: f32, logits: usize) -> Snapshot {
        let mut layout = StateLayout::new("test", DType::F32);
        layout.push(0, "shift", &[16], mark);
        let state = State::new(Arc::new(layout), 1);
        Snapshot { logits: vec![mark; logits], ..Snapshot::new(state) }
    }

    fn mark(tree: &mut Tree, found: Found) -> f32 {
        tree.take(found.node.expect("a copy")).expect("a copy").state.get(0)[0]
    }

    #[test]
    fn the_deepest_copy_is_found_and_what_texts_have_in_common() {
        let mut tree = Tree::new(1 << 20);
        tree.insert(&[1, 2, 3, 4], &copy(4.0, 1), true);
        tree.insert(&[1, 2], &copy(2.0, 0), false);
        tree.insert(&[1, 2, 3, 9, 9], &copy(5.0, 1), true);
        for (text, reused, common, what) in [
            (&[1, 2, 3, 4, 5][..], 4, 4, 4.0),
            (&[1, 2, 3, 4], 4, 4, 4.0),
            (&[1, 2, 3], 2, 3, 2.0),
            (&[1, 2, 3, 9, 8], 2, 4, 2.0),
            (&[1, 2, 3, 9, 9, 9], 5, 5, 5.0),
        ] {
            let found = tree.find(text);
            assert_eq!((found.reused, found.common), (reused, common), "{text:?}");
            assert_eq!(mark(&mut tree, found), what, "{text:?}");
        }
        // Without logits a copy at the end is no use; nor is anything before the first.
        assert_eq!(tree.find(&[1, 2]), Found { node: None, reused: 0, common: 2 });
        assert_eq!(tree.find(&[7]), Found { node: None, reused: 0, common: 0 });
        assert_eq!(tree.find(&[]), Found { node: None, reused: 0, common: 0 });
    }

    #[test]
    fn a_copy_that_comes_again_keeps_its_logits() {
        let mut tree = Tree::new(1 << 20);
        tree.insert(&[1], &copy(1.0, 3), true);
        let bytes = tree.bytes();
        tree.insert(&[1], &copy(2.0, 0), false);
        assert_eq!(tree.bytes(), bytes);
        assert_eq!(tree.find(&[1]).reused, 1);
    }

    #[test]
    fn memory_is_bounded_and_ends_stay_longest() {
        let one = 64 + NODE + 4;
        let mut tree = Tree::new(3 * one);
        tree.insert(&[1], &copy(1.0, 0), true);
        tree.insert(&[2], &copy(2.0, 0), false);
        tree.insert(&[3], &copy(3.0, 0), true);
        let found = tree.find(&[1, 1]);
        tree.take(found.node.expect("it is there"));
        let there = |tree: &Tree| [1, 2, 3, 4, 5].map(|id| tree.find(&[id, 0]).reused == 1);
        assert_eq!(there(&tree), [true, true, true, false, false]);
        tree.insert(&[4], &copy(4.0, 0), true);
        assert_eq!(there(&tree), [true, false, true, true, false]);
        // 1 was used after 3.
        tree.insert(&[5], &copy(5.0, 0), true);
        assert_eq!(there(&tree), [true, false, false, true, true]);
        assert_eq!(tree.bytes(), 3 * one);
        // What never fits drives nothing out.
        tree.insert(&[6], &copy(6.0, 1000), true);
        assert_eq!(there(&tree), [true, false, false, true, true]);
        while let Some(node) = tree.nodes.iter().position(|node| node.copy.is_some()) {
            tree.drop_copy(node);
            tree.prune(node);
        }
        assert_eq!((tree.bytes(), tree.free.len()), (0, tree.nodes.len() - 1));
    }
}
