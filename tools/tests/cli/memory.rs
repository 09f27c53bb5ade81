//! Resources of a running model: memory of its own, pages shared between processes, address space,
//! threads. Linux only.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::{arg, command, finish};

/// The demo model.
fn demo() -> String {
    arg(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rwkv7-nano-int8.brk"))
}

/// A process that writes text until it is killed.
struct Running(Child);

impl Running {
    /// Starts it and waits for the first text.
    fn start(more: &[&str]) -> Running {
        let model = demo();
        let args =
            ["run", &model, "-p", "Once upon a time", "-n", "100000000", "--ignore-eos", "--quiet"];
        let child = command([&args[..], more].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.expect("it starts");
        let mut text = [0; 200];
        let mut out = child.stdout.take().expect("stdout");
        out.read_exact(&mut text).expect("text comes");
        // Somebody goes on reading, so that it goes on writing.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        Running(child)
    }

    /// A field of /proc/PID/FILE, in kB, summed where it occurs several times.
    fn kb(&self, file: &str, field: &str) -> u64 {
        let path = format!("/proc/{}/{file}", self.0.id());
        let text = std::fs::read_to_string(path).expect("Linux");
        let lines = text.lines().filter_map(|line| line.strip_prefix(field));
        lines
            .map(|line| line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number"))
            .sum()
    }

    /// The same field over the mapping of the model's file alone.
    fn kb_of_the_model(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps", self.0.id())).expect("Linux");
        let mut inside = false;
        let mut sum = 0;
        for line in text.lines() {
            let is_head = line.split_whitespace().next().is_some_and(|word| word.contains('-'));
            if is_head {
                inside = line.ends_with("rwkv7-nano-int8.brk");
            } else if let (true, Some(kb)) = (inside, line.strip_prefix(field)) {
                sum += kb.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
            }
        }
        sum
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_demo_model_takes_less_than_16_mb_of_its_own() {
    let running = Running::start(&["--threads", "2"]);
    let (dirty, anonymous) =
        (running.kb("smaps_rollup", "Private_Dirty:"), running.kb("status", "RssAnon:"));
    println!("private {dirty} kB, anonymous {anonymous} kB");
    assert!(dirty < 16_000 && anonymous < 16_000, "{dirty} kB dirty, {anonymous} kB anonymous");
    assert!(running.kb_of_the_model("Rss:") > 1000, "the model is mapped");
}

#[test]
fn two_processes_share_the_pages_of_one_model() {
    // The test binary runs elsewhere at the same time: others may map the file too, which only
    // makes the shares smaller.
    let one = Running::start(&["--threads", "1"]);
    let two = Running::start(&["--threads", "1"]);
    std::thread::sleep(Duration::from_millis(200));
    for running in [&one, &two] {
        let (rss, pss) = (running.kb_of_the_model("Rss:"), running.kb_of_the_model("Pss:"));
        println!("mapped {rss} kB, of which {pss} kB are this process's share");
        assert!(rss > 1000 && pss <= rss * 6 / 10, "{rss} kB resident, {pss} kB proportional");
        assert_eq!(running.kb_of_the_model("Private_Dirty:"), 0, "nothing of it was written to");
    }
    let copied = Running::start(&["--threads", "1", "--no-mmap"]);
    assert_eq!(copied.kb_of_the_model("Rss:"), 0, "--no-mmap maps nothing");
}

#[test]
fn one_thread_is_one_task() {
    let processors = std::thread::available_parallelism().expect("Linux").get();
    for (threads, tasks) in [("1", 1), ("3", 3.min(processors))] {
        let running = Running::start(&["--threads", threads]);
        let found =
            std::fs::read_dir(format!("/proc/{}/task", running.0.id())).expect("Linux").count();
        assert_eq!(found, tasks, "with --threads {threads}");
    }
}

#[test]
fn a_small_address_space_is_enough() {
    let script =
        "ulimit -v 131072; exec \"$0\" run \"$1\" -p Once -n 20 --threads 2 --json --seed 1";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_brooklet"), &demo()]);
    assert_eq!(finish(&mut shell, b"").json()["generated_tokens"], 20);
    // Far too little is an error in one line, not a crash.
    let script = "ulimit -v 9000; exec \"$0\" inspect \"$1\"";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_brooklet"), &demo()]);
    assert_ne!(finish(&mut shell, b"").code, Some(0));
}
