//! Text that a terminal would obey: escapes in names, metadata, texts and errors are shown, `--raw`
//! and pipes get them as they are.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;

use nix::pty::openpty;

use crate::support::{arg, brooklet, checkpoint, command, folder, model, with_input};

/// Colours, the title, another direction.
const HOSTILE: &str = "\u{1b}[31m\u{1b}]0;title\u{7}\u{202e}\u{9b}";
const SHOWN: &str = "\\x1b[31m\\x1b]0;title\\x07\\u{202e}\\x9b";

/// Whatever could move, recolour or reverse.
fn obeyed(text: &str) -> bool {
    text.contains(|c: char| (c.is_control() && !"\r\n\t".contains(c)) || c == '\u{202e}')
}

/// Runs the binary with stdout and stderr on a terminal, and returns what it shows.
fn on_terminal(args: &[&str], input: &[u8]) -> String {
    let terminal = openpty(None, None).expect("a terminal");
    let mut child = {
        let screen = || Stdio::from(terminal.slave.try_clone().expect("cloned"));
        let mut command = command(args);
        command.stdin(Stdio::piped()).stdout(screen()).stderr(screen()).spawn().expect("it starts")
    };
    drop(terminal.slave);
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(input).expect("it reads");
    drop(stdin);
    let (mut shown, mut block) = (Vec::new(), [0; 4096]);
    let mut screen = File::from(terminal.master);
    // Reading fails when nobody writes to the terminal any more.
    while let Ok(n @ 1..) = screen.read(&mut block) {
        shown.extend(&block[..n]);
    }
    child.wait().expect("it ends");
    String::from_utf8(shown).expect("UTF-8")
}

#[test]
fn names_and_metadata_are_shown() {
    let folder = folder();
    let source = folder.path().join(format!("x{}\ny.safetensors", HOSTILE));
    std::fs::copy(checkpoint(), &source).expect("copied");
    let target = arg(&folder.path().join(format!("m{HOSTILE}.brk")));
    let done = on_terminal(&["convert", &arg(&source), "-o", &target], b"");
    // The bar itself moves the cursor.
    assert!(done.contains(&format!("m{SHOWN}.brk")) && !done.contains(HOSTILE), "{done:?}");
    for shown in [on_terminal(&["inspect", &target], b""), brooklet(["inspect", &target]).ok()] {
        assert!(shown.contains(&format!("m{SHOWN}.brk")), "{shown}");
        assert!(shown.contains(&format!("x{SHOWN}\\ny.safetensors")), "{shown}");
        assert!(!obeyed(&shown), "{shown:?}");
    }
    let raw = brooklet(["inspect", &target, "--raw"]).ok();
    assert!(raw.contains(&format!("x{HOSTILE}\ny.safetensors")), "{raw:?}");
    let json = brooklet(["inspect", &target, "--json", "--raw"]);
    assert!(!obeyed(&json.out) && json.out.contains("\\u202e\\u009b"), "{json:?}");
    let report = json.json();
    assert_eq!(report["provenance"]["source_file"], format!("x{HOSTILE}\ny.safetensors"));
}

#[test]
fn generated_text_is_shown_on_a_terminal() {
    let model = arg(&model());
    let run = ["run", &model, "-n", "2", "--logit-bias", "27=1000", "-q", "-p", HOSTILE];
    let chat = ["chat", &model, "-n", "2", "--logit-bias", "27=1000", "-q"];
    let shown = on_terminal(&run, b"");
    assert_eq!(shown, format!("{SHOWN}\\x1b\\x1b\r\n"));
    assert_eq!(on_terminal(&chat, b"Hi\n"), "\\x1b\\x1b\r\n");
    // Its own way to a program or a file.
    assert_eq!(brooklet(run).ok(), "\u{1b}\u{1b}");
    assert_eq!(with_input(chat, b"Hi\n").ok(), "\u{1b}\u{1b}\n");
    let raw = on_terminal(&[&run[..], &["--raw"]].concat(), b"");
    assert_eq!(raw, format!("{HOSTILE}\u{1b}\u{1b}\r\n"));
    let raw = on_terminal(&[&chat[..], &["--raw"]].concat(), b"Hi\n");
    assert_eq!(raw, "\u{1b}\u{1b}\r\n");
    let json = brooklet([&run[..], &["--json"]].concat());
    assert!(!obeyed(&json.out), "{json:?}");
    assert_eq!(json.json()["text"], "\u{1b}\u{1b}");
}

#[test]
fn decoded_tokens_are_shown_on_a_terminal() {
    let ids = b"27 226 128 174 240 159 145 169 226 128 141 240 159 145 167 255\n";
    let decode = ["tokenize", "bytes", "--decode"];
    assert_eq!(on_terminal(&decode, ids), "\\x1b\\u{202e}👩\u{200d}👧\\xff\r\n");
    let piped = with_input(decode, ids).raw;
    assert_eq!(piped, b"\x1b\xe2\x80\xae\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7\xff\n");
}

#[test]
fn errors_and_notes_are_shown_wherever_they_go() {
    let option = format!("--bo{HOSTILE}");
    for args in [
        &["run", &option][..],
        &[HOSTILE],
        &["run", "--threads", HOSTILE],
        &["run", "x", "y", HOSTILE],
        &["bench", "--synthetic", HOSTILE],
        &["inspect", HOSTILE],
        &["run", "--temp", HOSTILE],
        &["eval", &arg(&model()), "--text", HOSTILE],
    ] {
        for args in [args.to_vec(), [args, &["--raw"]].concat()] {
            let done = brooklet(&args);
            assert!(matches!(done.code, Some(1 | 2)), "{done:?}");
            // The parser of arguments drops colours by itself.
            assert!(done.err.contains("\\u{202e}\\x9b") && !obeyed(&done.err), "{done:?}");
            assert!(!obeyed(&on_terminal(&args, b"")), "{args:?}");
        }
    }
    let line = format!("/{HOSTILE}\n");
    let done = with_input(["chat", &arg(&model())], line.as_bytes());
    assert!(done.err.contains(&format!("/{SHOWN} is no command")), "{done:?}");
}
