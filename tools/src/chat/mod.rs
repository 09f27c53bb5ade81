//! `brooklet chat`: a conversation on the terminal, its state kept from turn to turn.
//!
//! | file | what it has |
//! |---|---|
//! | `lines`, `editor` | what the person types |
//! | `commands`, `settings` | what a line means, and what `/set` changes |
//! | `talk`, `saved` | the messages as a tree, and as a file |
//! | `speaker`, `marks` | what the model has read, and the way back |
//! | `screen`, `page`, `thinking` | how an answer is shown |
//!
//! Not here: the texts' format (`brooklet::chat`) and the loop that writes (`generate`). Test:
//! `tests/cli/chat.rs`, `tests/cli/chat_commands.rs`, `tests/cli/chat_terminal.rs`.

mod commands;
#[cfg_attr(not(any(unix, windows)), path = "no_editor.rs")]
mod editor;
#[cfg(unix)]
mod kept_terminal;
mod lines;
mod marks;
mod page;
mod saved;
mod screen;
mod settings;
mod speaker;
mod talk;
mod thinking;

use std::path::{Path, PathBuf};

use brooklet::chat::{Message, Role};
use brooklet::{Model, Snapshot};
use brooklet_formats::atomic::Target;
use brooklet_formats::state_file;

use self::lines::Lines;
use self::page::Page;
use self::screen::Screen;
use self::settings::Settings;
use self::speaker::Speaker;
use self::talk::Talk;
use crate::args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::guesses::GuessArgs;
use crate::horizon::{HorizonArgs, Warning};
use crate::interrupt::Watch;
use crate::model::{CheckpointArgs, Source};
use crate::saved::StateArgs;
use crate::{demo, input, output};

/// Messages of a conversation that are shown when it goes on, and characters of each.
const SHOWN: (usize, usize) = (4, 1000);

/// Holds a conversation.
///
/// Each line is a turn; on a terminal it can be edited, and a pasted text is one turn with all its
/// lines. The model's own chat template is used where the file has one (or the name of one that is
/// known), a plain `User: … Assistant: …` format otherwise. An answer ends where the template's
/// next turn of the user would begin. Lines that begin with a slash are commands: /undo, /retry,
/// /edit, /fork and others; /help lists them, and //TEXT is a message that begins with a slash.
/// Ctrl-C cuts an answer short, /exit (or Ctrl-D) ends. With --save-state the conversation is saved
/// after every answer, with --state it goes on.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  brooklet chat model.brk
  brooklet chat model.brk --system \"Answer in one sentence.\" --temp 0.5
  brooklet chat rwkv7-world.pth --type int4
  brooklet chat model.brk --state talk.brks --save-state talk.brks
  printf 'Hello\\nAnd you?\\n/retry\\n' | brooklet chat model.brk --quiet")]
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
    /// End an answer before this string. May be given several times
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Keep no history of what is typed (else: brooklet/chat_history in $XDG_STATE_HOME or
    /// ~/.local/state; lines that begin with a blank are never kept)
    #[arg(long)]
    no_history: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    guess: GuessArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    horizon: HorizonArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let path = demo::model_or_demo(args.model.as_deref())?;
    let source = Source::new(&path, &args.checkpoint)?;
    let inputs: Vec<PathBuf> = input::standard()
        .map(Path::to_owned)
        .into_iter()
        .chain(source.inputs())
        .chain(args.settings.sampler.inputs())
        .collect();
    let target = args.state.target(inputs.iter().cloned())?;
    let model = demo::open(&source.ready(quiet)?, &args.engine, quiet)?;
    let mut chat = Chat::new(&model, args, (inputs, target), quiet)?;
    if !quiet {
        let (path, seed) = (path.display(), chat.speaker.seed());
        page::note(&format!("{path}, seed {seed}; {}", commands::SUMMARY));
        chat.show()?;
    }
    chat.hold()
}

/// What comes after a line.
pub(crate) enum Next {
    Line,
    Answer,
    Leave,
}

/// A conversation and those who hold it.
pub(crate) struct Chat<'a> {
    model: &'a Model,
    args: &'a Args,
    talk: Talk,
    speaker: Speaker,
    settings: Settings,
    lines: Lines,
    /// Files that must not be written to.
    inputs: Vec<PathBuf>,
    /// Where the conversation is saved after every answer.
    target: Option<Target>,
    warning: Warning,
    quiet: bool,
}

impl<'a> Chat<'a> {
    fn new(
        model: &'a Model,
        args: &'a Args,
        (inputs, target): (Vec<PathBuf>, Option<Target>),
        quiet: bool,
    ) -> Result<Chat<'a>> {
        let saved = args.state.load(model)?;
        let conversation = saved.as_ref().map(saved::conversation).transpose()?.flatten();
        if conversation.is_some() && args.system.is_some() {
            return Err(Failure::usage(
                "the saved conversation has its own beginning",
                "leave --system away",
            ));
        }
        let system = args.system.iter().map(|text| Message::new(Role::System, text));
        let start = saved.clone().filter(|_| conversation.is_none());
        let mut chat = Chat {
            model,
            args,
            talk: Talk::new(system),
            speaker: Speaker::new(model, args, start, quiet)?,
            settings: args.settings.clone(),
            lines: Lines::new(!args.no_history, quiet),
            inputs,
            target,
            warning: Warning::new(model, &args.horizon, quiet),
            quiet,
        };
        if let Some(saved) = saved {
            chat.resume(saved)?;
        }
        Ok(chat)
    }

    /// Takes the conversation of a state file up, if a chat has written it.
    fn resume(&mut self, saved: Snapshot) -> Result<bool> {
        let seed = self.args.settings.sampler.seed;
        match saved::conversation(&saved)? {
            Some((talk, Some(read))) => {
                self.speaker.resume(saved, read, seed)?;
                self.talk = talk;
                Ok(true)
            }
            Some((talk, None)) => {
                self.speaker.begin_anew(&saved, seed)?;
                self.talk = talk;
                Ok(true)
            }
            None => {
                self.speaker.resume_sampler(&saved, seed)?;
                Ok(false)
            }
        }
    }

    /// Takes lines until there are no more.
    fn hold(&mut self) -> Result {
        while let Some(line) = self.lines.next("")? {
            match commands::obey(self, &line) {
                Ok(Next::Line) => {}
                Ok(Next::Leave) => return Ok(()),
                Ok(Next::Answer) => self.answer()?,
                Err(failure) => commands::is_survived(failure)?,
            }
        }
        Ok(())
    }

    /// Answers the last message.
    fn answer(&mut self) -> Result {
        let before = self.talk.tip();
        match self.write() {
            Ok(()) => {}
            // A conversation that somebody holds goes on: Ctrl-C while the model reads, or a
            // template that refuses the message. The message is taken back.
            Err(failure @ (Failure::Error { .. } | Failure::Interrupted))
                if self.lines.is_typed() && self.talk.tip() == before =>
            {
                if let Some((before, _)) = self.talk.last_question() {
                    self.talk.set_tip(before);
                }
                Watch::new().clear();
                match failure {
                    Failure::Interrupted => output::note("the message was taken back"),
                    failure => commands::is_survived(failure)?,
                }
                return Ok(());
            }
            Err(failure) => return Err(failure),
        }
        if let Some(target) = &self.target {
            self.save(target)?;
        }
        output::text("\n")?;
        self.warning.at(self.speaker.size().0);
        if !self.quiet && output::notes_are_seen() {
            let pace = self.speaker.last;
            let (read, written) = pace.rates();
            page::note(&format!(
                "{} tokens at {written:.1}/s; {} read at {read:.0}/s, {} kept",
                pace.written, pace.read, pace.kept
            ));
        }
        Ok(())
    }

    fn write(&mut self) -> Result {
        let watch = Watch::new();
        let thinks = self.speaker.read(&self.talk.messages(), &watch, self.quiet)?;
        let mut screen = Screen::new(thinks, self.settings.hide_thinking, self.quiet);
        let done = self.speaker.answer(self.settings.tokens, &watch, |piece| screen.push(piece));
        // A terminal is left as it was, whatever happened.
        let finished = screen.finish();
        let done = done?;
        finished?;
        watch.clear();
        self.talk.push(Message::new(Role::Assistant, done.text));
        Ok(())
    }

    /// Saves the state and the conversation.
    fn save(&self, target: &Target) -> Result {
        let (snapshot, read) = self.speaker.stand();
        let note = saved::note(&self.talk, read)?;
        self.args.state.save(target, Snapshot { note, ..snapshot }, &[], &read.pending)
    }

    /// Saves them to a file that the person names.
    fn save_as(&self, path: &str) -> Result {
        self.save(&Target::new(path, state_file::KIND, self.inputs.iter().cloned()))?;
        output::note(&format!("saved to {path}"));
        Ok(())
    }

    /// Goes on with the conversation of a file.
    fn load(&mut self, path: &str) -> Result {
        let saved = Snapshot::load(self.model, path)?;
        if !self.resume(saved)? {
            return Err(Failure::with(
                format!("{path}: a state without a conversation"),
                "begin with it: brooklet chat --state FILE",
            ));
        }
        self.show()
    }

    /// Shows the end of the conversation to whoever goes on with it.
    fn show(&self) -> Result {
        let messages = self.talk.messages();
        if self.quiet || !self.lines.is_typed() || !output::is_terminal() {
            return Ok(());
        }
        let hidden = messages.len().saturating_sub(SHOWN.0);
        if hidden > 0 {
            output::note(&format!("({hidden} earlier messages)"));
        }
        for message in &messages[hidden..] {
            let mut page = Page::of_terminal();
            let mut said = message.content.trim().to_owned();
            if let Some((end, _)) = said.char_indices().nth(SHOWN.1) {
                said.truncate(end);
                said.push('…');
            }
            match message.role {
                Role::Assistant => page.put(false, &said)?,
                Role::User => page.put(true, &format!("> {said}"))?,
                role => page.put(true, &format!("{}: {said}", role.name()))?,
            }
            page.finish()?;
            output::text("\n")?;
        }
        Ok(())
    }
}
