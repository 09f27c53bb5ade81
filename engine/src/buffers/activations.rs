//! Activations as projections read them: columns of k values, in the forms ([`Forms`]) that the
//! matrices reading them need.
//!
//! A projection's input is prepared once, group by group, by the stage before it.
//! Not here: what the forms are (`kernels/forms.rs`, `kernels/units.rs`). Test: below.

use std::array;
use std::ops::Range;

use brooklet_formats::zeroed::Zeroed;
use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};
use half::bf16;

use super::Workspace;
use crate::kernels::Isa;
use crate::kernels::forms::{Activations, Form, Forms, GROUP, Packed};
use crate::kernels::simd::simd;
use crate::kernels::units::{Fp8Quad, Int8Group, LmulQuad, Unit};
use crate::kernels::vector::{LaneKernel, Vector};
use crate::team::{Segment, Segments, SegmentsShare, Share, Shared, Split};

/// Columns are padded so that every weight format's padding fits: two groups of 128.
const PAD: usize = 256;

/// Values that are made before they are written: several groups, so that the processor works on
/// them side by side.
const AT_ONCE: usize = 4 * GROUP;

/// The value of an expression in which `U` is the unit of a form: `of_form!(form, U => value)`.
macro_rules! of_form {
    ($form:expr, $unit:ident => $value:expr) => {
        match $form {
            Form::Int8 => {
                type $unit = Int8Group;
                $value
            }
            Form::F32 => {
                type $unit = f32;
                $value
            }
            Form::Bf16 => {
                type $unit = bf16;
                $value
            }
            Form::Fp8 => {
                type $unit = Fp8Quad;
                $value
            }
            Form::Lmul => {
                type $unit = LmulQuad;
                $value
            }
        }
    };
}

/// The element of a buffer: units are a whole number of these, or all columns together are.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(16))]
struct Sixteen([u8; 16]);

/// Up to `columns` columns of `k` activations each.
pub(crate) struct ActivationBuffer {
    k: usize,
    columns: usize,
    forms: Forms,
    /// One for each form it holds.
    buffers: [Option<Buffer>; Form::ALL.len()],
}

impl ActivationBuffer {
    /// The columns of `workspace`, of `k` values each in the given forms, all zero.
    pub(crate) fn new(k: usize, workspace: &Workspace, forms: Forms) -> ActivationBuffer {
        let mut forms_left = forms.iter();
        let buffers = array::from_fn(|_| Some(Buffer::new(forms_left.next()?, k, workspace)));
        ActivationBuffer { k, columns: workspace.columns(), forms, buffers }
    }

    /// Length of a column.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// The columns from `first` on, as kernels see them, in a form that it holds.
    ///
    /// # Panics
    /// It does not hold that form: a bug in the model.
    pub(crate) fn view_from(&self, form: Form, first: usize) -> Activations<'_> {
        let buffer = self.buffers.iter().flatten().find(|buffer| buffer.form == form);
        let buffer = buffer.expect("a matrix reads a form that was prepared for it");
        of_form!(form, U => U::activations(buffer.view::<U>(self.columns).from(first)))
    }

    /// Shares the first `columns` columns for writing; each piece owns the groups of `split`'s
    /// elements.
    ///
    /// # Panics
    /// The split's unit is not a whole number of groups: a bug in the stage.
    pub(crate) fn share_rows(&mut self, columns: usize, split: Split) -> SharedActs<'_> {
        self.share(Cut::Rows { columns }, split)
    }

    /// Shares whole columns for writing, those that each piece gets from `split`.
    pub(crate) fn share_columns(&mut self, split: Split) -> SharedActs<'_> {
        self.share(Cut::Columns, split)
    }

    /// Shares segments of the first `columns` columns for writing, each by rows; the units of their
    /// splits are whole groups.
    pub(crate) fn share_segments<'a>(
        &'a mut self,
        columns: usize,
        segments: &'a [Segment],
    ) -> SegmentActs<'a> {
        let (k, only_int8) = (self.k, self.forms == Form::Int8.into());
        let mut buffers = self.buffers.iter_mut().flatten();
        SegmentActs {
            k,
            only_int8,
            segments,
            buffers: array::from_fn(|_| Some(buffers.next()?.share_segments(k, columns, segments))),
        }
    }

    fn share(&mut self, cut: Cut, split: Split) -> SharedActs<'_> {
        let mut buffers = self.buffers.iter_mut().flatten();
        SharedActs {
            k: self.k,
            only_int8: self.forms == Form::Int8.into(),
            cut,
            split,
            buffers: array::from_fn(|_| Some(buffers.next()?.share(self.k, cut, split))),
        }
    }
}

/// The direction in which a buffer is cut for the pieces of a stage.
#[derive(Clone, Copy)]
enum Cut {
    /// Each piece gets elements of all of that many columns.
    Rows { columns: usize },
    /// Each piece gets whole columns.
    Columns,
}

/// The columns of one form.
struct Buffer {
    form: Form,
    /// Units of a column.
    units: usize,
    /// Columns that were shared for writing last.
    width: usize,
    memory: Zeroed<Sixteen>,
}

impl Buffer {
    fn new(form: Form, k: usize, workspace: &Workspace) -> Buffer {
        // One group more than the padding: columns a power of two apart would compete for the same
        // lines of the cache.
        let values = k.next_multiple_of(PAD) + GROUP;
        of_form!(form, U => {
            let units = values / U::VALUES;
            let memory = workspace.zeroed(units * size_of::<U>() / size_of::<Sixteen>());
            let mut buffer = Buffer { form, units, width: 0, memory };
            // Memory that is zero already is not touched.
            if bytemuck::bytes_of(&U::ZERO).iter().any(|byte| *byte != 0) {
                cast_slice_mut(&mut buffer.memory).fill(U::ZERO);
            }
            buffer
        })
    }

    /// Units from a column to the next; if columns are adjacent, from a column's unit to its next.
    fn stride<U: Unit>(&self) -> usize {
        if U::ADJACENT { self.width } else { self.units }
    }

    /// Its columns: those shared last, if they are adjacent, else all `columns`.
    fn view<U: Unit>(&self, columns: usize) -> Packed<'_, U> {
        let columns = if U::ADJACENT { self.width } else { columns };
        Packed::new(cast_slice(&self.memory), columns, self.stride::<U>())
    }

    fn share(&mut self, k: usize, cut: Cut, split: Split) -> SharedForm<'_> {
        let form = self.form;
        of_form!(form, U => {
            self.width = match cut {
                Cut::Rows { columns } => columns,
                Cut::Columns => split.len(),
            };
            let (stride, used, bytes) = (self.stride::<U>(), k.div_ceil(U::VALUES), size_of::<U>());
            let memory = self.padded::<U>(k);
            let shared = match (cut, U::ADJACENT) {
                (Cut::Rows { columns }, false) => {
                    let split = split.per(U::VALUES).times(bytes);
                    Shared::rows(memory, stride * bytes, columns, split)
                }
                (Cut::Rows { columns }, true) => {
                    Shared::columns(memory, columns * bytes, split.per(U::VALUES))
                }
                (Cut::Columns, false) => Shared::columns(memory, stride * bytes, split),
                (Cut::Columns, true) => {
                    Shared::rows(memory, stride * bytes, used, split.times(bytes))
                }
            };
            SharedForm { form, shared }
        })
    }

    fn share_segments<'a>(
        &'a mut self,
        k: usize,
        columns: usize,
        segments: &'a [Segment],
    ) -> (Form, Segments<'a, u8>) {
        let form = self.form;
        self.width = columns;
        of_form!(form, U => {
            let (stride, bytes) = (self.stride::<U>() * size_of::<U>(), size_of::<U>());
            let (memory, per) = (self.padded::<U>(k), [U::VALUES, bytes]);
            (form, match U::ADJACENT {
                false => Segments::rows(memory, stride, segments, per),
                true => Segments::turned(memory, stride, segments, per),
            })
        })
    }

    /// All bytes; those behind a column of `k` values are zero.
    fn padded<U: Unit>(&mut self, k: usize) -> &mut [u8] {
        let stride = self.stride::<U>();
        let all = cast_slice_mut::<_, U>(&mut self.memory);
        if U::ADJACENT {
            // Where padding stands depends on the width.
            let (used, end) = (k.div_ceil(U::VALUES), k.next_multiple_of(PAD) / U::VALUES);
            all[used * stride..end * stride].fill(U::ZERO);
        }
        cast_slice_mut(all)
    }
}

/// [`ActivationBuffer`] of which every piece of a stage writes a part of every segment.
pub(crate) struct SegmentActs<'a> {
    k: usize,
    only_int8: bool,
    segments: &'a [Segment],
    buffers: [Option<(Form, Segments<'a, u8>)>; Form::ALL.len()],
}

impl SegmentActs<'_> {
    /// The parts of `piece`; taken once per stage.
    pub(crate) fn take(&self, piece: usize) -> SegmentActsShare<'_> {
        let buffers = self.buffers.each_ref();
        SegmentActsShare {
            of: self,
            piece,
            parts: buffers.map(|buffer| Some(buffer.as_ref()?.1.take(piece))),
        }
    }
}

/// What one piece has of [`SegmentActs`].
pub(crate) struct SegmentActsShare<'a> {
    of: &'a SegmentActs<'a>,
    piece: usize,
    parts: [Option<SegmentsShare<'a, u8>>; Form::ALL.len()],
}

impl SegmentActsShare<'_> {
    /// Its part of segment `i`.
    pub(crate) fn segment(&mut self, i: usize) -> ActivationShare<'_> {
        let own = self.of.segments[i].split.range(self.piece);
        let mut parts = self.parts.iter_mut();
        ActivationShare {
            own: own.start..own.end.min(self.of.k),
            only_int8: self.of.only_int8,
            buffers: self.of.buffers.each_ref().map(|buffer| {
                let part = parts.next()?.as_mut()?.segment(i);
                Some(FormPart { form: buffer.as_ref()?.0, part })
            }),
        }
    }
}

/// [`ActivationBuffer`] whose parts the pieces of a stage write.
pub(crate) struct SharedActs<'a> {
    k: usize,
    only_int8: bool,
    cut: Cut,
    split: Split,
    buffers: [Option<SharedForm<'a>>; Form::ALL.len()],
}

/// One of its buffers, in bytes. Where columns are adjacent, what it calls rows are columns of
/// activations, and what it calls columns are units.
struct SharedForm<'a> {
    form: Form,
    shared: Shared<'a, u8>,
}

impl SharedActs<'_> {
    /// The part of `piece`; taken once per stage.
    pub(crate) fn take(&self, piece: usize) -> ActivationShare<'_> {
        let own = match self.cut {
            Cut::Rows { .. } => self.split.range(piece),
            Cut::Columns => 0..self.k,
        };
        ActivationShare {
            own: own.start..own.end.min(self.k),
            only_int8: self.only_int8,
            buffers: array::from_fn(|i| {
                let SharedForm { form, shared } = self.buffers[i].as_ref()?;
                Some(FormPart { form: *form, part: shared.take(piece) })
            }),
        }
    }
}

/// One piece's block of [`ActivationBuffer`].
pub(crate) struct ActivationShare<'a> {
    /// Its elements of each column.
    own: Range<usize>,
    only_int8: bool,
    buffers: [Option<FormPart<'a>>; Form::ALL.len()],
}

/// Of one form.
struct FormPart<'a> {
    form: Form,
    part: Share<'a, u8>,
}

impl FormPart<'_> {
    /// Writes the units of `values`, of which the first is the element `at` of column `c`, and the
    /// element `n` after it no longer wanted; `own` is where this part's elements begin.
    #[inline(always)]
    fn write<U: Unit, V: Vector>(
        &mut self,
        c: usize,
        (own, at, n): (usize, usize, usize),
        values: &[f32; AT_ONCE],
    ) {
        let (bytes, units) = (size_of::<U>(), n.div_ceil(U::VALUES));
        if U::ADJACENT {
            let at = at / U::VALUES;
            let c = c * bytes - self.part.rows().start;
            for (i, values) in values.chunks_exact(U::VALUES).enumerate().take(units) {
                let unit = &mut self.part.column(at + i)[c..][..bytes];
                U::pack::<V>(values, cast_slice_mut(unit));
            }
        } else {
            let at = (at - own) / U::VALUES;
            let all = cast_slice_mut::<_, U>(self.part.column(c));
            U::pack::<V>(values, &mut all[at..at + units]);
        }
    }
}

impl ActivationShare<'_> {
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
        use crate::kernels::lanes::Lanes;
        let place = (self.own.start, at, n);
        simd!(isa, {
            for part in self.buffers.iter_mut().flatten() {
                match part.form {
                    Form::Int8 => {}
                    Form::F32 => part.write::<f32, Lanes>(c, place, values),
                    Form::Bf16 => part.write::<bf16, Lanes>(c, place, values),
                    Form::Fp8 => part.write::<Fp8Quad, Lanes>(c, place, values),
                    Form::Lmul => part.write::<LmulQuad, Lanes>(c, place, values),
                }
            }
        });
    }
}

/// [`ActivationShare::fill`].
struct Fill<'a, 'b, F> {
    isa: Isa,
    part: &'a mut ActivationShare<'b>,
    c: usize,
    fill: F,
}

impl<F: Fn(Range<usize>, &mut [f32])> LaneKernel for Fill<'_, '_, F> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Fill { isa, part, c, fill } = self;
        let Range { start, end } = part.own;
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
            // Int8 is the first of all forms.
            if let Some(int8) = part.buffers[0].as_mut().filter(|part| part.form == Form::Int8) {
                int8.write::<Int8Group, V>(c, (start, at, n), &values);
            }
            if !part.only_int8 {
                part.write_floats(isa, c, at, n, &values);
            }
        }
    }
}

#[cfg(test)]
mod tests;
