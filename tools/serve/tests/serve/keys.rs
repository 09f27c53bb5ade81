//! Keys: who is let in, and that nobody learns of another's texts.

use brooklet_serve::Keys;
use serde_json::json;

use crate::support::Running;

fn keyed() -> Running {
    Running::start(|options| {
        options.keys = Keys::new(["alpha-key", "beta-key"].map(str::to_owned));
    })
}

#[test]
fn only_those_with_a_key_are_let_in() {
    let server = keyed();
    for path in ["/v1/models", "/metrics", "/v1/states"] {
        let (status, message, _) = server.get(path).error();
        assert_eq!(status, 401, "{path}: {message}");
    }
    for head in [
        "Authorization: Bearer wrong\r\n",
        "Authorization: Bearer alpha-ke\r\n",
        "Authorization: Bearer alpha-key2\r\n",
        "Authorization: Basic alpha-key\r\n",
        "Authorization: Bearer\r\n",
        "Authorization: é\r\n",
    ] {
        let answer = server.ask("GET", "/v1/models", head, b"");
        assert_eq!(answer.status, 401, "{head}");
        assert!(answer.head.contains("www-authenticate: Bearer"));
    }
    for head in ["Authorization: Bearer alpha-key\r\n", "authorization: bearer beta-key\r\n"] {
        assert_eq!(server.ask("GET", "/v1/models", head, b"").status, 200, "{head}");
    }
    assert_eq!((server.get("/health").status, server.get("/").status), (200, 200));
    let log = server.log.lock().expect("a log").join("\n");
    assert!(!log.contains("alpha") && !log.contains("wrong"), "{log}");
}

#[test]
fn a_prefix_is_known_to_its_own_key_alone() {
    let server = keyed();
    let canary = "The canary sang a song of the iron mountain and of nothing else at all";
    let cached = |key: &str| {
        let asked = json!({ "prompt": canary, "max_tokens": 4, "temperature": 0 });
        let done = server.post_as(key, "/v1/completions", &asked).ok();
        let cached = &done["usage"]["prompt_tokens_details"]["cached_tokens"];
        (cached.as_u64().expect("a number"), done["choices"][0]["text"].clone())
    };
    let (first, text) = cached("alpha-key");
    assert_eq!(first, 0);
    assert_eq!(cached("beta-key"), (0, text.clone()), "another key has not read it");
    let (again, same) = cached("alpha-key");
    assert!(again > 0 && same == text);
}

#[test]
fn a_state_belongs_to_its_key() {
    let server = keyed();
    let asked = json!({ "prompt": "Mine alone", "max_tokens": 4, "keep_state": true });
    let done = server.post_as("alpha-key", "/v1/completions", &asked).ok();
    let id = done["state_id"].as_str().expect("a state");
    let path = format!("/v1/states/{id}");
    let ask = |key: &str, method: &str, path: &str| {
        server.ask(method, path, &format!("Authorization: Bearer {key}\r\n"), b"").status
    };
    let forked = format!("{path}/fork");
    for (method, path) in [("GET", &path), ("DELETE", &path), ("POST", &forked)] {
        assert_eq!(ask("beta-key", method, path), 404, "{method} {path}");
    }
    let theirs = json!({ "prompt": "x", "max_tokens": 1, "state_id": id });
    assert_eq!(server.post_as("beta-key", "/v1/completions", &theirs).status, 404);
    let head = "Authorization: Bearer beta-key\r\n";
    assert_eq!(server.ask("GET", "/v1/states", head, b"").ok()["data"], json!([]));
    assert_eq!(ask("alpha-key", "GET", &path), 200);
}

#[test]
fn foreign_pages_are_refused() {
    let server = Running::start(|options| options.hosts = vec!["box.example".to_owned()]);
    let raw = |host: &str, head: &str| {
        let mut stream = server.connect();
        let head =
            format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}\r\n");
        std::io::Write::write_all(&mut stream, head.as_bytes()).expect("a head");
        crate::support::Answer::read(stream).status
    };
    let own = server.address.to_string();
    for (host, origin, status) in [
        (own.as_str(), "", 200),
        ("localhost:1", "", 200),
        ("[::1]:8080", "", 200),
        ("box.example", "", 200),
        ("evil.example", "", 403),
        ("evil.example:8080", "", 403),
        ("localhost.evil.example", "", 403),
        ("localhost:1", "Origin: http://localhost:1\r\n", 200),
        ("localhost:1", "Origin: http://localhost:2\r\n", 403),
        ("localhost:1", "Origin: https://evil.example\r\n", 403),
        ("localhost:1", "Origin: null\r\n", 403),
    ] {
        assert_eq!(raw(host, origin), status, "{host} {origin}");
    }
}
