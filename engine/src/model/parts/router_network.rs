//! The small network that some routers have before their scores (ZAYA: Zyphra 2025, arXiv
//! 2511.17127; reference: transformers `models/zaya/modeling_zaya.py`): a narrow projection, to
//! which that of the layer below is added, a norm, and two layers with GELU. All of it is exact, as
//! scores are. Test: `tests/parity_experts.rs`.

use crate::Result;
use crate::buffers::Panel;
use crate::kernels::Isa;
use crate::kernels::lanes::{WIDTH, update, update2};
use crate::kernels::math::gelu;
use crate::kernels::rows::exact_rows;
use crate::kernels::simd::simd;
use crate::model::{Norm, Pass, Source};
use crate::ops::{Formula, Function, List, Values, of};
use crate::stage::{Owned, Piece};
use crate::tensor::Vector;

/// The weights of one layer's.
pub(crate) struct RouterNetwork {
    /// (d_router, d_model)
    pub(crate) down: Dense,
    /// The share of what the layer below has; absent in the first (d_router).
    carry: Option<Vector>,
    norm: Norm,
    /// (d_router, d_router) each
    layers: [Dense; 2],
}

/// An exact product, and its bias.
pub(crate) struct Dense {
    pub(crate) rows: usize,
    /// (blocks, columns, 16)
    weight: Vector,
    /// (rows)
    bias: Vector,
}

impl Dense {
    fn load(source: &Source<'_>, name: &str, rows: usize, cols: usize) -> Result<Dense> {
        let shape = [rows.div_ceil(WIDTH), cols, WIDTH];
        Ok(Dense {
            rows,
            weight: source.tensor(&format!("{name}.weight"), &shape)?,
            bias: source.vector(&format!("{name}.bias"), rows)?,
        })
    }

    /// W x + b, of which the product is an operation.
    fn list<'m>(&'m self, list: &mut List<'m>, name: &'static str, x: Values) -> Formula<'m> {
        let y = list.exact(name, &self.weight, x, self.rows.next_multiple_of(WIDTH));
        of(y) + &self.bias
    }

    /// y = W x + b; `y` has room for whole blocks.
    fn apply(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        exact_rows(isa, &self.weight, x, y);
        simd!(isa, update(y, &self.bias, |y, b| y + b));
    }
}

impl RouterNetwork {
    /// Reads `router.down`, `router.carry`, `router.norm`, `router.fc1` and `router.fc2`, if the
    /// configuration says how wide they are.
    pub(crate) fn load(source: &Source<'_>) -> Result<Option<RouterNetwork>> {
        let Some(d) = source.config.optional_size("d_router")? else { return Ok(None) };
        let d_model = source.config.d_model;
        Ok(Some(RouterNetwork {
            down: Dense::load(source, "router.down", d, d_model)?,
            carry: source.optional_vector("router.carry", d)?,
            norm: source.rms_norm_of("router.norm", d)?,
            layers: [
                Dense::load(source, "router.fc1", d, d)?,
                Dense::load(source, "router.fc2", d, d)?,
            ],
        }))
    }

    /// Its width in whole blocks.
    pub(crate) fn padded(&self) -> usize {
        self.down.rows.next_multiple_of(WIDTH)
    }

    /// The network of x, as operations; a buffer of its own carries on what comes of the
    /// projection.
    pub(crate) fn list<'m>(&'m self, list: &mut List<'m>, x: Values) -> Values {
        let second = list.values("router second", self.down.rows);
        let mut down = self.down.list(list, "router down", x);
        if let Some(carry) = &self.carry {
            down = down + of(second) * carry;
        }
        list.map(second, down);
        let mut hidden = self.norm.list(list, "router normed", second);
        let names = [["router fc1", "router hidden"], ["router fc2", "router network"]];
        for (layer, [name, to]) in self.layers.iter().zip(names) {
            let y = layer.list(list, name, hidden).apply(Function::Gelu);
            hidden = list.values(to, layer.rows);
            list.map(hidden, y);
        }
        hidden
    }

    /// `hidden`, its first values, = the network of x; the rest is workspace. The second stream
    /// carries what comes of the projection on.
    pub(crate) fn forward(&self, pass: &mut Pass<'_>, x: &Panel, hidden: &mut Panel) {
        let (d, padded) = (self.down.rows, self.padded());
        let owned = Owned { panels: [hidden, &mut pass.streams.second], acts: [] };
        pass.stages.columns(pass.stages.batch.columns, owned, |piece| {
            let Piece { isa, own, panels: [mut hidden, mut second], .. } = piece;
            for c in own {
                let (a, b) = hidden.column(c)[..2 * padded].split_at_mut(padded);
                let second = &mut second.column(c)[..d];
                self.down.apply(isa, x.column(c), a);
                if let Some(carry) = &self.carry {
                    simd!(isa, update2(a, second, carry, |a, before, carry| a + before * carry));
                }
                second.copy_from_slice(&a[..d]);
                self.norm.apply(isa, second, &mut a[..d]);
                let [one, two] = &self.layers;
                for (layer, from, to) in [(one, 0, 1), (two, 1, 0)] {
                    let (x, y) = if from < to { (&*a, &mut *b) } else { (&*b, &mut *a) };
                    layer.apply(isa, &x[..d], y);
                    simd!(isa, y.iter_mut().for_each(|y| *y = gelu(*y)));
                }
            }
        });
    }
}
