//! Mamba-1 and Mamba-2 of sizes that no released model has, against the papers' equations in f64,
//! one token at a time.
//!
//! Widths that are no multiple of sixteen or thirty-two, biases everywhere or nowhere, groups,
//! limits, every order of norm and gate: what the reference fixtures do not cover. The equations
//! here hold on those fixtures by way of the engine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use brooklet::Isa;
use brooklet_formats::DType;
use brooklet_tests::{converted, logits, max_difference, open};
use serde_json::{Value, json};

/// Tensors of a checkpoint by name: shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// Makes tensors of random values, which are exact in f32.
struct Maker {
    tensors: Tensors,
    seed: u64,
}

impl Maker {
    fn new(seed: u64) -> Maker {
        Maker { tensors: Tensors::new(), seed }
    }

    /// A tensor with values evenly from `middle - spread` to `middle + spread`.
    fn add(&mut self, name: &str, shape: &[usize], middle: f64, spread: f64) {
        let values = (0..shape.iter().product())
            .map(|_| {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let unit = (self.seed >> 33) as f64 / f64::from(1u32 << 30) - 1.0;
                f64::from((middle + spread * unit) as f32)
            })
            .collect();
        self.tensors.insert(name.to_owned(), (shape.to_vec(), values));
    }

    /// Writes `model.safetensors` and `config.json`.
    fn write(&self, folder: &Path, config: &Value) {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, (shape, values)) in &self.tensors {
            let start = data.len();
            data.extend(values.iter().flat_map(|v| (*v as f32).to_le_bytes()));
            let entry =
                json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), entry);
        }
        let header = Value::Object(header).to_string().into_bytes();
        let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
        fs::write(folder.join("model.safetensors"), file).expect("a file");
        fs::write(folder.join("config.json"), config.to_string()).expect("a file");
    }

    fn get(&self, name: &str) -> &[f64] {
        self.tensors.get(name).map_or(&[], |(_, values)| values)
    }

    /// W x + b; the bias may be missing.
    fn linear(&self, weight: &str, bias: &str, x: &[f64]) -> Vec<f64> {
        let rows = self.get(weight).chunks_exact(x.len());
        let mut y: Vec<f64> = rows.map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
        y.iter_mut().zip(self.get(bias)).for_each(|(y, b)| *y += b);
        y
    }

    /// The causal convolution of channel inputs `past` (oldest first, the current token last), with
    /// silu.
    fn conv(&self, at: &str, past: &[Vec<f64>]) -> Vec<f64> {
        let weight = self.get(&format!("{at}.conv1d.weight"));
        let bias = self.get(&format!("{at}.conv1d.bias"));
        let n = past[0].len();
        let d_conv = weight.len() / n;
        let sum = |channel: usize| {
            let taps = &weight[channel * d_conv..][..d_conv];
            let inputs = past.iter().rev().map(|x| x[channel]);
            taps.iter().rev().zip(inputs).map(|(w, x)| w * x).sum::<f64>()
                + bias.get(channel).unwrap_or(&0.0)
        };
        (0..n).map(|channel| silu(sum(channel))).collect()
    }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
    x.iter().enumerate().map(|(i, x)| x * scale * weight.get(i).unwrap_or(&1.0)).collect()
}

const EPS: f64 = 1e-5;
const N_LAYER: usize = 2;
const N_VOCAB: usize = 101;

/// Runs `mixer(layer, normed inputs of all tokens so far)` as the layers of a model and returns all
/// logits.
fn run(
    maker: &Maker,
    tokens: &[u32],
    mixer: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
) -> Vec<f32> {
    let embed = maker.get("backbone.embeddings.weight");
    let d_model = embed.len() / N_VOCAB;
    let mut logits = Vec::new();
    for &token in tokens {
        let mut x = embed[token as usize * d_model..][..d_model].to_vec();
        for i in 0..N_LAYER {
            let normed = rms_norm(&x, maker.get(&format!("backbone.layers.{i}.norm.weight")), EPS);
            x.iter_mut().zip(mixer(i, &normed)).for_each(|(x, y)| *x += y);
        }
        let normed = rms_norm(&x, maker.get("backbone.norm_f.weight"), EPS);
        let head = if maker.get("lm_head.weight").is_empty() {
            "backbone.embeddings.weight"
        } else {
            "lm_head.weight"
        };
        logits.extend(maker.linear(head, "", &normed).into_iter().map(|v| v as f32));
    }
    logits
}

/// Converts what `maker` made, runs it and compares.
fn check(
    what: &str,
    maker: &Maker,
    config: &Value,
    mixer: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
) {
    let tokens: Vec<u32> = (0..23).map(|i| (i * 31 + i * i) % N_VOCAB as u32).collect();
    let expected = run(maker, &tokens, mixer);
    let temp = tempfile::tempdir().expect("a temporary folder");
    maker.write(temp.path(), config);
    let file = converted(temp.path(), temp.path(), DType::F32);
    for isa in [Isa::scalar(), Isa::detect()] {
        let difference = max_difference(&logits(&open(&file, isa), &tokens, 5, 3), &expected);
        println!("{what} on {}: {difference:.2e}", isa.name());
        assert!(difference < 5e-5, "{what}: {difference} on {}", isa.name());
    }
}

/// The tensors that both kinds of model have.
fn trunk(seed: u64, d_model: usize, untied: bool) -> Maker {
    let mut maker = Maker::new(seed);
    maker.add("backbone.embeddings.weight", &[N_VOCAB, d_model], 0.0, 1.0);
    maker.add("backbone.norm_f.weight", &[d_model], 1.0, 0.3);
    if untied {
        maker.add("lm_head.weight", &[N_VOCAB, d_model], 0.0, 0.3);
    }
    maker
}

/// (d_model, d_inner, d_state, d_conv, dt_rank, biases, epsilon of the norms of Δ, B, C)
type Mamba1 = (usize, usize, usize, usize, usize, bool, Option<f64>);

#[test]
fn mamba1() {
    let cases: [Mamba1; 4] = [
        (40, 52, 10, 3, 5, true, None),
        (17, 33, 1, 1, 1, false, Some(1e-3)),
        (33, 100, 19, 5, 7, true, Some(1e-6)),
        (64, 96, 32, 4, 40, false, None),
    ];
    for (seed, case) in cases.into_iter().enumerate() {
        let (d_model, d_inner, d_state, d_conv, dt_rank, biases, eps) = case;
        let mut maker = trunk(seed as u64, d_model, seed % 2 == 0);
        for i in 0..N_LAYER {
            let at = format!("backbone.layers.{i}");
            maker.add(&format!("{at}.norm.weight"), &[d_model], 1.0, 0.3);
            let at = format!("{at}.mixer");
            maker.add(&format!("{at}.in_proj.weight"), &[2 * d_inner, d_model], 0.0, 0.3);
            maker.add(&format!("{at}.conv1d.weight"), &[d_inner, 1, d_conv], 0.0, 0.6);
            maker.add(&format!("{at}.x_proj.weight"), &[dt_rank + 2 * d_state, d_inner], 0.0, 0.3);
            maker.add(&format!("{at}.dt_proj.weight"), &[d_inner, dt_rank], 0.0, 0.5);
            maker.add(&format!("{at}.dt_proj.bias"), &[d_inner], -2.0, 2.0);
            maker.add(&format!("{at}.A_log"), &[d_inner, d_state], 1.0, 1.5);
            maker.add(&format!("{at}.D"), &[d_inner], 1.0, 0.5);
            maker.add(&format!("{at}.out_proj.weight"), &[d_model, d_inner], 0.0, 0.3);
            if biases {
                maker.add(&format!("{at}.conv1d.bias"), &[d_inner], 0.0, 0.3);
                maker.add(&format!("{at}.in_proj.bias"), &[2 * d_inner], 0.0, 0.3);
                maker.add(&format!("{at}.out_proj.bias"), &[d_model], 0.0, 0.3);
            }
        }
        let mut config =
            json!({"model_type": "mamba", "layer_norm_epsilon": EPS, "num_hidden_layers": N_LAYER});
        if let Some(eps) = eps {
            config["mixer_rms_eps"] = json!(eps);
        }
        let mut past = vec![Vec::new(); N_LAYER];
        let mut h = vec![vec![0.0; d_inner * d_state]; N_LAYER];
        check(&format!("{case:?}"), &maker, &config, &mut |i, input| {
            let at = format!("backbone.layers.{i}.mixer");
            let xz =
                maker.linear(&format!("{at}.in_proj.weight"), &format!("{at}.in_proj.bias"), input);
            let (x, z) = xz.split_at(d_inner);
            past[i].push(x.to_vec());
            let x = maker.conv(&at, &past[i]);
            let dt_b_c = maker.linear(&format!("{at}.x_proj.weight"), "", &x);
            let (dt, b_c) = dt_b_c.split_at(dt_rank);
            let (b, c) = b_c.split_at(d_state);
            let [dt, b, c] =
                [dt, b, c].map(|v| eps.map_or(v.to_vec(), |eps| rms_norm(v, &[], eps)));
            let dt =
                maker.linear(&format!("{at}.dt_proj.weight"), &format!("{at}.dt_proj.bias"), &dt);
            let (a, d) = (maker.get(&format!("{at}.A_log")), maker.get(&format!("{at}.D")));
            let mut y = vec![0.0; d_inner];
            for channel in 0..d_inner {
                let dt = softplus(dt[channel]);
                for n in 0..d_state {
                    let at = channel * d_state + n;
                    let cell = &mut h[i][at];
                    *cell = *cell * (-a[at].exp() * dt).exp() + dt * b[n] * x[channel];
                    y[channel] += *cell * c[n];
                }
                y[channel] = (y[channel] + d[channel] * x[channel]) * silu(z[channel]);
            }
            maker.linear(&format!("{at}.out_proj.weight"), &format!("{at}.out_proj.bias"), &y)
        });
    }
}

/// How y is normed and gated.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    First,
    Last,
    WithoutNorm,
}

/// (d_model, n_head, d_head, n_group, d_state, d_conv, biases, limits of Δ, gate)
type Mamba2 = (usize, usize, usize, usize, usize, usize, bool, Option<(f64, f64)>, Gate);

#[test]
fn mamba2() {
    let cases: [Mamba2; 5] = [
        (40, 6, 12, 3, 10, 3, true, Some((0.05, 0.3)), Gate::First),
        (33, 5, 7, 1, 5, 4, false, None, Gate::Last),
        (24, 4, 48, 2, 96, 4, false, None, Gate::First),
        (32, 2, 64, 1, 128, 2, true, Some((0.0, 0.5)), Gate::WithoutNorm),
        (19, 9, 20, 9, 17, 1, true, None, Gate::Last),
    ];
    for (seed, case) in cases.into_iter().enumerate() {
        let (d_model, n_head, d_head, n_group, d_state, d_conv, biases, limits, gate) = case;
        let d_inner = n_head * d_head;
        let n_conv = d_inner + 2 * n_group * d_state;
        let rows = d_inner + n_conv + n_head;
        let mut maker = trunk(seed as u64, d_model, seed % 2 == 0);
        for i in 0..N_LAYER {
            let at = format!("backbone.layers.{i}");
            maker.add(&format!("{at}.norm.weight"), &[d_model], 1.0, 0.3);
            let at = format!("{at}.mixer");
            maker.add(&format!("{at}.in_proj.weight"), &[rows, d_model], 0.0, 0.3);
            maker.add(&format!("{at}.conv1d.weight"), &[n_conv, 1, d_conv], 0.0, 0.6);
            maker.add(&format!("{at}.dt_bias"), &[n_head], -1.0, 2.0);
            maker.add(&format!("{at}.A_log"), &[n_head], 0.5, 1.5);
            maker.add(&format!("{at}.D"), &[n_head], 1.0, 0.5);
            maker.add(&format!("{at}.out_proj.weight"), &[d_model, d_inner], 0.0, 0.2);
            if gate != Gate::WithoutNorm {
                maker.add(&format!("{at}.norm.weight"), &[d_inner], 1.0, 0.3);
            }
            if biases {
                maker.add(&format!("{at}.conv1d.bias"), &[n_conv], 0.0, 0.3);
                maker.add(&format!("{at}.in_proj.bias"), &[rows], 0.0, 0.3);
                maker.add(&format!("{at}.out_proj.bias"), &[d_model], 0.0, 0.3);
            }
        }
        let mut config = json!({
            "model_type": "mamba2", "layer_norm_epsilon": EPS, "num_hidden_layers": N_LAYER,
                "state_size": d_state,
            "n_groups": n_group, "ssm_cfg": {"norm_before_gate": gate == Gate::Last},
        });
        if let Some((low, high)) = limits {
            config["time_step_limit"] = json!([low, high]);
        }
        let mut past = vec![Vec::new(); N_LAYER];
        let mut h = vec![vec![0.0; d_inner * d_state]; N_LAYER];
        check(&format!("{case:?}"), &maker, &config, &mut |i, input| {
            let at = format!("backbone.layers.{i}.mixer");
            let all =
                maker.linear(&format!("{at}.in_proj.weight"), &format!("{at}.in_proj.bias"), input);
            let (z, dt) = (&all[..d_inner], &all[d_inner + n_conv..]);
            past[i].push(all[d_inner..d_inner + n_conv].to_vec());
            let xbc = maker.conv(&at, &past[i]);
            let (a, d) = (maker.get(&format!("{at}.A_log")), maker.get(&format!("{at}.D")));
            let mut y = vec![0.0; d_inner];
            for head in 0..n_head {
                let dt = softplus(dt[head] + maker.get(&format!("{at}.dt_bias"))[head]);
                let dt = limits.map_or(dt, |(low, high)| dt.clamp(low, high));
                let group = d_inner + head / (n_head / n_group) * d_state;
                let (b, c) = (&xbc[group..], &xbc[group + n_group * d_state..]);
                for channel in head * d_head..(head + 1) * d_head {
                    for n in 0..d_state {
                        let cell = &mut h[i][channel * d_state + n];
                        *cell = *cell * (-a[head].exp() * dt).exp() + dt * b[n] * xbc[channel];
                        y[channel] += *cell * c[n];
                    }
                    y[channel] += d[head] * xbc[channel];
                }
            }
            let gated = |y: &mut Vec<f64>| y.iter_mut().zip(z).for_each(|(y, z)| *y *= silu(*z));
            if gate != Gate::Last {
                gated(&mut y);
            }
            if gate != Gate::WithoutNorm {
                let (weight, n) = (maker.get(&format!("{at}.norm.weight")), d_inner / n_group);
                let groups = y.chunks(n).zip(weight.chunks(n));
                y = groups.flat_map(|(y, weight)| rms_norm(y, weight, EPS)).collect();
            }
            if gate == Gate::Last {
                gated(&mut y);
            }
            maker.linear(&format!("{at}.out_proj.weight"), &format!("{at}.out_proj.bias"), &y)
        });
    }
}
