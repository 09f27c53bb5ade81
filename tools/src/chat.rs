//! `brooklet chat`: a conversation on the terminal, its state kept from turn to turn.
//!
//! Each turn feeds the model only what it has not read yet. Where a template changes earlier turns
//! (some trim them), the conversation is read again from the start. Not here: the texts' format
//! (`template`) and the loop that writes (`generate`). Test: `tests/cli/chat.rs`.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use brooklet::generate::{Limits, Reason};
use brooklet::sampler::Sampler;
use brooklet::speculate::Speculation;
use brooklet::{Model, Session, Snapshot, Text};
use brooklet_formats::atomic::Target;
use serde::{Deserialize, Serialize};

use crate::args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::generate::generate;
use crate::guesses::GuessArgs;
use crate::interrupt::Watch;
use crate::message::{Message, Role};
use crate::model::{CheckpointArgs, Source};
use crate::run::prefill;
use crate::sampling::SamplerArgs;
use crate::saved::StateArgs;
use crate::template::Template;
use crate::{demo, input, output};

const COMMANDS: &str = "/reset starts over, /exit (or Ctrl-D) ends, Ctrl-C cuts an answer short";

/// Holds a conversation.
///
/// Each line is a turn. The model's own chat template is used where the file has one (or the name
/// of one that is known), a plain `User: … Assistant: …` format otherwise. An answer ends where the
/// template's next turn of the user would begin. Lines that begin with a slash are commands: /reset
/// starts over, /exit (or Ctrl-D) ends, /help lists them. Ctrl-C cuts an answer short. With
/// --save-state the conversation is saved after every answer, with --state it goes on.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet chat model.brk
  brooklet chat model.brk --system \"Answer in one sentence.\" --temp 0.5
  brooklet chat rwkv7-world.pth --type int4
  brooklet chat model.brk --state talk.brks --save-state talk.brks
  printf 'Hello\\nAnd you?\\n' | brooklet chat model.brk --quiet")]
pub(crate) struct Args {
    /// The model: a .brk file, or a checkpoint, which is converted once into the cache folder
    /// [default: the demo model]
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
    guess: GuessArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    state: StateArgs,
}

/// The conversation as it is saved beside the state.
#[derive(Deserialize, Serialize)]
struct Conversation {
    messages: Vec<Message>,
    /// The text that the state has read. Without it (it was not UTF-8) the conversation is read
    /// again.
    read: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let path = demo::model_or_demo(args.model.as_deref())?;
    let source = Source::new(&path, &args.checkpoint)?;
    let inputs = input::standard()
        .map(Path::to_owned)
        .into_iter()
        .chain(source.inputs())
        .chain(args.sampler.inputs());
    let target = args.state.target(inputs)?;
    let model = demo::open(&source.ready(quiet)?, &args.engine, quiet)?;
    let mut chat = Chat::new(&model, &path, args, quiet)?;
    let interactive = std::io::stdin().is_terminal() && output::is_terminal();
    if !quiet {
        output::note(&format!("{}, seed {}; {COMMANDS}", path.display(), chat.sampler.seed()));
    }
    let mut stdin = std::io::stdin().lock();
    let mut bytes = Vec::new();
    loop {
        if interactive {
            output::text("> ")?;
        }
        input::read_line(&mut stdin, &mut bytes)?;
        if bytes.is_empty() {
            break;
        }
        let line = String::from_utf8_lossy(&bytes);
        if let (Cow::Owned(_), false) = (&line, quiet) {
            output::note("brooklet: note: the line is not UTF-8, U+FFFD stands for the rest of it");
        }
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/reset" => chat.reset()?,
            "/help" => output::note(COMMANDS),
            command if command.starts_with('/') => {
                output::note(&format!("brooklet: {command} is no command: {COMMANDS}"));
            }
            turn => {
                chat.turn(turn, quiet)?;
                if let Some(target) = &target {
                    chat.save(target)?;
                }
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
    /// Texts that end an answer.
    stops: Vec<String>,
    session: Session,
    sampler: Sampler,
    speculation: Option<Speculation>,
    messages: Vec<Message>,
    /// The text that the session has read, with `pending` behind it.
    read: Vec<u8>,
    /// The tokens at the end of `read` that the session has not read yet: the last of an answer,
    /// usually.
    pending: Vec<u32>,
    /// The tokens that the session has read, as far as they are known: guesses are made of them.
    tokens: Vec<u32>,
    /// Where a conversation begins: nothing read, or a state that was given.
    start: Snapshot,
}

impl<'a> Chat<'a> {
    fn new(model: &Model, path: &Path, args: &'a Args, quiet: bool) -> Result<Chat<'a>> {
        let template = match &model.meta().chat_template {
            Some(source) if !args.plain => Template::of_file(source, path)?,
            _ => Template::Plain,
        };
        let saved = args.state.load(model)?;
        let conversation =
            saved.as_ref().map(|saved| Self::conversation(&saved.note)).transpose()?.flatten();
        let start = match (&saved, &conversation) {
            (Some(saved), None) => saved.clone(),
            _ => Snapshot::new(model.new_state()),
        };
        let mut text = Text::of(model)?;
        let (begin, end) = special_texts(&text);
        let ends = template.ends(text.tokenizer.special_tokens(), &begin, &end);
        text.ends.extend(ends.token.filter(|id| !text.ends.contains(id)));
        let sampler = args.sampler.sampler(&text, model.n_vocab())?;
        let mut chat = Chat {
            start,
            args,
            text,
            template,
            stops: ends.stops.into_iter().chain(args.stop.iter().cloned()).collect(),
            session: Session::new(model, &args.engine.options(model, args.guess.rows())?),
            speculation: args.guess.open(model, &args.engine, quiet)?,
            sampler,
            messages: Vec::new(),
            read: Vec::new(),
            pending: Vec::new(),
            tokens: Vec::new(),
        };
        chat.reset()?;
        if let Some(saved) = &saved {
            StateArgs::restore(&mut chat.sampler, saved, args.sampler.seed)?;
        }
        if let (Some(saved), Some(conversation)) = (saved, conversation) {
            if args.system.is_some() {
                return Err(Failure::usage(
                    "the saved conversation has its own beginning",
                    "leave --system away",
                ));
            }
            chat.messages = conversation.messages;
            if let Some(read) = conversation.read {
                chat.pending = saved.unread().to_vec();
                chat.session.set_state(saved.state)?;
                chat.read = read.into_bytes();
            }
        }
        Ok(chat)
    }

    /// The conversation in a state's note, if a chat has written it.
    fn conversation(note: &str) -> Result<Option<Conversation>> {
        let read = |note| {
            serde_json::from_str(note)
                .map_err(|error| Failure::new(format!("the saved conversation: {error}")))
        };
        if note.is_empty() { Ok(None) } else { read(note).map(Some) }
    }

    /// Saves the state and the conversation.
    fn save(&self, target: &Target) -> Result {
        let read = String::from_utf8(self.read.clone()).ok();
        let conversation = Conversation { messages: self.messages.clone(), read };
        let note = serde_json::to_string(&conversation)
            .map_err(|error| Failure::new(format!("JSON: {error}")))?;
        let end = Snapshot { sampler: Some(self.sampler.state()), note, ..self.session.snapshot() };
        self.args.state.save(target, end, &[], &self.pending)
    }

    /// Back to before the first turn. The generator goes on, so that the same question may get
    /// another answer.
    fn reset(&mut self) -> Result {
        let system = self.args.system.iter().cloned();
        self.messages = system.map(|content| Message { role: Role::System, content }).collect();
        self.forget()
    }

    fn forget(&mut self) -> Result {
        self.session.set_state(self.start.state.clone())?;
        self.read.clear();
        self.tokens.clear();
        self.pending = self.start.unread().to_vec();
        Ok(())
    }

    /// One question and its answer.
    fn turn(&mut self, question: &str, quiet: bool) -> Result {
        self.messages.push(Message { role: Role::User, content: question.to_owned() });
        let watch = Watch::new();
        self.read_on(&watch, quiet)?;
        self.sampler.restart_grammar();
        let limits = Limits::new(self.args.n).stops(&self.stops);
        let mut first = true;
        if let Some(speculation) = &mut self.speculation {
            speculation.begin(&self.tokens);
        }
        let choose = (&mut self.sampler, self.speculation.as_mut());
        let done =
            generate(&mut self.session, choose, (&self.text, None), &limits, &watch, |piece| {
                // The blank after "Assistant:" is for the model, not for the reader.
                let shown = if first { piece.trim_start() } else { piece };
                first &= shown.is_empty();
                if shown.is_empty() { Ok(()) } else { output::generated(shown.as_bytes()) }
            })?;
        watch.clear();
        self.read.extend(self.text.tokenizer.decode(&done.ids).unwrap_or_default());
        // The last of them is still to be read, and comes again as pending.
        let unread = usize::from(done.reason != Reason::End);
        let read = done.ids.len().saturating_sub(unread);
        self.tokens.extend(&done.ids[..read]);
        self.pending = done.pending.into_iter().filter(|_| done.reason != Reason::End).collect();
        self.messages.push(Message { role: Role::Assistant, content: done.text });
        Ok(())
    }

    /// Lets the session read what is new of the conversation.
    fn read_on(&mut self, watch: &Watch, quiet: bool) -> Result {
        let (begin, end) = special_texts(&self.text);
        let stop = || watch.requested();
        let whole = self.template.render(&self.messages, &begin, &end, &stop)?.into_bytes();
        if !whole.starts_with(&self.read) {
            self.forget()?;
        }
        let mut ids = std::mem::take(&mut self.pending);
        if self.read.is_empty() && matches!(self.template, Template::Plain) {
            ids.extend(self.text.begin);
        }
        self.text.tokenizer.encode_into(&whole[self.read.len()..], &mut ids)?;
        self.read = whole;
        self.tokens.extend(&ids);
        prefill(&mut self.session, &ids, watch, quiet)
    }
}

/// The texts of the tokens that begin and end a text, for templates.
fn special_texts(text: &Text) -> (String, String) {
    let special = |id: Option<u32>| {
        id.and_then(|id| text.tokenizer.decode_lossy(&[id]).ok()).unwrap_or_default()
    };
    (special(text.begin), special(text.ends.first().copied()))
}
