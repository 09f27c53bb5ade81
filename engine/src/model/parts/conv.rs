//! The causal convolution in front of a recurrence over channels, and the biases and gates beside
//! it.
//!
//! Vectors over channels are padded to whole blocks of sixteen, so that no kernel here knows a
//! shorter one. Sources: mamba_ssm `modules/block.py`, `modules/mamba_simple.py`. Test:
//! `tests/parity_mamba.rs`.

use crate::Result;
use crate::kernels::Isa;
use crate::kernels::conv::{Convolution, causal_conv};
use crate::kernels::lanes::{WIDTH, update};
use crate::kernels::math::silu;
use crate::kernels::simd::simd;
use crate::model::Source;
use crate::ops::{ConvOp, Formula, Function, List, Values, of};
use crate::stage::Batch;
use crate::state::{SlotRef, StatesShare};
use crate::team::Share;
use crate::tensor::Vector;

/// The largest convolution.
pub(crate) const MAX_CONV: usize = 64;

/// `n` channels in whole blocks.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(WIDTH)
}

/// A bias over channels that most models do not have.
#[derive(Default)]
pub(crate) struct Bias(Option<Vector>);

impl Bias {
    pub(crate) fn load(source: &Source<'_>, name: &str, n: usize) -> Result<Bias> {
        Ok(Bias(source.optional_vector(name, padded(n))?))
    }

    /// The biases, if there are any.
    pub(crate) fn values(&self) -> Option<&[f32]> {
        self.0.as_deref()
    }

    /// x + b.
    pub(crate) fn of<'m>(&'m self, x: impl Into<Formula<'m>>) -> Formula<'m> {
        match &self.0 {
            None => x.into(),
            Some(bias) => x.into() + bias,
        }
    }

    /// x = x + b, for the channels from `at`.
    pub(crate) fn add(&self, at: usize, x: &mut [f32]) {
        if let Some(bias) = &self.0 {
            update(x, &bias[at..], |x, b| x + b);
        }
    }
}

/// The gate's half of a layer's input: silu(z + bias).
pub(crate) fn gate(isa: Isa, bias: &Bias, z: &mut Share<'_, f32>) {
    let (at, columns) = (z.rows().start, z.columns());
    simd!(isa, {
        for c in columns {
            let z = z.column(c);
            bias.add(at, z);
            z.iter_mut().for_each(|z| *z = silu(*z));
        }
    });
}

/// silu(causal convolution of x + bias) over channels; in some models without the silu.
pub(crate) struct CausalConv {
    is_linear: bool,
    d_conv: usize,
    /// (blocks, d_conv, 16)
    taps: Vector,
    /// (blocks, 16)
    bias: Vector,
    /// Added to the inputs, before the window remembers them.
    input_bias: Bias,
    /// State: the last inputs, oldest first (blocks, d_conv − 1, 16).
    pub(crate) window: SlotRef,
}

impl CausalConv {
    /// The convolution `name` over `n` channels, whose input is the projection `input`.
    pub(crate) fn load(
        source: &Source<'_>,
        (name, input): (&'static str, &str),
        n: usize,
        d_conv: usize,
    ) -> Result<CausalConv> {
        let blocks = n.div_ceil(WIDTH);
        Ok(CausalConv {
            is_linear: source.config.flag("linear_conv")?,
            d_conv,
            taps: source.tensor(&format!("{name}.weight"), &[blocks, d_conv, WIDTH])?,
            bias: source.vector(&format!("{name}.bias"), padded(n))?,
            input_bias: Bias::load(source, &format!("{input}.bias"), n)?,
            window: source.state(name, &[blocks, d_conv - 1, WIDTH], 0.0),
        })
    }

    /// y = silu(conv(y + input bias)), in whole blocks, as operations.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>, y: Values) {
        if self.input_bias.0.is_some() {
            list.map(y, self.input_bias.of(y));
        }
        let (taps, bias, window) = (&*self.taps, &*self.bias, self.window);
        list.conv(ConvOp { taps, bias, window, y, seen: None });
        if !self.is_linear {
            list.map(y, of(y).apply(Function::Silu));
        }
    }

    /// Overwrites the channels of `x` in every column with the convolution's result; `state` is
    /// their part of `window`.
    pub(crate) fn forward(
        &self,
        isa: Isa,
        batch: Batch<'_>,
        x: &mut Share<'_, f32>,
        mut state: StatesShare<'_>,
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
        if self.is_linear {
            return;
        }
        simd!(isa, {
            for c in x.columns() {
                x.column(c).iter_mut().for_each(|x| *x = silu(*x));
            }
        });
    }
}
