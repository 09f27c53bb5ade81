//! States by their ids: kept, gone on with, forked, saved, loaded.

use serde_json::{Value, json};

use crate::openai::alone;
use crate::support::Running;

#[test]
fn a_text_goes_on_from_its_state() {
    let server = Running::start(|_| {});
    let whole = alone("Once upon a time", 20);
    let asked = json!({
        "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "keep_state": true,
    });
    let first = server.post("/v1/completions", &asked).ok();
    let id = first["state_id"].as_str().expect("a state").to_owned();
    let rest = |id: &str| {
        let asked = json!({ "prompt": "", "max_tokens": 12, "temperature": 0, "state_id": id });
        let done = server.post("/v1/completions", &asked).ok();
        let text = done["choices"][0]["text"].as_str().expect("a text").to_owned();
        (text, done["usage"]["prompt_tokens_details"]["cached_tokens"].clone())
    };
    let begun = first["choices"][0]["text"].as_str().expect("a text");
    let read = first["usage"]["total_tokens"].as_u64().expect("a number") - 1;
    assert_eq!(rest(&id), (whole[begun.len()..].to_owned(), json!(read)));
    // Forks, and copies that went through a file, go on in the same way.
    let fork = server.post(&format!("/v1/states/{id}/fork"), &json!({})).ok();
    let fork = fork["id"].as_str().expect("an id").to_owned();
    let bytes = server.get(&format!("/v1/states/{id}")).body;
    let mine = server.ask("PUT", "/v1/states/mine", "", &bytes).ok();
    assert_eq!((&mine["id"], &mine["tokens"]), (&json!("mine"), &json!(read)));
    let uploaded = server.ask("POST", "/v1/states", "", &bytes).ok();
    assert_eq!(server.ask("DELETE", &format!("/v1/states/{id}"), "", b"").status, 200);
    assert_eq!(server.get(&format!("/v1/states/{id}")).status, 404);
    for id in [&fork, "mine", uploaded["id"].as_str().expect("an id")] {
        assert_eq!(rest(id).0, whole[begun.len()..], "{id}");
    }
    let listed = server.get("/v1/states").ok();
    assert_eq!(listed["data"].as_array().expect("a list").len(), 3, "{listed}");
}

#[test]
fn a_chat_goes_on_from_its_state() {
    let server = Running::start(|_| {});
    let ask = |messages: Value, state: Value| {
        let asked = json!({
            "messages": messages, "max_tokens": 10, "temperature": 0, "keep_state": true,
            "state_id": state,
        });
        server.post("/v1/chat/completions", &asked).ok()
    };
    let (hello, more) = (
        json!({ "role": "user", "content": "Hello" }),
        json!({ "role": "user", "content": "More" }),
    );
    let first = ask(json!([hello]), Value::Null);
    // The state has the turns before.
    let second = ask(json!([more]), first["state_id"].clone());
    let whole = ask(json!([hello, first["choices"][0]["message"], more]), Value::Null);
    assert_eq!(second["choices"][0]["message"], whole["choices"][0]["message"]);
    let read = first["usage"]["total_tokens"].as_u64().expect("a number");
    let cached = &second["usage"]["prompt_tokens_details"]["cached_tokens"];
    assert!(cached.as_u64().expect("a number") + 4 >= read, "{cached} of {read}");
    let third = ask(json!([hello]), second["state_id"].clone());
    assert!(third["usage"]["prompt_tokens"].as_u64() > second["usage"]["prompt_tokens"].as_u64());
    let many = json!({ "messages": [hello], "n": 2, "keep_state": true });
    assert_eq!(server.post("/v1/chat/completions", &many).error().2, "keep_state");
}

#[test]
fn saved_states_are_there_the_next_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = || {
        let folder = folder.path().to_owned();
        Running::start(move |options| options.states_folder = Some(folder))
    };
    let server = start();
    let asked =
        json!({ "prompt": "The sea", "max_tokens": 5, "temperature": 0, "keep_state": true });
    let done = server.post("/v1/completions", &asked).ok();
    let id = done["state_id"].as_str().expect("a state").to_owned();
    let told = server.post(&format!("/v1/states/{id}/save"), &json!({})).ok();
    assert_eq!(told["saved"], true);
    drop(server);
    // A file that is damaged is an error that does not tell where it is.
    std::fs::write(folder.path().join("open/bad.brks"), b"nothing").expect("a file");
    let server = start();
    let saved = server.get("/v1/states").ok()["saved"].clone();
    assert_eq!(saved, json!(["bad", id]));
    let (status, message, _) = server.post("/v1/states/bad/load", &json!({})).error();
    assert_eq!(status, 400);
    assert!(!message.contains(&*folder.path().to_string_lossy()), "{message}");
    assert_eq!(server.post(&format!("/v1/states/{id}/load"), &json!({})).ok()["saved"], true);
    let asked = json!({ "prompt": "", "max_tokens": 5, "temperature": 0, "state_id": id });
    let rest = server.post("/v1/completions", &asked).ok()["choices"][0]["text"].clone();
    let begun = done["choices"][0]["text"].as_str().expect("a text");
    assert_eq!(format!("{begun}{}", rest.as_str().expect("a text")), alone("The sea", 10));
    assert_eq!(server.ask("DELETE", &format!("/v1/states/{id}"), "", b"").status, 200);
    assert!(!folder.path().join(format!("open/{id}.brks")).exists());
}

#[test]
fn states_are_bounded_and_no_ids_are_paths() {
    let layout = crate::support::model().state_layout().bytes();
    let server = Running::start(|options| {
        options.states = 3 * layout;
        options.max_state = 4 * layout;
    });
    let asked = json!({ "prompt": "x", "max_tokens": 2, "keep_state": true });
    for _ in 0..6 {
        server.post("/v1/completions", &asked).ok();
    }
    let listed = server.get("/v1/states").ok()["data"].as_array().expect("a list").len();
    assert!((1..=3).contains(&listed), "{listed}");
    assert!(server.metric("states_bytes") <= 3.0 * layout as f64);
    for id in ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a.b", "a%00", &"x".repeat(100)] {
        let status = server.ask("PUT", &format!("/v1/states/{id}"), "", b"x").status;
        assert_eq!(status, 400, "{id}");
    }
    let (status, message, _) = server.ask("PUT", "/v1/states/x", "", b"no state").error();
    assert_eq!(status, 400, "{message}");
    let large = vec![0; 5 * layout];
    assert_eq!(server.ask("PUT", "/v1/states/x", "", &large).status, 413);
    let kept = server.post("/v1/states/x/save", &json!({}));
    assert_eq!(kept.status, 404);
}
