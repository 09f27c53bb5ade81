//! The heads of RWKV-5 and 6 (Peng et al. 2024, arXiv 2404.05892; reference: `att_one_v5_1` and
//! `att_one_v6_0` of the pip package `rwkv`): the recurrence in which a token meets itself through
//! a bonus, its norm, its gate. The two versions differ in where the decay comes from. Test:
//! `tests/parity_rwkv.rs`.

use super::{Config, Pass};
use crate::Result;
use crate::buffers::{Acts, Panel, Room};
use crate::kernels::columns::Columns;
use crate::kernels::forms::GROUP;
use crate::kernels::math::{exp, silu};
use crate::kernels::norm::layer_norm_in_place;
use crate::kernels::recurrence::{Decay, Read, Span, linear_attention};
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
pub(super) enum DecayOf<'a> {
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
        decay: DecayOf<'_>,
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
            DecayOf::Fixed(w) => (w, None),
            DecayOf::PerToken { second, hidden, base, out } => {
                (base, Some((second, hidden, out.share_rows(columns, split))))
            }
        };
        team.run(pieces, &|piece| {
            let (mut y, mut gated, mut state) =
                (y.take(piece), gated.take(piece), state.take(piece));
            let rows = y.rows();
            let adapted = adapted.as_ref().map(|(second, hidden, out)| {
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
                    let [r, k, v] = [r, k, v].map(|x| x.view(span.clone(), head.clone()));
                    let w = match &adapted {
                        None => Columns::same(&fixed[head.clone()], span.len()),
                        Some(w) => w.view(span.clone(), head.clone()),
                    };
                    let tokens = Span {
                        r,
                        k,
                        v,
                        scale: None,
                        decay: Decay::PerKey(w),
                        delta: None,
                        read: Read::Before { bonus: &self.bonus[head.clone()] },
                        y: y.view_mut(span.clone(), head.clone()),
                    };
                    // y = (S + diag(u) k vᵀ)ᵀ r; S = diag(w) S + k vᵀ.
                    linear_attention(isa, &mut state, tokens);
                    // y = norm(y).
                    isa.run(
                        #[inline(always)]
                        || {
                            let (w, b) = (&self.ln_x_weight[head.clone()], &self.ln_x_bias[head]);
                            for c in span.clone() {
                                let y = &mut y.column(c)[own.clone()];
                                layer_norm_in_place(y, w, b, self.ln_x_eps);
                            }
                        },
                    );
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
