//! Prefix caches, and scores of endings.

use super::*;

fn cache_options(bytes: u64, folder: *const c_char) -> brooklet_prefix_cache_options {
    unsafe {
        let mut options = std::mem::zeroed();
        let size = size_of::<brooklet_prefix_cache_options>();
        ok(brooklet_prefix_cache_options_init(&raw mut options, size));
        (options.bytes, options.folder, options.interval) = (bytes, folder, 8);
        options
    }
}

fn read(
    cache: *mut brooklet_prefix_cache,
    session: *mut brooklet_session,
    tokens: &[u32],
) -> (u64, u64, u64) {
    unsafe {
        let mut reading: brooklet_reading = std::mem::zeroed();
        let (n, size) = (tokens.len(), size_of::<brooklet_reading>());
        let (borders, to) = ([3], &raw mut reading);
        ok(brooklet_prefix_cache_prefill(
            cache,
            session,
            tokens.as_ptr(),
            n,
            borders.as_ptr(),
            1,
            None,
            null_mut(),
            to,
            size,
        ));
        (reading.reused, reading.replayed, reading.computed)
    }
}

#[test]
fn what_texts_begin_with_alike_is_read_once() {
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 1), to));
        let folder = tempfile::tempdir().expect("a folder");
        let path = c_path(&folder.path().join("states"));
        let options = cache_options(1 << 26, path.as_ptr());
        let cache = made(|to| brooklet_prefix_cache_new(model, &raw const options, to));
        let tokens: Vec<u32> = (1..31).collect();
        assert_eq!(read(cache, session, &tokens), (0, 0, 30));
        let expected = logits(session);
        assert_eq!(read(cache, session, &tokens), (30, 0, 0));
        assert_eq!((logits(session), position(session)), (expected.clone(), 30));
        let other: Vec<u32> = (1..20).chain([99, 98]).collect();
        assert_eq!(read(cache, session, &other), (16, 3, 2));
        assert_eq!(read(cache, session, &other[..5]), (3, 2, 0));
        assert!(get(|to| brooklet_prefix_cache_bytes(cache, to)) > info(model).state_bytes);
        // What was written behind a text.
        ok(brooklet_session_step(session, 7));
        let written = [&other[..5], &[7]].concat();
        ok(brooklet_prefix_cache_keep(cache, session, written.as_ptr(), 6));
        let wrong = brooklet_prefix_cache_keep(cache, session, written.as_ptr(), 5);
        assert_eq!(wrong, BROOKLET_ARGUMENT);
        assert!(last_message().contains("6 tokens"), "{}", last_message());
        assert_eq!(read(cache, session, &[&written[..], &[8]].concat()), (6, 0, 1));
        brooklet_prefix_cache_free(cache);
        // The next process.
        let cache = made(|to| brooklet_prefix_cache_new(model, &raw const options, to));
        assert_eq!(read(cache, session, &tokens), (30, 0, 0));
        assert_eq!(logits(session), expected);
        brooklet_prefix_cache_free(cache);
        brooklet_prefix_cache_free(null_mut());
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}

#[test]
fn what_a_cache_refuses() {
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 1), to));
        let cache = made(|to| brooklet_prefix_cache_new(model, null(), to));
        let ask = |tokens: &[u32], borders: &[usize], left: Option<i32>| {
            let mut left = left.unwrap_or(i32::MAX);
            brooklet_prefix_cache_prefill(
                cache,
                session,
                tokens.as_ptr(),
                tokens.len(),
                borders.as_ptr(),
                borders.len(),
                Some(stop_after),
                (&raw mut left).cast(),
                null_mut(),
                0,
            )
        };
        assert_eq!(ask(&[], &[], None), BROOKLET_ARGUMENT);
        assert_eq!(ask(&[u32::MAX], &[], None), BROOKLET_ARGUMENT);
        assert_eq!(ask(&[1, 2], &[2, 1], None), BROOKLET_ARGUMENT);
        ok(ask(&[1, 2], &[0, 1, 99], None));
        let tokens: Vec<u32> = (1..40).collect();
        assert_eq!(ask(&tokens, &[], Some(2)), BROOKLET_CANCELLED);
        let (mut row, mut n) = (null(), 0);
        let none = brooklet_session_logits(session, 0, &raw mut row, &raw mut n);
        assert_eq!(none, BROOKLET_ARGUMENT);
        let file = c_path(&root().join("Cargo.toml"));
        let options = cache_options(1, file.as_ptr());
        let mut other = null_mut();
        let refused = brooklet_prefix_cache_new(model, &raw const options, &raw mut other);
        assert_ne!(refused, BROOKLET_OK);
        assert!(other.is_null());
        brooklet_prefix_cache_free(cache);
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}

#[test]
fn endings_are_scored_and_the_session_stays() {
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 4), to));
        let (tokens, lengths) = ([9, 10, 11, 12, 9], [1, 0, 3, 1]);
        let mut log_probs = [f64::NAN; 4];
        let mut score = |left: &mut i32| {
            let (to, user) = (log_probs.as_mut_ptr(), (&raw mut *left).cast());
            let code = brooklet_session_score(
                session,
                tokens.as_ptr(),
                lengths.as_ptr(),
                4,
                to,
                Some(stop_after),
                user,
            );
            (code, log_probs)
        };
        assert_eq!(score(&mut i32::MAX.clone()).0, BROOKLET_ARGUMENT);
        ok(prefill(session, &[5, 6, 7]));
        let before = logits(session);
        assert_eq!(score(&mut 1).0, BROOKLET_CANCELLED);
        let (code, log_probs) = score(&mut i32::MAX.clone());
        ok(code);
        assert_eq!((logits(session), position(session)), (before.clone(), 3));
        let sum: f64 = before.iter().map(|l| f64::from(*l).exp()).sum();
        let expected = f64::from(before[9]) - sum.ln();
        assert!((log_probs[0] - expected).abs() < 1e-4, "{log_probs:?} {expected}");
        assert_eq!((log_probs[1], log_probs[3]), (0.0, log_probs[0]));
        assert!(log_probs[2] < 0.0);
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}
