//! Activations as projections read them: columns of k values, in the forms ([`Forms`]) that the
//! matrices reading them need.
//!
//! A projection's input is prepared once, group by group, by the stage before it.
//! Not here: what the forms are (`forms.rs`).

use std::ops::Range;

use brooklet_formats::zeroed::Zeroed;
use bytemuck::Zeroable;

use super::Room;
use crate::kernels::forms::{Forms, Fp8Quad, GROUP, Int8Group, LmulQuad, to_bf16};
use crate::kernels::isa::Isa;
use crate::kernels::vector::{LaneKernel, Vector};
use crate::team::{Part, Shared, Split};

/// Columns are padded so that every weight format's padding fits: two groups of 128.
const PAD: usize = 256;

/// Values that are made before they are written: several groups, so that the processor works on
/// them side by side.
const AT_ONCE: usize = 4 * GROUP;

/// Up to `columns` columns of `k` activations each.
pub(crate) struct Acts {
    k: usize,
    stride: usize,
    columns: usize,
    forms: Forms,
    /// Columns that were shared for writing last.
    width: usize,
    /// (stride / GROUP, width): a kernel that takes several columns finds all their groups at fixed
    /// distances.
    int8: Zeroed<Int8Group>,
    /// (columns, stride)
    pub(crate) float: Zeroed<f32>,
    /// (columns, stride)
    pub(crate) bf16: Zeroed<u16>,
    /// (columns, stride / 4)
    pub(crate) fp8: Zeroed<Fp8Quad>,
    /// (columns, stride / 4)
    pub(crate) lmul: Zeroed<LmulQuad>,
}

impl Acts {
    /// The columns of `room`, of `k` values each in the given forms, all zero.
    pub(crate) fn new(k: usize, room: &Room, forms: Forms) -> Acts {
        // One group more than the padding: columns a power of two apart would compete for the same
        // lines of the cache.
        let stride = k.next_multiple_of(PAD) + GROUP;
        let n = |wanted: bool| if wanted { stride } else { 0 };
        let mut lmul = room.zeroed(n(forms.lmul) / 4);
        lmul.fill(LmulQuad::ZERO);
        Acts {
            k,
            stride,
            columns: room.columns(),
            forms,
            width: 0,
            int8: room.zeroed(n(forms.int8) / GROUP),
            float: room.zeroed(n(forms.float)),
            bf16: room.zeroed(n(forms.bf16)),
            fp8: room.zeroed(n(forms.fp8) / 4),
            lmul,
        }
    }

    /// Number of columns it has room for.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Length of a column.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Distance between columns.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The forms it holds.
    pub(crate) fn forms(&self) -> Forms {
        self.forms
    }

    /// The int8 groups, and the distance between groups of one column; those of a group's columns
    /// are neighbours.
    pub(crate) fn int8(&self) -> (&[Int8Group], usize) {
        (&self.int8, self.width)
    }

    /// Lays the int8 groups out for `width` columns. What pads the last groups of weights is zero.
    fn lay_out(&mut self, width: usize) {
        self.width = width;
        if self.forms.int8 {
            let padding =
                self.k.div_ceil(GROUP) * width..self.k.next_multiple_of(PAD) / GROUP * width;
            self.int8[padding].fill(Int8Group::zeroed());
        }
    }

    /// Shares the first `columns` columns for writing; each piece owns the groups of `split`'s
    /// elements.
    ///
    /// # Panics
    /// The split's unit is not a whole number of groups: a bug in the stage.
    pub(crate) fn share_rows(&mut self, columns: usize, split: Split) -> SharedActs<'_> {
        self.lay_out(columns);
        let Forms { int8, float, bf16, fp8, lmul } = self.forms;
        // `columns` for the forms this buffer holds, none for the others.
        let n = |on: bool| if on { columns } else { 0 };
        SharedActs {
            k: self.k,
            forms: self.forms,
            int8: Shared::columns(&mut self.int8, n(int8), split.per(GROUP)),
            float: Shared::rows(&mut self.float, self.stride, n(float), split),
            bf16: Shared::rows(&mut self.bf16, self.stride, n(bf16), split),
            fp8: Shared::rows(&mut self.fp8, self.stride / 4, n(fp8), split.per(4)),
            lmul: Shared::rows(&mut self.lmul, self.stride / 4, n(lmul), split.per(4)),
        }
    }

    /// Shares whole columns for writing, those that each piece gets from `split`.
    pub(crate) fn share_columns(&mut self, split: Split) -> SharedActs<'_> {
        self.lay_out(split.len());
        let groups = self.k.div_ceil(GROUP);
        let empty = Split::new(0, 1, split.pieces());
        let on = |on: bool| if on { split } else { empty };
        let Forms { int8, float, bf16, fp8, lmul } = self.forms;
        SharedActs {
            k: self.k,
            forms: self.forms,
            int8: Shared::rows(
                &mut self.int8,
                on(int8).len(),
                if int8 { groups } else { 0 },
                on(int8),
            ),
            float: Shared::columns(&mut self.float, self.stride, on(float)),
            bf16: Shared::columns(&mut self.bf16, self.stride, on(bf16)),
            fp8: Shared::columns(&mut self.fp8, self.stride / 4, on(fp8)),
            lmul: Shared::columns(&mut self.lmul, self.stride / 4, on(lmul)),
        }
    }
}

/// [`Acts`] whose parts the pieces of a stage write.
pub(crate) struct SharedActs<'a> {
    k: usize,
    forms: Forms,
    /// Of this one, rows are columns of activations, and columns groups.
    int8: Shared<'a, Int8Group>,
    float: Shared<'a, f32>,
    bf16: Shared<'a, u16>,
    fp8: Shared<'a, Fp8Quad>,
    lmul: Shared<'a, LmulQuad>,
}

impl SharedActs<'_> {
    /// The part of `piece`; taken once per stage.
    pub(crate) fn take(&self, piece: usize) -> ActsPart<'_> {
        ActsPart {
            k: self.k,
            forms: self.forms,
            int8: self.int8.take(piece),
            float: self.float.take(piece),
            bf16: self.bf16.take(piece),
            fp8: self.fp8.take(piece),
            lmul: self.lmul.take(piece),
        }
    }
}

/// One piece's block of [`Acts`].
pub(crate) struct ActsPart<'a> {
    k: usize,
    forms: Forms,
    int8: Part<'a, Int8Group>,
    float: Part<'a, f32>,
    bf16: Part<'a, u16>,
    fp8: Part<'a, Fp8Quad>,
    lmul: Part<'a, LmulQuad>,
}

impl ActsPart<'_> {
    /// Writes this part's elements of column `c`: `fill(range, out)` gives the values of the
    /// elements `range`, a few groups at a time (the last of a column may be shorter).
    #[inline]
    pub(crate) fn fill(&mut self, isa: Isa, c: usize, fill: impl Fn(Range<usize>, &mut [f32])) {
        isa.run_lanes(Fill { isa, part: self, c, fill });
    }

    /// Writes the `n` first of `values` in all forms but int8, from this part's element `at` on.
    /// Out of line, since most models have no use for it.
    #[inline(never)]
    fn write_floats(&mut self, isa: Isa, c: usize, at: usize, n: usize, values: &[f32; AT_ONCE]) {
        let (on, quads) = (self.forms, values.as_chunks::<4>().0);
        isa.run(
            #[inline(always)]
            || {
                if on.float {
                    self.float.column(c)[at..][..n].copy_from_slice(&values[..n]);
                }
                if on.bf16 {
                    let own = self.bf16.column(c)[at..].iter_mut();
                    own.zip(&values[..n]).for_each(|(y, x)| *y = to_bf16(*x));
                }
                if on.fp8 {
                    let own = self.fp8.column(c)[at / 4..].iter_mut();
                    own.zip(quads).for_each(|(y, x)| *y = Fp8Quad::new(*x));
                }
                if on.lmul {
                    let own = self.lmul.column(c)[at / 4..].iter_mut();
                    own.zip(quads).for_each(|(y, x)| *y = LmulQuad::new(*x));
                }
            },
        );
    }
}

/// [`ActsPart::fill`].
struct Fill<'a, 'b, F> {
    isa: Isa,
    part: &'a mut ActsPart<'b>,
    c: usize,
    fill: F,
}

impl<F: Fn(Range<usize>, &mut [f32])> LaneKernel for Fill<'_, '_, F> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Fill { isa, part, c, fill } = self;
        let rows = part.float.rows();
        let (start, end) = (rows.start, rows.end.min(part.k));
        let only_int8 = part.forms == Forms { int8: true, ..Forms::default() };
        let mut values = [0.0; AT_ONCE];
        for at in (start..end).step_by(AT_ONCE) {
            let n = AT_ONCE.min(end - at);
            // Whole blocks have a length that the compiler knows.
            if n == AT_ONCE {
                fill(at..at + AT_ONCE, &mut values);
            } else {
                fill(at..end, &mut values[..n]);
                values[n..].fill(0.0);
            }
            if part.forms.int8 {
                let own = part.int8.rows().start;
                let groups = values.as_chunks::<GROUP>().0;
                for (g, values) in groups.iter().enumerate().take(n.div_ceil(GROUP)) {
                    part.int8.column(at / GROUP + g)[c - own] = Int8Group::new::<V>(values);
                }
            }
            if !only_int8 {
                part.write_floats(isa, c, at - start, n, &values);
            }
        }
    }
}
