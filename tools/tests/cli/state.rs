//! Saved states: going on is as never having stopped, and what does not fit is refused.

use std::path::Path;

use serde_json::Value;

use crate::support::{
    arg, brooklet, checkpoint, folder, model, model_in, names_in, with_input, write_checkpoint,
};

/// `run` with the tiny model, more arguments, and penalties that remember every token.
fn run(more: &[&str]) -> Value {
    let model = arg(&model());
    let fixed = [
        "run",
        &model,
        "--json",
        "--threads",
        "1",
        "--frequency-penalty",
        "0.3",
        "--penalty-decay",
        "0.9",
    ];
    brooklet([&fixed[..], more].concat()).json()
}

fn ids(report: &Value) -> Vec<u64> {
    report["token_ids"]
        .as_array()
        .expect("ids")
        .iter()
        .map(|id| id.as_u64().expect("an id"))
        .collect()
}

#[test]
fn going_on_is_as_never_having_stopped() {
    let folder = folder();
    let file = |name: &str| arg(&folder.path().join(name));
    let (one, two) = (file("one.brks"), file("two.brks"));
    let whole = run(&["-p", "ab", "--seed", "7", "-n", "40"]);
    let text = whole["text"].as_str().expect("text");
    // Before the first token, inside the text, behind its end.
    for first in ["0", "1", "17", "40"] {
        let a = run(&["-p", "ab", "--seed", "7", "-n", first, "--save-state", &one]);
        // The seed need not be said again, and may.
        let seed: &[&str] = if first == "17" { &["--seed", "7"] } else { &[] };
        let b = run(&[&["--state", &one, "-n", "3", "--save-state", &two], seed].concat());
        let rest = (37 - ids(&a).len() as i64).max(0).to_string();
        let c = run(&["--state", &two, "-n", &rest]);
        let joined = [ids(&a), ids(&b), ids(&c)].concat();
        assert_eq!(joined[..40], ids(&whole), "{first}");
        // Characters that were cut are whole again, so that the texts fit together byte by byte.
        if first != "40" {
            let texts =
                [&a, &b].map(|report| report["text"].as_str().expect("text").to_owned()).concat();
            assert_eq!(texts + c["text"].as_str().expect("text"), text, "{first}");
        }
        assert_eq!(b["seed"], 7);
    }
    assert_eq!(names_in(folder.path()), ["one.brks", "two.brks"]);
    // Another seed is another text; a smaller format is a smaller file that goes on.
    let other = run(&[
        "--state",
        &one,
        "-n",
        "20",
        "--seed",
        "8",
        "--save-state",
        &two,
        "--state-type",
        "int8",
    ]);
    assert_ne!(ids(&other), ids(&run(&["--state", &one, "-n", "20"])));
    let size = |path: &str| std::fs::metadata(path).expect("a file").len();
    assert!(size(&two) < size(&one));
    run(&["--state", &two, "-n", "1"]);
}

#[test]
fn more_text_follows_the_saved_one() {
    let folder = folder();
    let file = arg(&folder.path().join("a.brks"));
    // Reading "ab" then "cd" is reading "abcd"; greedy, so that nothing else matters.
    let whole = run(&["-p", "abcd", "--temp", "0", "-n", "9"]);
    run(&["-p", "ab", "-n", "0", "--save-state", &file]);
    let more = run(&["--state", &file, "-p", "cd", "--temp", "0", "-n", "9"]);
    assert_eq!(ids(&more), ids(&whole));
    assert_eq!(more["prompt_token_ids"], serde_json::json!([99, 100]));
    // A stop string ends the text and is read by who goes on.
    let text = whole["text"].as_str().expect("text");
    let stop: String = text.chars().skip(3).take(1).collect();
    let a = run(&["-p", "abcd", "--temp", "0", "-n", "9", "--stop", &stop, "--save-state", &file]);
    let rest = (9 - ids(&a).len()).to_string();
    let b = run(&["--state", &file, "--temp", "0", "-n", &rest]);
    assert_eq!([ids(&a), ids(&b)].concat(), ids(&whole));
}

#[test]
fn a_chat_goes_on() {
    let folder = folder();
    let file = arg(&folder.path().join("talk.brks"));
    let model = arg(&model());
    let talk = |only: &[&str], input: &[u8], more: &[&str]| {
        let fixed = ["chat", &model, "-n", "8", "--threads", "1", "--quiet", "--seed", "5"];
        let fixed = [&fixed[..], only].concat();
        let done = with_input([&fixed[..], more].concat(), input);
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{done:?}");
        done.raw
    };
    // Answers that are text, which go on from the state; and of any bytes, whose conversation is
    // read again.
    let bias: Vec<String> = (128..256).map(|id| format!("{id}=-inf")).collect();
    let ascii: Vec<&str> = bias.iter().flat_map(|bias| ["--logit-bias", bias]).collect();
    for only in [&ascii[..], &[]] {
        let chat = |input: &[u8], more: &[&str]| talk(only, input, more);
        let whole = chat(b"one\ntwo\nthree\n", &[]);
        let first = chat(b"one\n", &["--save-state", &file]);
        let second = chat(b"two\n", &["--state", &file, "--save-state", &file]);
        let third = chat(b"three\n", &["--state", &file]);
        assert_eq!([first, second, third].concat(), whole);
    }
    let chat = |input: &[u8], more: &[&str]| talk(&[], input, more);
    // A reset begins where the chat began.
    let reset = chat(b"/reset\none\n", &["--state", &file, "--temp", "0"]);
    assert_eq!(reset, chat(b"one\n", &["--temp", "0"]));
    let line = with_input(["chat", &model, "--state", &file, "--system", "Be kind."], b"").fails(2);
    assert!(line.contains("leave --system away"), "{line}");
}

#[test]
fn inspect_and_convert() {
    let folder = folder();
    let file = |name: &str| folder.path().join(name);
    let state = arg(&file("a.brks"));
    run(&["-p", "abc", "-n", "5", "--seed", "3", "--save-state", &state]);
    let report = brooklet(["state", "inspect", &state, "--json"]).json();
    assert_eq!((&report["architecture"], &report["position"]), (&"rwkv7".into(), &7.into()));
    assert_eq!(
        (&report["unread"], &report["seed"], &report["logits"]),
        (&1.into(), &3.into(), &0.into())
    );
    assert_eq!(report["tail"].as_array().expect("tokens").len(), 8);
    assert_eq!(report["slots"].as_array().expect("slots").len(), 6);
    assert_eq!(report["slots"][1]["shape"], serde_json::json!([3, 16, 16]));
    let table = brooklet(["state", "inspect", &state]).ok();
    for part in
        ["architecture   rwkv7", "tokens read    7", "seed 3", "att.wkv", "3 × 16 × 16  f32"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    for dtype in ["f16", "int8", "f32"] {
        let out = arg(&file(dtype));
        let line = brooklet(["state", "convert", &state, "-o", &out, "--type", dtype]).ok();
        assert!(line.contains(dtype), "{line}");
        assert_eq!(
            brooklet(["state", "inspect", &out, "--json"]).json()["slots"][1]["format"],
            dtype
        );
        run(&["--state", &out, "-n", "1"]);
    }
    assert_eq!(std::fs::read(&state).expect("bytes"), std::fs::read(file("f32")).expect("bytes"));
}

/// Writes a state-tuning checkpoint: three heads of `n` by `n` in each layer.
pub(crate) fn write_tuned(path: &Path, layers: usize, n: usize) {
    let len = 3 * n * n * 4;
    let entry = |i: usize| {
        let offsets = format!("[{},{}]", i * len, (i + 1) * len);
        format!(
            r#""blocks.{i}.att.time_state":{{"dtype":"F32","shape":[3,{n},{n}],"data_offsets":{offsets}}}"#
        )
    };
    let header = format!("{{{}}}", (0..layers).map(entry).collect::<Vec<_>>().join(","));
    let values = (0..layers * len / 4).flat_map(|i| ((i % 17) as f32 * 0.2 - 1.6).to_le_bytes());
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(path, bytes.into_iter().chain(values).collect::<Vec<u8>>()).expect("written");
}

#[test]
fn tuned_states_are_imported() {
    let folder = folder();
    let file = |name: &str| folder.path().join(name);
    let (tuned, out) = (file("tuned.safetensors"), arg(&file("tuned.brks")));
    let write = |layers: usize, n: usize| write_tuned(&tuned, layers, n);
    let import = || brooklet(["state", "import", &arg(&model()), &arg(&tuned), "-o", &out]);
    write(2, 16);
    import().ok();
    assert_eq!(brooklet(["state", "inspect", &out, "--json"]).json()["position"], 0);
    let with = run(&["--state", &out, "-p", "ab", "--temp", "0", "-n", "8"]);
    assert_ne!(ids(&with), ids(&run(&["-p", "ab", "--temp", "0", "-n", "8"])));
    let line = brooklet(["run", &arg(&model()), "--state", &out]).fails(1);
    assert!(line.contains("tuned.brks") && line.ends_with("give a prompt with -p"), "{line}");
    write(1, 16);
    let line = import().fails(1);
    assert!(line.contains("\"blocks.1.att.time_state\" is missing"), "{line}");
    write(2, 8);
    let line = import().fails(1);
    assert!(line.contains("the shape must be [3, 16, 16], found [3, 8, 8]"), "{line}");
    let line =
        brooklet(["state", "import", &arg(&model()), &arg(&checkpoint()), "-o", &out]).fails(1);
    assert!(line.contains("no tuned state"), "{line}");
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let folder = folder();
    let file = |name: &str| folder.path().join(name);
    let state = arg(&file("a.brks"));
    run(&["-p", "abc", "-n", "5", "--save-state", &state]);
    let other = file("other.safetensors");
    write_checkpoint(&other, 9, 2);
    let other_model = arg(&file("other.brk"));
    brooklet(["convert", &arg(&other), "-o", &other_model, "--type", "f32"]).ok();
    for model in [&other_model, &arg(&model_in("int8"))] {
        let line = brooklet(["run", model, "--state", &state, "-n", "1"]).fails(1);
        assert!(
            line.contains("belongs to another model: expected rwkv7 with fingerprint"),
            "{line}"
        );
    }
    let model = arg(&model());
    for (path, part) in [
        (model.as_str(), "a model, not a state"),
        (&arg(&checkpoint()), "no .brks state file"),
        (&arg(folder.path()), "not a regular file"),
        ("/none.brks", "check the path"),
    ] {
        for line in [
            brooklet(["run", &model, "--state", path]).fails(1),
            brooklet(["state", "inspect", path]).fails(1),
            brooklet(["state", "convert", path, "-o", &state, "--type", "f16"]).fails(1),
        ] {
            assert!(line.contains(part), "{path}: {line}");
        }
    }
    // A place that cannot be written to is told before the text, not after it.
    let line = brooklet(["run", &model, "-p", "x", "--save-state", "/none/x.brks"]).fails(1);
    assert!(line.contains("/none/x.brks"), "{line}");
    let line = brooklet(["run", &model, "-p", "x", "--save-state", &arg(folder.path())]).fails(1);
    assert!(line.contains("not a regular file"), "{line}");
    let line = brooklet(["run", &model, "-p", "x", "--state-type", "int4"]).fails(2);
    assert!(line.contains("expected f32, f16 or int8"), "{line}");
    // Counts of all tokens cannot become a window.
    let line = brooklet([
        "run",
        &model,
        "--state",
        &state,
        "--frequency-penalty",
        "1",
        "--penalty-window",
        "4",
    ])
    .fails(1);
    assert!(line.contains("give the penalty options"), "{line}");
    let bytes = std::fs::read(&state).expect("bytes");
    std::fs::write(&state, &bytes[..bytes.len() / 2]).expect("written");
    let line = brooklet(["run", &model, "--state", &state]).fails(1);
    assert!(line.contains("truncated"), "{line}");
}
