use super::*;

/// Segments of columns with cuts of their own hold what whole columns hold.
#[test]
fn segments_are_filled_each_for_itself() {
    for (form, k) in Form::ALL.into_iter().flat_map(|form| [(form, 60), (form, 300)]) {
        let new = || ActivationBuffer::new(k, &Workspace::new(9), form.into());
        let (mut expected, mut acts) = (new(), new());
        fill(&mut expected, 7, false, value);
        let segment = |columns| Segment { columns, split: Split::new(k, GROUP, 3) };
        let segments = [segment(0..1), segment(1..5), segment(5..7)];
        let shared = acts.share_segments(7, &segments);
        for piece in 0..3 {
            let mut parts = shared.take(piece);
            for (i, segment) in segments.iter().enumerate() {
                let mut part = parts.segment(i);
                for c in segment.columns.clone() {
                    part.fill(Isa::detect(), c, |range, out| {
                        out.iter_mut().zip(range).for_each(|(y, k)| *y = value(c, k));
                    });
                }
            }
        }
        for c in 0..7 {
            assert_eq!(bytes(&acts, form, c), bytes(&expected, form, c), "{form:?}");
        }
    }
}

/// The bytes of what stands for the elements of column `c`, with their padding.
fn bytes(acts: &ActivationBuffer, form: Form, c: usize) -> Vec<u8> {
    fn of<U: Unit>(columns: Packed<'_, U>, c: usize, k: usize) -> Vec<u8> {
        let units = k.next_multiple_of(PAD) / U::VALUES;
        (0..units).flat_map(|i| bytemuck::bytes_of(columns.unit(c, i)).to_vec()).collect()
    }
    match acts.view_from(form, 0) {
        Activations::Int8(x) => of(x, c, acts.k()),
        Activations::F32(x) => of(x, c, acts.k()),
        Activations::Bf16(x) => of(x, c, acts.k()),
        Activations::Fp8(x) => of(x, c, acts.k()),
        Activations::Lmul(x) => of(x, c, acts.k()),
    }
}

fn value(c: usize, k: usize) -> f32 {
    ((c * 31 + k * 7) % 23) as f32 - 11.0
}

/// Fills `columns` columns, cut along rows or columns into three pieces.
fn fill(
    acts: &mut ActivationBuffer,
    columns: usize,
    rows: bool,
    value: impl Fn(usize, usize) -> f32,
) {
    let k = acts.k();
    let shared = if rows {
        acts.share_rows(columns, Split::new(k, GROUP, 3))
    } else {
        acts.share_columns(Split::new(columns, 1, 3))
    };
    for piece in 0..3 {
        let columns = if rows { 0..columns } else { Split::new(columns, 1, 3).range(piece) };
        let mut part = shared.take(piece);
        for c in columns {
            part.fill(Isa::detect(), c, |range, out| {
                out.iter_mut().zip(range).for_each(|(y, k)| *y = value(c, k));
            });
        }
    }
}

/// All forms together, however they are cut, hold what each alone holds.
#[test]
fn every_form_stands_where_kernels_look() {
    let all = Form::ALL.into_iter().fold(Forms::default(), |all, form| all | form.into());
    for (k, columns) in [(60, 1), (300, 5), (1000, 4)] {
        let mut expected: Vec<ActivationBuffer> =
            Form::ALL.map(|form| ActivationBuffer::new(k, &Workspace::new(7), form.into())).into();
        expected.iter_mut().for_each(|acts| fill(acts, columns, false, value));
        for rows in [true, false] {
            let mut acts = ActivationBuffer::new(k, &Workspace::new(7), all);
            fill(&mut acts, columns, rows, value);
            for (form, expected) in Form::ALL.into_iter().zip(&expected) {
                for c in 0..columns {
                    assert_eq!(bytes(&acts, form, c), bytes(expected, form, c), "{form:?}");
                }
            }
            let Activations::F32(x) = acts.view_from(Form::F32, 0) else { unreachable!() };
            for (c, i) in (0..columns).flat_map(|c| (0..k + 1).map(move |i| (c, i))) {
                assert_eq!(*x.unit(c, i), if i < k { value(c, i) } else { 0.0 });
            }
        }
    }
}

/// Old values of a buffer, from another number of columns, do not reach the padding of
/// the next.
#[test]
fn nothing_is_left_behind() {
    const K: usize = 60;
    for form in Form::ALL {
        let mut acts = ActivationBuffer::new(K, &Workspace::new(5), form.into());
        fill(&mut acts, 5, false, |_, _| f32::INFINITY);
        for columns in 1..3 {
            let mut fresh = ActivationBuffer::new(K, &Workspace::new(columns), form.into());
            fill(&mut acts, columns, false, value);
            fill(&mut fresh, columns, false, value);
            for c in 0..columns {
                assert_eq!(bytes(&acts, form, c), bytes(&fresh, form, c), "{form:?}");
            }
        }
    }
}
