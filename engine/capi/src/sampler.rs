//! From logits to the next token: the sampler and its options.
//!
//! Not here: what the options do (`brooklet::sampler`). Test: `tests/contract/words.rs`.

use std::ffi::{c_char, c_void};

use brooklet::sampler::{Sampler, SamplerOptions, SamplerState, Step};

use super::arguments::{fill, optional_string, out, slice};
use super::failure::{Failure, Result, brooklet_result, call};
use super::handle::{Handle, Opaque, free, make, make_from, message, on, on_mut};
use super::options::{Options, init, read};

/// The most tokens that a sampler is made for: a bound on its memory.
const MAX_VOCAB: usize = 1 << 24;

/// Chooses tokens, and remembers what its penalties need.
pub struct brooklet_sampler(Handle<Sampler>);

impl Opaque for brooklet_sampler {
    type Value = Sampler;
    const NAME: &'static str = "sampler";

    fn new(handle: Handle<Sampler>) -> Self {
        brooklet_sampler(handle)
    }

    fn handle(&self) -> &Handle<Sampler> {
        &self.0
    }
}

/// A number added to the logit of a token.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_logit_bias {
    /// The token.
    pub token: u32,
    /// Added to the logit; -INFINITY forbids the token.
    pub bias: f32,
}

/// How to sample. Set by brooklet_sampler_options_init; the defaults draw from the model's own
/// distribution. The steps come in the order: penalties, dry, bias, temperature, top-n-sigma,
/// top-k, typical, top-p, min-p, xtc; with temperature_last the temperature comes behind all of
/// them; `steps` may give any other order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_sampler_options {
    /// Bytes of this struct, as its user was compiled.
    pub size: usize,
    /// Start of the generator, if has_seed is not 0.
    pub seed: u64,
    /// Not 0: `seed` counts. Default 0: a seed is chosen, see brooklet_sampler_seed.
    pub has_seed: u32,
    /// Logits are divided by it; 0 takes the likeliest token always. Default 1.
    pub temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all. Default 0.
    pub top_k: u32,
    /// Keep the fewest likeliest tokens whose shares sum to at least p; 1 keeps all. Default 1.
    pub top_p: f32,
    /// Keep tokens at least p times as likely as the likeliest; 0 keeps all. Default 0.
    pub min_p: f32,
    /// Logits of tokens that came are divided by it where positive, else multiplied. Default 1.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that came. Default 0.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens that came, for each coming. Default 0.
    pub frequency_penalty: f32,
    /// Each coming counts this to the power of its age in tokens. Default 1.
    pub penalty_decay: f32,
    /// Tokens that the penalties look back on, 0 for all; 1048576 at most. Default 0.
    pub penalty_window: u32,
    /// Added to the logits after the penalties. Copied; NULL where there are none.
    pub logit_bias: *const brooklet_logit_bias,
    /// How many.
    pub n_logit_bias: usize,
    /// Not 0: the temperature comes after the cuts, as in llama.cpp. Default 0. Since version 2 of
    /// the interface.
    pub temperature_last: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Keep the fewest tokens nearest to the expected surprise whose shares sum to at least this; 1
    /// keeps all. Default 1. This and the fields below: since version 3 of the interface.
    pub typical_p: f32,
    /// Keep logits within so many standard deviations of the largest; 0 keeps all. Default 0.
    pub top_n_sigma: f32,
    /// The chance that all tokens of a share of xtc_threshold or more are dropped but the least
    /// likely of them; 0 is off. Default 0.
    pub xtc_probability: f32,
    /// See xtc_probability; above 0.5 nothing is dropped. Default 0.1.
    pub xtc_threshold: f32,
    /// The temperature goes so far down and up with the entropy; 0 is off. Default 0.
    pub dynatemp_range: f32,
    /// The power of the entropy's part that counts. Default 1.
    pub dynatemp_exponent: f32,
    /// The surprise in bits that mirostat 2 steers to, in place of all cuts; 0 is off. Default 0.
    pub mirostat_tau: f32,
    /// How fast mirostat learns. Default 0.1.
    pub mirostat_eta: f32,
    /// Taken, times dry_base for each token above dry_allowed_length, from the logits of tokens
    /// that would lengthen a repetition of so many tokens; 0 is off. Default 0.
    pub dry_multiplier: f32,
    /// See dry_multiplier; 1 at least. Default 1.75.
    pub dry_base: f32,
    /// See dry_multiplier. Default 2.
    pub dry_allowed_length: u32,
    /// Tokens that DRY looks back on, 1 to 1048576. Default 1024.
    pub dry_window: u32,
    /// Tokens that no repetition goes across. Copied; NULL where there are none.
    pub dry_breakers: *const u32,
    /// How many.
    pub n_dry_breaker: usize,
    /// The steps in their order, such as "penalties;top-k;top-p;temperature"; one that is not named
    /// is off. NULL: by temperature_last, which must be 0 where steps are given.
    pub steps: *const c_char,
}

// SAFETY: numbers and pointers, without padding between them.
unsafe impl Options for brooklet_sampler_options {
    const FIRST_SIZE: usize = std::mem::offset_of!(brooklet_sampler_options, temperature_last);

    fn defaults() -> Self {
        let own = SamplerOptions::default();
        brooklet_sampler_options {
            size: size_of::<Self>(),
            seed: 0,
            has_seed: 0,
            temperature: own.temperature,
            top_k: own.top_k as u32,
            top_p: own.top_p,
            min_p: own.min_p,
            repetition_penalty: own.repetition_penalty,
            presence_penalty: own.presence_penalty,
            frequency_penalty: own.frequency_penalty,
            penalty_decay: own.penalty_decay,
            penalty_window: own.penalty_window as u32,
            logit_bias: std::ptr::null(),
            n_logit_bias: 0,
            temperature_last: 0,
            reserved: 0,
            typical_p: own.typical_p,
            top_n_sigma: own.top_n_sigma,
            xtc_probability: own.xtc_probability,
            xtc_threshold: own.xtc_threshold,
            dynatemp_range: own.dynatemp_range,
            dynatemp_exponent: own.dynatemp_exponent,
            mirostat_tau: own.mirostat_tau,
            mirostat_eta: own.mirostat_eta,
            dry_multiplier: own.dry_multiplier,
            dry_base: own.dry_base,
            dry_allowed_length: own.dry_allowed_length as u32,
            dry_window: own.dry_window as u32,
            dry_breakers: std::ptr::null(),
            n_dry_breaker: 0,
            steps: std::ptr::null(),
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.size
    }

    fn reserved(&self) -> u64 {
        u64::from(self.reserved)
    }
}

impl brooklet_sampler_options {
    /// The engine's options.
    ///
    /// # Safety
    /// `logit_bias` is NULL or points to `n_logit_bias` elements, `dry_breakers` to
    /// `n_dry_breaker`, and `steps` to a text that ends with a zero; nobody changes them meanwhile.
    unsafe fn engine(&self) -> Result<SamplerOptions> {
        // SAFETY: each is NULL, or as long as it says: promised (Safety).
        let (bias, breakers, steps) = unsafe {
            (
                slice(self.logit_bias, self.n_logit_bias, "logit_bias")?,
                slice(self.dry_breakers, self.n_dry_breaker, "dry_breakers")?,
                optional_string(self.steps, "steps")?,
            )
        };
        let steps = match (steps, self.temperature_last != 0) {
            (Some(_), true) => {
                let words = "the sampler's options have both steps and temperature_last: \
                             expected one of them";
                return Err(Failure::argument(words));
            }
            (Some(names), false) => Step::list(names)?,
            (None, true) => Step::TEMPERATURE_LAST.to_vec(),
            (None, false) => Step::TEMPERATURE_FIRST.to_vec(),
        };
        Ok(SamplerOptions::new()
            .temperature(self.temperature)
            .top_k(self.top_k as usize)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .repetition_penalty(self.repetition_penalty)
            .presence_penalty(self.presence_penalty)
            .frequency_penalty(self.frequency_penalty)
            .penalty_decay(self.penalty_decay)
            .penalty_window(self.penalty_window as usize)
            .logit_bias(bias.iter().map(|bias| (bias.token, bias.bias)))
            .typical_p(self.typical_p)
            .top_n_sigma(self.top_n_sigma)
            .xtc_probability(self.xtc_probability)
            .xtc_threshold(self.xtc_threshold)
            .dynatemp_range(self.dynatemp_range)
            .dynatemp_exponent(self.dynatemp_exponent)
            .mirostat_tau(self.mirostat_tau)
            .mirostat_eta(self.mirostat_eta)
            .dry_multiplier(self.dry_multiplier)
            .dry_base(self.dry_base)
            .dry_allowed_length(self.dry_allowed_length as usize)
            .dry_window(self.dry_window as usize)
            .dry_breakers(breakers)
            .steps(&steps)
            .seed((self.has_seed != 0).then_some(self.seed)))
    }
}

/// Fills in the defaults; `size` is sizeof(brooklet_sampler_options).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_options_init(
    options: *mut brooklet_sampler_options,
    size: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    call(|| unsafe { init(options, size) })
}

/// A sampler for logits of `n_vocab` tokens. `options` may be NULL. All its memory is allocated
/// here.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_new(
    options: *const brooklet_sampler_options,
    n_vocab: usize,
    sampler: *mut *mut brooklet_sampler,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        make(sampler, || {
            if n_vocab == 0 || n_vocab > MAX_VOCAB {
                return Err(Failure::argument(format!(
                    "n_vocab {n_vocab}: expected 1 to {MAX_VOCAB}"
                )));
            }
            Ok(Sampler::new(read(options)?.engine()?, n_vocab)?)
        })
    }
}

/// A sampler that goes on as this one would.
///
/// Threads: one at a time per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_clone(
    sampler: *const brooklet_sampler,
    clone: *mut *mut brooklet_sampler,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe { make_from(sampler, clone, |own| Ok(own.clone())) }
}

/// Frees a sampler; NULL is fine.
///
/// Threads: any, when no other call with this handle is running or follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_free(sampler: *mut brooklet_sampler) {
    // SAFETY: the caller's promise (top of the header).
    unsafe { free(sampler) }
}

/// Copies the message of the last failure with this handle, as snprintf would; returns its length.
/// "" before the first.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_message(
    sampler: *const brooklet_sampler,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    // SAFETY: the caller's promise (top of the header).
    unsafe { message(sampler, buffer, capacity) }
}

/// Chooses a token by `n` logits. It counts for later penalties only after brooklet_sampler_accept.
/// A NaN is never chosen. Allocates nothing.
///
/// Threads: one at a time per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_sample(
    sampler: *mut brooklet_sampler,
    logits: *const f32,
    n: usize,
    token: *mut u32,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(sampler, |own| {
            let token = out(token, "token")?;
            if n == 0 {
                return Err(Failure::argument("no logits"));
            }
            token.write(own.sample(slice(logits, n, "logits")?));
            Ok(())
        })
    }
}

/// Takes a token into the history of the penalties and of DRY: each one sampled, and those of the
/// prompt where they shall count. Allocates nothing.
///
/// Threads: one at a time per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_accept(
    sampler: *mut brooklet_sampler,
    token: u32,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(sampler, |own| {
            own.accept(token);
            Ok(())
        })
    }
}

/// Back to the start: the generator at its seed, the history empty.
///
/// Threads: one at a time per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_reset(sampler: *mut brooklet_sampler) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(sampler, |own| {
            own.reset();
            Ok(())
        })
    }
}

/// The seed in use: the one given, or the one chosen where none was.
///
/// Threads: one at a time per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_seed(
    sampler: *const brooklet_sampler,
    seed: *mut u64,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(sampler, |own| {
            out(seed, "seed")?.write(own.seed());
            Ok(())
        })
    }
}

/// The sampler's memory (generator, histories, mirostat's bound; not its options), as bytes that
/// are the same on every machine. `n` gets their number; if that is above `capacity` the result is
/// BROOKLET_BUFFER and none is written.
///
/// Threads: one at a time per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_save(
    sampler: *const brooklet_sampler,
    bytes: *mut c_void,
    capacity: usize,
    n: *mut usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on(sampler, |own| fill(&own.state().to_bytes(), bytes.cast::<u8>(), capacity, n, "bytes"))
    }
}

/// Goes on from what brooklet_sampler_save wrote. The options stay this sampler's own.
///
/// Threads: one at a time per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_restore(
    sampler: *mut brooklet_sampler,
    bytes: *const c_void,
    length: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    unsafe {
        on_mut(sampler, |own| {
            let bytes = slice(bytes.cast::<u8>(), length, "bytes")?;
            Ok(own.restore(&SamplerState::from_bytes(bytes)?)?)
        })
    }
}
