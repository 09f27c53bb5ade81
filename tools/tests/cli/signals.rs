//! Ctrl-C and closed pipes: the program ends, keeps what it has written, and leaves nothing
//! half-made.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    arg, checkpoint, command, finish, folder, model, model_with_template, names_in,
    write_checkpoint,
};

fn interrupt(child: &Child) {
    send(child, Signal::SIGINT);
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("the signal is sent");
}

fn start(args: &[&str]) -> Child {
    command(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_interrupted_text_is_kept() {
    // Characters of one byte only, so that text comes with every token.
    let bias: Vec<String> =
        (0..256).filter(|id| !(97..123).contains(id)).map(|id| format!("{id}=-inf")).collect();
    let model = arg(&model());
    let mut args = vec!["run", &model, "-p", "x", "-n", "100000000", "--threads", "1"];
    args.extend(bias.iter().flat_map(|bias| ["--logit-bias", bias]));
    let mut child = start(&args);
    let mut out = child.stdout.take().expect("stdout");
    let mut first = [0; 20];
    out.read_exact(&mut first).expect("text comes");
    interrupt(&child);
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).expect("it ends");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(first.iter().chain(&rest).all(u8::is_ascii_lowercase));
}

#[test]
fn an_interrupted_json_is_whole() {
    let model = arg(&model());
    let mut child = start(&[
        "run",
        &model,
        "-p",
        "x",
        "-n",
        "100000000",
        "--json",
        "--seed",
        "1",
        "--threads",
        "1",
    ]);
    let mut err = BufReader::new(child.stderr.take().expect("stderr"));
    let mut line = String::new();
    err.read_line(&mut line).expect("the seed is shown");
    assert_eq!(line, "seed 1\n");
    std::thread::sleep(Duration::from_millis(50));
    interrupt(&child);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["stop_reason"], "interrupted");
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let folder = folder();
    let source = folder.path().join("deep.safetensors");
    write_checkpoint(&source, 3, 200);
    let target = folder.path().join("out.brk");
    let partly = |folder: &Path| names_in(folder).iter().any(|name| name.ends_with(".part"));
    let mut child = start(&[
        "convert",
        &arg(&source),
        "-o",
        &arg(&target),
        "--type",
        "int4",
        "--calibrate=off",
    ]);
    wait_until("the temporary file", || partly(folder.path()));
    interrupt(&child);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(names_in(folder.path()), ["deep.safetensors"]);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let model = arg(&model());
    let long = ["run", &model, "-p", "x", "-n", "100000000", "--threads", "1", "--quiet"];
    for args in [&long[..], &["inspect", &model, "--json"], &["--help"], &["run", "--help"]] {
        let mut child = start(args);
        drop(child.stdout.take());
        let mut err = String::new();
        child.stderr.take().expect("stderr").read_to_string(&mut err).expect("it ends");
        assert_eq!(
            (child.wait().expect("it ends").code(), err.as_str()),
            (Some(0), ""),
            "{args:?}"
        );
    }
}

#[test]
fn a_limit_on_file_sizes_is_a_failed_write() {
    let folder = folder();
    let target = arg(&folder.path().join("out.brk"));
    let script = "ulimit -f 8; exec \"$0\" convert \"$1\" -o \"$2\" --type f32";
    let binary = env!("CARGO_BIN_EXE_brooklet");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, binary, &arg(&checkpoint()), &target]);
    let line = finish(&mut shell, b"").fails(1);
    assert!(line.contains("out.brk") && line.contains("ulimit -f"), "{line}");
    assert_eq!(names_in(folder.path()), [""; 0]);
}

/// Starts `run` with the tiny model, tells when it has written some text, and what more it is
/// given.
fn endless(more: &[&str]) -> Child {
    let model = arg(&model());
    let args =
        ["run", &model, "-p", "x", "-n", "100000000", "--threads", "1", "--temp", "0", "--quiet"];
    let mut child = start(&[&args[..], more].concat());
    let mut out = child.stdout.take().expect("stdout");
    out.read_exact(&mut [0; 20]).expect("text comes");
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    child
}

#[test]
fn each_signal_has_its_exit_status() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut child = endless(&[]);
        send(&child, signal);
        assert_eq!(child.wait().expect("it ends").code(), Some(code), "{signal}");
        // Also where nothing is being done: a chat that waits for a line.
        let mut waiting = command(["chat", &arg(&model())])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(waiting.stderr.take().expect("stderr"))
            .read_line(&mut line)
            .expect("a note");
        send(&waiting, signal);
        assert_eq!(waiting.wait().expect("it ends").code(), Some(code), "{signal}");
    }
}

#[test]
fn a_template_at_work_is_ended_by_the_first_signal() {
    let folder = folder();
    let endless = "{% for a in range(99999) %}".repeat(3) + &"{% endfor %}".repeat(3);
    let model = arg(&model_with_template(folder.path(), &endless));
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut child = command(["chat", &model, "-q"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut input = child.stdin.take().expect("stdin");
        input.write_all(b"Hi\n").expect("it reads");
        // Long enough to begin, and far from the end of its patience.
        std::thread::sleep(Duration::from_millis(100));
        send(&child, signal);
        assert_eq!(child.wait().expect("it ends").code(), Some(code), "{signal}");
    }
}

#[test]
fn an_interrupted_text_saves_its_state() {
    let folder = folder();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let file = arg(&folder.path().join("state.brks"));
        let mut child = endless(&["--save-state", &file]);
        send(&child, signal);
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
        let report = crate::support::brooklet(["state", "inspect", &file, "--json"]).json();
        assert!(
            report["position"].as_u64().is_some_and(|n| n >= 5) && report["unread"] == 1,
            "{report}"
        );
        crate::support::brooklet(["run", &arg(&model()), "--state", &file, "-n", "2"]).ok();
        assert_eq!(names_in(folder.path()), ["state.brks"]);
    }
}

#[test]
fn hashing_a_large_source_can_be_interrupted() {
    let folder = folder();
    let source = folder.path().join("large.safetensors");
    write_checkpoint(&source, 3, 2);
    // A tail of many gigabytes that takes no room on the disk: hashing it would take seconds. Its
    // name is one that conversion ignores.
    let header = std::fs::read(&source).expect("bytes");
    let len = 64u64 << 30;
    let text_len = u64::from_le_bytes(header[..8].try_into().expect("eight bytes")) as usize;
    let mut json: serde_json::Value =
        serde_json::from_slice(&header[8..8 + text_len]).expect("JSON");
    let used = (header.len() - 8 - text_len) as u64;
    json["blk.0.time_mix_v0.weight"] =
        serde_json::json!({ "dtype": "U8", "shape": [len], "data_offsets": [used, used + len] });
    let text = serde_json::to_vec(&json).expect("JSON");
    let bytes = [&(text.len() as u64).to_le_bytes()[..], &text, &header[8 + text_len..]].concat();
    std::fs::write(&source, &bytes).expect("written");
    let file = std::fs::File::options().write(true).open(&source).expect("the file");
    if file.set_len(bytes.len() as u64 + len).is_err() {
        eprintln!("skipped: no sparse files here");
        return;
    }
    let target = folder.path().join("out.brk");
    let mut child = start(&["convert", &arg(&source), "-o", &arg(&target)]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().expect("it can be asked").is_none(), "it is still hashing");
    let sent = Instant::now();
    interrupt(&child);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(sent.elapsed() < Duration::from_secs(3), "{:?}", sent.elapsed());
    assert_eq!(names_in(folder.path()), ["large.safetensors"]);
}
