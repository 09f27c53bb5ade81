//! `brooklet serve`: it starts, answers, and ends; arguments that make no sense.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::{arg, brooklet, command, folder, model, model_with_template};

/// A server on a free port, and its address.
fn start(args: &[&str]) -> (Child, String) {
    let mut child = command(["serve", "--port", "0", "--threads", "1"].iter().chain(args))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    let address = address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
    // Nobody shall wait for its log to be read.
    std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
    (child, address)
}

fn ask(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let length = body.len();
    let ask = format!(
        "{head} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n\
         {body}"
    );
    stream.write_all(ask.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn it_answers_and_ends() {
    let temp = folder();
    let cache = format!("1MB:{}", arg(&temp.path().join("cache")));
    let (mut child, address) = start(&[&arg(&model()), "--prefix-cache", &cache, "--name", "tiny"]);
    let models = ask(&address, "GET /v1/models", "");
    assert!(models.contains("\"id\":\"tiny\""), "{models}");
    // A model without a template, too, has the plain one.
    let body = r#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}"#;
    let answer = ask(&address, "POST /v1/chat/completions", body);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(temp.path().join("cache/open").is_dir());
    end(&mut child);
}

#[test]
fn a_template_gets_tools_and_variables() {
    let temp = folder();
    let template = "{% for m in messages %}{{ m.content }}{% if m.tool_calls is defined %}\
                    {{ m.tool_calls[0].function.arguments.x }}{% endif %}{% endfor %}\
                    {% if tools %}{{ tools[0].function.name }}{% endif %}\
                    {% if messages[0].content == 'no' %}{{ raise_exception('not so') }}{% endif %}\
                    {% if enable_thinking %}<think>{% endif %}";
    let (mut child, address) = start(&[&arg(&model_with_template(temp.path(), template))]);
    let ask = |body: serde_json::Value| {
        let answer = ask(&address, "POST /v1/chat/completions", &body.to_string());
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        let status = head.split(' ').nth(1).expect("a status").to_owned();
        (status, serde_json::from_str::<serde_json::Value>(body).expect("JSON"))
    };
    let user = json!({ "role": "user", "content": "abc" });
    let plain = json!({ "messages": [user], "max_tokens": 4 });
    // Every byte is a token.
    let (_, answer) = ask(plain.clone());
    assert_eq!(answer["usage"]["prompt_tokens"], 3, "{answer}");
    let mut tools = plain.clone();
    tools["tools"] = json!([{ "type": "function", "function": { "name": "look", "x": [1, {}] } }]);
    let call = json!({ "function": { "name": "look", "arguments": "{\"x\": \"12345\"}" } });
    tools["messages"] = json!([
        user, { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "content": "de" },
    ]);
    let (_, answer) = ask(tools.clone());
    assert_eq!(answer["usage"]["prompt_tokens"], 3 + 5 + 2 + 4, "{answer}");
    tools["tool_choice"] = json!("none");
    let (_, answer) = ask(tools);
    assert_eq!(answer["usage"]["prompt_tokens"], 3 + 5 + 2, "{answer}");
    let mut thinking = plain.clone();
    thinking["chat_template_kwargs"] = json!({ "enable_thinking": true });
    thinking["max_tokens"] = json!(40);
    let (_, answer) = ask(thinking);
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "", "{answer}");
    assert!(!message["reasoning_content"].as_str().expect("reasoning").is_empty(), "{answer}");
    let (status, answer) = ask(json!({ "messages": [{ "role": "user", "content": "no" }] }));
    let what = answer["error"]["message"].as_str().expect("a message");
    assert!(status == "400" && what.contains("not so"), "{answer}");
    end(&mut child);
}

/// Asked to end, it does, and that is no failure.
fn end(child: &mut Child) {
    let pid = Pid::from_raw(child.id().cast_signed());
    kill(pid, Signal::SIGTERM).expect("the signal is sent");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_server_that_is_killed_leaves_whole_states_for_the_next() {
    let temp = folder();
    let cache = format!("100MB:{}", arg(&temp.path().join("cache")));
    let args = [&arg(&model()), "--prefix-cache", &cache];
    let ask_for = |address: &str, prompt: &str| {
        let body = json!({ "prompt": prompt, "max_tokens": 4, "temperature": 0 });
        let answer = ask(address, "POST /v1/completions", &body.to_string());
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        serde_json::from_str::<serde_json::Value>(body).expect("JSON")
    };
    let (mut child, address) = start(&args);
    let prompts: Vec<String> = (0..40).map(|i| format!("{i} ships on the sea")).collect();
    let texts: Vec<_> = prompts.iter().map(|prompt| ask_for(&address, prompt)).collect();
    // While copies are being written.
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let tiny = brooklet::Model::open(model()).expect("a model");
    for entry in std::fs::read_dir(temp.path().join("cache/open")).expect("the folder") {
        let path = entry.expect("an entry").path();
        // What was being written has another ending.
        if path.extension().is_some_and(|end| end == "brks") {
            brooklet::Snapshot::load(&tiny, &path).expect("a whole state");
        }
    }
    let (mut child, address) = start(&args);
    for (prompt, text) in prompts.iter().zip(&texts) {
        assert_eq!(ask_for(&address, prompt)["choices"], text["choices"]);
    }
    end(&mut child);
    // One that ends by itself has written all of them.
    let (mut child, address) = start(&args);
    for prompt in &prompts {
        let cached = &ask_for(&address, prompt)["usage"]["prompt_tokens_details"]["cached_tokens"];
        assert!(cached.as_u64() > Some(0), "{prompt}: {cached}");
    }
    end(&mut child);
}

#[test]
fn mistakes() {
    let (temp, model) = (folder(), arg(&model()));
    let empty = temp.path().join("keys");
    std::fs::write(&empty, "# none\n\n").expect("a file");
    let line = brooklet(["serve", &model, "--key-file", &arg(&empty)]).fails(2);
    assert!(line.contains("no key is in it"), "{line}");
    let line = brooklet(["serve", &model, "--port", "0", "--regex", "a+"]).fails(2);
    assert!(line.contains("a grammar for all requests"), "{line}");
    for size in ["much", "1TBB", "99999999999999999999GB", "1MB:"] {
        let line = brooklet(["serve", &model, "--prefix-cache", size]).fails(2);
        assert!(line.contains("prefix-cache"), "{line}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let line = brooklet(["serve", &model, "--port", &port]).fails(1);
    assert!(line.contains("cannot listen") && line.contains(&port), "{line}");
}
