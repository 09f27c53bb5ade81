//! Requests that make no sense, and those that mean harm.

use serde_json::{Value, json};

use crate::support::Running;

#[test]
fn a_wrong_field_is_named() {
    let server = Running::start(|options| {
        options.max_tokens = 50;
        options.max_prompt = 100;
        options.max_texts = 4;
    });
    let user = json!([{ "role": "user", "content": "x" }]);
    let chat = |name: &str, value: Value| {
        let mut body = json!({ "messages": user });
        body[name] = value;
        (server.post("/v1/chat/completions", &body).error(), format!("{name}: {}", body[name]))
    };
    for (name, value, field) in [
        ("temperature", json!("hot"), "temperature"),
        ("temperature", json!(-1), "temperature"),
        ("top_p", json!(2), "top_p"),
        ("max_tokens", json!(-1), "max_tokens"),
        ("max_tokens", json!(51), "max_tokens"),
        ("n", json!(0), "n"),
        ("n", json!(5), "n"),
        ("stop", json!(7), "stop"),
        ("stop", json!([""]), "stop"),
        ("stream", json!("yes"), "stream"),
        ("logprobs", json!(5), "logprobs"),
        ("top_logprobs", json!(3), "top_logprobs"),
        ("seed", json!(1.5), "seed"),
        ("logit_bias", json!({ "x": 1 }), "logit_bias"),
        ("logit_bias", json!({ "99999999": 1 }), ""),
        ("response_format", json!({ "type": "poem" }), "response_format.type"),
        ("response_format", json!({ "type": "json_schema" }), "response_format"),
        ("json_schema", json!({ "type": 7 }), "json_schema"),
        ("regex", json!("("), "regex"),
        ("state_id", json!("../x"), "id"),
        ("tools", json!([{ "type": "function" }]), "tools[0]"),
        ("tool_choice", json!("sometimes"), "tool_choice"),
        ("tool_choice", json!("required"), "tool_choice"),
        ("messages", json!("hello"), "messages"),
        ("messages", json!([]), "messages"),
        ("messages", json!([{ "role": "god", "content": "x" }]), "messages[0].role"),
        ("messages", json!([{ "role": "user", "content": 5 }]), "messages[0].content"),
        ("messages", json!([{ "content": "x" }]), "messages[0]"),
        (
            "messages",
            json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": "x" }] }]),
            "messages[0].content",
        ),
    ] {
        let ((status, message, param), what) = chat(name, value);
        assert_eq!((status, param.as_str()), (400, field), "{what}: {message}");
        assert!(!message.is_empty());
    }
    let (status, message, _) = server.post("/v1/chat/completions", &json!({})).error();
    assert_eq!(status, 400);
    assert!(message.contains("messages"), "{message}");
    let long = json!({ "prompt": "word ".repeat(200) });
    let answer = server.post("/v1/completions", &long);
    assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
    for body in [
        json!({ "prompt": "sea ".repeat(1 << 20) }),
        json!({ "prompt": vec![1; 1000] }),
        json!({ "prompt": ["sea", "sea ".repeat(1000)] }),
    ] {
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
    }
    let talk = json!([{ "role": "user", "content": "sea ".repeat(1 << 20) }]);
    let answer = server.post("/v1/chat/completions", &json!({ "messages": talk }));
    assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");
    for body in [
        json!({ "prompt": [] }),
        json!({ "prompt": ["x", 1] }),
        json!({ "prompt": [99_999_999] }),
        json!({ "prompt": "x", "suffix": "y" }),
        json!({ "prompt": "x", "best_of": 2 }),
        json!({ "prompt": "x", "logprobs": 100 }),
        json!({ "prompt": "x", "n": 18_446_744_073_709_551_615u64 }),
        json!({ "prompt": ["a", "b", "c"], "n": 2 }),
    ] {
        assert_eq!(server.post("/v1/completions", &body).error().0, 400, "{body}");
    }
    for body in [
        json!({ "input": [] }),
        json!({ "input": "" , "encoding_format": "hex" }),
        json!({ "input": "x", "dimensions": 3 }),
        json!({ "input": "x", "pooling": "max" }),
    ] {
        assert_eq!(server.post("/v1/embeddings", &body).error().0, 400, "{body}");
    }
    // Null is as if it were not there.
    let asked = json!({
        "messages": user, "max_tokens": 2, "stop": null, "n": null, "tools": null, "seed": null,
        "temperature": null, "response_format": null, "stream": null, "logit_bias": null,
    });
    server.post("/v1/chat/completions", &asked).ok();
}

#[test]
fn bodies_that_are_none() {
    let server = Running::start(|options| options.max_body = 1 << 16);
    let post = |body: &[u8]| server.ask("POST", "/v1/completions", "", body).error();
    for body in [&b""[..], b"{", b"[1,2", b"nothing", b"\xff\xfe", b"{\"prompt\": \"\\ud800\"}"] {
        let (status, message, _) = post(body);
        assert_eq!(status, 400, "{message}");
    }
    let deep = "[".repeat(60_000);
    assert_eq!(post(deep.as_bytes()).0, 400);
    let nested = format!("{{\"prompt\": {}1{}}}", "[".repeat(120), "]".repeat(120));
    assert_eq!(post(nested.as_bytes()).0, 400);
    assert_eq!(post(&vec![b' '; 100_000]).0, 413);
    // What is far too large is not read at all.
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Length: 100000000000\r\n\r\n";
    let mut stream = server.connect();
    std::io::Write::write_all(&mut stream, head.as_bytes()).expect("a head");
    assert_eq!(crate::support::Answer::read(stream).error().0, 413);
    assert_eq!(server.get("/v2/nothing").error().0, 404);
    assert_eq!(server.get("/v1/completions").error().0, 405);
    assert_eq!(server.get("/../etc/passwd").status, 404);
    // It goes on.
    let asked = json!({ "prompt": "x", "max_tokens": 1 });
    server.post("/v1/completions", &asked).ok();
}

#[test]
fn heads_that_are_none() {
    let server = Running::start(|_| {});
    for junk in
        [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"GET / HTTP/9\r\n"]
    {
        let mut stream = server.connect();
        std::io::Write::write_all(&mut stream, junk).expect("some bytes");
        drop(stream);
    }
    let long = format!("X-Long: {}\r\n", "y".repeat(1 << 20));
    let mut stream = server.send("GET", "/health", &long, b"");
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(server.get("/health").status, 200);
}
