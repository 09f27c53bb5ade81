//! The heads of RWKV-5 and 6 (Peng et al. 2024, arXiv 2404.05892; reference: `att_one_v5_1` and
//! `att_one_v6_0` of the pip package `rwkv`): the recurrence in which a token meets itself through
//! a bonus, its norm, its gate. The two versions differ in where the decay comes from. Test:
//! `tests/parity_rwkv.rs`.

use super::{Config, Pass};
use crate::Result;
use crate::buffers::{Acts, Panel, Room};
use crate::kernels::Isa;
use crate::kernels::forms::GROUP;
use crate::kernels::math::{exp, silu};
use crate::kernels::norm::layer_norm_body;
use crate::kernels::recurrence::{Read, Token, linear_attention};
use crate::kernels::stored::Elements;
use crate::state::{Place, StateLayout};
use crate::team::{Split, lcm};
use crate::tensor::{Loader, Mat, Vector};

/// The largest head.
const MAX_HEAD: usize = 256;

/// The weights of one layer's heads. Vectors are (n_head, d_head).
pub(super) struct BonusHeads {
    d_head: usize,
    bonus: Vector,
    ln_x_weight: Vector,
    ln_x_bias: Vector,
    ln_x_eps: f32,
    /// State: (n_head, d_head keys, d_head values).
    wkv: Place,
}

/// What a key's row of the state is multiplied by at each token.
pub(super) enum Decay<'a> {
    /// The same for every token: (d_att).
    Fixed(&'a [f32]),
    /// w = exp(−exp(base + second · hidden)); `out` is a (d_att) buffer.
    PerToken { second: &'a Mat, hidden: &'a Acts, base: &'a [f32], out: &'a mut Panel },
}

impl BonusHeads {
    /// Reads the heads of layer `i`, which are `d_att` channels together.
    pub(super) fn load(
        loader: &Loader<'_>,
        config: &Config,
        state: &mut StateLayout,
        i: usize,
        d_att: usize,
    ) -> Result<BonusHeads> {
        let d_head = config.size_up_to("d_head", MAX_HEAD)?;
        let n_head = config.divide(d_att, d_head, "d_head")?;
        let vector = |name: &str| loader.vector(&format!("layers.{i}.att.{name}"), &[d_att]);
        Ok(BonusHeads {
            d_head,
            bonus: vector("bonus")?,
            ln_x_weight: vector("ln_x.weight")?,
            ln_x_bias: vector("ln_x.bias")?,
            ln_x_eps: config.float("ln_x_eps")?,
            wkv: state.push_matrix(i, "att.wkv", &[n_head, d_head, d_head]),
        })
    }

    /// `gated` = the heads' output times silu of the gate, each head in the piece that owns it.
    /// All panels are (d_att).
    pub(super) fn forward(
        &self,
        pass: &mut Pass<'_>,
        decay: Decay<'_>,
        s: &mut Scratch,
        has_gate: bool,
    ) {
        let Pass { team, states, batch, isa, .. } = pass;
        let (isa, batch, n) = (*isa, *batch, self.d_head);
        let columns = batch.columns;
        let pieces = team.pieces(self.wkv.bytes(), columns);
        let split = Split::new(s.y.rows(), lcm(n, GROUP), pieces);
        let (r, k, v, g) = (&s.r, &s.k, &s.v, has_gate.then_some(&s.g));
        let (y, gated) = (s.y.share_rows(columns, split), s.gated.share_rows(columns, split));
        let state = states.share(self.wkv, split.times(n));
        let (fixed, adapted) = match decay {
            Decay::Fixed(w) => (w, None),
            Decay::PerToken { second, hidden, base, out } => {
                (base, Some((second, hidden, out.share_rows(columns, split))))
            }
        };
        team.run(pieces, &|piece| {
            let (mut y, mut gated, mut state) =
                (y.take(piece), gated.take(piece), state.take(piece));
            let rows = y.rows();
            let mut adapted = adapted.as_ref().map(|(second, hidden, out)| {
                let mut w = out.take(piece);
                second.matmul(isa, hidden, &mut w);
                let base = &fixed[rows.clone()];
                for c in 0..columns {
                    let w = w.column(c);
                    isa.run(
                        #[inline(always)]
                        || {
                            for (w, base) in w.iter_mut().zip(base) {
                                *w = exp(-exp(base + *w));
                            }
                        },
                    );
                }
                w
            });
            for (run, span) in batch.spans.iter().enumerate() {
                let mut states = state.elements(run);
                for at in (rows.start..rows.end).step_by(n) {
                    let (head, own) = (at..at + n, at - rows.start..at - rows.start + n);
                    let mut state = states.part(own.start * n..own.end * n);
                    for c in span.clone() {
                        let w = match &mut adapted {
                            None => &fixed[head.clone()],
                            Some(w) => &w.column(c)[own.clone()],
                        };
                        let [r, k, v] = [r, k, v].map(|panel| &panel.column(c)[head.clone()]);
                        let token = Token { r, k, v, decay: |j: usize| w[j] };
                        let y = &mut y.column(c)[own.clone()];
                        isa.run(
                            #[inline(always)]
                            || self.head(isa, at, token, &mut state, y),
                        );
                    }
                }
            }
            for c in 0..columns {
                let (y, g) = (y.column(c), g.map(|g| g.column(c)));
                gated.fill(
                    isa,
                    c,
                    #[inline(always)]
                    |own, out| {
                        out.copy_from_slice(&y[own.start - rows.start..own.end - rows.start]);
                        if let Some(g) = g {
                            for (out, g) in out.iter_mut().zip(&g[own]) {
                                *out *= silu(*g);
                            }
                        }
                    },
                );
            }
        });
    }

    /// One head of one token; `at` is its first channel.
    #[inline(always)]
    fn head(
        &self,
        isa: Isa,
        at: usize,
        token: Token<'_, impl Fn(usize) -> f32 + Copy>,
        state: &mut Elements<'_>,
        y: &mut [f32],
    ) {
        let own = at..at + self.d_head;
        // y = (S + diag(u) k vᵀ)ᵀ r; S = diag(w) S + k vᵀ.
        let read = Read::Before { bonus: &self.bonus[own.clone()] };
        linear_attention(isa, state, token, None, read, y);
        // y = norm(y).
        let mut raw = [0.0; MAX_HEAD];
        let raw = &mut raw[..y.len()];
        raw.copy_from_slice(y);
        layer_norm_body(
            raw,
            &self.ln_x_weight[own.clone()],
            &self.ln_x_bias[own],
            self.ln_x_eps,
            y,
        );
    }
}

/// Buffers of a forward pass, one column per token: (d_att) each.
pub(super) struct Scratch {
    pub(super) r: Panel,
    pub(super) k: Panel,
    pub(super) v: Panel,
    pub(super) g: Panel,
    y: Panel,
    /// Input of the output matrix.
    pub(super) gated: Acts,
}

impl Scratch {
    pub(super) fn new(d_att: usize, room: &Room, gated: Acts) -> Scratch {
        let panel = || Panel::new(d_att, room);
        Scratch { r: panel(), k: panel(), v: panel(), g: panel(), y: panel(), gated }
    }
}
