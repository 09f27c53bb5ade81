//! Guesses: the same text, in fewer passes.

use super::*;

unsafe extern "C" fn collect(_: *const c_char, _: usize, token: u32, user: *mut c_void) -> i32 {
    unsafe { &mut *user.cast::<Vec<u32>>() }.push(token);
    0
}

#[test]
#[cfg_attr(not(feature = "huggingface"), ignore = "needs the demo model's own tokenizer")]
fn guesses_leave_the_text_as_it_is() {
    unsafe {
        let model = open_demo();
        let tokenizer = tokenizer_of(model);
        let session = made(|to| brooklet_session_new(model, &session_options(1, 16, 5), to));
        let prompt = encode(tokenizer, "Once upon a time, once upon a time, once upon");
        let write = |speculation: *mut brooklet_speculation| {
            let (greedy, n_vocab) = (sampler_options(0.0, 1), info(model).n_vocab as usize);
            let sampler = made(|to| brooklet_sampler_new(&raw const greedy, n_vocab, to));
            let mut options: brooklet_generate_options = std::mem::zeroed();
            let size = size_of::<brooklet_generate_options>();
            ok(brooklet_generate_options_init(&raw mut options, size));
            (options.max_tokens, options.speculation) = (40, speculation);
            ok(brooklet_session_reset(session));
            ok(prefill(session, &prompt));
            if !speculation.is_null() {
                ok(brooklet_speculation_begin(speculation, prompt.as_ptr(), prompt.len()));
            }
            let mut tokens: Vec<u32> = Vec::new();
            ok(brooklet_session_generate(
                session,
                sampler,
                tokenizer,
                &raw const options,
                Some(collect),
                (&raw mut tokens).cast(),
                null_mut(),
                0,
            ));
            brooklet_sampler_free(sampler);
            (tokens, position(session))
        };
        let plain = write(null_mut());
        let draft = open_demo();
        // Two that are checked in one pass.
        let both = made(|to| brooklet_speculation_lookup(2, to));
        let part = made(|to| brooklet_speculation_draft(draft, model, null(), 2, to));
        ok(brooklet_speculation_add(both, part));
        brooklet_speculation_free(part);
        assert_eq!(brooklet_speculation_add(both, both), BROOKLET_BUSY);
        assert_eq!(brooklet_speculation_add(both, null_mut()), BROOKLET_NULL);
        for speculation in [
            both,
            made(|to| brooklet_speculation_lookup(4, to)),
            made(|to| brooklet_speculation_draft(draft, model, null(), 4, to)),
        ] {
            assert_eq!(write(speculation), plain);
            let mut guessed: brooklet_guessed = std::mem::zeroed();
            let size = size_of::<brooklet_guessed>();
            ok(brooklet_speculation_guessed(speculation, &raw mut guessed, size));
            assert!(guessed.right <= guessed.guesses && guessed.passes <= guessed.tokens);
            assert!(guessed.tokens > 30);
            brooklet_speculation_free(speculation);
        }
        let mut none = null_mut();
        assert_eq!(brooklet_speculation_lookup(0, &raw mut none), BROOKLET_ARGUMENT);
        assert_eq!(brooklet_speculation_lookup(16, &raw mut none), BROOKLET_ARGUMENT);
        let refused = brooklet_speculation_draft(draft, null(), null(), 4, &raw mut none);
        assert_eq!(refused, BROOKLET_NULL);
        brooklet_speculation_free(null_mut());
        brooklet_model_free(draft);
        brooklet_session_free(session);
        brooklet_tokenizer_free(tokenizer);
        brooklet_model_free(model);
    }
}

#[test]
#[cfg_attr(not(feature = "huggingface"), ignore = "needs the demo model's own tokenizer")]
fn texts_are_packed_and_unpacked() {
    unsafe {
        let model = open_demo();
        let text = "Once upon a time there was a little girl who lived by the sea. ".repeat(6);
        let packed = made(|to| {
            brooklet_compress(model, null(), text.as_ptr(), text.len(), 0, None, null_mut(), to)
        });
        let bytes = |handle| {
            let (mut data, mut n) = (null(), 0);
            ok(brooklet_bytes_get(handle, &raw mut data, &raw mut n));
            std::slice::from_raw_parts(data, n).to_vec()
        };
        let code = bytes(packed);
        assert!(code.len() < text.len() / 3, "{} of {}", code.len(), text.len());
        let again = made(|to| {
            brooklet_decompress(model, null(), code.as_ptr(), code.len(), None, null_mut(), to)
        });
        assert_eq!(bytes(again), text.as_bytes());
        let (mut left, mut none) = (1, null_mut());
        let user = (&raw mut left).cast();
        let stop = Some(stop_after as unsafe extern "C" fn(u64, u64, *mut c_void) -> i32);
        let text = text.as_ptr();
        let code = brooklet_compress(model, null(), text, 300, 0, stop, user, &raw mut none);
        assert_eq!(code, BROOKLET_CANCELLED);
        let code = brooklet_decompress(model, null(), text, 9, None, null_mut(), &raw mut none);
        assert_ne!(code, BROOKLET_OK);
        assert!(none.is_null());
        brooklet_bytes_free(packed);
        brooklet_bytes_free(again);
        brooklet_bytes_free(null_mut());
        brooklet_model_free(model);
    }
}
