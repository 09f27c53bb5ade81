//! Tokens and text, samplers, and the loop that writes.

use super::*;

#[test]
fn text_to_tokens_and_back() {
    unsafe {
        let model = open_demo();
        let tokenizer = tokenizer_of(model);
        let (phrase, mut n) = ("Once upon a time, “naïve” 😀", 0);
        let ids = encode(tokenizer, phrase);
        // Too small a buffer: only the length is written.
        let mut room = [77; 2];
        let (bytes, len) = (phrase.as_ptr().cast(), phrase.len());
        let code =
            brooklet_tokenizer_encode(tokenizer, bytes, len, room.as_mut_ptr(), 2, &raw mut n);
        assert_eq!((code, n, room), (BROOKLET_BUFFER, ids.len(), [77; 2]));
        let code = brooklet_tokenizer_encode(tokenizer, bytes, len, null_mut(), 0, &raw mut n);
        assert_eq!((code, n), (BROOKLET_BUFFER, ids.len()));
        assert_eq!(
            brooklet_tokenizer_encode(tokenizer, bytes, len, null_mut(), 99, &raw mut n),
            BROOKLET_NULL
        );
        ok(brooklet_tokenizer_encode(tokenizer, null(), 0, null_mut(), 0, &raw mut n));
        assert_eq!(n, 0);
        let mut back = vec![0_u8; 200];
        let to = back.as_mut_ptr().cast();
        ok(brooklet_tokenizer_decode(tokenizer, ids.as_ptr(), ids.len(), to, 200, &raw mut n));
        assert_eq!(&back[..n], phrase.as_bytes());

        let decoder = made(|to| brooklet_decoder_new(tokenizer, 0, null(), 0, to));
        let mut streamed = String::new();
        let (mut piece, mut stop) = (null(), 9);
        for &id in &ids {
            ok(brooklet_decoder_push(decoder, id, &raw mut piece, &raw mut n, &raw mut stop));
            assert_eq!((text(piece).len(), stop), (n, -1));
            streamed.push_str(&text(piece));
        }
        ok(brooklet_decoder_finish(decoder, &raw mut piece, &raw mut n));
        assert_eq!(streamed + &text(piece), phrase);
        brooklet_decoder_free(decoder);

        let stops = [c"zzz".as_ptr(), c"upon".as_ptr()];
        let decoder = made(|to| brooklet_decoder_new(tokenizer, 0, stops.as_ptr(), 2, to));
        let mut streamed = String::new();
        for &id in &ids {
            ok(brooklet_decoder_push(decoder, id, &raw mut piece, &raw mut n, &raw mut stop));
            streamed.push_str(&text(piece));
        }
        assert_eq!((streamed.as_str(), stop), ("Once ", 1));
        // The decoder outlives what it came from.
        brooklet_tokenizer_free(tokenizer);
        brooklet_model_free(model);
        ok(brooklet_decoder_push(decoder, ids[0], &raw mut piece, &raw mut n, null_mut()));
        brooklet_decoder_free(decoder);

        let bytes = made(|to| brooklet_tokenizer_new(c"bytes".as_ptr(), null(), 0, to));
        assert_eq!(encode(bytes, "Hé"), [72, 0xc3, 0xa9]);
        assert_eq!(get(|to| brooklet_tokenizer_n_vocab(bytes, to)), 256);
        assert_eq!(get(|to| brooklet_tokenizer_find(bytes, c"A".as_ptr(), to)), 65);
        assert_eq!(get(|to| brooklet_tokenizer_find(bytes, c"AB".as_ptr(), to)), BROOKLET_NO_TOKEN);
        assert_eq!(get(|to| brooklet_tokenizer_begin(bytes, to)), BROOKLET_NO_TOKEN);
        let mut place = null();
        ok(brooklet_tokenizer_token_bytes(bytes, 66, &raw mut place, &raw mut n));
        assert_eq!((*place.cast::<u8>(), n), (66, 1));
        assert_eq!(
            brooklet_tokenizer_token_bytes(bytes, 256, &raw mut place, &raw mut n),
            BROOKLET_ARGUMENT
        );
        let mut message = [1 as c_char; 12];
        let whole = brooklet_tokenizer_message(bytes, message.as_mut_ptr(), message.len());
        assert_eq!(text(message.as_ptr()), last_message()[..11]);
        assert_eq!(whole, last_message().len());
        brooklet_tokenizer_free(bytes);
        let mut none = null_mut();
        let refused = brooklet_tokenizer_new(c"klingon".as_ptr(), null(), 0, &raw mut none);
        assert_eq!((refused, none), (BROOKLET_TOKENIZER, null_mut()));
    }
}

#[test]
fn samplers_go_on_where_they_were() {
    unsafe {
        let mut options = sampler_options(0.9, 7);
        options.frequency_penalty = 0.5;
        let bias = [brooklet_logit_bias { token: 2, bias: f32::NEG_INFINITY }];
        (options.logit_bias, options.n_logit_bias) = (bias.as_ptr(), 1);
        let sampler = made(|to| brooklet_sampler_new(&raw const options, 6, to));
        let row = [1.0_f32, 2.0, 9.0, f32::NAN, 0.5, 1.5];
        let draw = |sampler| {
            let token = get(|to| brooklet_sampler_sample(sampler, row.as_ptr(), row.len(), to));
            ok(brooklet_sampler_accept(sampler, token));
            token
        };
        let first: Vec<u32> = (0..20).map(|_| draw(sampler)).collect();
        assert!(first.iter().all(|&token| token != 2 && token != 3 && token < 6), "{first:?}");
        let mut n = 0;
        assert_eq!(brooklet_sampler_save(sampler, null_mut(), 0, &raw mut n), BROOKLET_BUFFER);
        let mut saved = vec![0_u8; n];
        ok(brooklet_sampler_save(sampler, saved.as_mut_ptr().cast(), n, &raw mut n));
        let clone = made(|to| brooklet_sampler_clone(sampler, to));
        let expected: Vec<u32> = (0..20).map(|_| draw(sampler)).collect();
        assert_eq!((0..20).map(|_| draw(clone)).collect::<Vec<_>>(), expected);
        ok(brooklet_sampler_restore(sampler, saved.as_ptr().cast(), n));
        assert_eq!((0..20).map(|_| draw(sampler)).collect::<Vec<_>>(), expected);
        assert_eq!(brooklet_sampler_restore(sampler, saved.as_ptr().cast(), n - 1), BROOKLET_FILE);
        ok(brooklet_sampler_reset(sampler));
        assert_eq!((0..20).map(|_| draw(sampler)).collect::<Vec<_>>(), first);
        assert_eq!(get(|to| brooklet_sampler_seed(sampler, to)), 7);
        options.top_p = 1.5;
        let mut none = null_mut();
        assert_eq!(brooklet_sampler_new(&raw const options, 6, &raw mut none), BROOKLET_ARGUMENT);
        assert!(last_message().contains("top_p"), "{}", last_message());
        assert_eq!(brooklet_sampler_new(null(), usize::MAX, &raw mut none), BROOKLET_ARGUMENT);
        brooklet_sampler_free(sampler);
        brooklet_sampler_free(clone);
    }
}

/// The text that a callback keeps, and when it stops.
#[derive(Default)]
struct Written {
    text: String,
    tokens: Vec<u32>,
    most: usize,
    session: *mut brooklet_session,
}

unsafe extern "C" fn keep(
    piece: *const c_char,
    length: usize,
    token: u32,
    user: *mut c_void,
) -> i32 {
    let own = unsafe { &mut *user.cast::<Written>() };
    assert!(own.most > 0, "a call after the wish to stop");
    let piece = text(piece);
    assert_eq!(piece.len(), length);
    own.text.push_str(&piece);
    if token != BROOKLET_NO_TOKEN {
        own.tokens.push(token);
    }
    // A call from within is refused, and changes nothing.
    assert_eq!(unsafe { brooklet_session_step(own.session, 1) }, BROOKLET_BUSY);
    own.most -= 1;
    i32::from(own.most == 0)
}

#[test]
#[cfg_attr(not(feature = "huggingface"), ignore = "needs the demo model's own tokenizer")]
fn text_is_written() {
    unsafe {
        let model = open_demo();
        let tokenizer = tokenizer_of(model);
        let session = made(|to| brooklet_session_new(model, &session_options(1, 32, 1), to));
        let sampler = made(|to| {
            brooklet_sampler_new(&sampler_options(0.0, 0), info(model).n_vocab as usize, to)
        });
        let mut options = std::mem::zeroed::<brooklet_generate_options>();
        ok(brooklet_generate_options_init(
            &raw mut options,
            size_of::<brooklet_generate_options>(),
        ));
        options.max_tokens = 12;
        let prompt = encode(tokenizer, "The captain said");
        let size = size_of::<brooklet_generated>();
        let write = |options: &brooklet_generate_options, most| {
            ok(brooklet_session_reset(session));
            ok(prefill(session, &prompt));
            let mut written = Written { most, session, ..Written::default() };
            let mut ended = std::mem::zeroed::<brooklet_generated>();
            let user = (&raw mut written).cast();
            ok(brooklet_session_generate(
                session,
                sampler,
                tokenizer,
                options,
                Some(keep),
                user,
                &raw mut ended,
                size,
            ));
            (written, ended)
        };
        let (all, ended) = write(&options, usize::MAX);
        assert_eq!(
            (ended.tokens, ended.reason, ended.pending),
            (12, BROOKLET_END_LENGTH, all.tokens[11])
        );
        let (some, ended) = write(&options, 3);
        assert_eq!((some.tokens.len(), ended.reason), (3, BROOKLET_END_CANCELLED));
        let stop = CString::new(&all.text[4..9]).expect("no zero");
        let stops = [stop.as_ptr()];
        (options.stops, options.n_stop) = (stops.as_ptr(), 1);
        let (before, ended) = write(&options, usize::MAX);
        assert_eq!(ended.reason, BROOKLET_END_STOP);
        assert!(all.text.starts_with(&before.text) && before.text.len() <= 4, "{:?}", before.text);

        // A session without a prompt has nothing to start from.
        ok(brooklet_session_reset(session));
        let code = brooklet_session_generate(
            session,
            sampler,
            tokenizer,
            null(),
            Some(keep),
            null_mut(),
            null_mut(),
            0,
        );
        assert_eq!(code, BROOKLET_ARGUMENT);
        let code = brooklet_session_generate(
            session,
            sampler,
            tokenizer,
            null(),
            None,
            null_mut(),
            null_mut(),
            0,
        );
        assert_eq!(code, BROOKLET_NULL);
        brooklet_session_free(session);
        brooklet_sampler_free(sampler);
        brooklet_tokenizer_free(tokenizer);
        brooklet_model_free(model);
    }
}

#[test]
fn log_probabilities_and_the_likeliest() {
    unsafe {
        let logits = [0.0_f32, 2.0, f32::NAN, 2.0, -1.0];
        let at = logits.as_ptr();
        let sum = 1.0 + 2.0 * 2.0_f32.exp() + (-1.0_f32).exp();
        let two = get(|to| brooklet_log_softmax(at, 5, 1, to));
        assert!((two - (2.0 - sum.ln())).abs() < 1e-6);
        assert_eq!(get(|to| brooklet_log_softmax(at, 5, 2, to)), f32::NEG_INFINITY);
        let mut none = 7.0;
        assert_eq!(brooklet_log_softmax(at, 5, 5, &raw mut none), BROOKLET_ARGUMENT);
        assert_eq!(brooklet_log_softmax(at, 0, 0, &raw mut none), BROOKLET_ARGUMENT);
        assert_eq!((brooklet_log_softmax(null(), 5, 0, &raw mut none), none), (BROOKLET_NULL, 7.0));

        let (mut tokens, mut probs, mut n) = ([9; 9], [9.0; 9], 9);
        let (ids, values) = (tokens.as_mut_ptr(), probs.as_mut_ptr());
        ok(brooklet_top_k(at, 5, 3, ids, values, &raw mut n));
        assert_eq!((n, &tokens[..4]), (3, &[1, 3, 0, 9][..]));
        assert_eq!((probs[0], probs[1], probs[3]), (two, two, 9.0));
        ok(brooklet_top_k(at, 5, 9, ids, null_mut(), &raw mut n));
        assert_eq!((n, &tokens[..5]), (4, &[1, 3, 0, 4, 9][..]));
        assert_eq!(brooklet_top_k(at, 5, 2, null_mut(), values, &raw mut n), BROOKLET_NULL);
    }
}

#[test]
fn steps_and_new_options_of_the_sampler() {
    unsafe {
        let mut options = sampler_options(1.0, 3);
        let biases = [brooklet_logit_bias { token: 0, bias: 100.0 }];
        (options.logit_bias, options.n_logit_bias, options.top_k) = (biases.as_ptr(), 1, 1);
        let logits = [0.0_f32, 1.0, 2.0, 3.0];
        let first = |options: &brooklet_sampler_options| {
            let sampler = made(|to| brooklet_sampler_new(options, 4, to));
            let token = get(|to| brooklet_sampler_sample(sampler, logits.as_ptr(), 4, to));
            brooklet_sampler_free(sampler);
            token
        };
        assert_eq!(first(&options), 0);
        // A step that is not named is off.
        options.steps = c"top-k;temperature".as_ptr();
        assert_eq!(first(&options), 3);
        let refused = |options: &brooklet_sampler_options, words: &str| {
            let mut none = null_mut();
            assert_eq!(brooklet_sampler_new(options, 4, &raw mut none), BROOKLET_ARGUMENT);
            assert!(last_message().contains(words), "{}", last_message());
        };
        options.temperature_last = 1;
        refused(&options, "expected one of them");
        options.temperature_last = 0;
        options.steps = c"top-q".as_ptr();
        refused(&options, "top-q");
        options.steps = null();
        let breakers = [1_u32, 9];
        (options.dry_breakers, options.n_dry_breaker) = (breakers.as_ptr(), 2);
        refused(&options, "token id 9");
        options.n_dry_breaker = 1;
        options.typical_p = 1.5;
        refused(&options, "typical_p");
        options.typical_p = 0.5;
        options.reserved = 1;
        refused(&options, "reserved");
    }
}

#[test]
#[cfg(feature = "grammar")]
fn texts_by_a_grammar() {
    unsafe {
        let bytes = made(|to| brooklet_tokenizer_new(c"bytes".as_ptr(), null(), 0, to));
        let options = sampler_options(1.0, 3);
        let sampler = made(|to| brooklet_sampler_new(&raw const options, 256, to));
        let regex = BROOKLET_GRAMMAR_REGEX;
        ok(brooklet_sampler_set_grammar(sampler, bytes, regex, c"[ab]{4}".as_ptr()));
        let logits = [0.0_f32; 256];
        let word = || {
            let mut word = Vec::new();
            while get(|to| brooklet_sampler_check_grammar(sampler, to)) == 0 {
                let token = get(|to| brooklet_sampler_sample(sampler, logits.as_ptr(), 256, to));
                ok(brooklet_sampler_accept(sampler, token));
                word.push(token as u8);
            }
            word
        };
        let first = word();
        assert!(first.len() == 4 && first.iter().all(|byte| b"ab".contains(byte)), "{first:?}");
        assert!(word().is_empty());
        ok(brooklet_sampler_restart_grammar(sampler));
        assert_eq!(word().len(), 4);
        let refused = brooklet_sampler_set_grammar(sampler, bytes, regex, c"(".as_ptr());
        assert_eq!(refused, BROOKLET_ARGUMENT);
        assert!(last_message().starts_with("grammar: "), "{}", last_message());
        assert_eq!(
            brooklet_sampler_set_grammar(sampler, bytes, 9, c"a".as_ptr()),
            BROOKLET_ARGUMENT
        );
        assert_eq!(
            brooklet_sampler_set_grammar(sampler, null(), regex, c"a".as_ptr()),
            BROOKLET_NULL
        );
        // Without one, nothing is over.
        ok(brooklet_sampler_set_grammar(sampler, bytes, regex, null()));
        assert_eq!(get(|to| brooklet_sampler_check_grammar(sampler, to)), 0);
        brooklet_sampler_free(sampler);
        brooklet_tokenizer_free(bytes);
    }
}
