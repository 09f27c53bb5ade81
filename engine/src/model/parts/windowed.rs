//! Attention to a window whose heads have a number and a size of their own, beside that to every
//! token. Test: `tests/parity_experts.rs`.

use super::attention::{Attention, SLIDING, Scratch};
use super::{Input, Part};
use crate::Result;
use crate::buffers::Workspace;
use crate::model::{Pass, Source};
use crate::ops::List;

/// The attention of such a layer.
pub(crate) struct Windowed(Attention);

impl Part for Windowed {
    const WORD: &'static str = SLIDING;
    type Scratch = Scratch;

    fn load(source: &Source<'_>) -> Result<Windowed> {
        let sizes = ["n_window_head", "n_window_kv_head", "d_window_head"];
        Ok(Windowed(Attention::of_sizes(source, Input::load(source, "norm")?, sizes)?))
    }

    fn scratch<'a>(
        workspace: &Workspace,
        layers: impl Iterator<Item = &'a Self> + Clone,
    ) -> Scratch {
        Attention::scratch(workspace, layers.map(|layer| &layer.0))
    }

    fn read(&self, pass: &mut Pass<'_>, scratch: &mut Scratch) {
        self.0.read(pass, scratch);
    }

    fn add(&self, pass: &mut Pass<'_>, scratch: &mut Scratch) {
        self.0.add(pass, scratch);
    }

    fn list<'m>(&'m self, list: &mut List<'m>) {
        self.0.list(list);
    }
}
