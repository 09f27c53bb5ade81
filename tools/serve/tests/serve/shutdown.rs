//! The end of a server.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::openai::alone;
use crate::support::{Answer, Running};

#[test]
fn texts_at_hand_are_written() {
    let server = Running::start(|_| {});
    let asked = json!({ "prompt": "The sea", "max_tokens": 60, "temperature": 0, "stream": true });
    let mut open = server.send("POST", "/v1/completions", "", asked.to_string().as_bytes());
    let mut first = [0; 1];
    open.read_exact(&mut first).expect("it has begun");
    let rest = std::thread::spawn(move || {
        let mut bytes = first.to_vec();
        open.read_to_end(&mut bytes).expect("an answer");
        String::from_utf8(bytes).expect("text")
    });
    server.end().expect("a server that ends well");
    let text = rest.join().expect("an answer");
    assert!(text.contains("data: [DONE]"), "{text}");
    assert!(text.contains("\"finish_reason\":\"length\""), "{text}");
}

#[test]
fn texts_without_an_end_are_cut_short() {
    let server = Running::start(|options| {
        options.max_tokens = 1_000_000;
        options.grace = Duration::from_millis(200);
    });
    let endless = json!({ "prompt": "x", "max_tokens": 1_000_000, "ignore_eos": true });
    let open = server.send("POST", "/v1/completions", "", endless.to_string().as_bytes());
    server.wait("texts_running", |n| n == 1.0);
    let start = Instant::now();
    server.end().expect("a server that ends well");
    assert!(start.elapsed() < Duration::from_secs(30));
    let answer = Answer::read(open);
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].clone()),
        (503, json!("shutting_down"))
    );
}

#[test]
fn a_server_begins_again_at_once() {
    let server = Running::start(|_| {});
    let address = server.address;
    server.get("/health").ok();
    server.end().expect("a server that ends well");
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
    assert!(!alone("x", 1).is_empty());
}
