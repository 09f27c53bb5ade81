//! What clients of llama.cpp's server rely on, where it means something here: the expectations of
//! its server's tests (`tools/server/tests/unit`), in our own words. Not here: endpoints that are
//! llama.cpp's alone.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::Running;

const PROMPT: &str = "I believe the meaning of life is";

fn text(done: &Value) -> String {
    done["choices"][0]["text"].as_str().expect("a text").to_owned()
}

#[test]
fn a_seed_is_a_text_whatever_shares_its_passes() {
    let mut of_servers = BTreeSet::new();
    for (parallel, chunk) in [(1, 16), (2, 32), (4, 64)] {
        let server = Running::start(|options| {
            options.parallel = parallel;
            options.engine = options.engine.clone().chunk(chunk);
            options.prefix.bytes = if parallel == 2 { 0 } else { 1 << 20 };
        });
        let asked = |seed: i64| -> serde_json::Value {
            json!({ "prompt": PROMPT, "seed": seed, "temperature": 1.0, "max_tokens": 12 })
        };
        let open: Vec<_> = (0..5)
            .map(|i| {
                let body = asked(i % 4).to_string();
                server.send("POST", "/v1/completions", "", body.as_bytes())
            })
            .collect();
        let texts: Vec<String> =
            open.into_iter().map(|open| text(&crate::support::Answer::read(open).ok())).collect();
        assert_eq!(texts[0], texts[4], "the same seed");
        assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), 4, "other seeds: {texts:?}");
        of_servers.insert(texts);
    }
    assert_eq!(of_servers.len(), 1, "slots, batch sizes and caches change nothing");
}

#[test]
fn prompts_are_text_or_tokens_in_one_list() {
    let server = Running::start(|_| {});
    let tokens = brooklet::Text::of(crate::support::model()).expect("words");
    let tokens = tokens.prompt(PROMPT.as_bytes()).expect("tokens");
    let asked = |prompt: Value| {
        let body = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 8 });
        let done = server.post("/v1/completions", &body).ok();
        let choices = done["choices"].as_array().expect("choices").clone();
        choices.iter().map(|choice| choice["text"].clone()).collect::<Vec<Value>>()
    };
    let one = asked(json!(PROMPT));
    assert_eq!(asked(json!(tokens)), one);
    let both = [&one[..], &one[..]].concat();
    for prompts in [
        json!([tokens, tokens]),
        json!([tokens, PROMPT]),
        json!([PROMPT, tokens]),
        json!([PROMPT, PROMPT]),
    ] {
        assert_eq!(asked(prompts), both);
    }
    let asked = |input: Value| {
        let done = server.post("/v1/embeddings", &json!({ "input": input })).ok();
        let read = done["usage"]["prompt_tokens"].as_u64();
        assert_eq!((read, done["usage"]["total_tokens"].as_u64()), (read, read));
        let data = done["data"].as_array().expect("vectors").clone();
        data.iter().map(|one| one["embedding"].clone()).collect::<Vec<Value>>()
    };
    let one = asked(json!(PROMPT));
    assert_eq!(asked(json!([PROMPT, tokens, PROMPT])), [&one[..], &one[..], &one[..]].concat());
    let body = json!({ "input": PROMPT, "encoding_format": "base64" });
    let done = server.post("/v1/embeddings", &body).ok();
    let bytes = BASE64_STANDARD.decode(done["data"][0]["embedding"].as_str().expect("base64"));
    let bytes = bytes.expect("base64");
    let numbers = bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("4")));
    let told = one[0].as_array().expect("numbers");
    let told = told.iter().map(|number| number.as_f64().expect("a number") as f32);
    assert!(numbers.eq(told));
    // Reading for an embedding is work, too, and writes nothing.
    assert!(server.metric("prompt_tokens_total") > 0.0 && server.metric("passes_total") > 0.0);
}

#[test]
fn a_chat_streams_its_role_once_and_one_id() {
    let server = Running::start(|_| {});
    let asked = json!({
        "messages": [
            { "role": "system", "content": "Book" },
            { "role": "user", "content": [{ "type": "text", "text": "What is" },
                                          { "type": "text", "text": " the best book" }] },
        ],
        "max_tokens": 8, "temperature": 0, "stream": true, "logprobs": true, "top_logprobs": 10,
        "stream_options": { "include_usage": true },
    });
    let mut events = server.post("/v1/chat/completions", &asked).events();
    let numbers = events.pop().expect("numbers");
    assert_eq!(numbers["usage"]["completion_tokens"], 8);
    for (name, number) in numbers["timings"].as_object().expect("timings") {
        // A null would be infinity or no number.
        assert!(number.as_f64().is_some_and(|number| number >= 0.0), "{name}: {number}");
    }
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let (mut content, mut tokens) = (String::new(), String::new());
    for (i, event) in events.iter().enumerate() {
        assert_eq!((&event["id"], &event["model"]), (&events[0]["id"], &json!("nano")));
        let print = event["system_fingerprint"].as_str().expect("a fingerprint");
        assert!(print.starts_with("brooklet-"), "{print}");
        let choice = &event["choices"][0];
        assert!(i == 0 || choice["delta"].get("role").is_none(), "{choice}");
        if i + 1 == events.len() {
            assert_eq!(
                (&choice["delta"], &choice["finish_reason"]),
                (&json!({}), &json!("length"))
            );
            break;
        }
        assert!(choice["finish_reason"].is_null());
        content += choice["delta"]["content"].as_str().unwrap_or_default();
        for token in choice["logprobs"]["content"].as_array().into_iter().flatten() {
            tokens += token["token"].as_str().expect("a token");
            let likeliest = token["top_logprobs"].as_array().expect("the likeliest");
            assert_eq!(likeliest.len(), 10);
            // Greedy: the first is the token; a distribution's probabilities are one at most.
            assert_eq!(likeliest[0]["id"], token["id"]);
            let each = likeliest.iter().map(|one| one["logprob"].as_f64().expect("a number").exp());
            assert!(each.sum::<f64>() <= 1.0 + 1e-4);
        }
    }
    assert_eq!(content, tokens);
    // In one piece it is the same.
    let mut whole = asked.clone();
    whole["stream"] = json!(false);
    let whole = server.post("/v1/chat/completions", &whole).ok();
    assert_eq!(whole["choices"][0]["message"]["content"], content);
    for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(whole["usage"][name], numbers["usage"][name], "{name}");
    }
}

#[test]
fn formats_of_answers() {
    let server = Running::start(|_| {});
    let ask = |format: Value, n: usize| {
        let body = json!({
            "messages": [{ "role": "user", "content": "Write an example" }],
            "max_tokens": n, "temperature": 0, "response_format": format,
        });
        server.post("/v1/chat/completions", &body)
    };
    for (format, expected) in [
        (json!({ "type": "json_object", "schema": { "const": "42" } }), "\"42\""),
        (
            json!({ "type": "json_schema", "json_schema": { "schema": { "const": "foo" } } }),
            "\"foo\"",
        ),
    ] {
        let done = ask(format, 12).ok();
        assert_eq!(done["choices"][0]["message"]["content"], expected);
        assert_eq!(done["choices"][0]["finish_reason"], "stop");
    }
    let done = ask(json!({ "type": "json_object" }), 10).ok();
    let content = done["choices"][0]["message"]["content"].as_str().expect("text");
    assert!(content.trim_start().starts_with('{'), "{content}");
    for wrong in [
        json!({ "type": "sound" }),
        json!({ "type": "json_object", "schema": 123 }),
        json!({ "type": "json_object", "schema": { "type": 123 } }),
        json!({ "type": "json_object", "schema": { "type": "hiccup" } }),
    ] {
        assert_eq!(ask(wrong.clone(), 4).status, 400, "{wrong}");
    }
}

#[test]
fn a_prompt_that_comes_again_is_known_and_prompts_that_part_are() {
    let server = Running::start(|options| options.parallel = 1);
    let mut known = Vec::new();
    for question in ["1 2 3 4 5 6", "1 2 3 4 5 6", "1 2 3 4 5 9", "1 2 3 9 9 9", "1 2 3 9 9 8"] {
        let body = json!({ "messages": [{ "role": "system", "content": "Test" },
                                        { "role": "user", "content": question }],
                           "max_tokens": 8, "temperature": 0 });
        let done = server.post("/v1/chat/completions", &body).ok();
        let (usage, timings) = (&done["usage"], &done["timings"]);
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
        let prompt = usage["prompt_tokens"].as_u64().expect("a number");
        assert_eq!(timings["cache_n"], cached);
        assert_eq!(timings["prompt_n"].as_u64(), Some(prompt - cached));
        known.push((prompt, cached));
    }
    assert_eq!(known[0].1, 0);
    assert_eq!(known[1].1, known[1].0, "a state behind the prompt is kept with its logits");
    assert!(known[2].1 > 0 && known[3].1 > 0, "the instructions are known: {known:?}");
    assert!(known[4].1 > known[3].1, "where texts parted there is a state now: {known:?}");
}

#[test]
fn a_saved_state_comes_back_after_others_were_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::start(|options| {
        options.prefix.bytes = 0;
        options.states_folder = Some(folder.path().to_owned());
    });
    let ask = |prompt: &str, state: Option<&Value>| {
        let body = json!({ "prompt": prompt, "max_tokens": 6, "temperature": 0,
                           "keep_state": true, "state_id": state });
        server.post("/v1/completions", &body).ok()
    };
    let first = ask("What is the capital of France?", None);
    let id = &first["state_id"];
    let path = format!("/v1/states/{}", id.as_str().expect("an id"));
    server.ask("POST", &format!("{path}/save"), "", b"").ok();
    let expected = ask(" And of Germany?", Some(id));
    ask("Something else altogether.", None);
    server.ask("POST", &format!("{path}/load"), "", b"").ok();
    let again = ask(" And of Germany?", Some(id));
    assert_eq!(text(&again), text(&expected));
    // The state has read all but the last token that was written, which comes first now.
    let prompt = &again["timings"]["prompt_n"];
    assert!(prompt.as_u64().is_some_and(|n| n <= 6), "{prompt}");
    assert_eq!(server.ask("DELETE", &path, "", b"").status, 200);
    let gone = json!({ "prompt": "x", "state_id": id });
    assert_eq!(server.post("/v1/completions", &gone).status, 404);
}

#[test]
fn a_text_that_its_client_gave_up_makes_room() {
    let server = Running::start(|options| {
        (options.parallel, options.max_tokens) = (1, 1_000_000);
    });
    let endless = json!({ "prompt": PROMPT, "max_tokens": 1_000_000, "ignore_eos": true });
    let open = server.send("POST", "/v1/completions", "", endless.to_string().as_bytes());
    server.wait("texts_running", |n| n == 1.0);
    drop(open);
    let asked = json!({ "prompt": PROMPT, "max_tokens": 2 });
    assert_eq!(server.post("/v1/completions", &asked).ok()["usage"]["completion_tokens"], 2);
}
