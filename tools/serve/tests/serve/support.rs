//! A server that runs, and a client of a few lines.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use brooklet::{EngineOptions, Model};
use brooklet_serve::{Options, ServeError, serve};
use serde_json::Value;

/// The demo model.
pub(crate) fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Model::open(root.join("../../models/rwkv7-nano-int8.brk")).expect("the demo model")
    })
}

/// A server that ends when it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    pub(crate) log: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Running {
    /// A server with two threads and some options.
    pub(crate) fn start(change: impl FnOnce(&mut Options)) -> Running {
        let mut options = Options::new("nano");
        options.engine = EngineOptions::new().threads(1);
        options.grace = Duration::from_secs(5);
        change(&mut options);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (asked, lines) = (stop.clone(), log.clone());
        let note = move |line: &str| lines.lock().expect("a log").push(line.to_owned());
        let thread = std::thread::spawn(move || {
            serve(model(), options, listener, note, move || asked.load(Ordering::Relaxed))
        });
        Running { address, stop, log, thread: Some(thread) }
    }

    /// Asks it to end, and does not wait.
    pub(crate) fn ask_to_end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Ends it.
    pub(crate) fn end(mut self) -> Result<(), ServeError> {
        self.ask_to_end();
        self.thread.take().expect("a thread").join().expect("no panic")
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        stream
    }

    /// Sends a request, and leaves the answer unread.
    pub(crate) fn send(&self, method: &str, path: &str, head: &str, body: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\
             {head}\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("a head");
        // A server that refuses may not read all.
        let _ = stream.write_all(body);
        stream
    }

    pub(crate) fn ask(&self, method: &str, path: &str, head: &str, body: &[u8]) -> Answer {
        Answer::read(self.send(method, path, head, body))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, "", body.to_string().as_bytes())
    }

    /// The same with a key.
    pub(crate) fn post_as(&self, key: &str, path: &str, body: &Value) -> Answer {
        let head = format!("Authorization: Bearer {key}\r\n");
        self.ask("POST", path, &head, body.to_string().as_bytes())
    }

    /// A number of `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("brooklet_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    }

    /// Waits until that number is so.
    pub(crate) fn wait(&self, name: &str, is_so: impl Fn(f64) -> bool) {
        let start = Instant::now();
        while !is_so(self.metric(name)) {
            assert!(start.elapsed() < Duration::from_secs(30), "{name}: {}", self.metric(name));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ask_to_end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Answer {
    /// Reads an answer to the end of the connection.
    pub(crate) fn read(mut stream: TcpStream) -> Answer {
        let mut bytes = Vec::new();
        // A connection that is reset behind the answer has given it.
        let _ = stream.read_to_end(&mut bytes);
        Answer::parse(&bytes)
    }

    /// An answer from its bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Answer {
        let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(bytes[..at].to_vec()).expect("a head of text");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a status");
        let rest = &bytes[at + 4..];
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if is_chunked { joined(rest) } else { rest.to_vec() };
        Answer { status, head, body }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error}: {} {}", self.status, String::from_utf8_lossy(&self.body))
        })
    }

    /// The JSON of an answer that is none but 200.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The events of a stream, which ends as streams do; comments are none.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        let text = self.text();
        let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!(events.pop(), Some("data: [DONE]"));
        let json = |event: &str| serde_json::from_str(event.strip_prefix("data: ").expect("data"));
        let events = events.into_iter().filter(|event| !event.starts_with(':'));
        events.map(|event| json(event).expect("JSON")).collect()
    }

    /// Message and field of an error.
    pub(crate) fn error(&self) -> (u16, String, String) {
        let error = &self.json()["error"];
        assert!(error["type"].is_string(), "{error}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (self.status, text(&error["message"]), text(&error["param"]))
    }
}

/// The chunks of a chunked body.
fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..at]).expect("a size");
        let size = usize::from_str_radix(size.trim(), 16).expect("a size");
        let end = at + 2 + size;
        body.extend_from_slice(&rest[at + 2..end.min(rest.len())]);
        rest = rest.get(end + 2..).unwrap_or_default();
    }
    body
}
