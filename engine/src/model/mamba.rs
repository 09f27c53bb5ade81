//! What the layers of Mamba-1 and Mamba-2 share: a normed input, the causal convolution, an output
//! added to the residual.
//!
//! Vectors over channels are padded to whole blocks of sixteen, so that no kernel here knows a
//! shorter one. Sources: mamba_ssm `modules/block.py`, `modules/mamba_simple.py`. Test:
//! `tests/parity_mamba.rs`.

use super::{Batch, Norm, Pass};
use crate::Result;
use crate::buffers::{Acts, Panel};
use crate::kernels::Isa;
use crate::kernels::conv::{Convolution, causal_conv};
use crate::kernels::lanes::{WIDTH, update};
use crate::kernels::math::silu;
use crate::stage::{Job, column_split, project, run_columns};
use crate::state::{Place, StateLayout};
use crate::team::{BuffersPart, Part};
use crate::tensor::{Loader, Mat, Vector};

/// The largest convolution.
pub(super) const MAX_CONV: usize = 64;

/// `n` channels in whole blocks.
pub(super) fn padded(n: usize) -> usize {
    n.next_multiple_of(WIDTH)
}

/// Prepares norm(x) of every column as a projection's input.
pub(super) fn normed_input(pass: &mut Pass<'_>, norm: &Norm, normed: &mut Panel, input: &mut Acts) {
    let split = column_split(pass.team, pass.batch.columns);
    let (x, isa) = (&*pass.x, pass.isa);
    let (normed, input) = (normed.share_columns(split), input.share_columns(split));
    run_columns(pass.team, split, &|piece| {
        let (mut normed, mut input) = (normed.take(piece), input.take(piece));
        for c in normed.columns() {
            let y = &mut normed.column(c)[..x.rows()];
            norm.apply(isa, x.column(c), y);
            input.fill(
                isa,
                c,
                #[inline(always)]
                |rows, out| out.copy_from_slice(&y[rows]),
            );
        }
    });
}

/// The projection back to the residual stream: `(d_model, d_inner)`, rarely with a bias.
pub(super) struct Output {
    pub(super) weight: Mat,
    bias: Option<Vector>,
}

impl Output {
    pub(super) fn load(
        loader: &Loader<'_>,
        at: &str,
        d_model: usize,
        d_inner: usize,
    ) -> Result<Output> {
        Ok(Output {
            weight: loader.mat(&format!("{at}.out_proj"), d_model, d_inner)?,
            bias: loader.optional_vector(&format!("{at}.out_proj.bias"), &[d_model])?,
        })
    }

    /// residual = residual + W x + b, as one stage; `y` is room for W x.
    pub(super) fn add(&self, pass: &mut Pass<'_>, x: &Acts, y: &mut Panel) {
        let columns = pass.batch.columns;
        if let Some(bias) = &self.bias {
            for c in 0..columns {
                pass.x.column_mut(c).iter_mut().zip(&bias[..]).for_each(|(x, b)| *x += *b);
            }
        }
        project(pass.team, pass.isa, columns, [Job::add(&self.weight, x, y, pass.x)]);
    }
}

/// A bias over channels that most models do not have.
pub(super) struct Bias(Option<Vector>);

impl Bias {
    pub(super) fn load(loader: &Loader<'_>, name: &str, n: usize) -> Result<Bias> {
        Ok(Bias(loader.optional_vector(name, &[padded(n)])?))
    }

    /// x = x + b, for the channels from `at`.
    fn add(&self, at: usize, x: &mut [f32]) {
        if let Some(bias) = &self.0 {
            update(x, &bias[at..], |x, b| x + b);
        }
    }
}

/// The gate's half of a layer's input: silu(z + bias).
pub(super) fn gate(isa: Isa, bias: &Bias, z: &mut Part<'_, f32>) {
    let (at, columns) = (z.rows().start, z.columns());
    isa.run(
        #[inline(always)]
        || {
            for c in columns {
                let z = z.column(c);
                bias.add(at, z);
                z.iter_mut().for_each(|z| *z = silu(*z));
            }
        },
    );
}

/// silu(causal convolution of x + bias) over channels.
pub(super) struct CausalConv {
    d_conv: usize,
    /// (blocks, d_conv, 16)
    taps: Vector,
    /// (blocks, 16)
    bias: Vector,
    /// Added to the inputs, before the window remembers them.
    input_bias: Bias,
    /// State: the last inputs, oldest first (blocks, d_conv − 1, 16).
    pub(super) window: Place,
}

impl CausalConv {
    /// The convolution over `n` channels of layer `i`, whose input is the projection `input`.
    pub(super) fn load(
        loader: &Loader<'_>,
        state: &mut StateLayout,
        i: usize,
        input: &str,
        n: usize,
        d_conv: usize,
    ) -> Result<CausalConv> {
        let (at, blocks) = (format!("layers.{i}"), n.div_ceil(WIDTH));
        Ok(CausalConv {
            d_conv,
            taps: loader.vector(&format!("{at}.conv.weight"), &[blocks, d_conv, WIDTH])?,
            bias: loader.vector(&format!("{at}.conv.bias"), &[padded(n)])?,
            input_bias: Bias::load(loader, &format!("{at}.{input}.bias"), n)?,
            window: state.push(i, "conv", &[blocks, d_conv - 1, WIDTH], 0.0),
        })
    }

    /// State elements per channel.
    pub(super) fn window_len(&self) -> usize {
        self.d_conv - 1
    }

    /// Overwrites the channels of `x` in every column with the convolution's result; `state` is
    /// their part of `window`.
    pub(super) fn run(
        &self,
        isa: Isa,
        batch: Batch<'_>,
        x: &mut Part<'_, f32>,
        mut state: BuffersPart<'_>,
    ) {
        let rows = x.rows();
        for c in x.columns() {
            self.input_bias.add(rows.start, x.column(c));
        }
        for (run, span) in batch.spans.iter().enumerate() {
            causal_conv(
                isa,
                Convolution {
                    windows: state.get(run),
                    taps: &self.taps[rows.start * self.d_conv..rows.end * self.d_conv],
                    bias: &self.bias[rows.clone()],
                    x: x.view_mut(span.clone(), rows.clone()),
                },
            );
        }
        isa.run(
            #[inline(always)]
            || {
                for c in x.columns() {
                    x.column(c).iter_mut().for_each(|x| *x = silu(*x));
                }
            },
        );
    }
}
