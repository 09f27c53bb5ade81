//! `brooklet serve`: it starts, answers, and ends; arguments that make no sense.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use crate::support::{arg, brooklet, command, folder, model};

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

/// Asked to end, it does, and that is no failure.
#[cfg(unix)]
fn end(child: &mut Child) {
    use nix::sys::signal::{Signal, kill};
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    kill(pid, Signal::SIGTERM).expect("the signal is sent");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[cfg(not(unix))]
fn end(child: &mut Child) {
    child.kill().expect("it ends");
    child.wait().expect("it ends");
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
