//! ggml's blocks of about one, two and three bits: points of a grid, signs, a scale.
//!
//! Here: the IQ1, IQ2 and IQ3 types (`super::ggml_blocks` has the others, and the notation); `s` is
//! a sub-block's scale, `grid[i]` a point: the values of eight or four elements in a row. The
//! points are in `ggml_grids.bin`, 16 bits each; `tests/fixtures/ggml-blocks.py` makes it. Source:
//! ggml/src/ggml-common.h and ggml-quants.c of llama.cpp. Test: `ggml_blocks`.

use half::f16;

/// All points: the digits of a number, that of the first element lowest.
static POINTS: &[u8; 9216] = include_bytes!("ggml_grids.bin");

/// Some of the points, and what their digits stand for.
struct Grid<const DIGITS: usize> {
    first: usize,
    values: [i8; DIGITS],
}

/// The values of IQ2's digits.
const IQ2: [i8; 3] = [8, 25, 43];
const IQ2_XXS: Grid<3> = Grid { first: 0, values: IQ2 };
const IQ2_XS: Grid<3> = Grid { first: 256, values: IQ2 };
const IQ2_S: Grid<3> = Grid { first: 768, values: IQ2 };
const IQ1: Grid<3> = Grid { first: 1792, values: [-1, 0, 1] };
const IQ3_XXS: Grid<8> = Grid { first: 3840, values: [4, 12, 20, 28, 36, 44, 52, 62] };
const IQ3_S: Grid<8> = Grid { first: 4096, values: [1, 3, 5, 7, 9, 11, 13, 15] };

impl<const DIGITS: usize> Grid<DIGITS> {
    /// The values of point `i` with the signs whose bits are set in `signs`, times `scale`.
    fn put(&self, i: usize, signs: u8, scale: f32, out: &mut [f32]) {
        for (j, (x, value)) in out.iter_mut().zip(self.values_of(i)).enumerate() {
            let sign = if signs >> j & 1 == 0 { 1.0 } else { -1.0 };
            *x = scale * value * sign;
        }
    }

    /// The values of point `i`, as many as are taken: eight, or four.
    fn values_of(&self, i: usize) -> impl Iterator<Item = f32> {
        let mut number = usize::from(word(POINTS, 2 * (self.first + i)));
        std::iter::repeat_with(move || {
            let digit = number % DIGITS;
            number /= DIGITS;
            f32::from(self.values[digit])
        })
    }
}

/// The u16 at byte `at`.
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Four signs of 7 bits and a scale of 4: the 32 bits at byte `at`.
fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) | u32::from(word(bytes, at + 2)) << 16
}

/// Eight signs of 7 bits: their number is even.
fn even(signs: u32) -> u8 {
    let signs = signs as u8 & 127;
    signs | ((signs.count_ones() & 1) as u8) << 7
}

/// Nibble `i` of the bytes.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (i % 2 * 4) & 15
}

/// `[d][8 × (4 bytes i)(4 × 7 bits of signs, 4 bits s)]`: `x = ± d · (1/2 + s) / 4 · grid[i]`.
pub(super) fn iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for (part, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let at = 2 + 8 * part;
        let signs = long(block, at + 4);
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.25;
        for (j, values) in values.chunks_exact_mut(8).enumerate() {
            IQ2_XXS.put(usize::from(block[at + j]), even(signs >> (7 * j)), scale, values);
        }
    }
}

/// `[d][32 × (9 bits i, 7 bits of signs)][16 × 4 bits s]`: `x = ± d · (1/2 + s) / 4 · grid[i]`.
pub(super) fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for (j, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let code = word(block, 2 + 2 * j);
        let scale = d * (0.5 + f32::from(nibble(&block[66..], j / 2))) * 0.25;
        IQ2_XS.put(usize::from(code & 511), even(u32::from(code >> 9)), scale, values);
    }
}

/// `[d][32 × 8 low bits of i][32 × 8 signs][32 × 2 high bits of i][16 × 4 bits s]`:
/// `x = ± d · (1/2 + s) / 4 · grid[i]`.
pub(super) fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for (j, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = block[66 + j / 4] >> (j % 4 * 2) & 3;
        let i = usize::from(block[2 + j]) | usize::from(high) << 8;
        let scale = d * (0.5 + f32::from(nibble(&block[74..], j / 2))) * 0.25;
        IQ2_S.put(i, block[34 + j], scale, values);
    }
}

/// `[d][64 × 8 bits i][8 × (4 × 7 bits of signs, 4 bits s)]`: `x = ± d · (1/2 + s) / 2 · grid[i]`,
/// four elements a point.
pub(super) fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for (j, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let signs = long(block, 66 + j / 4 * 4);
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.5;
        let signs = even(signs >> (j % 4 * 7));
        let (first, second) = values.split_at_mut(4);
        IQ3_XXS.put(usize::from(block[2 + 2 * j]), signs, scale, first);
        IQ3_XXS.put(usize::from(block[3 + 2 * j]), signs >> 4, scale, second);
    }
}

/// `[d][64 × 8 low bits of i][64 × high bit of i][32 × 8 signs][8 × 4 bits s]`:
/// `x = ± d · (1 + 2 s) · grid[i]`, four elements a point.
pub(super) fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for (j, values) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let high = block[66 + j / 8] >> (j % 8) & 1;
        let i = usize::from(block[2 + j]) | usize::from(high) << 8;
        let scale = d * f32::from(1 + 2 * nibble(&block[106..], j / 8));
        IQ3_S.put(i, block[74 + j / 2] >> (j % 2 * 4), scale, values);
    }
}

/// The shift of IQ1's points.
const DELTA: f32 = 0.125;

/// The values of point `i`, shifted up or down, times `scale`.
fn shifted(i: usize, down: bool, scale: f32, out: &mut [f32]) {
    let delta = if down { -DELTA } else { DELTA };
    for (x, value) in out.iter_mut().zip(IQ1.values_of(i)) {
        *x = scale * (value + delta);
    }
}

/// `[d][32 × 8 low bits of i][8 × (4 × 3 high bits of i, 3 bits s, sign of the shift)]`:
/// `x = d · (2 s + 1) · (grid[i] ± 1/8)`.
pub(super) fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for (j, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let code = word(block, 34 + j / 4 * 2);
        let i = usize::from(block[2 + j]) | usize::from(code >> (j % 4 * 3) & 7) << 8;
        let scale = d * f32::from(2 * (code >> 12 & 7) + 1);
        shifted(i, code & 0x8000 != 0, scale, values);
    }
}

/// `[32 × 8 low bits of i][32 × (3 high bits of i, sign of the shift)][4 × (4 × 3 bits s, 4 bits of
/// d, the lowest first)]`: `x = d · (2 s + 1) · (grid[i] ± 1/8)`.
pub(super) fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let words: [u16; 4] = std::array::from_fn(|i| word(block, 48 + 2 * i));
    let d = words.iter().rev().fold(0, |bits, word| bits << 4 | word >> 12);
    let d = half(&d.to_le_bytes(), 0);
    for (j, values) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let code = nibble(&block[32..], j);
        let i = usize::from(block[j]) | usize::from(code & 7) << 8;
        let s = words[j / 8] >> (j / 2 % 4 * 3) & 7;
        shifted(i, code & 8 != 0, d * f32::from(2 * s + 1), values);
    }
}

/// The f16 at byte `at`.
pub(super) fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
