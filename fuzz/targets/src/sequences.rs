//! The target of the C interface. The interpreter is that of its tests,
//! `engine/capi/tests/support/sequence.rs`.

#[path = "../../../engine/capi/tests/support/mod.rs"]
#[allow(unused, missing_docs)]
mod support;

/// Calls of the C interface, valid and invalid, in an order that `bytes` choose.
pub fn capi(bytes: &[u8]) {
    support::sequence::run(bytes);
}
