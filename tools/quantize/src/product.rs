//! Products of f32 matrices, by the package `gemm`.
//!
//! Always on the calling thread, so that the order of sums depends on sizes alone: whoever wants
//! several threads cuts the result into blocks. Not here: what is multiplied. Test: below.

use gemm::Parallelism;

/// A view of a matrix: element (i, j) stands at `i · stride.0 + j · stride.1`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    values: &'a [f32],
    shape: (usize, usize),
    stride: (usize, usize),
}

/// The number of elements from the first to the last of a matrix.
fn extent((rows, cols): (usize, usize), stride: (usize, usize)) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * stride.0 + (cols - 1) * stride.1 + 1 }
}

impl<'a> View<'a> {
    /// Rows of `stride` values each, of which the matrix has the first `shape.1`.
    ///
    /// # Panics
    /// The values do not reach.
    pub(crate) fn rows(values: &'a [f32], shape: (usize, usize), stride: usize) -> View<'a> {
        assert!(extent(shape, (stride, 1)) <= values.len());
        View { values, shape, stride: (stride, 1) }
    }

    /// The same matrix with rows and columns exchanged.
    pub(crate) fn transposed(self) -> View<'a> {
        let View { values, shape, stride } = self;
        View { values, shape: (shape.1, shape.0), stride: (stride.1, stride.0) }
    }
}

/// `c ← beta · c + alpha · a b`; `c` has rows of `stride` values. Where beta is 0, `c` may hold
/// anything.
///
/// # Panics
/// Shapes do not fit, or `c` does not reach.
pub(crate) fn multiply(
    (c, stride): (&mut [f32], usize),
    (alpha, beta): (f32, f32),
    a: View<'_>,
    b: View<'_>,
) {
    let (rows, cols) = (a.shape.0, b.shape.1);
    assert_eq!(a.shape.1, b.shape.0);
    assert!(cols <= stride && extent((rows, cols), (stride, 1)) <= c.len());
    if rows == 0 || cols == 0 {
        return;
    }
    // A slice has at most isize::MAX bytes, so that no stride wraps.
    let signed = |n: usize| n as isize;
    // Where nothing is summed, the product is 0 and `gemm` only scales.
    // SAFETY: `c` has all elements (i, j) of i < rows, j < cols at i · stride + j: asserted above.
    // SAFETY: `a` and `b` have all of theirs: asserted where a `View` is made, and strides and
    // shape are exchanged together.
    // SAFETY: elements of `c` do not overlap, as cols <= stride; `c` is borrowed alone.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            rows,
            cols,
            a.shape.1,
            c.as_mut_ptr(),
            1,
            signed(stride),
            beta != 0.0,
            a.values.as_ptr(),
            signed(a.stride.1),
            signed(a.stride.0),
            b.values.as_ptr(),
            signed(b.stride.1),
            signed(b.stride.0),
            beta,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_products() {
        let a: Vec<f32> = (0..15).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..20).map(|i| (i % 7) as f32).collect();
        // (3, 4) out of rows of 5, times (4, 2) out of rows of 5, and a transposed (4, 3).
        let (left, right) = (View::rows(&a, (3, 4), 5), View::rows(&b, (4, 2), 5));
        let expected = |i: usize, j: usize, turned: bool| -> f32 {
            let at = |k: usize| if turned { a[k * 3 + i] } else { a[i * 5 + k] };
            (0..4).map(|k| at(k) * b[k * 5 + j]).sum()
        };
        let mut c = [1.0; 9];
        multiply((&mut c, 3), (2.0, 10.0), left, right);
        let mut d = [f32::NAN; 9];
        let turned = View::rows(&a, (4, 3), 3).transposed();
        multiply((&mut d, 3), (1.0, 0.0), turned, right);
        for (i, j) in (0..3).flat_map(|i| (0..2).map(move |j| (i, j))) {
            assert_eq!(c[i * 3 + j], 10.0 + 2.0 * expected(i, j, false));
            assert_eq!(d[i * 3 + j], expected(i, j, true));
        }
        assert_eq!((c[2], c[5], c[8]), (1.0, 1.0, 1.0));
    }

    #[test]
    #[should_panic(expected = "assertion")]
    fn a_view_does_not_reach_beyond_its_values() {
        View::rows(&[0.0; 11], (3, 4), 4);
    }
}
