//! States as values, sessions, embeddings, callbacks that cancel.

use super::*;

#[test]
fn callbacks_cancel() {
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 1), to));
        let tokens: Vec<u32> = (1..40).collect();
        let mut left = 2;
        let user = (&raw mut left).cast();
        let code = brooklet_session_prefill(
            session,
            tokens.as_ptr(),
            tokens.len(),
            Some(stop_after),
            user,
        );
        assert_eq!((code, position(session)), (BROOKLET_CANCELLED, 16));
        let (mut row, mut n) = (null(), 0);
        assert_eq!(
            brooklet_session_logits(session, 0, &raw mut row, &raw mut n),
            BROOKLET_ARGUMENT
        );
        left = 1;
        let user = (&raw mut left).cast();
        assert_eq!(brooklet_model_verify(model, Some(stop_after), user), BROOKLET_CANCELLED);
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}

#[test]
fn embeddings_and_logits_come_together() {
    unsafe {
        let model = open_demo();
        let d_model = info(model).d_model as usize;
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 1), to));
        let tokens: Vec<u32> = (1..30).collect();
        ok(prefill(session, &tokens));
        let expected = logits(session);
        let mut rows = Vec::new();
        for pooling in [BROOKLET_POOL_LAST, BROOKLET_POOL_MEAN] {
            ok(brooklet_session_reset(session));
            let mut row = vec![f32::NAN; d_model];
            let (to, n) = (row.as_mut_ptr(), tokens.len());
            let small = brooklet_session_embed(
                session,
                tokens.as_ptr(),
                n,
                pooling,
                to,
                3,
                None,
                null_mut(),
            );
            assert_eq!((small, position(session)), (BROOKLET_BUFFER, 0));
            ok(brooklet_session_embed(
                session,
                tokens.as_ptr(),
                n,
                pooling,
                to,
                d_model,
                None,
                null_mut(),
            ));
            assert!(row.iter().all(|x| x.is_finite()) && logits(session) == expected);
            rows.push(row);
        }
        assert_ne!(rows[0], rows[1]);
        let to = rows[0].as_mut_ptr();
        let bad =
            brooklet_session_embed(session, tokens.as_ptr(), 1, 2, to, d_model, None, null_mut());
        assert_eq!(bad, BROOKLET_ARGUMENT);
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}

#[test]
fn a_session_goes_back() {
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 1), to));
        let reach = || get(|to| brooklet_session_rollback_reach(session, to));
        let bytes = |n| get(|to| brooklet_session_rollback_bytes(session, n, to));
        assert_eq!(bytes(0), 0);
        assert!(bytes(64) > 10 * info(model).state_bytes && bytes(usize::MAX) == u64::MAX);
        assert_eq!(brooklet_session_rollback(session, 1), BROOKLET_ARGUMENT);
        ok(brooklet_session_keep_rollback(session, 12));
        ok(prefill(session, &[5, 6, 7]));
        let expected = logits(session);
        for token in 8..18 {
            ok(brooklet_session_step(session, token));
        }
        assert_eq!((reach(), position(session)), (12, 13));
        ok(brooklet_session_rollback(session, 10));
        assert_eq!((reach(), position(session)), (3, 3));
        assert_eq!(logits(session), expected);
        assert_eq!(brooklet_session_rollback(session, 4), BROOKLET_ARGUMENT);
        assert_eq!((position(session), logits(session)), (3, expected));
        ok(brooklet_session_rollback(session, 3));
        let (mut row, mut n) = (null(), 0);
        let none = brooklet_session_logits(session, 0, &raw mut row, &raw mut n);
        assert_eq!((none, position(session)), (BROOKLET_ARGUMENT, 0));
        assert_eq!(brooklet_session_rollback_reach(session, null_mut()), BROOKLET_NULL);
        assert_eq!(brooklet_session_rollback(null_mut(), 1), BROOKLET_NULL);
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}

#[test]
fn states_are_values() {
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 4), to));
        ok(prefill(session, &[5, 6, 7]));
        let fork = made(|to| brooklet_session_get_state(session, to));
        ok(brooklet_session_step(session, 8));
        let expected = logits(session);
        assert_eq!(get(|to| brooklet_state_position(fork, to)), 3);
        let spare = made(|to| brooklet_state_clone(fork, to));
        ok(brooklet_session_set_state(session, fork));
        ok(brooklet_session_step(session, 8));
        assert_eq!(logits(session), expected);
        ok(brooklet_session_swap_state(session, spare));
        assert_eq!((position(session), get(|to| brooklet_state_position(spare, to))), (3, 4));
        ok(brooklet_session_step(session, 8));
        assert_eq!(logits(session), expected);
        // Two runs in one pass; a state cannot be in both.
        let empty = made(|to| brooklet_state_new(model, to));
        let tokens = [5, 6, 7, 8];
        let run = |state, tokens: &[u32], want| brooklet_run {
            state,
            tokens: tokens.as_ptr(),
            n: tokens.len(),
            want,
            reserved: 0,
        };
        let runs = [
            run(fork, &tokens[3..], BROOKLET_WANT_LAST),
            run(empty, &tokens[..3], BROOKLET_WANT_ALL),
        ];
        ok(brooklet_session_forward(session, runs.as_ptr(), 2));
        assert_eq!(logits(session), expected);
        let (mut row, mut n) = (null(), 0);
        ok(brooklet_session_logits(session, 3, &raw mut row, &raw mut n));
        assert_eq!(
            brooklet_session_logits(session, 4, &raw mut row, &raw mut n),
            BROOKLET_ARGUMENT
        );
        let twice = [
            run(fork, &tokens[..1], BROOKLET_WANT_NONE),
            run(fork, &tokens[..1], BROOKLET_WANT_NONE),
        ];
        assert_eq!(brooklet_session_forward(session, twice.as_ptr(), 2), BROOKLET_BUSY);
        let many = run(fork, &[1; 9], BROOKLET_WANT_NONE);
        assert_eq!(brooklet_session_forward(session, &raw const many, 1), BROOKLET_ARGUMENT);
        let odd = run(fork, &tokens, 3);
        assert_eq!(brooklet_session_forward(session, &raw const odd, 1), BROOKLET_ARGUMENT);
        assert_eq!(
            get(|to| brooklet_state_position(fork, to)),
            4,
            "a refused pass changes nothing"
        );

        // Set, read again, reset.
        let mut values = vec![0.1; slot(model, 1).length as usize];
        let n = values.len();
        ok(brooklet_state_set(empty, 1, values.as_ptr(), n));
        assert_eq!(brooklet_state_set(empty, 1, values.as_ptr(), n - 1), BROOKLET_ARGUMENT);
        assert!(
            last_message().contains(&format!("has {n} values, found {}", n - 1)),
            "{}",
            last_message()
        );
        assert_eq!(state_values(empty, 1), values);
        let n_slot = info(model).n_slot as usize;
        assert_eq!(brooklet_state_set(empty, n_slot, values.as_ptr(), n), BROOKLET_ARGUMENT);
        let mut found = 0;
        let refused = brooklet_state_get(empty, n_slot, values.as_mut_ptr(), n, &raw mut found);
        assert_eq!((refused, found), (BROOKLET_ARGUMENT, 0));
        assert!(last_message().contains(&format!("the state has {n_slot}")), "{}", last_message());
        let small = brooklet_state_get(empty, 1, null_mut(), 0, &raw mut found);
        assert_eq!((small, found), (BROOKLET_BUFFER, n));
        ok(brooklet_state_reset(empty));
        assert_eq!(state_values(empty, 1), vec![0.0; n]);
        assert_eq!(get(|to| brooklet_state_position(empty, to)), 0);

        let other = c_path(&root().join("engine/capi/tests/fixtures/tiny-mamba1.brk"));
        let other = made(|to| brooklet_model_open(other.as_ptr(), null(), to));
        let foreign = made(|to| brooklet_state_new(other, to));
        assert_eq!(brooklet_session_set_state(session, foreign), BROOKLET_FOREIGN);
        assert_eq!(brooklet_session_swap_state(session, foreign), BROOKLET_FOREIGN);
        let run = run(foreign, &tokens[..1], BROOKLET_WANT_NONE);
        assert_eq!(brooklet_session_forward(session, &raw const run, 1), BROOKLET_FOREIGN);
        for state in [fork, spare, empty, foreign] {
            brooklet_state_free(state);
        }
        brooklet_model_free(model);
        brooklet_model_free(other);
        brooklet_session_free(session);
    }
}

/// Piece `index` of a model's states.
fn slot(model: *const brooklet_model, index: usize) -> brooklet_slot {
    let (mut slot, mut name, mut n) = (unsafe { std::mem::zeroed() }, [0; 64], 0);
    let size = size_of::<brooklet_slot>();
    ok(unsafe {
        brooklet_model_slot(model, index, &raw mut slot, size, name.as_mut_ptr(), 64, &raw mut n)
    });
    slot
}

fn state_values(state: *const brooklet_state, index: usize) -> Vec<f32> {
    let mut n = 0;
    unsafe {
        assert_eq!(brooklet_state_get(state, index, null_mut(), 0, &raw mut n), BROOKLET_BUFFER);
        let mut values = vec![f32::NAN; n];
        ok(brooklet_state_get(state, index, values.as_mut_ptr(), n, &raw mut n));
        values
    }
}

#[test]
fn states_of_half_the_size() {
    unsafe {
        let path = c_path(&demo());
        let mut options = half_states();
        let half = made(|to| brooklet_model_open(path.as_ptr(), &raw const *options, to));
        let full = open_demo();
        let formats = [0, 1, 2].map(|index| text(slot(half, index).dtype.as_ptr()));
        assert_eq!(formats, ["f32", "f16", "f32"]);
        assert!(info(half).state_bytes < info(full).state_bytes * 6 / 10);

        // Rounded as it is set: to nearest, at most the largest f16.
        let state = made(|to| brooklet_state_new(half, to));
        let mut values = vec![0.1; slot(half, 1).length as usize];
        values[0] = 1e9;
        ok(brooklet_state_set(state, 1, values.as_ptr(), values.len()));
        let found = state_values(state, 1);
        assert_eq!(found[..2], [65504.0, 0.099_975_586]);

        // States in memory belong to the format, files to the model.
        let session = made(|to| brooklet_session_new(full, &session_options(1, 8, 1), to));
        assert_eq!(brooklet_session_set_state(session, state), BROOKLET_FOREIGN);
        assert!(last_message().contains("kept as f16"), "{}", last_message());
        let mut n = 0;
        assert_eq!(
            brooklet_state_to_bytes(state, null(), null_mut(), 0, &raw mut n),
            BROOKLET_BUFFER
        );
        let mut bytes = vec![0_u8; n];
        ok(brooklet_state_to_bytes(state, null(), bytes.as_mut_ptr().cast(), n, &raw mut n));
        let loaded = made(|to| brooklet_state_from_bytes(full, bytes.as_ptr().cast(), n, to));
        assert_eq!(state_values(loaded, 1), found);
        ok(brooklet_session_set_state(session, loaded));
        brooklet_state_free(loaded);
        let back = made(|to| brooklet_state_from_bytes(half, bytes.as_ptr().cast(), n, to));
        assert_eq!(state_values(back, 1), found);

        options.state = c"int8".as_ptr();
        let mut none = null_mut();
        assert_eq!(
            brooklet_model_open(path.as_ptr(), &raw const *options, &raw mut none),
            BROOKLET_ARGUMENT
        );
        assert!(last_message().contains("no keys and values"), "{}", last_message());
        options.state = c"bf16".as_ptr();
        assert_eq!(
            brooklet_model_open(path.as_ptr(), &raw const *options, &raw mut none),
            BROOKLET_ARGUMENT
        );
        assert!(last_message().contains("expected one of f32, f16, int8"), "{}", last_message());
        brooklet_state_free(back);
        brooklet_state_free(state);
        brooklet_session_free(session);
        brooklet_model_free(half);
        brooklet_model_free(full);
    }
}

#[test]
fn horizons_are_checked_and_kept() {
    unsafe {
        let model = open_demo();
        assert_eq!(info(model).n_trained, 0, "its file does not say it");
        let tokens: Vec<u32> = (0..200).map(|i| i * 7 % 250 + 1).collect();
        let read = |retention: f32, renewal: u64, tokens: &[u32]| {
            let session = made(|to| brooklet_session_new(model, &session_options(1, 16, 1), to));
            ok(brooklet_session_keep_within(session, retention, renewal));
            ok(prefill(session, tokens));
            let found = (logits(session), position(session));
            brooklet_session_free(session);
            found
        };
        let plain = read(1.0, 0, &tokens);
        assert_ne!(read(0.999, 0, &tokens), plain);
        assert_eq!(read(1.0, 128, &tokens), read(1.0, 0, &tokens[128..]));
        let session = made(|to| brooklet_session_new(model, &session_options(1, 16, 1), to));
        for (retention, renewal) in [(0.0, 0), (1.5, 0), (f32::NAN, 0), (1.0, 100), (1.0, u64::MAX)]
        {
            let found = brooklet_session_keep_within(session, retention, renewal);
            assert_eq!(found, BROOKLET_ARGUMENT, "{retention} {renewal}");
        }
        assert_eq!(brooklet_session_keep_within(null_mut(), 0.9, 0), BROOKLET_NULL);
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}
