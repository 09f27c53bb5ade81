//! The heads of RWKV-5 and 6 (Peng et al. 2024, arXiv 2404.05892; reference: `att_one_v5_1` and
//! `att_one_v6_0` of the pip package `rwkv`): the recurrence in which a token meets itself through
//! a bonus, its norm, its gate. The two versions differ in where the decay comes from. Test:
//! `tests/parity_rwkv.rs`.

use std::ops::Range;

use super::{Head, Heads, LowRank, LowRankScratch};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::columns::Columns;
use crate::kernels::lanes::update;
use crate::kernels::math::{exp, silu};
use crate::kernels::norm::layer_norm_in_place;
use crate::kernels::recurrence::{Decay, Read, Span, linear_attention};
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{DecayOp, Formula, Function, HeadsOp, Inputs, List, NormOp, OfHead, Values, of};
use crate::stage::Owned;
use crate::team::Share;
use crate::tensor::{Matrix, Vector, acts_for};

/// The weights of one layer's heads. Vectors are (n_head, d_head); those of keys (n_head, d_key).
pub(crate) struct BonusHeads {
    heads: Heads,
    d_head: usize,
    d_key: usize,
    /// The decay, or the base of one that depends on the token.
    decay: Vector,
    bonus: Vector,
    /// Values of all keys.
    keys: usize,
    ln_x_weight: Vector,
    ln_x_bias: Vector,
    ln_x_eps: f32,
}

impl BonusHeads {
    /// Reads heads that are `d_att` channels together; keys have as many, or a number of their own.
    pub(crate) fn load(source: &Source<'_>, decay: &str, d_att: usize) -> Result<BonusHeads> {
        let vector = |name: &str, n| source.vector(&format!("att.{name}"), n);
        let d_head = Heads::d_head(source.config)?;
        let d_key = match source.config.optional_size("d_key")? {
            None => d_head,
            Some(_) => source.config.size_up_to("d_key", 256)?,
        };
        let keys = source.config.divide(d_att, d_head, "d_head")? * d_key;
        Ok(BonusHeads {
            heads: Heads::load(source, "att.wkv", (d_att, d_head), d_key)?,
            d_head,
            d_key,
            decay: vector(decay, keys)?,
            bonus: vector("bonus", keys)?,
            keys,
            ln_x_weight: vector("ln_x.weight", d_att)?,
            ln_x_bias: vector("ln_x.bias", d_att)?,
            ln_x_eps: source.config.float("ln_x_eps")?,
        })
    }

    /// Values of all keys.
    pub(crate) fn keys(&self) -> usize {
        self.keys
    }

    /// The keys of the head with the channels `own`.
    fn keys_of(&self, own: &Range<usize>) -> Range<usize> {
        let head = own.start / self.d_head;
        head * self.d_key..(head + 1) * self.d_key
    }

    /// w = exp(−exp(base + w)) of the channels from `at`.
    fn fade(&self, isa: Isa, w: &mut Share<'_, f32>) {
        let at = w.rows().start.min(self.decay.len());
        simd!(isa, {
            for c in w.columns() {
                update(w.column(c), &self.decay[at..], |w, base| exp(-exp(base + w)));
            }
        });
    }

    /// The same as [`BonusHeads::forward`], as operations: `fade` is what is added to the base of a
    /// decay that depends on the token.
    pub(crate) fn list<'m>(
        &'m self,
        list: &mut List<'m>,
        [r, k, v]: [Values; 3],
        g: Option<Values>,
        fade: Option<Values>,
    ) -> Inputs {
        let w = list.values("fade", self.keys);
        list.map(
            w,
            match fade {
                None => Formula::from(&self.decay),
                Some(fade) => {
                    let rate = (Formula::from(&self.decay) + fade).apply(Function::Exp);
                    (-rate).apply(Function::Exp)
                }
            },
        );
        let width = self.ln_x_weight.len();
        let y = list.values("heads", width);
        let [r, k, w] = [r, k, w].map(|x| OfHead::own(x, self.d_key));
        let inputs = [r, k, OfHead::own(v, self.d_head)];
        list.heads(HeadsOp {
            bonus: Some(&self.bonus),
            ..self.heads.list(self.d_key, inputs, DecayOp::PerKey(w), y)
        });
        let (weight, bias) = (&*self.ln_x_weight, &*self.ln_x_bias);
        list.norm(y, y, NormOp::Layer { weight, bias, eps: self.ln_x_eps }, self.d_head);
        list.pack(
            "gated",
            width,
            match g {
                None => of(y),
                Some(g) => of(y) * of(g).apply(Function::Silu),
            },
        )
    }

    /// `gated` = the heads' output, times silu of the gate if there is one. `dynamic` is the second
    /// half of a decay w = exp(−exp(base + second · hidden)); otherwise the decay is fixed.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_>,
        s: &mut Scratch,
        has_gate: bool,
        dynamic: Option<(&LowRank, &mut LowRankScratch)>,
    ) {
        let Pass { stages, states, .. } = pass;
        let Scratch { r, k, v, g, y, gated } = s;
        let head = |head: Head<'_, 1>, w: Columns<'_>| self.head(head, [r, k, v, g], w, has_gate);
        match dynamic {
            None => self.heads.forward(
                stages,
                states,
                0,
                Owned { panels: [y], acts: [gated] },
                |_, _, _| {},
                |h| {
                    let w = Columns::same(&self.decay[self.keys_of(&h.own)], h.columns.len());
                    head(h, w)
                },
            ),
            // Keys are not cut as values are.
            Some((decay, LowRankScratch { hidden, out, .. })) if self.d_key != self.d_head => {
                let isa = stages.isa;
                let fade = |w: &mut Share<'_, f32>| self.fade(isa, w);
                stages.project([decay.second_apply(hidden, out, &fade)]);
                let owned = Owned { panels: [y], acts: [gated] };
                self.heads.forward(
                    stages,
                    states,
                    0,
                    owned,
                    |_, _, _| {},
                    |h| {
                        let w = out.view(h.columns.clone(), self.keys_of(&h.own));
                        head(h, w)
                    },
                );
            }
            Some((decay, LowRankScratch { hidden, out, .. })) => self.heads.forward(
                stages,
                states,
                decay.second_len(),
                Owned { panels: [y, out], acts: [gated] },
                |isa, _, [_, w]| {
                    // w = exp(−exp(base + second · hidden)).
                    decay.second(isa, hidden, w);
                    self.fade(isa, w);
                },
                |Head { isa, own, columns, panels: [y, w], position, state, kept }| {
                    head(Head { isa, own, columns, panels: [y], position, state, kept }, w.view());
                },
            ),
        }
    }

    /// One head over the tokens of a run, whose decay is `w`.
    fn head(&self, h: Head<'_, 1>, inputs: [&Panel; 4], w: Columns<'_>, has_gate: bool) {
        let Head { isa, own, columns, panels: [mut y], mut state, .. } = h;
        let keys = self.keys_of(&own);
        let [r, k, v, g] = inputs;
        let [r, k] = [r, k].map(|x| x.view(columns.clone(), keys.clone()));
        let [v, g] = [v, g].map(|x| x.view(columns.clone(), own.clone()));
        // y = (S + diag(u) k vᵀ)ᵀ r; S = diag(w) S + k vᵀ.
        linear_attention(
            isa,
            &mut state,
            Span {
                r,
                k,
                v,
                scale: None,
                decay: Decay::PerKey(w),
                delta: None,
                read: Read::Before { bonus: &self.bonus[keys] },
                y: y.view_mut(),
            },
        );
        // y = norm(y) · silu(g).
        let (weight, bias) = (&self.ln_x_weight[own.clone()], &self.ln_x_bias[own]);
        simd!(isa, {
            for c in 0..y.len() {
                let y = y.at(c);
                layer_norm_in_place(y, weight, bias, self.ln_x_eps);
                if has_gate {
                    update(y, g.at(c), |y, g| y * silu(g));
                }
            }
        });
    }
}

/// Buffers of a forward pass, one column per token: (d_att) each; r and k as many as keys have.
pub(crate) struct Scratch {
    pub(crate) r: Panel,
    pub(crate) k: Panel,
    pub(crate) v: Panel,
    pub(crate) g: Panel,
    y: Panel,
    /// Input of the output matrix.
    pub(crate) gated: ActivationBuffer,
}

impl Scratch {
    /// For the matrices that read the result of heads with so many values of keys.
    pub(crate) fn new<'a>(
        workspace: &Workspace,
        keys: usize,
        readers: impl Iterator<Item = &'a Matrix> + Clone,
    ) -> Scratch {
        let d_att = readers.clone().next().map_or(0, Matrix::cols);
        let panel = |rows| Panel::new(rows, workspace);
        let [r, k] = [keys, keys].map(panel);
        let [v, g, y] = [d_att, d_att, d_att].map(panel);
        Scratch { r, k, v, g, y, gated: acts_for(workspace, readers) }
    }
}
