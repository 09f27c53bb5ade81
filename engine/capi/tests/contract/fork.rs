//! A child made by fork(), which has the memory of sessions with threads and none of the threads.

use std::time::{Duration, Instant};

use super::*;

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
    fn kill(process: i32, signal: i32) -> i32;
    fn _exit(status: i32) -> !;
}

/// Does not wait.
const WNOHANG: i32 = 1;
const SIGKILL: i32 = 9;

/// Runs `work` in a child, which must end within a time; its answer is the exit status.
fn in_child(work: impl FnOnce() -> i32) -> i32 {
    unsafe {
        let child = fork();
        if child == 0 {
            _exit(work());
        }
        assert!(child > 0, "a child");
        let (start, mut status) = (Instant::now(), 0);
        while waitpid(child, &raw mut status, WNOHANG) == 0 {
            if start.elapsed() > Duration::from_secs(60) {
                kill(child, SIGKILL);
                waitpid(child, &raw mut status, 0);
                panic!("the child waits for ever");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(status & 0x7f, 0, "the child ended by a signal: {status}");
        status >> 8
    }
}

#[test]
fn a_child_goes_on_alone() {
    unsafe {
        let model = open_demo();
        for threads in [1, 4] {
            for stepped in [false, true] {
                let options = session_options(threads, 8, 1);
                let session = made(|to| brooklet_session_new(model, &raw const options, to));
                ok(prefill(session, &[1, 2, 3]));
                if stepped {
                    ok(brooklet_session_step(session, 5));
                }
                let answer = in_child(|| {
                    if brooklet_session_step(session, 7) != BROOKLET_OK {
                        return 1;
                    }
                    let inherited = logits(session);
                    let mut own = null_mut();
                    if brooklet_session_new(model, &raw const options, &raw mut own) != BROOKLET_OK
                        || prefill(own, if stepped { &[1, 2, 3, 5, 7] } else { &[1, 2, 3, 7] })
                            != BROOKLET_OK
                    {
                        return 2;
                    }
                    let same = logits(own) == inherited;
                    brooklet_session_free(own);
                    brooklet_session_free(session);
                    if same { 42 } else { 3 }
                });
                assert_eq!(answer, 42, "{threads} threads, stepped: {stepped}");
                // The parent has its threads still.
                ok(brooklet_session_step(session, 7));
                brooklet_session_free(session);
            }
        }
        brooklet_model_free(model);
    }
}

/// A handle that is in use while its process forks stays so in the child, which is told at once.
#[test]
fn a_handle_in_use_is_busy_in_the_child() {
    unsafe extern "C" fn progress(_: u64, _: u64, user: *mut c_void) -> i32 {
        let session = user.cast::<brooklet_session>();
        let answer = in_child(|| unsafe { brooklet_session_step(session, 7) } as i32);
        assert_eq!(answer, BROOKLET_BUSY as i32);
        0
    }
    unsafe {
        let model = open_demo();
        let session = made(|to| brooklet_session_new(model, &session_options(4, 2, 1), to));
        let tokens = [1, 2, 3, 4];
        let user = session.cast::<c_void>();
        ok(brooklet_session_prefill(session, tokens.as_ptr(), 4, Some(progress), user));
        brooklet_session_free(session);
        brooklet_model_free(model);
    }
}
