//! `brooklet chat`: a conversation on the terminal, its state kept from turn to turn.
//!
//! Each turn feeds the model only what it has not read yet. Where a template changes earlier turns (some trim them), the
//! conversation is read again from the start. Not here: the texts' format (`template`) and the loop that writes
//! (`generate`). Test: `tests/cli/chat.rs`.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use brooklet::generate::{Limits, Reason};
use brooklet::sampler::Sampler;
use brooklet::{Model, Session, Text};

use crate::args::{EngineArgs, SamplerArgs};
use crate::failure::{Failure, Result};
use crate::generate::generate;
use crate::interrupt::Watch;
use crate::run::prefill;
use crate::template::{Message, Role, Template};
use crate::{demo, output};

const COMMANDS: &str = "/reset starts over, /exit (or Ctrl-D) ends, Ctrl-C cuts an answer short";

/// Holds a conversation.
///
/// Each line is a turn. The model's own chat template is used where the file has one, a plain `User: … Assistant: …` format
/// otherwise. Lines that begin with a slash are commands: /reset starts over, /exit (or Ctrl-D) ends, /help lists them.
/// Ctrl-C cuts an answer short.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet chat model.brk
  brooklet chat model.brk --system \"Answer in one sentence.\" --temp 0.5
  printf 'Hello\\nAnd you?\\n' | brooklet chat model.brk --quiet")]
pub(crate) struct Args {
    /// The model (.brk) [default: the demo model]
    model: Option<PathBuf>,
    /// Instructions before the first turn
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Use the plain format even if the file has a chat template
    #[arg(long)]
    plain: bool,
    /// Tokens of an answer at most
    #[arg(short, long = "tokens", value_name = "N", default_value_t = 512)]
    n: usize,
    /// End an answer before this string. May be given several times
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    stop: Vec<String>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let path = demo::model_or_demo(args.model.as_deref())?;
    let model = args.engine.open(&path)?;
    let mut chat = Chat::new(&model, args)?;
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !quiet {
        output::note(&format!("{}, seed {}; {COMMANDS}", path.display(), chat.sampler.seed()));
    }
    let mut input = std::io::stdin().lock();
    loop {
        if interactive {
            output::text("> ")?;
        }
        let mut line = String::new();
        if input.read_line(&mut line).map_err(Failure::io("read", "standard input"))? == 0 {
            break;
        }
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/reset" => chat.reset(),
            "/help" => output::note(COMMANDS),
            command if command.starts_with('/') => {
                output::note(&format!("brooklet: {command} is no command: {COMMANDS}"));
            }
            turn => {
                chat.turn(turn, quiet)?;
                output::text("\n")?;
            }
        }
    }
    if interactive { output::text("\n") } else { Ok(()) }
}

/// A conversation and where the model stands in it.
struct Chat<'a> {
    args: &'a Args,
    text: Text,
    template: Template,
    session: Session,
    sampler: Sampler,
    messages: Vec<Message>,
    /// The text that the session has read, with `pending` behind it.
    read: Vec<u8>,
    /// The last token of `read`, if the session has not read that yet.
    pending: Option<u32>,
}

impl<'a> Chat<'a> {
    fn new(model: &Model, args: &'a Args) -> Result<Chat<'a>> {
        let template = match &model.meta().chat_template {
            Some(source) if !args.plain => Template::jinja(source)?,
            _ => Template::Plain,
        };
        let mut chat = Chat {
            args,
            text: Text::of(model)?,
            template,
            session: Session::new(model, &args.engine.options(1)),
            sampler: Sampler::new(args.sampler.options(), model.n_vocab())?,
            messages: Vec::new(),
            read: Vec::new(),
            pending: None,
        };
        chat.reset();
        Ok(chat)
    }

    /// Back to before the first turn. The generator goes on, so that the same question may get another answer.
    fn reset(&mut self) {
        let system = self.args.system.iter().cloned();
        self.messages = system.map(|content| Message { role: Role::System, content }).collect();
        self.forget();
    }

    fn forget(&mut self) {
        self.session.reset();
        self.read.clear();
        self.pending = None;
    }

    /// One question and its answer.
    fn turn(&mut self, question: &str, quiet: bool) -> Result {
        self.messages.push(Message { role: Role::User, content: question.to_owned() });
        let watch = Watch::new();
        self.read_on(&watch, quiet)?;
        let mut stops = self.template.stops();
        stops.extend(self.args.stop.iter().cloned());
        let limits = Limits { tokens: self.args.n, stops: &stops, ignore_end: false };
        let mut first = true;
        let done = generate(&mut self.session, &mut self.sampler, &self.text, &limits, &watch, |piece| {
            // The blank after "Assistant:" is for the model, not for the reader.
            let shown = if first { piece.trim_start() } else { piece };
            first &= shown.is_empty();
            if shown.is_empty() { Ok(()) } else { output::text(shown) }
        })?;
        watch.clear();
        self.read.extend(self.text.tokenizer.decode(&done.ids).unwrap_or_default());
        self.pending = done.pending.filter(|_| done.reason != Reason::End);
        self.messages.push(Message { role: Role::Assistant, content: done.text });
        Ok(())
    }

    /// Lets the session read what is new of the conversation.
    fn read_on(&mut self, watch: &Watch, quiet: bool) -> Result {
        let special = |id: Option<u32>| {
            id.and_then(|id| self.text.tokenizer.decode_lossy(&[id]).ok()).unwrap_or_default()
        };
        let (begin, end) = (special(self.text.begin), special(self.text.ends.first().copied()));
        let whole = self.template.render(&self.messages, &begin, &end)?.into_bytes();
        if !whole.starts_with(&self.read) {
            self.forget();
        }
        let mut ids: Vec<u32> = self.pending.take().into_iter().collect();
        if self.read.is_empty() && matches!(self.template, Template::Plain) {
            ids.extend(self.text.begin);
        }
        self.text.tokenizer.encode_into(&whole[self.read.len()..], &mut ids)?;
        self.read = whole;
        prefill(&mut self.session, &ids, watch, quiet)
    }
}
