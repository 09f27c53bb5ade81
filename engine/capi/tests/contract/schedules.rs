//! Schedulers: many texts at a time, each the one that it is alone.

use std::collections::BTreeMap;
use std::ffi::CStr;

use super::*;

/// What was told of texts, by their tickets: tokens, bytes, and how each ended.
#[derive(Default)]
struct Told {
    texts: BTreeMap<u64, (Vec<u32>, String, Option<u32>)>,
    /// The text to end with its next piece.
    stop: u64,
}

unsafe extern "C" fn tell(
    ticket: u64,
    text: *const c_char,
    length: usize,
    token: u32,
    ended: *const brooklet_generated,
    user: *mut c_void,
) -> i32 {
    let told = unsafe { &mut *user.cast::<Told>() };
    let text = unsafe { CStr::from_ptr(text) }.to_str().expect("UTF-8");
    assert_eq!(text.len(), length);
    let (tokens, all, end) = told.texts.entry(ticket).or_default();
    assert!(end.is_none(), "nothing follows the end");
    all.push_str(text);
    tokens.extend((token != BROOKLET_NO_TOKEN).then_some(token));
    *end = unsafe { ended.as_ref() }.map(|ended| ended.reason);
    i32::from(told.stop == ticket)
}

unsafe extern "C" fn collect(_: *const c_char, _: usize, token: u32, user: *mut c_void) -> i32 {
    unsafe { &mut *user.cast::<Vec<u32>>() }.extend((token != BROOKLET_NO_TOKEN).then_some(token));
    0
}

unsafe fn generate_options(max_tokens: usize) -> brooklet_generate_options {
    unsafe {
        let mut options: brooklet_generate_options = std::mem::zeroed();
        let size = size_of::<brooklet_generate_options>();
        ok(brooklet_generate_options_init(&raw mut options, size));
        options.max_tokens = max_tokens;
        options
    }
}

unsafe fn scheduler_options(parallel: u32) -> brooklet_scheduler_options {
    unsafe {
        let mut options: brooklet_scheduler_options = std::mem::zeroed();
        let size = size_of::<brooklet_scheduler_options>();
        ok(brooklet_scheduler_options_init(&raw mut options, size));
        options.parallel = parallel;
        options
    }
}

#[test]
#[cfg_attr(not(feature = "huggingface"), ignore = "needs the demo model's own tokenizer")]
fn texts_are_those_of_sessions() {
    unsafe {
        let model = open_demo();
        let tokenizer = tokenizer_of(model);
        let n_vocab = info(model).n_vocab as usize;
        let prompts = ["Once upon a time", "Once upon a hill", "The sea", "A", "Once upon a time"];
        let prompts = prompts.map(|text| encode(tokenizer, text));
        let sampling = sampler_options(0.8, 5);
        let options = generate_options(20);
        let session = made(|to| brooklet_session_new(model, &session_options(1, 16, 1), to));
        let expected = prompts.each_ref().map(|prompt| {
            let sampler = made(|to| brooklet_sampler_new(&raw const sampling, n_vocab, to));
            ok(brooklet_session_reset(session));
            ok(prefill(session, prompt));
            let mut tokens: Vec<u32> = Vec::new();
            let user = (&raw mut tokens).cast();
            let (to, options) = (null_mut(), &raw const options);
            let emit = Some(collect as unsafe extern "C" fn(_, _, _, _) -> _);
            ok(brooklet_session_generate(session, sampler, tokenizer, options, emit, user, to, 0));
            brooklet_sampler_free(sampler);
            tokens
        });
        for parallel in [1, 3, 8] {
            let options_of = scheduler_options(parallel);
            let scheduler = made(|to| {
                let (session, options) = (session_options(1, 16, 1), &raw const options_of);
                brooklet_scheduler_new(model, tokenizer, &session, options, to)
            });
            let sampler = made(|to| brooklet_sampler_new(&raw const sampling, n_vocab, to));
            for (i, prompt) in prompts.iter().enumerate() {
                let ticket = get(|to| {
                    let (tokens, n, options) = (prompt.as_ptr(), prompt.len(), &raw const options);
                    brooklet_scheduler_submit(scheduler, tokens, n, sampler, options, to)
                });
                assert_eq!(ticket, i as u64 + 1);
            }
            // The sampler was copied, and the second text is not wanted any more.
            brooklet_sampler_free(sampler);
            assert_eq!(get(|to| brooklet_scheduler_cancel(scheduler, 2, to)), 1);
            assert_eq!(get(|to| brooklet_scheduler_cancel(scheduler, 2, to)), 0);
            assert_eq!(get(|to| brooklet_scheduler_len(scheduler, to)), 4);
            let mut told = Told { stop: 3, ..Told::default() };
            while get(|to| brooklet_scheduler_len(scheduler, to)) > 0 {
                let user = (&raw mut told).cast();
                ok(brooklet_scheduler_step(scheduler, Some(tell), user));
            }
            assert_eq!(told.texts.keys().copied().collect::<Vec<_>>(), [1, 3, 4, 5]);
            for (ticket, (tokens, text, end)) in &told.texts {
                let expected = &expected[*ticket as usize - 1];
                if *ticket == 3 {
                    assert_eq!((&tokens[..], *end), (&expected[..1], Some(BROOKLET_END_CANCELLED)));
                } else {
                    assert_eq!(tokens, expected, "{parallel}: {ticket}");
                    assert!(!text.is_empty() && end.is_some());
                }
            }
            brooklet_scheduler_free(scheduler);
        }
        brooklet_session_free(session);
        brooklet_tokenizer_free(tokenizer);
        brooklet_model_free(model);
    }
}

#[test]
#[cfg_attr(not(feature = "huggingface"), ignore = "needs the demo model's own tokenizer")]
fn mistakes_are_told_in_words() {
    unsafe {
        let model = open_demo();
        let tokenizer = tokenizer_of(model);
        let n_vocab = info(model).n_vocab as usize;
        let sampling = sampler_options(0.0, 1);
        let sampler = made(|to| brooklet_sampler_new(&raw const sampling, n_vocab, to));
        let mut none: *mut brooklet_scheduler = null_mut();
        for parallel in [0, 5000] {
            let options = scheduler_options(parallel);
            let options = &raw const options;
            let found = brooklet_scheduler_new(model, tokenizer, null(), options, &raw mut none);
            assert_eq!(found, BROOKLET_ARGUMENT);
            assert!(last_message().contains("parallel"), "{}", last_message());
        }
        let new = |to| brooklet_scheduler_new(model, tokenizer, null(), null(), to);
        let scheduler = made(new);
        let mut ticket = 0;
        for tokens in [&[][..], &[u32::MAX]] {
            let (from, n, to) = (tokens.as_ptr(), tokens.len(), &raw mut ticket);
            let found = brooklet_scheduler_submit(scheduler, from, n, sampler, null(), to);
            assert_eq!(found, BROOKLET_ARGUMENT, "{}", last_message());
        }
        assert_eq!(brooklet_scheduler_step(scheduler, None, null_mut()), BROOKLET_NULL);
        let null_sampler = null();
        let submit = |sampler, to| {
            let token = 5;
            brooklet_scheduler_submit(scheduler, &raw const token, 1, sampler, null(), to)
        };
        assert_eq!(submit(null_sampler, &raw mut ticket), BROOKLET_NULL);
        assert_eq!(submit(sampler, null_mut()), BROOKLET_NULL);
        // The tokenizer and the model may go first.
        brooklet_tokenizer_free(tokenizer);
        brooklet_model_free(model);
        ok(submit(sampler, &raw mut ticket));
        let mut told = Told::default();
        ok(brooklet_scheduler_step(scheduler, Some(tell), (&raw mut told).cast()));
        assert_eq!(told.texts[&ticket].0.len(), 1);
        brooklet_sampler_free(sampler);
        brooklet_scheduler_free(scheduler);
    }
}
