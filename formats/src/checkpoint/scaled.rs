//! [`Scales`]: the scales that stand in tensors of their own beside a tensor of codes.
//!
//! Here: which scale a number of the codes has, and the product. `x = (code − zero) · scale`, once
//! more times or over one number for the whole tensor. Products are rounded once: codes, zero
//! points and E4M3 scales have so few bits that what stands before the last product is exact. Not
//! here: which tensors belong together (`quantized`), the codes themselves (`decode`). Memory: the
//! scales of one row. Test: `tests/quantized`.

use super::tensor::{Codes, SourceTensor};
use crate::FormatError;

/// The scales of a tensor of codes, seen as matrices (its last two dimensions) below each other.
#[derive(Debug)]
pub(super) struct Scales {
    /// Lines of scales, matrix after matrix.
    pub(super) factors: SourceTensor,
    pub(super) grid: Grid,
    /// Subtracted from every code, before the zero points are.
    pub(super) bias: f32,
    pub(super) zeros: Zeros,
    pub(super) whole: Whole,
}

/// Which numbers share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// Rows and columns of a matrix of codes.
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Lines of scales that a matrix has, and scales of a line.
    pub(super) lines: usize,
    pub(super) per_line: usize,
    /// Rows and columns of a block with one scale.
    pub(super) height: usize,
    pub(super) width: usize,
}

/// Codes that stand for zero, one for each scale.
#[derive(Debug)]
pub(super) enum Zeros {
    None,
    /// As many as scales, in their order.
    Beside(SourceTensor),
    /// Packed below each other: the bytes of lines of 32-bit words, so many bits a zero point.
    Packed(SourceTensor, usize),
}

/// The scale of the whole tensor: all numbers are multiplied with it, or divided by it.
#[derive(Debug)]
pub(super) enum Whole {
    None,
    Times(SourceTensor),
    Over(SourceTensor),
}

impl Grid {
    /// The grid by which scales of shape `scales` belong to codes of shape `codes`: one for all,
    /// one per row, one per so many columns of each row, or one per block, of `block` or smaller at
    /// the ends. `None` if they fit in none of these ways.
    pub(super) fn of(codes: &[usize], scales: &[usize], block: (usize, usize)) -> Option<Self> {
        let (rows, cols) = match *codes {
            [] => return None,
            [cols] => (1, cols),
            [.., rows, cols] => (rows, cols),
        };
        let outer = &codes[..codes.len().saturating_sub(2)];
        let is_one = scales.iter().all(|&n| n == 1) && outer.iter().all(|&n| n == 1);
        let (lines, per_line) = match *scales {
            _ if is_one => (1, 1),
            [n] if n == rows && outer.is_empty() => (n, 1),
            [ref own @ .., lines, per_line] if own == outer => (lines, per_line),
            _ => return None,
        };
        let height = match lines {
            1 => rows,
            n if n == rows => 1,
            n if n == rows.div_ceil(block.0.max(1)) => block.0,
            _ => return None,
        };
        let width = match per_line {
            1 => cols,
            n if height != 1 && n == cols.div_ceil(block.1.max(1)) => block.1,
            n if n > 0 && cols.is_multiple_of(n) => cols / n,
            _ => return None,
        };
        let (height, width) = (height.max(1), width.max(1));
        Some(Self { rows, cols, lines, per_line, height, width })
    }

    /// The line of scales of a row, counted over all matrices, and the row in its own.
    fn line_of(&self, row: usize) -> usize {
        let (matrix, row) = (row / self.rows.max(1), row % self.rows.max(1));
        matrix * self.lines + row / self.height
    }
}

impl Codes for Scales {
    fn apply(&self, first: usize, values: &mut [f32]) -> Result<(), FormatError> {
        let (whole, is_divisor) = match &self.whole {
            Whole::None => (1.0, false),
            Whole::Times(one) => (read_one(one)?, false),
            Whole::Over(one) => (read_one(one)?, true),
        };
        let cols = self.grid.cols.max(1);
        let (mut scales, mut zeros, mut held) = (Vec::new(), Vec::new(), None);
        let (mut at, mut rest) = (first, values);
        while !rest.is_empty() {
            let (row, col) = (at / cols, at % cols);
            let n = (cols - col).min(rest.len());
            let line = self.grid.line_of(row);
            if held != Some(line) {
                self.line(&self.factors, line, &mut scales)?;
                if let Zeros::Beside(beside) = &self.zeros {
                    self.line(beside, line, &mut zeros)?;
                }
                held = Some(line);
            }
            if let Zeros::Packed(words, bits) = &self.zeros {
                self.unpack_zeros(words, *bits, row, &mut zeros)?;
            }
            let (own, after) = rest.split_at_mut(n);
            for (j, value) in own.iter_mut().enumerate() {
                let group = (col + j) / self.grid.width;
                let zero = zeros.get(group).copied().unwrap_or(0.0);
                let product = (*value - self.bias - zero) * scales[group];
                *value = if is_divisor { product / whole } else { product * whole };
            }
            (at, rest) = (at + n, after);
        }
        Ok(())
    }
}

impl Scales {
    /// Line `line` of a tensor that has the form of the scales.
    fn line(
        &self,
        tensor: &SourceTensor,
        line: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), FormatError> {
        out.clear();
        let start = line * self.grid.per_line;
        tensor.read_run(start..start + self.grid.per_line, out)
    }

    /// The zero points of a row.
    fn unpack_zeros(
        &self,
        words: &SourceTensor,
        bits: usize,
        row: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), FormatError> {
        // One byte holds the bits of a row: there are 4 or 8 of them.
        let (word, byte, shift) = (row * bits / 32, row * bits % 32 / 8, row * bits % 8);
        let len = 4 * self.grid.per_line;
        let mut bytes = Vec::new();
        words.read_run(word * len..(word + 1) * len, &mut bytes)?;
        out.clear();
        let own = bytes.iter().skip(byte).step_by(4).map(|&byte| byte as u8 >> shift);
        let mask = if bits == 8 { u8::MAX } else { (1 << bits) - 1 };
        out.extend(own.map(|zero| f32::from(zero & mask) - self.bias));
        Ok(())
    }
}

/// The number of a tensor that has one.
fn read_one(tensor: &SourceTensor) -> Result<f32, FormatError> {
    let mut one = Vec::new();
    tensor.read_run(0..1, &mut one)?;
    Ok(one[0])
}
