//! How a conversation becomes one text: the file's chat template, or a plain format where it has
//! none.
//!
//! Templates are Jinja as Hugging Face's tokenizers carry them; `jinja` runs them and keeps them
//! within bounds. The plain format is the one that RWKV "World" models were trained on. Not here:
//! the conversation itself (`chat`). Test: below, and `tests/cli/chat.rs`.

use std::path::Path;

use crate::failure::{Failure, Result};
use crate::formats::{self, Format};
use crate::jinja::{self, Host, Input, Jinja, Limits};
use crate::message::{Message, Role};

/// Makes texts of conversations.
#[derive(Debug)]
pub(crate) enum Template {
    /// `User: …`, `Assistant: …`, with empty lines between.
    Plain,
    /// The file has the name of one.
    Named(&'static Format),
    /// The file's own.
    File {
        jinja: Jinja,
        /// The file, for errors.
        place: String,
    },
}

/// Where an answer ends.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ends {
    /// A token that stands behind every answer.
    pub(crate) token: Option<u32>,
    /// Texts that an answer does not go beyond.
    pub(crate) stops: Vec<String>,
}

/// Bytes of a `strftime` layout at most.
const MAX_LAYOUT: usize = 1000;

impl Template {
    /// The template `source` of the model `path`.
    pub(crate) fn of_file(source: &str, path: &Path) -> Result<Template> {
        let place = path.display().to_string();
        // No template is without braces: it could not say what was said.
        let name = source.trim();
        if !name.contains('{') {
            return match (name, formats::named(name)) {
                ("" | "rwkv-world", _) => Ok(Template::Plain),
                (_, Some(format)) => Ok(Template::Named(format)),
                (_, None) => Err(Failure::with(
                    format!("{place}: the model's chat template is only a name, {name:?}"),
                    "this name is not known here, use --plain for the plain format",
                )),
            };
        }
        match Jinja::parse(source) {
            Ok(jinja) => Ok(Template::File { jinja, place }),
            Err(error) => Err(template_error(&place, &error)),
        }
    }

    /// The whole conversation as one text, up to where the assistant begins to speak; `stop` ends
    /// a template's work early.
    pub(crate) fn render(
        &self,
        messages: &[Message],
        bos: &str,
        eos: &str,
        stop: &dyn Fn() -> bool,
    ) -> Result<String> {
        let (jinja, place) = match self {
            Template::Plain => return Ok(plain(messages)),
            Template::Named(format) => return Ok(format.render(messages)),
            Template::File { jinja, place } => (jinja, place),
        };
        let messages = messages.iter().map(|Message { role, content }| {
            Input::Dict(vec![
                ("role".to_owned(), Input::text(role.name())),
                ("content".to_owned(), Input::text(content.as_str())),
            ])
        });
        // The variables that transformers gives, so that `is defined` and `is none` tell the same.
        let variables = [
            ("messages", Input::List(messages.collect())),
            ("tools", Input::None),
            ("documents", Input::None),
            ("add_generation_prompt", Input::Bool(true)),
            ("bos_token", Input::text(bos)),
            ("eos_token", Input::text(eos)),
        ];
        let size = variables.iter().map(|(_, value)| value.size()).sum();
        let host = Host { now: &now, stop };
        jinja
            .render(&variables, Limits::of(size), &host)
            .map_err(|error| template_error(place, &error))
    }

    /// Where the assistant's text ends, beside the tokens that end a text; `specials` are the names
    /// of tokens with a meaning of their own.
    ///
    /// Many models have no token for it, or do not use the one they have: they go on with the next
    /// turn of the person, as they have read it a thousand times. Its beginning is the end.
    pub(crate) fn ends(&self, specials: &[(u32, String)], bos: &str, eos: &str) -> Ends {
        let mut ends = Ends::default();
        let between = self.between_turns(bos, eos);
        let text = between.trim();
        let special = specials.iter().filter(|(_, name)| text.starts_with(name.as_str()));
        if let Some((id, _)) = special.max_by_key(|(_, name)| name.len()) {
            ends.token = Some(*id);
        } else if text.contains(char::is_alphabetic) {
            ends.stops.push(between.trim_end().to_owned());
            if between.starts_with('\n') {
                ends.stops.push(format!("\n{text}"));
            }
        }
        if let Template::Plain = self {
            ends.stops.push("\n\nSystem:".to_owned());
        }
        ends
    }

    /// The text between an answer and the next question; empty where it cannot be told.
    fn between_turns(&self, bos: &str, eos: &str) -> String {
        // Words that no template has.
        let [first, answer, second] = ["qo7Xfirst", "qo7Xanswer", "qo7Xsecond"];
        let said = [(Role::User, first), (Role::Assistant, answer), (Role::User, second)];
        let said = said.map(|(role, content)| Message { role, content: content.to_owned() });
        // One that refuses these turns says so when it gets real ones.
        let text = self.render(&said, bos, eos, &|| false).unwrap_or_default();
        let behind = text.split(answer).nth(1).and_then(|rest| rest.split_once(second));
        behind.map(|(between, _)| between.to_owned()).unwrap_or_default()
    }
}

fn plain(messages: &[Message]) -> String {
    let mut text = String::new();
    for (i, Message { role, content }) in messages.iter().enumerate() {
        let gap = if i == 0 { "" } else { "\n\n" };
        text += &match role {
            Role::System => format!("{gap}System: {content}"),
            Role::User => format!("{gap}User: {content}"),
            // As the model wrote it, blank first.
            Role::Assistant => format!("{gap}Assistant:{content}"),
        };
    }
    text + "\n\nAssistant:"
}

/// The local time.
fn now(layout: &str) -> Result<String, String> {
    if layout.len() > MAX_LAYOUT {
        return Err("the layout is too long".to_owned());
    }
    jiff::fmt::strtime::format(layout, &jiff::ZonedDateTime::now())
        .map_err(|error| error.to_string())
}

fn template_error(place: &str, error: &jinja::Error) -> Failure {
    match error {
        jinja::Error::Stopped => Failure::Interrupted,
        error => Failure::with(
            format!("{place}: the model's chat template, {error}"),
            "use --plain for the plain format",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    fn conversation() -> Vec<Message> {
        vec![
            message(Role::System, "Be brief."),
            message(Role::User, "Hi"),
            message(Role::Assistant, " Hello."),
            message(Role::User, "Bye"),
        ]
    }

    fn render(template: &Template) -> Result<String> {
        template.render(&conversation(), "<s>", "</s>", &|| false)
    }

    #[test]
    fn plain_text_is_that_of_rwkv_world() {
        assert_eq!(
            render(&Template::Plain).unwrap(),
            "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Bye\n\nAssistant:"
        );
    }

    #[test]
    fn templates_of_hugging_face_run() {
        let source = "{%- if messages[0]['role'] == 'system' %}\n\
            {{- bos_token + messages[0].content.strip() }}\n\
            {%- endif %}\n{%- for m in messages if m.role != 'system' %}\n\
            {{- '<|' + m['role'] + '|>' + m['content'].lstrip() + eos_token }}\n{%- endfor %}\n\
            {%- if tools is none and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";
        let template = Template::of_file(source, Path::new("m.brk")).unwrap();
        assert_eq!(
            render(&template).unwrap(),
            "<s>Be brief.<|user|>Hi</s><|assistant|>Hello.</s><|user|>Bye</s><|assistant|>"
        );
    }

    #[test]
    fn names_stand_for_formats() {
        let of = |source: &str| Template::of_file(source, Path::new("m.brk"));
        for plain in ["", " \n", "rwkv-world", "rwkv-world\n"] {
            assert_eq!(render(&of(plain).unwrap()).unwrap(), render(&Template::Plain).unwrap());
        }
        assert!(
            render(&of("chatml").unwrap()).unwrap().starts_with("<|im_start|>system\nBe brief.")
        );
        let unknown = format!("{:?}", of("of-tomorrow").unwrap_err());
        assert!(unknown.contains("only a name") && unknown.contains("use --plain"), "{unknown}");
    }

    #[test]
    fn an_answer_ends_where_the_next_question_begins() {
        let of = |source: &str| {
            let template = Template::of_file(source, Path::new("m.brk")).unwrap();
            template.ends(&[(0, "</s>".to_owned()), (7, "<|im_end|>".to_owned())], "<s>", "</s>")
        };
        let world = "{% for m in messages %}{{ {'user': 'User', 'assistant': 'Assistant', \
            'system': 'System'}[m.role] + ': ' + m.content + '\n\n' }}{% endfor %}Assistant:";
        let next = ["\n\nUser:", "\nUser:"].map(str::to_owned);
        assert_eq!(of(world), Ends { token: None, stops: next.to_vec() });
        let plain = [&next[..], &["\n\nSystem:".to_owned()]].concat();
        assert_eq!(of("rwkv-world"), Ends { token: None, stops: plain });
        assert_eq!(of("chatml"), Ends { token: Some(7), stops: vec![] });
        assert_eq!(of("mistral-v1"), Ends { token: Some(0), stops: vec![] });
        assert_eq!(of("{% for m in messages %}{{ m.content }}\n{% endfor %}"), Ends::default());
        assert_eq!(of("{{ raise_exception('no') }}"), Ends::default());
    }

    #[test]
    fn the_time_is_the_local_one() {
        let source = "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%-d.%m. %H:%M') | length }}";
        let text = render(&Template::of_file(source, Path::new("m.brk")).unwrap()).unwrap();
        let day = now("%d %b %Y").unwrap();
        assert!(text.starts_with(&day) && day.len() == 11, "{text} {day}");
        let wrong = Template::of_file("{{ strftime_now('%!') }}", Path::new("m.brk")).unwrap();
        assert!(format!("{:?}", render(&wrong)).contains("strftime_now"));
    }

    #[test]
    fn errors_name_the_template_and_the_mend() {
        let failure = |source: &str| {
            let template = Template::of_file(source, Path::new("m.brk"));
            format!("{:?}", template.and_then(|template| render(&template)).unwrap_err())
        };
        for (source, what) in [
            ("{% for %}", "m.brk: the model's chat template, line 1: expected a name, found '%}'"),
            ("\n{{ raise_exception('no system role') }}", "chat template, line 2: no system role"),
        ] {
            let failure = failure(source);
            assert!(failure.contains(what) && failure.contains("use --plain"), "{failure}");
        }
        let stopped = Template::of_file("{% for i in range(99999) %}{% endfor %}", Path::new("m"));
        let stopped = stopped.unwrap().render(&[], "", "", &|| true);
        assert!(matches!(stopped, Err(Failure::Interrupted)), "{stopped:?}");
    }
}
