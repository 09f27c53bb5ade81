//! RWKV-4 to 7 as plain as can be: f64, one token at a time, over the tensors of a BlinkDL
//! checkpoint.
//!
//! Written from the equations, with nothing of the engine in it, to compare models of shapes that
//! no published fixture has. It is slow and says nothing of states. `tests/rwkv_shapes.rs` uses it.

use std::collections::BTreeMap;

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// C order.
    pub values: Vec<f32>,
}

/// The tensors of a checkpoint by their names.
pub type Weights = BTreeMap<String, Tensor>;

/// The constants that no tensor says.
#[derive(Clone, Copy, Debug)]
pub struct Epsilons {
    /// Of the layer norms.
    pub ln: f64,
    /// Of the norm before the head.
    pub ln_out: f64,
    /// Of the norm over heads.
    pub ln_x: f64,
}

/// Logits after every token, from an empty state.
pub fn reference(weights: &Weights, tokens: &[u32], eps: Epsilons) -> Vec<f32> {
    let model = Reference { weights, eps };
    let n_layer =
        (0..).take_while(|i| weights.contains_key(&format!("blocks.{i}.ln1.weight"))).count();
    let mut states: Vec<State> = (0..n_layer).map(|_| State::default()).collect();
    let mut logits = Vec::new();
    for token in tokens {
        let embed = &weights["emb.weight"];
        let width = embed.shape[1];
        let mut x = doubles(&embed.values[*token as usize * width..][..width]);
        x = model.layer_norm("blocks.0.ln0", &x, eps.ln);
        let mut v_first = Vec::new();
        for (i, state) in states.iter_mut().enumerate() {
            let at = format!("blocks.{i}");
            let h = model.layer_norm(&format!("{at}.ln1"), &x, eps.ln);
            add(&mut x, &model.time_mix(&format!("{at}.att"), &h, state, &mut v_first));
            state.att_x = h;
            let h = model.layer_norm(&format!("{at}.ln2"), &x, eps.ln);
            add(&mut x, &model.channel_mix(&format!("{at}.ffn"), &h, &state.ffn_x));
            state.ffn_x = h;
        }
        let x = model.layer_norm("ln_out", &x, eps.ln_out);
        logits.extend(model.matrix("head.weight", &x).iter().map(|v| *v as f32));
    }
    logits
}

#[derive(Default)]
struct State {
    att_x: Vec<f64>,
    ffn_x: Vec<f64>,
    /// RWKV-4: numerator, denominator, largest exponent; later versions: (head, key, value).
    wkv: Vec<f64>,
}

struct Reference<'a> {
    weights: &'a Weights,
    eps: Epsilons,
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn map(x: &[f64], f: impl Fn(f64) -> f64) -> Vec<f64> {
    x.iter().map(|x| f(*x)).collect()
}

fn zip(x: &[f64], y: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| f(*x, *y)).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn normalized(x: &[f64], eps: f64) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    map(x, |v| (v - mean) / (variance + eps).sqrt())
}

impl Reference<'_> {
    fn has(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    fn vector(&self, name: &str) -> Vec<f64> {
        doubles(&self.weights.get(name).unwrap_or_else(|| panic!("{name} is missing")).values)
    }

    /// W x.
    fn matrix(&self, name: &str, x: &[f64]) -> Vec<f64> {
        self.vector(name)
            .chunks_exact(x.len())
            .map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
            .collect()
    }

    /// x W, for adapters.
    fn adapter(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let w = self.vector(name);
        let n = w.len() / x.len();
        (0..n).map(|j| x.iter().enumerate().map(|(i, x)| x * w[i * n + j]).sum()).collect()
    }

    fn layer_norm(&self, name: &str, x: &[f64], eps: f64) -> Vec<f64> {
        let scaled =
            zip(&normalized(x, eps), &self.vector(&format!("{name}.weight")), |x, w| x * w);
        zip(&scaled, &self.vector(&format!("{name}.bias")), |x, b| x + b)
    }

    /// RWKV-4 and 5: x·m + before·(1 − m).
    fn mix(&self, name: &str, x: &[f64], before: &[f64]) -> Vec<f64> {
        let weighed = zip(x, &self.vector(name), |x, m| x * m);
        zip(&weighed, &zip(before, &self.vector(name), |b, m| b * (1.0 - m)), |a, b| a + b)
    }

    /// RWKV-6 and 7: x + (before − x)·m.
    fn lerp(&self, x: &[f64], before: &[f64], m: &[f64]) -> Vec<f64> {
        zip(x, &zip(&zip(before, x, |b, x| b - x), m, |d, m| d * m), |x, d| x + d)
    }

    fn time_mix(&self, at: &str, x: &[f64], state: &mut State, v_first: &mut Vec<f64>) -> Vec<f64> {
        if state.att_x.is_empty() {
            state.att_x = vec![0.0; x.len()];
        }
        let before = state.att_x.clone();
        let name = |name: &str| format!("{at}.{name}");
        if self.has(&name("r_k")) {
            self.time_mix_7(at, x, &before, state, v_first)
        } else if self.has(&name("time_maa_x")) {
            self.time_mix_6(at, x, &before, state)
        } else if self.has(&name("ln_x.weight")) {
            self.time_mix_5(at, x, &before, state)
        } else {
            self.time_mix_4(at, x, &before, state)
        }
    }

    fn time_mix_4(&self, at: &str, x: &[f64], before: &[f64], state: &mut State) -> Vec<f64> {
        let project = |m: &str, w: &str| {
            self.matrix(
                &format!("{at}.{w}.weight"),
                &self.mix(&format!("{at}.time_mix_{m}"), x, before),
            )
        };
        let (r, k, v) = (project("r", "receptance"), project("k", "key"), project("v", "value"));
        let n = k.len();
        if state.wkv.is_empty() {
            state.wkv = vec![0.0; 3 * n];
            state.wkv[2 * n..].fill(-1e30);
        }
        let (w, u) =
            (self.vector(&format!("{at}.time_decay")), self.vector(&format!("{at}.time_first")));
        let mut out = Vec::new();
        for i in 0..n {
            let [aa, bb, pp] = [state.wkv[i], state.wkv[n + i], state.wkv[2 * n + i]];
            let q = pp.max(u[i] + k[i]);
            let (e1, e2) = ((pp - q).exp(), (u[i] + k[i] - q).exp());
            out.push(sigmoid(r[i]) * (e1 * aa + e2 * v[i]) / (e1 * bb + e2));
            let aged = pp - w[i].exp();
            let q = aged.max(k[i]);
            let (e1, e2) = ((aged - q).exp(), (k[i] - q).exp());
            (state.wkv[i], state.wkv[n + i], state.wkv[2 * n + i]) =
                (e1 * aa + e2 * v[i], e1 * bb + e2, q);
        }
        self.matrix(&format!("{at}.output.weight"), &out)
    }

    fn time_mix_5(&self, at: &str, x: &[f64], before: &[f64], state: &mut State) -> Vec<f64> {
        let project = |m: &str, w: &str| {
            self.matrix(
                &format!("{at}.{w}.weight"),
                &self.mix(&format!("{at}.time_mix_{m}"), x, before),
            )
        };
        let (r, k, v) = (project("r", "receptance"), project("k", "key"), project("v", "value"));
        let n_head = self.weights[&format!("{at}.time_decay")].shape[0];
        let expand = |values: Vec<f64>| {
            let each = k.len() / values.len();
            values.into_iter().flat_map(|v| vec![v; each]).collect::<Vec<f64>>()
        };
        let w = map(&expand(self.vector(&format!("{at}.time_decay"))), |w| (-w.exp()).exp());
        let u = match self.has(&format!("{at}.time_faaaa")) {
            true => expand(self.vector(&format!("{at}.time_faaaa"))),
            false => map(&expand(self.vector(&format!("{at}.time_first"))), f64::exp),
        };
        let gate = self.has(&format!("{at}.gate.weight")).then(|| project("g", "gate"));
        self.heads(at, n_head, [&r, &k, &v], [&w, &u], gate, state)
    }

    fn time_mix_6(&self, at: &str, x: &[f64], before: &[f64], state: &mut State) -> Vec<f64> {
        let name = |name: &str| format!("{at}.{name}");
        let xx = self.lerp(x, before, &self.vector(&name("time_maa_x")));
        let hidden = map(&self.adapter(&name("time_maa_w1"), &xx), f64::tanh);
        let second = &self.weights[&name("time_maa_w2")];
        let (rank, width) = (second.shape[1], second.shape[2]);
        let mixed = |i: usize, letter: &str| {
            let w2 = &second.values[i * rank * width..][..rank * width];
            let m = (0..width).map(|c| {
                (0..rank).map(|j| hidden[i * rank + j] * f64::from(w2[j * width + c])).sum::<f64>()
            });
            let m: Vec<f64> = m.collect();
            let base = self.vector(&name(&format!("time_maa_{letter}")));
            self.lerp(x, before, &zip(&base, &m, |a, b| a + b))
        };
        let xw = mixed(0, "w");
        let k = self.matrix(&name("key.weight"), &mixed(1, "k"));
        let v = self.matrix(&name("value.weight"), &mixed(2, "v"));
        let r = self.matrix(&name("receptance.weight"), &mixed(3, "r"));
        let g = self.matrix(&name("gate.weight"), &mixed(4, "g"));
        let lora = map(&self.adapter(&name("time_decay_w1"), &xw), f64::tanh);
        let lora = self.adapter(&name("time_decay_w2"), &lora);
        let w = zip(&self.vector(&name("time_decay")), &lora, |a, b| (-(a + b).exp()).exp());
        let u = self.vector(&name("time_faaaa"));
        let n_head = self.weights[&name("time_faaaa")].shape[0];
        self.heads(at, n_head, [&r, &k, &v], [&w, &u], Some(g), state)
    }

    /// The recurrence, norm, gate and output of RWKV-5 and 6.
    fn heads(
        &self,
        at: &str,
        n_head: usize,
        [r, k, v]: [&[f64]; 3],
        [w, u]: [&[f64]; 2],
        gate: Option<Vec<f64>>,
        state: &mut State,
    ) -> Vec<f64> {
        let n = k.len() / n_head;
        state.wkv.resize(n_head * n * n, 0.0);
        let mut y = Vec::new();
        for h in 0..n_head {
            let mut out = vec![0.0; n];
            for (i, key) in (h * n..(h + 1) * n).enumerate() {
                for j in 0..n {
                    let cell = &mut state.wkv[(h * n + i) * n + j];
                    let kv = k[key] * v[h * n + j];
                    out[j] += r[key] * (u[key] * kv + *cell);
                    *cell = kv + w[key] * *cell;
                }
            }
            y.extend(normalized(&out, self.eps.ln_x));
        }
        let y = zip(&y, &self.vector(&format!("{at}.ln_x.weight")), |y, w| y * w);
        let mut y = zip(&y, &self.vector(&format!("{at}.ln_x.bias")), |y, b| y + b);
        if let Some(g) = gate {
            y = zip(&y, &g, |y, g| y * g * sigmoid(g));
        }
        self.matrix(&format!("{at}.output.weight"), &y)
    }

    fn time_mix_7(
        &self,
        at: &str,
        x: &[f64],
        before: &[f64],
        state: &mut State,
        v_first: &mut Vec<f64>,
    ) -> Vec<f64> {
        let name = |name: &str| format!("{at}.{name}");
        let mixed =
            |letter: &str| self.lerp(x, before, &self.vector(&name(&format!("x_{letter}"))));
        let lora = |letter: &str, x: &[f64], f: fn(f64) -> f64| {
            let hidden = map(&self.adapter(&name(&format!("{letter}1")), x), f);
            self.adapter(&name(&format!("{letter}2")), &hidden)
        };
        let with = |letter: &str, y: Vec<f64>| {
            zip(&self.vector(&name(&format!("{letter}0"))), &y, |a, b| a + b)
        };
        let r = self.matrix(&name("receptance.weight"), &mixed("r"));
        let mut k = self.matrix(&name("key.weight"), &mixed("k"));
        let mut v = self.matrix(&name("value.weight"), &mixed("v"));
        let a = map(&with("a", lora("a", &mixed("a"), |x| x)), sigmoid);
        let g = lora("g", &mixed("g"), sigmoid);
        let w = with("w", lora("w", &mixed("w"), f64::tanh));
        let w = map(&w, |w| (-(-0.5f64).exp() * sigmoid(w)).exp());
        let shape = &self.weights[&name("r_k")].shape;
        let (n_head, n) = (shape[0], shape[1]);
        let mut kk = zip(&k, &self.vector(&name("k_k")), |k, w| k * w);
        for head in kk.chunks_exact_mut(n) {
            let norm = head.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
            head.iter_mut().for_each(|v| *v /= norm);
        }
        let scale = zip(&a, &self.vector(&name("k_a")), |a, k_a| 1.0 + (a - 1.0) * k_a);
        k = zip(&k, &scale, |k, s| k * s);
        if v_first.is_empty() {
            v_first.clone_from(&v);
        } else {
            let gate = map(&with("v", lora("v", &mixed("v"), |x| x)), sigmoid);
            v = zip(&v, &zip(&zip(v_first, &v, |f, v| f - v), &gate, |d, g| d * g), |v, d| v + d);
        }
        state.wkv.resize(n_head * n * n, 0.0);
        let r_k = self.vector(&name("r_k"));
        let (weight, bias) = (self.vector(&name("ln_x.weight")), self.vector(&name("ln_x.bias")));
        let mut y = Vec::new();
        for h in 0..n_head {
            let own = h * n..(h + 1) * n;
            let mut out = vec![0.0; n];
            for i in 0..n {
                let row = &mut state.wkv[(h * n + i) * n..][..n];
                let removed: f64 = row.iter().zip(&kk[own.clone()]).map(|(s, kk)| s * kk).sum();
                for (j, cell) in row.iter_mut().enumerate() {
                    let c = h * n + j;
                    *cell = *cell * w[c] - removed * kk[c] * a[c] + v[h * n + i] * k[c];
                    out[i] += *cell * r[c];
                }
            }
            let bonus: f64 = own.clone().map(|c| r[c] * k[c] * r_k[c]).sum();
            let normed = normalized(&out, self.eps.ln_x);
            y.extend(own.map(|c| normed[c - h * n] * weight[c] + bias[c] + bonus * v[c]));
        }
        self.matrix(&name("output.weight"), &zip(&y, &g, |y, g| y * g))
    }

    fn channel_mix(&self, at: &str, x: &[f64], before: &[f64]) -> Vec<f64> {
        let zeros = vec![0.0; x.len()];
        let before = if before.is_empty() { &zeros } else { before };
        let name = |name: &str| format!("{at}.{name}");
        let mixed = |letter: &str| {
            if self.has(&name("x_k")) {
                self.lerp(x, before, &self.vector(&name(&format!("x_{letter}"))))
            } else if self.has(&name("time_maa_k")) {
                self.lerp(x, before, &self.vector(&name(&format!("time_maa_{letter}"))))
            } else {
                self.mix(&name(&format!("time_mix_{letter}")), x, before)
            }
        };
        let hidden = map(&self.matrix(&name("key.weight"), &mixed("k")), |k| k.max(0.0).powi(2));
        let v = self.matrix(&name("value.weight"), &hidden);
        if self.has(&name("receptance.weight")) {
            zip(&self.matrix(&name("receptance.weight"), &mixed("r")), &v, |r, v| sigmoid(r) * v)
        } else {
            v
        }
    }
}
