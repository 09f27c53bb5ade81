//! Promises at the border: NULL, options of other versions, messages, threads, log, features,
//! conversion.

use super::*;
#[cfg(feature = "convert")]
use brooklet_formats::convert::{ConvertOptions, convert as rust_convert};
#[cfg(feature = "convert")]
use brooklet_formats::{DType, brk::BrkFile};

#[test]
fn options_of_other_versions() {
    unsafe {
        let model = open_demo();
        let mut session = null_mut();
        #[repr(C)]
        struct Newer {
            old: brooklet_session_options,
            more: u64,
        }
        let mut newer = Newer { old: session_options(1, 8, 1), more: 5 };
        ok(brooklet_session_options_init((&raw mut newer).cast(), size_of::<Newer>()));
        assert_eq!((newer.old.size, newer.more), (size_of::<Newer>(), 0));
        newer.old.threads = 1;
        ok(brooklet_session_new(model, (&raw const newer).cast(), &raw mut session));
        brooklet_session_free(session);
        newer.more = 1;
        session = null_mut();
        let refused = brooklet_session_new(model, (&raw const newer).cast(), &raw mut session);
        assert_eq!((refused, session), (BROOKLET_ARGUMENT, null_mut()));
        for size in [0, 7, 16, usize::MAX] {
            let mut options = session_options(1, 8, 1);
            options.size = size;
            assert_eq!(
                brooklet_session_new(model, &raw const options, &raw mut session),
                BROOKLET_ARGUMENT
            );
        }
        assert_eq!(brooklet_session_options_init(null_mut(), 24), BROOKLET_NULL);
        assert_eq!(brooklet_session_options_init((&raw mut newer).cast(), 8), BROOKLET_ARGUMENT);
        brooklet_model_free(model);
    }
}

#[test]
fn reserved_fields_are_zero() {
    unsafe {
        let model = open_demo();
        let mut session = session_options(1, 8, 1);
        session.reserved = 1;
        let mut none = null_mut();
        assert_eq!(
            brooklet_session_new(model, &raw const session, &raw mut none),
            BROOKLET_ARGUMENT
        );
        assert!(last_message().contains("reserved"), "{}", last_message());
        let mut sampler = sampler_options(0.9, 3);
        sampler.reserved = 1;
        let mut none = null_mut();
        let refused = brooklet_sampler_new(&raw const sampler, 4, &raw mut none);
        assert_eq!(refused, BROOKLET_ARGUMENT);
        let mut options = half_states();
        options.reserved = 1;
        let path = c_path(&demo());
        let mut other = null_mut();
        let refused = brooklet_model_open(path.as_ptr(), &raw const *options, &raw mut other);
        assert_eq!((refused, other), (BROOKLET_ARGUMENT, null_mut()));

        let session = made(|to| brooklet_session_new(model, &session_options(1, 8, 1), to));
        let state = made(|to| brooklet_state_new(model, to));
        let tokens = [1];
        let mut run = brooklet_run { state, tokens: tokens.as_ptr(), n: 1, want: 1, reserved: 7 };
        assert_eq!(brooklet_session_forward(session, &raw const run, 1), BROOKLET_ARGUMENT);
        run.reserved = 0;
        ok(brooklet_session_forward(session, &raw const run, 1));
        brooklet_state_free(state);
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}

/// Programs compiled before the sampler's options grew.
#[test]
fn older_options_of_the_sampler() {
    unsafe {
        let mut options = sampler_options(0.9, 3);
        options.size = std::mem::offset_of!(brooklet_sampler_options, temperature_last);
        options.temperature_last = u32::MAX;
        options.reserved = u32::MAX;
        let sampler = made(|to| brooklet_sampler_new(&raw const options, 4, to));
        brooklet_sampler_free(sampler);
        // Version 2 ended before the steps of version 3.
        options.size = std::mem::offset_of!(brooklet_sampler_options, typical_p);
        (options.temperature_last, options.reserved, options.typical_p) = (1, 0, f32::NAN);
        let sampler = made(|to| brooklet_sampler_new(&raw const options, 4, to));
        brooklet_sampler_free(sampler);
        options.size = std::mem::offset_of!(brooklet_sampler_options, temperature_last) - 8;
        let mut none = null_mut();
        let refused = brooklet_sampler_new(&raw const options, 4, &raw mut none);
        assert_eq!((refused, none), (BROOKLET_ARGUMENT, null_mut()));
    }
}

#[test]
fn nothing_is_taken_from_null() {
    unsafe {
        let mut none: *mut brooklet_session = null_mut();
        assert_eq!(brooklet_session_new(null(), null(), &raw mut none), BROOKLET_NULL);
        assert_eq!(last_message(), "model is NULL");
        assert_eq!(brooklet_session_step(null_mut(), 0), BROOKLET_NULL);
        assert_eq!(brooklet_model_open(null(), null(), null_mut()), BROOKLET_NULL);
        assert!(brooklet_model_architecture(null()).is_null());
        assert_eq!(brooklet_model_message(null(), null_mut(), 0), 0);
        let model = open_demo();
        assert_eq!(brooklet_session_new(model, null(), null_mut()), BROOKLET_NULL);
        let session = made(|to| brooklet_session_new(model, null(), to));
        assert_eq!(brooklet_session_prefill(session, null(), 5, None, null_mut()), BROOKLET_NULL);
        let tokens = [1_u32; 4];
        let odd = tokens.as_ptr().byte_add(1);
        assert_eq!(brooklet_session_prefill(session, odd, 2, None, null_mut()), BROOKLET_ARGUMENT);
        let huge = usize::MAX / 4;
        assert_eq!(
            brooklet_session_prefill(session, tokens.as_ptr(), huge, None, null_mut()),
            BROOKLET_ARGUMENT
        );
        assert_eq!(prefill(session, &[]), BROOKLET_ARGUMENT);
        assert_eq!(prefill(session, &[u32::MAX]), BROOKLET_ARGUMENT);
        let bad = CString::new(b"\xff".to_vec()).expect("no zero");
        let mut tokenizer = null_mut();
        assert_eq!(
            brooklet_tokenizer_new(bad.as_ptr(), null(), 0, &raw mut tokenizer),
            BROOKLET_ARGUMENT
        );
        brooklet_session_free(null_mut());
        brooklet_sampler_free(null_mut());
        brooklet_tokenizer_free(null_mut());
        brooklet_decoder_free(null_mut());
        brooklet_state_free(null_mut());
        brooklet_model_free(null_mut());
        brooklet_session_free(session);
        brooklet_model_free(model);
        for code in 0..15 {
            assert!(text(brooklet_result_name(code)).starts_with("BROOKLET_"));
        }
        assert_eq!(text(brooklet_result_name(15)), "unknown result");
        assert_eq!(text(brooklet_result_name(-1)), "unknown result");
    }
}

#[test]
fn threads_share_a_model_and_messages_are_their_own() {
    struct Shared(*mut brooklet_model);
    // SAFETY: the header allows it: "Threads: any".
    unsafe impl Sync for Shared {}
    let model = Shared(open_demo());
    let model = &model;
    let rows: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let work = || {
            scope.spawn(move || unsafe {
                let session =
                    made(|to| brooklet_session_new(model.0, &session_options(1, 16, 1), to));
                assert_eq!(last_message(), "");
                ok(prefill(session, &[9, 8, 7]));
                assert_eq!(brooklet_session_step(session, u32::MAX), BROOKLET_ARGUMENT);
                assert!(last_message().contains("4294967295"));
                ok(prefill(session, &[6]));
                let row = logits(session);
                brooklet_session_free(session);
                row
            })
        };
        let threads = [work(), work(), work(), work()];
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    assert!(rows.iter().all(|row| *row == rows[0]));
    unsafe { brooklet_model_free(model.0) };
}

static LINES: std::sync::Mutex<Vec<(u32, String)>> = std::sync::Mutex::new(Vec::new());

unsafe extern "C" fn note(level: u32, message: *const c_char, user: *mut c_void) {
    assert_eq!(user.addr(), 5);
    LINES.lock().expect("no panic").push((level, text(message)));
}

#[test]
fn the_library_says_what_it_chose() {
    unsafe {
        assert_eq!(brooklet_set_log(Some(note), null_mut(), 0), BROOKLET_ARGUMENT);
        ok(brooklet_set_log(Some(note), std::ptr::without_provenance_mut(5), BROOKLET_LOG_DEBUG));
        let model = open_demo();
        let isa = text(brooklet_model_isa(model));
        ok(brooklet_set_log(None, null_mut(), BROOKLET_LOG_DEBUG));
        brooklet_model_free(model);
        let lines = LINES.lock().expect("no panic");
        let chosen = |(level, line): &(u32, String)| {
            *level == BROOKLET_LOG_DEBUG && line.contains("rwkv7") && line.contains(&isa)
        };
        assert!(lines.iter().any(chosen), "{lines:?}");
    }
}

#[test]
fn versions_and_features() {
    assert_eq!(brooklet_abi_version(), BROOKLET_ABI_VERSION);
    assert_eq!(text(brooklet_version()), env!("CARGO_PKG_VERSION"));
    let has = |bit| brooklet_features() & bit != 0;
    assert_eq!(has(BROOKLET_FEATURE_CONVERT), cfg!(feature = "convert"));
    assert_eq!(has(BROOKLET_FEATURE_CHAT), cfg!(feature = "chat"));
    assert_eq!(has(BROOKLET_FEATURE_HUGGINGFACE), cfg!(feature = "huggingface"));
    unsafe {
        let mut world = null_mut();
        let code = brooklet_tokenizer_new(c"world".as_ptr(), null(), 0, &raw mut world);
        assert_eq!(code == BROOKLET_OK, has(BROOKLET_FEATURE_WORLD), "{}", last_message());
        brooklet_tokenizer_free(world);
    }
}

#[test]
fn checkpoints_convert() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, target) = (root().join("tests/fixtures/mamba-a"), folder.path().join("own.brk"));
    let (source, c_target) = (c_path(&source), c_path(&target));
    let size = size_of::<brooklet_converted>();
    unsafe {
        let mut options = std::mem::zeroed::<brooklet_convert_options>();
        ok(brooklet_convert_options_init(&raw mut options, size_of::<brooklet_convert_options>()));
        options.dtype = c"int4-v1".as_ptr();
        let mut converted = std::mem::zeroed::<brooklet_converted>();
        let mut convert = |options: &brooklet_convert_options, left: i32| {
            let mut left = left;
            let user = (&raw mut left).cast();
            let (from, to) = (source.as_ptr(), c_target.as_ptr());
            brooklet_convert(from, to, options, Some(stop_after), user, &raw mut converted, size)
        };
        if !cfg!(feature = "convert") {
            assert_eq!(convert(&options, i32::MAX), BROOKLET_UNSUPPORTED);
            return;
        }
        assert_eq!(convert(&options, 3), BROOKLET_CANCELLED);
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
        assert_eq!(convert(&options, i32::MAX), BROOKLET_OK, "{}", last_message());
        #[cfg(feature = "convert")]
        {
            let written = BrkFile::open(&target).expect("a file").fingerprint();
            let in_rust = folder.path().join("in-rust.brk");
            let options = ConvertOptions::new(DType::Int4V1);
            let source = root().join("tests/fixtures/mamba-a");
            rust_convert(&source, &in_rust, &options, &mut |_| std::ops::ControlFlow::Continue(()))
                .expect("a conversion");
            let expected = BrkFile::open(&in_rust).expect("a file").fingerprint();
            assert_eq!(written, expected, "the same conversion in Rust");
        }
        options.dtype = c"int3".as_ptr();
        assert_eq!(convert(&options, i32::MAX), BROOKLET_ARGUMENT);
        (options.dtype, options.n_override) = (c"int8".as_ptr(), 1);
        assert_eq!(convert(&options, i32::MAX), BROOKLET_NULL);
        let (patterns, dtypes) = ([c"(".as_ptr()], [c"f16".as_ptr()]);
        (options.override_patterns, options.override_dtypes) = (patterns.as_ptr(), dtypes.as_ptr());
        assert_eq!(convert(&options, i32::MAX), BROOKLET_ARGUMENT);
        let patterns = [c"embed".as_ptr()];
        options.override_patterns = patterns.as_ptr();
        assert_eq!(convert(&options, i32::MAX), BROOKLET_OK, "{}", last_message());
        assert_eq!(converted.target_bytes, std::fs::metadata(&target).expect("a file").len());
    }
}
