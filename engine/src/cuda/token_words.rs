//! The words of a task: `token.cuh` in Rust. Test: below.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::structs::CardOp;

/// Kinds of moves, as `token.cuh` numbers them.
#[derive(Clone, Copy, Debug)]
pub(super) enum MoveKind {
    Map,
    Sum,
    Pack,
    Norm,
    Project,
    Heads,
    Conv,
    Keep,
    Copy,
    Other,
}

/// Where something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// Nowhere.
    None,
    /// An address of the card.
    Far(u64),
    /// In the block's own memory; what is read of it may begin behind that.
    Near(i64),
    /// Bytes of a state.
    State(u64),
}

impl Spot {
    /// So many bytes further on.
    pub(super) fn plus(self, bytes: i64) -> Spot {
        match self {
            Spot::None => Spot::None,
            Spot::Far(at) => Spot::Far(at.wrapping_add_signed(bytes)),
            Spot::Near(at) => Spot::Near(at + bytes),
            Spot::State(at) => Spot::State(at.wrapping_add_signed(bytes)),
        }
    }

    /// Whether four floats can be read there at once.
    pub(super) fn is_whole(self) -> bool {
        match self {
            Spot::None => true,
            Spot::Far(at) | Spot::State(at) => at.is_multiple_of(16),
            Spot::Near(at) => at.rem_euclid(16) == 0,
        }
    }
}

/// Where values go: near, far.
pub(super) type Target = [Spot; 2];

/// No thread has to have done anything, or all.
pub(super) const WAITS: u8 = 1;
/// Of a place: counted from the state.
const OF_STATE: u32 = 1 << 31;
/// Of a fetch: into the card's cache alone.
pub(super) const CACHE_ONLY: u32 = u32::MAX;
/// Bytes of a task's head.
const HEAD: usize = 32;

/// Bytes that the next stage reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    pub(super) from: Spot,
    pub(super) to: u32,
    pub(super) bytes: u32,
}

/// What a block does in a stage, move by move.
#[derive(Debug, Default)]
pub(super) struct Words {
    bytes: Vec<u8>,
    places: Vec<u32>,
    moves: u32,
    /// Where the last move begins.
    first: usize,
}

impl Words {
    /// Begins a move of elements from `range.0` to `range.1`.
    pub(super) fn begin(&mut self, kind: MoveKind, waits: bool, range: (usize, usize), n: usize) {
        self.first = self.bytes.len();
        let flags = if waits { WAITS } else { 0 };
        self.bytes.extend([kind as u8, flags, 0, 0]);
        [range.0, range.1, n].iter().for_each(|n| self.u32(*n as u32));
        self.moves += 1;
    }

    /// Ends it.
    pub(super) fn end(&mut self) {
        if !self.bytes.len().is_multiple_of(16) {
            self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        }
        let n = (self.bytes.len() - self.first) as u16;
        self.bytes[self.first + 2..self.first + 4].copy_from_slice(&n.to_le_bytes());
    }

    pub(super) fn u32(&mut self, n: u32) {
        self.bytes.extend(n.to_le_bytes());
    }

    pub(super) fn f32(&mut self, n: f32) {
        self.bytes.extend(n.to_le_bytes());
    }

    pub(super) fn u64(&mut self, n: u64) {
        self.bytes.extend(n.to_le_bytes());
    }

    pub(super) fn spot(&mut self, spot: Spot) {
        let at = self.bytes.len();
        let bytes = self.counted(at, spot);
        self.u64(bytes);
    }

    /// The word of a spot that stands at `at`.
    fn counted(&mut self, at: usize, spot: Spot) -> u64 {
        match spot {
            Spot::None => 0,
            Spot::Far(to) => to,
            Spot::Near(to) => {
                self.places.push(at as u32);
                to as u64
            }
            Spot::State(to) => {
                self.places.push(at as u32 | OF_STATE);
                to
            }
        }
    }

    pub(super) fn target(&mut self, y: Target) {
        y.into_iter().for_each(|spot| self.spot(spot));
    }

    /// An operation of `run.cu`, of which some pointers stand elsewhere: each by where it is in it.
    pub(super) fn op(&mut self, mut op: CardOp, elsewhere: &[(usize, Spot)]) {
        let first = self.bytes.len();
        let bytes = bytemuck::bytes_of_mut(&mut op);
        for (at, spot) in elsewhere {
            let to = self.counted(first + at, *spot);
            bytes[*at..at + 8].copy_from_slice(&to.to_le_bytes());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes of moves so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Changes four bytes of a move that has been written.
    pub(super) fn put_u32(&mut self, at: usize, n: u32) {
        self.bytes[at..at + 4].copy_from_slice(&n.to_le_bytes());
    }

    /// The task with what the next stage reads.
    pub(super) fn task(self, fetches: &[Fetch]) -> Vec<u8> {
        let moves_at = HEAD + 16 * fetches.len();
        let places_at = moves_at + self.bytes.len();
        let mut places = Vec::new();
        let near: u32 = fetches.iter().filter(|f| f.to != CACHE_ONLY).map(|f| f.bytes).sum();
        let of_fetches = fetches.iter().enumerate();
        let of_state = of_fetches.filter(|(_, f)| matches!(f.from, Spot::State(_)));
        places.extend(of_state.map(|(i, _)| (HEAD + 16 * i) as u32 | OF_STATE));
        places.extend(self.places.iter().map(|place| place + moves_at as u32));
        let bytes = (places_at + 4 * places.len()).next_multiple_of(16);
        let head = [
            bytes as u32,
            0,
            moves_at as u32,
            self.moves,
            fetches.len() as u32,
            near,
            places_at as u32,
            places.len() as u32,
        ];
        let mut task: Vec<u8> = bytemuck::cast_slice(&head).to_vec();
        for fetch in fetches {
            let (Spot::Far(from) | Spot::State(from)) = fetch.from else { continue };
            task.extend(from.to_le_bytes());
            task.extend(fetch.to.to_le_bytes());
            task.extend(fetch.bytes.to_le_bytes());
        }
        task.extend(&self.bytes);
        task.extend(bytemuck::cast_slice::<u32, u8>(&places));
        task.resize(bytes, 0);
        task
    }
}

/// Where `next_bytes` stands in a task.
pub(super) const NEXT_BYTES_AT: usize = 4;

/// The numbers of formulas that are compiled, by their steps.
pub(super) fn formula_number(steps: [u64; 2]) -> u32 {
    static KNOWN: OnceLock<HashMap<[u64; 2], u32>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let lines = include_str!("formulas.cuh").lines();
        lines.filter_map(|line| formula(line.strip_prefix("FORMULA(")?)).collect()
    });
    known.get(&steps).copied().unwrap_or(u32::MAX)
}

/// "3, 0x1ull, 0x2ull) …": steps and number.
fn formula(line: &str) -> Option<([u64; 2], u32)> {
    let mut parts = line.split(')').next()?.split(',').map(str::trim);
    let number = parts.next()?.parse().ok()?;
    let mut steps = || {
        let text = parts.next()?.trim_start_matches("0x").trim_end_matches("ull");
        u64::from_str_radix(text, 16).ok()
    };
    Some(([steps()?, steps()?], number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_number_moves_alike() {
        let theirs = include_str!("token.cuh");
        let list = theirs.split("enum MoveKind : u32 {").nth(1).and_then(|at| at.split('}').next());
        let theirs: Vec<String> = list
            .expect("their numbers")
            .split(',')
            .map(|name| name.trim().trim_start_matches("MOVE_").to_lowercase())
            .collect();
        let ours = [
            MoveKind::Map,
            MoveKind::Sum,
            MoveKind::Pack,
            MoveKind::Norm,
            MoveKind::Project,
            MoveKind::Heads,
            MoveKind::Conv,
            MoveKind::Keep,
            MoveKind::Copy,
            MoveKind::Other,
        ];
        let named = ours.map(|kind| format!("{kind:?}").to_lowercase());
        assert_eq!(theirs, named);
        assert!((0..ours.len()).all(|number| ours[number] as usize == number));
    }

    #[test]
    fn formulas_have_the_numbers_of_their_lines() {
        assert_eq!(formula("2, 0x20101ull, 0x0ull) // (a + b)"), Some(([0x20101, 0], 2)));
        assert_eq!((formula_number([1, 0]), formula_number([0x0fff, 0])), (1, u32::MAX));
        let lines = include_str!("formulas.cuh").lines();
        let numbers = lines.filter_map(|line| formula(line.strip_prefix("FORMULA(")?));
        assert!(numbers.enumerate().all(|(i, (_, number))| i == number as usize));
    }

    /// Head, fetches, moves, places: each where the head says.
    #[test]
    fn tasks_say_where_their_parts_are() {
        let mut words = Words::default();
        words.begin(MoveKind::Keep, true, (16, 32), 0);
        words.spot(Spot::Near(64));
        words.spot(Spot::State(128));
        words.end();
        let fetch = Fetch { from: Spot::State(256), to: 4096, bytes: 48 };
        let cached = Fetch { from: Spot::Far(1 << 40), to: CACHE_ONLY, bytes: 32 };
        let task = words.task(&[fetch, cached]);
        let at = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| task[4 * i + j]));
        let head: Vec<u32> = (0..8).map(at).collect();
        assert_eq!(head, [112, 0, 64, 1, 2, 48, 96, 3]);
        // The first fetch's address, then the two of the move.
        assert_eq!([24, 25, 26].map(at), [OF_STATE | 32, 64 + 16, OF_STATE | (64 + 24)]);
        assert_eq!((task[64], task[65], task[66]), (MoveKind::Keep as u8, WAITS, 32));
        assert_eq!([17, 18].map(at), [16, 32]);
    }
}
