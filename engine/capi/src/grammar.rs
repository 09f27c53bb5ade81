//! Grammars of a sampler: JSON schemas, regular expressions, Lark.
//!
//! Not here: what they mean (`brooklet::Grammar`). Test: `tests/contract/words.rs`.

use std::ffi::c_char;

use super::arguments::{borrow, out, string};
use super::failure::{Failure, Result, brooklet_result};
use super::handle::{Opaque, on, on_mut};
use super::sampler::brooklet_sampler;
use super::tokenizer::brooklet_tokenizer;

/// A JSON schema: texts are JSON documents that it allows.
pub const BROOKLET_GRAMMAR_JSON_SCHEMA: u32 = 0;
/// A regular expression, which matches the whole text.
pub const BROOKLET_GRAMMAR_REGEX: u32 = 1;
/// A Lark grammar, with the rule `start`.
pub const BROOKLET_GRAMMAR_LARK: u32 = 2;

/// Lets a sampler choose only tokens that a grammar allows, for one text from its start on: each
/// token that brooklet_sampler_accept takes goes on with it. `source` is UTF-8, `syntax` says how
/// it is written; NULL takes the grammar away. Between brooklet_sampler_sample and
/// brooklet_sampler_accept memory is allocated then. BROOKLET_UNSUPPORTED in a library without
/// BROOKLET_FEATURE_GRAMMAR. Since version 3 of the interface.
///
/// Threads: one at a time per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_set_grammar(
    sampler: *mut brooklet_sampler,
    tokenizer: *const brooklet_tokenizer,
    syntax: u32,
    source: *const c_char,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on_mut(sampler, |own| {
            if source.is_null() {
                own.constrain(None);
                return Ok(());
            }
            let text = borrow(tokenizer, brooklet_tokenizer::NAME)?.handle().read()?;
            own.constrain(grammar(&text, syntax, string(source, "source")?)?);
            Ok(())
        })
    }
}

/// Lets the sampler's grammar begin anew, for another text. Nothing happens without one. Since
/// version 3 of the interface.
///
/// Threads: one at a time per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_restart_grammar(
    sampler: *mut brooklet_sampler,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on_mut(sampler, |own| {
            own.restart_grammar();
            Ok(())
        })
    }
}

/// `is_over` gets whether the sampler's grammar lets nothing follow any more (0 without one); the
/// result says whether something went wrong with it: the model holds none of the tokens that can
/// follow for possible, or finding them asks for too much work. Since version 3 of the interface.
///
/// Threads: one at a time per sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_sampler_check_grammar(
    sampler: *const brooklet_sampler,
    is_over: *mut u32,
) -> brooklet_result {
    // SAFETY: handles are NULL, which is refused, or of this library and freed by nobody meanwhile;
    // other pointers are NULL or as long as their lengths say: promised (top of the header).
    unsafe {
        on(sampler, |own| {
            let to = out(is_over, "is_over")?;
            own.check()?;
            to.write(u32::from(own.is_over()));
            Ok(())
        })
    }
}

#[cfg(feature = "grammar")]
fn grammar(text: &brooklet::Text, syntax: u32, source: &str) -> Result<brooklet::Grammar> {
    use brooklet::Syntax;

    let syntax = match syntax {
        BROOKLET_GRAMMAR_JSON_SCHEMA => Syntax::JsonSchema,
        BROOKLET_GRAMMAR_REGEX => Syntax::Regex,
        BROOKLET_GRAMMAR_LARK => Syntax::Lark,
        other => return Err(Failure::argument(format!("syntax {other}: expected 0 to 2"))),
    };
    Ok(text.grammar(syntax, source)?)
}

#[cfg(not(feature = "grammar"))]
fn grammar(_: &brooklet::Text, _: u32, _: &str) -> Result<brooklet::Grammar> {
    let words = "this library was built without grammars: build it with the feature \"grammar\"";
    Err(Failure::new(brooklet_result::BROOKLET_UNSUPPORTED, words))
}
