//! The trunk around the layers: the embedding before them, the final norm and the head behind.

use super::{Config, Norm};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel, Workspace};
use crate::kernels::Isa;
use crate::kernels::lanes::update;
use crate::kernels::math::tanh;
use crate::kernels::simd::simd;
use crate::ops::{Formula, Function, List, of};
use crate::stage::{Job, Owned, Piece, Stages};
use crate::team::Share;
use crate::tensor::{Loader, Matrix, Vector, acts_for};

/// The weights around the layers.
pub(crate) struct Trunk {
    /// (n_vocab, d_embed), mostly d_model
    embed: Matrix,
    norm: Norm,
    /// (n_vocab, d_model); absent when the embedding is the head.
    head: Option<Matrix>,
    /// (n_vocab)
    head_bias: Option<Vector>,
    /// Logits l become cap · tanh(l / cap).
    logit_cap: Option<f32>,
}

/// Buffers behind the layers, one column per row of logits.
pub(crate) struct Scratch {
    /// (d_model)
    normed: Panel,
    input: ActivationBuffer,
    /// (n_vocab)
    pub(crate) logits: Panel,
}

impl Trunk {
    pub(super) fn load(
        loader: &Loader<'_>,
        config: &Config,
        d_embed: usize,
        norm: Norm,
    ) -> Result<Trunk> {
        let (n_vocab, d_model) = (config.n_vocab, config.d_model);
        let embed = loader.mat("embed", n_vocab, d_embed)?;
        let head = match d_embed == d_model {
            true => loader.optional_mat("head", n_vocab, d_model)?,
            false => Some(loader.mat("head", n_vocab, d_model)?),
        };
        let head_bias = loader.optional_vector("head.bias", &[n_vocab])?;
        let logit_cap = config.optional_float("logit_cap")?;
        Ok(Trunk { embed, norm, head, head_bias, logit_cap })
    }

    /// The final norm of RWKV.
    pub(super) fn ln_out(loader: &Loader<'_>, config: &Config) -> Result<Norm> {
        let eps = match config.optional_float("ln_out_eps")? {
            Some(eps) => eps,
            None => config.float("ln_eps")?,
        };
        Norm::layer(loader, "ln_out", config.d_model, eps)
    }

    /// The final norm of Mamba.
    pub(super) fn norm_f(loader: &Loader<'_>, config: &Config) -> Result<Norm> {
        Norm::rms(loader, "norm_f", config.d_model, config.float("norm_eps")?)
    }

    /// None: the last layer leaves the stream as the head sees it.
    pub(super) fn unnormed(_: &Loader<'_>, _: &Config) -> Result<Norm> {
        Ok(Norm::None)
    }

    /// Makes the buffers for as many rows of logits as `workspace` has columns.
    pub(crate) fn scratch(&self, workspace: &Workspace) -> Scratch {
        Scratch {
            normed: Panel::new(self.head().cols(), workspace),
            input: acts_for(workspace, [self.head()]),
            logits: Panel::new(self.embed.rows(), workspace),
        }
    }

    fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// x = the embedding of every column's token.
    pub(crate) fn embed(&self, stages: &mut Stages<'_>, x: &mut Panel) {
        let owned = Owned { panels: [x], acts: [] };
        stages.columns(stages.batch.columns, owned, |piece| {
            let Piece { batch, own, panels: [mut x], .. } = piece;
            for c in own {
                self.embed.row(batch.tokens[c] as usize, &mut x.column(c)[..self.embed.cols()]);
            }
        });
    }

    /// The embedding as an operation, into a stream of `width` values.
    pub(crate) fn list_embed<'m>(&'m self, list: &mut List<'m>, width: usize) {
        list.embed(&self.embed, width);
    }

    /// The logits as operations.
    pub(crate) fn list_logits<'m>(&'m self, list: &mut List<'m>) {
        let x = list.x();
        let x = list.gather(x);
        let normed = self.norm.list(list, "trunk normed", x);
        let input = list.pack("trunk input", self.head().cols(), of(normed));
        let logits = list.project("logits", self.head(), input);
        if let Some(bias) = &self.head_bias {
            list.map(logits, of(logits) + bias);
        }
        if let Some(cap) = self.logit_cap {
            let capped = (of(logits) / cap).apply(Function::Tanh);
            list.map(logits, Formula::from(cap) * capped);
        }
        list.end(logits);
    }

    /// A column of x as the head sees it: normed.
    pub(crate) fn hidden(&self, isa: Isa, x: &[f32], out: &mut [f32]) {
        self.norm.apply(isa, &x[..out.len()], out);
    }

    /// logits = head · norm(x) for the columns `wanted`.
    pub(crate) fn logits(
        &self,
        stages: &mut Stages<'_>,
        x: &Panel,
        wanted: &[usize],
        s: &mut Scratch,
    ) {
        if wanted.is_empty() {
            return;
        }
        let d_model = self.head().cols();
        let owned = Owned { panels: [&mut s.normed], acts: [&mut s.input] };
        stages.columns(wanted.len(), owned, |piece| {
            let Piece { isa, own, panels: [mut normed], acts: [mut input], .. } = piece;
            for i in own {
                let y = &mut normed.column(i)[..d_model];
                self.norm.apply(isa, &x.column(wanted[i])[..d_model], y);
                input.fill(
                    isa,
                    i,
                    #[inline(always)]
                    |rows, out| out.copy_from_slice(&y[rows]),
                );
            }
        });
        let isa = stages.isa;
        let capped = |logits: &mut Share<'_, f32>| {
            if let Some(bias) = &self.head_bias {
                let at = logits.rows().start;
                simd!(isa, {
                    for c in logits.columns() {
                        update(logits.column(c), &bias[at..], |l, b| l + b);
                    }
                });
            }
            let Some(cap) = self.logit_cap else { return };
            simd!(isa, {
                for c in logits.columns() {
                    logits.column(c).iter_mut().for_each(|l| *l = cap * tanh(*l / cap));
                }
            });
        };
        let head = Job::apply(self.head(), &s.input, &mut s.logits, &capped);
        stages.project_columns(wanted.len(), [head]);
    }
}
