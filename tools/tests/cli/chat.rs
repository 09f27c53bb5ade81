//! `chat`: turns from a pipe, commands, the model's own template, and that keeping the state
//! changes nothing.

use crate::support::{arg, brooklet, folder, model, model_with_template, with_input};

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

#[test]
fn the_template_makes_the_text() {
    let folder = folder();
    let template = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}\
        {{ 'A:%s' % m.content }}{% endgeneration %}{% else %}U:{{ m.content }}{% endif %};\
        {% endfor %}{{ [tools, true] }}{% if add_generation_prompt %}A:{% endif %}";
    let model = arg(&model_with_template(folder.path(), template));
    let state = arg(&folder.path().join("s.brks"));
    let args = ["chat", &model, "-n", "1", "--logit-bias", "97=1000", "-q", "--save-state", &state];
    assert_eq!(with_input(args, b"Hi\nSo\n").ok(), "a\na\n");
    let report = brooklet(["state", "inspect", &state, "--json"]).json();
    let note: serde_json::Value =
        serde_json::from_str(report["note"].as_str().expect("a note")).expect("JSON");
    assert_eq!(note["read"], "U:Hi;A:a;U:So;[None, True]A:a");
}

#[test]
fn a_byte_that_is_no_text_does_not_end_the_conversation() {
    let args = ["chat", &arg(&model()), "--temp", "0", "-n", "4", "--threads", "1"];
    let done = with_input(args, b"caf\xe9\nhello\n");
    assert!(done.err.contains("note: the line is not UTF-8"), "{}", done.err);
    let same = with_input(args, "caf\u{fffd}\nhello\n".as_bytes());
    assert_eq!((done.code, &done.raw), (Some(0), &same.raw));
}

#[test]
fn an_answer_ends_at_the_next_question() {
    // The template puts an "a" behind answers, and the model can write nothing else.
    let folder = folder();
    let template = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}a{% endif %}\
        {% endfor %}";
    let model = arg(&model_with_template(folder.path(), template));
    let args = ["chat", &model, "-n", "5", "--logit-bias", "97=1000", "-q"];
    assert_eq!(with_input(args, b"Hi\n").ok(), "\n", "nothing of the stop is written");
    assert_eq!(with_input([&args[..], &["--plain"]].concat(), b"Hi\n").ok(), "aaaaa\n");
}

#[test]
fn a_template_that_fails_is_named_with_the_mend() {
    for (template, why) in [
        ("\n{% for m in %}", "line 2: expected a value, found '%}'"),
        ("{{ raise_exception('no\u{1b}[31m users') }}", "line 1: no\\x1b[31m users"),
        ("{% set x = namespace() %}{% set x.a = x %}{{ x }}", "line 1: it calls itself, or nests"),
        ("{% for i in range(99) %}{% set x = 'a' * 10 ** 9 %}{% endfor %}", "more than 32 MB"),
        ("{% include '/etc/passwd' %}", "cannot load other templates"),
    ] {
        let folder = folder();
        let model = arg(&model_with_template(folder.path(), template));
        let line = with_input(["chat", &model, "-q", "-n", "1"], b"Hi\n").fails(1);
        assert!(line.contains("templated.brk: the model's chat template, "), "{line}");
        assert!(line.contains(why) && line.ends_with("use --plain for the plain format"), "{line}");
        assert_eq!(with_input(["chat", &model, "-q", "-n", "1", "--plain"], b"Hi\n").code, Some(0));
    }
}
