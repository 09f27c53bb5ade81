//! The recurrence of channels on their own: what was remembered fades, the token is added (Martin &
//! Cundy 2018, arXiv 1709.04057, eq. 3): RG-LRU, HGRN.
//!
//! Its state is f32 always: one number for each channel. Test: below.

use crate::kernels::Isa;
use crate::kernels::columns::{Columns, ColumnsMut};
use crate::kernels::lanes::update2;
use crate::kernels::simd::simd;

/// The inputs of a span of tokens to some channels, one column per token.
pub(crate) struct Leaky<'a> {
    /// The share of h that stays.
    pub(crate) decay: Columns<'a>,
    /// State, one number for each channel.
    pub(crate) h: &'a mut [f32],
    /// Inputs, overwritten by h.
    pub(crate) x: ColumnsMut<'a>,
}

/// h ← decay · h + x, x ← h, token after token.
pub(crate) fn leaky(isa: Isa, Leaky { decay, h, mut x }: Leaky<'_>) {
    simd!(isa, {
        for c in 0..x.len() {
            let x = x.at(c);
            update2(h, decay.at(c), x, |h, decay, x| decay * h + x);
            x.copy_from_slice(h);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::recurrence::support::numbers;

    #[test]
    fn channels_fade_and_add() {
        let (n, tokens) = (19, 5);
        let [decay, x, start] = [n * tokens, n * tokens, n].map(|len| numbers(len, len as u32 + 1));
        for isa in Isa::available() {
            let (mut h, mut found) = (start.clone(), x.clone());
            leaky(
                isa,
                Leaky {
                    decay: Columns::new(&decay, n, 0..tokens, 0..n),
                    h: &mut h,
                    x: ColumnsMut::whole(&mut found, n),
                },
            );
            for i in 0..n {
                let mut expected = start[i];
                for t in 0..tokens {
                    expected = decay[t * n + i] * expected + x[t * n + i];
                    assert_eq!(found[t * n + i], expected, "{isa:?}");
                }
                assert_eq!(h[i], expected, "{isa:?}");
            }
        }
    }
}
