//! [`Table`]: what each format module makes of a header.

use std::collections::BTreeMap;

use super::meta::MetaValue;
use super::tensor::SourceTensor;

/// The contents of a header, as a format module finds them.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) tensors: Vec<SourceTensor>,
    pub(super) metadata: BTreeMap<String, MetaValue>,
}
