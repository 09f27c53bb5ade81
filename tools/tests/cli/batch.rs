//! `brooklet batch`: the texts of as many runs, gone on with where they were broken off.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{arg, brooklet, folder, model, with_input};

/// Results by the line of their request.
fn results(text: &str) -> HashMap<u64, Value> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.map(|line| (line["line"].as_u64().expect("a number"), line)).collect()
}

fn write(path: &Path, requests: &[Value]) {
    let lines: Vec<String> = requests.iter().map(Value::to_string).collect();
    std::fs::write(path, lines.join("\n")).expect("requests");
}

#[test]
fn texts_are_those_of_single_runs() {
    let (model, folder) = (arg(&model()), folder());
    let path = folder.path().join("requests");
    let long = "abcdefgh".repeat(30);
    let requests = [
        json!({"prompt": "ab", "seed": 5, "id": "first"}),
        json!({"prompt": long, "seed": 6, "tokens": 3}),
        json!({"prompt": format!("{long}x"), "temperature": 0}),
        json!({"prompt": "ab", "seed": 9, "tokens": 40, "top_k": 7}),
        json!({"prompt": "ab", "tokens": 0}),
        json!({"prompt": "cd", "seed": 2, "stop": ["e", "a"], "tokens": 60}),
        json!({"prompt": "ab", "seed": 5, "tokens": 12}),
    ];
    write(&path, &requests);
    let args = ["batch", &model, &arg(&path), "--threads", "1", "-n", "12", "--chunk", "48"];
    for parallel in ["1", "3", "16"] {
        let done = brooklet([&args[..], &["--parallel", parallel, "-q"]].concat()).ok();
        let found = results(&done);
        assert_eq!(found.len(), requests.len());
        for (i, request) in requests.iter().enumerate() {
            let found = &found[&(i as u64 + 1)];
            let option = |name: &str, default: &str| {
                request.get(name).map_or(default.to_owned(), Value::to_string)
            };
            let (tokens, temp) = (option("tokens", "12"), option("temperature", "0.8"));
            let (seed, top_k) = (option("seed", "0"), option("top_k", "0"));
            let prompt = request["prompt"].as_str().expect("a prompt");
            let stops = request.get("stop").and_then(Value::as_array).into_iter().flatten();
            let stops: Vec<&str> =
                stops.flat_map(|stop| ["--stop", stop.as_str().expect("a string")]).collect();
            let run = ["run", &model, "-p", prompt, "--json", "--threads", "1", "-n", &tokens];
            let options = ["--temp", &temp, "--seed", &seed, "--top-k", &top_k];
            let one = brooklet([&run[..], &options, &stops].concat()).json();
            for field in ["text", "stop_reason", "prompt_tokens", "generated_tokens"] {
                assert_eq!(found[field], one[field], "{field} of {i}, {parallel} at a time");
            }
        }
        assert_eq!((&found[&1]["id"], found[&2].get("id")), (&json!("first"), None));
        if parallel == "1" {
            assert_eq!(found[&3]["reused_tokens"], 240, "the long beginning is known");
        }
    }
}

#[test]
fn what_was_broken_off_goes_on() {
    let (model, folder) = (arg(&model()), folder());
    let (path, out) = (folder.path().join("requests"), folder.path().join("out.jsonl"));
    let requests: Vec<Value> =
        (0..9).map(|i| json!({"prompt": format!("a{i}"), "seed": i, "tokens": 5})).collect();
    write(&path, &requests);
    let args = ["batch", &model, &arg(&path), "-o", &arg(&out), "--threads", "1", "-q"];
    brooklet(args).ok();
    let all = std::fs::read_to_string(&out).expect("results");
    let whole = results(&all);
    assert_eq!(whole.len(), 9);
    // Inside a line, at its end, and before the first.
    for end in [all.len() / 2, all.find('\n').expect("a line") + 1, 20, 0] {
        std::fs::write(&out, &all[..end]).expect("what was written");
        brooklet(args).ok();
        assert_eq!(results(&std::fs::read_to_string(&out).expect("results")), whole, "{end}");
    }
    // Other requests, or another file, are not gone on with.
    write(&path, &[json!({"prompt": "other"})]);
    let before = std::fs::read(&out).expect("results");
    let done = brooklet(args);
    assert_eq!(done.code, Some(2), "{}", done.err);
    for foreign in ["no results\n", "{\"a\": 1}\n", "no line feed"] {
        std::fs::write(folder.path().join("foreign"), foreign).expect("a file");
        let foreign_arg = arg(&folder.path().join("foreign"));
        let done = brooklet(["batch", &model, &arg(&path), "-o", &foreign_arg]);
        assert_eq!(done.code, Some(2), "{foreign}: {}", done.err);
        assert_eq!(std::fs::read_to_string(folder.path().join("foreign")).expect("it"), foreign);
    }
    assert_eq!(std::fs::read(&out).expect("results"), before);
    assert_eq!(brooklet(["batch", &model, &arg(&path), "-o", &arg(&path)]).code, Some(2));
}

#[test]
fn a_wrong_request_is_one_wrong_line() {
    let model = arg(&model());
    let lines = "{\"prompt\": \"ab\", \"tokens\": 2, \"seed\": 1}\n\nnot json\n{\"id\": 7}\n\
                 {\"id\": 8, \"prompt\": \"a\", \"temperatur\": 1}\n\
                 {\"id\": 9, \"prompt\": \"a\", \"top_p\": 7}\n";
    let done = with_input(["batch", &model, "-", "--threads", "1"], lines.as_bytes());
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.contains("4 of 5 requests failed"), "{}", done.err);
    let found = results(&done.out);
    assert_eq!(found[&1]["generated_tokens"], 2);
    for (line, id, words) in [
        (3, Value::Null, "expected"),
        (4, json!(7), "prompt"),
        (5, json!(8), "temperatur"),
        (6, json!(9), "top_p"),
    ] {
        let error = found[&line]["error"].as_str().expect("an error");
        assert!(error.contains(words), "{line}: {error}");
        assert_eq!(found[&line].get("id").unwrap_or(&Value::Null), &id);
    }
    assert_eq!(with_input(["batch", &model, "-"], b"").ok(), "");
    // Requests that failed are tried again, and those with a text are not.
    let folder = folder();
    let (path, out) = (folder.path().join("requests"), folder.path().join("out.jsonl"));
    std::fs::write(&path, lines).expect("requests");
    let args = ["batch", &model, &arg(&path), "-o", &arg(&out), "--threads", "1", "-q"];
    for results in [5, 9] {
        assert_eq!(brooklet(args).code, Some(1));
        let text = std::fs::read_to_string(&out).expect("results");
        assert_eq!(text.lines().count(), results);
    }
}

#[test]
fn messages_states_and_grammars_of_requests() {
    let (model, folder) = (arg(&model()), folder());
    let (path, state) = (folder.path().join("requests"), arg(&folder.path().join("a.brks")));
    brooklet(["run", &model, "-p", "abc", "-n", "0", "--save-state", &state]).ok();
    let ends = ["\n\nUser:", "\nUser:", "\n\nSystem:"];
    let plain = "System: Be kind.\n\nUser: hi\n\nAssistant:";
    let said = json!([
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi", "name": "Ann"},
    ]);
    let requests = [
        json!({"messages": said, "seed": 3}),
        json!({"prompt": plain, "seed": 3, "stop": ends}),
        json!({"prompt": "d", "state": state, "seed": 4}),
        json!({"prompt": "a", "regex": "[0-9]{3}x"}),
        json!({"prompt": "a", "json_schema": {"enum": ["y"]}}),
        json!({"prompt": "a", "grammar": "start: \"no\""}),
        // Mistakes.
        json!({"prompt": "a", "messages": said}),
        json!({"tokens": 3}),
        json!({"prompt": "a", "regex": "a", "grammar": "start: \"a\""}),
        json!({"prompt": "a", "regex": "("}),
        json!({"messages": [{"role": "nobody", "content": "a"}]}),
        json!({"messages": ["a"]}),
        json!({"prompt": "a", "state": "no-such-file.brks"}),
        json!({"prompt": "a", "tokns": 3}),
    ];
    write(&path, &requests);
    let done = brooklet(["batch", &model, &arg(&path), "-n", "12", "-q"]);
    assert_eq!(done.code, Some(1), "{}", done.err);
    let found = results(&done.out);
    assert_eq!(found[&1]["text"], found[&2]["text"]);
    assert_eq!(found[&1]["prompt_tokens"], found[&2]["prompt_tokens"]);
    let run = ["run", &model, "--state", &state, "-p", "d", "--seed", "4", "-n", "12", "--json"];
    assert_eq!(found[&3]["text"], brooklet(run).json()["text"]);
    let text = found[&4]["text"].as_str().expect("a text");
    assert!(text.len() == 4 && text.ends_with('x'), "{text}");
    assert_eq!((&found[&5]["text"], &found[&6]["text"]), (&json!("\"y\""), &json!("no")));
    for (line, words) in [
        (7, "one of them"),
        (8, "one of them"),
        (9, "one of them"),
        (10, "grammar"),
        (11, "nobody"),
        (12, "an object with a role"),
        (13, "no-such-file.brks"),
        (14, "tokns"),
    ] {
        let error = found[&line]["error"].as_str().expect("an error");
        assert!(error.contains(words), "{line}: {error}");
    }
}
