//! Calls of the C interface in an order that bytes choose: valid ones, and all that a careless
//! program may do without undefined behaviour (NULL, wrong lengths, foreign states, handles freed
//! in any order).
//!
//! [`run`] is the body of the test `sequences.rs` and of a fuzz target. It checks what holds for
//! every call: a known result that is never BROOKLET_INTERNAL, a message with every failure, values
//! written only on success. It stays off what the header calls undefined: freed handles, pointers
//! that are neither NULL nor valid.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use super::capi::brooklet_result::*;
use super::capi::*;
use super::choice::Choice;
use super::sequence_session::progress;
use super::{c_path, demo, root};

/// Handles of each kind at most.
pub(super) const MOST: usize = 4;
/// Calls of one sequence at most.
const CALLS: usize = 400;

/// Live handles of one kind.
pub(super) struct Pool<T>(pub(super) Vec<*mut T>);

impl<T> Pool<T> {
    /// One of them, or NULL.
    pub(super) fn any(&self, choice: &mut Choice<'_>) -> *mut T {
        if self.0.is_empty() || choice.one_in(24) {
            null_mut()
        } else {
            self.0[choice.below(self.0.len())]
        }
    }

    /// Makes one by `call`; frees one before by `free` where there are too many.
    pub(super) fn add(
        &mut self,
        choice: &mut Choice<'_>,
        free: unsafe extern "C" fn(*mut T),
        call: impl FnOnce(*mut *mut T) -> brooklet_result,
    ) {
        if self.0.len() >= MOST {
            self.remove(choice, free);
        }
        let mut handle = null_mut();
        let nowhere = choice.one_in(40);
        let result = call(if nowhere { null_mut() } else { &raw mut handle });
        check(result);
        assert_eq!(result == BROOKLET_OK, !handle.is_null(), "written only on success");
        if !handle.is_null() {
            self.0.push(handle);
        }
    }

    fn remove(&mut self, choice: &mut Choice<'_>, free: unsafe extern "C" fn(*mut T)) {
        if !self.0.is_empty() {
            let handle = self.0.swap_remove(choice.below(self.0.len()));
            unsafe { free(handle) };
        }
    }
}

/// Checks that hold for every result.
#[track_caller]
pub(super) fn check(result: brooklet_result) -> bool {
    let message = unsafe { CStr::from_ptr(brooklet_last_message()) };
    assert_ne!(result, BROOKLET_INTERNAL, "{message:?}");
    assert_ne!(result, BROOKLET_BUSY, "one thread, no callback within: {message:?}");
    assert!(result == BROOKLET_OK || !message.is_empty());
    assert!(message.to_str().is_ok());
    result == BROOKLET_OK
}

/// The demo model's file, a tiny one of another architecture, one cut short, and one that is not
/// there.
fn paths() -> &'static [CString; 4] {
    static PATHS: OnceLock<[CString; 4]> = OnceLock::new();
    PATHS.get_or_init(|| {
        let tiny = root().join("engine/capi/tests/fixtures/tiny-mamba1.brk");
        [
            c_path(&demo()),
            c_path(&tiny),
            c_path(&root().join("Cargo.toml")),
            c_path(&root().join("nowhere.brk")),
        ]
    })
}

/// The tiny model's bytes, at a multiple of 64, for ever.
fn image() -> &'static [u8] {
    static IMAGE: OnceLock<&'static [u8]> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let tiny = paths()[1].to_str().expect("UTF-8");
        let bytes = std::fs::read(tiny).expect("the fixture");
        let room = Vec::leak(vec![0; bytes.len() + 64]);
        let start = room.as_ptr().addr().wrapping_neg() % 64;
        room[start..start + bytes.len()].copy_from_slice(&bytes);
        &room[start..start + bytes.len()]
    })
}

/// All that is alive.
pub(super) struct World<'a> {
    pub(super) choice: Choice<'a>,
    pub(super) models: Pool<brooklet_model>,
    pub(super) tokenizers: Pool<brooklet_tokenizer>,
    pub(super) decoders: Pool<brooklet_decoder>,
    pub(super) samplers: Pool<brooklet_sampler>,
    pub(super) states: Pool<brooklet_state>,
    pub(super) sessions: Pool<brooklet_session>,
    pub(super) snapshots: Pool<brooklet_snapshot>,
    pub(super) schedulers: Pool<brooklet_scheduler>,
    pub(super) caches: Pool<brooklet_prefix_cache>,
    pub(super) guesses: Pool<brooklet_speculation>,
}

/// Makes the calls that `bytes` choose, then frees everything.
pub fn run(bytes: &[u8]) {
    let mut world = World {
        choice: Choice(bytes),
        models: Pool(Vec::new()),
        tokenizers: Pool(Vec::new()),
        decoders: Pool(Vec::new()),
        samplers: Pool(Vec::new()),
        states: Pool(Vec::new()),
        sessions: Pool(Vec::new()),
        snapshots: Pool(Vec::new()),
        schedulers: Pool(Vec::new()),
        caches: Pool(Vec::new()),
        guesses: Pool(Vec::new()),
    };
    for _ in 0..CALLS {
        if world.choice.0.is_empty() {
            break;
        }
        unsafe { world.call() };
    }
    unsafe {
        world.models.0.into_iter().for_each(|handle| brooklet_model_free(handle));
        world.tokenizers.0.into_iter().for_each(|handle| brooklet_tokenizer_free(handle));
        world.decoders.0.into_iter().for_each(|handle| brooklet_decoder_free(handle));
        world.samplers.0.into_iter().for_each(|handle| brooklet_sampler_free(handle));
        world.states.0.into_iter().for_each(|handle| brooklet_state_free(handle));
        world.sessions.0.into_iter().for_each(|handle| brooklet_session_free(handle));
        world.snapshots.0.into_iter().for_each(|handle| brooklet_snapshot_free(handle));
        world.schedulers.0.into_iter().for_each(|handle| brooklet_scheduler_free(handle));
        world.caches.0.into_iter().for_each(|handle| brooklet_prefix_cache_free(handle));
        world.guesses.0.into_iter().for_each(|handle| brooklet_speculation_free(handle));
    }
}

impl World<'_> {
    unsafe fn call(&mut self) {
        unsafe {
            match self.choice.below(15) {
                0 => self.make_model(),
                1 => self.make_another(),
                2 => self.free_one(),
                3 => self.ask_a_model(),
                4 => self.use_a_tokenizer(),
                5 => self.use_a_decoder(),
                6 => self.use_a_sampler(),
                7 => self.use_a_state(),
                8 => self.use_a_snapshot(),
                9 | 10 => self.use_a_scheduler(),
                11 => self.use_a_cache(),
                12 => self.use_guesses(),
                _ => self.use_a_session(),
            }
        }
    }

    unsafe fn make_model(&mut self) {
        let World { choice, models, .. } = self;
        let mut options = unsafe { std::mem::zeroed::<brooklet_model_options>() };
        let size = choice
            .length(size_of::<brooklet_model_options>())
            .min(size_of::<brooklet_model_options>());
        check(unsafe { brooklet_model_options_init(&raw mut options, size) });
        options.copy = u32::from(choice.one_in(2));
        if choice.one_in(4) {
            options.isa = [c"scalar", c"portable", c"avx2", c"abacus"][choice.below(4)].as_ptr();
        }
        if choice.one_in(4) {
            options.state = [c"f32", c"f16", c"int8", c"f64"][choice.below(4)].as_ptr();
        }
        let options = if choice.one_in(2) { null() } else { &raw const options };
        if choice.one_in(2) {
            let start = if choice.one_in(4) { choice.below(100) } else { 0 };
            let bytes = &image()[start..];
            let length =
                if choice.one_in(4) { bytes.len() / (1 + choice.below(9)) } else { bytes.len() };
            models.add(choice, brooklet_model_free, |to| unsafe {
                brooklet_model_open_memory(bytes.as_ptr().cast(), length, options, to)
            });
        } else {
            // Mostly the tiny one, which is fast.
            let path = &paths()[[0, 1, 1, 1, 1, 2, 3][choice.below(7)]];
            let path = if choice.one_in(30) { null() } else { path.as_ptr() };
            models.add(choice, brooklet_model_free, |to| unsafe {
                brooklet_model_open(path, options, to)
            });
        }
    }

    unsafe fn make_another(&mut self) {
        let World { choice, models, tokenizers, decoders, samplers, states, sessions, .. } = self;
        let model = models.any(choice);
        unsafe {
            match choice.below(7) {
                0 => tokenizers.add(choice, brooklet_tokenizer_free, |to| {
                    brooklet_tokenizer_of_model(model, to)
                }),
                1 => {
                    let kind = [c"bytes", c"none", c"world", c"huggingface", c"other"]
                        [choice.below(5)]
                    .as_ptr();
                    let bytes: Vec<u8> = (0..choice.below(30)).map(|_| choice.byte()).collect();
                    tokenizers.add(choice, brooklet_tokenizer_free, |to| {
                        brooklet_tokenizer_new(kind, bytes.as_ptr().cast(), bytes.len(), to)
                    });
                }
                2 => {
                    let (tokenizer, skip) = (tokenizers.any(choice), i32::from(choice.byte()));
                    let stops = [c"a".as_ptr(), c"".as_ptr(), c"\xff".as_ptr(), null()];
                    let n = choice.below(5).min(stops.len());
                    decoders.add(choice, brooklet_decoder_free, |to| {
                        brooklet_decoder_new(tokenizer, skip, stops.as_ptr(), n, to)
                    });
                }
                3 => {
                    let mut options = std::mem::zeroed::<brooklet_sampler_options>();
                    check(brooklet_sampler_options_init(
                        &raw mut options,
                        size_of::<brooklet_sampler_options>(),
                    ));
                    options.temperature = choice.float();
                    if choice.one_in(3) {
                        (options.top_p, options.min_p) = (choice.float(), choice.float());
                        (options.top_k, options.repetition_penalty) =
                            (choice.word(), choice.float());
                        (options.penalty_decay, options.penalty_window) =
                            (choice.float(), choice.word());
                    }
                    let bias =
                        [brooklet_logit_bias { token: choice.word() % 400, bias: choice.float() };
                            2];
                    (options.logit_bias, options.n_logit_bias) = (bias.as_ptr(), choice.below(3));
                    let n_vocab = match choice.below(8) {
                        0 => choice.word() as usize,
                        1 => 0,
                        2 => usize::MAX,
                        _ => 304,
                    };
                    samplers.add(choice, brooklet_sampler_free, |to| {
                        brooklet_sampler_new(&raw const options, n_vocab, to)
                    });
                }
                4 => states.add(choice, brooklet_state_free, |to| brooklet_state_new(model, to)),
                _ => {
                    let mut options = std::mem::zeroed::<brooklet_session_options>();
                    check(brooklet_session_options_init(
                        &raw mut options,
                        size_of::<brooklet_session_options>(),
                    ));
                    (options.threads, options.chunk, options.rows) =
                        (1 + u32::from(choice.one_in(9)), 8, 4);
                    if choice.one_in(6) {
                        (options.threads, options.chunk) = (choice.word(), choice.word());
                        options.rows = u32::from(choice.byte());
                        // Many threads and gigabytes are legal, and no test of this.
                        (options.threads, options.chunk) =
                            (options.threads.min(4), options.chunk & 0xf_00ff);
                    }
                    sessions.add(choice, brooklet_session_free, |to| {
                        brooklet_session_new(model, &raw const options, to)
                    });
                }
            }
        }
    }

    unsafe fn free_one(&mut self) {
        let choice = &mut self.choice;
        match choice.below(10) {
            9 => self.guesses.remove(choice, brooklet_speculation_free),
            8 => self.caches.remove(choice, brooklet_prefix_cache_free),
            7 => self.schedulers.remove(choice, brooklet_scheduler_free),
            6 => self.snapshots.remove(choice, brooklet_snapshot_free),
            0 => self.models.remove(choice, brooklet_model_free),
            1 => self.tokenizers.remove(choice, brooklet_tokenizer_free),
            2 => self.decoders.remove(choice, brooklet_decoder_free),
            3 => self.samplers.remove(choice, brooklet_sampler_free),
            4 => self.states.remove(choice, brooklet_state_free),
            _ => self.sessions.remove(choice, brooklet_session_free),
        }
    }

    unsafe fn ask_a_model(&mut self) {
        let World { choice, models, .. } = self;
        let model = models.any(choice);
        unsafe {
            let mut info = [0x5a_u8; 256];
            let size = choice.length(size_of::<brooklet_model_info>()).min(1 << 17);
            let written =
                check(brooklet_model_get_info(model, info.as_mut_ptr().cast(), size.min(256)));
            assert!(written || info == [0x5a; 256], "written only on success");
            assert_eq!(brooklet_model_architecture(model).is_null(), model.is_null());
            assert_eq!(brooklet_model_metadata(model).is_null(), model.is_null());
            let mut left = choice.below(4) as u32;
            check(brooklet_model_verify(model, Some(progress), (&raw mut left).cast()));
            check(brooklet_model_prefetch(model));
            let mut plan = std::mem::zeroed();
            check(brooklet_model_plan(model, null(), &raw mut plan, size_of::<brooklet_plan>()));
            let (mut slot, mut name, mut n) = (std::mem::zeroed(), [0_u8; 40], 0);
            let near = choice.below(20);
            let (index, capacity) = (choice.length(near), choice.below(41));
            let (to, size) = (name.as_mut_ptr().cast(), size_of::<brooklet_slot>());
            check(brooklet_model_slot(model, index, &raw mut slot, size, to, capacity, &raw mut n));
            let mut message = [1 as c_char; 16];
            let capacity = choice.below(17);
            brooklet_model_message(model, message.as_mut_ptr(), capacity);
            assert!(message[capacity..].iter().all(|&byte| byte == 1), "no byte behind the buffer");
        }
    }

    unsafe fn use_a_state(&mut self) {
        let World { choice, states, sessions, .. } = self;
        let state = states.any(choice);
        unsafe {
            let mut position = 0;
            check(brooklet_state_position(state, &raw mut position));
            let (index, mut values, mut n) =
                (choice.below(20), vec![0.0; 1 << choice.below(15)], 0);
            let capacity = values.len();
            let read =
                check(brooklet_state_get(state, index, values.as_mut_ptr(), capacity, &raw mut n));
            if choice.one_in(3) {
                values[choice.word() as usize % capacity] = choice.float();
                let n = if read { n } else { choice.below(capacity + 1) };
                check(brooklet_state_set(state, index, values.as_ptr(), n));
            }
            match choice.below(5) {
                0 => {
                    check(brooklet_state_reset(state));
                }
                1 => {
                    check(brooklet_session_set_state(sessions.any(choice), state));
                }
                2 => {
                    check(brooklet_session_swap_state(sessions.any(choice), state));
                }
                3 if states.0.len() < MOST => {
                    states.add(choice, brooklet_state_free, |to| brooklet_state_clone(state, to));
                }
                _ if states.0.len() < MOST => {
                    let session = sessions.any(choice);
                    states.add(choice, brooklet_state_free, |to| {
                        brooklet_session_get_state(session, to)
                    });
                }
                _ => {}
            }
        }
    }
}
