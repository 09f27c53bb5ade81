//! The gates of the classic recurrent cells, one token of all channels: LSTM (Hochreiter &
//! Schmidhuber 1997; with forget gates: Gers et al. 2000) and GRU (Cho et al. 2014, arXiv
//! 1406.1078). What they read of the token before passes a matrix, so that no loop over tokens
//! can be here. Gates stand in the order of torch (`torch.nn.LSTM`, `torch.nn.GRU`). Test: below.

use crate::kernels::Isa;
use crate::kernels::math::{sigmoid, tanh};
use crate::kernels::simd::simd;

/// c = σ(f) c + σ(i) tanh(g); h = σ(o) tanh(c). The gates i, f, g, o are sums of what comes of the
/// input (`x`) and of the token before (`before`), a row of channels for each.
pub(crate) fn lstm(isa: Isa, [x, before]: [&[f32]; 2], c: &mut [f32], h: &mut [f32]) {
    let n = h.len();
    let [x, before] = [x, before].map(|rows| [0, 1, 2, 3].map(|gate| &rows[gate * n..][..n]));
    let c = &mut c[..n];
    simd!(isa, {
        for j in 0..n {
            let [i, f, g, o] = [0, 1, 2, 3].map(|gate| x[gate][j] + before[gate][j]);
            c[j] = sigmoid(f) * c[j] + sigmoid(i) * tanh(g);
            h[j] = sigmoid(o) * tanh(c[j]);
        }
    });
}

/// h = (1 − σ(z)) tanh(n + σ(r) n') + σ(z) h, of the gates r and z as in [`lstm`], of the input's
/// n, and of n' of the token before.
pub(crate) fn gru(isa: Isa, [x, before]: [&[f32]; 2], h: &mut [f32]) {
    let n = h.len();
    let [x, before] = [x, before].map(|rows| [0, 1, 2].map(|gate| &rows[gate * n..][..n]));
    simd!(isa, {
        for j in 0..n {
            let [r, z] = [0, 1].map(|gate| sigmoid(x[gate][j] + before[gate][j]));
            let new = tanh(x[2][j] + r * before[2][j]);
            h[j] = (1.0 - z) * new + z * h[j];
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::recurrence::support::numbers;

    /// In f64, on every instruction set.
    #[test]
    fn gates_of_one_token() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for (isa, n) in Isa::available().flat_map(|isa| [1, 16, 37].map(|n| (isa, n))) {
            let (x, before) = (numbers(4 * n, 1), numbers(4 * n, 2));
            let (old_h, old_c) = (numbers(n, 3), numbers(n, 4));
            let sum = |gate: usize, j: usize| {
                f64::from(x[gate * n + j]) + f64::from(before[gate * n + j])
            };
            let (mut h, mut c) = (old_h.clone(), old_c.clone());
            lstm(isa, [&x, &before], &mut c, &mut h);
            for j in 0..n {
                let [i, f, g, o] = [0, 1, 2, 3].map(|gate| sum(gate, j));
                let cell = sigmoid(f) * f64::from(old_c[j]) + sigmoid(i) * g.tanh();
                assert!((f64::from(c[j]) - cell).abs() < 1e-6, "c {j} on {}", isa.name());
                let hidden = sigmoid(o) * cell.tanh();
                assert!((f64::from(h[j]) - hidden).abs() < 1e-6, "h {j} on {}", isa.name());
            }
            let mut h = old_h.clone();
            gru(isa, [&x[..3 * n], &before[..3 * n]], &mut h);
            for j in 0..n {
                let (r, z) = (sigmoid(sum(0, j)), sigmoid(sum(1, j)));
                let new = (f64::from(x[2 * n + j]) + r * f64::from(before[2 * n + j])).tanh();
                let hidden = (1.0 - z) * new + z * f64::from(old_h[j]);
                assert!((f64::from(h[j]) - hidden).abs() < 1e-6, "gru {j} on {}", isa.name());
            }
        }
    }
}
