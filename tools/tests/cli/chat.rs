//! `chat`: turns from a pipe, commands, and that keeping the state changes nothing.

use crate::support::{arg, model, with_input};

#[test]
fn turns_from_a_pipe_are_answered() {
    let args = ["chat", &arg(&model()), "--seed", "5", "-n", "8", "--threads", "1"];
    let done = with_input(args, b"hello\n\n/what\nagain\n/reset\nhello\n/exit\nnever read\n");
    assert!(done.err.contains("seed 5") && done.err.contains("/what is no command"), "{done:?}");
    assert_eq!(done.code, Some(0), "{done:?}");
    let quiet = with_input([&args[..], &["--quiet"]].concat(), b"hello\n");
    assert_eq!((quiet.code, quiet.err.as_str()), (Some(0), ""));
    assert!(
        done.raw.starts_with(&quiet.raw[..quiet.raw.len() - 1]),
        "the first answer is the same"
    );
}

#[test]
fn a_kept_state_answers_as_one_read_afresh() {
    // Greedy, so that the second answer depends on the conversation alone: a reset and a typed-out
    // beginning give the same.
    let model = arg(&model());
    let args = ["chat", &model, "--temp", "0", "-n", "6", "--threads", "1", "--quiet"];
    let once = with_input(args, b"one\ntwo\n").raw;
    let after_reset = with_input(args, b"other\n/reset\none\ntwo\n").raw;
    assert!(after_reset.ends_with(&once), "{once:?} {after_reset:?}");
}
