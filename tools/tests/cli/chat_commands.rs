//! `chat`: its commands, through a pipe.

use brooklet::{DType, Model, Snapshot};
use serde_json::{Value, json};

use crate::support::{Finished, arg, brooklet, folder, model, with_input};

/// Answers of six tokens, the likeliest ones: they depend on the conversation alone.
fn greedy(lines: &str) -> Finished {
    greedy_with(&[], lines)
}

fn greedy_with(more: &[&str], lines: &str) -> Finished {
    let model = arg(&model());
    let args = ["chat", &model, "--temp", "0", "-n", "6", "--threads", "1", "--quiet"];
    with_input([&args[..], more].concat(), lines.as_bytes())
}

/// Asserts that the answers to `lines` end with all answers to `same`.
#[track_caller]
fn ends_as(lines: &str, same: &str, skipped: usize) {
    let (long, short) = (greedy(lines), greedy(same));
    assert_eq!((long.code, long.err.as_str()), (Some(0), ""), "{lines:?}");
    // Answers may hold line feeds: the answers that both begin with are cut off.
    let common = if skipped == 0 { Vec::new() } else { greedy(first(same, skipped)).raw };
    let tail = short.raw.strip_prefix(&common[..]).expect("the same beginning");
    assert!(long.raw.ends_with(tail) && !tail.is_empty(), "{lines:?}: {long:?} {short:?}");
}

/// The first `n` lines.
fn first(lines: &str, n: usize) -> &str {
    let end = lines.match_indices('\n').nth(n - 1).expect("a line").0;
    &lines[..=end]
}

#[test]
fn going_back_is_as_if_it_had_not_been() {
    ends_as("one\ntwo\n/undo\nthree\n", "one\nthree\n", 1);
    ends_as("one\ntwo\n/undo\n/undo\nthree\n", "three\n", 0);
    ends_as("one\ntwo\n/retry\n", "one\ntwo\n", 1);
    ends_as("one\ntwo\n/edit three\n", "one\nthree\n", 1);
    ends_as("one\n/fork x\ntwo\n/switch main\nthree\n", "one\nthree\n", 1);
    ends_as("one\n/fork x\ntwo\n/switch main\nthree\n/switch x\nfour\n", "one\ntwo\nfour\n", 2);
    ends_as("one\ntwo\n/reset\nthree\n", "three\n", 0);
    // By its number, as the tree shows it.
    ends_as("one\ntwo\n/undo\nthree\n/switch 4\nfour\n", "one\ntwo\nfour\n", 2);
    let with = greedy_with(&["--system", "Be brief."], "one\n").raw;
    assert!(greedy("one\n/system Be brief.\n/retry\n").raw.ends_with(&with));
    assert!(greedy_with(&["--system", "x"], "/system -\none\n").raw == greedy("one\n").raw);
}

#[test]
fn going_back_reads_nothing_again() {
    let done = greedy("one\ntwo\n/retry\n/stats\n/undo\n/edit 1\n/stats\n/switch 3\n/stats\n");
    let read: Vec<&str> =
        done.err.lines().filter_map(|line| line.strip_prefix("last answer: ")).collect();
    assert!(read[0].starts_with("0 tokens read"), "{done:?}");
    // The first message is another one: nothing of it was read before.
    let edited: usize = read[1].split(' ').next().expect("a number").parse().expect("a number");
    assert_eq!(edited, "User: 1\n\nAssistant:".len(), "{done:?}");
    let kept = done.err.lines().filter(|line| line.starts_with("kept states: ")).count();
    assert_eq!((kept, done.code), (3, Some(0)));
}

#[test]
fn another_try_is_another_answer() {
    let args = ["chat", &arg(&model()), "--seed", "5", "-n", "20", "--threads", "1", "-q"];
    let once = with_input(args, b"hello\n").raw;
    let twice = with_input(args, b"hello\n/retry\n").raw;
    assert_eq!(twice[..once.len()], once[..]);
    assert_ne!(twice[once.len()..], once[..]);
}

#[test]
fn the_tree_and_refusals_are_notes() {
    let lines = "/undo\n/retry\n/edit x\n/fork\none\n/fork a\n/fork a\n/fork 7\n/switch b\n\
        /switch 9\n/tree\n/help fork\n/help x\n/undo now\n/edit\n/load\n/save\n\
        /set temp\n/system\n";
    let done = greedy(lines);
    for said in [
        "there is nothing to undo",
        "there is no message to answer",
        "there is no message to edit",
        "/fork needs NAME",
        "there is a branch \"a\" already: /switch a",
        "a number is no name",
        "there is no branch \"b\"",
        "there is no message 9",
        "1 user: one",
        "[main a*]",
        "/fork NAME",
        "/x is no command",
        "/undo takes no arguments",
        "/edit needs TEXT",
        "/load needs FILE",
        "/save needs FILE",
        "/set temp needs a value",
        "there are no instructions",
    ] {
        assert!(done.err.contains(said), "{said}: {}", done.err);
    }
    assert_eq!(done.raw, greedy("one\n").raw, "and nothing of it is an answer");
    let help = greedy("/help\n").err;
    for name in ["system", "undo", "retry", "edit", "fork", "switch", "tree", "save", "load"] {
        assert!(help.lines().any(|line| line.starts_with(&format!("/{name} "))), "{name}: {help}");
    }
    assert!(help.contains("/set [NAME VALUE]") && help.contains("//TEXT"), "{help}");
}

#[test]
fn options_change_between_answers() {
    let args = ["chat", &arg(&model()), "--seed", "5", "-n", "6", "--threads", "1", "-q"];
    let plain = with_input(args, b"one\n").raw;
    let set = with_input(args, b"/set tokens 2\n/set temp=0\n/set nonsense 1\n/set top-p 7\none\n");
    assert!(set.err.contains("no option \"nonsense\"") && set.err.contains("top_p"), "{set:?}");
    let same = greedy_with(&["-n", "2"], "one\n");
    // The last of two -n counts on no command line: it is given once.
    assert_eq!(same.code, Some(2));
    let model = arg(&model());
    let short = ["chat", &model, "--temp", "0", "-n", "2", "--threads", "1", "-q"];
    assert_eq!(set.raw, with_input(short, b"one\n").raw);
    assert_ne!(set.raw, plain);
    let shown = with_input(args, b"/set min-p 0.25\n/set\n").err;
    assert!(shown.contains("min-p 0.25\n") && shown.contains("tokens 6\n"), "{shown}");
    // The same seed again gives the same answer.
    let again = with_input(args, b"one\n/reset\n/set seed 5\none\n").raw;
    assert_eq!(again, [&plain[..], &plain[..]].concat());
}

/// The note of a state file.
fn note(path: &str) -> Value {
    let report = brooklet(["state", "inspect", path, "--json"]).json();
    serde_json::from_str(report["note"].as_str().expect("a note")).expect("JSON")
}

#[test]
fn conversations_are_saved_with_their_tree() {
    let folder = folder();
    let file = |name: &str| arg(&folder.path().join(name));
    let (one, two) = (file("one.brks"), file("two.brks"));
    let whole = greedy("one\n/fork x\ntwo\n/switch main\nthree\n/switch x\nfour\n");
    let begun = greedy(&format!("one\n/fork x\ntwo\n/switch main\nthree\n/save {one}\n"));
    assert!(begun.err.contains("saved to "), "{begun:?}");
    let rest = whole.raw.strip_prefix(&begun.raw[..]).expect("the same beginning");
    let loaded = greedy(&format!("other\n/load {one}\n/switch x\nfour\n"));
    assert!(loaded.raw.ends_with(rest), "{loaded:?}");
    let resumed = greedy_with(&["--state", &one, "--save-state", &two], "/switch x\nfour\n");
    assert_eq!(resumed.raw, rest);
    let saved = note(&two);
    let said = |i: usize| saved["messages"][i]["content"].as_str().expect("a text").to_owned();
    assert_eq!([said(0), said(2), said(4)], ["one", "two", "four"]);
    assert_eq!(saved["tree"]["branches"][0]["name"], "main");
    // A message may begin with a slash.
    let slash = file("slash.brks");
    greedy_with(&["--save-state", &slash], "//exit\n").ok();
    assert_eq!(note(&slash)["messages"][0]["content"], "/exit");
    // Inputs are never written to, and what fails is a note.
    let model = arg(&model());
    let refused = greedy(&format!("/save {model}\n/load {}\n", file("none.brks")));
    assert!(refused.code == Some(0) && refused.err.lines().count() == 2, "{refused:?}");
}

#[test]
fn older_and_hostile_conversations() {
    let folder = folder();
    let file = arg(&folder.path().join("talk.brks"));
    let whole = greedy("one\ntwo\n");
    let begun = greedy_with(&["--save-state", &file], "one\n");
    let opened = Model::open(model()).expect("a model");
    let rewrite = |change: &dyn Fn(&mut Value)| {
        let mut snapshot = Snapshot::load(&opened, &file).expect("a state");
        let mut note: Value = serde_json::from_str(&snapshot.note).expect("JSON");
        change(&mut note);
        snapshot.note = note.to_string();
        snapshot.save(&file, DType::F32).expect("saved");
    };
    // As it was before there were trees.
    rewrite(&|note| drop(note.as_object_mut().expect("an object").remove("tree")));
    let rest = greedy_with(&["--state", &file], "two\n");
    assert_eq!([&begun.raw[..], &rest.raw[..]].concat(), whole.raw);
    let tree = json!({"nodes": [{"parent": 0, "role": "user", "content": "one"}],
        "branches": [{"name": "main", "tip": 0}], "branch": 0});
    rewrite(&|note| note["tree"] = tree.clone());
    let line = greedy_with(&["--state", &file], "two\n").fails(1);
    assert!(line.contains("the saved conversation: its tree does not hold together"), "{line}");
}
