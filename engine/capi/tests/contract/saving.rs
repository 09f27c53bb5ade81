//! States and snapshots as files and bytes: saved, loaded, resumed; damaged and foreign ones
//! refused.

use super::*;

/// The tiny model of another architecture.
fn other_model() -> *mut brooklet_model {
    let path = c_path(&root().join("engine/capi/tests/fixtures/tiny-mamba1.brk"));
    made(|to| unsafe { brooklet_model_open(path.as_ptr(), null(), to) })
}

#[test]
fn a_snapshot_goes_on_exactly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = c_path(&folder.path().join("here.brks"));
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 1), to));
        let n_vocab = info(model).n_vocab as usize;
        let sampler = made(|to| brooklet_sampler_new(&sampler_options(0.9, 3), n_vocab, to));
        let draw = |session, sampler| {
            let row = logits(session);
            let token = get(|to| brooklet_sampler_sample(sampler, row.as_ptr(), row.len(), to));
            ok(brooklet_session_step(session, token));
            token
        };
        ok(prefill(session, &[1, 2, 3]));
        for _ in 0..5 {
            draw(session, sampler);
        }
        // Looking at the logits does not lose them.
        logits(session);
        let snapshot = made(|to| brooklet_snapshot_of_session(session, sampler, to));
        ok(brooklet_snapshot_set_note(snapshot, c"mine".as_ptr()));
        ok(brooklet_snapshot_save(snapshot, path.as_ptr(), null()));
        let expected: Vec<u32> = (0..10).map(|_| draw(session, sampler)).collect();

        let fresh = made(|to| brooklet_session_new(model, &session_options(1, 4, 1), to));
        let again = made(|to| brooklet_sampler_new(&sampler_options(0.9, 99), n_vocab, to));
        let loaded = made(|to| brooklet_snapshot_load(model, path.as_ptr(), to));
        ok(brooklet_session_resume(fresh, loaded, again));
        assert_eq!((0..10).map(|_| draw(fresh, again)).collect::<Vec<_>>(), expected);
        let (mut note, mut n) = ([0_u8; 4], 0);
        ok(brooklet_snapshot_note(loaded, note.as_mut_ptr().cast(), 4, &raw mut n));
        assert_eq!((&note, n), (b"mine", 4));

        // With a token that the session has not read, which resuming reads.
        let unread = [7, expected[0]];
        assert_eq!(brooklet_snapshot_set_tail(loaded, unread.as_ptr(), 2, 3), BROOKLET_ARGUMENT);
        ok(brooklet_snapshot_set_tail(loaded, unread.as_ptr(), 2, 1));
        assert_eq!(
            brooklet_snapshot_to_bytes(loaded, null(), null_mut(), 0, &raw mut n),
            BROOKLET_BUFFER
        );
        let mut bytes = vec![0_u8; n];
        ok(brooklet_snapshot_to_bytes(loaded, null(), bytes.as_mut_ptr().cast(), n, &raw mut n));
        let pending = made(|to| brooklet_snapshot_from_bytes(model, bytes.as_ptr().cast(), n, to));
        let (mut tail, mut unread) = ([0; 2], 0);
        ok(brooklet_snapshot_tail(pending, tail.as_mut_ptr(), 2, &raw mut n, &raw mut unread));
        assert_eq!((tail, n, unread), ([7, expected[0]], 2, 1));
        ok(brooklet_session_resume(fresh, pending, null_mut()));
        assert_eq!(position(fresh), 9);
        assert_eq!(logits(fresh).len(), n_vocab);

        assert_eq!(
            brooklet_snapshot_save(loaded, path.as_ptr(), c"int4".as_ptr()),
            BROOKLET_ARGUMENT
        );
        assert_eq!(
            brooklet_snapshot_save(loaded, c"/nowhere/x.brks".as_ptr(), null()),
            BROOKLET_IO
        );
        let other = other_model();
        let mut none = null_mut();
        assert_eq!(brooklet_snapshot_load(other, path.as_ptr(), &raw mut none), BROOKLET_FOREIGN);
        assert_eq!(brooklet_snapshot_load(model, c"/nowhere".as_ptr(), &raw mut none), BROOKLET_IO);
        bytes[100] ^= 1;
        let damaged =
            brooklet_snapshot_from_bytes(model, bytes.as_ptr().cast(), bytes.len(), &raw mut none);
        assert_eq!((damaged, none), (BROOKLET_FILE, null_mut()));
        let foreign = made(|to| brooklet_session_new(other, &session_options(1, 4, 1), to));
        assert_eq!(brooklet_session_resume(foreign, pending, null_mut()), BROOKLET_FOREIGN);
        for snapshot in [snapshot, loaded, pending] {
            brooklet_snapshot_free(snapshot);
        }
        for session in [session, fresh, foreign] {
            brooklet_session_free(session);
        }
        brooklet_sampler_free(sampler);
        brooklet_sampler_free(again);
        brooklet_model_free(model);
        brooklet_model_free(other);
    }
}

#[test]
fn a_note_fits_or_is_refused_when_it_is_set() {
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 1), to));
        ok(prefill(session, &[1]));
        let snapshot = made(|to| brooklet_snapshot_of_session(session, null(), to));
        let note = |byte: u8, n: usize| CString::new(vec![byte; n]).expect("no zero");
        // Characters that JSON has to escape take six bytes.
        for (byte, most) in [(b'n', 3 << 20), (1, (3 << 20) / 6)] {
            ok(brooklet_snapshot_set_note(snapshot, note(byte, most).as_ptr()));
            let mut n = 0;
            let size = brooklet_snapshot_to_bytes(snapshot, null(), null_mut(), 0, &raw mut n);
            assert_eq!(size, BROOKLET_BUFFER, "it can be saved");
            let refused = brooklet_snapshot_set_note(snapshot, note(byte, most + 1).as_ptr());
            assert_eq!(refused, BROOKLET_ARGUMENT);
            assert!(last_message().contains("the note takes"), "{}", last_message());
            assert_eq!(
                brooklet_snapshot_note(snapshot, null_mut(), 0, &raw mut n),
                BROOKLET_BUFFER
            );
            assert_eq!(n, most, "the one before stays");
        }
        brooklet_snapshot_free(snapshot);
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}

#[test]
fn a_state_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = c_path(&folder.path().join("state.brks"));
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 1), to));
        ok(prefill(session, &[4, 5, 6]));
        let state = made(|to| brooklet_session_get_state(session, to));
        ok(brooklet_session_step(session, 7));
        let expected = logits(session);
        let mut sizes = Vec::new();
        for dtype in [null(), c"f16".as_ptr(), c"int8".as_ptr()] {
            ok(brooklet_state_save(state, path.as_ptr(), dtype));
            sizes.push(std::fs::metadata(folder.path().join("state.brks")).expect("a file").len());
            let loaded = made(|to| brooklet_state_load(model, path.as_ptr(), to));
            let mut n = 0;
            assert_eq!(
                brooklet_state_to_bytes(state, dtype, null_mut(), 0, &raw mut n),
                BROOKLET_BUFFER
            );
            let mut bytes = vec![0_u8; n];
            ok(brooklet_state_to_bytes(state, dtype, bytes.as_mut_ptr().cast(), n, &raw mut n));
            let same = made(|to| brooklet_state_from_bytes(model, bytes.as_ptr().cast(), n, to));
            let mut rows = Vec::new();
            for state in [loaded, same] {
                ok(brooklet_session_set_state(session, state));
                ok(brooklet_session_step(session, 7));
                rows.push(logits(session));
                brooklet_state_free(state);
            }
            assert_eq!(rows[0], rows[1]);
            assert_eq!(rows[0] == expected, dtype.is_null(), "only f32 is exact");
        }
        assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
        let mut none = null_mut();
        let import = brooklet_state_import(model, path.as_ptr(), &raw mut none);
        let expected = if cfg!(feature = "convert") { BROOKLET_FILE } else { BROOKLET_UNSUPPORTED };
        assert_eq!((import, none), (expected, null_mut()));
        brooklet_state_free(state);
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}
