//! The elements of a slot: f32, f16, or int8 in groups of 32 with a scale each.
//!
//! The choice of codes and scales is that of the weights' int8 (`quant::int8`); only the order of
//! the bytes is another, since a slot is no matrix in tiles. Source: `SPEC.md`, "Slots". Tests:
//! `state_file/tests.rs`.

use half::f16;

use super::slot::{SlotInfo, SlotValues};
use crate::DType;
use crate::quant::int8;

/// Elements that share a scale.
const GROUP: usize = 32;
/// Bytes of a group: its codes, its scale.
const GROUP_BYTES: usize = GROUP + 2;

/// The line of a slot that is asked to be stored as `dtype`: in the smallest format that can hold
/// it and is no smaller. Vectors, a small part of most states, take no int8. Where all elements are
/// whole numbers they may be numbers of things, such as tokens, and are kept as they are.
pub(super) fn describe(slot: &SlotValues<'_>, dtype: DType) -> SlotInfo {
    let magnitude = |x: &f32| if x.is_nan() { f32::INFINITY } else { x.abs() };
    let largest = slot.values.iter().map(magnitude).fold(0f32, f32::max);
    let fits_int8 = slot.shape.len() > 1 && largest <= int8::MAX_ABS;
    let is_whole = slot.values.iter().all(|x| x.fract() == 0.0);
    let is_rounded = |x: &f32| f16::from_f32(*x).to_f32() != *x;
    let dtype = match dtype {
        _ if is_whole && slot.values.iter().any(is_rounded) => DType::F32,
        DType::Int8 if fits_int8 => DType::Int8,
        DType::F16 | DType::Int8 if f16::from_f32(largest).is_finite() => DType::F16,
        _ => DType::F32,
    };
    SlotInfo { layer: slot.layer, name: slot.name.to_owned(), shape: slot.shape.to_vec(), dtype }
}

/// Bytes of `n` elements; `None` if memory cannot address them.
pub(super) fn stored_len(dtype: DType, n: usize) -> Option<usize> {
    match dtype {
        DType::F16 => n.checked_mul(2),
        DType::Int8 => n.div_ceil(GROUP).checked_mul(GROUP_BYTES),
        _ => n.checked_mul(4),
    }
}

/// Appends the bytes of `values`.
pub(super) fn encode(dtype: DType, values: &[f32], out: &mut Vec<u8>) {
    match dtype {
        DType::F16 => values.iter().for_each(|x| out.extend(f16::from_f32(*x).to_le_bytes())),
        DType::Int8 => values.chunks(GROUP).for_each(|group| {
            let scale = int8::scale(group.iter().fold(0f32, |max, x| max.max(x.abs())));
            let mut codes = [int8::BIAS as u8; GROUP];
            codes.iter_mut().zip(group).for_each(|(code, x)| *code = int8::code(*x, scale));
            out.extend(codes);
            out.extend(scale.to_le_bytes());
        }),
        _ => values.iter().for_each(|x| out.extend(x.to_le_bytes())),
    }
}

/// Fills `out` from the bytes that [`encode`] wrote for as many elements.
pub(super) fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F16 => {
            let halves = bytes.as_chunks::<2>().0;
            out.iter_mut().zip(halves).for_each(|(x, b)| *x = f16::from_le_bytes(*b).to_f32());
        }
        DType::Int8 => {
            for (group, bytes) in out.chunks_mut(GROUP).zip(bytes.as_chunks::<GROUP_BYTES>().0) {
                let scale = f16::from_le_bytes([bytes[GROUP], bytes[GROUP + 1]]).to_f32();
                group.iter_mut().zip(bytes).for_each(|(x, code)| *x = int8::value(*code, scale));
            }
        }
        _ => {
            let words = bytes.as_chunks::<4>().0;
            out.iter_mut().zip(words).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
        }
    }
}
