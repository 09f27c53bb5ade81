//! Clients that come together, leave, or do not read.

use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};

use crate::openai::alone;
use crate::support::{Answer, Running};

#[test]
fn identical_requests_have_one_answer_whoever_leaves_between() {
    let server = Running::start(|options| options.parallel = 5);
    let prompt = "The captain of the ship";
    let asked = json!({ "prompt": prompt, "max_tokens": 20, "temperature": 0 });
    let endless = json!({
        "prompt": prompt, "max_tokens": 16_000, "ignore_eos": true, "stream": true,
    });
    let mut open = Vec::new();
    for i in 0..12 {
        let body = asked.to_string();
        open.push(server.send("POST", "/v1/completions", "", body.as_bytes()));
        if i % 3 == 0 {
            let body = endless.to_string();
            let mut left = server.send("POST", "/v1/completions", "", body.as_bytes());
            if i % 2 == 0 {
                // One that has begun to read leaves, another leaves at once.
                let _ = left.read(&mut [0; 16]);
            }
        }
    }
    let expected = alone(prompt, 20);
    for stream in open {
        let done = Answer::read(stream).ok();
        assert_eq!(done["choices"][0]["text"], expected);
    }
    server.wait("texts_running", |n| n == 0.0);
    assert_eq!(server.metric("texts_waiting"), 0.0);
    // Those that have begun; of the others nobody may have heard.
    assert!(server.metric("cancelled_total") >= 2.0);
}

#[test]
fn whoever_leaves_is_cancelled() {
    let server = Running::start(|options| options.max_tokens = 1_000_000);
    for stream in [true, false] {
        let asked = json!({ "prompt": "x", "max_tokens": 1_000_000, "ignore_eos": true,
                            "stream": stream });
        let open = server.send("POST", "/v1/completions", "", asked.to_string().as_bytes());
        server.wait("texts_running", |n| n == 1.0);
        drop(open);
        server.wait("texts_running", |n| n == 0.0);
    }
}

#[test]
fn whoever_leaves_while_waiting_is_never_begun() {
    let server = Running::start(|options| {
        (options.parallel, options.max_tokens) = (1, 1_000_000);
    });
    for stream in [true, false] {
        let endless = json!({ "prompt": "x", "max_tokens": 1_000_000, "ignore_eos": true,
                              "stream": stream });
        let send = || server.send("POST", "/v1/completions", "", endless.to_string().as_bytes());
        let first = send();
        server.wait("texts_running", |n| n == 1.0);
        let second = send();
        server.wait("texts_waiting", |n| n == 1.0);
        // The first one goes on, so that nothing but having left can end the second one.
        drop(second);
        server.wait("texts_waiting", |n| n == 0.0);
        assert_eq!(server.metric("texts_running"), 1.0);
        drop(first);
        server.wait("texts_running", |n| n == 0.0);
    }
    assert_eq!(server.metric("cancelled_total"), 4.0);
}

#[test]
fn whoever_does_not_read_is_cancelled() {
    let server = Running::start(|options| {
        options.max_tokens = 1_000_000;
        options.patience = Duration::from_millis(300);
    });
    let asked = json!({
        "prompt": "x", "max_tokens": 1_000_000, "ignore_eos": true, "stream": true, "n": 4,
        // Much to send, so that the socket is full soon.
        "logprobs": 20,
    });
    let open = server.send("POST", "/v1/completions", "", asked.to_string().as_bytes());
    server.wait("texts_running", |n| n == 4.0);
    // Others go on beside it.
    let other = json!({ "prompt": "The sea", "max_tokens": 5, "temperature": 0 });
    let done = server.post("/v1/completions", &other).ok();
    assert_eq!(done["choices"][0]["text"], alone("The sea", 5));
    server.wait("texts_running", |n| n == 0.0);
    assert_eq!(server.metric("cancelled_total"), 1.0);
    drop(open);
}

#[test]
fn a_full_queue_says_so_and_time_ends_requests() {
    let server = Running::start(|options| {
        (options.parallel, options.queue) = (1, 1);
        options.max_tokens = 1_000_000;
        options.timeout = Duration::from_millis(1500);
    });
    let endless = json!({ "prompt": "x", "max_tokens": 1_000_000, "ignore_eos": true });
    let send =
        |body: &Value| server.send("POST", "/v1/completions", "", body.to_string().as_bytes());
    let first = send(&endless);
    server.wait("texts_running", |n| n == 1.0);
    let second = send(&endless);
    server.wait("texts_waiting", |n| n == 1.0);
    let refused = server.post("/v1/completions", &endless);
    assert_eq!(refused.status, 429);
    assert!(refused.head.contains("retry-after:"), "{}", refused.head);
    assert_eq!(refused.json()["error"]["code"], "queue_full");
    for open in [first, second] {
        assert_eq!(Answer::read(open).status, 504);
    }
    server.wait("texts_running", |n| n == 0.0);
    let mut streamed = endless.clone();
    streamed["stream"] = json!(true);
    let text = Answer::read(send(&streamed)).text();
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    assert!(last.contains("\"timeout\""), "{last}");
}

#[test]
fn a_stream_begins_while_its_prompt_waits() {
    let server = Running::start(|options| {
        (options.parallel, options.max_tokens) = (1, 1_000_000);
    });
    let endless = json!({ "prompt": "x", "max_tokens": 1_000_000, "ignore_eos": true });
    let send =
        |body: &Value| server.send("POST", "/v1/completions", "", body.to_string().as_bytes());
    let first = send(&endless);
    server.wait("texts_running", |n| n == 1.0);
    let asked = json!({ "prompt": "The sea", "max_tokens": 5, "temperature": 0, "stream": true });
    let mut second = send(&asked);
    // The other one has all the room: nothing but a head and a comment can come.
    let mut bytes = Vec::new();
    while !bytes.ends_with(b": reading\n\n\r\n") {
        let mut next = [0];
        second.read_exact(&mut next).expect("more of the answer");
        bytes.extend(next);
    }
    let begun = String::from_utf8(bytes.clone()).expect("text");
    assert!(begun.starts_with("HTTP/1.1 200") && !begun.contains("data:"), "{begun}");
    drop(first);
    second.read_to_end(&mut bytes).expect("the rest");
    let events = Answer::parse(&bytes).events();
    let texts = events.iter().filter_map(|event| event["choices"][0]["text"].as_str());
    assert_eq!(texts.collect::<String>(), alone("The sea", 5));
}

#[test]
fn many_connections_that_say_nothing() {
    let server = Running::start(|_| {});
    let idle: Vec<_> = (0..300).map(|_| server.connect()).collect();
    assert_eq!(server.get("/health").status, 200);
    assert!(server.metric("connections") >= 300.0);
    drop(idle);
    server.wait("connections", |n| n < 10.0);
}
