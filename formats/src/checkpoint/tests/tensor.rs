//! Tensors with strides of every kind, and those that lie outside of their files.

use std::io::Write;

use super::super::source::{Blob, SourceFile};
use super::super::{SourceDType, SourceTensor};
use crate::FormatError;

/// A storage of `n` f32 numbers 0, 1, 2, …
fn counting(n: usize) -> (tempfile::NamedTempFile, Blob) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for i in 0..n {
        file.write_all(&(i as f32).to_le_bytes()).unwrap();
    }
    let source = SourceFile::open(file.path()).unwrap();
    (file, Blob::whole(&source))
}

fn strided(
    blob: &Blob,
    shape: &[usize],
    offset: usize,
    strides: &[usize],
) -> Result<SourceTensor, FormatError> {
    let dtype = SourceDType::F32;
    SourceTensor::strided("t".into(), shape.into(), dtype, blob.clone(), offset, strides.into())
}

#[test]
fn strides_of_every_kind() {
    let (_keep, blob) = counting(1000);
    for (shape, offset, strides) in [
        (vec![10, 20], 0, vec![20, 1]),        // plain
        (vec![20, 10], 3, vec![1, 20]),        // transposed
        (vec![5, 4, 3], 7, vec![1, 50, 5]),    // permuted
        (vec![4, 6], 1, vec![60, 2]),          // every second
        (vec![3, 8], 5, vec![0, 1]),           // expanded
        (vec![1, 7, 1], 2, vec![999, 3, 999]), // dimensions of one
        (vec![6], 0, vec![100]),
        (vec![], 42, vec![]),
        (vec![0, 3], 0, vec![3, 1]),
        (vec![3, 0], 0, vec![1, 9]),
    ] {
        let tensor = strided(&blob, &shape, offset, &strides).unwrap();
        let (n_row, row_len) = tensor.matrix_shape();
        let mut expected = Vec::new();
        for flat in 0..n_row * row_len {
            let (mut rest, mut at) = (flat, offset);
            for d in (0..shape.len()).rev() {
                at += rest % shape[d] * strides[d];
                rest /= shape[d];
            }
            expected.push(at as f32);
        }
        for start in 0..=n_row {
            for end in start..=n_row {
                let mut out = vec![-1.0];
                tensor.read_rows(start..end, &mut out).unwrap();
                assert_eq!(out[0], -1.0, "rows are appended");
                assert_eq!(
                    out[1..],
                    expected[start * row_len..end * row_len],
                    "{shape:?} {strides:?} {start}..{end}"
                );
            }
        }
        assert!(tensor.read_rows(0..n_row + 1, &mut Vec::new()).is_err());
    }
}

#[test]
fn what_lies_outside_is_refused() {
    let (_keep, blob) = counting(100);
    for (shape, offset, strides) in [
        (vec![101], 0, vec![1]),
        (vec![100], 1, vec![1]),
        (vec![10, 10], 1, vec![1, 10]),
        (vec![2, 2], 0, vec![usize::MAX, usize::MAX]),
        (vec![usize::MAX, usize::MAX], 0, vec![0, 0]),
        (vec![0, usize::MAX, 2], 0, vec![2, 2, 1]),
        (vec![1 << 30], 0, vec![0]),
        (vec![2, 2], 0, vec![1]),
        (vec![2], usize::MAX, vec![3]),
        (vec![1; 9], 0, vec![1; 9]),
        (vec![2], usize::MAX, vec![1]),
    ] {
        assert!(
            strided(&blob, &shape, offset, &strides).is_err(),
            "{shape:?} {offset} {strides:?}"
        );
    }
    let blocks = |shape: Vec<usize>| {
        SourceTensor::new("t".into(), shape, SourceDType::Q4_0, blob.clone(), 0)
    };
    assert!(blocks(vec![2, 32]).is_ok());
    assert!(blocks(vec![32, 2]).is_err());
    assert!(blocks(vec![32 * 23]).is_err());
}

#[test]
fn a_part_of_a_block() {
    let (_keep, blob) = counting(100);
    let tensor = SourceTensor::new("t".into(), vec![96], SourceDType::Q8_0, blob, 4).unwrap();
    let (mut whole, mut part) = (Vec::new(), Vec::new());
    tensor.read_rows(0..96, &mut whole).unwrap();
    tensor.read_rows(33..50, &mut part).unwrap();
    assert_eq!(part, whole[33..50]);
}
