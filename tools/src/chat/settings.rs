//! What `/set` changes: the options of answers, by the names that they have on the command line.
//!
//! The parser of the command line reads them, so that every sampling option is there, with its
//! check and its help. Not here: what the options do (`brooklet::sampler`). Test: below.

use clap::builder::{BoolishValueParser, ValueParser};
use clap::{ArgAction, Args as _, Command, FromArgMatches};

use crate::failure::{Failure, Result, one_line};
use crate::sampling::SamplerArgs;

/// Options that may change between answers.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Settings {
    /// Tokens of an answer at most
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 512)]
    pub(crate) tokens: usize,
    /// Fold reasoning (between <think> and </think>) to one line
    #[arg(long)]
    pub(crate) hide_thinking: bool,
    #[command(flatten)]
    pub(crate) sampler: SamplerArgs,
}

impl Settings {
    /// The settings with another value for the option of that name.
    pub(crate) fn with(&self, name: &str, value: &str) -> Result<Settings> {
        let name = name.trim_start_matches('-').replace('_', "-");
        let command = command();
        if !command.get_arguments().any(|arg| arg.get_long() == Some(name.as_str())) {
            return Err(Failure::usage(format!("no option {name:?}"), "/set lists them"));
        }
        let option = format!("--{name}={value}");
        let refused = |error: clap::Error| {
            let line = one_line(&error.to_string());
            Failure::usage(line, "/set lists the options")
        };
        let mut matches = command.try_get_matches_from([option]).map_err(refused)?;
        let mut settings = self.clone();
        if ["json-schema", "regex", "grammar"].contains(&name.as_str()) {
            // One grammar takes the place of another.
            let sampler = &mut settings.sampler;
            (sampler.json_schema, sampler.regex, sampler.grammar) = (None, None, None);
        }
        settings.update_from_arg_matches_mut(&mut matches).map_err(refused)?;
        Ok(settings)
    }

    /// A line for each option, with its value.
    pub(crate) fn lines(&self) -> Vec<String> {
        let shown = format!("{self:#?}");
        let mut lines = Vec::new();
        for arg in command().get_arguments() {
            let Some(name) = arg.get_long() else { continue };
            let field = format!(" {}: ", name.replace('-', "_"));
            // Of lists, only whether there is anything in them.
            let value = shown.lines().find_map(|line| line.split_once(&field)).map(|found| found.1);
            let value = match value.map(|value| value.trim_end_matches(',')) {
                Some("None" | "[]" | "") | None => "-".to_owned(),
                Some("[" | "Some(") => "(given)".to_owned(),
                Some(value) => value.to_owned(),
            };
            lines.push(format!("{name} {value}"));
        }
        lines
    }
}

/// The options as a command that is given one of them, and changes no other.
fn command() -> Command {
    let command = Settings::augment_args_for_update(Command::new("set"));
    let command = command.no_binary_name(true).disable_help_flag(true);
    command.mut_args(|arg| {
        let arg = arg.default_value(None::<&str>);
        if arg.get_action().takes_values() {
            return arg.allow_hyphen_values(true);
        }
        // A flag is on or off here.
        let on_or_off = ValueParser::new(BoolishValueParser::new());
        arg.action(ArgAction::Set).num_args(1).value_name("on|off").value_parser(on_or_off)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn one_option_changes_and_no_other() {
        let line = Line::parse_from(["x", "--temp", "0.3", "--top-k", "7", "--temp-first"]);
        let set = |settings: &Settings, name, value| settings.with(name, value).unwrap();
        let changed = set(&line.settings, "temp", "1.5");
        assert_eq!((changed.sampler.temp, changed.sampler.top_k), (1.5, 7));
        assert_eq!((changed.sampler.temp_first, changed.tokens), (true, 512));
        let changed = set(&changed, "temp_first", "off");
        assert_eq!((changed.sampler.temp_first, changed.sampler.temp), (false, 1.5));
        let changed = set(&set(&changed, "tokens", "9"), "hide-thinking", "on");
        assert_eq!((changed.tokens, changed.hide_thinking), (9, true));
        let lines = changed.lines();
        for line in ["temp 1.5", "top-k 7", "tokens 9", "hide-thinking true", "seed -"] {
            assert!(lines.iter().any(|found| found == line), "{line}: {lines:?}");
        }
        for (name, value) in [("nonsense", "1"), ("tokens", "many"), ("temp", ""), ("seed", "-1")] {
            assert!(changed.with(name, value).is_err(), "{name} {value}");
        }
    }
}
