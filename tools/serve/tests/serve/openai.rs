//! What OpenAI's clients ask for.

use std::ops::ControlFlow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use brooklet::generate::{Limits, generate};
use brooklet::sampler::{Sampler, SamplerOptions};
use brooklet::{EngineError, EngineOptions, Pooling, Session, Text};
use serde_json::{Value, json};

use crate::support::{Running, model};

/// A greedy text by a session alone.
pub(crate) fn alone(prompt: &str, tokens: usize) -> String {
    let text = Text::of(model()).expect("words");
    let mut session = Session::new(model(), &EngineOptions::new().threads(1));
    session.prefill(&text.prompt(prompt.as_bytes()).expect("tokens")).expect("a prompt");
    let mut sampler = Sampler::new(SamplerOptions::greedy(), model().n_vocab()).expect("options");
    let mut written = String::new();
    let limits = Limits::new(tokens);
    generate::<EngineError>(&mut session, &mut sampler, &text, &limits, |piece| {
        written.push_str(piece.text);
        Ok(ControlFlow::Continue(()))
    })
    .expect("a text");
    written
}

#[test]
fn a_completion_is_the_text_of_a_session() {
    let server = Running::start(|_| {});
    let prompt = "Once upon a time there was a captain";
    let asked = json!({ "prompt": prompt, "max_tokens": 24, "temperature": 0 });
    let done = server.post("/v1/completions", &asked).ok();
    assert_eq!(done["object"], "text_completion");
    assert_eq!(done["model"], "nano");
    assert_eq!(done["choices"][0]["text"], alone(prompt, 24));
    assert_eq!(done["choices"][0]["finish_reason"], "length");
    assert_eq!(done["usage"]["completion_tokens"], 24);
    let read = done["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert_eq!(done["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    // The same again begins where the prompt ends.
    let again = server.post("/v1/completions", &asked).ok();
    assert_eq!(again["choices"][0]["text"], done["choices"][0]["text"]);
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], read);
    assert_eq!(again["timings"]["cache_n"], read);
    // As it is written, it is the same.
    let streamed = json!({
        "prompt": prompt, "max_tokens": 24, "temperature": 0, "stream": true,
        "stream_options": { "include_usage": true },
    });
    let answer = server.post("/v1/completions", &streamed);
    assert!(answer.head.contains("text/event-stream"), "{}", answer.head);
    let mut events = answer.events();
    let last = events.pop().expect("numbers");
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(24)));
    let texts = events.iter().filter_map(|event| event["choices"][0]["text"].as_str());
    assert_eq!(texts.collect::<String>(), alone(prompt, 24));
    assert!(events.len() > 10, "pieces come one by one");
    assert_eq!(events.last().expect("an end")["choices"][0]["finish_reason"], "length");
}

#[test]
fn several_texts_and_prompts() {
    let server = Running::start(|_| {});
    let asked = json!({
        "prompt": ["The sea", "A hill"], "n": 3, "max_tokens": 8, "temperature": 1.0, "seed": 5,
    });
    let done = server.post("/v1/completions", &asked).ok();
    let texts = |done: &Value| -> Vec<String> {
        let choices = done["choices"].as_array().expect("choices").iter().enumerate();
        choices
            .map(|(i, choice)| {
                assert_eq!(choice["index"], i);
                choice["text"].as_str().expect("a text").to_owned()
            })
            .collect()
    };
    let first = texts(&done);
    assert_eq!(first.len(), 6);
    assert!(first[0] != first[1] || first[1] != first[2], "seeds differ: {first:?}");
    assert_eq!(texts(&server.post("/v1/completions", &asked).ok()), first, "one seed, one result");
    // Each prompt counts once, however many texts follow it.
    let text = Text::of(model()).expect("words");
    let tokens =
        ["The sea", "A hill"].map(|prompt| text.prompt(prompt.as_bytes()).expect("tokens"));
    assert_eq!(done["usage"]["prompt_tokens"], tokens[0].len() + tokens[1].len());
    assert_eq!(done["usage"]["completion_tokens"], 48);
    // Tokens in place of texts.
    let greedy = |prompt: Value| {
        let asked = json!({ "prompt": prompt, "max_tokens": 6, "temperature": 0 });
        texts(&server.post("/v1/completions", &asked).ok())
    };
    let by_text = greedy(json!(["The sea", "A hill"]));
    assert_eq!(greedy(json!(tokens)), by_text);
    assert_eq!(greedy(json!(tokens[1])), by_text[1..]);
}

#[test]
fn ends_and_echoes() {
    let server = Running::start(|_| {});
    let whole = alone("The sea", 40);
    let stop: String = whole.chars().skip(12).take(4).collect();
    let asked = json!({
        "prompt": "The sea", "max_tokens": 40, "temperature": 0, "stop": stop, "echo": true,
    });
    let done = server.post("/v1/completions", &asked).ok();
    let expected = whole.split(&stop).next().expect("a beginning");
    assert_eq!(done["choices"][0]["text"], format!("The sea{expected}"));
    assert_eq!(done["choices"][0]["finish_reason"], "stop");
    let nothing = json!({ "prompt": "The sea", "max_tokens": 0 });
    let done = server.post("/v1/completions", &nothing).ok();
    assert_eq!(
        (&done["choices"][0]["text"], &done["usage"]["completion_tokens"]),
        (&json!(""), &json!(0))
    );
}

#[test]
fn log_probabilities() {
    let server = Running::start(|_| {});
    let asked = json!({ "prompt": "The sea", "max_tokens": 5, "temperature": 0, "logprobs": 3 });
    let done = server.post("/v1/completions", &asked).ok();
    let logprobs = &done["choices"][0]["logprobs"];
    let tokens: Vec<&str> =
        logprobs["tokens"].as_array().expect("tokens").iter().filter_map(Value::as_str).collect();
    assert_eq!(tokens.concat(), done["choices"][0]["text"]);
    for i in 0..5 {
        let own = logprobs["token_logprobs"][i].as_f64().expect("a number");
        let top = logprobs["top_logprobs"][i].as_object().expect("the likeliest");
        assert_eq!(top.len(), 3);
        // A greedy text has the likeliest token.
        assert!(top.values().all(|other| other.as_f64().expect("a number") <= own));
        assert!(own <= 0.0 && own > -20.0);
    }
    assert_eq!(logprobs["text_offset"][0], 0);
    assert_eq!(logprobs["text_offset"][1], tokens[0].chars().count());
    let asked = json!({
        "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 4, "logprobs": true,
        "top_logprobs": 2, "stream": true,
    });
    let events = server.post("/v1/chat/completions", &asked).events();
    let told =
        events.iter().filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array());
    let told: Vec<&Value> = told.flatten().collect();
    assert_eq!(told.len(), 4);
    assert!(told.iter().all(|token| token["top_logprobs"].as_array().expect("two").len() == 2));
    assert!(told.iter().all(|token| token["bytes"].is_array() && token["token"].is_string()));
}

#[test]
fn a_chat_goes_on_where_it_stood() {
    let server = Running::start(|_| {});
    let mut messages = vec![
        json!({ "role": "system", "content": "Speak of the sea." }),
        json!({ "role": "user", "content": [{ "type": "text", "text": "Hello there" }] }),
    ];
    let ask = |messages: &[Value]| {
        let asked = json!({
            "messages": messages, "max_completion_tokens": 12, "temperature": 0,
            "model": "whatever", "user": "x", "a_field_of_tomorrow": { "deep": [1] },
        });
        server.post("/v1/chat/completions", &asked).ok()
    };
    let first = ask(&messages);
    assert_eq!(first["object"], "chat.completion");
    let message = first["choices"][0]["message"].clone();
    assert_eq!(message["role"], "assistant");
    messages.push(message);
    messages.push(json!({ "role": "user", "content": "And then?" }));
    let second = ask(&messages);
    let cached = &second["usage"]["prompt_tokens_details"]["cached_tokens"];
    let read = first["usage"]["total_tokens"].as_u64().expect("a number");
    // All but the last token, and those that a stop string holds back.
    assert!(cached.as_u64().expect("a number") + 4 >= read, "{cached} of {read}");
    // A branch from the first question on.
    let branch = ask(&[messages[0].clone(), json!({ "role": "user", "content": "Hello, you" })]);
    assert!(branch["timings"]["cache_n"].as_u64().expect("a number") > 0, "{branch}");
    let streamed = json!({
        "messages": messages, "max_tokens": 12, "temperature": 0, "stream": true,
    });
    let events = server.post("/v1/chat/completions", &streamed).events();
    assert_eq!(events[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let texts = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(texts.collect::<String>(), second["choices"][0]["message"]["content"]);
    let end = events.last().expect("an end");
    assert!(end["choices"][0]["finish_reason"].is_string(), "{end}");
}

#[test]
fn forms_of_texts() {
    let server = Running::start(|_| {});
    let schema = json!({
        "type": "object",
        "properties": { "name": { "type": "string", "maxLength": 8 }, "ok": { "type": "boolean" } },
        "required": ["name", "ok"],
        "additionalProperties": false,
    });
    let asked = json!({
        "messages": [{ "role": "user", "content": "Who?" }], "max_tokens": 200, "seed": 1,
        "response_format": {
            "type": "json_schema", "json_schema": { "name": "who", "schema": schema, "strict": true },
        },
    });
    let done = server.post("/v1/chat/completions", &asked).ok();
    let text = done["choices"][0]["message"]["content"].as_str().expect("a text");
    let parsed: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(parsed["name"].is_string() && parsed["ok"].is_boolean(), "{text}");
    assert_eq!(done["choices"][0]["finish_reason"], "stop");
    let asked = json!({ "prompt": "A year: ", "regex": "1[0-9]{3}", "max_tokens": 20 });
    let done = server.post("/v1/completions", &asked).ok();
    let year = done["choices"][0]["text"].as_str().expect("a text");
    assert!(year.len() == 4 && year.starts_with('1'), "{year}");
    let asked = json!({ "prompt": "x", "logit_bias": { "0": -100 }, "max_tokens": 2 });
    server.post("/v1/completions", &asked).ok();
}

#[test]
fn embeddings() {
    let server = Running::start(|_| {});
    let asked = json!({ "input": ["The sea", "A hill is high"], "model": "nano" });
    let done = server.post("/v1/embeddings", &asked).ok();
    let vector = |value: &Value| -> Vec<f32> {
        value.as_array().expect("a vector").iter().map(|x| x.as_f64().expect("x") as f32).collect()
    };
    let text = Text::of(model()).expect("words");
    for (i, words) in ["The sea", "A hill is high"].into_iter().enumerate() {
        let found = vector(&done["data"][i]["embedding"]);
        let mut session = Session::new(model(), &EngineOptions::new().threads(1));
        let mut own = vec![0.0; model().d_model()];
        let ids = text.prompt(words.as_bytes()).expect("tokens");
        session.embed_with(&ids, Pooling::Last, &mut own, |_| true).expect("an embedding");
        let length = own.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(found.iter().zip(&own).all(|(a, b)| (a - b / length).abs() < 1e-5), "{words}");
    }
    let asked = json!({ "input": "The sea", "encoding_format": "base64" });
    let coded = server.post("/v1/embeddings", &asked).ok();
    let bytes = coded["data"][0]["embedding"].as_str().expect("base64");
    let bytes = BASE64_STANDARD.decode(bytes).expect("base64");
    let first = f32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    assert_eq!(first, vector(&done["data"][0]["embedding"])[0]);
    assert_eq!(bytes.len(), 4 * model().d_model());
    let mean = json!({ "input": "The sea", "pooling": "mean" });
    let mean = server.post("/v1/embeddings", &mean).ok();
    assert_ne!(mean["data"][0]["embedding"], done["data"][0]["embedding"]);
}

#[test]
fn models_health_metrics_and_the_page() {
    let server = Running::start(|_| {});
    let models = server.get("/v1/models").ok();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("nano")));
    assert_eq!(server.get("/v1/models/nano").ok()["object"], "model");
    assert_eq!(server.get("/v1/models/other").status, 404);
    assert_eq!(server.get("/health").ok()["status"], "ok");
    let secret = "a secret of the ninth hill";
    let asked = json!({ "prompt": secret, "max_tokens": 3 });
    server.post("/v1/completions", &asked).ok();
    let metrics = server.get("/metrics").text();
    let line = "brooklet_requests_total{path=\"/v1/completions\",status=\"200\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    assert!(metrics.contains("brooklet_generated_tokens_total 3"), "{metrics}");
    assert!(metrics.contains("brooklet_first_token_seconds_count 1"), "{metrics}");
    // Every sample belongs to a family with a type.
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let is_typed = |name| metrics.contains(&format!("# TYPE {name} "));
        assert!(is_typed(name) || family.is_some_and(is_typed), "{line}");
    }
    let log = server.log.lock().expect("a log").join("\n");
    assert!(log.contains("POST /v1/completions 200"), "{log}");
    assert!(!log.contains("ninth hill"), "no prompt is in the log: {log}");
    let page = server.get("/");
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    let text = page.text();
    // Nothing comes from elsewhere, and whatever it names is there.
    assert!(!text.contains("http:") && !text.contains("https:"));
    for file in ["page.css", "page.js"] {
        assert!(text.contains(file));
    }
    for file in ["page.css", "page.js", "ask.js", "tree.js", "turns.js"] {
        let found = server.get(&format!("/{file}"));
        assert_eq!(found.status, 200, "{file}");
        assert!(!found.text().contains("://") && !found.text().contains("innerHTML"), "{file}");
    }
}
