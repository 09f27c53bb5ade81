//! `chat` on a terminal of 40 columns: editing, pasting, long lines, Ctrl-C, the history, and how
//! answers look.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::support::{arg, brooklet, command, folder, model, model_with_template};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const UP: &str = "\x1b[A";

/// The binary with a terminal as its standard streams.
struct Terminal {
    child: Child,
    keys: File,
    blocks: Receiver<Vec<u8>>,
    shown: Vec<u8>,
    /// How much of it was waited for.
    seen: usize,
}

impl Terminal {
    /// `state` is where the history goes.
    fn start(args: &[&str], state: &std::path::Path, more: &[(&str, &str)]) -> Terminal {
        let size = Winsize { ws_row: 24, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(&size, None).expect("a terminal");
        let mut command = command(args);
        command.env("XDG_STATE_HOME", state).env("TERM", "xterm").env_remove("NO_COLOR");
        command.envs(more.iter().copied());
        let stream = || Stdio::from(terminal.slave.try_clone().expect("cloned"));
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn();
        drop(command);
        drop(terminal.slave);
        let keys = File::from(terminal.master);
        let mut screen = keys.try_clone().expect("cloned");
        let (send, blocks) = channel();
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            // Reading fails when nobody writes to the terminal any more.
            while let Ok(n @ 1..) = screen.read(&mut block) {
                if send.send(block[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let child = child.expect("it starts");
        Terminal { child, keys, blocks, shown: Vec::new(), seen: 0 }
    }

    /// Keys are the editor's from the moment that a prompt is shown.
    fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("it reads");
    }

    /// Waits for a text behind the last one that was waited for.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            let new = &self.shown[self.seen..];
            if let Some(at) = new.windows(text.len()).position(|here| here == text.as_bytes()) {
                self.seen += at + text.len();
                return;
            }
            let patient = start.elapsed() < Duration::from_secs(60);
            assert!(patient, "waited for {text:?}: {:?}", String::from_utf8_lossy(new));
            if let Ok(block) = self.blocks.recv_timeout(Duration::from_secs(1)) {
                self.shown.extend(block);
            }
        }
    }

    /// Waits for the end of an answer, and the prompt behind it.
    #[track_caller]
    fn is_answered(&mut self) {
        self.sees("kept");
        self.sees("> ");
    }

    /// Leaves, at the prompt; gives the exit code, and all that was shown.
    fn leaves(mut self) -> (Option<i32>, String) {
        self.keys(CTRL_D);
        self.ends()
    }

    /// The exit code, and all that was shown.
    fn ends(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        // Blocks end with the program, which holds the terminal's other side.
        let end = loop {
            match self.blocks.recv_timeout(Duration::from_secs(1)) {
                Ok(block) => self.shown.extend(block),
                Err(error) => match self.child.try_wait().expect("it is a child") {
                    Some(end) => break Some(end),
                    None if start.elapsed() > Duration::from_secs(60) => break None,
                    None if error == RecvTimeoutError::Disconnected => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    None => {}
                },
            }
        };
        let shown = String::from_utf8_lossy(&self.shown).into_owned();
        (end.unwrap_or_else(|| panic!("it does not end: {shown:?}")).code(), shown)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that has failed leaves no program behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was said in a state file.
fn said(path: &str) -> Vec<String> {
    let report = brooklet(["state", "inspect", path, "--json"]).json();
    let note: Value = serde_json::from_str(report["note"].as_str().expect("a note")).expect("JSON");
    let messages = note["messages"].as_array().expect("messages");
    messages.iter().map(|message| message["content"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn pasted_and_long_messages_arrive_whole() {
    let folder = folder();
    let (model, file) = (arg(&model()), arg(&folder.path().join("talk.brks")));
    let args = ["chat", &model, "-n", "2", "--threads", "1", "--save-state", &file];
    let mut terminal = Terminal::start(&args, folder.path(), &[]);
    terminal.sees("> ");
    terminal.keys("\x1b[200~one\rtwo 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字\r\nthree\x1b[201~\r");
    terminal.is_answered();
    // Longer than the line that a terminal keeps by itself.
    let long = "longer ".repeat(1430);
    terminal.keys(&long);
    terminal.keys("end\r");
    terminal.is_answered();
    assert_eq!(terminal.leaves().0, Some(0));
    let said = said(&file);
    assert_eq!(said[0], "one\ntwo 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字\nthree");
    assert_eq!(said[2], long + "end");
    // The talk that goes on is shown, on lines that the terminal has room for.
    let mut terminal = Terminal::start(&["chat", &model, "--state", &file], folder.path(), &[]);
    terminal.sees("> longer longer longer longer longer \r\nlonger ");
    // Of a long message the beginning, then the answer and the prompt.
    terminal.sees("…\x1b[0m\r\n");
    terminal.sees("> ");
    let (code, shown) = terminal.leaves();
    let talk = shown.split("> one").nth(1).expect("the first message");
    let lines = talk.split("longer").next().expect("a message").lines();
    assert!(lines.clone().count() > 3 && code == Some(0), "{talk:?}");
    assert!(lines.into_iter().all(|line| line.width() <= 40), "{talk:?}");
}

#[test]
fn ctrl_c_clears_the_line_and_twice_leaves() {
    let folder = folder();
    let (model, file) = (arg(&model()), arg(&folder.path().join("talk.brks")));
    let args = ["chat", &model, "-n", "2", "--threads", "1", "--save-state", &file];
    let mut terminal = Terminal::start(&args, folder.path(), &[]);
    terminal.sees("> ");
    terminal.keys("nobody reads this");
    // Keys between the note and the next prompt are the terminal's, not the editor's: Ctrl-C would
    // be a signal, to nobody here.
    terminal.keys(CTRL_C);
    terminal.sees("Ctrl-C again");
    terminal.sees("> ");
    terminal.keys("but this\r");
    terminal.is_answered();
    terminal.keys(CTRL_C);
    terminal.sees("Ctrl-C again");
    terminal.sees("> ");
    terminal.keys(CTRL_C);
    assert_eq!(terminal.ends().0, Some(130));
    assert_eq!(said(&file)[0], "but this");
}

#[test]
fn ctrl_c_stops_an_answer() {
    let folder = folder();
    let model = arg(&model());
    let args = ["chat", &model, "-n", "100000000", "--logit-bias", "97=1000", "--threads", "1"];
    let mut terminal = Terminal::start(&args, folder.path(), &[]);
    terminal.sees("> ");
    terminal.keys("Hi\r");
    // A word that no line has room for is torn.
    let line = "a".repeat(40);
    terminal.sees(&format!("{line}\r\n{line}\r\n"));
    let child = Pid::from_raw(terminal.child.id().cast_signed());
    kill(child, Signal::SIGINT).expect("the signal is sent");
    terminal.is_answered();
    terminal.keys("/edit\r");
    // The old message, to be edited.
    terminal.sees("Hi");
    // The edited message is a message, even if it looks like a command.
    terminal.keys("\x15/exit\r");
    terminal.sees(&line);
    kill(child, Signal::SIGINT).expect("the signal is sent");
    terminal.is_answered();
    assert_eq!(terminal.leaves().0, Some(0));
}

#[test]
fn the_history_is_kept() {
    let folder = folder();
    let (model, file) = (arg(&model()), arg(&folder.path().join("talk.brks")));
    let args = ["chat", &model, "-n", "2", "--threads", "1", "--save-state", &file];
    let talk = |more: &[&str], keys: &str| {
        let mut terminal = Terminal::start(&[&args[..], more].concat(), folder.path(), &[]);
        terminal.sees("> ");
        terminal.keys(keys);
        terminal.is_answered();
        assert_eq!(terminal.leaves().0, Some(0));
    };
    let history = folder.path().join("brooklet").join("chat_history");
    talk(&["--no-history"], "forget me\r");
    assert!(!history.exists());
    talk(&[], "remember me\r");
    assert!(std::fs::read_to_string(&history).expect("a history").contains("remember me"));
    talk(&[], &format!("{UP} too\r"));
    assert_eq!(said(&file)[0], "remember me too");
}

#[test]
fn reasoning_is_dim_or_folded() {
    let folder = folder();
    let template = "{% for m in messages %}{{ m.content }};{% endfor %}<think>\n";
    let model = arg(&model_with_template(folder.path(), template));
    let args = ["chat", &model, "-n", "5", "--logit-bias", "97=1000", "--threads", "1"];
    let talk = |more: &[&str], variables: &[(&str, &str)]| {
        let mut terminal = Terminal::start(&[&args[..], more].concat(), folder.path(), variables);
        terminal.sees("> ");
        terminal.keys("Hi\r");
        terminal.is_answered();
        terminal.leaves().1
    };
    assert!(talk(&[], &[]).contains("\x1b[2maaaaa\x1b[0m"));
    let plain = talk(&[], &[("NO_COLOR", "1")]);
    assert!(plain.contains("aaaaa") && !plain.contains("\x1b[2m"), "{plain:?}");
    let folded = talk(&["--hide-thinking"], &[]);
    assert!(folded.contains("thought for 5 tokens\x1b[0m\r\n") && !folded.contains("aaa"));
    // In a pipe as well.
    let piped = [&args[..], &["--hide-thinking"]].concat();
    let piped = crate::support::with_input(piped, b"Hi\n");
    assert_eq!((piped.out.as_str(), piped.code), ("\n", Some(0)));
    assert!(piped.err.contains("thought for 5 tokens"), "{piped:?}");
    assert_eq!(crate::support::with_input(args, b"Hi\n").ok(), "aaaaa\n");
}

#[test]
fn a_signal_at_the_prompt_leaves_the_terminal_as_it_was() {
    use nix::sys::termios::{LocalFlags, tcgetattr};
    let (model, folder) = (arg(&model()), folder());
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut terminal = Terminal::start(&["chat", &model, "-n", "3"], folder.path(), &[]);
        let keys = terminal.keys.try_clone().expect("cloned");
        let shows = || {
            let flags = tcgetattr(&keys).expect("a terminal").local_flags;
            flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
        };
        assert!(shows());
        terminal.sees("> ");
        // The prompt stands there before the first key is waited for.
        terminal.keys("ab");
        terminal.sees("ab");
        assert!(!shows());
        let id = Pid::from_raw(terminal.child.id() as i32);
        kill(id, signal).expect("it runs");
        let (found, shown) = terminal.ends();
        assert_eq!(found, Some(code), "{shown:?}");
        assert!(shows(), "{shown:?}");
    }
}
