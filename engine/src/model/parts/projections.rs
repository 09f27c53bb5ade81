//! Several projections of a block's input, as heads have them: each straight, through a causal
//! convolution, through a SiLU, or through both.

use super::{CausalConv, MAX_CONV, padded};
use crate::Result;
use crate::buffers::{ActivationBuffer, Panel};
use crate::kernels::Isa;
use crate::kernels::math::silu;
use crate::kernels::simd::simd;
use crate::model::{Pass, Source};
use crate::ops::{Function, Inputs, List, Values, of};
use crate::stage::Job;
use crate::state::StatesShare;
use crate::team::Share;
use crate::tensor::Matrix;

/// One of them, as it is asked for.
pub(crate) struct Wanted {
    /// Its matrix.
    pub(crate) name: &'static str,
    /// Its convolution, where the configuration has a `d_conv`; none.
    pub(crate) conv: Option<&'static str>,
    pub(crate) rows: usize,
    /// Whether a SiLU follows.
    pub(crate) is_silu: bool,
}

/// One of them.
struct Projection {
    /// (rows, d_model)
    matrix: Matrix,
    conv: Option<CausalConv>,
    is_silu: bool,
}

/// All of them.
pub(crate) struct Projections<const N: usize>([Projection; N]);

impl<const N: usize> Projections<N> {
    pub(crate) fn load(source: &Source<'_>, wanted: [Wanted; N]) -> Result<Projections<N>> {
        let d_conv = match source.config.optional_size("d_conv")? {
            None => None,
            Some(_) => Some(source.config.size_up_to("d_conv", MAX_CONV)?),
        };
        let load = |Wanted { name, conv, rows, is_silu }| -> Result<Projection> {
            let conv = match conv.zip(d_conv) {
                None => None,
                Some((conv, d_conv)) => Some(CausalConv::load(source, (conv, name), rows, d_conv)?),
            };
            Ok(Projection { matrix: source.mat(name, rows, source.config.d_model)?, conv, is_silu })
        };
        let all: Vec<_> = wanted.into_iter().map(load).collect::<Result<_>>()?;
        match all.try_into() {
            Ok(all) => Ok(Projections(all)),
            Err(_) => unreachable!("as many as were wanted"),
        }
    }

    /// The matrices.
    pub(crate) fn matrices(&self) -> [&Matrix; N] {
        self.0.each_ref().map(|projection| &projection.matrix)
    }

    /// The same, which read the block's input.
    pub(crate) fn readers(&self) -> impl Iterator<Item = &Matrix> + Clone {
        self.0.iter().map(|projection| &projection.matrix)
    }

    /// Values of number `i`.
    pub(crate) fn rows(&self, i: usize) -> usize {
        self.0[i].matrix.rows()
    }

    /// Number `i`, as an operation, in a buffer called `name` that may have more rows.
    pub(crate) fn list<'m>(
        &'m self,
        list: &mut List<'m>,
        (i, name): (usize, &'static str),
        x: Inputs,
    ) -> Values {
        let Projection { matrix, conv, is_silu } = &self.0[i];
        let rows = if conv.is_some() { padded(matrix.rows()) } else { matrix.rows() };
        let y = list.values(name, rows);
        list.project_to(y, matrix, x);
        if let Some(conv) = conv {
            conv.list(list, y);
        }
        if *is_silu {
            list.map(y, of(y).apply(Function::Silu));
        }
        y
    }

    /// Those whose panel is given, in one stage with `more`.
    pub(crate) fn forward<'a>(
        &'a self,
        pass: &mut Pass<'_>,
        x: &'a ActivationBuffer,
        panels: [Option<&'a mut Panel>; N],
        more: impl IntoIterator<Item = Job<'a>>,
    ) {
        let (isa, batch) = (pass.stages.isa, pass.stages.batch);
        let projections = self.0.each_ref();
        let convolve = projections.map(|p| {
            move |x: &mut Share<'_, f32>, window: StatesShare<'_>| {
                if let Some(conv) = &p.conv {
                    conv.forward(isa, batch, x, window);
                }
                p.activate(isa, x);
            }
        });
        let activate = projections.map(|p| move |x: &mut Share<'_, f32>| p.activate(isa, x));
        let mut windows =
            pass.states.share_some(projections.map(|p| Some(p.conv.as_ref()?.window)));
        let thens = convolve.iter().zip(&activate).zip(&mut windows);
        let jobs = projections.into_iter().zip(panels).zip(thens).filter_map(
            |((p, panel), ((convolve, activate), window))| {
                let panel = panel?;
                Some(match window.take() {
                    Some(window) => Job::advance(&p.matrix, x, panel, window, convolve),
                    None => Job::apply(&p.matrix, x, panel, activate),
                })
            },
        );
        // Here they live no longer than what is made above.
        #[expect(clippy::map_identity, reason = "the lifetime differs")]
        let more = more.into_iter().map(|job| job);
        pass.stages.project(jobs.chain(more));
    }
}

impl Projection {
    fn activate(&self, isa: Isa, x: &mut Share<'_, f32>) {
        if !self.is_silu {
            return;
        }
        simd!(isa, {
            for c in x.columns() {
                x.column(c).iter_mut().for_each(|x| *x = silu(*x));
            }
        });
    }
}
