//! Log-probabilities and the likeliest tokens: what a caller reads from logits.
//!
//! Not here: how they are computed (`brooklet::sampler`). Test: `tests/contract/words.rs`.

use brooklet::sampler::{LogSoftmax, log_softmax, top_k};

use super::arguments::{fill, out, slice};
use super::failure::{Failure, Result, brooklet_result, call};

/// `log_prob` gets ln softmax(logits)[token], in nats: how likely the model holds a token, before
/// any option of a sampler. -INFINITY for a token whose logit is -INFINITY or NaN. Since version 3
/// of the interface.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_log_softmax(
    logits: *const f32,
    n: usize,
    token: u32,
    log_prob: *mut f32,
) -> brooklet_result {
    // SAFETY: pointers are NULL, which is refused, or as long as their lengths say: promised (top
    // of the header).
    call(|| unsafe {
        let to = out(log_prob, "log_prob")?;
        let logits = some(slice(logits, n, "logits")?)?;
        if token as usize >= logits.len() {
            return Err(Failure::argument(format!("token {token}: expected 0 to {}", n - 1)));
        }
        to.write(log_softmax(logits, token));
        Ok(())
    })
}

/// The tokens of the `k` largest of `n` logits, the largest first, of equal ones the lowest first;
/// NaN is never among them. `tokens` and `log_probs` (which may be NULL; ln softmax, in nats) have
/// room for `k` each, and `n_found` gets how many there are: fewer where not as many logits are.
/// Since version 3 of the interface.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_top_k(
    logits: *const f32,
    n: usize,
    k: usize,
    tokens: *mut u32,
    log_probs: *mut f32,
    n_found: *mut usize,
) -> brooklet_result {
    // SAFETY: pointers are NULL, which is refused, or as long as their lengths say: promised (top
    // of the header).
    call(|| unsafe {
        let logits = some(slice(logits, n, "logits")?)?;
        let top = top_k(logits, k);
        let sum = LogSoftmax::of(logits);
        let found: Vec<u32> = top.iter().map(|(token, _)| *token).collect();
        let probs: Vec<f32> = found.iter().map(|token| sum.log_prob(logits, *token)).collect();
        if !log_probs.is_null() {
            let mut written = 0;
            fill(&probs, log_probs, k, &raw mut written, "log_probs")?;
        }
        fill(&found, tokens, k, n_found, "tokens")
    })
}

fn some(logits: &[f32]) -> Result<&[f32]> {
    if logits.is_empty() { Err(Failure::argument("no logits")) } else { Ok(logits) }
}
