//! `brooklet tokenize`: text to token ids, and back.
//!
//! Line by line, or all of the input as one text. The tokenizers are the engine's. Test:
//! `tests/cli/tokenize.rs`.

use std::io::BufReader;
use std::path::PathBuf;

use brooklet::tokenizer::Tokenizer;

use crate::failure::{Failure, Result};
use crate::{input, output, text};

/// Turns text into token ids, or ids into text.
///
/// Each line of standard input is a text of its own (without its line feed) and gives one line of
/// ids, separated by blanks; with --decode, each line of ids gives the text and a line feed. With
/// --whole all of the input is one text, line feeds and all, and gives one line of ids; decoded, it
/// comes back byte for byte.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  echo \"Once upon a time\" | brooklet tokenize model.brk
  echo \"Hello\" | brooklet tokenize world | brooklet tokenize world --decode
  brooklet tokenize tokenizer.json --whole < book.txt > ids.txt")]
pub(crate) struct Args {
    /// A model (.brk), a checkpoint, a tokenizer.json, a World vocabulary, or the word `world`
    #[arg(value_name = "MODEL|TOKENIZER")]
    tokenizer: PathBuf,
    /// From ids to text
    #[arg(long)]
    decode: bool,
    /// Take the whole input as one text
    #[arg(long)]
    whole: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result {
    let tokenizer = text::tokenizer_of(&args.tokenizer)?;
    let convert = |input: &[u8], place: &str| {
        if args.decode {
            decode(&tokenizer, input, place)
        } else {
            encode(&tokenizer, input, place)
        }
    };
    let mut out = output::Lines::new();
    if args.whole {
        out.push(&convert(&input::read_stdin()?, "standard input")?)?;
        out.push(if args.decode { b"" } else { b"\n" })?;
        return out.flush();
    }
    let mut stdin = BufReader::new(std::io::stdin().lock());
    let mut line = Vec::new();
    for number in 1.. {
        // Whoever sends the next line only after the answer to this one must get it.
        if stdin.buffer().is_empty() {
            out.flush()?;
        }
        input::read_line(&mut stdin, &mut line)?;
        if line.is_empty() {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        out.push(&convert(text, &format!("line {number}"))?)?;
        out.push(b"\n")?;
    }
    out.flush()
}

fn encode(tokenizer: &Tokenizer, text: &[u8], place: &str) -> Result<Vec<u8>> {
    let ids = tokenizer.encode(text).map_err(|error| Failure::new(format!("{place}: {error}")))?;
    Ok(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ").into_bytes())
}

fn decode(tokenizer: &Tokenizer, line: &[u8], place: &str) -> Result<Vec<u8>> {
    let text = String::from_utf8_lossy(line);
    let id = |word: &str| {
        word.parse::<u32>().map_err(|_| {
            Failure::with(
                format!("{place}: {word:?} is no token id"),
                "give whole numbers separated by blanks",
            )
        })
    };
    let ids = text.split_whitespace().map(id).collect::<Result<Vec<_>>>()?;
    tokenizer.decode(&ids).map_err(|error| Failure::new(format!("{place}: {error}")))
}
